"""Names for what the kernel numbers: processes, users, control groups. Each is looked up once."""

from __future__ import annotations

from finwait.sources.cgroups import CgroupPaths, read_process_cgroup
from finwait.sources.proc_fd import read_comm
from finwait.table.owners import names_of_cgroup
from finwait.wire.bpf_records import NO_UID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from finwait.table.request import Roots


class OwnerNames:
    """processes: (name, cgroup v2 id) by process id, as the BPF walk told them; others are read from /proc."""

    def __init__(self, roots: Roots, processes: Mapping[int, tuple[str, int]] | None = None) -> None:
        self.roots = roots
        self._told = dict(processes or {})
        self._comm_by_pid: dict[int, str | None] = {}
        self._path_by_pid: dict[int, str | None] = {}
        self._user_by_uid: dict[int, str] = {}
        self._identity_by_path: dict[str | None, tuple[str | None, str | None]] = {None: (None, None)}
        self._paths = CgroupPaths(roots)

    def add_processes(self, processes: Mapping[int, tuple[str, int]]) -> None:
        """More of what the BPF walk told."""
        self._told.update(processes)

    def process(self, pid: int) -> str | None:
        """The name of process `pid`."""
        if pid in self._told:
            return self._told[pid][0]
        if pid not in self._comm_by_pid:
            self._comm_by_pid[pid] = read_comm(pid, self.roots.proc)
        return self._comm_by_pid[pid]

    def user(self, uid: int | None) -> str | None:
        """The name of user `uid`, or its number where it has none or another host's users are meant."""
        if uid is None or uid == NO_UID:
            return None
        if uid not in self._user_by_uid:
            self._user_by_uid[uid] = _user_name(uid) if self.roots.proc == "/proc" else str(uid)
        return self._user_by_uid[uid]

    def cgroup(self, cgroup_id: int) -> str | None:
        """The path of the cgroup v2 directory with id `cgroup_id`."""
        return self._paths.path_of(cgroup_id)

    def identity(self, pid: int | None, cgroup_id: int) -> tuple[str | None, str | None]:
        """(container, unit) of process `pid`; where that is None, of the cgroup `cgroup_id`."""
        path = self.cgroup(cgroup_id) if pid is None else self._process_path(pid)
        return self.identity_of_path(path)

    def identity_of_path(self, path: str | None) -> tuple[str | None, str | None]:
        """(container, unit) that cgroup `path` names."""
        if path not in self._identity_by_path:
            self._identity_by_path[path] = names_of_cgroup(path)
        return self._identity_by_path[path]

    def _process_path(self, pid: int) -> str | None:
        """By /proc where it still runs, which also knows cgroup v1; else by the id that BPF saw."""
        if pid not in self._path_by_pid:
            path = read_process_cgroup(pid, self.roots.proc)
            if path is None and pid in self._told:
                path = self.cgroup(self._told[pid][1])
            self._path_by_pid[pid] = path
        return self._path_by_pid[pid]


def _user_name(uid: int) -> str:
    from pwd import getpwuid

    try:
        return getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
