"""Connections followed through their states: a question put to the tracer in the kernel, its changes joined, checked, ordered.

A `Trace` yields one Ready, then batches of changes and losses as they come. What came late is put in its place by time, within
what is read at once.
"""

from __future__ import annotations

import os
import time
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np

from finwait.errors import NotPermitted, NotSupported, SourceError, UsageError
from finwait.query.evaluate import accepted_rows
from finwait.query.expression import Filter
from finwait.query.narrowing import accepted_changes, check_testable, is_exact, port_range, state_mask
from finwait.sources.change_columns import batch_of, lifetimes_of, totals_of
from finwait.sources.change_records import CHANGE, CHANGES, COUNTS
from finwait.sources.choice import may_load_bpf
from finwait.sources.tcp_events import BY_LISTENER, BY_PROCESS, RING_BYTES, TOGETHER, Narrowing, TcpEvents
from finwait.table.batch import Batch
from finwait.table.change import Loss, Ready, Summary, changes_of
from finwait.table.snapshot import Notice, Provenance
from finwait.tcp.state import ALL_STATES, TcpState
from finwait.text.messages import mark
from finwait.wire.bpf_layouts import ENUMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Protocol

    from finwait.table.batch import Array
    from finwait.table.change import StateChange
    from finwait.table.request import Request
    from finwait.table.snapshot import Netns

    class Events(Protocol):
        """Who tells changes: TcpEvents by BPF, DiagEvents without. Both begin when they are made."""

        source: str
        netns: list[Netns]

        def drain(self, want: int) -> Array:
            """What was told since the last time: an array of records (`finwait.sources.change_records`)."""

        def totals(self) -> Array:
            """What was counted since the begin: an array of TOTALS."""

        def names(self, tgids: Iterable[int]) -> Mapping[int, str]:
            """The names of those of the processes that are known."""

        def lost(self) -> int:
            """How many changes were lost since the begin."""

        def close(self) -> None:
            """End."""


PAUSE_S = 0.05  # between two looks at the ring
SETTLED_NS = 20_000_000  # rows are held for so long: what is told late, or taken back, is told by then
CLOCK_SET_NS = 10_000_000  # more than clocks drift apart while a trace runs: somebody has set the time of day
GONE, BACK, REUSED, IN_CALL = (ENUMS[f"FINWAIT_{name}"] for name in ("GONE", "BACK", "REUSED", "IN_CALL"))
# Numbers, not TcpState: NumPy asks a type that it is compared with for attributes, and loses a Ctrl-C that comes then.
TIME_WAIT, SYN_RECV, SYN_SENT = int(TcpState.TIME_WAIT), int(TcpState.SYN_RECV), int(TcpState.SYN_SENT)
WITHOUT_BPF = mark("BPF could not be used ({reason}); sock_diag is asked again and again instead")
ENDS = ("netns_cookie", "local_port", "peer_port", "local_address", "peer_address")
_MEMBERS = {None: TOGETHER, "listener": BY_LISTENER, "process": BY_PROCESS}
AT_ONCE_NS = (
    1_000_000  # between the end of a TIME_WAIT and the begin of what takes its place; the port of connect() comes late
)


