"""Counting by owner in the kernel: one walk over all descriptors marks the sockets, one over the sockets counts the marks.

Each socket is counted at one moment, by the second walk, so that none is counted twice whatever happens to it between the
two. What the marks cannot hold comes as records: sockets of several processes, sockets in state CLOSE, sockets without a
mark. No NumPy: the answer of a million sockets is some kilobytes.
"""

from __future__ import annotations

from struct import Struct

from finwait.sources.choice import allocated_sockets
from finwait.sources.libbpf import BpfObject, drain, read_iterator
from finwait.sources.namespaces import visit_places
from finwait.sources.sock_diag import netns_of, open_beside
from finwait.table.owners import NO_DESCRIPTOR, NOT_PERMITTED, OWNER_KINDS, PROCESS
from finwait.tcp.state import TcpState
from finwait.wire.bpf_records import (
    NO_MARK,
    Layout,
    comm_text,
    globals_section,
)  # fmt: skip
from finwait.wire.inet_diag import AF_INET, AF_INET6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

    from finwait.table.request import Request
    from finwait.table.snapshot import Provenance

LEAST_BITS, MOST_BITS = 12, 24  # of the slots for marks, 16 bytes each
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
    owners. ghosts: descriptors by process id of sockets whose connection has ended. processes: (name, cgroup id) by
    process id.
    """  # fmt: skip

    def __init__(self) -> None:
        self.counts: list[tuple[OwnedGroup, int]] = []
        self.shared: list[list[OwnedGroup]] = []
        self.ghosts: dict[int, int] = {}
        self.processes: dict[int, tuple[str, int]] = {}


def count_owners(request: Request, provenance: Provenance) -> OwnerCounts:
    """Count the sockets that `request` asks for by owner. Raises NotSupported, NotPermitted, SourceError."""
    provenance.source = "bpf"
    bits = slot_bits(request.roots.proc)
    with BpfObject("count_owners", {"marks": 1 << bits}) as walker:
        walks = _Walks(request, provenance, walker, bits)
        walks.run()
        return walks.counts


def slot_bits(proc: str) -> int:
    """Binary logarithm of the room for marks: twice the TCP sockets that this host has allocated, rounded up."""
    return min(max((2 * allocated_sockets(proc)).bit_length(), LEAST_BITS), MOST_BITS)


class _Walks:
    """The walks of one count and what they told."""

    def __init__(self, request: Request, provenance: Provenance, walker: BpfObject, bits: int) -> None:
        self.request = request
        self.provenance = provenance
        self.walker = walker
        self.bits = bits
        self.counts = OwnerCounts()
        self.descriptors: dict[int, list[dict[str, int]]] = {}  # by inode
        self.class_by_index: dict[int, dict[str, int]] = {}

    def run(self) -> None:
        self._configure()
        closed = self._mark()
        loose = self._walk_sockets(first=True)
        self._read_classes()
        came_since = {row["inode"] for row in loose if row["reason"] == NO_MARK} - self.descriptors.keys()
        if came_since:
            self._configure(only_new=1)
            self._mark()
        self._add_loose(loose, self._unheld(came_since - self.descriptors.keys()))
        self._add_closed(closed, {row["inode"] for row in loose})
        for pid, process in self.walker.read_map("processes"):
            cgroup_id, comm = next(_PROCESS.records(process))
            self.counts.processes[int.from_bytes(pid, "little")] = (comm_text(comm), cgroup_id)

    def _configure(self, **values: int) -> None:
        self.walker.write_section(".data", globals_section("count_owners", ".data", {"slot_bits": self.bits, **values}))

    def _read_classes(self) -> None:
        for key, number in self.walker.read_map("classes"):
            index = int.from_bytes(number, "little")
            found = self.class_by_index[index] = next(_CLASS.named(key))
            numbers = _COUNTS.unpack(self.walker.read_element("counts", index))
            for at, count in enumerate(numbers):
                if count:
                    group = _group_of(found, at % 16, AF_INET6 if at >= 16 else AF_INET)
                    if self._is_asked(group):
                        self.counts.counts.append((group, count))

    def _is_asked(self, group: OwnedGroup) -> bool:
        family = self.request.family
        return bool(self.request.states >> group.state & 1) and (family is None or family == group.family)

    def _mark(self) -> list[dict[str, int]]:
        """The walk over descriptors: keeps those of sockets that a mark cannot hold, returns those in state CLOSE."""
        closed = []
        for row in _DESCRIPTOR.named(drain(self.walker.open_iterator("mark_owners"))):
            if row["state"] == TcpState.CLOSE:
                closed.append(row)
            else:
                self.descriptors.setdefault(row["inode"], []).append(row)
        return closed

    def _walk_sockets(self, *, first: bool) -> list[dict[str, int]]:
        """The second walk, in each namespace that was asked for."""

        def enter() -> tuple[int, socket]:
            return open_beside(lambda: self.walker.open_iterator("count_owners"))

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

    def _unheld(self, inodes: set[int]) -> dict[int, str | None]:
        """Why the sockets `inodes` have no descriptor: those that a third look shows unchanged have none, or
        only one in a process that may not be looked at; the others went away.
        """  # fmt: skip
        if not inodes:
            return {}
        from finwait.sources.proc_fd import hidden_processes, sees_all_processes

        self._configure(only_unmarked=1)
        still = {row["inode"] for row in self._walk_sockets(first=False)}
        may_be_hidden = hidden_processes(self.request.roots.proc) or not sees_all_processes()
        kind = NOT_PERMITTED if may_be_hidden else NO_DESCRIPTOR
        return {inode: kind if inode in still else None for inode in inodes}

    def _add_loose(self, loose: list[dict[str, int]], unheld: dict[int, str | None]) -> None:
        for row in loose:
            held = self.descriptors.get(row["inode"], [])
            first = self.class_by_index.get(row["class_index"])
            group = _group_of(first or (held[0] if held else row), row["state"], row["family"], row["owner_kind"])
            if not self._is_asked(group):
                continue
            owners = {descriptor["tgid"] for descriptor in held} | ({first["tgid"]} if first else set())
            if owners:
                self.counts.shared.append([_owned_by(group, pid) for pid in sorted(owners)])
                continue
            if row["reason"] == NO_MARK:
                group.kind = unheld.get(row["inode"])
            self.counts.counts.append((group, 1))

    def _add_closed(self, closed: list[dict[str, int]], moved: set[int]) -> None:
        """Sockets in state CLOSE: bound ones are counted, whoever holds an ended connection or a fresh one is remembered."""
        cookies = {netns.cookie for netns in self.provenance.netns}
        owners: dict[int, list[OwnedGroup]] = {}
        for row in {(row["cookie"], row["tgid"], row["fd"]): row for row in closed}.values():  # threads may have copies
            if row["netns_cookie"] not in cookies or row["inode"] in moved:
                continue
            if self.request.family not in {None, row["family"]}:
                continue
            if row["shutdown"] == SHUT_BOTH:
                self.counts.ghosts[row["tgid"]] = self.counts.ghosts.get(row["tgid"], 0) + 1
            if row["is_bound"]:
                group = _group_of(row, TcpState.CLOSE, row["family"])
                if self._is_asked(group):
                    owners.setdefault(row["cookie"], []).append(group)
        self.counts.shared.extend(owners.values())


def _group_of(row: dict[str, int], state: int, family: int, owner_kind: int = 0) -> OwnedGroup:
    """A group of the class that `row` tells: a class, a descriptor or a loose socket."""
    kind = OWNER_KINDS[row.get("owner_kind", owner_kind)]
    pid = row["tgid"] if kind == PROCESS else None
    return OwnedGroup(row["netns_cookie"], row["cgroup_id"], pid, row["uid"], state, family, kind)


def _owned_by(group: OwnedGroup, pid: int) -> OwnedGroup:
    return OwnedGroup(group.netns_cookie, group.cgroup_id, pid, group.uid, group.state, group.family, PROCESS)


_CLASS = Layout("finwait_class")
_COUNTS = Struct("=32Q")  # struct finwait_counts
_LOOSE = Layout("finwait_loose")
_DESCRIPTOR = Layout("finwait_descriptor")
_PROCESS = Layout("finwait_process")
