"""Records of the kernel's ring in the order in which things happened, and without what did not happen after all."""

from __future__ import annotations

import numpy as np

from finwait.sources.change_records import take_records
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


def settle(records: Array, before_ns: int | None) -> tuple[Array, Array]:
    """(what has happened until `before_ns`, by time; what is held until it is told in order) of `records`, in the order of the
    ring. None: hold nothing.

    The timer of a mini-socket that was deleted may be set anew at once: then the change has not happened, and the next record
    of that object takes it back.
    """
    hints = records["hints"]
    told = np.ones(len(records), dtype=np.bool_)
    backs = np.flatnonzero(hints & BACK)
    if len(backs):
        told[backs] = False
        told[_taken_back(records, backs)] = False
    mark_reuse(records, np.flatnonzero(told & (hints & GONE != 0) & (records["from"] == TIME_WAIT)))
    late = np.zeros(len(records), dtype=np.bool_) if before_ns is None else records["at_ns"] > before_ns
    rows = np.flatnonzero(told & ~late)
    in_order = rows[np.argsort(records["at_ns"][rows], kind="stable")]
    return take_records(records, in_order), take_records(records, told & late)


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
    begun = np.flatnonzero(np.isin(records["to"], (SYN_RECV, SYN_SENT)))
    if not len(ended) or not len(begun):
        return
    hashes = _hashes(records, begun)
    order = np.argsort(hashes)
    begun, hashes = begun[order], hashes[order]
    wanted = _hashes(records, ended)
    first, last = (np.searchsorted(hashes, wanted, side) for side in ("left", "right"))
    for number in range(min(int((last - first).max()), MOST_BEGINS)):
        has_more = first + number < last
        rows, begins = ended[has_more], begun[(first + number)[has_more]]
        same = np.ones(len(rows), dtype=np.bool_)
        for name in ENDS:
            equal = records[name][rows] == records[name][begins]
            same &= equal if equal.ndim == 1 else equal.all(axis=1)
        rows, begins = rows[same], begins[same]
        is_call = records["to"][begins] == SYN_SENT
        after_ns = records["at_ns"][begins].astype(np.int64) - records["at_ns"][rows].astype(np.int64)
        after_ns[is_call] *= -1  # connect() has begun when it takes the place
        at_once = (after_ns >= 0) & (after_ns <= AT_ONCE_NS)
        records["hints"][rows[at_once]] |= np.where(is_call[at_once], REUSED | IN_CALL, REUSED).astype(np.uint16)


def _hashes(records: Array, rows: Array) -> Array:
    """Of what tells a connection from every other of its time: namespace, addresses and ports."""
    found = np.zeros(len(rows), dtype=np.uint64)
    for name in ENDS:
        column = records[name][rows]
        for part in column.view(np.uint64).T if column.ndim == 2 else (column,):
            found = (found ^ part.astype(np.uint64)) * SPREAD
            found ^= found >> np.uint64(32)
    return found
