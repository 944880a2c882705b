"""Ghosts: descriptors of TCP connections that have ended, reset by the peer, while the program still holds them.

They are in no dump of the kernel and in no file of /proc, unless bind() chose their port: those stand in a dump as CLOSED
too. BPF sees them as sockets in state CLOSE that are shut down both
ways; /proc only as sockets of protocol TCP whose inode no dump shows, as those never connected are too.
"""

from __future__ import annotations

import os

import numpy as np

from finwait.errors import NotPermitted, NotSupported, SourceError
from finwait.sources.bpf_descriptors import DESCRIPTOR, read_processes
from finwait.sources.choice import bpf_fallback, may_load_bpf
from finwait.sources.libbpf import BpfObject, drain
from finwait.sources.owners import OwnerIndex, hidden_notice, read_proc_index
from finwait.sources.proc_fd import read_comm, read_inode, read_protocol
from finwait.sources.readers import open_readers
from finwait.table.batch import Batch, ColumnData
from finwait.table.owners import BY_PROC_FD, BY_TASK_FILE, OWNER_KINDS
from finwait.table.request import Request
from finwait.table.snapshot import Notice
from finwait.tcp.state import TcpState
from finwait.text.messages import mark
from finwait.wire.bpf_records import globals_section, numpy_dtype
from finwait.wire.inet_diag import AF_INET, AF_INET6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from finwait.table.batch import Array
    from finwait.table.snapshot import Netns

SHUT_BOTH = 3  # sk_shutdown (include/net/sock.h, SHUTDOWN_MASK)
_PROTOCOLS = frozenset({"TCP", "TCPv6"})
NOT_TOLD_APART = mark("without BPF, ended connections cannot be told from sockets that were never connected")
NOT_TOLD_REMEDY = mark("CAP_BPF and CAP_PERFMON, or root")
_ENDPOINTS = np.dtype(numpy_dtype("finwait_endpoints"))  # type: ignore[call-overload]
_ROW = np.dtype([("held", DESCRIPTOR), ("ends", _ENDPOINTS)])


def count_ghosts(
    source: str, request: Request, netns: Sequence[Netns], notices: list[Notice], index: OwnerIndex | None
) -> list[tuple[str | None, int, int]]:
    """(process, its id, how many descriptors of ended connections it holds) in the namespaces `netns`. index: descriptors
    with which all sockets there were joined, where that was done.
    """  # fmt: skip
    found: dict[tuple[int, str | None], int] = {}
    for every in read_ghosts(source, request, netns, notices, index):
        batch = every if request.family is None else every.take(every.column("family").values == request.family)
        process = batch.column("process")
        for pid, code in zip(batch.column("pid").values.tolist(), process.values.tolist(), strict=True):
            key = (pid, (process.dictionary or ())[code])
            found[key] = found.get(key, 0) + 1
    return [(process, pid, count) for (pid, process), count in sorted(found.items(), key=lambda item: item[0][0])]


def read_ghosts(
    source: str, request: Request, netns: Sequence[Netns], notices: list[Notice], index: OwnerIndex | None = None
) -> Iterator[Batch]:
    """A row for each descriptor, with process, pid and fd; by BPF also with the addresses that the connection had.

    netns: the namespaces that are meant. Raises SourceError and its kin where `source` cannot be read.
    """
    if source in {"auto", "bpf"}:
        try:
            if source == "bpf" or may_load_bpf():
                yield from _by_bpf(netns)
                return
        except (NotSupported, NotPermitted, SourceError) as error:
            if source == "bpf":
                raise
            if not any(notice.code == "bpf_fallback" for notice in notices):
                notices.append(bpf_fallback(error))
    notices.append(Notice("ghosts_not_told_apart", NOT_TOLD_APART, missing="ghosts", remedy=NOT_TOLD_REMEDY))
    left = _unmatched(request) if index is None or index.matched_by == BY_TASK_FILE else index
    if left.hidden and not any(notice.code == "owners_not_permitted" for notice in notices):
        notices.append(hidden_notice(left.hidden))
    inodes, pids, fds = (column[~left.matched].tolist() for column in (left.inodes, left.pids, left.fds))
    held = _tcp_descriptors(request, netns, zip(inodes, pids, fds, strict=True))
    held = _still_unseen(request, held)
    if held:
        yield _batch_of(request, held)


