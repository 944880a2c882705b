"""What two ends of a connection say to each other, step by step, with the states of both (RFC 9293, 3.5 and 3.6).

EXCHANGES is data: the diagrams draw it, the lab plays it, and `replay` derives every state in it from the machine.
"""

from __future__ import annotations

from finwait.tcp.state import TcpState
from finwait.tcp.transitions import next_transition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT, SERVER = "client", "server"
CALL, TIMER, SEGMENT = "call", "timer", "segment"


class Step:
    """One thing that happens.

    kind: call (of a program), timer, or segment. end: client or server; who calls, whose timer ends, who sends. event: of
    transitions.EVENTS, what happens at that end, for a segment at the other one; None for a segment that does not arrive.
    flags, seq, ack, data: of a segment, symbolic (``y+1``, data ``n`` octets); ack None without the flag. client, server: the
    states of both ends behind the step.
    """

    __slots__ = ("ack", "client", "data", "end", "event", "flags", "kind", "seq", "server")

    def __init__(
        self,
        kind: str,
        end: str,
        event: str | None,
        client: TcpState,
        server: TcpState,
        flags: str | None = None,
        seq: str | None = None,
        ack: str | None = None,
        data: str | None = None,
    ) -> None:
        self.kind = kind
        self.end = end
        self.event = event
        self.client = client
        self.server = server
        self.flags = flags
        self.seq = seq
        self.ack = ack
        self.data = data

    @property
    def arrives(self) -> bool:
        """Whether a segment reaches the other end; of a call or a timer, true."""
        return self.event is not None

    @property
    def acts(self) -> str:
        """The end at which `event` happens."""
        if self.kind != SEGMENT:
            return self.end
        return SERVER if self.end == CLIENT else CLIENT


class Exchange:
    """A named course of steps. client, server: the states before the first. rfc: the section that tells it."""

    __slots__ = ("client", "name", "rfc", "server", "steps")

    def __init__(self, name: str, rfc: str, client: TcpState, server: TcpState, *steps: Step) -> None:
        self.name = name
        self.rfc = rfc
        self.client = client
        self.server = server
        self.steps = steps


def _call(end: str, event: str, client: TcpState, server: TcpState) -> Step:
    return Step(CALL, end, event, client, server)


def _timer(end: str, event: str, client: TcpState, server: TcpState) -> Step:
    return Step(TIMER, end, event, client, server)


def _segment(
    end: str,
    flags: str,
    seq: str,
    ack: str | None,
    event: str | None,
    client: TcpState,
    server: TcpState,
    data: str | None = None,
) -> Step:
    return Step(SEGMENT, end, event, client, server, flags, seq, ack, data)


_LISTEN, _SYN_SENT, _SYN_RECV, _ESTABLISHED = (
    TcpState.LISTEN, TcpState.SYN_SENT, TcpState.SYN_RECV, TcpState.ESTABLISHED,
)  # fmt: skip
_FIN_WAIT1, _FIN_WAIT2, _CLOSE_WAIT, _CLOSING, _LAST_ACK, _TIME_WAIT, _CLOSED = (
    TcpState.FIN_WAIT1, TcpState.FIN_WAIT2, TcpState.CLOSE_WAIT, TcpState.CLOSING, TcpState.LAST_ACK,
    TcpState.TIME_WAIT, TcpState.CLOSE,
)  # fmt: skip

