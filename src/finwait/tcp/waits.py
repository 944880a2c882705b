"""Every state is somebody's wait: who waits for whom, in one line (RFC 9293, 3.3.2; Linux where it differs)."""

from __future__ import annotations

from finwait.tcp.state import TcpState
from finwait.text.messages import mark

# Who must act before the state can end.
NOBODY, PEER, PROGRAM, CLOCK = "nobody", "peer", "program", "clock"

# state: (who must act, what the state waits for as a message id)
WAITS: dict[TcpState, tuple[str, str]] = {
    TcpState.LISTEN: (NOBODY, mark("a client to connect")),
    TcpState.SYN_SENT: (PEER, mark("the peer to answer our SYN")),
    TcpState.SYN_RECV: (PEER, mark("the peer's ACK that ends the handshake")),
    TcpState.ESTABLISHED: (NOBODY, mark("data, or for one side to close")),
    TcpState.FIN_WAIT1: (PEER, mark("the peer's ACK of our FIN")),
    TcpState.FIN_WAIT2: (PEER, mark("the peer to close its side too")),
    TcpState.CLOSE_WAIT: (PROGRAM, mark("the program to call close()")),
    TcpState.CLOSING: (PEER, mark("the peer's ACK of our FIN; both closed at once")),
    TcpState.LAST_ACK: (PEER, mark("the peer's ACK of our FIN, the last of the two")),
    TcpState.TIME_WAIT: (CLOCK, mark("the clock: 60 s for late segments to die out")),
    TcpState.CLOSE: (PROGRAM, mark("the program to connect or listen; bound so far")),
}
