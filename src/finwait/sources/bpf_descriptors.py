"""Every descriptor of a TCP socket as columns: bpf/task_files.bpf.c, iter/task_file with bpf_sock_from_file()."""

from __future__ import annotations

import numpy as np

from finwait.sources.libbpf import BpfObject, read_iterator
from finwait.wire.bpf_records import Layout, comm_text, numpy_dtype

TYPE_CHECKING = False
if TYPE_CHECKING:
    from finwait.table.batch import Array

DESCRIPTOR = np.dtype(numpy_dtype("finwait_descriptor"))  # type: ignore[call-overload]
_PROCESS = Layout("finwait_process")


def read_descriptors(walker: BpfObject) -> tuple[Array, Array, Array]:
    """(inodes, process ids, descriptors) of a loaded object ``task_files``; pieces are cut at once, so that a million take 12
    bytes each.
    """  # fmt: skip
    parts: list[tuple[Array, Array, Array]] = []
    rest = b""
    for piece in read_iterator(walker.open_iterator("list_task_files")):
        data = rest + piece if rest else piece
        whole = len(data) // DESCRIPTOR.itemsize * DESCRIPTOR.itemsize
        rest = data[whole:]
        rows = np.frombuffer(data, dtype=DESCRIPTOR, count=whole // DESCRIPTOR.itemsize)
        parts.append((rows["inode"].copy(), rows["tgid"].copy(), rows["fd"].copy()))
    if not parts:
        return np.zeros(0, np.uint32), np.zeros(0, np.uint32), np.zeros(0, np.uint32)
    inodes, pids, fds = zip(*parts, strict=True)
    return np.concatenate(inodes), np.concatenate(pids), np.concatenate(fds)


def read_processes(walker: BpfObject) -> dict[int, tuple[str, int]]:
    """(name, cgroup v2 id) by process id, as the walk of an object with the map `processes` left them."""
    found = {}
    for pid, process in walker.read_map("processes"):
        cgroup_id, comm = next(_PROCESS.records(process))
        found[int.from_bytes(pid, "little")] = (comm_text(comm), cgroup_id)
    return found
