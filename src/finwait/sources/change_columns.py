"""Records of bpf/trace_tcp.bpf.c as batches of changes (`finwait.table.change.CHANGE_NAMES`)."""

from __future__ import annotations

from errno import errorcode

import numpy as np

from finwait.sources.bpf_table import ip_versions
from finwait.sources.change_records import ONLY_CHANGE, within_ns
from finwait.table.batch import Batch, ColumnData, texts_by_number
from finwait.table.change import EVIDENCE, INFERRED, LOOKUP, Part, Times, Totals
from finwait.table.snapshot import Netns
from finwait.tcp.causes import Seen, find_cause, find_only_cause
from finwait.tcp.state import LIFE_ORDER, TcpState
from finwait.wire.bpf_layouts import ENUMS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from finwait.table.batch import Array

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
    "in_call": ENUMS["FINWAIT_IN_CALL"],
}


def batch_of(
    records: Array,
    clock_ns: int,
    netns: Sequence[Netns],
    names_of: Callable[[Iterable[int]], Mapping[int, str]],
) -> Batch:
    """`records` as a batch. clock_ns: what CLOCK_MONOTONIC lacks to the time of day. names_of: of processes, where known."""
    family = np.ascontiguousarray(records["family"])
    local_address, peer_address = (np.ascontiguousarray(records[name]) for name in ("local_address", "peer_address"))
    since = records["since_ns"]
    at = records["at_ns"].astype(np.int64)
    columns = {
        "at": ColumnData(at + clock_ns),
        "from": _where_not_zero(records["from"]),
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
        "error": texts_by_number(_where_not_zero(records["error"]), lambda number: errorcode.get(number, str(number))),
        "evidence": ColumnData(records["evidence"].astype("i4"), None, EVIDENCE),
        "within_us": ColumnData(
            within_ns(records).astype(np.int64) // 1000, records["evidence"] != EVIDENCE.index(INFERRED)
        ),
    }
    return Batch(len(records), columns)


