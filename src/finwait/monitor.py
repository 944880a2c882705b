"""Where sources and queries meet: a source's batches, narrowed by the kernel, checked row by row, counted or passed on."""

from __future__ import annotations

import os
import time

from finwait.errors import NotPermitted, NotSupported, SourceError, UsageError
from finwait.query.evaluate import accepted_rows
from finwait.query.names import Names
from finwait.query.pushdown import push_down
from finwait.sources.census import FALLBACK, add_closed_notice
from finwait.sources.namespaces import visit_places
from finwait.sources.readers import Reader, SockDiagReader, open_readers
from finwait.sources.sock_diag import netns_of, open_diag_socket
from finwait.table.batch import Batch, ColumnData, needed_columns
from finwait.table.columns import ENDPOINT_PARTS, extensions_for
from finwait.table.owners import LABEL_COLUMNS, OWNER_COLUMNS
from finwait.table.request import Request
from finwait.table.snapshot import Notice, Provenance
from finwait.tcp.state import TcpState
from finwait.text.messages import mark
from finwait.wire.inet_diag import ALL_STATES_MASK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from finwait.query.expression import Filter
    from finwait.query.pushdown import Pushdown
    from finwait.sources.archive import Recorder
    from finwait.sources.owners import OwnerIndex
    from finwait.table.bindings import Bindings
    from finwait.table.snapshot import Netns

COLUMNS_NOT_VISIBLE = mark("{source} does not tell these columns: {columns}")
# Columns that a recording may lack without lacking anything: no row of it need have them.
SELDOM = frozenset({"recv_q", "send_q", "accept_queue_length", "accept_queue_limit", "interface", "v6only", "expires_ms",
                    "netns", "netns_cookie"})  # fmt: skip
OWNERS_REMEDY = mark("--read the output of ss -tanp")
MARKS_NOT_VISIBLE = mark("fwmarks cannot be seen; every socket was taken to have mark 0")
MARKS_REMEDY = mark("CAP_NET_ADMIN, with sock_diag")
AUTOBOUND_HALF = mark(
    "whether a port was chosen by the kernel could not be asked; autobound tested the port's range only"
)


WALK_CODES = frozenset({"inconsistent_walk", "walk_interrupted"})


class Question:
    """What is asked. request: where and of what family. wanted: the filter. source: auto, bpf, sock_diag or proc. read: path of
    a recording to read instead of this host. recorder: where to keep what is read. ghosts: only descriptors of connections
    that have ended, which no source lists.
    """  # fmt: skip

    __slots__ = ("ghosts", "read", "recorder", "request", "source", "wanted")

    def __init__(
        self,
        request: Request,
        wanted: Filter,
        *,
        source: str = "auto",
        read: str | None = None,
        recorder: Recorder | None = None,
        ghosts: bool = False,
    ) -> None:
        if ghosts and (read is not None or recorder is not None):
            raise UsageError("ghosts are looked for on this host; --ghosts does not go with --read or --record")
        self.ghosts = ghosts
        if read is not None and (recorder is not None or request.netns or request.all_netns or source != "auto"):
            raise UsageError(
                "--read answers from a recording; it does not go with -N, --all-netns, --source or --record"
            )
        if recorder is not None and source in {"bpf", "proc"}:
            raise UsageError("--record keeps what sock_diag says; it does not go with --source {source}", source=source)
        self.request = request
        self.wanted = wanted
        self.source = source
        self.read = read
        self.recorder = recorder


