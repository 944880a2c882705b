"""A BPF ring buffer, read in bulk: mapped memory, no callback and no system call a record (Documentation/bpf/ringbuf.rst).

All records have one length, so that what is there is an array. NumPy makes one copy of it, or none, and the room is given back
to the kernel.
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
_LENGTH = "ring_length"  # of the record, with BUSY


def with_header(record: np.dtype[Any]) -> np.dtype[Any]:
    """How a record lies in a ring: behind its length."""
    fields = [(name, HEADER_BYTES + offset, kind) for name, (kind, offset, *_) in (record.fields or {}).items()]
    names, offsets, formats = zip((_LENGTH, 0, np.dtype(np.uint32)), *fields, strict=True)
    size = (HEADER_BYTES + record.itemsize + 7) // 8 * 8
    return np.dtype({"names": names, "offsets": offsets, "formats": formats, "itemsize": size})


def ring_bytes(wanted: int) -> int:
    """The size that the kernel takes for a ring of at least `wanted` bytes: a power of two, whole pages."""
    return max(1 << (wanted - 1).bit_length(), LEAST_BYTES)


class RingBuffer:
    """The ring behind map `descriptor` of `size` bytes, whose records are of type `record`. Close it; the map stays the
    object's. Raises SourceError.
    """  # fmt: skip

    def __init__(self, descriptor: int, size: int, record: np.dtype[Any]) -> None:
        self.size = size
        self.item = with_header(record)
        self._record = record
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

    def peek(self) -> Array:
        """The records that are there, in the order in which room was reserved for them, of type `item`: in the ring, where they
        lie until `release`."""  # fmt: skip
        begin, end = int(self._consumer[0]), int(self._producer[0])
        at, stride = begin % self.size, self.item.itemsize
        items = self._data[at : at + (end - begin) // stride * stride].view(self.item)
        unwritten = np.flatnonzero(items[_LENGTH] & np.uint32(BUSY))
        return items[: int(unwritten[0])] if len(unwritten) else items

    def release(self, count: int) -> None:
        """Give the room of the first `count` records back."""
        self._consumer[0] += np.uint64(count * self.item.itemsize)

    def drain(self) -> Array:
        """A copy of the records that are there; their room is given back."""
        items = self.peek()
        bytes_of = items.view(np.uint8).reshape(len(items), self.item.itemsize)
        records = bytes_of[:, HEADER_BYTES : HEADER_BYTES + self._record.itemsize].copy().view(self._record)[:, 0]
        self.release(len(items))
        return records

    def close(self) -> None:
        """Unmap it, when nobody has what `peek` returned any more: the traceback of an error may have it."""
        del self._consumer, self._producer, self._data
        del self._consumer_map, self._producer_map
