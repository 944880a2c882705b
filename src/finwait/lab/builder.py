"""Opens the sockets of a population: the near end's system calls and the scripted peer's segments, in lockstep.

Lockstep keeps it exact: each segment is awaited before the next step, so nothing depends on time.
"""

from __future__ import annotations

import errno
import os
import random
import select
import socket
import struct
import time
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from finwait.lab import reuseport
from finwait.lab.peer import ACK, RST, FarEnd, TcpPeer
from finwait.lab.spec import Group, HeldSocket, Spec
from finwait.lab.traffic import Flood
from finwait.tcp.state import TcpState

if TYPE_CHECKING:
    from collections.abc import Callable

    from finwait.lab.recorder import Recorder

NEAR_IPV4 = IPv4Address("10.77.0.1")
NEAR_IPV6 = IPv6Address("fd77::1")
GATEWAY_IPV4 = IPv4Address("10.77.0.2")  # one neighbour, however many addresses the peer has
GATEWAY_IPV6 = IPv6Address("fd77::2")
_FAR_IPV4 = IPv4Address("10.77.1.0")  # the first of the peer's addresses
_FAR_IPV6 = IPv6Address("fd77::1:0")
_FAR_PORT = 443
_FIRST_LISTEN_PORT = 2000  # below ip_local_port_range
_TIME_WAIT_REARM_S = 20.0  # of the 60 that TIME_WAIT lasts

SO_COOKIE = 57
TCP_REPAIR = 19
TCP_REPAIR_OFF_NO_WP = -1

# What happens after the handshake. `close` is shutdown(SHUT_WR) where the group asks for an owned socket.
SCRIPTS: dict[TcpState, tuple[str, ...]] = {
    TcpState.ESTABLISHED: (),
    TcpState.FIN_WAIT1: ("close",),
    TcpState.FIN_WAIT2: ("close", "ack_fin"),
    TcpState.CLOSE_WAIT: ("peer_fin",),
    TcpState.CLOSING: ("close", "peer_fin"),
    TcpState.LAST_ACK: ("peer_fin", "await_close_wait", "close"),
    TcpState.TIME_WAIT: ("close", "ack_fin", "peer_fin"),
}


def read_cookie(sock: socket.socket) -> int:
    """SO_COOKIE: the socket's identity, the same that sock_diag and BPF report."""
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")


def enter_repaired_connection(sock: socket.socket, local: tuple[str, int], peer: tuple[str, int]) -> None:
    """Make `sock` ESTABLISHED without a packet (TCP_REPAIR); it stays in repair mode, where close() is silent."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    sock.bind(local)
    sock.connect(peer)


class _Connection:
    """One connection while it is being made: the group it is for, its near socket, its far end."""

    def __init__(
        self,
        group: Group,
        sock: socket.socket | None,
        far: FarEnd,
        cookie: int | None,
        recorder: Recorder | None = None,
    ) -> None:
        self.group, self.sock, self.far, self.cookie, self.recorder = group, sock, far, cookie, recorder

    def close(self) -> None:
        """End the near end's direction and, where the FIN can leave, wait until the peer has seen it."""
        assert self.sock is not None
        if self.group.mini:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 60)
        if self.recorder is not None:
            self.recorder.call("close()" if self.group.is_orphan else "shutdown(SHUT_WR)")
        if self.group.is_orphan:
            self.sock.close()
            self.sock = None
        else:
            self.sock.shutdown(socket.SHUT_WR)
        if not self.group.unacked and not self.group.unsent:
            self.far.await_fin()

    def ack_fin(self) -> None:
        """The peer acknowledges our FIN."""
        self.far.ack_fin()

    def peer_fin(self) -> None:
        """The peer closes its direction."""
        self.far.send_fin()

    def await_close_wait(self) -> None:
        """Wait until the kernel has taken the peer's FIN."""
        assert self.sock is not None
        poll = select.poll()  # select(2) ends at descriptor 1,023
        poll.register(self.sock, select.POLLIN)
        poll.poll(self.far.peer.timeout * 1000)
        assert self.sock.recv(1, socket.MSG_PEEK) == b"", "the peer's FIN did not arrive"


