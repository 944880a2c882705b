"""The order of rows, against Python's sorted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finwait.errors import UsageError
from finwait.query.ordering import limited, parse_order, sorted_batches
from finwait.table.columns import COLUMN_BY_NAME, ENDPOINT_PARTS
from finwait.tcp.state import LIFE_ORDER
from tests.unit.batches import FEW, Row, batch_of, packed, rows

COLUMNS = ("recv_q", "uid", "bytes_sent", "cookie", "process", "timer", "v6only", "retransmits", "interface")
SORTABLE = ("state", "family", "local", "peer", "local_address", "peer_address", "local_port", "peer_port", *COLUMNS)
RANK = {int(state): rank for rank, state in enumerate(LIFE_ORDER)}


def numbered(table: list[Row]) -> list[Row]:
    """Rows that can be told apart: their inode is their place."""
    return [{**row, "inode": place} for place, row in enumerate(table)]


def key_of(name: str, cell: Any) -> Any:
    if name == "state":
        return RANK[cell]
    return packed(cell) if COLUMN_BY_NAME[name].kind == "address" else cell


def python_order(table: list[Row], order: tuple[tuple[str, bool], ...]) -> list[int]:
    for name, descending in reversed(order):
        for part in reversed(ENDPOINT_PARTS.get(name, (name,))):
            known = [row for row in table if row[part] is not None]
            known.sort(key=lambda row, part=part: key_of(part, row[part]), reverse=descending)  # type: ignore[misc]
            table = known + [row for row in table if row[part] is None]
    return [row["inode"] for row in table]


def order_of(tables: list[list[Row]], order: tuple[tuple[str, bool], ...]) -> list[int]:
    batches = [batch_of(table) for table in tables]
    return [inode for batch in sorted_batches(iter(batches), order) for inode in batch.column("inode").values.tolist()]


@FEW
@given(
    rows(columns=COLUMNS),
    st.lists(st.tuples(st.sampled_from(SORTABLE), st.booleans()), min_size=1, max_size=3).map(tuple),
    st.integers(0, 12),
)
def test_rows_are_ordered_as_python_orders_them(
    table: list[Row], order: tuple[tuple[str, bool], ...], cut: int
) -> None:
    table = numbered(table)
    parts = [part for part in (table[:cut], table[cut:]) if part]
    assert order_of(parts, order) == python_order(table, order)


@pytest.mark.parametrize("name", SORTABLE)
def test_rows_without_a_value_come_last_both_ways_in_their_order(name: str) -> None:
    if COLUMN_BY_NAME[name].kind == "endpoint":
        name = f"{name}_address"
    if name in {"state", "family"}:
        return
    value: Any = {"process": "x", "interface": "x", "local_address": "::1", "peer_address": "::1", "v6only": True}.get(
        name, 1
    )
    table = numbered(
        [
            {"state": 1, "family": 10, name: None},
            {"state": 1, "family": 10, name: value},
            {"state": 1, "family": 10, name: None},
        ]
    )
    for descending in (False, True):
        assert order_of([table], ((name, descending),)) == [1, 0, 2]
        second = order_of([table], ((name, descending), ("inode", True)))
        assert second == [1, 2, 0]


def test_states_go_in_the_order_of_a_connections_life() -> None:
    table = numbered([{"state": state} for state in range(1, 12)])
    assert [inode + 1 for inode in order_of([table], (("state", False),))] == [int(state) for state in LIFE_ORDER]
    assert [inode + 1 for inode in order_of([table], (("state", True),))] == [
        int(state) for state in reversed(LIFE_ORDER)
    ]


def test_nothing_in_order_is_nothing() -> None:
    assert list(sorted_batches(iter([]), (("state", False),))) == []


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("recv-q", (("recv_q", False),)),
        ("-recvq,state", (("recv_q", True), ("state", False))),
        (" -rtt , uid ", (("rtt_us", True), ("uid", False))),
    ],
)
def test_an_order_is_columns_with_a_sign(text: str, order: tuple[tuple[str, bool], ...]) -> None:
    assert parse_order(text) == order


@pytest.mark.parametrize("text", ["", "-", "uid,", ",uid", "uid,-", " "])
def test_half_an_order_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--sort wants COLUMN or -COLUMN"):
        parse_order(text)


def test_an_unknown_column_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown column 'udi'; did you mean uid"):
        parse_order("-udi")


@given(st.lists(st.integers(1, 5), max_size=6), st.integers(1, 12), st.booleans())
def test_the_first_rows_and_no_more_are_passed_on(lengths: list[int], limit: int, drain: bool) -> None:
    read = []
    tables, begin = [], 0
    for length in lengths:
        tables.append([{"state": 1, "inode": begin + at} for at in range(length)])
        begin += length

    def batches() -> Any:
        for table in tables:
            read.append(len(table))
            yield batch_of(table)

    inodes = [
        inode for batch in limited(batches(), limit, drain=drain) for inode in batch.column("inode").values.tolist()
    ]
    assert inodes == list(range(min(limit, begin)))
    if drain:
        assert sum(read) == begin