class TraceQuestion:
    """What is asked. request: where. wanted: which changes. least_us: time in the state that is left (of whole lives: from
    begin to end). owners: whether to learn who has the sockets. ring_bytes: for what was not read yet. tells: CHANGES one by
    one, LIFETIMES (a connection at its end) or COUNTS (summaries, at the end and every `every_s`). source: bpf, sock_diag, or
    auto: sock_diag where BPF cannot be had. by: how COUNTS are apart in a namespace, listener or process.

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
    ) -> None:
        self.request = request
        self.by = by
        self.wanted = wanted or Filter()
        check_testable(self.wanted)
        if tells == COUNTS and not is_exact(self.wanted):
            raise UsageError(
                "what is counted in the kernel can be chosen by family, ports and states only: {text}",
                text=self.wanted.text,
            )
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
    if question.source != "sock_diag" and (question.source == "bpf" or may_load_bpf()):
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
            if question.source == "bpf":
                raise
            notices.append(Notice("bpf_fallback", WITHOUT_BPF, incomplete=False, arguments={"reason": error}))
    if question.by is not None:
        raise NotSupported("sums by {by} are counted by BPF only", by=question.by)
    from finwait.sources.diag_events import DiagEvents

    return DiagEvents(question.tells, question.request, question.narrowing(), notices, owners=question.owners)


class Trace:
    """What happens from now on, until `stop`, or for `for_s` seconds. sleep: waits that many seconds.

    Iterate once: Ready, then batches, losses and summaries. The programs are attached while it is iterated; `provenance` tells
    what it lacks, `lost` how many changes were lost so far.
    """

    def __init__(
        self, question: TraceQuestion, *, for_s: float | None = None, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self.question = question
        self.for_s = for_s
        self.provenance = Provenance("bpf", host=os.uname().nodename)
        self.lost = 0
        self._sleep = sleep
        self._stopped = False
        self._clock_ns = 0
        self._held: Array = np.zeros(0, dtype=CHANGE)

    def stop(self) -> None:
        """Read what is there and end."""
        self._stopped = True

    def __iter__(self) -> Iterator[Ready | Batch | Loss | Summary]:
        question, provenance = self.question, self.provenance
        with closing(open_events(question, provenance.notices)) as events:
            provenance.source, provenance.netns = events.source, events.netns
            provenance.taken_from = time.time()
            read = self._summaries(events) if question.tells == COUNTS else self._rows(events)
            try:
                yield Ready(provenance)
                yield from read
            finally:
                provenance.taken_to = time.time()

    def _looks(self, pause_s: float) -> Iterator[bool]:
        """After each pause whether it was the last one."""
        deadline = None if self.for_s is None else time.monotonic() + self.for_s
        while True:
            left = pause_s if deadline is None else max(deadline - time.monotonic(), 0)
            try:
                self._sleep(min(pause_s, left))
            except KeyboardInterrupt:  # what is there is told before the end
                yield True
                raise
            last = self._stopped or (deadline is not None and time.monotonic() >= deadline)
            yield last
            if last:
                return

    def _losses(self, events: Events) -> Iterator[Loss]:
        lost = events.lost()
        if lost != self.lost:
            yield Loss(time.time_ns(), lost - self.lost)
            self.lost = lost

    # -- rows

    def _rows(self, events: Events) -> Iterator[Batch | Loss]:
        read = self._changes if self.question.tells == CHANGES else self._lifetimes
        for last in self._looks(PAUSE_S):
            began_ns = self._tell_time()
            records = events.drain(self.question.tells)
            yield from self._losses(events)
            batch = read(events, records, None if last else began_ns - SETTLED_NS)
            if batch is not None and batch.length:
                yield batch

    def _tell_time(self) -> int:
        """CLOCK_MONOTONIC now. What it lacks to the time of day stays the same, so that times keep their order, unless that
        is set.
        """  # fmt: skip
        now_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        lacks_ns = time.time_ns() - now_ns
        if abs(lacks_ns - self._clock_ns) > CLOCK_SET_NS:
            self._clock_ns = lacks_ns
        return now_ns

    def _changes(self, events: Events, records: Array, before_ns: int | None) -> Batch | None:
        records = np.concatenate([self._held, records]) if len(self._held) else records
        records, self._held = settle(records, before_ns)
        if not len(records):
            return None
        records = records[np.argsort(records["at_ns"], kind="stable")]
        batch = batch_of(records, self._clock_ns, events.netns, events.names)
        return batch.take(accepted_changes(self.question.wanted, batch))

    def _lifetimes(self, events: Events, records: Array, _: int | None) -> Batch | None:
        wanted = self.question.wanted
        if wanted.states != ALL_STATES:
            numbers = [int(state) for state in wanted.states]
            records = records[np.isin(records["states"], numbers).any(axis=1) | np.isin(records["to"], numbers)]
        if not len(records):
            return None
        batch = lifetimes_of(records, self._clock_ns, events.netns, events.names)
        return batch.take(accepted_rows(Filter(ALL_STATES, wanted.expression, wanted.family), batch))

    # -- sums

    def _summaries(self, events: Events) -> Iterator[Summary | Loss]:
        every_s = self.question.every_s
        before, before_ns = events.totals(), time.time_ns()
        for last in self._looks(PAUSE_S if every_s is None else every_s):
            if not last and every_s is None:
                continue
            yield from self._losses(events)
            now, now_ns = events.totals(), time.time_ns()
            by = self.question.by
            yield Summary(before_ns, now_ns, totals_of(now, before, events.netns, by, events.names))
            before, before_ns = now, now_ns


class Changes:
    """The changes of a trace one by one, as `finwait.trace` gives them: a StateChange each, and a Loss where some were lost.

    An iterator and an asynchronous one; closing it detaches everything, so does the end of a ``with`` block. Everything is
    attached when it has been made: what happens from then on is told. `provenance` says what it lacks.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._items = iter(trace)
        next(self._items)  # Ready
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

    def __next__(self) -> StateChange | Loss:
        return next(self._rows)

    def __aiter__(self) -> Changes:
        return self

    async def __anext__(self) -> StateChange | Loss:
        """The next one; a thread waits for it, the event loop goes on."""
        import asyncio

        found = await asyncio.to_thread(next, self._rows, None)
        if found is None:
            raise StopAsyncIteration
        return found

    def close(self) -> None:
        """Detach everything."""
        self._trace.stop()
        self._items.close()  # type: ignore[attr-defined]

    def __enter__(self) -> Changes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def settle(records: Array, before_ns: int | None) -> tuple[Array, Array]:
    """(what has happened until `before_ns`, what is held until it is told in order) of `records`, in the order of the ring.
    None: hold nothing.

    The timer of a mini-socket that was deleted may be set anew at once: then the change has not happened, and the next record
    of that object takes it back.
    """
    told = np.ones(len(records), dtype=np.bool_)
    rows = np.flatnonzero(records["hints"] & (GONE | BACK))
    columns = (rows, records["object"][rows], records["hints"][rows])
    gone_by_object: dict[int, int] = {}
    for row, number, hints in zip(*(column.tolist() for column in columns), strict=True):
        if hints & BACK:
            told[row] = False
            gone = gone_by_object.pop(number, None)
            if gone is not None:
                told[gone] = False
        else:
            gone_by_object[number] = row
    mark_reuse(records, np.flatnonzero(told & (records["hints"] & GONE != 0) & (records["from"] == TIME_WAIT)))
    late = np.zeros(len(records), dtype=np.bool_) if before_ns is None else records["at_ns"] > before_ns
    return records[told & ~late], records[told & late]


