"""Records of bpf/trace_tcp.bpf.c as batches of changes (`finwait.table.change.CHANGE_NAMES`)."""

from __future__ import annotations

from errno import errorcode

import numpy as np

from finwait.sources.bpf_table import ip_versions
from finwait.table.batch import Batch, ColumnData
from finwait.table.change import EVIDENCE
from finwait.tcp.causes import Seen, find_cause
from finwait.tcp.state import TcpState
from finwait.wire.bpf_layouts import ENUMS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from finwait.table.batch import Array
    from finwait.table.snapshot import Netns

_HINTS = {
    "rst_received": ENUMS["FINWAIT_RST_RECEIVED"],
    "rst_sent": ENUMS["FINWAIT_RST_SENT"],
    "by_timer": ENUMS["FINWAIT_BY_TIMER"],
    "linger_0": ENUMS["FINWAIT_LINGER_0"],
    "no_program": ENUMS["FINWAIT_NO_PROGRAM"],
    "released": ENUMS["FINWAIT_RELEASED"],
    "fast_open": ENUMS["FINWAIT_FAST_OPEN"],
    "gone": ENUMS["FINWAIT_GONE"],
    "reused": ENUMS["FINWAIT_REUSED"],
}


def batch_of(
    records: Array,
    clock_ns: int,
    netns: Sequence[Netns],
    names_of: Callable[[Iterable[int]], Mapping[int, str]],
) -> Batch:
    """`records` as a batch. clock_ns: what CLOCK_MONOTONIC lacks to the time of day. names_of: of processes, where known."""
    family = np.ascontiguousarray(records["family"])
    local_address, peer_address = (
        np.ascontiguousarray(records[name]) for name in ("local_address", "peer_address")
    )
    since = records["since_ns"]
    at = records["at_ns"].astype(np.int64)
    columns = {
        "at": ColumnData(at + clock_ns),
        "from": ColumnData(np.ascontiguousarray(records["from"])),
        "to": ColumnData(np.ascontiguousarray(records["to"])),
        "state": ColumnData(np.ascontiguousarray(records["to"])),
        "in_from_us": ColumnData(np.maximum(at - since.astype(np.int64), 0) // 1000, since != 0),
        "cookie": _where_not_zero(records["cookie"]),
        "netns_cookie": _where_not_zero(records["netns_cookie"]),
        "netns": _netns(records["netns_cookie"], netns),
        "family": ColumnData(family),
        "ip_version": ColumnData(ip_versions(family, local_address)),
        "local_address": ColumnData(local_address),
        "local_port": _where_not_zero(records["local_port"]),
        "peer_address": ColumnData(peer_address),
        "peer_port": ColumnData(np.ascontiguousarray(records["peer_port"])),
        "pid": _where_not_zero(records["tgid"]),
        "process": _processes(records["tgid"], names_of),
        "why": _causes(records),
        "error": _texts(records["error"], lambda number: errorcode.get(number, str(number)) if number else None),
        "evidence": ColumnData(records["evidence"].astype("i4"), None, EVIDENCE),
    }
    return Batch(len(records), columns)


def _where_not_zero(values: Array) -> ColumnData:
    return ColumnData(np.ascontiguousarray(values), values != 0)


def _texts(keys: Array, text_of: Callable[[int], str | None]) -> ColumnData:
    """A text column made of numbers, each distinct one named once."""
    numbers, inverse = np.unique(keys, return_inverse=True)
    texts = [text_of(number) for number in numbers.tolist()]
    dictionary = tuple(dict.fromkeys(text for text in texts if text is not None))
    codes = np.asarray([-1 if text is None else dictionary.index(text) for text in texts], dtype="i4")
    found = codes[inverse] if len(codes) else np.zeros(len(keys), dtype="i4")
    return ColumnData(np.maximum(found, 0), found >= 0, dictionary)


def _netns(cookies: Array, known: Sequence[Netns]) -> ColumnData:
    label_by_cookie = {netns.cookie: netns.label for netns in known}
    return _texts(cookies, lambda cookie: label_by_cookie.get(cookie, f"cookie:{cookie}"))


def _processes(tgids: Array, names_of: Callable[[Iterable[int]], Mapping[int, str]]) -> ColumnData:
    known = names_of(number for number in np.unique(tgids).tolist() if number)
    return _texts(tgids, lambda number: known.get(number) if number else None)


def _causes(records: Array) -> ColumnData:
    """Few combinations are many rows: each is asked once."""
    parts = ("from", "to", "error", "shutdown", "hints")
    keys = np.zeros(len(records), dtype=np.uint64)
    for part in parts:
        keys = keys << np.uint64(16) | records[part] if part == "hints" else keys << np.uint64(8) | records[part]
    return _texts(keys, _cause)


def _cause(key: int) -> str | None:
    hints, key = key & 0xFFFF, key >> 16
    shutdown, error, to, state = key & 255, key >> 8 & 255, key >> 16 & 255, key >> 24
    try:
        left, reached = TcpState(state), TcpState(to)
    except ValueError:
        return None
    seen = {name: bool(hints & bit) for name, bit in _HINTS.items()}
    return find_cause(left, reached, Seen(error=error, shutdown=shutdown, **seen))