def lifetimes_of(
    records: Array,
    clock_ns: int,
    netns: Sequence[Netns],
    names_of: Callable[[Iterable[int]], Mapping[int, str]],
) -> Batch:
    """Records of whole connections as a batch: of their last change, with the columns of LIFETIME_NAMES and ``path``."""
    batch = batch_of(records, clock_ns, netns, names_of)
    at, began = records["at_ns"].astype(np.int64), records["begins_ns"][:, 0].astype(np.int64)
    states = records["states"]
    columns = {
        "began": ColumnData(began + clock_ns, began != 0),
        "lasted_us": ColumnData((at - began) // 1000, began != 0),
        "opened_by": _first_of(states, {TcpState.SYN_SENT: "local", TcpState.SYN_RECV: "peer"}, places=1),
        "closed_by": _first_of(np.column_stack([states, records["to"]]), _CLOSED_BY),
        "path": _paths(records),
        "bytes_acked": ColumnData(np.ascontiguousarray(records["bytes_acked"])),
        "bytes_received": ColumnData(np.ascontiguousarray(records["bytes_received"])),
        "rtt_us": _where_not_zero(records["srtt_us"]),
        "total_retrans": ColumnData(np.ascontiguousarray(records["total_retrans"])),
    }
    return Batch(batch.length, {**batch.columns, **columns})


# Not each state is always seen. Who comes to CLOSING or TIME-WAIT has sent a FIN before the other side's came.
_CLOSED_BY = {
    **dict.fromkeys((TcpState.FIN_WAIT1, TcpState.FIN_WAIT2, TcpState.CLOSING, TcpState.TIME_WAIT), "local"),
    **dict.fromkeys((TcpState.CLOSE_WAIT, TcpState.LAST_ACK), "peer"),
}


def _first_of(states: Array, word_by_state: Mapping[TcpState, str], places: int | None = None) -> ColumnData:
    """The word of the first of the states that each row has, among its first `places`."""
    words = tuple(dict.fromkeys(word_by_state.values()))
    found = np.full(len(states), -1, dtype="i4")
    for column in reversed(range(states.shape[1] if places is None else places)):
        for state, word in word_by_state.items():
            found[states[:, column] == int(state)] = words.index(word)
    return ColumnData(np.maximum(found, 0), found >= 0, words)


def _paths(records: Array) -> ColumnData:
    """``state us state us ... state``: the machine's words; -1 us where the begin of a state was not seen."""
    begins = np.concatenate([records["begins_ns"].astype(np.int64), np.zeros((len(records), 1), np.int64)], axis=1)
    counts = (records["states"] != 0).sum(axis=1)
    begins[np.arange(len(records)), counts] = records["at_ns"].astype(np.int64)
    spent = np.where(begins[:, :-1] != 0, (begins[:, 1:] - begins[:, :-1]) // 1000, -1).tolist()
    tokens = [TcpState(number).token if number in TcpState._value2member_map_ else "" for number in range(256)]
    rows = zip(records["states"].tolist(), spent, counts.tolist(), records["to"].tolist(), strict=True)
    texts = []
    for states, times, count, to in rows:
        left = count - (count > 0 and states[count - 1] == to)  # what is left of it stays in the state that it had
        texts.append(" ".join([*(f"{tokens[states[at]]} {times[at]}" for at in range(left)), tokens[to]]))
    dictionary = tuple(dict.fromkeys(texts))
    code_by_text = {text: code for code, text in enumerate(dictionary)}
    return ColumnData(np.asarray([code_by_text[text] for text in texts], dtype="i4"), None, dictionary)


def totals_of(
    now: Array,
    before: Array,
    netns: Sequence[Netns],
    by: str | None = None,
    names_of: Callable[[Iterable[int]], Mapping[int, str]] = lambda _: {},
) -> tuple[Totals, ...]:
    """What was counted between two looks at TOTALS, the most first. by: listener or process, where sums are apart by it."""
    known = {one.cookie: one for one in netns}
    before_by_group = {_group_of(one): one for one in before}
    found = []
    for element in now:
        cookie, member = _group_of(element)
        earlier = before_by_group.get((cookie, member))
        changes, times, sums = (
            element[name].astype(np.int64) - (0 if earlier is None else earlier[name].astype(np.int64))
            for name in ("changes", "times", "time_us")
        )
        if changes.any():
            label = known.get(cookie, Netns(cookie) if cookie else None)
            name = names_of([member]).get(member) if by == "process" and member else None
            of = None if by is None or not cookie else Part(by, member or None, name)
            found.append(Totals(label, _by_states(changes), _times(times.reshape(16, -1), sums), of))
    return tuple(sorted(found, key=lambda totals: (totals.netns is None, -totals.count)))


def _group_of(element: Array) -> tuple[int, int]:
    """(namespace's cookie, member)"""
    return int(element["netns_cookie"]), int(element["member"])


def _by_states(changes: Array) -> dict[tuple[TcpState | None, TcpState], int]:
    return {
        (left, reached): int(changes[(left or 0) * 16 + reached])
        for left in (*LIFE_ORDER, None)
        for reached in LIFE_ORDER
        if changes[(left or 0) * 16 + reached] > 0
    }


def _times(buckets: Array, sums: Array) -> dict[TcpState, Times]:
    return {
        state: Times(tuple(buckets[state].tolist()), int(sums[state])) for state in LIFE_ORDER if buckets[state].any()
    }


def _where_not_zero(values: Array) -> ColumnData:
    return ColumnData(np.ascontiguousarray(values), values != 0)


def _netns(cookies: Array, known: Sequence[Netns]) -> ColumnData:
    label_by_cookie = {netns.cookie: netns.label for netns in known}
    return texts_by_number(_where_not_zero(cookies), lambda cookie: label_by_cookie.get(cookie, f"cookie:{cookie}"))


def _processes(tgids: Array, names_of: Callable[[Iterable[int]], Mapping[int, str]]) -> ColumnData:
    known = names_of(number for number in np.unique(tgids).tolist() if number)
    return texts_by_number(_where_not_zero(tgids), known.get)


def _causes(records: Array) -> ColumnData:
    """Few combinations are many rows: each is asked once."""
    parts = ("evidence", "from", "to", "error", "shutdown", "hints")
    keys = np.zeros(len(records), dtype=np.uint64)
    for part in parts:
        keys = keys << np.uint64(16) | records[part] if part == "hints" else keys << np.uint64(8) | records[part]
    return texts_by_number(ColumnData(keys), _cause)


def _cause(key: int) -> str | None:
    hints, key = key & 0xFFFF, key >> 16
    shutdown, error, to, state, evidence = (key >> shift & 255 for shift in (0, 8, 16, 24, 32))
    if evidence == EVIDENCE.index(INFERRED):
        return None  # of what was missed nobody has seen why
    try:
        left, reached = TcpState(state), TcpState(to)
    except ValueError:
        return None
    if evidence == EVIDENCE.index(LOOKUP) or hints & ONLY_CHANGE:
        return find_only_cause(left, reached)
    seen = {name: bool(hints & bit) for name, bit in _HINTS.items()}
    return find_cause(left, reached, Seen(error=error, shutdown=shutdown, **seen))
