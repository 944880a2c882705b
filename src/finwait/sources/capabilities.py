"""What this kernel can do, found out by trying: three answers, never a guess from a version."""

from __future__ import annotations

from _socket import AF_INET, SOCK_CLOEXEC, SOCK_STREAM, socket

from finwait.errors import FinwaitError
from finwait.sources.sock_diag import open_diag_socket, walk_census
from finwait.table.request import Request

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
    census = walk_census(diag, Request(family=AF_INET, states=BOUND_INACTIVE_MASK))
    return sum(census.finish().values()) > 0
