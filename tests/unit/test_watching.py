"""Counts again and again: a tally is believed as long as a walk between two of its readings agrees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from finwait import watching
from finwait.errors import NotPermitted
from finwait.table.request import Request
from finwait.table.snapshot import Group, Provenance, Snapshot
from finwait.tcp.state import LIFE_ORDER

if TYPE_CHECKING:
    from collections.abc import Sequence


def snapshot(**counts: int) -> Snapshot:
    groups = [Group((state.token,), counts.get(state.token, 0)) for state in LIFE_ORDER]
    return Snapshot(("state",), groups, sum(counts.values()), Provenance("bpf"))


class FakeTally:
    """Reads what it is told to, one after the other."""

    def __init__(self, readings: Sequence[Snapshot]) -> None:
        self.readings = list(readings)

    def read(self, by: tuple[str, ...]) -> Snapshot:
        assert by == ("state",)
        return self.readings.pop(0)


def checked(
    monkeypatch: pytest.MonkeyPatch, before: dict[str, int], walked: dict[str, int], after: dict[str, int]
) -> str | None:
    monkeypatch.setattr(watching, "take_census", lambda _: snapshot(**walked))
    notice = watching.check(FakeTally([snapshot(**before), snapshot(**after)]), Request())  # type: ignore[arg-type]
    return None if notice is None else str(notice)


@pytest.mark.parametrize("walked", [5, 6, 7])
def test_a_walk_between_two_readings_agrees_with_them(monkeypatch: pytest.MonkeyPatch, walked: int) -> None:
    told = checked(monkeypatch, {"established": 5}, {"established": walked}, {"established": 7})
    assert told is None


@pytest.mark.parametrize("walked", [4, 8])
def test_another_number_is_told_with_both(monkeypatch: pytest.MonkeyPatch, walked: int) -> None:
    told = checked(monkeypatch, {"established": 7}, {"established": walked}, {"established": 5})
    assert told is not None
    assert f"established 5, {walked}" in told


def test_closed_is_in_no_tally_and_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checked(monkeypatch, {}, {"closed": 3}, {}) is None


def counted(
    monkeypatch: pytest.MonkeyPatch, *, source: str, by: tuple[str, ...] | None, permitted: bool = True
) -> list[Snapshot]:
    """Three snapshots of a watch where loading is refused by the kernel."""

    def refuse(_: Request, by: tuple[str, ...]) -> FakeTally:
        raise NotPermitted("BPF is not permitted here ({request}: {reason})", request="load", reason="no")

    monkeypatch.setattr(watching, "may_load_bpf", lambda: permitted)
    monkeypatch.setattr("finwait.sources.tcp_tally.Tally", refuse)
    pauses: list[float] = []
    snapshots = watching.watch_counts(
        Request(), 0.5, count=lambda: snapshot(listen=3), source=source, by=by, sleep=pauses.append
    )
    found = [next(snapshots) for _ in range(3)]
    assert len(pauses) == 2
    assert 0 <= pauses[0] <= 0.5 <= pauses[1] <= 1.0  # no time passes here, so the second moment is a second away
    return found


def test_what_a_tally_cannot_answer_is_counted_anew_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    found = counted(monkeypatch, source="auto", by=None)
    assert [one.total for one in found] == [3, 3, 3]
    assert [notice.code for one in found for notice in one.provenance.notices] == []


def test_where_bpf_fails_it_is_counted_anew_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = counted(monkeypatch, source="auto", by=("state",))
    assert [[notice.code for notice in one.provenance.notices] for one in found] == [["bpf_fallback"]] * 3


def test_without_the_capabilities_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    found = counted(monkeypatch, source="auto", by=("state",), permitted=False)
    assert [one.provenance.notices for one in found] == [[], [], []]


def test_bpf_by_name_is_no_wish_that_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotPermitted):
        counted(monkeypatch, source="bpf", by=("state",))


class LostTally:
    """Counts once, and cannot be had any more."""

    closed = False

    def __init__(self) -> None:
        self.readings = [snapshot(established=5)]

    def read(self) -> Snapshot:
        if not self.readings:
            raise NotPermitted("no room for a tally")
        return self.readings.pop()

    def __enter__(self) -> LostTally:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


@pytest.mark.parametrize("source", ["auto", "bpf"])
def test_a_tally_that_is_lost_is_counted_anew_unless_it_is_insisted_on(
    monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    tally = LostTally()
    monkeypatch.setattr(watching, "_open", lambda *_: (tally, None))
    counts = watching.watch_counts(
        Request(), 0, count=lambda: snapshot(established=7), source=source, sleep=lambda _: None
    )
    assert next(counts).total == 5
    if source == "bpf":
        with pytest.raises(NotPermitted, match="no room"):
            next(counts)
    else:
        anew = [next(counts), next(counts)]
        assert [one.total for one in anew] == [7, 7]
        assert "no room for a tally" in str(anew[0].provenance.notices[0])
    assert tally.closed
