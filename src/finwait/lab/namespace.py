"""A network namespace of our own, for the holders of socket populations, and a small sock_diag of their own.

Everything here runs inside a holder process: it leaves the caller's namespace (unshare(2)), dies with its parent
(PR_SET_PDEATHSIG), and reads its sockets by NETLINK_SOCK_DIAG (sock_diag(7)) apart from the product's reader.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import struct
import time
from collections import Counter
from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET, AF_INET6
from typing import TYPE_CHECKING, NamedTuple

from finwait.lab.links import Links

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
SOCK_DESTROY = 21
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP = 0x300
ALL_STATES = 0xFFFFFFFF  # with bit 13, TCPF_BOUND_INACTIVE

_PATIENCE_S = 10.0
_NLMSGHDR = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI48s")  # struct inet_diag_req_v2
_MESSAGE = struct.Struct("=BBBB48sIIIII")  # struct inet_diag_msg
_SOCKID = struct.Struct("!HH16s16s")  # the head of struct inet_diag_sockid, in network order
_COOKIE = struct.Struct("=II")

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def await_condition(holds: Callable[[], bool], patience_s: float) -> bool:
    """Ask `holds` every millisecond or two until it is true; False where it is not after `patience_s` seconds."""
    deadline = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.0015)
    return True


def enter_own_namespace() -> None:
    """Leave for a network namespace of our own (as an ordinary user, with a user namespace around it)."""
    uid, gid = os.getuid(), os.getgid()
    flags = CLONE_NEWNET if uid == 0 else CLONE_NEWNET | CLONE_NEWUSER
    _check(_libc.unshare(flags), "unshare")
    if uid != 0:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)


def enter_namespace(descriptor: int) -> None:
    """setns(2) into the namespace of an nsfs descriptor. Raises OSError."""
    _check(_libc.setns(descriptor, 0), "setns")


def die_with_parent(clean_up: Callable[[], None]) -> None:
    """Get SIGTERM when the parent's thread that started us ends; SIGTERM cleans up and ends the process at once.

    Call it after `enter_own_namespace`: gaining capabilities in a user namespace clears the setting. The handler does
    the work itself, because the parent's end also closes standard input and an exception would interrupt that exit.
    """

    def on_sigterm(*_: object) -> None:
        clean_up()
        os._exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, on_sigterm)
    parent = os.getppid()
    _check(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0), "prctl")
    if os.getppid() != parent:  # it ended before the kernel knew
        on_sigterm()


def raise_descriptor_limit() -> int:
    """As many descriptors as the hard limit allows; returns that number."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def write_sysctls(values: Mapping[str, str | int]) -> None:
    """Set ``net.*`` variables of the own namespace; names with dots as sysctl(8) takes them."""
    for name, value in values.items():
        with open("/proc/sys/" + name.replace(".", "/"), "w", encoding="ascii") as file:
            file.write(str(value))


def bring_up_loopback() -> None:
    """A new namespace's lo is down."""
    with Links() as links:
        links.set_up("lo")


def await_ipv6_address(address: IPv6Address) -> None:
    """Wait until packets for `address` are delivered: a kernel worker adds the local route, even with nodad."""

    def has_route() -> bool:
        with open("/proc/net/ipv6_route", encoding="ascii") as routes:
            return any(line.startswith(f"{address.packed.hex()} 80 ") for line in routes)

    if not await_condition(has_route, _PATIENCE_S):
        raise TimeoutError(f"no local route for {address}")


class Row(NamedTuple):
    """One socket as sock_diag reports it."""

    state: int
    family: int
    local: tuple[str, int]
    peer: tuple[str, int]
    inode: int
    sockid: bytes  # struct inet_diag_sockid with the cookie, as SOCK_DESTROY wants it
    rqueue: int
    wqueue: int
    timer: int
    expires_ms: int

    @property
    def cookie(self) -> int:
        """The socket's identity for as long as the machine is up."""
        low, high = _COOKIE.unpack_from(self.sockid, 40)
        return int(high << 32 | low)