class Builder:
    """Makes the sockets of a spec one by one and remembers what it made."""

    def __init__(self, spec: Spec, peer: TcpPeer, recorder: Recorder | None = None) -> None:
        self.held: list[HeldSocket] = []
        self.ghosts: list[HeldSocket] = []  # a descriptor each; in no dump
        self._spec = spec
        self._peer = peer
        self._recorder = recorder
        self._open: list[socket.socket] = []
        self._listeners: dict[str, list[socket.socket]] = {}
        self._sharing: dict[str, list[socket.socket]] = {}  # listeners of one port
        self._temporary_listeners: dict[str, socket.socket] = {}
        self._time_waits: list[FarEnd] = []
        self._half_open: list[FarEnd] = []
        self._rearmed_at = time.monotonic()
        self._opened = 0
        self._next_listen_port = _FIRST_LISTEN_PORT

    def build(self) -> None:
        """Make everything: listeners first, the accept queues last, the rest in the order that was asked for."""
        singles = [group for group in self._spec.groups for _ in range(group.count)]
        if self._spec.shuffle is not None:
            random.Random(self._spec.shuffle).shuffle(singles)  # noqa: S311 - an order, no secret
        singles.sort(key=lambda group: (group.state != "LISTEN", not group.accepted, group.overflow))
        for group in singles:
            if self._recorder is not None:
                self._recorder.begin(group)
            self._make(group)
            if self._recorder is not None:
                self._recorder.end(group)
            self.rearm_time_waits()
        for members in self._sharing.values():
            reuseport.let_kernel_choose(members[0])
        for listener in self._temporary_listeners.values():
            listener.close()
        for sock in self._open:  # should the holder be killed, no orphan keeps the namespace alive
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    @property
    def open_sockets(self) -> list[socket.socket]:
        """Those that have a descriptor."""
        return self._open

    def chores(self) -> list[Callable[[], float]]:
        """What is to be done while the population is held; each returns the seconds until it is due again."""
        chores = [self.rearm_time_waits]
        traffic = self._spec.traffic
        if traffic is not None:
            port = self._listeners[traffic.family][0].getsockname()[1]
            flood = Flood(traffic, self._peer, (_near(traffic.family), port), self._half_open)
            chores += [flood.go_on, flood.renew]
        return chores

    def rearm_time_waits(self) -> float:
        """Start the 60 seconds of every TIME_WAIT anew, once 20 have gone by. Returns the seconds until it is due again."""
        remaining = self._rearmed_at + _TIME_WAIT_REARM_S - time.monotonic()
        if remaining > 0:
            return remaining
        self._rearmed_at = time.monotonic()
        for far in self._time_waits:
            far.send_ack()
        return _TIME_WAIT_REARM_S

    def _make(self, group: Group) -> None:
        makers: dict[TcpState, Callable[[Group], None]] = {
            TcpState.LISTEN: self._make_listen,
            TcpState.CLOSE: self._make_bound,
            TcpState.SYN_SENT: self._make_syn_sent,
            TcpState.SYN_RECV: self._make_syn_recv,
        }
        makers.get(group.tcp_state, self._make_connection)(group)

    def _make_listen(self, group: Group) -> None:
        sharing = self._sharing.setdefault(group.family, []) if group.reuseport else []
        self._call("listen()")
        sock = self._listen(group, sharing[0].getsockname()[1] if sharing else self._next_listen_port)
        sharing.append(sock)
        self._next_listen_port += 1
        self._listeners.setdefault(group.family, []).append(sock)
        self._hold(group, sock, ("0.0.0.0" if group.family == "ipv4" else "::", 0))

    def _make_bound(self, group: Group) -> None:
        sock = self._socket(group)
        self._call("bind()")
        sock.bind((_text(_near(group.family), group), 0))
        self._hold(group, sock, ("0.0.0.0" if group.family == "ipv4" else "::", 0))

    def _make_syn_sent(self, group: Group) -> None:
        sock, far = self._send_syn(group)
        far.expect(0)
        self._hold(group, sock, (_text(far.address, group), far.port))

    def _make_syn_recv(self, group: Group) -> None:
        far = self._client(group, self._listener(group))
        far.send_syn()
        far.expect(0)
        if self._spec.traffic is not None and self._spec.traffic.renew:
            self._half_open.append(far)
        self._hold_without_owner(_Connection(group, None, far, None))

    def _make_connection(self, group: Group) -> None:
        if group.way == "repair":
            self._make_repaired(group)
            return
        connection = self._open_actively(group) if group.way == "active" else self._open_passively(group)
        self._fill_queues(connection)
        for step in SCRIPTS[group.tcp_state]:
            getattr(connection, step)()
        if group.overflow:
            return
        if group.tcp_state == TcpState.TIME_WAIT:
            self._time_waits.append(connection.far)
        if connection.sock is None:
            self._hold_without_owner(connection)
        else:
            self._hold(group, connection.sock, (_text(connection.far.address, group), connection.far.port))
        if group.reset:
            connection.far.send(RST | ACK)

    def _make_repaired(self, group: Group) -> None:
        sock = self._socket(group)
        address, port = self._next_far(group)
        peer = (_text(address, group), port)
        self._call("connect(), TCP_REPAIR")
        enter_repaired_connection(sock, (_text(_near(group.family), group), 0), peer)
        sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP)
        self._hold(group, sock, peer)

    def _open_actively(self, group: Group) -> _Connection:
        sock, far = self._send_syn(group)
        far.answer_syn()
        return _Connection(group, sock, far, read_cookie(sock), self._recorder)

    def _open_passively(self, group: Group) -> _Connection:
        listener = self._listener(group)
        far = self._client(group, listener)
        far.open()
        if not group.accepted:
            return _Connection(group, None, far, None)
        self._call("accept()")
        listener.settimeout(self._peer.timeout)
        sock, peer = listener.accept()
        assert ip_address(peer[0]) in {far.address, ip_address(_text(far.address, group))}, (peer, far)
        sock.setblocking(False)
        _set_options(sock, group)
        return _Connection(group, sock, far, read_cookie(sock), self._recorder)

    def _fill_queues(self, connection: _Connection) -> None:
        group = connection.group
        if group.unread:
            connection.far.send_data(group.unread)
            connection.far.await_ack()
        remaining = group.unacked + group.unsent
        if remaining and connection.sock is not None:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * remaining)
            self._call(f"send({remaining})")
            while remaining:
                remaining -= connection.sock.send(bytes(remaining))

    def _send_syn(self, group: Group) -> tuple[socket.socket, FarEnd]:
        sock = self._socket(group)
        address, port = self._next_far(group)
        self._call("connect()")
        error = sock.connect_ex((_text(address, group), port))
        if error != errno.EINPROGRESS:
            raise OSError(error, f"connect to {address} port {port}: {os.strerror(error)}")
        near_port = sock.getsockname()[1]
        return sock, self._far_end(group, address, port, near_port)

    def _client(self, group: Group, listener: socket.socket) -> FarEnd:
        address, _ = self._next_far(group)
        return self._far_end(group, address, 10000 + self._opened // group.peers, listener.getsockname()[1])

    def _far_end(self, group: Group, address: IPv4Address | IPv6Address, port: int, near_port: int) -> FarEnd:
        far = FarEnd(self._peer, address, port, _near(group.family), near_port, window=0 if group.unsent else 65535)
        if self._recorder is not None:
            self._recorder.follow(far)
        return far

    def _call(self, name: str) -> None:
        if self._recorder is not None:
            self._recorder.call(name)

    def _next_far(self, group: Group) -> tuple[IPv4Address | IPv6Address, int]:
        self._opened += 1
        return (_FAR_IPV6 if group.family == "ipv6" else _FAR_IPV4) + self._opened % group.peers, _FAR_PORT

    def _listener(self, group: Group) -> socket.socket:
        listeners = self._listeners.get(group.family)
        if listeners is None:
            if group.family not in self._temporary_listeners:
                self._temporary_listeners[group.family] = self._listen(Group("LISTEN", 1, group.family), 0)
            return self._temporary_listeners[group.family]
        listener = listeners[(self._opened if group.listener is None else group.listener) % len(listeners)]
        sharing = self._sharing.get(group.family, [])
        if listener in sharing:
            reuseport.choose(listener, sharing.index(listener))
        return listener

    def _listen(self, group: Group, port: int) -> socket.socket:
        sock = self._socket(group)
        if group.family != "ipv4":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, group.family == "ipv6")
        if group.reuseport:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("0.0.0.0" if group.family == "ipv4" else "::", port))
        sock.listen(group.backlog)
        return sock

    def _socket(self, group: Group) -> socket.socket:
        sock = socket.socket(socket.AF_INET if group.family == "ipv4" else socket.AF_INET6, socket.SOCK_STREAM)
        sock.setblocking(False)
        _set_options(sock, group)
        return sock

    def _hold(self, group: Group, sock: socket.socket, peer: tuple[str, int]) -> None:
        self._open.append(sock)
        those = self.ghosts if group.reset else self.held
        local, fd = sock.getsockname()[:2], sock.fileno()
        inode = os.fstat(fd).st_ino
        those.append(HeldSocket(group.state, group.family, local, peer, read_cookie(sock), inode, fd))

    def _hold_without_owner(self, connection: _Connection) -> None:
        group, far = connection.group, connection.far
        local = (_text(far.near_address, group), far.near_port)
        peer = (_text(far.address, group), far.port)
        self.held.append(HeldSocket(group.state, group.family, local, peer, connection.cookie, 0, None))


def _text(address: IPv4Address | IPv6Address, group: Group) -> str:
    """The address as the near end's socket calls take it and sock_diag shows it."""
    return f"::ffff:{address}" if group.family == "mapped" else str(address)


def _near(family: str) -> IPv4Address | IPv6Address:
    return NEAR_IPV6 if family == "ipv6" else NEAR_IPV4


def _set_options(sock: socket.socket, group: Group) -> None:
    if group.mark:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, group.mark)
    if group.keepalive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if group.congestion:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, group.congestion.encode())
    if group.device:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, group.device.encode() + b"\0")
