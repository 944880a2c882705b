"""What this kernel can do, found out by trying or by its own type information: three answers, never a guess from a version."""

from __future__ import annotations

import os
from _socket import AF_INET, SOCK_CLOEXEC, SOCK_STREAM, socket
from struct import Struct

from finwait.errors import FinwaitError
from finwait.sources.sock_diag import open_diag_socket, walk_census
from finwait.table.request import Request
from finwait.tcp.state import BOUND_INACTIVE

BOUND_INACTIVE_MASK = 1 << BOUND_INACTIVE
# Trying walks every bound socket of the namespace, 0.25 us each; reading the type information takes 7 ms.
MANY_SOCKETS = 20_000
_BTF_HEADER = Struct("=HBBIIIII")  # magic, version, flags, hdr_len, type_off, type_len, str_off, str_len
_BTF_MAGIC = 0xEB9F


def probe_closed_visible(sockets: int = 0, sys: str = "/sys") -> bool | None:
    """Whether a dump shows bound but unconnected sockets (TCPF_BOUND_INACTIVE, Linux 6.8): yes, no, or None: cannot tell.

    The kernel's type information tells. Where it cannot be mapped (before Linux 6.16) and there are few sockets, a socket
    of our own is bound and looked for; `sockets` is about how many there are.
    """
    named = probe_type_name(b"TCP_BOUND_INACTIVE", sys, read=sockets >= MANY_SOCKETS)
    return _try_bound_socket() if named is None else named


def _try_bound_socket() -> bool | None:
    """Bind a socket to a free port of 127.0.0.1 for the time of one look."""
    try:
        bound = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC)
    except OSError:
        return None
    try:
        bound.bind(("127.0.0.1", 0))
        diag = open_diag_socket()
        try:
            census = walk_census(diag, Request(family=AF_INET, states=BOUND_INACTIVE_MASK))
            return sum(census.finish().values()) > 0
        finally:
            diag.close()
    except (OSError, FinwaitError):
        return None
    finally:
        bound.close()


def probe_type_name(name: bytes, sys: str = "/sys", *, read: bool = True, file: str = "vmlinux") -> bool | None:
    """Whether the kernel's BTF has `name` (of a type, an enumerator, a member) among its strings; None where it cannot be
    had. read: also read it (7 ms) where it cannot be mapped (0.2 ms). file: vmlinux, or a module's name.

    Documentation/bpf/btf.rst, section 2: the strings stand in one section, each between zero bytes.
    """  # fmt: skip
    try:
        descriptor = os.open(f"{sys}/kernel/btf/{file}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        header = os.pread(descriptor, _BTF_HEADER.size, 0)
        if len(header) < _BTF_HEADER.size:
            return None
        magic, _, _, header_length, _, _, offset, length = _BTF_HEADER.unpack(header)
        if magic != _BTF_MAGIC:
            return None
        return _find(descriptor, b"\0" + name + b"\0", header_length + offset, length, read=read)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _find(descriptor: int, text: bytes, offset: int, length: int, *, read: bool) -> bool | None:
    from mmap import MAP_PRIVATE, PROT_READ, mmap

    try:
        with mmap(descriptor, offset + length, MAP_PRIVATE, PROT_READ) as mapped:
            return mapped.find(text, offset) >= 0
    except (OSError, ValueError):
        return text in _read_at(descriptor, offset, length) if read else None


def _read_at(descriptor: int, offset: int, length: int) -> bytes:
    """sysfs gives a page a read."""
    parts = []
    while length > 0:
        part = os.pread(descriptor, length, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return b"".join(parts)
