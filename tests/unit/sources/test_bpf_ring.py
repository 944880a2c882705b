"""A ring of the kernel's, made of a file: the producer's page and the data behind it."""

from __future__ import annotations

import mmap
import os
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from finwait.errors import SourceError
from finwait.sources import bpf_ring
from finwait.sources.bpf_ring import BUSY, RingBuffer, ring_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = mmap.PAGESIZE
RECORD = np.dtype([("number", "u8"), ("small", "u4")])  # 12 bytes: 24 with their header, in the kernel's steps of 8
STRIDE = 24


class Ring:
    """The kernel's side. The data stands in the file twice: there it is mapped twice."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("ring")
        os.truncate(self.descriptor, 4 * PAGE)
        self.produced = 0

    def put(self, number: int, *, busy: bool = False) -> None:
        octets = struct.pack("<IIQI4x", 12 | (BUSY if busy else 0), 0, number, number * 3)
        for place, byte in enumerate(octets):
            at = (self.produced + place) % PAGE
            for copy in (2, 3):
                os.pwrite(self.descriptor, bytes([byte]), copy * PAGE + at)
        self.produced += STRIDE
        os.pwrite(self.descriptor, struct.pack("<Q", self.produced), PAGE)

    def write(self, at: int, number: int) -> None:
        """Finish the record that was begun at `at`."""
        self.produced, end = at, self.produced
        self.put(number)
        self.produced = end
        os.pwrite(self.descriptor, struct.pack("<Q", end), PAGE)

    @property
    def consumed(self) -> int:
        return int(struct.unpack("<Q", os.pread(self.descriptor, 8, 0))[0])


@pytest.fixture
def ring() -> Iterator[Ring]:
    one = Ring()
    yield one
    os.close(one.descriptor)


@pytest.fixture
def buffer(ring: Ring) -> Iterator[RingBuffer]:
    one = RingBuffer(ring.descriptor, PAGE, RECORD)
    yield one
    one.close()


def drained(buffer: RingBuffer) -> list[int]:
    records = buffer.drain()
    assert (records["small"] == records["number"] * 3).all()
    return [int(number) for number in records["number"]]


def test_records_are_read_once_and_their_room_is_given_back(ring: Ring, buffer: RingBuffer) -> None:
    assert drained(buffer) == []
    for number in range(5):
        ring.put(number)
    assert drained(buffer) == [0, 1, 2, 3, 4]
    assert ring.consumed == 5 * STRIDE
    assert drained(buffer) == []
    ring.put(5)
    assert drained(buffer) == [5]


def test_records_across_the_end_of_the_ring_are_whole(ring: Ring, buffer: RingBuffer) -> None:
    expected: list[int] = []
    found: list[int] = []
    for round_ in range(40):  # 4096 is no multiple of 24
        for number in range(round_ * 100, round_ * 100 + 31):
            ring.put(number)
            expected.append(number)
        found += drained(buffer)
    assert found == expected
    assert ring.consumed == ring.produced == 40 * 31 * STRIDE


def test_a_record_that_is_not_written_yet_is_waited_for_with_all_behind_it(ring: Ring, buffer: RingBuffer) -> None:
    ring.put(1)
    at = ring.produced
    ring.put(0, busy=True)
    ring.put(3)
    assert drained(buffer) == [1]
    assert drained(buffer) == []
    assert ring.consumed == STRIDE
    ring.write(at, 2)
    assert drained(buffer) == [2, 3]


def test_what_was_read_stays_when_the_ring_goes_on(ring: Ring, buffer: RingBuffer) -> None:
    ring.put(7)
    kept = buffer.drain()
    for number in range(200):
        ring.put(number)
    assert int(kept["number"][0]) == 7


def test_what_is_peeked_at_stays_in_the_ring_until_it_is_released(ring: Ring, buffer: RingBuffer) -> None:
    for number in range(3):
        ring.put(number)
    assert [int(number) for number in buffer.peek()["number"]] == [0, 1, 2]
    assert (buffer.peek()["small"] == buffer.peek()["number"] * 3).all()
    assert ring.consumed == 0
    buffer.release(2)
    assert ring.consumed == 2 * STRIDE
    assert drained(buffer) == [2]


@pytest.mark.parametrize(
    ("wanted", "given"),
    [(1, PAGE), (PAGE, PAGE), (PAGE + 1, 2 * PAGE), (1 << 20, 1 << 20), ((1 << 20) + 1, 1 << 21), (3 << 20, 4 << 20)],
)
def test_the_size_is_a_power_of_two_of_whole_pages(wanted: int, given: int) -> None:
    assert ring_bytes(wanted) == given


def test_what_cannot_be_mapped_is_said(tmp_path_factory: pytest.TempPathFactory) -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(SourceError, match="mmap of a ring buffer"):
            bpf_ring.RingBuffer(reading, PAGE, RECORD)
    finally:
        os.close(reading)
        os.close(writing)
