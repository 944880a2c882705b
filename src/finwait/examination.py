"""Looks at namespaces again and again, and makes cases of them for the rules: sockets, counters, settings, owners, ages."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from finwait.diagnosis.case import Case, filled
from finwait.errors import FinwaitError, NotPermitted, NotSupported, SourceError
from finwait.query.parser import parse_filter
from finwait.query.pushdown import push_down
from finwait.sources.census import FALLBACK
from finwait.sources.counters import (
    count_descriptors,
    net_directory,
    read_counters,
    read_descriptor_limit,
    read_settings,
)
from finwait.sources.namespaces import open_inside
from finwait.sources.owners import OwnerJoin
from finwait.sources.readers import SockDiagReader, open_readers
from finwait.sources.sysctl_files import read_sysctl_files
from finwait.table.batch import Batch, concatenate
from finwait.table.bindings import Bindings
from finwait.table.columns import extensions_for
from finwait.table.look import LOOK_COLUMNS, PLAIN_COLUMNS, Holders, Host, Look, Process
from finwait.table.request import Request
from finwait.table.snapshot import Notice, Provenance
from finwait.tcp.state import TcpState
from finwait.wire.inet_diag import ALL_STATES_MASK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from finwait.sources.archive import Recorder
    from finwait.sources.readers import Reader
    from finwait.table.batch import Array

ALL_EXTENSIONS = 0xFF  # a recording holds all that the kernel tells
_OWNER_COLUMNS = frozenset({"pid", "fd", "owner_kind", "matched_by"})


def boot_clock() -> float:
    """Seconds since boot, suspended time included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(slots=True)
class _Ages:
    """Since when each socket of a namespace has been seen in its state. cookies in rising order; since: boot clock."""

    cookies: Array
    states: Array
    since: Array

    @classmethod
    def none(cls) -> _Ages:
        return cls(np.zeros(0, np.uint64), np.zeros(0, np.uint8), np.zeros(0))

    def after(self, look: Look) -> tuple[_Ages, Array]:
        """What is known after `look`, and for each of its sockets since when."""
        cookies, states = filled(look, "cookie"), filled(look, "state")
        since = np.full(len(cookies), look.at_s)
        if len(self.cookies) and len(cookies):
            at = np.minimum(np.searchsorted(self.cookies, cookies), len(self.cookies) - 1)
            known = (self.cookies[at] == cookies) & (self.states[at] == states) & (cookies != 0)
            since = np.where(known, self.since[at], since)
        order = np.argsort(cookies, kind="stable")
        return _Ages(cookies[order], states[order], since[order]), since


@dataclass(slots=True)
class _Watched:
    """One namespace over time."""

    looks: list[Look] = field(default_factory=list)
    ages: _Ages = field(default_factory=_Ages.none)
    since: Array = field(default_factory=lambda: np.zeros(0))
    holders: Holders | None = None


