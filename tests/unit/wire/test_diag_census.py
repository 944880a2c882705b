"""Counting straight from receive buffers: uniform and mixed, duplicates, ends, errors."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finwait.errors import ParseError
from finwait.tcp.state import TcpState
from finwait.wire.diag_census import DiagCensus
from tests.unit.wire.diag_messages import attribute, done, message

FULL = attribute(8, b"\0")


def census_of(*buffers: bytes) -> DiagCensus:
    census = DiagCensus()
    for buffer in buffers:
        census.add(memoryview(buffer), len(buffer))
    return census


def counted(census: DiagCensus) -> dict[int, int]:
    return {state: count for state, count in census.finish().items() if count}


def test_a_uniform_buffer_is_counted_by_state() -> None:
    states = [1, 6, 6, 8, 1, 1, 11]
    buffer = b"".join(message(cookie, state) for cookie, state in enumerate(states, 1))
    assert counted(census_of(buffer)) == {1: 3, 6: 2, 8: 1, 11: 1}


@given(st.lists(st.tuples(st.integers(1, 11), st.sampled_from([b"", FULL, FULL + FULL])), max_size=40))
def test_a_mixed_buffer_is_counted_like_a_uniform_one(rows: list[tuple[int, bytes]]) -> None:
    buffer = b"".join(message(cookie, state, attributes=more) for cookie, (state, more) in enumerate(rows, 1))
    wanted = {state: sum(one == state for one, _ in rows) for state in {one for one, _ in rows}}
    assert counted(census_of(buffer + done())) == wanted


def test_a_buffer_whose_strided_lengths_only_look_uniform_is_read_message_by_message() -> None:
    """Two messages of 88 and one of 176 bytes: every 88th byte may hold what a length holds."""
    inner = struct.pack("=IHHII", 88, 20, 2, 1, 0)
    long = message(2, 6, attributes=bytes(0) + attribute(99, bytes(84)))
    assert len(long) == 176
    disguised = long[:88] + inner + long[104:]
    assert counted(census_of(message(1, 1) + disguised + message(3, 1))) == {1: 2, 6: 1}


def test_the_end_and_its_errno_are_read() -> None:
    census = census_of(message(1) + done(errno=2))
    assert (census.done, census.errno) == (True, 2)


def test_an_interrupted_dump_is_noticed_in_uniform_and_in_mixed_buffers() -> None:
    assert census_of(message(1, flags=0x12) * 1).interrupted
    assert census_of(message(1) + message(2, flags=0x12, attributes=FULL)).interrupted
    assert census_of(done(flags=0x12)).interrupted


@pytest.mark.parametrize("more", [b"", FULL])
def test_a_socket_that_comes_again_in_the_next_buffer_is_counted_once(more: bytes) -> None:
    first = b"".join(message(cookie, 8) for cookie in range(1, 40))
    second = message(39, 8, attributes=more) + message(40, 8) + message(40, 8)
    census = census_of(first, second)
    assert (counted(census), census.duplicates) == ({8: 40}, 2)


def test_a_listener_is_known_however_long_ago_it_came() -> None:
    buffers = [b"".join(message(100 * at + row, TcpState.LISTEN) for row in range(1, 50)) for at in range(5)]
    census = census_of(*buffers, buffers[0])
    assert (counted(census), census.duplicates) == ({10: 245}, 49)


def test_cookies_that_differ_in_the_high_word_only_are_two_sockets() -> None:
    census = census_of(message(7, 1), message(7 | 1 << 32, 1))
    assert (counted(census), census.duplicates) == ({1: 2}, 0)


def test_a_message_that_does_not_fit_is_a_parse_error_with_its_offset() -> None:
    buffer = message(1) + message(2, attributes=FULL)
    with pytest.raises(ParseError) as caught:
        census_of(buffer[:-4])
    assert caught.value.offset == len(message(1))


@given(st.binary(max_size=400))
def test_any_bytes_are_counted_or_a_parse_error(buffer: bytes) -> None:
    try:
        census_of(buffer)
    except ParseError:
        pass


@given(st.integers(0, 1 << 30), st.lists(st.integers(1, 11), min_size=1, max_size=12))
def test_a_dump_cut_anywhere_or_with_a_bit_flipped_is_counted_or_a_parse_error(seed: int, states: list[int]) -> None:
    chosen = random.Random(seed)
    rows = (message(at, state, attributes=chosen.choice([b"", FULL])) for at, state in enumerate(states, 1))
    buffer = bytearray(b"".join(rows))
    buffer[chosen.randrange(len(buffer))] ^= 1 << chosen.randrange(8)
    for cut in (len(buffer), chosen.randrange(len(buffer))):
        try:
            census_of(bytes(buffer[:cut]))
        except ParseError:
            pass


class _Socket:
    """Stands for a netlink socket whose dump stops before its end."""

    def __init__(self, *datagrams: bytes) -> None:
        self.datagrams = list(datagrams)

    def send(self, request: bytes) -> int:
        return len(request)

    def recv_into(self, buffer: memoryview, size: int, flags: int) -> int:
        if not self.datagrams:
            raise BlockingIOError
        datagram = self.datagrams.pop(0)
        buffer[: len(datagram)] = datagram
        return len(datagram)


def test_a_dump_without_an_end_is_an_error_for_the_count_and_for_the_table() -> None:
    from finwait.errors import SourceError
    from finwait.sources.diag_table import read_batches
    from finwait.sources.sock_diag import walk_census
    from finwait.table.request import Request

    whole = (message(1) + done(),)
    assert counted(walk_census(_Socket(*whole), Request())) == {1: 1}  # type: ignore[arg-type]
    assert [len(batch) for batch in read_batches(_Socket(*whole), Request(), ("state",), {}, [])] == [1]  # type: ignore[arg-type]
    with pytest.raises(SourceError):
        walk_census(_Socket(message(1)), Request())  # type: ignore[arg-type]
    with pytest.raises(SourceError):
        list(read_batches(_Socket(message(1)), Request(), ("state",), {}, []))  # type: ignore[arg-type]
