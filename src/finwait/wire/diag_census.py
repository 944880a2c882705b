"""Counting states straight from receive buffers of a TCP dump: no record, no NumPy, constant memory.

A buffer in which every message has one length is a matrix: `buffer[STATE::length]` is its column of states. A mixed
buffer is read message by message. Both find duplicates: a walk that resumes inside a hash bucket may show a socket again,
and the kernel does not say so. Buckets of connections are short, so each buffer is compared with itself and the one before;
all listeners of a port, and all sockets bound to it, stand in one bucket of any length, so their cookies are all kept.
"""

from __future__ import annotations

from struct import Struct

from finwait.errors import ParseError
from finwait.tcp.state import TcpState
from finwait.wire.inet_diag import ATTRIBUTES, COOKIE, STATE, TCPDIAG_GETSOCK
from finwait.wire.netlink import (
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSGHDR,
    TRUNCATED,
    align,
    excerpt_of,
    parse_errno,
)

_COOKIE_WORD = COOKIE // 4
_ROW = Struct(f"=IHH{STATE - 8}xB{COOKIE - STATE - 1}xI")  # nlmsg_len, nlmsg_type, nlmsg_flags, state, low cookie word
_STANDING = frozenset({TcpState.LISTEN, TcpState.CLOSE})


class DiagCensus:
    """Counts one dump, buffer by buffer.

    counts: number of sockets by the kernel's state number (16 of them). duplicates: sockets that came twice (counted
    once). done: the end of the dump was read; errno: what it said (0 for none). interrupted: NLM_F_DUMP_INTR was seen.
    """

    __slots__ = (
        "_before",
        "_cookies_before",
        "_standing",
        "_states",
        "counts",
        "done",
        "duplicates",
        "errno",
        "interrupted",
    )

    def __init__(self) -> None:
        self.counts = [0] * 16
        self.duplicates = 0
        self.done = False
        self.errno = 0
        self.interrupted = False
        self._states = bytearray()
        self._before: memoryview | None = None
        self._cookies_before: set[int] = set()
        self._standing: set[int] = set()  # cookies of listeners and bound sockets

    def add(self, buffer: memoryview, length: int) -> None:
        """Count the messages in ``buffer[:length]`` (cast to bytes, aligned to four bytes at least).

        The buffer must stay unchanged until the call after the next: duplicates are looked up in it.
        Raises ParseError where a message does not fit or is shorter than struct inet_diag_msg.
        """
        if length % 4:
            raise ParseError(TRUNCATED, offset=length & ~3, excerpt=excerpt_of(buffer, length & ~3), length=length % 4)
        words = buffer[:length].cast("I")
        found = self._read_uniform(bytes(buffer[:length]), words)
        states, cookies = self._read_mixed(buffer, length) if found is None else found
        self._states += states
        fresh = set(cookies)
        stands = TcpState.LISTEN in states or TcpState.CLOSE in states
        if stands or len(fresh) != len(cookies) or not fresh.isdisjoint(self._cookies_before):
            self._take_out_duplicates(buffer[:length])
        self._cookies_before = fresh
        self._before = buffer[:length]
        if len(self._states) > 0xFFFF:
            self._sum()

    def finish(self) -> dict[int, int]:
        """The counts by state number, all that were added."""
        self._sum()
        return dict(enumerate(self.counts))

    def _sum(self) -> None:
        for state in set(self._states):
            self.counts[state & 15] += self._states.count(state)
        self._states.clear()

    def _read_uniform(self, data: bytes, words: memoryview) -> tuple[bytes, list[int]] | None:
        """States and low cookie words, if all messages have the first one's length and header; None if not."""
        length = len(data)
        step = words[0] if length >= ATTRIBUTES else 0
        if step < ATTRIBUTES or step % 4 or length % step:
            return None
        rows = length // step
        header = words[1]  # nlmsg_type and nlmsg_flags
        if header & 0xFFFF < TCPDIAG_GETSOCK or header >> 16 & NLM_F_DUMP_INTR:
            return None
        if any(data[at::step].count(data[at]) != rows for at in range(8)):
            return None
        return data[STATE::step], words[_COOKIE_WORD :: step // 4].tolist()

    def _read_mixed(self, buffer: memoryview, length: int) -> tuple[bytearray, list[int]]:
        """The same message by message, and what is no socket: the end, an error."""
        cookies: list[int] = []
        states = bytearray()
        read, add_state, add_cookie = _ROW.unpack_from, states.append, cookies.append
        at = 0
        while length - at >= ATTRIBUTES:
            size, kind, flags, state, cookie = read(buffer, at)
            if kind < TCPDIAG_GETSOCK or size < ATTRIBUTES or size > length - at or flags & NLM_F_DUMP_INTR:
                at += self._read_control(buffer, at, length)
                if kind < TCPDIAG_GETSOCK:
                    continue
            else:
                at += (size + 3) & ~3
            add_state(state)
            add_cookie(cookie)
        while at < length:
            at += self._read_control(buffer, at, length)
        return states, cookies

    def _read_control(self, buffer: memoryview, at: int, end: int) -> int:
        """Note what a message that is no plain row says; its length with padding. Raises ParseError."""
        if end - at < NLMSGHDR.size:
            raise ParseError(TRUNCATED, offset=at, excerpt=excerpt_of(buffer, at), length=end - at)
        size, kind, flags, _, _ = NLMSGHDR.unpack_from(buffer, at)
        least = ATTRIBUTES if kind >= TCPDIAG_GETSOCK else NLMSGHDR.size
        if size < least or size > end - at:
            raise ParseError(TRUNCATED, offset=at, excerpt=excerpt_of(buffer, at), length=size)
        if kind in {NLMSG_DONE, NLMSG_ERROR}:
            self.done = True
            self.errno = parse_errno(buffer, at + NLMSGHDR.size, at + size)
        if flags & NLM_F_DUMP_INTR:
            self.interrupted = True
        return align(size)

    def _take_out_duplicates(self, buffer: memoryview) -> None:
        """Uncount sockets of `buffer` whose whole cookie came before; keep those of listeners and bound sockets."""
        seen = set() if self._before is None else {cookie for cookie, _ in _cookies_and_states(self._before)}
        standing = self._standing
        for cookie, state in _cookies_and_states(buffer):
            if cookie in seen or cookie in standing:
                self.duplicates += 1
                self.counts[state & 15] -= 1
            elif state in _STANDING:
                standing.add(cookie)
            seen.add(cookie)


def _cookies_and_states(buffer: memoryview) -> list[tuple[int, int]]:
    words = buffer.cast("I")
    found = []
    at = 0
    while at < len(buffer):
        word = at >> 2
        if words[word + 1] & 0xFFFF >= TCPDIAG_GETSOCK:
            found.append((words[word + _COOKIE_WORD] | words[word + _COOKIE_WORD + 1] << 32, buffer[at + STATE]))
        at += (words[word] + 3) & ~3
    return found
