"""Hand-made messages of a TCP dump, built apart from the product's own offsets."""

from __future__ import annotations

import struct


def attribute(number: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)


def message(
    cookie: int,
    state: int = 1,
    *,
    family: int = 2,
    kind: int = 20,
    attributes: bytes = b"",
    sport: int = 80,
    dport: int = 1024,
    rqueue: int = 0,
    wqueue: int = 0,
    flags: int = 2,
    timer: int = 0,
    expires: int = 0,
) -> bytes:
    """struct nlmsghdr, struct inet_diag_msg (include/uapi/linux/inet_diag.h), attributes."""
    identity = (
        struct.pack("!HH", sport, dport) + bytes([10, 0, 0, 1]).ljust(16, b"\0") + bytes([10, 0, 0, 2]).ljust(16, b"\0")
    )
    identity += struct.pack("=I", 0) + struct.pack("=II", cookie & 0xFFFFFFFF, cookie >> 32)
    body = struct.pack("=BBBB", family, state, timer, 0) + identity
    body += struct.pack("=IIIII", expires, rqueue, wqueue, 33, 77) + attributes
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


def done(errno: int = 0, flags: int = 2) -> bytes:
    return struct.pack("=IHHIIi", 20, 3, flags, 1, 0, -errno)