class Examiner:
    """Looks at what `request` names. source: auto, sock_diag or proc. window_s: for how long looks are kept to be compared.

    `provenance` tells of the last look what the answer lacks. recorder: keeps what is read.
    """

    def __init__(self, request: Request, *, source: str = "auto", window_s: float = 60.0) -> None:
        self.request = request
        self.source = source
        self.window_s = window_s
        self.provenance = Provenance(source, host=os.uname().nodename)
        self.host = Host(page_size=os.sysconf("SC_PAGE_SIZE"))
        self._watched: dict[object, _Watched] = {}

    def look(self, *, owners: bool = True, info: bool = True, recorder: Recorder | None = None) -> None:
        """Look once more. owners: also at who holds the sockets; info: also at tcp_info, twice as dear. Raises SourceError,
        NotPermitted, NotSupported.
        """  # fmt: skip
        provenance = self.provenance = Provenance(self.source, host=os.uname().nodename, taken_from=time.time())
        join = (
            OwnerJoin("auto" if self.source == "auto" else "proc", self.request.roots, _OWNER_COLUMNS)
            if owners
            else None
        )
        seen: dict[object, _Watched] = {}
        for reader in self._readers(recorder):
            try:
                look, holders = self._look_at(reader, join, info=info, recorder=recorder)
            except SourceError as error:
                if not self._has_ended(reader):
                    raise
                provenance.add_notice(
                    Notice("netns_not_read", error.message_id, missing="netns", arguments=error.arguments)
                )
                continue
            key = look.netns.cookie or look.netns.inode
            known = self._watched.get(key, _Watched())
            known.looks = [old for old in known.looks if look.at_s - old.at_s <= self.window_s] + [look]
            known.ages, known.since = known.ages.after(look)
            known.holders = holders
            seen[key] = known
            provenance.netns.append(look.netns)
        self._watched = seen
        if join is not None:
            self.host = self._host(join)
        provenance.taken_to = time.time()

    def look_and_record(self, record: Callable[[], Recorder] | None, *, owners: bool = True, info: bool = True) -> None:
        """Look once more, and keep what was seen where `record` makes something that keeps it."""
        if record is None:
            self.look(owners=owners, info=info)
            return
        recorder = record()
        try:
            self.look(owners=owners, info=info, recorder=recorder)
            recorder.finish(self.provenance)
        finally:
            recorder.abandon()

    def cases(self) -> list[Case]:
        """One for each namespace of the last look, the first one's first."""
        cases = [
            Case(tuple(one.looks), one.holders, self.host, one.looks[-1].at_s - one.since)
            for one in self._watched.values()
        ]
        for case in cases:
            case.others = tuple(other for other in cases if other is not case)
        return cases

    # -- reading

    def _readers(self, recorder: Recorder | None) -> Iterator[Reader]:
        notices = self.provenance.notices
        if self.source != "proc":
            try:
                self.provenance.source = "sock_diag"
                yield from open_readers(self.request, "sock_diag", notices)
            except (NotSupported, NotPermitted) as error:
                if self.source != "auto" or self.provenance.netns or self.request.netns or recorder is not None:
                    raise
                notices.append(Notice("source_fallback", FALLBACK, incomplete=False, arguments={"reason": error}))
            else:
                return
        self.provenance.source = "proc"
        yield from open_readers(self.request, "proc", notices)

    def _has_ended(self, reader: Reader) -> bool:
        """Whether a namespace that nobody named is gone: its last process may end while it is looked at."""
        path = reader.place.path  # type: ignore[attr-defined]
        return self.request.all_netns and path is not None and not os.path.exists(path)

    def _look_at(
        self, reader: Reader, join: OwnerJoin | None, *, info: bool, recorder: Recorder | None
    ) -> tuple[Look, Holders | None]:
        place = reader.place  # type: ignore[attr-defined]
        roots = self.request.roots
        columns = LOOK_COLUMNS if info else PLAIN_COLUMNS
        extensions = extensions_for(columns) if recorder is None else ALL_EXTENSIONS
        request = Request(extensions=extensions, roots=roots, family=self.request.family)
        at_s, wall_s = boot_clock(), time.time()
        if recorder is not None and isinstance(reader, SockDiagReader):
            recorder.begin(place, reader.netns)
            batches = list(reader.batches(request, columns, self.provenance.notices, recorder.write))
            recorder.end()
        else:
            batches = list(reader.batches(request, columns, self.provenance.notices))
        rows = concatenate(batches) if batches else Batch(0, {})
        directory = net_directory(place, roots)
        counters = open_inside(place, lambda: read_counters(directory))
        settings = f"{roots.proc if place.path is None else '/proc'}/sys/net"
        sysctls = open_inside(place, lambda: read_settings(settings))
        look = Look(reader.netns, at_s, wall_s, rows, counters, sysctls)
        if info and isinstance(reader, SockDiagReader):
            look.explicit = _read_explicit(reader, sysctls)
        return look, None if join is None else _holders_of(join.join(rows, reader))

    def _host(self, join: OwnerJoin) -> Host:
        """The processes that hold sockets of the last look, and their ghosts."""
        from finwait.sources.ghosts import count_ghosts

        notices = [*self.provenance.notices, *join.finish()]
        pids = {
            int(pid) for one in self._watched.values() if one.holders is not None for pid in np.unique(one.holders.pids)
        }
        ghosts: dict[int, int] = {}
        names: dict[int, str | None] = {}
        try:
            netns = self.provenance.netns
            for name, pid, count in count_ghosts("auto", self.request, netns, notices, join.index):
                ghosts[pid], names[pid] = count, name
        except (FinwaitError, OSError) as error:
            notices.append(Notice("ghosts_not_seen", "{reason}", missing="ghosts", arguments={"reason": error}))
        codes = {notice.code for notice in notices}
        for notice in notices:
            self.provenance.add_notice(notice)
        proc, before = self.request.roots.proc, self.host.processes
        processes = {
            pid: Process(
                pid,
                names.get(pid) or join.names.process(pid),
                count_descriptors(pid, proc),
                read_descriptor_limit(pid, proc),
                ghosts.get(pid, 0),
                before[pid].ghosts if pid in before else None,
            )
            for pid in sorted(pids | ghosts.keys())
        }
        hidden = 0 if join.index is None else len(join.index.hidden)
        seen = not codes & {"ghosts_not_told_apart", "ghosts_not_seen"}
        settings = read_sysctl_files("/" if proc == "/proc" else f"{proc}/1/root")
        return Host(processes, seen, hidden, settings, self.host.page_size)


