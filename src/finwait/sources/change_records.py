"""Records of changes, whoever tells them: BPF (bpf/changes.bpf.h), sock_diag, or a recording.

A record is a `struct finwait_change`, and behind it `within_ns`: for so long before `at_ns` the change may have happened, 0
where it was seen as it happened.
"""

from __future__ import annotations

import numpy as np

from finwait.wire.bpf_layouts import ENUMS
from finwait.wire.bpf_records import numpy_dtype

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from finwait.table.batch import Array

CHANGE = np.dtype(numpy_dtype("finwait_change"))  # type: ignore[call-overload]
LIFETIME = np.dtype(numpy_dtype("finwait_lifetime"))  # type: ignore[call-overload]
TOTALS = np.dtype(numpy_dtype("finwait_totals"))  # type: ignore[call-overload]
LOOKED_UP = np.dtype([*CHANGE.descr, ("within_ns", "u8")])  # what sock_diag finds
ONLY_CHANGE = 1 << 15  # of `hints`, beside enum finwait_hints: nothing else was seen of the socket (sock_diag)
LONGEST_TICK_NS = np.uint64(10_000_000)  # HZ=100: BPF looks up timers, which are set to the tick
CHANGES, LIFETIMES, COUNTS, SOCKETS = (
    ENUMS[f"FINWAIT_WANT_{name}"] for name in ("CHANGES", "LIFETIMES", "TOTALS", "SOCKETS")
)


def within_ns(records: Array) -> Array:
    """For how long before its time each change may have happened."""
    if "within_ns" in (records.dtype.names or ()):
        return records["within_ns"]
    return ticks_of(records["evidence"])


def ticks_of(evidence: Array) -> Array:
    """The same of what BPF tells."""
    return np.where(evidence == ENUMS["FINWAIT_LOOKUP"], LONGEST_TICK_NS, np.uint64(0))


def take_records(records: Array, rows: Array) -> Array:
    """The records that `rows` (a mask or positions) selects: as blocks of bytes, which NumPy moves twenty times as fast as
    structs.
    """  # fmt: skip
    return _as_bytes(records)[rows].view(records.dtype)


def join_records(parts: Sequence[Array]) -> Array:
    """The records of all `parts`, which are of one type, one behind the other."""
    return np.concatenate([_as_bytes(part) for part in parts]).view(parts[0].dtype)


def _as_bytes(records: Array) -> Array:
    return records.view(np.dtype((np.void, records.dtype.itemsize)))
