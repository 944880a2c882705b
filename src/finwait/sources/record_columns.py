"""Records of row-by-row formats (/proc/net/tcp, text of netstat and ss) to columns."""

from __future__ import annotations

import numpy as np

from finwait.sources.diag_columns import mapped_rows
from finwait.table.batch import ADDRESS_BYTES, Batch, ColumnData, storage_dtype
from finwait.table.columns import ADDRESS, COLUMN_BY_NAME, TEXT
from finwait.table.owners import BY_RECORDING, HALF_OPEN, PROCESS, TIME_WAIT, names_of_cgroup
from finwait.tcp.state import TcpState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from finwait.wire.records import SocketRecord

    Value = int | float | str | bytes | bool | None

RECORDS_PER_BATCH = 8_192
_ATTRIBUTE_BY_COLUMN = {
    "state": "state", "family": "family", "local_address": "src", "local_port": "sport", "peer_address": "dst",
    "peer_port": "dport", "interface": "interface", "timer": "timer", "expires_ms": "expires_ms",
    "retransmits": "retrans", "uid": "uid", "inode": "inode", "cookie": "cookie", "mark": "mark",
    "cgroup": "cgroup", "v6only": "v6only",
}  # fmt: skip


_OWNER_PART = {"process": 0, "pid": 1, "fd": 2}
_OWNER_PARTS = frozenset({*_OWNER_PART, "matched_by"})


def _value_of(name: str) -> Callable[[SocketRecord], Value]:
    """What reads column `name` from a record."""
    listen = TcpState.LISTEN
    if name in {"recv_q", "send_q"}:
        queue = "rqueue" if name == "recv_q" else "wqueue"
        return lambda record: None if record.state == listen else getattr(record, queue)
    if name in {"accept_queue_length", "accept_queue_limit"}:
        queue = "rqueue" if name == "accept_queue_length" else "wqueue"
        return lambda record: getattr(record, queue) if record.state == listen else None
    if name in {"container", "unit"}:
        return lambda record: names_of_cgroup(record.cgroup)[name == "unit"]
    if name == "owner_kind":
        return _kind_of
    if name == "matched_by":
        return lambda record: BY_RECORDING if record.owners else None
    if name in _ATTRIBUTE_BY_COLUMN:
        attribute = _ATTRIBUTE_BY_COLUMN[name]
        return lambda record: getattr(record, attribute)
    return lambda record: record.info.get(name) if record.info else None


def _kind_of(record: SocketRecord) -> str | None:
    """What a text tells of a socket's owner: itself, or by the state why there is none."""
    if record.owners:
        return PROCESS
    if record.state == TcpState.TIME_WAIT:
        return TIME_WAIT
    return HALF_OPEN if record.state == TcpState.SYN_RECV and not record.inode else None


def batches_of_records(records: Iterable[SocketRecord], wanted: Sequence[str]) -> Iterator[Batch]:
    """`records` in batches with the columns `wanted`."""
    chunk: list[SocketRecord] = []
    for record in records:
        chunk.append(record)
        if len(chunk) == RECORDS_PER_BATCH:
            yield _batch_of(chunk, wanted)
            chunk = []
    if chunk:
        yield _batch_of(chunk, wanted)


def _batch_of(records: Sequence[SocketRecord], wanted: Sequence[str]) -> Batch:
    """A row for each record, and where owners are wanted for each of its owners."""
    owners: list[tuple[str | None, int | None, int | None]] = []
    again = []
    rows = records
    if _OWNER_PARTS.intersection(wanted):
        rows = []
        for record in records:
            held = record.owners or ((None, None, None),)
            rows.extend([record] * len(held))
            owners.extend(held)
            again.extend([False, *[True] * (len(held) - 1)])
    columns = {}
    for name in wanted:
        if name == "ip_version":
            continue
        if name in _OWNER_PART:
            values: list[Value] = [owner[_OWNER_PART[name]] for owner in owners]
        else:
            read = _value_of(name)
            values = [read(record) for record in rows]
        if any(value is not None for value in values):
            columns[name] = _column_data(name, values)
    if "ip_version" in wanted:
        columns["ip_version"] = _ip_version(rows)
    return Batch(len(rows), columns, np.asarray(again, dtype=np.bool_) if any(again) else None)


def _column_data(name: str, values: Sequence[Value]) -> ColumnData:
    column = COLUMN_BY_NAME[name]
    valid = np.fromiter((value is not None for value in values), dtype=np.bool_, count=len(values))
    if column.kind == TEXT:
        codes: dict[str, int] = {}
        numbers = [0 if value is None else codes.setdefault(str(value), len(codes)) for value in values]
        return ColumnData(np.asarray(numbers, dtype="i4"), valid, tuple(codes))
    if column.kind == ADDRESS:
        joined = b"".join(value if isinstance(value, bytes) else bytes(ADDRESS_BYTES) for value in values)
        return ColumnData(np.frombuffer(joined, dtype=np.uint8).reshape(-1, ADDRESS_BYTES), valid)
    dtype = np.dtype(storage_dtype(column))
    limit = 1 if dtype.kind == "b" else int(np.iinfo(dtype).max)
    fits = [value if isinstance(value, int | float) and 0 <= value <= limit else None for value in values]
    valid &= np.fromiter((value is not None for value in fits), dtype=np.bool_, count=len(fits))
    return ColumnData(np.asarray([0 if value is None else int(value) for value in fits], dtype=dtype), valid)


def _ip_version(records: Sequence[SocketRecord]) -> ColumnData:
    addresses = np.frombuffer(b"".join(record.src or bytes(16) for record in records), dtype=np.uint8).reshape(-1, 16)
    family = np.asarray([record.family or 0 for record in records], dtype=np.uint8)
    version = np.where((family == 2) | mapped_rows(addresses), 4, 6).astype(np.uint8)
    return ColumnData(version, family != 0)
