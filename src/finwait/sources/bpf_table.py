"""Rows of the TCP sockets of a namespace by BPF: bpf/list_tcp.bpf.c over iter/tcp, and bound sockets by a dump with bit 13."""

from __future__ import annotations

import numpy as np

from finwait.sources.diag_columns import mapped_rows
from finwait.sources.diag_table import DuplicateFilter
from finwait.sources.libbpf import read_iterator
from finwait.sources.sock_diag import walk_notice
from finwait.table.batch import ROWS_PER_BATCH, Batch, ColumnData
from finwait.tcp.state import TcpState
from finwait.wire.bpf_records import numpy_dtype
from finwait.wire.inet_diag import AF_INET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from finwait.table.batch import Array, Mask
    from finwait.table.snapshot import Notice

CONNECTION = np.dtype(numpy_dtype("finwait_connection"))  # type: ignore[call-overload]
COLUMNS = frozenset({
    "state", "family", "ip_version", "local_address", "local_port", "peer_address", "peer_port", "interface", "recv_q",
    "send_q", "accept_queue_length", "accept_queue_limit", "uid", "inode", "cookie", "cgroup_id", "shutdown",
})  # fmt: skip


def read_connections(
    descriptor: int, wanted: Sequence[str], interface_names: Mapping[int, str], notices: list[Notice]
) -> Iterator[Batch]:
    """What the iterator `descriptor` writes as batches; closes it. A socket that came twice is told in `notices`."""
    seen = DuplicateFilter()
    names = [name for name in dict.fromkeys((*wanted, "cookie", "state")) if name in COLUMNS]
    for rows in _pieces(descriptor):
        yield seen.pass_through(_batch_of(rows, names, interface_names))
    notice = walk_notice(seen.duplicates, interrupted=False)
    if notice is not None:
        notices.append(notice)


def _pieces(descriptor: int) -> Iterator[Array]:
    """Records, at most ROWS_PER_BATCH at once."""
    limit = ROWS_PER_BATCH // 4 * CONNECTION.itemsize
    held: list[bytes] = []
    size = 0
    for piece in read_iterator(descriptor):
        held.append(piece)
        size += len(piece)
        if size >= limit:
            data = b"".join(held)
            whole = size // CONNECTION.itemsize * CONNECTION.itemsize
            held, size = [data[whole:]], size - whole
            yield np.frombuffer(data, dtype=CONNECTION, count=whole // CONNECTION.itemsize)
    if size:
        yield np.frombuffer(b"".join(held), dtype=CONNECTION)


def _batch_of(rows: Array, names: Sequence[str], interface_names: Mapping[int, str]) -> Batch:
    full = rows["is_mini"] == 0
    listens = rows["state"] == TcpState.LISTEN
    return Batch(len(rows), {name: _READERS[name](rows, full, listens, interface_names) for name in names})


def _plain(field: str) -> Callable[..., ColumnData]:
    return lambda rows, *_: ColumnData(np.ascontiguousarray(rows[field]))


def _of_full(field: str) -> Callable[..., ColumnData]:
    return lambda rows, full, *_: ColumnData(np.ascontiguousarray(rows[field]), full)


def _queue(field: str, *, of_listener: bool) -> Callable[..., ColumnData]:
    return lambda rows, _, listens, __: ColumnData(np.ascontiguousarray(rows[field]), listens == of_listener)


def _inode(rows: Array, *_: object) -> ColumnData:
    return ColumnData(np.ascontiguousarray(rows["inode"]), rows["inode"] != 0)


def _interface(rows: Array, _: Mask, __: Mask, names: Mapping[int, str]) -> ColumnData:
    index, inverse = np.unique(rows["bound_dev_if"], return_inverse=True)
    texts = tuple(names.get(number, str(number)) for number in index.tolist())
    return ColumnData(inverse.astype("i4"), rows["bound_dev_if"] != 0, texts)


def ip_versions(family: Array, local_address: Array) -> Array:
    """The version of IP that each row speaks; a mapped address is IPv4."""
    return np.where((family == AF_INET) | mapped_rows(local_address), 4, 6).astype(np.uint8)


def _ip_version(rows: Array, *_: object) -> ColumnData:
    return ColumnData(ip_versions(rows["family"], np.ascontiguousarray(rows["local_address"])))


_READERS: dict[str, Callable[..., ColumnData]] = {
    **{
        name: _plain(name)
        for name in ("state", "family", "local_address", "local_port", "peer_address", "peer_port", "cookie")
    },
    **{name: _of_full(name) for name in ("uid", "cgroup_id", "shutdown")},
    "recv_q": _queue("rqueue", of_listener=False),
    "send_q": _queue("wqueue", of_listener=False),
    "accept_queue_length": _queue("rqueue", of_listener=True),
    "accept_queue_limit": _queue("wqueue", of_listener=True),
    "inode": _inode,
    "interface": _interface,
    "ip_version": _ip_version,
}
