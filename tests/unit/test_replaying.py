"""A recording of what the kernel told is read as what has happened, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from finwait.errors import ParseError
from finwait.replaying import Replay
from finwait.sources.bpf_ring import with_header
from finwait.sources.change_order import SETTLED_NS
from finwait.sources.change_recording import ChangeRecorder
from finwait.sources.change_records import CHANGE, CHANGES, COUNTS
from finwait.table.batch import Batch
from finwait.table.change import Loss, Summary
from finwait.table.request import Request
from finwait.table.snapshot import Netns, Provenance
from finwait.tracing import TraceQuestion
from tests.unit.test_settle import back, change, gone, records

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from finwait.table.batch import Array

CLOCK_NS = 1_700_000_000_000_000_000
BEGIN_NS = 10 * SETTLED_NS


def at(moment_ns: int, found: Array) -> Array:
    """What the kernel told from then on, as it lies in the ring."""
    told = np.zeros(len(found), dtype=with_header(CHANGE))
    for name in CHANGE.names or ():
        told[name] = found[name]
    told["at_ns"] += np.uint64(BEGIN_NS + moment_ns)
    told["family"], told["netns_cookie"], told["local_port"] = 2, 7, 80
    return told


def write(path: Path, *blocks: Array | Loss) -> None:
    recorder = ChangeRecorder(str(path))
    provenance = Provenance("bpf", host="web-1", netns=(Netns(7),), taken_from=1.7e9)
    recorder.begin(provenance, CHANGES, "", with_header(CHANGE), settled=False)
    for block in blocks:
        if isinstance(block, Loss):
            recorder.lose(block)
        else:
            recorder.add(block, CLOCK_NS, lambda _: {})
    provenance.taken_to = 1.7e9 + 60
    recorder.finish(provenance)


def told(path: Path) -> list[int | Loss]:
    """The numbers (cookies) of changes, and losses, in their order."""
    found: list[int | Loss] = []
    for item in Replay(TraceQuestion(Request(), is_recorded=True), str(path)):
        if isinstance(item, Batch):
            found += [int(number) for number in item.columns["cookie"].values]
        elif isinstance(item, Loss):
            found.append(item)
    return found


def test_what_was_taken_back_in_a_later_block_has_not_happened(tmp_path: Path) -> None:
    write(tmp_path / "x", at(0, records(change(1), gone(2, 7))), at(2, records(back(7), change(3))))
    assert told(tmp_path / "x") == [1, 3]


def test_what_was_told_late_stands_where_it_happened(tmp_path: Path) -> None:
    one, two, three, four = (records(change(number)) for number in (1, 2, 3, 4))
    write(tmp_path / "x", at(0, one), at(SETTLED_NS, three), at(SETTLED_NS - 5, two), at(3 * SETTLED_NS, four))
    assert told(tmp_path / "x") == [1, 2, 3, 4]


def test_nothing_is_held_longer_than_a_trace_holds_it(tmp_path: Path) -> None:
    one, two, three, four = (records(change(number)) for number in (1, 2, 3, 4))
    write(tmp_path / "x", at(0, one), at(2 * SETTLED_NS, three), at(4 * SETTLED_NS, four), at(5, two))
    assert told(tmp_path / "x") == [1, 3, 2, 4]


def test_a_loss_stands_behind_what_was_told_before_it(tmp_path: Path) -> None:
    loss = Loss(CLOCK_NS + BEGIN_NS + SETTLED_NS + 10, 23)
    one, two, three = (records(change(number)) for number in (1, 2, 3))
    write(tmp_path / "x", at(0, one), at(SETTLED_NS + 5, two), loss, at(3 * SETTLED_NS, three))
    assert told(tmp_path / "x") == [1, loss, 2, 3]


def test_stopped_it_tells_all_of_the_block_that_is_read(tmp_path: Path) -> None:
    write(tmp_path / "x", at(0, records(change(1), change(2))), at(3 * SETTLED_NS, records(change(3))))
    replay = Replay(TraceQuestion(Request(), is_recorded=True), str(tmp_path / "x"))
    items = iter(replay)
    next(items)
    replay.stop()
    (batch,) = items
    assert isinstance(batch, Batch)
    assert list(batch.columns["cookie"].values) == [1, 2]


def test_what_is_held_is_told_when_somebody_interrupts(tmp_path: Path) -> None:
    write(tmp_path / "x", at(0, records(change(1), change(2))), at(3 * SETTLED_NS, records(change(3))))

    def until(_: Callable[[], object]) -> None:
        raise KeyboardInterrupt

    found: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        for item in Replay(TraceQuestion(Request(), is_recorded=True), str(tmp_path / "x"), until=until):
            if isinstance(item, Batch):
                found += [int(number) for number in item.columns["cookie"].values]
    assert found == [1, 2]


def test_many_are_told_in_batches(tmp_path: Path) -> None:
    many = at(0, records(*(change(number) for number in range(3))).repeat(30_000))
    many["at_ns"] = BEGIN_NS
    write(tmp_path / "x", many)
    items = list(Replay(TraceQuestion(Request(), is_recorded=True), str(tmp_path / "x")))
    assert [item.length for item in items if isinstance(item, Batch)] == [65_536, 90_000 - 65_536]


def test_what_is_held_is_told_at_the_end_and_before_a_damage(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write(path, at(0, records(change(1), change(2))))
    assert told(path) == [1, 2]
    path.write_bytes(path.read_bytes() + b"more")
    found: list[int] = []
    with pytest.raises(ParseError, match="something follows its end"):
        for item in Replay(TraceQuestion(Request(), is_recorded=True), str(path)):
            if isinstance(item, Batch):
                found += [int(number) for number in item.columns["cookie"].values]
    assert found == [1, 2]


def test_sums_of_what_stands_before_a_damage_are_told(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write(path, at(0, records(change(1), change(2))))
    path.write_bytes(path.read_bytes() + b"more")
    items = iter(Replay(TraceQuestion(Request(), tells=COUNTS, is_recorded=True), str(path)))
    summaries = [item for item in (next(items), next(items)) if isinstance(item, Summary)]
    assert [totals.count for summary in summaries for totals in summary.totals] == [2]
    with pytest.raises(ParseError, match="something follows its end"):
        next(items)


def test_sums_leave_out_what_has_not_happened(tmp_path: Path) -> None:
    write(tmp_path / "x", at(0, records(change(1), gone(2, 7))), at(2, records(back(7), change(3))))
    question = TraceQuestion(Request(), tells=COUNTS, is_recorded=True)
    (summary,) = [item for item in Replay(question, str(tmp_path / "x")) if isinstance(item, Summary)]
    (totals,) = summary.totals
    assert totals.count == 2
