"""Connections followed through their states: a question put to the tracer in the kernel, its changes joined, checked, ordered.

A `Trace` yields one Ready, then batches of changes and losses as they come. What came late is put in its place by time, within
what is read at once.
"""

from __future__ import annotations

import os
import time
from contextlib import closing
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from finwait.errors import NotPermitted, NotSupported, SourceError, UsageError
from finwait.query.evaluate import accepted_rows
from finwait.query.expression import Filter
from finwait.query.narrowing import accepted_changes, check_testable, is_exact, port_range, state_mask
from finwait.sources.bpf_ring import HEADER_BYTES
from finwait.sources.change_columns import batch_of, lifetimes_of, totals_of
from finwait.sources.change_narrowing import Narrowing
from finwait.sources.change_order import SETTLED_NS, InOrder
from finwait.sources.change_records import CHANGES, COUNTS, LIFETIMES, take_records
from finwait.sources.choice import may_load_bpf
from finwait.sources.tcp_events import BY_LISTENER, BY_PROCESS, RING_BYTES, TOGETHER, TcpEvents
from finwait.table.batch import ROWS_PER_BATCH, Batch
from finwait.table.change import Loss, Ready, Summary, changes_of
from finwait.table.snapshot import Notice, Provenance
from finwait.tcp.state import ALL_STATES
from finwait.text.messages import mark

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Protocol

    from finwait.sources.change_recording import ChangeRecorder
    from finwait.table.batch import Array
    from finwait.table.change import StateChange
    from finwait.table.request import Request
    from finwait.table.snapshot import Netns

    class Events(Protocol):
        """Who tells changes: TcpEvents by BPF, DiagEvents without. Both begin when they are made."""

        source: str
        netns: list[Netns]

        def drain(self, want: int, *, last: bool = False) -> Array:
            """What was told since the last time: an array of records (`finwait.sources.change_records`). last: it does not wait
            any more with what it looks up now and then.
            """  # fmt: skip

        def totals(self) -> Array:
            """What was counted since the begin: an array of TOTALS."""

        def names(self, tgids: Iterable[int]) -> Mapping[int, str]:
            """The names of those of the processes that are known."""

        def lost(self) -> int:
            """How many changes were lost since the begin."""

        def close(self) -> None:
            """End."""

    class Telling(Protocol):
        """A Trace, or a recording that is told again."""

        provenance: Provenance

        def stop(self) -> None:
            """Read what is there and end."""

        def __iter__(self) -> Iterator[Ready | Batch | Loss | Summary]:
            """Ready, then what comes."""


PAUSE_S = 0.05  # between two looks at the ring
# What comes faster than eyes can follow is read in larger pieces, which costs less; if half the ring is not filled meanwhile.
MANY, LONG_PAUSE_S = 1_000, 0.2
CLOCK_SET_NS = 10_000_000  # more than clocks drift apart while a trace runs: somebody has set the time of day
WITHOUT_BPF = mark("BPF could not be used ({reason}); sock_diag is asked again and again instead")
_MEMBERS = {None: TOGETHER, "listener": BY_LISTENER, "process": BY_PROCESS}


