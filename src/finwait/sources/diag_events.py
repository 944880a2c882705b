"""Changes of state of TCP connections without BPF: sock_diag is asked again and again, and tells the ends of sockets by itself.

First the groups are joined, then what is there is walked over, so that no end falls between. A look takes the kernel a walk
over all sockets, so that looks are as often as they may cost; what happens between two of them is told where it left a trace.
"""

from __future__ import annotations

import time

import numpy as np

from finwait.errors import NotSupported
from finwait.sources.change_records import CHANGES, COUNTS, LIFETIME, LIFETIMES, LOOKED_UP
from finwait.sources.change_sums import ChangeSums
from finwait.sources.choice import may_load_bpf
from finwait.sources.diag_changes import Connections
from finwait.sources.diag_destroy import DestroyNotices, open_group_socket
from finwait.sources.diag_dump import Dump, build_port_dump, look_up
from finwait.sources.namespaces import visit_places
from finwait.sources.owners import hidden_notice
from finwait.sources.proc_fd import read_comm, read_socket_descriptors
from finwait.sources.sock_diag import netns_of, open_diag_socket
from finwait.table.snapshot import Notice
from finwait.text.messages import mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Iterable

    from finwait.sources.change_narrowing import Narrowing
    from finwait.table.batch import Array, Mask
    from finwait.table.request import Request
    from finwait.table.snapshot import Netns

SHARE = 20  # a look may cost one part in so many of a processor
LEAST_PAUSE_NS, MOST_PAUSE_NS = (
    40_000_000,
    30_000_000_000,
)  # between looks; whoever reads every 50 ms gets one each time
RARE_NS = 1_000_000_000  # looks that are so far apart are told of
BETWEEN_LOOKS = mark(
    "connections are looked at again and again: of those that open and close between two looks only the end is told, states "
    "between two looks are not, and most causes are not known"
)
BETWEEN_REMEDY = mark("CAP_BPF and CAP_PERFMON, or root")
RARE_LOOKS = mark("there are so many sockets that looks were up to {seconds} seconds apart")
NO_ENDS = mark("{reason}: of connections that open and close between two looks nothing is told")
LATER_NETNS = mark("network namespaces that came later were not looked at")


