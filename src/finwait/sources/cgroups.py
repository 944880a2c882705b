"""Control groups of this host: the path of a process's (/proc/PID/cgroup) and of a socket's id (the cgroup v2 tree).

Source: man 7 cgroups; Documentation/admin-guide/cgroup-v2.rst. INET_DIAG_CGROUP_ID is the inode number of the directory.
"""

from __future__ import annotations

import os

from finwait.sources.bindings import find_cgroup2_mounts
from finwait.wire.cgroup_path import parse_proc_cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from finwait.table.request import Roots

_LINKS_OF_A_LEAF = 2  # its name and its `.`; each child has one more in its `..` (kernfs_refresh_inode)


def read_process_cgroup(pid: int, proc: str = "/proc") -> str | None:
    """The path of the process's cgroup that tells most (`parse_proc_cgroup`), below the root of its hierarchy as the
    reader's cgroup namespace shows it; None where the process has ended or may not be read.
    """  # fmt: skip
    try:
        with open(f"{proc}/{pid}/cgroup", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            return parse_proc_cgroup(file.read())
    except OSError:
        return None


class CgroupPaths:
    """Paths of cgroup v2 directories by id, below their mount point and beginning with `/`, which is the mount itself.

    The tree is walked at the first look-up. An id that is not in it may be a newer cgroup's, so the tree is walked once
    more; or a removed one's, whose sockets live on, so the first further walk that does not find its id is the last. A
    walk that does find it is one that had new cgroups to find. A path that was once found stays, its cgroup removed or
    not. Whoever watches for hours makes a new object for each look.
    """

    __slots__ = ("_may_walk", "_path_by_id", "_roots")

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._path_by_id: dict[int, str] | None = None
        self._may_walk = True

    def path_of(self, cgroup_id: int) -> str | None:
        """None for 0, which is no cgroup's, and for an id that is not in the tree. Never raises OSError."""
        if cgroup_id == 0:
            return None
        if self._path_by_id is None:
            self._path_by_id = _walk_mounts(self._roots)
        if cgroup_id not in self._path_by_id and self._may_walk:
            self._path_by_id |= _walk_mounts(self._roots)
            self._may_walk = cgroup_id in self._path_by_id
        return self._path_by_id.get(cgroup_id)


def _walk_mounts(roots: Roots) -> dict[int, str]:
    """Paths by id of every cgroup v2 mount. All show one hierarchy, some only a part of it: a mount whose root was met in
    an earlier one shows nothing new, and one that shows more than an earlier one has the longer paths, which stay.
    """  # fmt: skip
    path_by_id: dict[int, str] = {}
    for mount in [roots.cgroup] if roots.cgroup is not None else find_cgroup2_mounts(roots):
        try:
            root = os.stat(mount).st_ino
        except OSError:
            continue
        if root not in path_by_id:
            path_by_id[root] = "/"
            _walk(mount, path_by_id)
    return path_by_id


def _walk(mount: str, path_by_id: dict[int, str]) -> None:
    """Add every directory below `mount`. One without children is not opened: it has some dozens of files to pass over."""
    waiting = [""]
    while waiting:
        above = waiting.pop()
        try:
            with os.scandir(mount + above) as entries:
                children = [child for child in entries if child.is_dir(follow_symlinks=False)]
        except OSError:  # it has just been removed, or may not be read
            continue
        for child in children:
            path = f"{above}/{child.name}"
            path_by_id[child.inode()] = path
            if not _is_leaf(child):
                waiting.append(path)


def _is_leaf(directory: os.DirEntry[str]) -> bool:
    """Whether it has no children or is gone. Elsewhere a count of 1 means that the file system does not count."""
    try:
        return directory.stat(follow_symlinks=False).st_nlink == _LINKS_OF_A_LEAF
    except OSError:
        return True
