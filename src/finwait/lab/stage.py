"""One connection played event by event: the kernel's end by system calls, the far end by segments, each step awaited.

Events are those of `finwait.tcp.transitions`; what the kernel sends and what state it shows then is compared with the table, so
that the stage proves it. Nothing here waits for time to pass but for what the kernel sends or shows.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING

from finwait.lab import namespace
from finwait.lab.builder import NEAR_IPV4, NEAR_IPV6
from finwait.lab.peer import ACK, FIN, MSS_OPTION, PSH, RST, SYN, FarEnd, TcpPeer
from finwait.tcp.state import TcpState

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address, IPv6Address

    from finwait.lab.peer import Segment
    from finwait.tcp.transitions import Transition

_PATIENCE_S = 15.0  # longer than any timer that a stage shortens
_LISTEN_PORT = 2000
_FAR_PORT = 443
_FLAGS = (("SYN", SYN), ("FIN", FIN), ("RST", RST), ("PSH", PSH), ("ACK", ACK))
# Where data came before the state began: with the SYN, or before the peer's FIN.
_HAS_DATA = frozenset({TcpState.SYN_RECV, TcpState.CLOSE_WAIT, TcpState.CLOSING, TcpState.LAST_ACK})
TCP_USER_TIMEOUT = 18
TCP_REPAIR = 19
TCP_FASTOPEN_NO_COOKIE = 34
# Timers, as short as the kernel lets them be; of the namespace.
SHORT_TIMERS: dict[str, str | int] = {
    "net.ipv4.tcp_syn_retries": 1,
    "net.ipv4.tcp_synack_retries": 1,
    "net.ipv4.tcp_syn_linear_timeouts": 0,
    "net.ipv4.tcp_orphan_retries": 1,
    "net.ipv4.tcp_retries2": 1,
    "net.ipv4.tcp_fin_timeout": 1,
}


class NotShown(Exception):  # noqa: N818 - what a proof finds, not a failure of the program
    """The kernel did not do what the table says."""


class Step:
    """One event that happened. at: seconds since the stage began. before, after: states that the kernel shows, CLOSE where it
    shows no socket. sent: flags of the segments that it answered with. far: what the far end did, or "".
    """  # fmt: skip

    __slots__ = ("after", "at", "before", "event", "far", "sent")

    def __init__(self, event: str, at: float, before: TcpState, after: TcpState, sent: list[str], far: str) -> None:
        self.event = event
        self.at = at
        self.before = before
        self.after = after
        self.sent = sent
        self.far = far


class Stage:
    """A connection between the kernel and the peer. family: 2 or 10. steps: what has happened.

    It begins CLOSED. The kernel's end is active (`active_open`) or passive (`passive_open`, then `rcv_syn`).
    """

    def __init__(self, peer: TcpPeer, far_address: IPv4Address | IPv6Address) -> None:
        self.steps: list[Step] = []
        self._peer = peer
        self._family = socket.AF_INET if far_address.version == 4 else socket.AF_INET6
        near = NEAR_IPV4 if far_address.version == 4 else NEAR_IPV6
        self._far = FarEnd(peer, far_address, _FAR_PORT, near, 0)
        self._sock: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._has_begun = (
            False  # whether a connection to the listener has: from then on it is looked for, not the listener
        )
        self._settings = frozenset[str]()
        self._next = 0  # what the far end would acknowledge, had it taken all that it saw
        self._seen: list[tuple[int, float]] = []  # flags and times of the kernel's segments: awaited, not taken
        self._began = time.monotonic()

    def close(self) -> None:
        """Give back the descriptors, silently."""
        for sock in (self._sock, self._listener):
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
        self._sock = self._listener = None

    # -- what the kernel shows

    def state(self) -> TcpState:
        """The state that sock_diag shows for the connection (or the listener, as long as there is no other); CLOSE for none."""
        found = self._row()
        return TcpState.CLOSE if found is None else TcpState.SYN_RECV if found.state == 12 else TcpState(found.state)

    def _row(self) -> namespace.Row | None:
        peer = (str(self._far.address), self._far.port)
        rows = namespace.read_rows()
        mine = [row for row in rows if row.peer == peer]
        if mine:
            return mine[0]
        if self._listener is not None and not self._has_begun:
            return next((row for row in rows if row.state == TcpState.LISTEN), None)
        return None

    def _await(self, state: TcpState) -> None:
        if not namespace.await_condition(lambda: self.state() is state, _PATIENCE_S):
            raise NotShown(f"the kernel shows {self.state().rfc} where the table says {state.rfc}")

    # -- events

    def prepare(self, departure: str | None) -> None:
        """Make Linux depart from the RFC as `departure` says, where that is a setting; before anything else."""
        self._settings = frozenset({departure} if departure else ())
        if departure == "syn_cookies":
            namespace.write_sysctls({"net.ipv4.tcp_syncookies": 2})
        if departure == "abort_on_overflow":
            namespace.write_sysctls({"net.ipv4.tcp_abort_on_overflow": 1})

    def play(self, transition: Transition) -> Step:
        """Let the event happen, wait for the segment and the state that the table says, and return what was seen.

        Raises NotShown where the kernel does otherwise.
        """
        before = self.state()
        if before is not transition.state:
            raise NotShown(f"the kernel shows {before.rfc}, the event is one of {transition.state.rfc}")
        far = _ACTIONS[transition.event](self)
        sent = []
        if transition.sent is not None:
            segment = self._expect(transition.sent)
            sent.append(flags_text(segment.flags))
        self._await(transition.to)
        step = Step(transition.event, time.monotonic() - self._began, before, transition.to, sent, far or "")
        self.steps.append(step)
        return step

    def _expect(self, sent: str) -> Segment:
        """The kernel's segment with the flags `sent`; FIN and SYN come with ACK where they can."""
        wanted = sum(flag for name, flag in _FLAGS if name in sent.split(","))
        try:
            segment = self._far.expect(wanted)
        except TimeoutError:
            raise NotShown(f"the kernel sent no {sent}") from None
        self._next = max(self._next, segment.next_seq)
        self._seen.append((segment.flags, self._peer.received_at))
        return segment

    def forget_segments(self) -> None:
        """What the kernel has sent so far is no part of what is told."""
        self._seen.clear()

    def take_segment(self, flags: str) -> tuple[str, float] | None:
        """The flags that the kernel's next segment with `flags` really had, and when it was sent, by CLOCK_REALTIME in s; None
        where none was awaited. ACK and PSH may come with any.
        """  # fmt: skip
        wanted = sum(flag for name, flag in _FLAGS if name in flags.split(","))
        for at, (seen, seconds) in enumerate(self._seen):
            if (seen ^ wanted) & (SYN | FIN | RST) == 0:
                del self._seen[: at + 1]
                return flags_text(seen), seconds
        return None

    def time_of_last(self) -> float:
        """When the kernel sent the last segment that was awaited, by CLOCK_REALTIME in s."""
        return self._seen[-1][1]

    def time_of_peers(self) -> float:
        """When the peer sent its last segment, by CLOCK_REALTIME in s."""
        return self._peer.sent_at

    # the program

    def _passive_open(self) -> None:
        self._listener = self._socket()
        self._listener.bind(("0.0.0.0" if self._family == socket.AF_INET else "::", _LISTEN_PORT))
        if "defer_accept" in self._settings:
            self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
        is_full = self._settings & {"accept_queue_full", "abort_on_overflow"}
        self._listener.listen(0 if is_full else 5)
        self._far.near_port, self._far.port = _LISTEN_PORT, 10000

    def _fill_accept_queue(self) -> None:
        """With a connection of somebody else's, after ours is half-open."""
        other = FarEnd(self._peer, self._far.address, 20000, self._far.near_address, _LISTEN_PORT)
        other.open()

        def has_one() -> bool:
            return any(row.state == TcpState.LISTEN and row.rqueue for row in namespace.read_rows())

        if not namespace.await_condition(has_one, _PATIENCE_S):
            raise NotShown("the accept queue stays empty")

    def _active_open(self) -> None:
        self._sock = self._socket()
        self._sock.connect_ex((str(self._far.address), self._far.port))
        self._far.near_port = self._sock.getsockname()[1]

    def _socket(self) -> socket.socket:
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return sock

    def _program_end(self) -> socket.socket:
        """The connection's descriptor, accepted where that was not done yet."""
        if self._sock is None and self._listener is not None:
            self._listener.settimeout(_PATIENCE_S)
            self._sock, _ = self._listener.accept()
        assert self._sock is not None, "there is no descriptor any more"
        return self._sock

    def _close(self) -> None:
        if self._sock is None and self._listener is not None and self.state() is TcpState.LISTEN:
            self._listener.close()
            self._listener = None
            return
        self._program_end().close()
        self._sock = None

    def _shutdown_write(self) -> None:
        self._program_end().shutdown(socket.SHUT_WR)

    def _abort(self) -> None:
        if self.state() is TcpState.TIME_WAIT:  # no program is left that could
            self._destroy()
            return
        self._program_end().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._close()

    def _send(self) -> None:
        self._program_end().send(b"x")

    def _close_unread(self) -> str:
        self._program_end()
        if self.state() not in _HAS_DATA:
            self._far.send_data(1)
            self._far.await_ack()
        self._close()
        return "PSH,ACK"

    def _listener_closed(self) -> None:
        assert self._listener is not None
        self._listener.close()
        self._listener = None

    def _destroy(self) -> None:
        """What ss -K does."""
        row = self._row()
        assert row is not None
        namespace.destroy(row)

    # the peer

    def _rcv_syn(self) -> str:
        shown = self.state()
        if shown is TcpState.SYN_RECV:  # the same once more
            self._far.snd_nxt = (self._far.snd_nxt - 1) % (1 << 32)
        elif shown is TcpState.TIME_WAIT:  # a new connection's begins beyond what the old one had
            self._far.snd_nxt += 1 << 20
        self._has_begun = self._has_begun or ("syn_cookies" not in self._settings and self._listener is not None)
        self._far.send(SYN, options=MSS_OPTION)
        if self._settings & {"accept_queue_full", "abort_on_overflow"}:
            self._far.expect(SYN | ACK)
            self._fill_accept_queue()
            self._far.send_syn_again()
        return "SYN"

    def _rcv_syn_fast_open(self) -> str:
        """The listener takes data with any SYN: a cookie would prove nothing here."""
        assert self._listener is not None
        namespace.write_sysctls({"net.ipv4.tcp_fastopen": 3})
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
        self._listener.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)
        self._has_begun = True
        self._far.send(SYN, options=MSS_OPTION, payload=b".")
        return "SYN"

    def _rcv_ack_of_cookie(self) -> str:
        self._has_begun = True
        return self._rcv_ack()

    def _rcv_syn_ack(self) -> str:
        self._take()
        if self.state() is TcpState.SYN_RECV:  # a simultaneous open: the far end has sent its SYN already
            self._far.snd_nxt = (self._far.snd_nxt - 1) % (1 << 32)
        self._far.send(SYN | ACK, options=MSS_OPTION)
        return "SYN,ACK"

    def _rcv_ack(self) -> str:
        self._take()
        self._far.send(ACK)
        return "ACK"

    def _rcv_data(self) -> str:
        self._far.send(ACK | PSH, payload=b".")
        return "PSH,ACK"

    def _rcv_fin(self) -> str:
        """A FIN that acknowledges what was acknowledged before, and no FIN of the kernel's."""
        if self.state() is TcpState.SYN_RECV:  # it also is the ACK that ends the handshake
            self._take()
        self._far.send(FIN | ACK)
        return "FIN,ACK"

    def _rcv_fin_ack(self) -> str:
        self._take()
        return self._rcv_fin()

    def _rcv_rst(self) -> str:
        self._take()
        self._far.send(RST | ACK)
        return "RST,ACK"

    def _take(self) -> None:
        """What was seen last is acknowledged from now on."""
        self._far.rcv_nxt = max(self._far.rcv_nxt, self._next)

    # the clock: timers are short (SHORT_TIMERS), options shorten what no sysctl does

    def _let_time_pass(self) -> None:
        """The kernel's timer runs; what it sends and shows is awaited. Without a FIN or SYN on its way there must be data."""
        if self.state() in {TcpState.ESTABLISHED, TcpState.CLOSE_WAIT}:
            self._program_end().send(b"x")
            self._far.expect(PSH)

    def _keep_alive_once(self) -> None:
        sock = self._program_end()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
            sock.setsockopt(socket.IPPROTO_TCP, option, 1)

    def _retransmit_no_more(self) -> None:
        if self._sock is not None:
            self._sock.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 300)
            if self.state() in {TcpState.ESTABLISHED, TcpState.CLOSE_WAIT}:
                self._sock.send(b"x")

    def _too_many_time_wait(self) -> str:
        namespace.write_sysctls({"net.ipv4.tcp_max_tw_buckets": 0})
        return self._rcv_fin()


