"""A dump of TCP sockets as batches of columns, streamed: memory does not grow with the number of sockets."""

from __future__ import annotations

import numpy as np

from finwait.errors import SourceError
from finwait.sources.diag_columns import DiagBuffer, decode_buffer
from finwait.sources.sock_diag import (
    ATTEMPTS,
    END_MISSING,
    raise_for_errno,
    receive_into,
    send_request,
    walk_notice,
)  # fmt: skip
from finwait.tcp.state import TcpState
from finwait.wire.inet_diag import build_tcp_dump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from finwait.table.batch import Array, Batch
    from finwait.table.request import Request
    from finwait.table.snapshot import Notice

    Sink = Callable[[memoryview], None]
    Fill = Callable[[memoryview], tuple[int, bool]]

BATCH_BYTES = 2 << 20  # some 17,000 sockets a batch without extensions; 88 bytes at least a socket keep it below 65,536
RECEIVE_BYTES = 1 << 16
COOKIES_KEPT = 1_000  # of the batch before: duplicates come within a few rows


class DuplicateFilter:
    """Takes out sockets that a walk shows again: each cookie once, the first of two stays. duplicates: how many."""

    __slots__ = ("_standing", "_tail", "duplicates")

    def __init__(self) -> None:
        self.duplicates = 0
        self._standing: set[int] = set()  # cookies of listeners and bound sockets, whose buckets may be long
        self._tail: Array = np.zeros(0, dtype=np.uint64)

    def pass_through(self, batch: Batch) -> Batch:
        """The rows of `batch` (with cookie and state) whose cookie did not come before: neither earlier in it, nor at the
        end of the batch before, nor, for listeners and bound sockets, in any.
        """  # fmt: skip
        cookies: Array = batch.column("cookie").values
        standing = set(cookies[np.isin(batch.column("state").values, (TcpState.LISTEN, TcpState.CLOSE))].tolist())
        tail, self._tail = self._tail, cookies[-COOKIES_KEPT:]
        known = set(cookies.tolist())
        again_standing = standing & self._standing
        self._standing |= standing
        if len(known) == len(cookies) and known.isdisjoint(tail.tolist()) and not again_standing:
            return batch
        keep = ~np.isin(cookies, np.asarray([*tail.tolist(), *again_standing], dtype=np.uint64))
        ordered = np.argsort(cookies, kind="stable")
        again = cookies[ordered][1:] == cookies[ordered][:-1]
        keep[ordered[1:][again]] = False
        self.duplicates += int(len(keep) - keep.sum())
        return batch.take(keep)


class DiagWalk:
    """One dump: iterate over it once. `notice` tells about it when it has ended."""

    def __init__(
        self,
        diag: socket,
        request: Request,
        wanted: Sequence[str],
        interface_names: Mapping[int, str],
        sink: Sink | None = None,
    ) -> None:
        self.interrupted = False
        self._seen = DuplicateFilter()
        self._diag = diag
        self._request = request
        self._wanted = wanted
        self._interface_names = interface_names
        self._sink = sink

    def __iter__(self) -> Iterator[Batch]:
        request = self._request
        send_request(self._diag, build_tcp_dump(request.family, request.states, request.extensions, request.bytecode))
        buffer = memoryview(bytearray(BATCH_BYTES))
        length, ended = self._fill(buffer)
        done, batch = self._decode(buffer, length)
        yield from batch
        if done:
            return
        if ended:
            raise SourceError(END_MISSING)
        for filled, filled_length in _fill_ahead(self._fill, buffer):
            done, batch = self._decode(filled, filled_length)
            yield from batch
            if done:
                return
        raise SourceError(END_MISSING)

    def _fill(self, buffer: memoryview) -> tuple[int, bool]:
        """Receive until `buffer` is nearly full or nothing more comes: (bytes, whether nothing more comes)."""
        length = 0
        while length + RECEIVE_BYTES <= len(buffer):
            received = receive_into(self._diag, buffer[length:])
            if not received:
                return length, True
            if self._sink is not None:
                self._sink(buffer[length : length + received])
            length += received
        return length, False

    def _decode(self, buffer: memoryview, length: int) -> tuple[bool, list[Batch]]:
        """Whether the dump's end stands in `buffer`, and its sockets. Raises what the kernel refused."""
        parsed = DiagBuffer(buffer, length)
        self.interrupted |= parsed.interrupted
        raise_for_errno(parsed.errno)
        if not len(parsed.offsets):
            return parsed.done, []
        batch = decode_buffer(buffer[:length], parsed, self._wanted, self._interface_names)
        return parsed.done, [self._seen.pass_through(batch)]

    def notice(self) -> Notice | None:
        """What to tell about the walk when it has ended."""
        return walk_notice(self._seen.duplicates, interrupted=self.interrupted)


def _fill_ahead(fill: Fill, spare: memoryview) -> Iterator[tuple[memoryview, int]]:
    """Buffers as a thread fills them, one ahead of the reader; the kernel walks while rows are decoded and written.

    A buffer is the reader's until it asks for the next one. Whatever `fill` raises is raised here.
    """
    from queue import SimpleQueue
    from threading import Thread

    free: SimpleQueue[memoryview | None] = SimpleQueue()
    filled: SimpleQueue[tuple[memoryview, int] | BaseException | None] = SimpleQueue()
    free.put(spare)
    free.put(memoryview(bytearray(len(spare))))

    def work() -> None:
        try:
            while (buffer := free.get()) is not None:
                length, ended = fill(buffer)
                if length:
                    filled.put((buffer, length))
                if ended:
                    break
            filled.put(None)
        except BaseException as error:  # noqa: BLE001 - carried to the reader's thread
            filled.put(error)

    thread = Thread(target=work, name="finwait-walk")
    thread.start()
    try:
        while (item := filled.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
            free.put(item[0])
    finally:
        free.put(None)
        thread.join()


def read_batches(
    diag: socket,
    request: Request,
    wanted: Sequence[str],
    interface_names: Mapping[int, str],
    notices: list[Notice],
    sink: Sink | None = None,
) -> Iterator[Batch]:
    """The sockets of the namespace of `diag`, as `request` narrows them.

    An inconsistent walk is repeated while nothing has been yielded, that is while it fits in one batch; what remains is
    told in `notices` after the last batch.
    """
    for attempt in range(ATTEMPTS):
        walk = DiagWalk(diag, request, wanted, interface_names, sink)
        batches = iter(walk)
        first = next(batches, None)
        second = next(batches, None) if first is not None else None
        notice = walk.notice()
        if notice is None or second is not None or attempt == ATTEMPTS - 1 or sink is not None:
            break
    yield from (batch for batch in (first, second) if batch is not None)
    yield from batches
    notice = walk.notice()
    if notice is not None:
        notices.append(notice)
