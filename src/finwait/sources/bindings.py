"""Names of one host or namespace: interfaces, cgroups, the range of ephemeral ports."""

from __future__ import annotations

import os
from _socket import if_nameindex

from finwait.errors import FinwaitError, SourceError
from finwait.sources.namespaces import Place, open_inside
from finwait.table.bindings import Bindings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from finwait.table.request import Roots


def read_interface_names(place: Place) -> dict[int, str]:
    """Interface names by index, as they are inside `place`; empty where they cannot be had."""
    try:
        return dict(open_inside(place, if_nameindex))
    except (OSError, FinwaitError):  # the namespace may have ended
        return {}


def read_bindings(place: Place, roots: Roots, *, devices: bool, cgroups: Sequence[str], port_range: bool) -> Bindings:
    """What a filter asks for, looked up inside `place`. Raises SourceError for a cgroup that is not there."""
    index_by_interface = {name: index for index, name in read_interface_names(place).items()} if devices else {}
    cgroup_id_by_path = {path: read_cgroup_id(path, roots) for path in cgroups}
    found = read_port_range(place, roots) if port_range else None
    return Bindings(index_by_interface, cgroup_id_by_path, found)


def read_cgroup_id(path: str, roots: Roots) -> int:
    """The id of the cgroup v2 directory at `path`, which is its inode number. The path is whole or, as ss prints it,
    below the mount point. Raises SourceError where no cgroup v2 directory is there.
    """  # fmt: skip
    mounts = [roots.cgroup] if roots.cgroup is not None else find_cgroup2_mounts(roots)
    devices = {_device(mount) for mount in mounts} - {None}
    for candidate in (path, *(f"{mount}/{path}" for mount in mounts)):
        try:
            found = os.stat(candidate)
        except (OSError, ValueError):
            continue
        if found.st_dev in devices:
            return found.st_ino
    raise SourceError("there is no cgroup v2 directory '{path}'", path=path)


def _device(path: str) -> int | None:
    try:
        return os.stat(path).st_dev
    except OSError:
        return None


def find_cgroup2_mounts(roots: Roots) -> list[str]:
    """Where cgroup v2 is mounted, often /sys/fs/cgroup or /sys/fs/cgroup/unified (man 5 proc, mountinfo)."""
    try:
        lines = _read_text(f"{roots.proc}/self/mountinfo").splitlines()
    except OSError:
        return []
    fields = [line.partition(" - ") for line in lines]
    return [before.split()[4] for before, _, behind in fields if behind.split()[:1] == ["cgroup2"]]


def read_port_range(place: Place, roots: Roots) -> tuple[int, int] | None:
    """net.ipv4.ip_local_port_range of `place`; None where it cannot be read."""
    path = f"{roots.proc if place.path is None else '/proc'}/sys/net/ipv4/ip_local_port_range"
    try:
        first, last = open_inside(place, lambda: _read_text(path)).split()
        return int(first), int(last)
    except (OSError, ValueError):
        return None


def _read_text(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
