"""What the kernel is asked to check of changes lets every change pass that the filter accepts; where it is exact, no other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finwait.errors import UsageError
from finwait.query.expression import Filter
from finwait.query.narrowing import TESTABLE, accepted_changes, check_testable, is_exact, port_range, state_mask
from finwait.query.parser import parse_filter
from finwait.table.batch import Batch, ColumnData
from finwait.table.columns import COLUMN_BY_NAME
from finwait.tcp.state import ALL_STATES, TcpState
from tests.unit.batches import AF_INET, FEW, Row, batch_of
from tests.unit.query.test_pushdown import spelled, trees

PORTS = (1, 21, 22, 23, 79, 80, 81, 443, 65534, 65535)
TESTS = ["sport = :22", "sport != :22", "sport >= :22", "sport > :22", "sport < :80", "sport <= :80", "dport = :443",
         "dport >= :80", "dport < :443", "dport != :443", "src 10.0.0.1:22", "src *:22", "dst 10.0.0.0/8", "dst *:443",
         "local_port = 80", "local_port < 1", "peer_port > 65534"]  # fmt: skip
WORDS = trees(TESTS).map(spelled)


def changes(rows: list[Row]) -> Batch:
    """A batch of changes: `state` is what they reach."""
    batch = batch_of([{**row, "state": row["to"]} for row in rows], ("state", "family", *ENDS))
    states = {name: ColumnData(np.asarray([row[name] for row in rows], dtype="u1")) for name in ("from", "to")}
    return Batch(batch.length, batch.columns | states)


ENDS = ("local_address", "local_port", "peer_address", "peer_port")
CHANGES = st.lists(
    st.fixed_dictionaries({
        "family": st.just(AF_INET),
        "from": st.integers(1, 11), "to": st.integers(1, 11),
        "local_address": st.sampled_from(["10.0.0.1", "192.0.2.1"]), "local_port": st.sampled_from(PORTS),
        "peer_address": st.sampled_from(["10.0.0.1", "192.0.2.1"]), "peer_port": st.sampled_from(PORTS),
    }),
    min_size=1, max_size=20,
)  # fmt: skip


def is_within(wanted: Filter, row: Row) -> bool:
    """What the kernel checks."""
    ranges = [(port_range(wanted, side), row[f"{side}_port"]) for side in ("local", "peer")]
    states = state_mask(wanted)
    return all(low <= port <= high for (low, high), port in ranges) and bool(
        (states >> row["from"] | states >> row["to"]) & 1
    )


@FEW
@given(WORDS, CHANGES, st.sampled_from(["", "state established ", "exclude listen ", "state time-wait state closing "]))
def test_whatever_the_filter_accepts_is_within_the_range(words: str, rows: list[Row], states: str) -> None:
    wanted = parse_filter(states + words)
    accepted = accepted_changes(wanted, changes(rows)).tolist()
    within = [is_within(wanted, row) for row in rows]
    assert all(inside for taken, inside in zip(accepted, within, strict=True) if taken)
    if is_exact(wanted):
        assert accepted == within


@FEW
@given(st.lists(st.sampled_from(TESTS), max_size=3), CHANGES)
def test_tests_that_all_must_hold_are_exact_where_each_is(tests: list[str], rows: list[Row]) -> None:
    wanted = parse_filter(" and ".join(tests))
    assert is_exact(wanted) == all(is_exact(parse_filter(test)) for test in tests)
    if is_exact(wanted):
        assert accepted_changes(wanted, changes(rows)).tolist() == [is_within(wanted, row) for row in rows]


@pytest.mark.parametrize(
    ("words", "local", "peer"),
    [
        ("", (0, 65535), (0, 65535)),
        ("sport = :22", (22, 22), (0, 65535)),
        ("sport >= :22 sport < :80", (22, 79), (0, 65535)),
        ("dport > :1024", (0, 65535), (1025, 65535)),
        ("src *:22 dst *:443", (22, 22), (443, 443)),
        ("sport = :22 or sport = :80", (0, 65535), (0, 65535)),
        ("not sport = :22", (0, 65535), (0, 65535)),
        ("( sport = :22 and dport = :80 ) and dst 10.0.0.1", (22, 22), (80, 80)),
        ("local_port = 22 and ( dport = :1 or dport = :2 )", (22, 22), (0, 65535)),
    ],
)
def test_the_range_of_ports_is_the_least_one(words: str, local: tuple[int, int], peer: tuple[int, int]) -> None:
    wanted = parse_filter(words)
    assert (port_range(wanted, "local"), port_range(wanted, "peer")) == (local, peer)


def test_ports_that_no_port_can_have_are_an_empty_range() -> None:
    low, high = port_range(parse_filter("sport = :22 sport = :80"), "local")
    assert low > high


def test_a_change_is_of_both_of_its_states() -> None:
    rows = [
        {"family": AF_INET, "from": left, "to": reached, "local_address": "10.0.0.1", "local_port": 1,
         "peer_address": "10.0.0.1", "peer_port": 1}
        for left in TcpState for reached in TcpState
    ]  # fmt: skip
    for state in TcpState:
        wanted = parse_filter(f"state {state.token}")
        assert state_mask(wanted) == 1 << state
        accepted = accepted_changes(wanted, changes(rows)).tolist()
        assert accepted == [state in {row["from"], row["to"]} for row in rows]
    assert state_mask(Filter()) == sum(1 << state for state in ALL_STATES)


@pytest.mark.parametrize("name", sorted(COLUMN_BY_NAME.keys() - TESTABLE - {"local", "peer"}))
def test_a_column_that_changes_do_not_have_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        check_testable(parse_filter(example(name)))


def test_what_only_the_kernel_knows_of_a_socket_is_refused() -> None:
    with pytest.raises(UsageError, match="does not tell autobound"):
        check_testable(parse_filter("sport = :22 and not autobound"))


def example(name: str) -> str:
    kind: Any = COLUMN_BY_NAME[name].kind
    return f"{name} = {'yes' if kind == 'bool' else 'on' if kind == 'timer' else 'x' if kind == 'text' else 1}"


@pytest.mark.parametrize(
    "words", ["sport = :22", "src 10.0.0.1", "process = nginx", "pid = 1", "cookie = 7", "netns = x"]
)
def test_what_a_change_has_can_be_tested(words: str) -> None:
    check_testable(parse_filter(words))
