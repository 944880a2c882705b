"""Sums of changes: the same as counted one by one, in the buckets of the kernel's program."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finwait.sources.change_columns import totals_of
from finwait.sources.change_records import CHANGE, LOOKED_UP, TOTALS
from finwait.sources.change_sums import BUCKETS, STATES, ChangeSums, buckets_of
from finwait.table.change import bucket_end_us
from finwait.table.snapshot import Netns
from finwait.tcp.state import LIFE_ORDER, TcpState

if TYPE_CHECKING:
    from finwait.table.batch import Array

MOST = (1 << 64) - 1


def bucket_of(us: int) -> int:
    """bpf/tell.bpf.h, word for word."""
    if us < 4:
        return us
    if us >> 47:
        return BUCKETS - 1
    log2 = us.bit_length() - 1
    return (log2 - 1) * 4 + (us >> (log2 - 2) & 3)


@given(st.lists(st.one_of(st.integers(0, MOST), st.integers(0, 1 << 20), st.integers(0, 48).map(lambda at: 1 << at))))
def test_a_time_falls_into_the_bucket_of_the_kernels_program(times: list[int]) -> None:
    assert buckets_of(np.asarray(times, dtype=np.uint64)).tolist() == [bucket_of(us) for us in times]


@pytest.mark.parametrize("power", range(2, 48))
def test_the_ends_of_each_power_of_two_have_their_buckets(power: int) -> None:
    times = list(range((1 << power) - 2, (1 << power) + 3))
    assert buckets_of(np.asarray(times, dtype=np.uint64)).tolist() == [bucket_of(us) for us in times]


def test_every_bucket_ends_where_the_summary_says() -> None:
    ends = np.asarray([bucket_end_us(bucket) for bucket in range(BUCKETS - 4)], dtype=np.uint64)
    assert buckets_of(ends).tolist() == list(range(BUCKETS - 4))


ROWS = st.lists(
    st.tuples(
        st.sampled_from([0, 7, 1 << 40, MOST]),  # namespace
        st.sampled_from(LIFE_ORDER),
        st.sampled_from(LIFE_ORDER),
        st.one_of(st.just(0), st.integers(1, 1 << 40)),  # since
        st.integers(0, 1 << 50),  # for so long
    ),
    max_size=40,
)


def records(rows: list[tuple[int, TcpState, TcpState, int, int]]) -> Array:
    found = np.zeros(len(rows), dtype=LOOKED_UP)
    for record, (netns, left, reached, since_ns, lasted_ns) in zip(found, rows, strict=True):
        record["netns_cookie"], record["from"], record["to"] = netns, left, reached
        record["since_ns"], record["at_ns"] = since_ns, since_ns + lasted_ns
    return found


@given(st.lists(ROWS, max_size=4))
def test_the_sums_are_those_of_the_changes_one_by_one(
    readings: list[list[tuple[int, TcpState, TcpState, int, int]]],
) -> None:
    sums = ChangeSums()
    for rows in readings:
        sums.add(records(rows))
    rows = [row for reading in readings for row in reading]
    changes = Counter((netns, left * STATES + reached) for netns, left, reached, _, _ in rows)
    timed = [(netns, left, lasted // 1000) for netns, left, _, since, lasted in rows if since]
    times = Counter((netns, left * BUCKETS + bucket_of(us)) for netns, left, us in timed)
    totals = sums.totals()
    assert sorted(totals["netns_cookie"].tolist()) == sorted({row[0] for row in rows})
    for one in totals:
        netns = int(one["netns_cookie"])
        for name, wanted in (("changes", changes), ("times", times)):
            found = {int(at): int(one[name][at]) for at in np.flatnonzero(one[name])}
            assert found == {at: count for (where, at), count in wanted.items() if where == netns}
        for state in range(STATES):
            assert int(one["time_us"][state]) == sum(us for where, left, us in timed if (where, left) == (netns, state))
        assert one["member"] == 0


def test_what_was_read_before_does_not_grow() -> None:
    sums = ChangeSums()
    assert len(sums.totals()) == 0
    sums.add(records([(7, TcpState.ESTABLISHED, TcpState.FIN_WAIT1, 1000, 5_000_000)]))
    before = sums.totals()
    sums.add(records([(7, TcpState.FIN_WAIT1, TcpState.FIN_WAIT2, 0, 0)] * 3))
    [difference] = totals_of(sums.totals(), before, [Netns(7)])
    assert difference.changes == {(TcpState.FIN_WAIT1, TcpState.FIN_WAIT2): 3}
    assert difference.times == {}
    [first] = totals_of(before, np.zeros(0, dtype=TOTALS), [Netns(7)])
    assert first.times[TcpState.ESTABLISHED].total_us == 5000


def test_records_of_bpf_are_summed_as_well() -> None:
    sums = ChangeSums()
    found = np.zeros(2, dtype=CHANGE)
    found["from"], found["to"], found["since_ns"], found["at_ns"] = 6, 7, 50, 20  # the clock never went so
    sums.add(found)
    [one] = sums.totals()
    assert (one["changes"][6 * STATES + 7], one["times"][6 * BUCKETS], one["time_us"][6]) == (2, 2, 0)
