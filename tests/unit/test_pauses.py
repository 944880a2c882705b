"""How long a trace waits before it reads its ring again."""

from __future__ import annotations

import pytest

from finwait.sources.bpf_ring import HEADER_BYTES
from finwait.sources.change_records import CHANGE
from finwait.table.request import Request
from finwait.tracing import LONG_PAUSE_S, PAUSE_S, Trace, TraceQuestion


def pauses(mib: int, *counts: int) -> list[float]:
    trace = Trace(TraceQuestion(Request(), ring_bytes=mib << 20))
    found = []
    for count in counts:
        trace._pause_s = trace._next_pause(count, CHANGE.itemsize + HEADER_BYTES)
        found.append(trace._pause_s)
    return found


@pytest.mark.parametrize("mib", [1, 16])
def test_few_changes_are_told_at_once(mib: int) -> None:
    assert pauses(mib, 0, 7, 999) == [PAUSE_S] * 3


def test_many_are_read_in_larger_pieces_until_they_are_few_again() -> None:
    assert pauses(16, 1_000, 4_000, 8_000, 3_999, 0) == [*[LONG_PAUSE_S] * 3, PAUSE_S, PAUSE_S]


@pytest.mark.parametrize(("mib", "most"), [(1, 1_365), (16, 21_845)])
def test_half_the_ring_is_never_filled_by_a_longer_pause(mib: int, most: int) -> None:
    assert pauses(mib, most) == [LONG_PAUSE_S]
    assert pauses(mib, most + 1) == [PAUSE_S]
    assert most * LONG_PAUSE_S / PAUSE_S * (CHANGE.itemsize + HEADER_BYTES) <= (mib << 20) / 2
