"""What this kernel can do, found out by trying: three answers, never a guess from a version."""

from __future__ import annotations

from _socket import AF_INET, SOCK_CLOEXEC, SOCK_STREAM, socket

from finwait.errors import FinwaitError
from finwait.sources.sock_diag import open_diag_socket, raise_for_errno, receive_into, send_request
from finwait.wire.diag_census import DiagCensus
from finwait.wire.inet_diag import AF_INET as DIAG_AF_INET
from finwait.wire.inet_diag import build_tcp_dump

BOUND_INACTIVE_MASK = 1 << 13


def probe_closed_visible() -> bool | None:
    """Whether a dump shows bound but unconnected sockets (TCPF_BOUND_INACTIVE, Linux 6.8): yes, no, or None: cannot tell.

    Binds a socket of its own to a free port of 127.0.0.1 for the time of one look.
    """
    try:
        bound = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC)
    except OSError:
        return None
    try:
        bound.bind(("127.0.0.1", 0))
        diag = open_diag_socket()
        try:
            return _sees_any(diag)
        finally:
            diag.close()
    except (OSError, FinwaitError):
        return None
    finally:
        bound.close()


def _sees_any(diag: socket) -> bool:
    census = DiagCensus()
    send_request(diag, build_tcp_dump(DIAG_AF_INET, BOUND_INACTIVE_MASK))
    buffers = (memoryview(bytearray(1 << 16)), memoryview(bytearray(1 << 16)))
    which = 0
    while not census.done:
        census.add(buffers[which], receive_into(diag, buffers[which]))
        which ^= 1
    raise_for_errno(census.errno)
    return sum(census.finish().values()) > 0