# Sequence numbers: x and y are the initial ones of client and server, u and v those of an open connection. A SYN and a FIN take
# one each. The client is whoever calls connect(), and in a close whoever closes first; a server may do that as well. A segment
# leaves with the step that makes the machine send it (`replay` tells which) and stands where it arrives, or where it would
# have: so segments can cross. An ACK that waits may be carried by the FIN behind it (close_three). The states of a listener's
# end are those of the connection; the listener itself stays in LISTEN.
_ALL: tuple[Exchange, ...] = (
    Exchange(
        "open", "3.5", _CLOSED, _CLOSED,
        _call(SERVER, "passive_open", _CLOSED, _LISTEN),
        _call(CLIENT, "active_open", _SYN_SENT, _LISTEN),
        _segment(CLIENT, "SYN", "x", None, "rcv_syn", _SYN_SENT, _SYN_RECV),
        _segment(SERVER, "SYN,ACK", "y", "x+1", "rcv_syn_ack", _ESTABLISHED, _SYN_RECV),
        _segment(CLIENT, "ACK", "x+1", "y+1", "rcv_ack_of_syn", _ESTABLISHED, _ESTABLISHED),
    ),
    Exchange(
        "close", "3.6", _ESTABLISHED, _ESTABLISHED,
        _call(CLIENT, "close", _FIN_WAIT1, _ESTABLISHED),
        _segment(CLIENT, "FIN,ACK", "u", "v", "rcv_fin", _FIN_WAIT1, _CLOSE_WAIT),
        _segment(SERVER, "ACK", "v", "u+1", "rcv_ack_of_fin", _FIN_WAIT2, _CLOSE_WAIT),
        _call(SERVER, "close", _FIN_WAIT2, _LAST_ACK),
        _segment(SERVER, "FIN,ACK", "v", "u+1", "rcv_fin", _TIME_WAIT, _LAST_ACK),
        _segment(CLIENT, "ACK", "u+1", "v+1", "rcv_ack_of_fin", _TIME_WAIT, _CLOSED),
        _timer(CLIENT, "timeout_time_wait", _CLOSED, _CLOSED),
    ),
    Exchange(
        "close_three", "3.6", _ESTABLISHED, _ESTABLISHED,
        _call(CLIENT, "close", _FIN_WAIT1, _ESTABLISHED),
        _segment(CLIENT, "FIN,ACK", "u", "v", "rcv_fin", _FIN_WAIT1, _CLOSE_WAIT),
        _call(SERVER, "close", _FIN_WAIT1, _LAST_ACK),
        _segment(SERVER, "FIN,ACK", "v", "u+1", "rcv_fin_ack", _TIME_WAIT, _LAST_ACK),
        _segment(CLIENT, "ACK", "u+1", "v+1", "rcv_ack_of_fin", _TIME_WAIT, _CLOSED),
        _timer(CLIENT, "timeout_time_wait", _CLOSED, _CLOSED),
    ),
    Exchange(
        "simultaneous_open", "3.5", _CLOSED, _CLOSED,
        _call(CLIENT, "active_open", _SYN_SENT, _CLOSED),
        _call(SERVER, "active_open", _SYN_SENT, _SYN_SENT),
        _segment(CLIENT, "SYN", "x", None, "rcv_syn", _SYN_SENT, _SYN_RECV),
        _segment(SERVER, "SYN", "y", None, "rcv_syn", _SYN_RECV, _SYN_RECV),
        _segment(CLIENT, "SYN,ACK", "x", "y+1", "rcv_syn_ack", _SYN_RECV, _ESTABLISHED),
        _segment(SERVER, "SYN,ACK", "y", "x+1", "rcv_syn_ack", _ESTABLISHED, _ESTABLISHED),
    ),
    Exchange(
        "simultaneous_close", "3.6", _ESTABLISHED, _ESTABLISHED,
        _call(CLIENT, "close", _FIN_WAIT1, _ESTABLISHED),
        _call(SERVER, "close", _FIN_WAIT1, _FIN_WAIT1),
        _segment(CLIENT, "FIN,ACK", "u", "v", "rcv_fin", _FIN_WAIT1, _CLOSING),
        _segment(SERVER, "FIN,ACK", "v", "u", "rcv_fin", _CLOSING, _CLOSING),
        _segment(CLIENT, "ACK", "u+1", "v+1", "rcv_ack_of_fin", _CLOSING, _TIME_WAIT),
        _segment(SERVER, "ACK", "v+1", "u+1", "rcv_ack_of_fin", _TIME_WAIT, _TIME_WAIT),
        _timer(CLIENT, "timeout_time_wait", _CLOSED, _TIME_WAIT),
        _timer(SERVER, "timeout_time_wait", _CLOSED, _CLOSED),
    ),
    Exchange(
        "reset", "3.5.2", _ESTABLISHED, _ESTABLISHED,
        _call(CLIENT, "abort", _CLOSED, _ESTABLISHED),
        _segment(CLIENT, "RST", "u", None, "rcv_rst", _CLOSED, _CLOSED),
    ),
    Exchange(
        "refused", "3.5.2", _CLOSED, _CLOSED,
        _call(CLIENT, "active_open", _SYN_SENT, _CLOSED),
        _segment(CLIENT, "SYN", "x", None, "rcv_syn", _SYN_SENT, _CLOSED),
        _segment(SERVER, "RST,ACK", "0", "x+1", "rcv_rst", _CLOSED, _CLOSED),
    ),
    # The last ACK of the handshake never comes. Here the way back is broken; a flood of SYNs looks the same to the server.
    Exchange(
        "half_open", "3.8.3", _CLOSED, _LISTEN,
        _call(CLIENT, "active_open", _SYN_SENT, _LISTEN),
        _segment(CLIENT, "SYN", "x", None, "rcv_syn", _SYN_SENT, _SYN_RECV),
        _segment(SERVER, "SYN,ACK", "y", "x+1", None, _SYN_SENT, _SYN_RECV),
        _timer(SERVER, "timeout_resend", _SYN_SENT, _SYN_RECV),
        _segment(SERVER, "SYN,ACK", "y", "x+1", None, _SYN_SENT, _SYN_RECV),
        _timer(SERVER, "timeout_syn_ack", _SYN_SENT, _CLOSED),
    ),
    # Nobody answers, not even with a RST.
    Exchange(
        "no_answer", "3.8.3", _CLOSED, _CLOSED,
        _call(CLIENT, "active_open", _SYN_SENT, _CLOSED),
        _segment(CLIENT, "SYN", "x", None, None, _SYN_SENT, _CLOSED),
        _timer(CLIENT, "timeout_resend", _SYN_SENT, _CLOSED),
        _segment(CLIENT, "SYN", "x", None, None, _SYN_SENT, _CLOSED),
        _timer(CLIENT, "timeout_syn", _CLOSED, _CLOSED),
    ),
    Exchange(
        "half_close", "3.6.1", _ESTABLISHED, _ESTABLISHED,
        _call(CLIENT, "shutdown_write", _FIN_WAIT1, _ESTABLISHED),
        _segment(CLIENT, "FIN,ACK", "u", "v", "rcv_fin", _FIN_WAIT1, _CLOSE_WAIT),
        _segment(SERVER, "ACK", "v", "u+1", "rcv_ack_of_fin", _FIN_WAIT2, _CLOSE_WAIT),
        _call(SERVER, "send", _FIN_WAIT2, _CLOSE_WAIT),
        _segment(SERVER, "PSH,ACK", "v", "u+1", "rcv_data", _FIN_WAIT2, _CLOSE_WAIT, "n"),
        _segment(CLIENT, "ACK", "u+1", "v+n", "rcv_ack", _FIN_WAIT2, _CLOSE_WAIT),
        _call(SERVER, "close", _FIN_WAIT2, _LAST_ACK),
        _segment(SERVER, "FIN,ACK", "v+n", "u+1", "rcv_fin", _TIME_WAIT, _LAST_ACK),
        _segment(CLIENT, "ACK", "u+1", "v+n+1", "rcv_ack_of_fin", _TIME_WAIT, _CLOSED),
        _timer(CLIENT, "timeout_time_wait", _CLOSED, _CLOSED),
    ),
    # Why TIME-WAIT: the last ACK is lost, and somebody must be there to answer the FIN that comes again.
    Exchange(
        "time_wait", "3.6.1", _FIN_WAIT2, _CLOSE_WAIT,
        _call(SERVER, "close", _FIN_WAIT2, _LAST_ACK),
        _segment(SERVER, "FIN,ACK", "v", "u+1", "rcv_fin", _TIME_WAIT, _LAST_ACK),
        _segment(CLIENT, "ACK", "u+1", "v+1", None, _TIME_WAIT, _LAST_ACK),
        _timer(SERVER, "timeout_resend", _TIME_WAIT, _LAST_ACK),
        _segment(SERVER, "FIN,ACK", "v", "u+1", "rcv_fin", _TIME_WAIT, _LAST_ACK),
        _segment(CLIENT, "ACK", "u+1", "v+1", "rcv_ack_of_fin", _TIME_WAIT, _CLOSED),
        _timer(CLIENT, "timeout_time_wait", _CLOSED, _CLOSED),
    ),
)  # fmt: skip
EXCHANGES: dict[str, Exchange] = {exchange.name: exchange for exchange in _ALL}


