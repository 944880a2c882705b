"""Counting by owner in the kernel: one walk over all descriptors marks the sockets, one over the sockets counts the marks.

Each socket is counted at one moment, by the second walk, so that none is counted twice whatever happens to it between the
two. What the marks cannot hold comes as records: sockets of several processes, sockets in state CLOSE, sockets without a
mark. No NumPy: the answer of a million sockets is some kilobytes.
"""

from __future__ import annotations

from finwait.errors import SourceError
from finwait.sources.libbpf import BpfObject, drain, read_iterator
from finwait.sources.namespaces import visit_places
from finwait.sources.sock_diag import netns_of, open_diag_socket
from finwait.table.owners import NO_DESCRIPTOR, NOT_PERMITTED, OWNER_KINDS, PROCESS
from finwait.tcp.state import TcpState
from finwait.wire.bpf_records import (
    NO_MARK,
    NO_ROOM,
    SHARED,
    Layout,
    comm_text,
    global_value,
    globals_section,
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

    from finwait.table.request import Request
    from finwait.table.snapshot import Provenance

SHUT_BOTH = 3  # sk_shutdown of a connection that has ended (include/net/sock.h, SHUTDOWN_MASK)


class OwnedGroup:
    """Sockets that are counted together. pid: None without an owner; kind: as in table.owners, None: unknown."""

    __slots__ = ("cgroup_id", "family", "kind", "netns_cookie", "pid", "state", "uid")

    def __init__(
        self, netns_cookie: int, cgroup_id: int, pid: int | None, uid: int, state: int, family: int, kind: str | None
    ) -> None:
        self.netns_cookie = netns_cookie
        self.cgroup_id = cgroup_id
        self.pid = pid
        self.uid = uid
        self.state = state
        self.family = family
        self.kind = kind


class OwnerCounts:
    """counts: (group, sockets) where each socket has one owner or none. shared: one entry a socket, a group for each of its
    owners. ghosts, unconnected: descriptors by process id of sockets in no walk: ended connections, and those never
    connected or bound. processes: (name, cgroup id) by process id.
    """  # fmt: skip

    def __init__(self) -> None:
        self.counts: list[tuple[OwnedGroup, int]] = []
        self.shared: list[list[OwnedGroup]] = []
        self.ghosts: dict[int, int] = {}
        self.unconnected: dict[int, int] = {}
        self.processes: dict[int, tuple[str, int]] = {}


def count_owners(request: Request, provenance: Provenance) -> OwnerCounts:
    """Count the sockets that `request` asks for by owner. Raises NotSupported, NotPermitted, SourceError."""
    provenance.source = "bpf"
    with (
        BpfObject("mark_owners") as marker,
        BpfObject("count_owners", {"marks": marker.map_descriptor("marks")}) as counter,
    ):
        walks = _Walks(request, provenance, marker, counter)
        walks.run()
        return walks.counts


class _Walks:
    """The walks of one count and what they told."""

    def __init__(self, request: Request, provenance: Provenance, marker: BpfObject, counter: BpfObject) -> None:
        self.request = request
        self.provenance = provenance
        self.marker = marker
        self.counter = counter
        self.counts = OwnerCounts()
        self.descriptors: dict[int, list[dict[str, int]]] = {}  # by cookie

    def run(self) -> None:
        closed = self._mark()
        loose = self._walk_sockets(first=True)
        for key, value in self.counter.read_map("groups"):
            group = _group_of(next(_GROUP.named(key)))
            if self._is_asked(group):
                self.counts.counts.append((group, int.from_bytes(value, "little")))
        came_since = {row["cookie"] for row in loose if row["reason"] == NO_MARK}
        if came_since:
            self._mark_new()
        self._add_loose(loose, self._unheld(came_since - self.descriptors.keys()))
        self._add_closed(closed, {row["cookie"] for row in loose})
        for pid, process in self.marker.read_map("processes"):
            cgroup_id, comm = next(_PROCESS.records(process))
            self.counts.processes[int.from_bytes(pid, "little")] = (comm_text(comm), cgroup_id)

    def _is_asked(self, group: OwnedGroup) -> bool:
        family = self.request.family
        return bool(self.request.states >> group.state & 1) and (family is None or family == group.family)

    def _mark(self) -> list[dict[str, int]]:
        """The first walk: keeps the descriptors of shared sockets; returns those of sockets in state CLOSE."""
        closed = []
        for row in _DESCRIPTOR.named(drain(self.marker.open_iterator)):
            if row["state"] == TcpState.CLOSE:
                closed.append(row)
            else:
                self.descriptors.setdefault(row["cookie"], []).append(row)
        if global_value("mark_owners", "unmarked", self.marker.read_section(".bss")):
            raise SourceError("BPF failed ({request}: {reason})", request="sk_storage", reason="out of memory")
        return closed

    def _mark_new(self) -> None:
        """The first walk once more, for sockets that had no mark."""
        self.marker.write_section(".bss", globals_section("mark_owners", ".bss", {"only_new": 1}))
        for row in _DESCRIPTOR.named(drain(self.marker.open_iterator)):
            rows = self.descriptors.setdefault(row["cookie"], [])
            if not any(known["tgid"] == row["tgid"] and known["fd"] == row["fd"] for known in rows):
                rows.append(row)

    def _walk_sockets(self, *, first: bool) -> list[dict[str, int]]:
        """The second walk, in each namespace that was asked for."""

        def enter() -> tuple[int, socket]:
            diag = open_diag_socket()  # it knows the namespace's cookie
            try:
                return self.counter.open_iterator(), diag
            except BaseException:
                diag.close()
                raise

        pieces: list[bytes] = []
        notices = self.provenance.notices if first else []
        for place, (descriptor, diag) in visit_places(self.request, enter, notices):
            try:
                pieces.extend(read_iterator(descriptor))
                if first:
                    self.provenance.netns.append(netns_of(diag, place.name, place.inode))
            finally:
                diag.close()
        return list(_LOOSE.named(b"".join(pieces)))

    def _unheld(self, cookies: set[int]) -> dict[int, str | None]:
        """Why the sockets `cookies` have an inode and no descriptor: those that a third look shows unchanged have none, or
        only one in a process that may not be looked at; the others went away.
        """  # fmt: skip
        if not cookies:
            return {}
        from finwait.sources.proc_fd import hidden_processes

        self.counter.write_section(".bss", globals_section("count_owners", ".bss", {"only_unmarked": 1}))
        still = {row["cookie"] for row in self._walk_sockets(first=False)}
        kind = NOT_PERMITTED if hidden_processes(self.request.roots.proc) else NO_DESCRIPTOR
        return {cookie: kind if cookie in still else None for cookie in cookies}

    def _add_loose(self, loose: list[dict[str, int]], unheld: dict[int, str | None]) -> None:
        for row in loose:
            group = _group_of(row)
            if not self._is_asked(group):
                continue
            owners = {held["tgid"] for held in self.descriptors.get(row["cookie"], ())}
            if row["reason"] == NO_ROOM:
                self.counts.counts.append((group, 1))
            elif owners or row["reason"] == SHARED:
                self.counts.shared.append([_owned_by(group, pid) for pid in sorted(owners | {row["tgid"]} - {0})])
            else:
                group.kind = unheld.get(row["cookie"], NO_DESCRIPTOR)
                self.counts.counts.append((group, 1))

    def _add_closed(self, closed: list[dict[str, int]], moved: set[int]) -> None:
        """Sockets in state CLOSE: bound ones are counted, whoever holds an ended connection or a fresh one is remembered."""
        cookies = {netns.cookie for netns in self.provenance.netns}
        owners: dict[int, list[OwnedGroup]] = {}
        seen: set[tuple[int, int]] = set()
        for row in closed:
            if row["netns_cookie"] not in cookies or row["cookie"] in moved or (row["cookie"], row["tgid"]) in seen:
                continue
            seen.add((row["cookie"], row["tgid"]))
            is_ghost = row["shutdown"] == SHUT_BOTH
            if is_ghost or not row["is_bound"]:
                tally = self.counts.ghosts if is_ghost else self.counts.unconnected
                tally[row["tgid"]] = tally.get(row["tgid"], 0) + 1
            if row["is_bound"]:
                group = _group_of({**row, "owner_kind": 0})
                if self._is_asked(group):
                    owners.setdefault(row["cookie"], []).append(group)
        self.counts.shared.extend(owners.values())


def _group_of(row: dict[str, int]) -> OwnedGroup:
    kind = OWNER_KINDS[row["owner_kind"]]
    pid = row["tgid"] if kind == PROCESS else None
    return OwnedGroup(row["netns_cookie"], row["cgroup_id"], pid, row["uid"], row["state"], row["family"], kind)


def _owned_by(group: OwnedGroup, pid: int) -> OwnedGroup:
    return OwnedGroup(group.netns_cookie, group.cgroup_id, pid, group.uid, group.state, group.family, PROCESS)


_GROUP = Layout("finwait_group")
_LOOSE = Layout("finwait_loose")
_DESCRIPTOR = Layout("finwait_descriptor")
_PROCESS = Layout("finwait_process")
