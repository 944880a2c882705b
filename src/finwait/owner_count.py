"""A count by owner that the kernel made: its groups, named and put together as they were asked for. No table, no NumPy."""

from __future__ import annotations

import os
import time

from finwait.errors import NotPermitted, NotSupported, SourceError
from finwait.query.groups import by_owner, groups_of, owned_key, sorted_by_size
from finwait.sources.choice import bpf_fallback, may_load_bpf
from finwait.table.owners import BY_CGROUP_ID, BY_TASK_FILE, NOT_PERMITTED
from finwait.table.snapshot import Notice, Provenance, Snapshot
from finwait.tcp.state import TcpState
from finwait.text.messages import mark
from finwait.wire.inet_diag import ALL_STATES_MASK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from finwait.sources.owner_census import OwnedGroup, OwnerCounts
    from finwait.table.request import Request
    from finwait.table.snapshot import Cell, Netns

OWNERS_HIDDEN = mark("sockets of processes that may not be looked at, not even by BPF: {count}")
_STATE_TOKEN = {int(state): state.token for state in TcpState}
_FAMILY_NAME = {2: "inet", 10: "inet6"}


def count_in_kernel(request: Request, by: tuple[str, ...], source: str, notices: list[Notice]) -> Snapshot | None:
    """The sockets that `request` asks for by the columns `by`; None where these are not by owner, or ask for more than the
    kernel counts, or BPF cannot be used here, which only its choice by name makes an error, and which `notices` are told.
    """  # fmt: skip
    if not by_owner(by) or not _CELLS.keys() >= set(by) or source not in {"auto", "bpf"}:
        return None
    if source == "auto" and not may_load_bpf():
        return None
    from finwait.sources.owner_census import count_owners

    provenance = Provenance("bpf", host=os.uname().nodename, taken_from=time.time())
    try:
        counts = count_owners(request, provenance)
    except (NotSupported, NotPermitted, SourceError) as error:
        if source == "bpf":
            raise
        notices.append(bpf_fallback(error))
        return None
    provenance.taken_to = time.time()
    return _Naming(request, by, counts, provenance).snapshot()


class _Naming:
    """Turns numbers into cells and puts equal keys together."""

    def __init__(self, request: Request, by: tuple[str, ...], counts: OwnerCounts, provenance: Provenance) -> None:
        from finwait.sources.owner_names import OwnerNames

        self.by = by
        self.all_states = request.states == ALL_STATES_MASK
        self.counts = counts
        self.provenance = provenance
        self.names = OwnerNames(request.roots, counts.processes)
        self.netns_by_cookie = {netns.cookie: netns for netns in provenance.netns}

    def snapshot(self) -> Snapshot:
        count_by_key: dict[tuple[Cell, ...], int] = {}
        shared = 0
        for group, count in self.counts.counts:
            key = self._key(group)
            count_by_key[key] = count_by_key.get(key, 0) + count
        for groups in self.counts.shared:
            keys = {self._key(owned) for owned in groups}
            shared += len(keys) > 1
            for key in keys:
                count_by_key[key] = count_by_key.get(key, 0) + 1
        total = sum(count for _, count in self.counts.counts) + len(self.counts.shared)
        self._tell_hidden()
        found = sorted_by_size(groups_of(self.by, count_by_key))
        return Snapshot(self.by, found, total, self.provenance, shared=shared, ghosts=self._ghosts())

    def _key(self, group: OwnedGroup) -> tuple[Cell, ...]:
        cells = tuple(_CELLS[name](self, group) for name in self.by)
        return owned_key(self.by, (*cells, group.kind, self.matched_by(group)))

    def _tell_hidden(self) -> None:
        hidden = sum(count for group, count in self.counts.counts if group.kind == NOT_PERMITTED)
        if hidden:
            self.provenance.add_notice(
                Notice("owners_not_permitted", OWNERS_HIDDEN, missing="process", arguments={"count": hidden})
            )

    def _ghosts(self) -> list[tuple[str | None, int, int]] | None:
        if not {"process", "pid"} & set(self.by) or not self.all_states:
            return None
        return [(self.names.process(pid), pid, count) for pid, count in sorted(self.counts.ghosts.items())]

    # -- cells

    def process(self, group: OwnedGroup) -> Cell:
        return None if group.pid is None else self.names.process(group.pid)

    def netns(self, group: OwnedGroup) -> Cell:
        found: Netns | None = self.netns_by_cookie.get(group.netns_cookie)
        return f"cookie:{group.netns_cookie}" if found is None else found.label

    def user(self, group: OwnedGroup) -> Cell:
        return self.names.user(group.uid)

    def cgroup(self, group: OwnedGroup) -> Cell:
        return self.names.cgroup(group.cgroup_id)

    def container(self, group: OwnedGroup) -> Cell:
        return self.names.identity(group.pid, group.cgroup_id)[0]

    def unit(self, group: OwnedGroup) -> Cell:
        return self.names.identity(group.pid, group.cgroup_id)[1]

    def matched_by(self, group: OwnedGroup) -> Cell:
        if group.pid is not None:
            return BY_TASK_FILE
        named = {"container", "unit"} & set(self.by) and any(self.names.identity(None, group.cgroup_id))
        return BY_CGROUP_ID if named else None


_CELLS: dict[str, Callable[[_Naming, OwnedGroup], Cell]] = {
    "state": lambda _, group: _STATE_TOKEN.get(group.state, str(group.state)),
    "family": lambda _, group: _FAMILY_NAME.get(group.family, str(group.family)),
    "pid": lambda _, group: group.pid,
    "uid": lambda _, group: None if group.uid == 0xFFFFFFFF else group.uid,
    "owner_kind": lambda _, group: group.kind,
    "matched_by": _Naming.matched_by,
    "process": _Naming.process,
    "user": _Naming.user,
    "cgroup": _Naming.cgroup,
    "cgroup_id": lambda _, group: group.cgroup_id or None,
    "container": _Naming.container,
    "unit": _Naming.unit,
    "netns": _Naming.netns,
    "netns_cookie": lambda _, group: group.netns_cookie,
}
