"""Which processes hold the sockets of a batch: an index of all descriptors, and the join of rows with it.

The index comes from one BPF walk over all descriptors (iter/task_file), else from /proc/PID/fd. A row stands once for each
of its socket's owners; a row without one says why.
"""

from __future__ import annotations

import numpy as np

from finwait.errors import NotPermitted, NotSupported, SourceError
from finwait.sources.owner_names import OwnerNames
from finwait.sources.proc_fd import hidden_processes, sees_all_processes
from finwait.table.batch import Batch, ColumnData, texts_by_number
from finwait.table.owners import (
    BY_CGROUP_ID,
    BY_PROC_FD,
    BY_TASK_FILE,
    HALF_OPEN,
    NO_DESCRIPTOR,
    NOT_ACCEPTED,
    NOT_PERMITTED,
    ORPHAN,
    OWNER_COLUMNS,
    OWNER_KINDS,
    PROCESS,
    TIME_WAIT,
)  # fmt: skip
from finwait.table.request import Request
from finwait.table.snapshot import Notice
from finwait.tcp.state import BOUND_INACTIVE, TcpState
from finwait.text.messages import mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from finwait.sources.readers import Reader
    from finwait.table.batch import Array, Mask
    from finwait.table.request import Roots

JOIN_COLUMNS = ("state", "inode", "uid", "cgroup_id")  # that a row must have to be joined
LOOKS = 3  # at all descriptors, where rows have an inode that none of them has
UNKNOWN_KIND = -1
BOUND_MASK = 1 << BOUND_INACTIVE

OWNERS_NOT_PERMITTED = mark(
    "processes whose descriptors could not be looked at: {count}, the first is process {pid}; their sockets have no owner here"
)
OWNERS_REMEDY = mark("root, or CAP_SYS_PTRACE")

_KIND = {kind: number for number, kind in enumerate(OWNER_KINDS)}