def _read_explicit(reader: SockDiagReader, sysctls: Mapping[str, str]) -> Array | None:
    """Cookies of the sockets that bind() gave a port of the ephemeral range, accepted ones not among them; the kernel picks
    them out (INET_DIAG_BC_AUTO). None where the range is not known.
    """  # fmt: skip
    words = sysctls.get("ipv4.ip_local_port_range", "").split()
    if len(words) != 2:
        return None
    first, last = map(int, words)
    wanted = parse_filter(f"sport >= :{first} and sport <= :{last} and not autobound")
    narrowed = push_down(wanted, Bindings(port_range=(first, last)))
    request = Request(states=ALL_STATES_MASK & ~(1 << TcpState.TIME_WAIT), bytecode=narrowed.bytecode)
    found = [batch.column("cookie").values for batch in reader.batches(request, ("state", "cookie"), [])]
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


def _holders_of(joined: Batch) -> Holders:
    """The descriptors of a batch that stands once for each owner."""
    number = joined.socket_numbers()
    rows = number - number[0] if len(number) else number
    pid, fd, kind = joined.column("pid"), joined.column("fd"), joined.column("owner_kind")
    owned = pid.valid_mask()
    first = np.ones(joined.length, dtype=np.bool_) if joined.again is None else ~joined.again
    known = kind.valid_mask()[first]
    names = kind.dictionary or ()
    kinds = [
        names[code] if told else None for code, told in zip(kind.values[first].tolist(), known.tolist(), strict=True)
    ]
    how = joined.column("matched_by")
    told = np.flatnonzero(how.valid_mask() & owned)
    matched_by = (how.dictionary or ())[how.values[told[0]]] if len(told) else None
    return Holders(
        rows[owned], pid.values[owned].astype(np.int64), fd.values[owned].astype(np.int64), kinds, matched_by
    )


def examine(
    request: Request,
    *,
    source: str = "auto",
    for_s: float = 5.0,
    owners: bool = True,
    sleep: Callable[[float], None] = time.sleep,
    record: Callable[[], Recorder] | None = None,
) -> Examiner:
    """Two looks `for_s` seconds apart; one where that is 0. owners: whether to look who holds the sockets. record: makes what
    keeps a look. Raises SourceError, NotPermitted, NotSupported.
    """  # fmt: skip
    examiner = Examiner(request, source=source, window_s=for_s * 4 + 1)
    if for_s > 0:
        began = boot_clock()
        examiner.look_and_record(record, owners=False, info=record is not None)
        sleep(max(for_s - (boot_clock() - began), 0))
    examiner.look_and_record(record, owners=owners)
    return examiner