class Stream:
    """The connections that a question asks for, batch by batch, each with the columns asked for and those the filter needs.

    Iterate once. `provenance` fills up on the way and is whole when the iteration has ended.
    """

    def __init__(self, question: Question, columns: Sequence[str]) -> None:
        self.question = question
        asked = tuple(columns)
        tested_owners = _owner_columns(
            question.wanted.column_names() - {"cgroup"}
        )  # the socket's cgroup is tested by its id
        self._join_first = bool(tested_owners)
        self._shows_owners = bool(OWNER_COLUMNS.intersection(columns))
        joined = _owner_columns(frozenset(columns)) | tested_owners
        self._join = None
        if joined and question.read is None:
            from finwait.sources.owners import JOIN_COLUMNS, OwnerJoin

            self._join = OwnerJoin(question.source, question.request.roots, joined)
            columns = (*columns, *JOIN_COLUMNS)
        names = {*columns, *question.wanted.column_names(), "state", "family"}
        self.columns = needed_columns(sorted(names))
        self.names = Names(question.wanted)
        tested = question.wanted.column_names() - {"mark", "cgroup", "cgroup_id"}  # they have words of their own
        self._asked = tuple(name for name in dict.fromkeys((*asked, *sorted(tested))) if name not in ENDPOINT_PARTS)
        self._told: set[str] = set()
        self.provenance = Provenance(question.source, host=os.uname().nodename)
        self._closed_seen = 0
        self._closed_recordable = False
        self._seen = 0
        self._is_long = False  # whether some namespace took more than one batch
        self._yielded = False

    @property
    def is_settled(self) -> bool:
        """Whether reading again would give no better answer: the walk was consistent, or it is recorded, or what fits in
        one batch was read several times already.
        """  # fmt: skip
        codes = {notice.code for notice in self.provenance.notices}
        again = self.question.read is None and self.question.recorder is None and self._is_long
        return not (again and codes & WALK_CODES)

    @property
    def owner_index(self) -> OwnerIndex | None:
        """The descriptors that rows were joined with; None where they were not."""
        return None if self._join is None else self._join.index

    def __iter__(self) -> Iterator[Batch]:
        provenance = self.provenance
        if self.question.read is not None:
            yield from self._read_recording(self.question.read)
        else:
            provenance.taken_from = time.time()
            try:
                yield from self._read_host()
            finally:  # whoever wants only the first rows stops here
                provenance.taken_to = time.time()
                self._add_closed_notice()
                for notice in self._join.finish() if self._join is not None else ():
                    provenance.add_notice(notice)
            return
        self._add_closed_notice()

    def _add_closed_notice(self) -> None:
        if TcpState.CLOSE in self.question.wanted.states and not self._closed_recordable:
            add_closed_notice(self._closed_seen, self._seen, self.question.request, self.provenance)

    # -- where from

    def _read_recording(self, path: str) -> Iterator[Batch]:
        from finwait.sources.recording import open_recording

        provenance = self.provenance
        with open_recording(path) as recording:
            found = recording.provenance
            provenance.source, provenance.host = found.source, found.host
            provenance.taken_from, provenance.taken_to = found.taken_from, found.taken_to
            for notice in found.notices:
                provenance.add_notice(notice)
            self._closed_recordable = recording.shows_closed
            for reader in recording.readers:
                yield from self._read(reader)

    def _read_host(self) -> Iterator[Batch]:
        request, source = self.question.request, self.question.source
        if self.question.ghosts:
            yield from self._read_ghosts()
            return
        if source == "bpf":
            yield from self._read_all("bpf")
            return
        if source != "proc":
            try:
                yield from self._read_all("sock_diag")
            except (NotSupported, NotPermitted) as error:
                if source != "auto" or self._yielded or request.all_netns or request.netns or self.question.recorder:
                    raise
                self.provenance.netns.clear()
                arguments = {"reason": error}
                self.provenance.add_notice(Notice("source_fallback", FALLBACK, incomplete=False, arguments=arguments))
            else:
                return
        yield from self._read_all("proc")

    def _read_all(self, source: str) -> Iterator[Batch]:
        self.provenance.source = source
        hidden: list[Notice] = []
        try:
            for reader in open_readers(self.question.request, source, hidden):
                yield from self._read_or_skip(reader, hidden)
        finally:
            for notice in hidden:
                self.provenance.add_notice(notice)

    def _read_or_skip(self, reader: Reader, hidden: list[Notice]) -> Iterator[Batch]:
        """The reader's batches; of many namespaces one may end while it is read, and is told."""
        try:
            yield from self._read(reader)
        except SourceError as error:
            if not self.question.request.all_netns:
                raise
            hidden.append(Notice("netns_not_read", error.message_id, missing="netns", arguments=error.arguments))

    def _read_ghosts(self) -> Iterator[Batch]:
        from finwait.sources.ghosts import read_ghosts

        provenance, question = self.provenance, self.question
        for place, diag in visit_places(question.request, open_diag_socket, provenance.notices):
            provenance.netns.append(netns_of(diag, place.name, place.inode))
            diag.close()
        self._closed_recordable = True  # ghosts are no sockets that a dump could show
        for batch in read_ghosts(question.source, question.request, provenance.netns, provenance.notices):
            found = batch if self._join is None else self._join.with_labels(batch)
            if question.request.family is not None:
                found = found.take(found.column("family").values == question.request.family)
            yield found.take(accepted_rows(question.wanted, found))

    # -- one namespace

    def _read(self, reader: Reader) -> Iterator[Batch]:
        provenance = self.provenance
        provenance.netns.append(reader.netns)
        bindings = reader.bind(
            devices=bool(self.names.devices), cgroups=self.names.cgroups, port_range=self.names.port_range
        )
        self._check_devices(reader, bindings)
        notices: list[Notice] = []
        try:
            yield from self._checked(reader, bindings, notices)
        finally:  # also where only the first rows were wanted
            for notice in (*notices, *self._untold(reader)):
                provenance.add_notice(notice)

    def _checked(self, reader: Reader, bindings: Bindings, notices: list[Notice]) -> Iterator[Batch]:
        """The rows of `reader` that the filter accepts."""
        for index, batch in enumerate(self._narrowed(reader, bindings, notices)):
            self._told.update(batch.columns)
            self._seen += batch.length
            self._is_long = self._is_long or index > 0
            self._closed_seen += int((batch.column("state").values == TcpState.CLOSE).sum())
            self._yielded = True
            yield self._accepted(_with_netns(batch, reader.netns, self.columns), reader, bindings)

    def _accepted(self, batch: Batch, reader: Reader, bindings: Bindings) -> Batch:
        """The rows that the filter accepts, with their owners where somebody asked; those are looked for as late as can be."""
        question = self.question
        if question.request.family is not None:
            batch = batch.take(batch.column("family").values == question.request.family)
        if self._join is not None and self._join_first:
            batch = self._join.join(batch, reader)
        batch = batch.take(accepted_rows(question.wanted, batch, bindings))
        if self._join is not None and not self._join_first:
            batch = self._join.join(batch, reader)
        return batch if self._shows_owners else batch.one_row_each()

    def _untold(self, reader: Reader) -> Iterator[Notice]:
        """What was asked for and `reader` cannot tell, so that nulls are not taken for answers."""
        if self.names.marks and "mark" not in self._told and self._seen:
            yield Notice("marks_not_visible", MARKS_NOT_VISIBLE, missing="mark", remedy=MARKS_REMEDY)
        asked = self._asked
        if reader.source == "recording":
            asked = tuple(name for name in asked if name not in SELDOM) if self._seen else ()
        if self._join is not None:  # it tells them, from what the source tells
            basis = {name: {"cgroup": "cgroup_id", "user": "uid"}.get(name, "inode") for name in self._join.wanted}
            asked = tuple(
                name for name in asked if not (name in basis and not reader.untold([basis[name]], self._told))
            )
        untold = reader.untold(asked, self._told)
        if untold:
            remedy = OWNERS_REMEDY if reader.source == "recording" and OWNER_COLUMNS.intersection(untold) else None
            arguments = {"source": reader.source, "columns": ", ".join(untold)}
            yield Notice(
                "columns_not_visible", COLUMNS_NOT_VISIBLE, missing=",".join(untold), remedy=remedy, arguments=arguments
            )

    def _check_devices(self, reader: Reader, bindings: Bindings) -> None:
        """Raise SourceError for a device that the one namespace that is read does not have; it names the nearest."""
        request = self.question.request
        if reader.source == "recording" or request.all_netns or len(request.netns) > 1:
            return
        for device in self.names.devices:
            if bindings.interface_index(device) is None:
                from difflib import get_close_matches

                nearest = get_close_matches(device, list(bindings.index_by_interface), n=1, cutoff=0.0)
                raise SourceError(
                    "there is no network interface '{device}'; did you mean {nearest}?",
                    device=device,
                    nearest=nearest[0] if nearest else "lo",
                )

    def _narrowed(self, reader: Reader, bindings: Bindings, notices: list[Notice]) -> Iterator[Batch]:
        """The reader's batches, narrowed as far as the kernel agrees: it may refuse marks (EPERM) or newer tests (EINVAL)."""
        recorder = self.question.recorder
        if recorder is not None and isinstance(reader, SockDiagReader):
            if self.names.port_range:
                notices.append(Notice("autobound_not_asked", AUTOBOUND_HALF, missing="autobound"))
            yield from self._recorded(reader, recorder, notices)
            return
        wanted = self.question.wanted
        options = [push_down(wanted, bindings, net_admin=True), push_down(wanted, bindings), None]
        if not reader.can_narrow:
            options = [None]
        for index, option in enumerate(options):
            batches = reader.batches(self._narrow(option), self.columns, notices)
            try:
                first = next(batches, None)
            except (SourceError, NotPermitted):
                if index + 1 == len(options) or option is None or not option.bytecode:
                    raise
                continue
            break
        if self.names.port_range and (option is None or not option.exact):
            notices.append(Notice("autobound_not_asked", AUTOBOUND_HALF, missing="autobound"))
        if first is not None:
            yield first
        yield from batches

    def _narrow(self, option: Pushdown | None) -> Request:
        request, wanted = self.question.request, self.question.wanted
        return Request(
            family=request.family if request.family is not None else wanted.family,
            states=wanted.state_mask() if option is None else option.states,
            bytecode=b"" if option is None else option.bytecode,
            extensions=extensions_for(self.columns),
            roots=request.roots,
        )

    def _recorded(self, reader: SockDiagReader, recorder: Recorder, notices: list[Notice]) -> Iterator[Batch]:
        """Every socket with all that the kernel tells: a recording holds more than what was asked for."""
        recorder.begin(reader.place, reader.netns)
        request = Request(states=ALL_STATES_MASK, extensions=0xFF, roots=self.question.request.roots)
        yield from reader.batches(request, self.columns, notices, recorder.write)
        recorder.end()


def _with_netns(batch: Batch, netns: Netns, columns: Sequence[str]) -> Batch:
    """`batch` with the columns that tell its namespace, where they are asked for."""
    if "netns" not in columns and "netns_cookie" not in columns:
        return batch
    import numpy as np

    added = {}
    if netns.cookie is not None or netns.inode is not None or netns.name is not None:
        added["netns"] = ColumnData(np.zeros(batch.length, dtype="i4"), None, (netns.label,))
    if netns.cookie is not None:
        added["netns_cookie"] = ColumnData(np.full(batch.length, netns.cookie, dtype=np.uint64))
    return Batch(batch.length, {**batch.columns, **added}, batch.again)


def _owner_columns(names: frozenset[str]) -> frozenset[str]:
    return names & (OWNER_COLUMNS | LABEL_COLUMNS)