def _parse_row(payload: bytes) -> Row:
    family, state, timer, _, sockid, expires, rqueue, wqueue, _, inode = _MESSAGE.unpack_from(payload)
    sport, dport, source, destination = _SOCKID.unpack_from(sockid)
    width = 4 if family == AF_INET else 16
    local = (socket.inet_ntop(family, source[:width]), sport)
    peer = (socket.inet_ntop(family, destination[:width]), dport)
    return Row(state, family, local, peer, inode, sockid, rqueue, wqueue, timer, expires)


def _open_sock_diag() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)


def _walk(family: int, states: int) -> Iterator[bytes]:
    """Every struct inet_diag_msg of a dump. Raises OSError for an error inside NLMSG_DONE."""
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, states, bytes(48))
    header = _NLMSGHDR.pack(16 + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, 0)
    with _open_sock_diag() as netlink:
        netlink.send(header + request)
        while True:
            buffer = netlink.recv(1 << 16)
            offset = 0
            while offset < len(buffer):
                length, kind, *_ = _NLMSGHDR.unpack_from(buffer, offset)
                payload = buffer[offset + 16 : offset + length]
                if kind in {NLMSG_DONE, NLMSG_ERROR}:
                    error = -struct.unpack_from("=i", payload)[0]
                    if error:
                        raise OSError(error, os.strerror(error))
                    return
                yield payload
                offset += (length + 3) & ~3


def count_by_state() -> Counter[int]:
    """How many TCP sockets of both families are in each state."""
    return Counter(message[1] for family in (AF_INET, AF_INET6) for message in _walk(family, ALL_STATES))


def read_rows(states: int = ALL_STATES) -> list[Row]:
    """Every TCP socket of both families in the own namespace."""
    return [_parse_row(message) for family in (AF_INET, AF_INET6) for message in _walk(family, states)]


def look_up(local: tuple[IPv4Address | IPv6Address, int], peer: tuple[IPv4Address | IPv6Address, int]) -> Row | None:
    """The connection of these addresses and ports, without a walk; None where there is none."""
    family = AF_INET if peer[0].version == 4 else AF_INET6
    sockid = _SOCKID.pack(local[1], peer[1], local[0].packed.ljust(16, b"\0"), peer[0].packed.ljust(16, b"\0"))
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, ALL_STATES, sockid + bytes(4) + b"\xff" * 8)  # any cookie
    with _open_sock_diag() as netlink:
        netlink.send(_NLMSGHDR.pack(16 + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 1, 0) + request)
        answer = netlink.recv(1 << 12)
    if _NLMSGHDR.unpack_from(answer)[1] == NLMSG_ERROR:
        return None
    row = _parse_row(answer[16:])
    return row if row.peer == (str(peer[0]), peer[1]) else None  # else a listener that would take it


def destroy(row: Row) -> None:
    """SOCK_DESTROY one socket; one that is gone already is no error."""
    with _open_sock_diag() as netlink:
        _destroy(netlink, row)


def destroy_all() -> None:
    """SOCK_DESTROY every socket of the own namespace.

    An orphan (FIN_WAIT1 after close()) holds its namespace until its retransmissions run out, minutes after the last
    process has left; a socket that is gone already is no error.
    """
    with _open_sock_diag() as netlink:
        for row in read_rows():
            _destroy(netlink, row)


def _destroy(netlink: socket.socket, row: Row) -> None:
    request = _REQUEST.pack(row.family, socket.IPPROTO_TCP, 0, 1 << row.state, row.sockid)
    flags = NLM_F_REQUEST | NLM_F_ACK
    netlink.send(_NLMSGHDR.pack(16 + len(request), SOCK_DESTROY, flags, 1, 0) + request)
    netlink.recv(1 << 12)
