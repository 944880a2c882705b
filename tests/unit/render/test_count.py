"""The table of a count: aligned by terminal cells, shares that never lie, the one-liner's lines."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finwait.render.count import render_count, render_count_netstat
from finwait.render.style import Style
from finwait.table.snapshot import Group, Provenance, Snapshot
from finwait.tcp.state import LIFE_ORDER, TcpState
from finwait.text.width import display_width
from tests.unit.batches import FEW, NASTY, TEXTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from finwait.table.snapshot import Cell

PLAIN = Style(color=False, unicode=False)


def by_state(counts: Sequence[int]) -> Snapshot:
    groups = [Group((state.token,), count) for state, count in zip(LIFE_ORDER, counts, strict=True)]
    return Snapshot(("state",), groups, sum(counts), Provenance("proc"))


def by_columns(by: tuple[str, ...], keys: Sequence[tuple[Cell, ...]], other: int | None = None) -> Snapshot:
    groups = [Group(key, count) for count, key in enumerate(keys, 1)]
    total = sum(group.count for group in groups) + (other or 0)
    return Snapshot(by, groups, total, Provenance("proc"), other=other, other_groups=None if other is None else 7)


@FEW
@given(st.lists(st.integers(0, 2**40), min_size=11, max_size=11), st.sampled_from(["rfc", "ss"]))
def test_every_state_has_its_line_with_count_and_share(counts: list[int], spelling: str) -> None:
    header, *lines, total = render_count(by_state(counts), PLAIN, spelling)
    assert header.split() == ["STATE", "COUNT", "SHARE", "WAITS", "FOR"]
    assert total.split() == ["total", str(sum(counts))]
    for state, count, line in zip(LIFE_ORDER, counts, lines, strict=True):
        name, shown, share, *_ = line.split()
        assert (name, shown) == (state.ss if spelling == "ss" else state.rfc, str(count))
        assert (share == "-") == (count == 0)
        if share == "<0.1":
            assert 2000 * count < sum(counts)
        elif count:
            assert 0.1 <= float(share) <= 100
            assert (float(share) == 100) == (count == sum(counts))
            assert abs(float(share) - 100 * count / sum(counts)) <= 0.1


@FEW
@given(
    st.lists(st.tuples(st.none() | TEXTS, st.none() | st.integers(0, 2**32)), min_size=1, max_size=8),
    st.none() | st.integers(1, 10**6),
)
def test_columns_begin_in_one_cell_whatever_a_process_calls_itself(
    keys: list[tuple[str | None, int | None]], other: int | None
) -> None:
    lines = list(render_count(by_columns(("process", "uid"), keys, other), PLAIN))
    assert all(line.isprintable() for line in lines)
    assert len(lines) == 2 + len(keys) + bool(other)
    ends = {display_width(re.sub(r"(?<=[0-9] %).*", "", line)) for line in lines[1 : 1 + len(keys)]}
    assert len(ends) == 1
    assert not other or lines[-2].split() == ["other", "(7)", str(other)]


@pytest.mark.parametrize("name", NASTY)
def test_a_foreign_name_takes_one_line(name: str) -> None:
    lines = list(render_count(by_columns(("process",), [(name,)]), PLAIN, header=False))
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("columns", [1, 20, 40, 60, 80, 100, 200, None])
def test_the_bar_gives_way_where_the_terminal_is_narrow(columns: int | None) -> None:
    lines = list(render_count(by_state([10] * 11), PLAIN, columns=columns))
    assert len(lines) == 13
    widest = max(map(display_width, lines))
    without_bar = max(map(display_width, render_count(by_state([10] * 11), PLAIN, columns=1)))
    assert columns is None or widest <= max(columns, without_bar)
    assert ("#" in "".join(lines)) == (columns is None or columns >= without_bar + 6)


def test_colour_changes_nothing_but_colour() -> None:
    snapshot = by_state(range(11))
    painted = [re.sub("\x1b\\[[0-9;]*m", "", line) for line in render_count(snapshot, Style(color=True, unicode=False))]
    assert [line.rstrip() for line in painted] == [line.rstrip() for line in render_count(snapshot, PLAIN)]


def test_nothing_at_all_is_counted() -> None:
    lines = list(render_count(by_state([0] * 11), PLAIN))
    assert lines[-1].split() == ["total", "0"]
    assert [line.split()[1:3] for line in lines[1:-1]] == [["0", "-"]] * 11
    assert list(render_count_netstat(by_state([0] * 11))) == []


@FEW
@given(st.lists(st.integers(0, 2**40), min_size=11, max_size=11))
def test_the_one_liners_lines_are_sorted_and_hide_what_netstat_hides(counts: list[int]) -> None:
    by_name = {state.netstat: count for state, count in zip(LIFE_ORDER, counts, strict=True)}
    hidden = {TcpState.LISTEN.netstat, TcpState.CLOSE.netstat}
    wanted = sorted(f"{name} {count}" for name, count in by_name.items() if count and name not in hidden)
    assert list(render_count_netstat(by_state(counts))) == wanted
