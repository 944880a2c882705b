"""What made a connection change its state, from what can be seen of its socket at that moment (Linux 6.18, net/ipv4/tcp*.c).

The answers are events of the machine (`finwait.tcp.transitions.EVENTS`). Where the kernel leaves two possible, there is none.
"""

from __future__ import annotations

from errno import ECONNABORTED, ETIMEDOUT

from finwait.tcp.state import TcpState

SEND_SHUTDOWN, SHUTDOWN_MASK = 2, 3  # sk_shutdown (include/net/sock.h)


class Seen:
    """What was seen with a change. error: sk_err, 0 for none. shutdown: sk_shutdown. The others: as enum finwait_hints of
    bpf/changes.bpf.h has them.
    """  # fmt: skip

    __slots__ = (
        "by_timer", "error", "fast_open", "gone", "in_call", "linger_0", "no_program", "released", "reused", "rst_received",
        "rst_sent", "shutdown",
    )  # fmt: skip

    def __init__(
        self,
        *,
        error: int = 0,
        shutdown: int = 0,
        rst_received: bool = False,
        rst_sent: bool = False,
        by_timer: bool = False,
        linger_0: bool = False,
        no_program: bool = False,
        released: bool = False,
        fast_open: bool = False,
        gone: bool = False,
        reused: bool = False,
        in_call: bool = False,
    ) -> None:
        self.error = error
        self.shutdown = shutdown
        self.rst_received = rst_received
        self.rst_sent = rst_sent
        self.by_timer = by_timer
        self.linger_0 = linger_0
        self.no_program = no_program
        self.released = released
        self.fast_open = fast_open
        self.gone = gone
        self.reused = reused
        self.in_call = in_call


_S = TcpState
# Changes that one thing alone can make.
_ONLY: dict[tuple[TcpState, TcpState], str] = {
    (_S.CLOSE, _S.LISTEN): "passive_open",
    (_S.CLOSE, _S.SYN_SENT): "active_open",
    (_S.SYN_SENT, _S.ESTABLISHED): "rcv_syn_ack",
    (_S.SYN_SENT, _S.SYN_RECV): "rcv_syn",
    (_S.SYN_RECV, _S.ESTABLISHED): "rcv_ack_of_syn",
    (_S.SYN_RECV, _S.CLOSE_WAIT): "rcv_fin",
    (_S.ESTABLISHED, _S.CLOSE_WAIT): "rcv_fin",
    (_S.FIN_WAIT1, _S.FIN_WAIT2): "rcv_ack_of_fin",
    (_S.FIN_WAIT1, _S.CLOSING): "rcv_fin",
    (_S.FIN_WAIT2, _S.TIME_WAIT): "rcv_fin",
    (_S.CLOSING, _S.TIME_WAIT): "rcv_ack_of_fin",
    (_S.LISTEN, _S.ESTABLISHED): "rcv_ack_of_cookie",
}
_BY_PROGRAM = frozenset({
    (_S.SYN_RECV, _S.FIN_WAIT1), (_S.ESTABLISHED, _S.FIN_WAIT1), (_S.CLOSE_WAIT, _S.LAST_ACK),
})  # fmt: skip
_TIMEOUT = {_S.SYN_SENT: "timeout_syn", _S.SYN_RECV: "timeout_syn_ack"}
_EXPIRED = {
    _S.SYN_RECV: "timeout_syn_ack",
    _S.FIN_WAIT2: "timeout_fin_wait_2",
    _S.TIME_WAIT: "timeout_time_wait",
}  # of mini-sockets
_OPEN = frozenset({_S.ESTABLISHED, _S.CLOSE_WAIT, _S.FIN_WAIT2, _S.SYN_RECV})
_HALF_CLOSED = frozenset({_S.FIN_WAIT1, _S.FIN_WAIT2})
_UNANSWERED_FIN = frozenset({_S.FIN_WAIT1, _S.CLOSING, _S.LAST_ACK})


def find_only_cause(state: TcpState, to: TcpState) -> str | None:
    """The event that alone leads from `state` to `to`, where nothing else was seen; None where there are several, or none."""
    return _ONLY.get((state, to))


def find_cause(state: TcpState, to: TcpState, seen: Seen) -> str | None:
    """The event that led from `state` to `to`; None where what was seen allows several, or none that the machine has."""
    only = _ONLY.get((state, to))
    if only is not None:
        return only
    if (state, to) == (_S.LISTEN, _S.SYN_RECV):
        return "rcv_syn_fast_open" if seen.fast_open else "rcv_syn"
    if (state, to) in _BY_PROGRAM:
        return "close" if seen.released else "shutdown_write"
    return _cause_of_end(state, seen) if to is _S.CLOSE else None


def _cause_of_end(state: TcpState, seen: Seen) -> str | None:
    if seen.by_timer:
        return "listener_closed" if state is _S.SYN_RECV and seen.released else _EXPIRED.get(state)
    if seen.gone:  # a mini-socket: a RST, SOCK_DESTROY, or for TIME-WAIT a new connection
        return None if not seen.reused else "active_open" if seen.in_call else "rcv_syn"
    if seen.error == ECONNABORTED:
        return "destroy"
    if state is _S.LISTEN:  # SOCK_DESTROY leaves its mark too late
        return "close" if seen.released or seen.shutdown else "destroy"
    if seen.error == ETIMEDOUT:
        return _TIMEOUT.get(state, "timeout_keepalive" if seen.rst_sent else "timeout_retransmit")
    if seen.rst_received:
        # data for an orphan is refused by the same function (tcp_reset) that a RST is taken by
        return None if seen.no_program and state in _HALF_CLOSED else "rcv_rst"
    if seen.error:
        return None  # an ICMP error, most of the time
    if seen.rst_sent:
        return (
            "timeout_fin_wait_2" if state is _S.FIN_WAIT2 else "out_of_resources" if state in _UNANSWERED_FIN else None
        )
    return _cause_of_quiet_end(state, seen)


def _cause_of_quiet_end(state: TcpState, seen: Seen) -> str | None:
    """Without an error and without a reset before it."""
    if state is _S.LAST_ACK and not seen.released:
        return "rcv_ack_of_fin"
    if seen.no_program:
        if state is _S.FIN_WAIT2 and seen.shutdown == SHUTDOWN_MASK:
            return "too_many_time_wait"
        return "listener_closed" if state in _OPEN and seen.shutdown != SHUTDOWN_MASK else None
    if seen.released:
        return "abort" if seen.linger_0 else "close" if state is _S.SYN_SENT else "close_unread"
    return "too_many_time_wait" if state is _S.FIN_WAIT2 and seen.shutdown == SHUTDOWN_MASK else "abort"
