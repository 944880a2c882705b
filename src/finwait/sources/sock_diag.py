"""NETLINK_SOCK_DIAG: the kernel's own walk over its TCP sockets (man 7 sock_diag; net/ipv4/inet_diag.c)."""

from __future__ import annotations

import os
import sys
from _socket import AF_NETLINK, MSG_DONTWAIT, MSG_TRUNC, SOCK_CLOEXEC, SOCK_RAW, SOL_SOCKET, socket

from finwait.errors import FinwaitError, NotPermitted, NotSupported, SourceError
from finwait.table.snapshot import Netns, Notice
from finwait.text.messages import mark
from finwait.wire.diag_census import DiagCensus
from finwait.wire.inet_diag import build_tcp_dump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from finwait.table.request import Request

NETLINK_SOCK_DIAG = 4
SO_NETNS_COOKIE = 71
ATTEMPTS = 3  # walks before an inconsistent one is reported as such
BUFFER_BYTES = 1 << 16  # the kernel fills at most 32 KiB a receive (net/netlink/af_netlink.c, netlink_dump)
EINVAL, ENOENT, EPERM, EACCES = 22, 2, 1, 13

INCONSISTENT = mark(
    "the kernel's walk was inconsistent: {duplicates} sockets came twice (counted once), as many may be missing"
)
END_MISSING = mark("the kernel's dump of TCP sockets stopped before its end")
INTERRUPTED = mark("the kernel says that its walk was interrupted; some sockets may be missing or counted twice")


def open_diag_socket() -> socket:
    """A netlink socket onto the calling thread's network namespace. Raises NotSupported or NotPermitted."""
    try:
        return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
    except OSError as error:
        raise _refusal(error.errno or 0, "socket(AF_NETLINK, NETLINK_SOCK_DIAG)") from error


def open_beside(opener: Callable[[], int]) -> tuple[int, socket]:
    """The descriptor that `opener` opens, and a netlink socket onto the same namespace, which knows its cookie and its bound
    sockets. For a thread inside it. Raises what either raises.
    """  # fmt: skip
    diag = open_diag_socket()
    try:
        return opener(), diag
    except BaseException:
        diag.close()
        raise


def _refusal(errno: int, request: str) -> FinwaitError:
    if errno in {EPERM, EACCES}:
        return NotPermitted("{request} is not permitted here: {reason}", request=request, reason=os.strerror(errno))
    if errno in {ENOENT, 93, 97}:  # no such diag module, EPROTONOSUPPORT, EAFNOSUPPORT
        return NotSupported(
            "this kernel has no sock_diag for TCP (CONFIG_INET_TCP_DIAG, Linux 3.3): {request}: {reason}",
            request=request,
            reason=os.strerror(errno),
        )
    return SourceError("{request} failed: {reason}", request=request, reason=os.strerror(errno))


def netns_of(diag: socket, name: str | None = None, inode: int | None = None) -> Netns:
    """The namespace that `diag` looks into; its cookie is None before Linux 5.14."""
    try:
        cookie = int.from_bytes(diag.getsockopt(SOL_SOCKET, SO_NETNS_COOKIE, 8), sys.byteorder)
    except OSError:
        cookie = None
    return Netns(cookie, inode, name)


def raise_for_errno(errno: int) -> None:
    """Raise what the errno of NLMSG_DONE or NLMSG_ERROR means; nothing for 0."""
    if errno:
        raise _refusal(errno, "the dump of TCP sockets (sock_diag)")


def receive_into(diag: socket, buffer: memoryview) -> int:
    """Bytes received into `buffer`, 0 where nothing more is there. Raises SourceError where a datagram did not fit
    (MSG_TRUNC) or the socket failed.

    Never waits: while a dump runs, every receive makes the kernel queue the next part (net/netlink/af_netlink.c,
    netlink_recvmsg), so that an empty queue means that the dump is over.
    """  # fmt: skip
    try:
        length = diag.recv_into(buffer, 0, MSG_TRUNC | MSG_DONTWAIT)
    except BlockingIOError:
        return 0
    except OSError as error:
        raise _refusal(error.errno or 0, "recv from sock_diag") from error
    if length > len(buffer):
        raise SourceError(
            "sock_diag sent {length} bytes where {room} fit; part of the dump is lost", length=length, room=len(buffer)
        )
    return length


def send_request(diag: socket, request: bytes) -> None:
    """Send one request. Raises NotPermitted or SourceError."""
    try:
        diag.send(request)
    except OSError as error:
        raise _refusal(error.errno or 0, "send to sock_diag") from error


def count_states(diag: socket, request: Request) -> tuple[dict[int, int], list[Notice]]:
    """Sockets by the kernel's state number in the namespace of `diag`, as `request` narrows it, without a table.

    A walk that showed a socket twice is repeated up to ATTEMPTS times; the last one counts, with a notice. Raises
    SourceError and its kin.
    """
    for _ in range(ATTEMPTS):
        census = walk_census(diag, request)
        if not census.duplicates and not census.interrupted:
            break
    notice = walk_notice(census.duplicates, interrupted=census.interrupted)
    return census.finish(), [] if notice is None else [notice]


def walk_notice(duplicates: int, *, interrupted: bool) -> Notice | None:
    """What to tell about a walk: that it was inconsistent, or None."""
    if duplicates:
        return Notice("inconsistent_walk", INCONSISTENT, missing="sockets", arguments={"duplicates": duplicates})
    return Notice("walk_interrupted", INTERRUPTED, missing="sockets") if interrupted else None


def walk_census(diag: socket, request: Request) -> DiagCensus:
    """One dump, counted. Raises what the kernel refuses, and SourceError where the dump stops before its end."""
    census = DiagCensus()
    buffers = (memoryview(bytearray(BUFFER_BYTES)), memoryview(bytearray(BUFFER_BYTES)))
    which = 0
    send_request(diag, build_tcp_dump(request.family, request.states, request.extensions, request.bytecode))
    while not census.done:
        buffer = buffers[which]
        which ^= 1
        received = receive_into(diag, buffer)
        if not received:
            raise SourceError(END_MISSING)
        census.add(buffer, received)
    raise_for_errno(census.errno)
    return census