class TraceQuestion:
    """What is asked. request: where. wanted: which changes. least_us: time in the state that is left (of whole lives: from
    begin to end). owners: whether to learn who has the sockets. ring_bytes: for what was not read yet. tells: CHANGES one by
    one, LIFETIMES (a connection at its end) or COUNTS (summaries, at the end and every `every_s`). source: bpf, sock_diag, or
    auto: sock_diag where BPF cannot be had. by: how COUNTS are apart in a namespace, listener or process; BPF only.
    is_recorded: not the kernel is asked, so that every filter can be tested.

    Raises UsageError for a filter of what a change does not tell, or what is counted in the kernel cannot be tested by.
    """

    __slots__ = ("by", "every_s", "least_us", "owners", "request", "ring_bytes", "source", "tells", "wanted")

    def __init__(
        self,
        request: Request,
        wanted: Filter | None = None,
        *,
        least_us: int = 0,
        owners: bool = True,
        ring_bytes: int | None = None,
        tells: int = CHANGES,
        every_s: float | None = None,
        source: str = "auto",
        by: str | None = None,
        is_recorded: bool = False,
    ) -> None:
        if by is not None and source == "sock_diag":
            raise UsageError(
                "sums by {by} are counted by BPF only: they do not go with --source {source}", by=by, source=source
            )
        self.request = request
        self.by = by
        self.wanted = wanted or Filter()
        check_testable(self.wanted)
        if tells == COUNTS and not is_recorded and not is_exact(self.wanted):
            raise UsageError(
                "what is counted in the kernel can be chosen by family, ports and states only: {text}",
                text=self.wanted.text,
            )
        if not owners and not {"process", "pid"}.isdisjoint(self.wanted.column_names()):
            raise UsageError("a filter by process or pid does not go with --no-owners")
        self.least_us = least_us
        self.owners = owners
        self.ring_bytes = RING_BYTES if ring_bytes is None else ring_bytes
        self.tells = tells
        self.every_s = every_s
        self.source = source

    def narrowing(self) -> Narrowing:
        """What the kernel checks of it. Of whole lives it does not check states."""
        family = self.request.family if self.request.family is not None else self.wanted.family
        return Narrowing(
            family=family,
            states=state_mask(self.wanted),
            local_ports=port_range(self.wanted, "local"),
            peer_ports=port_range(self.wanted, "peer"),
            least_ns=self.least_us * 1000,
        )


def open_events(question: TraceQuestion, notices: list[Notice]) -> Events:
    """Who tells what `question` asks, begun. Raises NotSupported, NotPermitted, SourceError."""
    insists = question.source == "bpf" or question.by is not None
    if question.source != "sock_diag" and (insists or may_load_bpf()):
        try:
            return TcpEvents(
                question.tells,
                question.request,
                question.narrowing(),
                notices,
                owners=question.owners,
                ring=question.ring_bytes,
                members=_MEMBERS[question.by],
            )
        except (NotSupported, NotPermitted, SourceError) as error:
            if insists:
                raise
            notices.append(Notice("bpf_fallback", WITHOUT_BPF, incomplete=False, arguments={"reason": error}))
    from finwait.sources.diag_events import DiagEvents

    return DiagEvents(question.tells, question.request, question.narrowing(), notices, owners=question.owners)


def wanted_rows(
    question: TraceQuestion,
    records: Array,
    clock_ns: int,
    netns: Sequence[Netns],
    names_of: Callable[[Iterable[int]], Mapping[int, str]],
) -> tuple[Array, Batch]:
    """Those of `records` that the whole filter accepts, and the same as a batch."""
    wanted = question.wanted
    if question.tells != LIFETIMES:
        batch = batch_of(records, clock_ns, netns, names_of)
        accepted = accepted_changes(wanted, batch)
    else:
        numbers = [int(state) for state in wanted.states]
        batch = lifetimes_of(records, clock_ns, netns, names_of)
        accepted = accepted_rows(Filter(ALL_STATES, wanted.expression, wanted.family), batch)
        accepted &= np.isin(records["states"], numbers).any(axis=1) | np.isin(records["to"], numbers)
    return take_records(records, accepted), batch.take(accepted)