def mark_reuse(records: Array, ended: Array) -> None:
    """Mark those of the rows `ended`, ends of TIME_WAIT, that a new connection of the same two ends has brought about."""
    begun = np.flatnonzero(np.isin(records["to"], (SYN_RECV, SYN_SENT)))
    if not len(ended) or not len(begun):
        return
    begins: dict[bytes, list[tuple[int, bool]]] = {}
    facts = (records["at_ns"][begun].tolist(), (records["to"][begun] == SYN_SENT).tolist())
    for ends, at_ns, is_call in zip(_ends(records, begun), *facts, strict=True):
        begins.setdefault(ends, []).append((at_ns, is_call))
    for row, ends, at_ns in zip(ended.tolist(), _ends(records, ended), records["at_ns"][ended].tolist(), strict=True):
        for begin_ns, is_call in begins.get(ends, ()):
            after_ns = at_ns - begin_ns if is_call else begin_ns - at_ns  # connect() has begun when it takes the place
            if 0 <= after_ns <= AT_ONCE_NS:
                records["hints"][row] |= REUSED | (IN_CALL if is_call else 0)


def _ends(records: Array, rows: Array) -> list[bytes]:
    """What tells a connection from every other of its time: namespace, addresses and ports."""
    chosen = records[rows]
    parts = [np.ascontiguousarray(chosen[name]).view(np.uint8).reshape(len(rows), -1) for name in ENDS]
    packed = np.concatenate(parts, axis=1)
    return [row.tobytes() for row in packed]