def _by_bpf(netns: Sequence[Netns]) -> Iterator[Batch]:
    with BpfObject("task_files") as walker:
        walker.write_section(".bss", globals_section("task_files", ".bss", {"only_closed": 1}))
        rows = np.frombuffer(drain(walker.open_iterator("list_task_files")), dtype=_ROW)
        processes = read_processes(walker)
    held = rows["held"]
    mask = (held["shutdown"] == SHUT_BOTH) & np.isin(held["netns_cookie"], [found.cookie or 0 for found in netns])
    _, first = np.unique(held[["cookie", "tgid", "fd"]][mask], return_index=True)  # threads may have copies
    rows = rows[mask][np.sort(first)]
    held = rows["held"]
    if not len(rows):
        return
    pids, inverse = np.unique(held["tgid"], return_inverse=True)
    names = tuple(processes.get(pid, ("?", 0))[0] for pid in pids.tolist())
    label_by_cookie = {found.cookie: found.label for found in netns}
    cookies, which = np.unique(held["netns_cookie"], return_inverse=True)
    fields = {"pid": "tgid", "fd": "fd", "inode": "inode", "cookie": "cookie", "uid": "uid", "family": "family",
              "cgroup_id": "cgroup_id", "shutdown": "shutdown", "netns_cookie": "netns_cookie"}  # fmt: skip
    columns = {name: ColumnData(np.ascontiguousarray(held[field])) for name, field in fields.items()}
    for name in ("local_address", "peer_address", "local_port", "peer_port"):
        columns[name] = ColumnData(np.ascontiguousarray(rows["ends"][name]))
    columns["process"] = ColumnData(inverse.astype("i4"), None, names)
    columns["netns"] = ColumnData(
        which.astype("i4"), None, tuple(label_by_cookie[cookie] for cookie in cookies.tolist())
    )
    yield _finished(columns, len(rows), BY_TASK_FILE)


def _finished(columns: dict[str, ColumnData], length: int, matched_by: str) -> Batch:
    zeros = np.zeros(length, dtype="i4")
    return Batch(
        length,
        {
            **columns,
            "state": ColumnData(np.full(length, TcpState.CLOSE, dtype=np.uint8)),
            "owner_kind": ColumnData(zeros, None, OWNER_KINDS),
            "matched_by": ColumnData(zeros, None, (matched_by,)),
        },
    )


def _unmatched(request: Request) -> OwnerIndex:
    """All descriptors of sockets, those matched that a dump of the kernel shows."""
    index = read_proc_index(request.roots)
    index.matched |= np.isin(index.inodes, _dumped_inodes(request))
    return index


def _tcp_descriptors(
    request: Request, netns: Sequence[Netns], descriptors: Iterable[tuple[int, int, int]]
) -> list[tuple[int, int, int, int]]:
    """(process id, number, inode, family) of those of `descriptors` (inode, process id, number) that are TCP sockets of
    processes in `netns`.
    """  # fmt: skip
    places = {place.inode for place in netns}
    held: list[tuple[int, int, int, int]] = []
    inside: dict[int, bool] = {}
    for inode, pid, fd in descriptors:
        if pid not in inside:
            inside[pid] = _netns_inode(request.roots.proc, pid) in places
        protocol = read_protocol(request.roots.proc, pid, fd) if inside[pid] else None
        if protocol in _PROTOCOLS:
            held.append((pid, fd, inode, AF_INET6 if protocol == "TCPv6" else AF_INET))
    return held


def _still_unseen(request: Request, held: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Those of `held` that another dump does not show either, and that are there after it: not opened since the first one, nor
    closed, nor another socket by now.
    """  # fmt: skip
    if not held:
        return []
    shown = set(_dumped_inodes(request).tolist())
    proc = request.roots.proc
    return [
        (pid, fd, inode, family)
        for pid, fd, inode, family in held
        if inode not in shown and read_inode(proc, pid, fd) == inode
    ]


def _batch_of(request: Request, held: list[tuple[int, int, int, int]]) -> Batch:
    pids, fds, numbers, families = (np.asarray(column) for column in zip(*held, strict=True))
    distinct, inverse = np.unique(pids, return_inverse=True)
    names = tuple(read_comm(pid, request.roots.proc) or "?" for pid in distinct.tolist())
    columns = {
        "pid": ColumnData(pids.astype(np.uint32)),
        "fd": ColumnData(fds.astype(np.uint32)),
        "inode": ColumnData(numbers.astype(np.uint32)),
        "family": ColumnData(families.astype(np.uint8)),
        "process": ColumnData(inverse.astype("i4"), None, names),
    }
    return _finished(columns, len(held), BY_PROC_FD)


def _dumped_inodes(request: Request) -> Array:
    """The inodes of all sockets that the kernel shows where `request` looks."""
    everything = Request(netns=request.netns, all_netns=request.all_netns, roots=request.roots)
    found = [
        batch.column("inode").values
        for reader in open_readers(everything, "sock_diag", [])
        for batch in reader.batches(everything, ("inode",), [])
    ]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.uint32)


def _netns_inode(proc: str, pid: int) -> int | None:
    try:
        return os.stat(f"{proc}/{pid}/ns/net").st_ino
    except OSError:
        return None
