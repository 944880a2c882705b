"""Records of the kernel's ring in the order in which things happened, and without what did not happen after all."""

from __future__ import annotations

import numpy as np

from finwait.tcp.state import TcpState
from finwait.wire.bpf_layouts import ENUMS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from finwait.table.batch import Array

SETTLED_NS = 20_000_000  # rows are held for so long: what is told late, or taken back, is told by then
AT_ONCE_NS = (
    1_000_000  # between the end of a TIME_WAIT and the begin of what takes its place; the port of connect() comes late
)
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
    told = np.ones(len(records), dtype=np.bool_)
    rows = np.flatnonzero(records["hints"] & (GONE | BACK))
    columns = (rows, records["object"][rows], records["hints"][rows])
    gone_by_object: dict[int, int] = {}
    for row, number, hints in zip(*(column.tolist() for column in columns), strict=True):
        if hints & BACK:
            told[row] = False
            gone = gone_by_object.pop(number, None)
            if gone is not None:
                told[gone] = False
        else:
            gone_by_object[number] = row
    mark_reuse(records, np.flatnonzero(told & (records["hints"] & GONE != 0) & (records["from"] == TIME_WAIT)))
    late = np.zeros(len(records), dtype=np.bool_) if before_ns is None else records["at_ns"] > before_ns
    happened = records[told & ~late]
    return happened[np.argsort(happened["at_ns"], kind="stable")], records[told & late]


def mark_reuse(records: Array, ended: Array) -> None:
    """Mark those of the rows `ended`, ends of TIME_WAIT, that a new connection of the same two ends has brought about."""
    begun = np.flatnonzero(np.isin(records["to"], (SYN_RECV, SYN_SENT)))
    if not len(ended) or not len(begun):
        return
    begins: dict[bytes, list[tuple[int, bool]]] = {}
    facts = (records["at_ns"][begun].tolist(), (records["to"][begun] == SYN_SENT).tolist())
    for ends, at_ns, is_call in zip(_ends(records, begun), *facts, strict=True):
        begins.setdefault(ends, []).append((at_ns, is_call))
    for row, ends, at_ns in zip(ended.tolist(), _ends(records, ended), records["at_ns"][ended].tolist(), strict=True):
        for begin_ns, is_call in begins.get(ends, ()):
            after_ns = at_ns - begin_ns if is_call else begin_ns - at_ns  # connect() has begun when it takes the place
            if 0 <= after_ns <= AT_ONCE_NS:
                records["hints"][row] |= REUSED | (IN_CALL if is_call else 0)


def _ends(records: Array, rows: Array) -> list[bytes]:
    """What tells a connection from every other of its time: namespace, addresses and ports."""
    chosen = records[rows]
    parts = [np.ascontiguousarray(chosen[name]).view(np.uint8).reshape(len(rows), -1) for name in ENDS]
    packed = np.concatenate(parts, axis=1)
    return [row.tobytes() for row in packed]