class Replayed:
    """A step as the machine has it. client, server: states behind it. left: the index of the step with which a segment left."""

    __slots__ = ("client", "left", "server")

    def __init__(self, client: TcpState, server: TcpState, left: int | None) -> None:
        self.client = client
        self.server = server
        self.left = left


def replay(exchange: Exchange) -> Iterator[Replayed]:
    """What the machine makes of the steps. Raises ValueError for a step that it does not allow."""
    states = {CLIENT: exchange.client, SERVER: exchange.server}
    leaving: dict[str, list[tuple[str, int]]] = {CLIENT: [], SERVER: []}
    for index, step in enumerate(exchange.steps):
        left = None
        if step.kind == SEGMENT:
            left = _take(leaving[step.end], step.flags or "", exchange, index)
        if step.event is not None:
            transition = next_transition(states[step.acts], step.event)
            if transition is None:
                raise ValueError(f"{exchange.name}, step {index}: no {step.event} in {states[step.acts].rfc}")
            states[step.acts] = transition.to
            if transition.sent is not None:
                leaving[step.acts].append((transition.sent, index))
        yield Replayed(states[CLIENT], states[SERVER], left)


def _take(leaving: list[tuple[str, int]], flags: str, exchange: Exchange, index: int) -> int:
    """The step with which the segment with `flags` left; ACKs that left before it are carried by it."""
    for at, (sent, left) in enumerate(leaving):
        if sent == flags:
            del leaving[: at + 1]
            return left
        if sent != "ACK" or "ACK" not in flags:
            break
    raise ValueError(f"{exchange.name}, step {index}: nothing sends {flags}")
