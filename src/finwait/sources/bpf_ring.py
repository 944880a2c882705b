"""A BPF ring buffer, read in bulk: mapped memory, no callback and no system call a record (Documentation/bpf/ringbuf.rst).

All records have one length, so that what is there is an array with a stride. NumPy makes one copy of it, and the room is given
back to the kernel.
"""

from __future__ import annotations

import mmap

import numpy as np

from finwait.errors import SourceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from finwait.table.batch import Array

HEADER_BYTES = 8  # BPF_RINGBUF_HDR_SZ
BUSY = 1 << 31  # BPF_RINGBUF_BUSY_BIT: reserved, not written yet
LEAST_BYTES = mmap.PAGESIZE


def ring_bytes(wanted: int) -> int:
    """The size that the kernel takes for a ring of at least `wanted` bytes: a power of two, whole pages."""
    return max(1 << (wanted - 1).bit_length(), LEAST_BYTES)


class RingBuffer:
    """The ring behind map `descriptor` of `size` bytes, whose records are of type `record`. Close it; the map stays the
    object's. Raises SourceError.
    """  # fmt: skip

    def __init__(self, descriptor: int, size: int, record: np.dtype[Any]) -> None:
        self.size = size
        self._record = record
        self._stride = (HEADER_BYTES + record.itemsize + 7) // 8 * 8
        page = mmap.PAGESIZE
        try:
            self._consumer_map = mmap.mmap(descriptor, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            self._producer_map = mmap.mmap(descriptor, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        except (OSError, ValueError) as error:
            raise SourceError(
                "BPF failed ({request}: {reason})", request="mmap of a ring buffer", reason=error
            ) from error
        self._consumer = np.frombuffer(self._consumer_map, dtype=np.uint64, count=1)
        self._producer = np.frombuffer(self._producer_map, dtype=np.uint64, count=1)
        self._data = np.frombuffer(
            self._producer_map, dtype=np.uint8, offset=page
        )  # the data twice, one behind the other

    def drain(self) -> Array:
        """A copy of the records that are there, in the order in which room was reserved for them."""
        stride = self._stride
        begin, end = int(self._consumer[0]), int(self._producer[0])
        at, count = begin % self.size, (end - begin) // stride
        items = self._data[at : at + count * stride].reshape(count, stride)
        lengths = np.ascontiguousarray(items[:, :4]).view(np.uint32)[:, 0]
        unwritten = np.flatnonzero(lengths & np.uint32(BUSY))
        if len(unwritten):
            items = items[: int(unwritten[0])]
        records = items[:, HEADER_BYTES : HEADER_BYTES + self._record.itemsize].copy().view(self._record)[:, 0]
        self._consumer[0] = begin + len(items) * stride
        return records

    def close(self) -> None:
        """Unmap it."""
        del self._consumer, self._producer, self._data
        self._consumer_map.close()
        self._producer_map.close()
