"""Counts by any columns, against a Counter over plain rows."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finwait.errors import UsageError
from finwait.query.grouping import GroupCounter
from finwait.query.groups import fold_small_groups, order_of_cell, parse_group_order, sorted_groups
from finwait.table.cells import cells_of
from finwait.table.snapshot import Group
from finwait.tcp.state import LIFE_ORDER
from tests.unit.batches import FEW, Row, batch_of, rows

GROUPABLE = ("state", "family", "local", "peer", "local_address", "local_port", "peer_address", "interface", "process",
             "uid", "cookie", "timer", "v6only", "bytes_sent")  # fmt: skip
COLUMNS = ("interface", "process", "uid", "cookie", "timer", "v6only", "bytes_sent")


@FEW
@given(
    st.lists(rows(columns=COLUMNS), max_size=3),
    st.lists(st.sampled_from(GROUPABLE), min_size=1, max_size=3, unique=True),
)
def test_groups_are_those_of_a_counter(tables: list[list[Row]], by: list[str]) -> None:
    counter, wanted = GroupCounter(by), Counter[tuple[object, ...]]()
    for table in tables:
        batch = batch_of(table)
        counter.add(batch)
        wanted.update(zip(*(cells_of(batch, name) for name in by), strict=True))
    groups = counter.groups()
    assert {group.key: group.count for group in groups} == wanted
    assert counter.total == sum(wanted.values())
    assert [group.count for group in groups] == sorted((group.count for group in groups), reverse=True)
    order = [(-group.count, tuple(map(order_of_cell, group.key))) for group in groups]
    assert order == sorted(order)


def test_the_same_text_under_two_codes_is_one_group() -> None:
    counter = GroupCounter(["process"])
    counter.add(batch_of([{"state": 1, "process": "a"}, {"state": 1, "process": "b"}]))
    counter.add(batch_of([{"state": 1, "process": "b"}, {"state": 1, "process": None}]))
    assert [(group.key, group.count) for group in counter.groups()] == [(("b",), 2), ((None,), 1), (("a",), 1)]


@FEW
@given(st.lists(st.integers(1, 9)), st.none() | st.integers(1, 5))
def test_what_is_folded_and_what_is_shown_are_all(counts: list[int], top: int | None) -> None:
    groups = [Group((index,), count) for index, count in enumerate(counts)]
    shown, other, other_groups = fold_small_groups(groups, top)
    assert sum(group.count for group in shown) + (other or 0) == sum(counts)
    assert len(shown) + (other_groups or 0) == len(groups)
    assert (other is None) == (other_groups is None) == (top is None)


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("count", (("count", False),)),
        ("-count,state", (("count", True), ("state", False))),
        ("peer-address, -state", (("peer_address", False), ("state", True))),
    ],
)
def test_an_order_is_count_or_columns_of_the_groups(text: str, order: tuple[tuple[str, bool], ...]) -> None:
    assert parse_group_order(text, ("state", "peer_address")) == order


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("uid", "--sort uid: the groups have count and state"),
        ("-uid", "--sort uid: the groups have count and state"),
        ("", "--sort '': the groups have count and state"),
        ("-", "--sort '': the groups have count and state"),
        ("count,", "--sort '': the groups have count and state"),
        ("stat", "unknown column 'stat'; did you mean state?"),
    ],
)
def test_an_order_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_group_order(text, ("state",))
    assert str(caught.value) == message


def test_states_are_ordered_by_life_and_nulls_come_last_either_way() -> None:
    groups = [
        Group((state.token, None if index % 2 else index), index) for index, state in enumerate(reversed(LIFE_ORDER))
    ]
    by = ("state", "uid")
    assert [group.key[0] for group in sorted_groups(groups, by, (("state", False),))] == [
        state.token for state in LIFE_ORDER
    ]
    for descending in (False, True):
        uids = [group.key[1] for group in sorted_groups(groups, by, (("uid", descending),))]
        assert uids == [*sorted((uid for uid in uids if uid is not None), reverse=descending), *[None] * 5]


@FEW
@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 3))), st.booleans(), st.booleans())
def test_equal_groups_keep_their_order(keys: list[tuple[str | None, int]], by_count: bool, descending: bool) -> None:
    groups = [Group((name,), count) for name, count in keys]
    ordered = sorted_groups(groups, ("process",), (("count" if by_count else "process", descending),))
    for one, two in pairwise(ordered):
        if (one.count == two.count) if by_count else (one.key == two.key):
            assert groups.index(one) < groups.index(two)
