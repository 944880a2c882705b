"""Netlink messages: struct nlmsghdr and its attributes (include/uapi/linux/netlink.h; RFC 3549, section 2.3.2).

Numbers are in host byte order. Nothing here opens a socket.
"""

from __future__ import annotations

from struct import Struct

from finwait.errors import ParseError
from finwait.text.messages import mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Buffer = bytes | bytearray | memoryview

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300  # NLM_F_ROOT | NLM_F_MATCH

NLMSGHDR = Struct("=IHHII")  # nlmsg_len, nlmsg_type, nlmsg_flags, nlmsg_seq, nlmsg_pid
NLMSG_HDRLEN = NLMSGHDR.size
_NLATTR = Struct("=HH")  # nla_len, nla_type
NLA_HDRLEN = _NLATTR.size
NLA_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_ERRNO = Struct("=i")

TRUNCATED = mark("netlink message of {length} bytes at offset {offset} does not fit: {excerpt}")


def align(length: int) -> int:
    """`length` rounded up to NLMSG_ALIGNTO, which is 4."""
    return (length + 3) & ~3


def excerpt_of(buffer: Buffer, offset: int) -> str:
    """The 16 bytes at `offset` in hexadecimal, for an error message."""
    return bytes(buffer[offset : offset + 16]).hex(" ")


def build_dump_request(nlmsg_type: int, payload: bytes, attributes: bytes = b"", sequence: int = 1) -> bytes:
    """A request for a dump: header, `payload`, then `attributes` as `build_attribute` makes them."""
    length = NLMSG_HDRLEN + len(payload) + len(attributes)
    return NLMSGHDR.pack(length, nlmsg_type, NLM_F_REQUEST | NLM_F_DUMP, sequence, 0) + payload + attributes


def build_message(nlmsg_type: int, flags: int, payload: bytes, sequence: int = 1) -> bytes:
    """One message with padding to four bytes."""
    header = NLMSGHDR.pack(NLMSG_HDRLEN + len(payload), nlmsg_type, flags, sequence, 0)
    return header + payload + bytes(align(len(payload)) - len(payload))


def build_attribute(nla_type: int, value: bytes) -> bytes:
    """One attribute with padding to four bytes."""
    return _NLATTR.pack(NLA_HDRLEN + len(value), nla_type) + value + bytes(align(len(value)) - len(value))


def parse_messages(buffer: Buffer, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int, int]]:
    """(nlmsg_type, nlmsg_flags, payload's start, payload's end) of each message in ``buffer[start:end]``.

    Raises ParseError where a message is shorter than its header or longer than the buffer.
    """
    end = len(buffer) if end is None else end
    unpack = NLMSGHDR.unpack_from
    while start < end:
        length = unpack(buffer, start)[0] if end - start >= NLMSG_HDRLEN else end - start
        if length < NLMSG_HDRLEN or length > end - start:
            raise ParseError(TRUNCATED, offset=start, excerpt=excerpt_of(buffer, start), length=length)
        _, nlmsg_type, flags, _, _ = unpack(buffer, start)
        yield nlmsg_type, flags, start + NLMSG_HDRLEN, start + length
        start += align(length)


def parse_attributes(buffer: Buffer, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(nla_type, value's start, value's end) of each attribute in ``buffer[start:end]``. Raises ParseError as above."""
    while end - start >= NLA_HDRLEN:
        length, nla_type = _NLATTR.unpack_from(buffer, start)
        if length < NLA_HDRLEN or length > end - start:
            raise ParseError(
                "netlink attribute of {length} bytes at offset {offset} does not fit: {excerpt}",
                offset=start,
                excerpt=excerpt_of(buffer, start),
                length=length,
            )
        yield nla_type & NLA_TYPE_MASK, start + NLA_HDRLEN, start + length
        start += align(length)


def parse_errno(buffer: Buffer, start: int, end: int) -> int:
    """The errno (positive, 0 for none) that NLMSG_ERROR and NLMSG_DONE carry; old kernels send DONE without one."""
    return -_ERRNO.unpack_from(buffer, start)[0] if end - start >= _ERRNO.size else 0