class Trace:
    """What happens from now on, until `stop`, for `for_s` seconds, or until it was `most` changes. sleep: waits that many
    seconds. recorder: keeps them too. yields_rows: whether they are wanted beside the recording.

    Iterate once: Ready, then batches, losses and summaries. The programs are attached while it is iterated; `provenance` tells
    what it lacks, `told` how many changes it were so far, `lost` how many were lost.
    """

    def __init__(
        self,
        question: TraceQuestion,
        *,
        for_s: float | None = None,
        most: int | None = None,
        recorder: ChangeRecorder | None = None,
        yields_rows: bool = True,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.question = question
        self.for_s = for_s
        self.most = most
        self.provenance = Provenance("bpf", host=os.uname().nodename)
        self.told = 0
        self.lost = 0
        self._recorder = recorder
        self._is_exact = question.tells == CHANGES and is_exact(question.wanted)
        self._yields_rows = yields_rows
        self._sleep = sleep
        self._stopped = False
        self._clock_ns = 0
        self._pause_s = PAUSE_S
        self._order = InOrder(question.tells)

    def stop(self) -> None:
        """Read what is there and end."""
        self._stopped = True

    def __iter__(self) -> Iterator[Ready | Batch | Loss | Summary]:
        question, provenance = self.question, self.provenance
        with closing(open_events(question, provenance.notices)) as events:
            provenance.source, provenance.netns = events.source, events.netns
            provenance.taken_from = time.time()
            begin = _Sums(events) if question.tells == COUNTS else None  # before anybody is told that it begins
            try:
                yield Ready(provenance, events.source)
                yield from self._rows(events) if begin is None else self._summaries(events, begin)
            finally:
                provenance.taken_to = time.time()
                if self._recorder is not None:
                    self._recorder.finish(provenance)

    def _looks(self) -> Iterator[bool]:
        """After each pause (`_pause_s`) whether it was the last one."""
        deadline = None if self.for_s is None else time.monotonic() + self.for_s
        while True:
            left = self._pause_s if deadline is None else max(deadline - time.monotonic(), 0)
            try:
                self._sleep(min(self._pause_s, left))
            except KeyboardInterrupt:  # what is there is told before the end
                yield True
                raise
            last = self._stopped or (deadline is not None and time.monotonic() >= deadline)
            yield last
            if last:
                return

    def _losses(self, events: Events) -> Iterator[Loss]:
        lost = events.lost()
        if lost > self.lost:
            loss = Loss(time.time_ns(), lost - self.lost)
            self.lost = lost
            if self._recorder is not None:
                self._recorder.lose(loss)
            yield loss

    # -- rows

    def _rows(self, events: Events) -> Iterator[Batch | Loss]:
        if self._recorder is not None:
            if isinstance(events, TcpEvents) and events.is_chosen_by_kernel and self._is_for_later():
                yield from self._keep_as_told(events, self._recorder)
                return
            first = events.drain(self.question.tells)
            self._order.pass_through(first, 0)  # told with the next ones
            self._recorder.begin(self.provenance, self.question.tells, self.question.wanted.text, first.dtype)
        for last in self._looks():
            began_ns = self._tell_time()
            records = events.drain(self.question.tells, last=last)
            if events.source == "bpf":
                self._pause_s = self._next_pause(len(records), records.dtype.itemsize + HEADER_BYTES)
            yield from self._losses(events)
            records = self._order.pass_through(records, None if last else began_ns - SETTLED_NS)
            for begin in range(0, len(records), ROWS_PER_BATCH):
                batch = self._tell(events, records[begin : begin + ROWS_PER_BATCH])
                if batch is not None and batch.length:
                    yield batch
                if self.told == self.most:
                    return

    def _is_for_later(self) -> bool:
        """Whether nobody looks at the rows now, and all that the kernel tells is wanted. (The reader of a pipe wants them at
        once, and without those that are taken back.)
        """  # fmt: skip
        is_kept_only = self._recorder is not None and self._recorder.is_regular and not self._yields_rows
        return is_kept_only and self._is_exact and self.most is None

    def _keep_as_told(self, events: TcpEvents, recorder: ChangeRecorder) -> Iterator[Loss]:
        """From the ring to the file; whoever reads it puts the changes in order."""
        question = self.question
        recorder.begin(
            self.provenance, question.tells, question.wanted.text, events.peek(question.tells).dtype, settled=False
        )
        for last in self._looks():
            self._tell_time()
            records = events.peek(question.tells, last=last)
            self._pause_s = self._next_pause(len(records), records.dtype.itemsize)
            yield from self._losses(events)
            for begin in range(0, len(records), ROWS_PER_BATCH):
                part = records[begin : begin + ROWS_PER_BATCH]
                recorder.add(part, self._clock_ns, events.names)
                events.release(question.tells, len(part))
                self.told = recorder.kept

    def _next_pause(self, count: int, record_bytes: int) -> float:
        """Behind `count` records, that came in the last one."""
        rate = count / self._pause_s
        most = self.question.ring_bytes / (2 * record_bytes) / LONG_PAUSE_S
        return LONG_PAUSE_S if MANY / PAUSE_S <= rate <= most else PAUSE_S

    def _tell(self, events: Events, records: Array) -> Batch | None:
        """Keep those of `records` that are wanted; they are a batch where that is wanted, or had to be made."""
        if not len(records):
            return None
        batch = None
        if self._yields_rows or not self._is_exact:
            records, batch = wanted_rows(self.question, records, self._clock_ns, events.netns, events.names)
        if self.most is not None:
            left = self.most - self.told
            records, batch = records[:left], batch and batch.head(left)
        self.told += len(records)
        if self._recorder is not None and len(records):
            self._recorder.add(records, self._clock_ns, events.names)
        return batch if self._yields_rows else None

    def _tell_time(self) -> int:
        """CLOCK_MONOTONIC now. What it lacks to the time of day stays the same, so that times keep their order, unless that
        is set.
        """  # fmt: skip
        now_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        lacks_ns = time.time_ns() - now_ns
        if abs(lacks_ns - self._clock_ns) > CLOCK_SET_NS:
            self._clock_ns = lacks_ns
        return now_ns

    # -- sums

    def _summaries(self, events: Events, before: _Sums) -> Iterator[Summary | Loss]:
        every_s, by = self.question.every_s, self.question.by
        has_to_look = events.source != "bpf"  # or nothing is counted between two summaries
        due_s = time.monotonic() + (every_s or 0.0)
        self._pause_s = PAUSE_S if has_to_look or every_s is None else every_s
        for last in self._looks():
            if has_to_look:
                events.drain(COUNTS, last=last)
            if not last and (every_s is None or time.monotonic() < due_s):
                continue
            due_s += every_s or 0.0
            yield from self._losses(events)
            now = _Sums(events)
            totals = totals_of(now.totals, before.totals, events.netns, by, events.names)
            yield Summary(before.at_ns, now.at_ns, now.clock_s - before.clock_s, totals)
            before = now


class _Sums:
    """What was counted until a moment."""

    def __init__(self, events: Events) -> None:
        self.totals = events.totals()
        self.at_ns = time.time_ns()
        self.clock_s = time.monotonic()


class Changes:
    """The changes of a trace one by one, as `finwait.trace` gives them: a StateChange each, and a Loss where some were lost.

    An iterator and an asynchronous one; closing it detaches everything, so does the end of a ``with`` block. Everything is
    attached when it has been made: what happens from then on is told. `provenance` says what it lacks.
    """

    def __init__(self, trace: Telling) -> None:
        self._trace = trace
        self._items = iter(trace)
        next(self._items)  # Ready
        self._reading = Lock()
        self._pending: Future[StateChange | Loss | None] | None = None
        self._rows: Iterator[StateChange | Loss] = self._flat()

    @property
    def provenance(self) -> Provenance:
        """Where the changes come from, and what they lack."""
        return self._trace.provenance

    def _flat(self) -> Iterator[StateChange | Loss]:
        for item in self._items:
            if isinstance(item, Loss):
                yield item
            elif isinstance(item, Batch):
                yield from changes_of(item)

    def __iter__(self) -> Changes:
        return self

    def _read(self) -> StateChange | Loss | None:
        with self._reading:
            return next(self._rows, None)

    def __next__(self) -> StateChange | Loss:
        found = self._read()
        if found is None:
            raise StopIteration
        return found

    def __aiter__(self) -> Changes:
        return self

    async def __anext__(self) -> StateChange | Loss:
        """The next one; a thread waits for it, the event loop goes on. If nobody waits any more, the next call has it."""
        import asyncio

        if self._pending is None:
            self._pending = asyncio.ensure_future(asyncio.to_thread(self._read))
        found = await asyncio.shield(self._pending)
        self._pending = None
        if found is None:
            raise StopAsyncIteration
        return found

    def close(self) -> None:
        """Detach everything."""
        self._trace.stop()
        with self._reading:  # a thread that waits for a change looks up 50 ms later at most
            self._items.close()  # type: ignore[attr-defined]

    def __enter__(self) -> Changes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