class OwnerIndex:
    """Descriptors of sockets, in order of `inodes`: what the kernel shows of a socket has its descriptor's inode, MPTCP's
    connections too, whose cookies are others. pids, fds: of the same length. matched_by: as in table.owners. processes:
    (name, cgroup id) by process id. hidden: processes that could not be looked at. matched: which of the descriptors a row
    was found for.
    """  # fmt: skip

    __slots__ = ("fds", "hidden", "inodes", "matched", "matched_by", "pids", "processes")

    def __init__(
        self,
        inodes: Array,
        pids: Array,
        fds: Array,
        matched_by: str,
        *,
        processes: Mapping[int, tuple[str, int]] | None = None,
        hidden: list[int] | None = None,
    ) -> None:
        order = np.lexsort((fds, pids, inodes))
        self.inodes, self.pids, self.fds = inodes[order], pids[order], fds[order]
        self._drop_copies()
        self.matched = np.zeros(len(self.inodes), dtype=np.bool_)
        self.matched_by = matched_by
        self.processes = dict(processes or {})
        self.hidden = hidden or []

    def _drop_copies(self) -> None:
        """A thread with descriptors of its own has copies of its process's, under the same numbers."""
        columns = (self.inodes, self.pids, self.fds)
        is_first = np.ones(len(self.inodes), dtype=np.bool_)
        is_first[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
        if not is_first.all():
            self.inodes, self.pids, self.fds = (column[is_first] for column in columns)


def read_index(source: str, roots: Roots, notices: list[Notice]) -> OwnerIndex:
    """The best index that there is. source: bpf (nothing else will do), auto, or another (only /proc)."""
    if source in {"auto", "bpf"}:
        from finwait.sources.choice import bpf_fallback, may_load_bpf

        try:
            if source == "bpf" or may_load_bpf():
                return read_bpf_index()
        except (NotSupported, NotPermitted, SourceError) as error:
            if source == "bpf":
                raise
            notices.append(bpf_fallback(error))
    return read_proc_index(roots)


def read_bpf_index() -> OwnerIndex:
    """Every TCP descriptor of the processes in our process id namespace. Raises NotSupported, NotPermitted, SourceError."""
    from finwait.sources.bpf_descriptors import read_descriptors, read_processes
    from finwait.sources.libbpf import BpfObject

    with BpfObject("task_files") as walker:
        inodes, pids, fds = read_descriptors(walker)
        return OwnerIndex(inodes, pids, fds, BY_TASK_FILE, processes=read_processes(walker))


def read_proc_index(roots: Roots) -> OwnerIndex:
    """Every socket descriptor that /proc shows. Raises SourceError where /proc cannot be read."""
    from finwait.sources.proc_fd import read_socket_descriptors

    found = read_socket_descriptors(roots.proc)
    columns = (np.asarray(found.inodes, np.uint64), np.asarray(found.pids, np.uint32), np.asarray(found.fds, np.uint32))
    return OwnerIndex(*columns, BY_PROC_FD, hidden=found.hidden)


class OwnerJoin:
    """Joins batches with their owners. wanted: columns to add. Notices about what could not be seen are in `notices`."""

    def __init__(self, source: str, roots: Roots, wanted: frozenset[str]) -> None:
        self.source = source
        self.roots = roots
        self.wanted = wanted
        self.notices: list[Notice] = []
        self.names = OwnerNames(roots)
        self._index: OwnerIndex | None = None
        self._looks = 0
        self._unheld: Array = np.zeros(0, dtype=np.uint32)  # inodes of sockets that no descriptor was found for
        self._unheld_kind: str | None = None
        self._hidden: list[int] = []

    def join(self, batch: Batch, reader: Reader) -> Batch:
        """`batch` with the columns that are wanted, a row for each owner."""
        if not self.wanted & OWNER_COLUMNS or not batch.length:
            return self.with_labels(batch)
        inode = batch.column("inode")
        held = inode.valid_mask() & (inode.values != 0)
        if held.any() and self._index is None:
            self._look()
        kinds = _kinds_of(batch, held)
        if self._index is None:  # no row has an inode, so nobody was asked
            return self.with_labels(
                self._explode(batch, np.zeros(0, np.int64), np.zeros(batch.length, np.int64), kinds)
            )
        first, count = self._find(batch, held)
        if self._is_missing(batch, held & (count == 0)).any() and self._looks < LOOKS:
            self._look_again(batch, held & (count == 0), reader)
            first, count = self._find(batch, held)
        kinds[held] = np.where(count[held] > 0, _KIND[PROCESS], self._kinds_of_unheld(batch.take(held)))
        return self.with_labels(self._explode(batch, first, count, kinds))

    def _is_missing(self, batch: Batch, without: Mask) -> Mask:
        """Which of the rows `without` an owner another look at all descriptors may find one for."""
        assert self._index is not None
        if self._index.hidden:
            return np.zeros(batch.length, dtype=np.bool_)
        return without & ~np.isin(batch.column("inode").values, self._unheld)

    def _look_again(self, batch: Batch, without: Mask, reader: Reader) -> None:
        """At all descriptors, and then at the sockets: those that are still there and still nobody's are held by none."""
        self._look()
        _, count = self._find(batch, batch.column("inode").valid_mask())
        left = without & (count == 0)
        if not left.any():
            return
        states = int(np.bitwise_or.reduce(1 << np.unique(batch.column("state").values[left]).astype(np.int64)))
        with reader.reopen() as again:
            request = Request(states=states | (BOUND_MASK if states >> TcpState.CLOSE & 1 else 0), roots=self.roots)
            present = [found.column("inode").values for found in again.batches(request, ("inode",), [])]
        still = np.intersect1d(batch.column("inode").values[left], np.concatenate(present) if present else [])
        self._unheld = np.union1d(self._unheld, still)
        if len(still) and self._unheld_kind is None:
            self._hidden = hidden_processes(self.roots.proc)
            may_be_hidden = self._hidden or not sees_all_processes()
            self._unheld_kind = NOT_PERMITTED if may_be_hidden else NO_DESCRIPTOR

    def _kinds_of_unheld(self, batch: Batch) -> Array:
        """What to say of rows with an inode that no descriptor has."""
        assert self._index is not None
        if self._index.hidden:
            return np.full(batch.length, _KIND[NOT_PERMITTED])
        known = np.isin(batch.column("inode").values, self._unheld)
        return np.where(known, _KIND[self._unheld_kind or NO_DESCRIPTOR], UNKNOWN_KIND)

    def _look(self) -> None:
        before = self._index
        self._index = read_index(self.source, self.roots, self.notices)
        if before is not None:
            self._index.matched |= np.isin(self._index.inodes, before.inodes[before.matched])
        self._hidden = self._index.hidden or self._hidden
        self._looks += 1
        self.names.add_processes(self._index.processes)

    def _find(self, batch: Batch, held: Mask) -> tuple[Array, Array]:
        """Where the owners of each row begin in the index, and how many they are."""
        assert self._index is not None
        column = batch.column("inode")
        inodes = column.values.astype(self._index.inodes.dtype)
        first = np.searchsorted(self._index.inodes, inodes, "left")
        count = np.searchsorted(self._index.inodes, inodes, "right") - first
        return first, np.where(held & column.valid_mask(), count, 0)

    def _explode(self, batch: Batch, first: Array, count: Array, kinds: Array) -> Batch:
        """A row for each owner, one for a socket without."""
        rows = np.repeat(np.arange(batch.length), np.maximum(count, 1))
        owned = count[rows] > 0
        again = np.zeros(len(rows), dtype=np.bool_)
        again[1:] = rows[1:] == rows[:-1]
        wide = batch if len(rows) == batch.length else batch.take(rows)
        pids = fds = np.zeros(len(rows), dtype=np.uint32)
        if owned.any():
            assert self._index is not None
            begins = np.flatnonzero(~again)
            rank = np.arange(len(rows)) - begins[rows]
            at = np.where(owned, first[rows] + rank, 0)
            pids, fds = self._index.pids[at], self._index.fds[at]
            self._index.matched[at[owned]] = True
        columns = dict(wide.columns)
        columns["pid"] = ColumnData(pids, owned)
        columns["fd"] = ColumnData(fds, owned)
        columns["owner_kind"] = ColumnData(
            np.maximum(kinds[rows], 0).astype("i4"), kinds[rows] != UNKNOWN_KIND, OWNER_KINDS
        )
        return Batch(len(rows), columns, again if again.any() else None)

    # -- names

    def with_labels(self, batch: Batch) -> Batch:
        """`batch` with the texts that are wanted."""
        makers = {
            "process": self._processes,
            "user": self._users,
            "cgroup": self._cgroups,
            "matched_by": self._matched_by,
        }
        added = {name: make(batch) for name, make in makers.items() if name in self.wanted - batch.columns.keys()}
        if self.wanted & {"container", "unit"}:
            added |= self._identities(batch)
        return Batch(batch.length, {**batch.columns, **added}, batch.again)

    def _processes(self, batch: Batch) -> ColumnData:
        return texts_by_number(batch.column("pid"), self.names.process)

    def _users(self, batch: Batch) -> ColumnData:
        return texts_by_number(batch.column("uid"), self.names.user)

    def _cgroups(self, batch: Batch) -> ColumnData:
        return texts_by_number(batch.column("cgroup_id"), self.names.cgroup)

    def _identities(self, batch: Batch) -> dict[str, ColumnData]:
        """Containers and units: by process where there is one, else by the socket's own cgroup."""
        pid, cgroup_id = batch.column("pid"), batch.column("cgroup_id")
        owned = pid.valid_mask()
        key = np.where(owned, pid.values.astype(np.int64), -cgroup_id.values.astype(np.int64) - 1)
        keys = ColumnData(key, owned | cgroup_id.valid_mask())

        def identity(number: int) -> tuple[str | None, str | None]:
            return self.names.identity(number, 0) if number >= 0 else self.names.identity(None, -number - 1)

        return {
            "container": texts_by_number(keys, lambda number: identity(number)[0]),
            "unit": texts_by_number(keys, lambda number: identity(number)[1]),
        }

    def _matched_by(self, batch: Batch) -> ColumnData:
        owned = batch.column("pid").valid_mask()
        named = np.zeros(batch.length, dtype=np.bool_)
        if self.wanted & {"container", "unit"}:
            found = self._identities(batch)
            named = found["container"].valid_mask() | found["unit"].valid_mask()
        how = BY_PROC_FD if self._index is None else self._index.matched_by
        return ColumnData(np.where(owned, 0, 1).astype("i4"), owned | named, (how, BY_CGROUP_ID))

    @property
    def index(self) -> OwnerIndex | None:
        """The descriptors as they were last looked at; None where no row asked for them."""
        return self._index

    def finish(self) -> list[Notice]:
        """What to tell when all batches are joined."""
        if self._hidden:
            by_bpf = self._index is not None and self._index.matched_by == BY_TASK_FILE
            self.notices.append(hidden_notice(self._hidden, None if by_bpf else OWNERS_REMEDY))
        return self.notices


def hidden_notice(hidden: list[int], remedy: str | None = OWNERS_REMEDY) -> Notice:
    """What to tell of processes that could not be looked at."""
    arguments = {"count": len(hidden), "pid": hidden[0]}
    return Notice("owners_not_permitted", OWNERS_NOT_PERMITTED, missing="process", remedy=remedy, arguments=arguments)


def _kinds_of(batch: Batch, held: Mask) -> Array:
    """The kind of every row that has no inode, by its state; of the others nothing yet. A mini-socket has no uid."""
    state = batch.column("state").values
    is_mini = ~batch.column("uid").valid_mask()
    kinds = np.full(batch.length, _KIND[ORPHAN])
    kinds[np.isin(state, (TcpState.ESTABLISHED, TcpState.CLOSE_WAIT, TcpState.SYN_RECV))] = _KIND[NOT_ACCEPTED]
    kinds[(state == TcpState.SYN_RECV) & is_mini] = _KIND[HALF_OPEN]
    kinds[state == TcpState.TIME_WAIT] = _KIND[TIME_WAIT]
    kinds[np.isin(state, (TcpState.LISTEN, TcpState.CLOSE))] = _KIND[NO_DESCRIPTOR]
    kinds[held] = UNKNOWN_KIND
    return kinds