class DiagEvents:
    """Groups joined, what is there walked over. netns: the namespaces that are watched. Close it; it is a context manager.

    wants: CHANGES, LIFETIMES, COUNTS, one or more. request: which namespaces. narrowing: what is told. notices: gets what it
    lacks, also while it runs. owners: whether to learn who has the sockets. Whoever has it reads often (`drain`).

    Raises NotSupported, NotPermitted, SourceError.
    """

    source = "sock_diag"

    def __init__(
        self, wants: int, request: Request, narrowing: Narrowing, notices: list[Notice], *, owners: bool = True
    ) -> None:
        self.wants = wants
        self.netns: list[Netns] = []
        self.looks = 0
        self._narrowing = narrowing
        self._notices = notices
        self._owners = _Owners(request.roots.proc, notices) if owners else None
        self._sums = ChangeSums()
        self._told: dict[int, list[Array]] = {CHANGES: [], LIFETIMES: []}
        self._parts: list[_Part] = []
        self._ends: DestroyNotices | None = None
        self._rare: Notice | None = None
        self._longest_ns = self._cost_ns = 0
        self._opened: list[socket] = []
        remedy = None if may_load_bpf() else BETWEEN_REMEDY  # whoever has chosen this knows
        notices.append(Notice("changes_between_looks", BETWEEN_LOOKS, missing="changes", remedy=remedy))
        if request.all_netns:
            notices.append(Notice("later_netns_not_watched", LATER_NETNS, missing="netns"))
        try:
            self._begin(request, notices)
        except BaseException:
            self.close()
            raise

    def _begin(self, request: Request, notices: list[Notice]) -> None:
        family, refusal = self._narrowing.family, None

        def enter() -> tuple[socket, socket | None, NotSupported | None]:
            diag = open_diag_socket()
            try:
                return diag, open_group_socket(family), None
            except NotSupported as error:
                return diag, None, error
            except BaseException:
                diag.close()
                raise

        groups = []
        for place, (diag, group, error) in visit_places(request, enter, notices):
            self._opened.append(diag)
            refusal = refusal or error
            if group is not None:
                self._opened.append(group)
                groups.append(group)
            self.netns.append(netns_of(diag, place.name, place.inode))
            self._parts.append(_Part(diag, self.netns[-1].cookie or 0, self._narrowing, bool(self.wants & LIFETIMES)))
        if refusal is None:
            self._ends = DestroyNotices(groups)
        else:
            self._do_without_ends(refusal)
        began_ns = time.thread_time_ns()
        for part in self._parts:
            part.begin()
        self._plan(time.thread_time_ns() - began_ns)
        self._learn_owners()

    def _do_without_ends(self, refusal: NotSupported) -> None:
        """Raises NotSupported where lifetimes are wanted: what a connection sent and received only the notice tells."""
        if self.wants & LIFETIMES:
            raise refusal
        for part in self._parts:
            part.connections.keeps_ended = False
        self._notices.append(Notice("ends_not_told", NO_ENDS, missing="changes", arguments={"reason": refusal}))

    def _plan(self, cost_ns: int) -> None:
        """Set the time of the next look, after one that has cost so much of a processor. Of two the cheaper one counts: one
        alone may have paid for something that comes once.
        """  # fmt: skip
        usual_ns, self._cost_ns = min(cost_ns, self._cost_ns), cost_ns
        pause_ns = min(max(usual_ns * SHARE, LEAST_PAUSE_NS), MOST_PAUSE_NS)
        self._due_ns = time.monotonic_ns() + pause_ns
        if pause_ns >= RARE_NS:
            if self._rare is None:
                self._rare = Notice("looks_are_rare", RARE_LOOKS, missing="changes")
                self._notices.append(self._rare)
            self._longest_ns = max(pause_ns, self._longest_ns)
            self._rare.arguments["seconds"] = round(self._longest_ns / 1e9, 1)

    def _watch(self, *, at_once: bool = False) -> None:
        """Look, where it is time to, and take in the notices of ends that came."""
        began_ns = time.thread_time_ns()
        is_due = at_once or time.monotonic_ns() >= self._due_ns
        changes: list[Array] = []
        lifetimes: list[Array] = []
        if is_due:
            self.looks += 1
            changes += [part.look() for part in self._parts]
        if self._ends is not None:
            for part, ends in zip(self._parts, self._ends.take(), strict=True):
                if len(ends):
                    found, ended = part.end(ends)
                    changes.append(found)
                    lifetimes.append(ended)
        if is_due:
            changes += [part.confirm() for part in self._parts]
            self._plan(time.thread_time_ns() - began_ns)
            self._learn_owners()
        changes = [found for found in changes if len(found)]
        if changes or lifetimes:
            self._tell(changes, lifetimes)

    def _learn_owners(self) -> None:
        if self._owners is not None:
            self._owners.learn([part.connections for part in self._parts])

    def _tell(self, changes: list[Array], lifetimes: list[Array]) -> None:
        told = np.concatenate([np.zeros(0, LOOKED_UP), *changes])
        lives = np.concatenate([np.zeros(0, LIFETIME), *lifetimes])
        for part in self._parts if self._owners is not None else ():
            part.connections.name_owners(told)
            part.connections.name_owners(lives)
        told, lives = (records[self._narrowing.accepts(records)] for records in (told, lives))
        if self.wants & COUNTS:
            self._sums.add(told)
        if self.wants & CHANGES and len(told):
            self._told[CHANGES].append(told)
        if self.wants & LIFETIMES and len(lives):
            self._told[LIFETIMES].append(lives)

    def drain(self, want: int, *, last: bool = False) -> Array:
        """What was told since the last time: of CHANGES an array of LOOKED_UP, of LIFETIMES one of LIFETIME, of COUNTS nothing.
        last: look at once. Raises what sock_diag refuses.
        """  # fmt: skip
        self._watch(at_once=last)
        if want not in self._told:
            return np.zeros(0, LOOKED_UP)
        found, self._told[want] = self._told[want], []
        return np.concatenate(found) if found else np.zeros(0, LIFETIME if want == LIFETIMES else LOOKED_UP)

    def totals(self) -> Array:
        """An array of TOTALS, an element for each namespace that something was counted in."""
        self._watch()
        return self._sums.totals()

    def names(self, tgids: Iterable[int]) -> dict[int, str]:
        """The names of those of the processes that are known."""
        known = {} if self._owners is None else self._owners.names
        return {tgid: known[tgid] for tgid in tgids if tgid in known}

    def lost(self) -> int:
        """How many ends found no room. Those of connections that a look saw are found by the next one all the same."""
        return 0 if self._ends is None else self._ends.lost

    def close(self) -> None:
        """Leave the groups, close the sockets."""
        if self._ends is not None:
            self._ends.close()
            self._ends = None
        for one in self._opened:
            one.close()
        self._opened.clear()

    def __enter__(self) -> DiagEvents:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Part:
    """One namespace: what is known of it, and how it is asked."""

    def __init__(self, diag: socket, netns_cookie: int, narrowing: Narrowing, with_paths: bool) -> None:
        self.connections = Connections(with_paths=with_paths)
        self._diag = diag
        self._netns_cookie = netns_cookie
        self._narrowing = narrowing
        self._request = build_port_dump(narrowing.family, narrowing.local_ports, narrowing.peer_ports)
        self._buffers: list[memoryview] = []

    def _dump(self) -> Dump:
        return Dump(self._diag, self._request, self._buffers)

    def begin(self) -> None:
        """Learn what is there. A walk that lets go of its place may miss a socket: then another finds it."""
        dump = self._dump()
        self.connections.begin(dump)
        if not dump.is_whole:
            self.connections.begin(self._dump())

    def look(self) -> Array:
        """What has changed since the last look."""
        return self._of_here(self.connections.take_look(self._dump()))

    def end(self, ends: Array) -> tuple[Array, Array]:
        """(changes, lifetimes) by notices."""
        ends = ends[self._are_looked_at(ends)]
        begun_ns = time.monotonic_ns()
        asked, wanted = self.connections.questions(ends)
        there, seen = look_up(self._diag, wanted)
        changes, lifetimes = self.connections.take_ends(ends, asked[there], seen, begun_ns, time.monotonic_ns())
        return self._of_here(changes), self._of_here(lifetimes)

    def _are_looked_at(self, ends: Array) -> Mask:
        """Which of `ends` a look would have shown: those of the ports that are wanted."""
        are: Mask = np.ones(len(ends), dtype=np.bool_)
        for name, ports in (("local_port", self._narrowing.local_ports), ("peer_port", self._narrowing.peer_ports)):
            are &= (ends[name] >= ports[0]) & (ends[name] <= ports[1])
        return are

    def confirm(self) -> Array:
        """What has ended of that which the last look missed."""
        at = self.connections.doubtful()
        found = [self.connections.end_listeners(time.monotonic_ns())]
        if len(at):
            begun_ns = time.monotonic_ns()
            there, seen = look_up(self._diag, self.connections.rows[at])
            found.append(self.connections.take_answers(at, there, seen, begun_ns, time.monotonic_ns()))
        return self._of_here(np.concatenate(found))

    def _of_here(self, records: Array) -> Array:
        records["netns_cookie"] = self._netns_cookie
        return records


