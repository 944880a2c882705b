"""A recording of changes told again: as it was told when it was made, or narrowed further, or summed up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from finwait.errors import FinwaitError, UsageError
from finwait.query.narrowing import is_exact
from finwait.sources.change_columns import totals_of
from finwait.sources.change_order import SETTLED_NS, InOrder
from finwait.sources.change_recording import ChangeRecording
from finwait.sources.change_records import CHANGES, COUNTS, LIFETIMES, take_records
from finwait.sources.change_sums import ChangeSums
from finwait.sources.input_file import wait
from finwait.table.batch import ROWS_PER_BATCH
from finwait.table.change import Loss, Ready, Summary
from finwait.table.snapshot import Provenance
from finwait.tracing import wanted_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from finwait.sources.input_file import Until
    from finwait.table.batch import Array, Batch
    from finwait.tracing import TraceQuestion


class Replay:
    """The changes of the recording at `path`, `most` of them at most. until: waits for a pipe, as `wait` does, and is asked
    before each block. Iterate once, as a `Trace`.

    Raises SourceError, ParseError, and UsageError where the question is of what was not recorded.
    """

    def __init__(
        self,
        question: TraceQuestion,
        path: str,
        *,
        most: int | None = None,
        until: Until = wait,
    ) -> None:
        self.question = question
        self.path = path
        self.most = most
        self.provenance = Provenance("recording")
        self.told = 0
        self.lost = 0
        self._until = until
        self._stopped = False

    def stop(self) -> None:
        """End behind the block that is read."""
        self._stopped = True

    def __iter__(self) -> Iterator[Ready | Batch | Loss | Summary]:
        with ChangeRecording(self.path, self._until) as recording:
            self._check(recording)
            self.provenance = recording.provenance
            yield Ready(self.provenance, recording.source)
            if self.question.tells == COUNTS:
                yield from self._sum(recording)
            else:
                yield from self._rows(recording)

    def _check(self, recording: ChangeRecording) -> None:
        if recording.tells == LIFETIMES and self.question.tells != LIFETIMES:
            raise UsageError("{path} has whole connections; --lifetimes reads it", path=recording.path)
        if recording.tells == CHANGES and self.question.tells == LIFETIMES:
            raise UsageError("{path} has single changes, no whole connections", path=recording.path)

    def _items(self, recording: ChangeRecording) -> Iterator[tuple[Array, int] | Loss]:
        narrowing = self.question.narrowing()
        for item in self._in_order(recording):
            if isinstance(item, Loss):
                self.lost += item.lost
                yield item
                continue
            records, clock_ns = item
            for begin in range(0, len(records), ROWS_PER_BATCH):
                part = records[begin : begin + ROWS_PER_BATCH]
                yield take_records(part, narrowing.accepts(part)), clock_ns

    def _in_order(self, recording: ChangeRecording) -> Iterator[tuple[Array, int] | Loss]:
        """What has happened, held as long as a trace holds it; all of what was read also where nothing more can be."""
        if recording.settled:
            yield from self._blocks(recording)
            return
        order, clock_ns, last_ns = InOrder(recording.tells), 0, 0
        nothing = np.zeros(0, dtype=recording.record)
        try:
            for item in self._blocks(recording):
                if isinstance(item, Loss):
                    yield item
                    continue
                records, clock_ns = item
                last_ns = max(last_ns, int(records["at_ns"].max(initial=0)))
                yield order.pass_through(records, last_ns - SETTLED_NS), clock_ns
        except (FinwaitError, KeyboardInterrupt):
            yield order.pass_through(nothing, None), clock_ns
            raise
        yield order.pass_through(nothing, None), clock_ns

    def _blocks(self, recording: ChangeRecording) -> Iterator[tuple[Array, int] | Loss]:
        for item in recording:
            yield item
            if self._stopped:
                return
            self._until(lambda: True)

    def _rows(self, recording: ChangeRecording) -> Iterator[Batch | Loss]:
        for item in self._items(recording):
            if isinstance(item, Loss):
                yield item
                continue
            records, clock_ns = item
            if not len(records):
                continue
            _, batch = wanted_rows(self.question, records, clock_ns, recording.provenance.netns, recording.names_of)
            if self.most is not None:
                batch = batch.head(self.most - self.told)
            self.told += batch.length
            if batch.length:
                yield batch
            if self.told == self.most:
                return

    def _sum(self, recording: ChangeRecording) -> Iterator[Summary | Loss]:
        sums, end_ns = ChangeSums(), 0
        is_whole = is_exact(self.question.wanted)
        try:
            for item in self._items(recording):
                if isinstance(item, Loss):
                    yield item
                    continue
                records, clock_ns = item
                if not is_whole:
                    records, _ = wanted_rows(
                        self.question, records, clock_ns, recording.provenance.netns, recording.names_of
                    )
                sums.add(records)
                self.told += len(records)
                if len(records):
                    end_ns = int(records["at_ns"].max()) + clock_ns
        except (FinwaitError, KeyboardInterrupt):  # what stands before it is told
            yield self._summary(sums, end_ns, recording.provenance)
            raise
        yield self._summary(sums, end_ns, recording.provenance)

    def _summary(self, sums: ChangeSums, end_ns: int, provenance: Provenance) -> Summary:
        """end_ns: the last change, where the recording does not tell its end."""
        if provenance.taken_to is not None:
            end_ns = round(provenance.taken_to * 1e9)
        begin_ns = round((provenance.taken_from or 0) * 1e9)
        totals = sums.totals()
        end_ns = max(end_ns, begin_ns)
        named = totals_of(totals, totals[:0], provenance.netns)
        return Summary(begin_ns, end_ns, (end_ns - begin_ns) / 1e9, named)
