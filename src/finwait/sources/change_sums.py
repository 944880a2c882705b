"""Sums of changes as bpf/trace_tcp.bpf.c counts them in the kernel, for changes that come one by one: by sock_diag, or from a
recording.
"""  # fmt: skip

from __future__ import annotations

import numpy as np

from finwait.sources.change_records import TOTALS
from finwait.wire.bpf_layouts import ENUMS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from finwait.table.batch import Array

BUCKETS = ENUMS["FINWAIT_BUCKETS"]
STATES = 16  # places for states in the sums


class ChangeSums:
    """How many changes of each kind there were, and how long connections were in the state that they left, by namespace."""

    def __init__(self) -> None:
        self._totals: Array = np.zeros(0, dtype=TOTALS)  # in order of netns_cookie

    def add(self, records: Array) -> None:
        """Count `records` (CHANGE, or with its fields), each once. Times count where `since_ns` is known."""
        if not len(records):
            return
        place = self._places_of(records["netns_cookie"])
        left, reached = (records[name].astype(np.intp) & (STATES - 1) for name in ("from", "to"))
        np.add.at(self._totals["changes"], (place, left * STATES + reached), np.uint64(1))
        timed = records["since_ns"] != 0
        place, left = place[timed], left[timed]
        spent_us = times_us(records["since_ns"][timed], records["at_ns"][timed])
        np.add.at(self._totals["time_us"], (place, left), spent_us)
        np.add.at(self._totals["times"], (place, left * BUCKETS + buckets_of(spent_us)), np.uint64(1))

    def _places_of(self, cookies: Array) -> Array:
        """Where the sums of each namespace stand; there is a place for each afterwards."""
        known = self._totals["netns_cookie"]
        new = np.setdiff1d(cookies, known)
        if len(new):
            added = np.zeros(len(new), dtype=TOTALS)
            added["netns_cookie"] = new
            self._totals = np.concatenate([self._totals, added])
            self._totals = self._totals[np.argsort(self._totals["netns_cookie"])]
        return np.searchsorted(self._totals["netns_cookie"], cookies)

    def totals(self) -> Array:
        """An array of TOTALS, an element for each namespace that something was counted in; `member` is 0. A copy."""
        return self._totals.copy()


def times_us(since_ns: Array, at_ns: Array) -> Array:
    """Whole microseconds from each `since_ns` to its `at_ns`, both uint64; 0 where the clock would have gone backwards."""
    return (np.maximum(at_ns, since_ns) - since_ns) // np.uint64(1000)


def buckets_of(us: Array) -> Array:
    """The bucket of each time in whole microseconds (uint64): four to each power of two; below four, each number its own
    (bpf/tell.bpf.h, bucket_of).
    """  # fmt: skip
    _, exponent = np.frexp((us >> np.uint64(1)).astype(np.float64))  # exact below 2**53; half of it, so that 1 has 0
    power = np.clip(exponent, 2, 46)  # floor(log2(us)), which is 2 at least where it is used
    found = (power - 1) * 4 + (us >> (power - 2).astype(np.uint64) & np.uint64(3)).astype(np.intp)
    return np.where(us < 4, us.astype(np.intp), np.where(us >> np.uint64(47) != 0, BUCKETS - 1, found))