_ACTIONS: dict[str, Callable[[Stage], str | None]] = {
    "passive_open": Stage._passive_open,
    "active_open": Stage._active_open,
    "send": Stage._send,
    "close": Stage._close,
    "shutdown_write": Stage._shutdown_write,
    "abort": Stage._abort,
    "close_unread": Stage._close_unread,
    "listener_closed": Stage._listener_closed,
    "destroy": Stage._destroy,
    "rcv_syn": Stage._rcv_syn,
    "rcv_syn_fast_open": Stage._rcv_syn_fast_open,
    "rcv_syn_ack": Stage._rcv_syn_ack,
    "rcv_ack_of_syn": Stage._rcv_ack,
    "rcv_ack_of_cookie": Stage._rcv_ack_of_cookie,
    "rcv_ack": Stage._rcv_ack,
    "rcv_ack_of_fin": Stage._rcv_ack,
    "rcv_data": Stage._rcv_data,
    "rcv_data_after_close": Stage._rcv_data,
    "rcv_fin": Stage._rcv_fin,
    "rcv_fin_ack": Stage._rcv_fin_ack,
    "rcv_rst": Stage._rcv_rst,
    "timeout_syn": Stage._let_time_pass,
    "timeout_syn_ack": Stage._let_time_pass,
    "timeout_resend": Stage._let_time_pass,
    "timeout_retransmit": Stage._retransmit_no_more,
    "timeout_keepalive": Stage._keep_alive_once,
    "timeout_fin_wait_2": Stage._let_time_pass,
    "too_many_time_wait": Stage._too_many_time_wait,
}


def flags_text(flags: int) -> str:
    """``SYN,ACK`` for the flags of a segment."""
    return ",".join(name for name, flag in _FLAGS if flags & flag)
