"""What stands on an arrow of TCP's machine, who must act in a state, and how heavy a state is: the same in every picture."""

from __future__ import annotations

from math import log

from finwait.render.transcript import CALLS
from finwait.tcp.transitions import find_transition
from finwait.tcp.waits import CLOCK, NOBODY, PEER, PROGRAM, WAITS
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from finwait.tcp.state import TcpState
    from finwait.tcp.transitions import Transition

WHO_ORDER = (PROGRAM, PEER, CLOCK, NOBODY)
MUST_ACT = {
    PROGRAM: mark("program must act"), PEER: mark("peer must act"), CLOCK: mark("clock runs"),
    NOBODY: mark("nobody must act"),
}  # fmt: skip
# Events of the machine in few words; calls, options and sysctls are nobody's language.
EVENT_LABELS = {
    **CALLS,
    "close_unread": mark("close(), data unread"),
    "listener_closed": mark("listener closed"),
    "destroy": "ss -K",
    "rcv_syn": mark("rcv SYN"),
    "rcv_syn_fast_open": mark("rcv SYN, Fast Open"),
    "rcv_syn_ack": mark("rcv SYN,ACK"),
    "rcv_ack_of_syn": mark("rcv ACK of SYN"),
    "rcv_ack_of_cookie": mark("rcv ACK of cookie"),
    "rcv_ack": mark("rcv ACK"),
    "rcv_data": mark("rcv data"),
    "rcv_data_after_close": mark("rcv data after close"),
    "rcv_fin": mark("rcv FIN"),
    "rcv_fin_ack": mark("rcv FIN,ACK"),
    "rcv_ack_of_fin": mark("rcv ACK of FIN"),
    "rcv_rst": mark("rcv RST"),
    "timeout_syn": mark("no answer to SYN"),
    "timeout_syn_ack": mark("no answer to SYN,ACK"),
    "timeout_resend": mark("resend"),
    "timeout_retransmit": mark("no answer to retransmits"),
    "timeout_keepalive": mark("no answer to keepalive"),
    "timeout_fin_wait_2": "tcp_fin_timeout",
    "timeout_time_wait": mark("60 s"),  # TCP_TIMEWAIT_LEN; the RFC's 2 MSL
    "out_of_resources": mark("out of resources"),
    "too_many_time_wait": mark("too many TIME-WAIT"),
}
HEAVY = 0.75  # from this weight on a state is drawn heavy where there are no shades


def label_of(transition: Transition) -> str:
    """``rcv SYN / SYN,ACK``: what happens and what is sent, in the language in use."""
    event = translate(EVENT_LABELS[transition.event])
    return f"{event} / {transition.sent}" if transition.sent else event


def arrow_label(state: TcpState, event: str, to: TcpState) -> str:
    """The label of the machine's arrow from `state` to `to` by `event`."""
    return next(label_of(transition) for transition in find_transition(state, to) if transition.event == event)


def must_act(state: TcpState) -> str:
    """Who must act in `state`, in the language in use."""
    return translate(MUST_ACT[WAITS[state][0]])


def weight_of(state: TcpState, counts: Mapping[TcpState, int] | None) -> float | None:
    """How heavy `state` is among `counts`, by the logarithm: 1 for the heaviest, 0 for none in it; None where nobody counted.

    Logarithms, because the numbers on one host are of any size: a hundredth of the sockets is still seen.
    """
    if counts is None:
        return None
    most = max(counts.values(), default=0)
    return round(log(1 + counts.get(state, 0)) / log(1 + most), 3) if most else 0.0
