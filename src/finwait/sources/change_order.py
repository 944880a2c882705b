"""Records of the kernel's rings in the order in which things happened, and without what did not happen after all."""

from __future__ import annotations

import numpy as np

from finwait.sources.change_records import CHANGES, join_records, take_records
from finwait.tcp.state import TcpState
from finwait.wire.bpf_layouts import ENUMS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from finwait.table.batch import Array

SETTLED_NS = 20_000_000  # rows are held for so long: what is told late, or taken back, is told by then
AT_ONCE_NS = (
    1_000_000  # between the end of a TIME_WAIT and the begin of what takes its place; the port of connect() comes late
)
MOST_BEGINS = 16  # of the same two ends within what is read at once, that are looked at
SPREAD = np.uint64(0x9E3779B97F4A7C15)  # an odd number without a pattern: 2^64 over the golden ratio
ENDS = ("netns_cookie", "local_port", "peer_port", "local_address", "peer_address")
GONE, BACK, REUSED, IN_CALL = (ENUMS[f"FINWAIT_{name}"] for name in ("GONE", "BACK", "REUSED", "IN_CALL"))
# Numbers, not TcpState: NumPy asks a type that it is compared with for attributes, and loses a Ctrl-C that comes then.
TIME_WAIT, SYN_RECV, SYN_SENT = int(TcpState.TIME_WAIT), int(TcpState.SYN_RECV), int(TcpState.SYN_SENT)


class InOrder:
    """Puts in order what comes piece by piece: changes (`tells` is CHANGES), some of which have not happened after all, or
    whole lives. It holds what may still be taken back, or have others before it.
    """  # fmt: skip

    def __init__(self, tells: int) -> None:
        self._tells = tells
        self._held: Array | None = None

    def pass_through(self, records: Array, before_ns: int | None) -> Array:
        """What has happened until `before_ns` of what is held and `records`, all of it where that is None."""
        if self._held is not None and len(self._held):
            records = join_records([self._held, records])
        if self._tells == CHANGES:
            told, self._held = settle(records, before_ns)
        else:
            told, self._held = split_at(by_time(records), before_ns)
        return told


def settle(records: Array, before_ns: int | None) -> tuple[Array, Array]:
    """(what has happened until `before_ns`, by time; what is held until it is told in order) of `records`, in the order
    of their ring where they have one time. None: hold nothing.

    The timer of a mini-socket that was deleted may be set anew at once: then the change has not happened, and the next record
    of that object, of the same time, takes it back.
    """
    records = by_time(records)
    hints = records["hints"]
    told = np.ones(len(records), dtype=np.bool_)
    backs = np.flatnonzero(hints & BACK)
    if len(backs):
        told[backs] = False
        told[_taken_back(records, backs)] = False
    mark_reuse(records, np.flatnonzero(told & (hints & GONE != 0) & (records["from"] == TIME_WAIT)))
    if len(backs):
        records = take_records(records, told)
    return split_at(records, before_ns)


def count_happened(records: Array) -> int:
    """How many changes `settle` will leave of what the kernel told."""
    return len(records) - 2 * int(np.count_nonzero(records["hints"] & BACK))


def by_time(records: Array) -> Array:
    """The records in the order of their times."""
    at_ns = np.ascontiguousarray(records["at_ns"])
    return records if (at_ns[1:] >= at_ns[:-1]).all() else take_records(records, np.argsort(at_ns, kind="stable"))


def split_at(records: Array, before_ns: int | None) -> tuple[Array, Array]:
    """(those until `before_ns`, the others) of records in the order of their times. None: all, none."""
    count = len(records)
    if before_ns is not None:
        count = int(np.searchsorted(records["at_ns"], np.uint64(max(before_ns, 0)), "right"))
    return records[:count], records[count:]


def _taken_back(records: Array, backs: Array) -> list[int]:
    """The rows that the rows `backs` take back: of each, the last one before it of the same object that was GONE."""
    objects = records["object"]
    rows = np.flatnonzero((records["hints"] & (GONE | BACK) != 0) & np.isin(objects, objects[backs]))
    gone_by_object: dict[int, int] = {}
    found = []
    for row, number, hints in zip(rows.tolist(), objects[rows].tolist(), records["hints"][rows].tolist(), strict=True):
        if not hints & BACK:
            gone_by_object[number] = row
        elif number in gone_by_object:
            found.append(gone_by_object.pop(number))
    return found


def mark_reuse(records: Array, ended: Array) -> None:
    """Mark those of the rows `ended`, ends of TIME_WAIT, that a new connection of the same two ends has brought about."""
    reached = records["to"]
    begun = np.flatnonzero((reached == SYN_RECV) | (reached == SYN_SENT))
    if not len(ended) or not len(begun):
        return
    begins = take_records(records, begun)
    hashes = _hashes(begins)
    order = np.argsort(hashes)
    begins, hashes = take_records(begins, order), hashes[order]
    ends = take_records(records, ended)
    wanted = _hashes(ends)
    first, last = (np.searchsorted(hashes, wanted, side) for side in ("left", "right"))
    for number in range(min(int((last - first).max()), MOST_BEGINS)):
        places = np.flatnonzero(first + number < last)
        one, other = take_records(ends, places), take_records(begins, (first + number)[places])
        same = np.ones(len(places), dtype=np.bool_)
        for name in ENDS:
            same &= np.all(one[name] == other[name], axis=tuple(range(1, one[name].ndim)))
        rows, one, other = ended[places[same]], one[same], other[same]
        is_call = other["to"] == SYN_SENT
        after_ns = other["at_ns"].astype(np.int64) - one["at_ns"].astype(np.int64)
        after_ns[is_call] *= -1  # connect() has begun when it takes the place
        at_once = (after_ns >= 0) & (after_ns <= AT_ONCE_NS)
        records["hints"][rows[at_once]] |= np.where(is_call[at_once], REUSED | IN_CALL, REUSED).astype(np.uint16)


def _hashes(records: Array) -> Array:
    """Of what tells a connection from every other of its time: namespace, addresses and ports."""
    found = np.zeros(len(records), dtype=np.uint64)
    for name in ENDS:
        column = records[name]
        for part in column.view(np.uint64).T if column.ndim == 2 else (column,):
            found = (found ^ part.astype(np.uint64)) * SPREAD
            found ^= found >> np.uint64(32)
    return found
