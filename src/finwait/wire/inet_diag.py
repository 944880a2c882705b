"""Requests and messages of NETLINK_SOCK_DIAG for TCP (include/uapi/linux/inet_diag.h; man 7 sock_diag).

A message is struct inet_diag_msg (72 bytes behind the netlink header) and attributes. Its byte offsets are module
constants, so that both the plain count (strides over a buffer) and the table (NumPy columns) read the same layout.
"""

from __future__ import annotations

from struct import Struct

from finwait.wire.netlink import (
    NLA_HDRLEN,
    NLM_F_REQUEST,
    NLMSG_HDRLEN,
    align,
    build_attribute,
    build_dump_request,
    build_message,
    parse_attributes,
    parse_messages,
)

SOCK_DIAG_BY_FAMILY = 20
TCPDIAG_GETSOCK = 18  # the older request; its dump walks IPv4 and IPv6 in one go
AF_INET = 2
AF_INET6 = 10
MAPPED_PREFIX = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, IPv4-mapped addresses: RFC 4291, section 2.5.5.2
IPPROTO_TCP = 6

INET_DIAG_REQ_BYTECODE = 1

# Attribute numbers of a message; `1 << (number - 1)` asks for it where it is not always sent.
INET_DIAG_INFO = 2
INET_DIAG_CONG = 4
INET_DIAG_SKMEMINFO = 7
INET_DIAG_SHUTDOWN = 8
INET_DIAG_SKV6ONLY = 11
INET_DIAG_PAD = 14
INET_DIAG_MARK = 15
INET_DIAG_MD5SIG = 18
INET_DIAG_CGROUP_ID = 21

# struct inet_diag_msg, offsets from the beginning of the netlink message
FAMILY = NLMSG_HDRLEN
STATE = NLMSG_HDRLEN + 1
TIMER = NLMSG_HDRLEN + 2
RETRANS = NLMSG_HDRLEN + 3
SPORT = NLMSG_HDRLEN + 4  # network byte order
DPORT = NLMSG_HDRLEN + 6  # network byte order
SRC = NLMSG_HDRLEN + 8  # 16 bytes, IPv4 in the first four
DST = NLMSG_HDRLEN + 24
IF = NLMSG_HDRLEN + 40
COOKIE = NLMSG_HDRLEN + 44  # two 32-bit words, the low one first
EXPIRES = NLMSG_HDRLEN + 52
RQUEUE = NLMSG_HDRLEN + 56
WQUEUE = NLMSG_HDRLEN + 60
UID = NLMSG_HDRLEN + 64
INODE = NLMSG_HDRLEN + 68
INET_DIAG_MSG_LEN = 72
ATTRIBUTES = NLMSG_HDRLEN + INET_DIAG_MSG_LEN

# state mask: bit n asks for state n; bit 13 for bound but unconnected sockets (Linux 6.8; older kernels ignore it)
ALL_STATES_MASK = 0x3FFF

_NLA_TYPE = Struct("=H")  # behind nla_len
_LIKE_MD5SIG = tuple(_NLA_TYPE.pack(INET_DIAG_MD5SIG) + bytes([family]) for family in (AF_INET, AF_INET6))

_REQ_V2 = Struct("=BBBBI48x")  # sdiag_family, sdiag_protocol, idiag_ext, pad, idiag_states, id
_REQ_V2_BEGIN = 8
_SOCKID = Struct("!HH16s16sI8s")  # struct inet_diag_sockid: ports, addresses, interface, cookie
NO_COOKIE = b"\xff" * 8  # INET_DIAG_NOCOOKIE
_REQ = Struct("=BBBB48xII")  # idiag_family, idiag_src_len, idiag_dst_len, idiag_ext, id, idiag_states, idiag_dbs


def build_tcp_dump(
    family: int | None, states: int = ALL_STATES_MASK, extensions: int = 0, bytecode: bytes = b"", sequence: int = 1
) -> bytes:
    """A request for all TCP sockets of `family` (AF_INET, AF_INET6, None: both in one walk) in the `states` mask.

    extensions: mask of ``1 << (INET_DIAG_* - 1)``, eight bits. bytecode: as `finwait.wire.diag_filter` makes it.
    """
    attributes = build_attribute(INET_DIAG_REQ_BYTECODE, bytecode) if bytecode else b""
    if family is None:
        payload = _REQ.pack(0, 0, 0, extensions, states, 0)
        return build_dump_request(TCPDIAG_GETSOCK, payload, attributes, sequence)
    payload = _REQ_V2.pack(family, IPPROTO_TCP, extensions, 0, states)
    return build_dump_request(SOCK_DIAG_BY_FAMILY, payload, attributes, sequence)


def build_tcp_lookup(
    family: int, local: tuple[bytes, int], peer: tuple[bytes, int], states: int = ALL_STATES_MASK, sequence: int = 1
) -> bytes:
    """A request for the one socket of these two ends, whatever its cookie: no walk. Addresses have 4 or 16 bytes.

    Where no connection has these ends, the kernel answers with the listener that would take it.
    """
    payload = _REQ_V2.pack(family, IPPROTO_TCP, 0, 0, states)[:_REQ_V2_BEGIN] + _SOCKID.pack(
        local[1], peer[1], local[0].ljust(16, b"\0"), peer[0].ljust(16, b"\0"), 0, NO_COOKIE
    )
    return build_message(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, payload, sequence)


def socket_messages(datagram: memoryview) -> bytes:
    """The sockets' messages of `datagram`, padding included, without the end and whatever else the kernel says.

    Raises ParseError where a message does not fit.
    """
    kinds = (SOCK_DIAG_BY_FAMILY, TCPDIAG_GETSOCK)
    spans = [(start - NLMSG_HDRLEN, align(end)) for kind, _, start, end in parse_messages(datagram) if kind in kinds]
    return b"".join(bytes(datagram[start:end]).ljust(end - start, b"\0") for start, end in spans)


def blank_keys(messages: bytes) -> bytes:
    """`messages` without the keys of TCP-MD5 (RFC 2385) and the peers that they are for: their attribute becomes padding.

    The kernel sends INET_DIAG_MD5SIG, keys and all, to whoever has CAP_NET_ADMIN, asked or not (net/ipv4/tcp_diag.c).
    Raises ParseError where a message does not fit.
    """
    if not any(likely in messages for likely in _LIKE_MD5SIG):
        return messages
    blanked = bytearray(messages)
    for _, _, start, end in parse_messages(messages):
        for nla_type, first, last in parse_attributes(messages, start + INET_DIAG_MSG_LEN, end):
            if nla_type == INET_DIAG_MD5SIG:
                blanked[first:last] = bytes(last - first)
                _NLA_TYPE.pack_into(blanked, first - NLA_HDRLEN + 2, INET_DIAG_PAD)
    return bytes(blanked)