class _Owners:
    """Who has the sockets, by /proc/PID/fd. names: of the processes that were found."""

    def __init__(self, proc: str, notices: list[Notice]) -> None:
        self.names: dict[int, str] = {}
        self._proc = proc
        self._notices = notices
        self._due_ns = 0
        self._has_told = False

    def learn(self, parts: list[Connections]) -> None:
        """Look at all descriptors where sockets have come whose owner is not known, not more often than it may cost."""
        if time.monotonic_ns() < self._due_ns or not any(len(part.without_owner()) for part in parts):
            return
        began_ns = time.thread_time_ns()
        found = read_socket_descriptors(self._proc)
        inodes, first = np.unique(np.asarray(found.inodes, dtype=np.uint64), return_index=True)
        tgids = np.asarray(found.pids, dtype=np.uint32)[first]
        for part in parts:
            part.learn_owners(inodes, tgids)
        self._read_names(np.unique(np.concatenate([part.rows["tgid"] for part in parts])).tolist())
        if found.hidden and not self._has_told and any(part.has_nobodys() for part in parts):
            self._notices.append(hidden_notice(found.hidden))
            self._has_told = True
        self._due_ns = time.monotonic_ns() + (time.thread_time_ns() - began_ns) * SHARE

    def _read_names(self, tgids: list[int]) -> None:
        for tgid in filter(None, tgids):
            name = read_comm(tgid, self._proc)
            if name is not None:
                self.names[tgid] = name
