"""Counts by state that the kernel keeps up to date: a reading costs no walk, whatever the number of sockets.

Full sockets are counted by bpf/trace_tcp.bpf.c, each with a mark, so that the one walk at the beginning and the changes
meanwhile count none twice. Timewait sockets have no mark; /proc/net/sockstat knows their sum (net/ipv4/proc.c: tw), and those
in FIN-WAIT-2 among them are noted when they lose their program and looked at in the kernel at each reading. Half-open
connections are the lengths of the listeners' queues.
"""

from __future__ import annotations

import os
import time

from finwait.errors import NotPermitted, SourceError
from finwait.sources.change_narrowing import Narrowing
from finwait.sources.change_records import SOCKETS
from finwait.sources.namespaces import open_inside
from finwait.sources.tcp_events import TcpEvents
from finwait.table.snapshot import Group, Notice, Provenance, Snapshot
from finwait.tcp.state import LIFE_ORDER, TcpState
from finwait.text.messages import mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from finwait.sources.namespaces import Place
    from finwait.table.request import Request

BY_STATE = ("state",)
BY = (BY_STATE, ("netns",), ("state", "netns"), ("netns", "state"))  # what the kernel's counts can be grouped by
NO_ROOM = mark("{count} sockets or changes found no room: the counts may differ from what a walk finds")
CLOSED_NOT_COUNTED = mark("CLOSED sockets (bound, not connected) are not counted while they are watched")
_FULL = tuple(state for state in LIFE_ORDER if state not in {TcpState.TIME_WAIT, TcpState.CLOSE})


class Tally:
    """What `request` asks for (namespaces), counted from now on. by: of BY. Close it; it is a context manager.

    Raises NotSupported, NotPermitted, SourceError.
    """

    def __init__(self, request: Request, by: tuple[str, ...] = BY_STATE) -> None:
        self._request = request
        self._by = by
        self._rooms: dict[str, int] = {}
        self._open()

    def _open(self) -> None:
        self.notices: list[Notice] = []
        self._parts: dict[int, _Part] = {}
        self._known_lost = 0
        self._events = TcpEvents(
            SOCKETS, self._request, Narrowing(), self.notices, owners=False, timers=False, rooms=self._rooms
        )
        try:
            for place, netns in zip(self._events.places, self._events.netns, strict=True):
                self._parts[netns.cookie or 0] = _Part(place)
        except BaseException:
            self.close()
            raise

    def read(self, by: tuple[str, ...] | None = None) -> Snapshot:
        """How many sockets there are now, by `by` in place of what the tally was made for; after a change that the kernel did
        not tell they are all counted anew.
        """  # fmt: skip
        snapshot = self._read(by or self._by)
        lost = self._events.lost()
        if self._events.missed() or lost > self._known_lost:
            self._rooms |= self._events.wanted_rooms()
            self.close()
            self._open()
            snapshot = self._read(by or self._by)
            self._known_lost = self._events.lost()  # there is no more room: it is said, and not tried again
        return snapshot

    def _read(self, by: tuple[str, ...]) -> Snapshot:
        provenance = Provenance(
            "bpf", host=os.uname().nodename, netns=tuple(self._events.netns), taken_from=time.time()
        )
        for notice in self.notices:
            provenance.add_notice(notice)
        counts, lost = self._count()
        for cookie, part in self._parts.items():
            timewait = part.read_timewait()
            orphans = min(counts[cookie][TcpState.TIME_WAIT], timewait)
            counts[cookie][TcpState.FIN_WAIT2] += orphans
            counts[cookie][TcpState.TIME_WAIT] = timewait - orphans
        lost += self._events.lost()
        if lost:
            provenance.add_notice(Notice("tally_no_room", NO_ROOM, missing="sockets", arguments={"count": lost}))
        provenance.add_notice(Notice("closed_not_counted", CLOSED_NOT_COUNTED, missing="closed"))
        provenance.taken_to = time.time()
        groups = self._groups(counts, by)
        return Snapshot(by, groups, sum(group.count for group in groups), provenance)

    def _count(self) -> tuple[dict[int, dict[TcpState, int]], int]:
        """(counts by state by the namespace's cookie, where TIME_WAIT is FIN_WAIT2 without a program; sockets of namespaces
        that found no place)
        """  # fmt: skip
        counts = {cookie: dict.fromkeys(LIFE_ORDER, 0) for cookie in self._parts}
        elements, orphans = self._events.sockets()
        for element, count in zip(elements[1:], orphans[1:].tolist(), strict=True):
            found = counts.get(int(element["netns_cookie"]))
            if found is not None:
                by_state = element["by_state"].astype("i8").tolist()
                found.update({state: by_state[state] for state in _FULL})
                found[TcpState.TIME_WAIT] = count
        return counts, max(int(elements["by_state"][0].astype("i8").sum()), 0)

    def _groups(self, counts: dict[int, dict[TcpState, int]], by: tuple[str, ...]) -> list[Group]:
        label_by_cookie = {netns.cookie or 0: netns.label for netns in self._events.netns}
        sums: dict[tuple[str, ...], int] = {}
        for cookie, by_state in counts.items():
            for state, count in by_state.items():
                if state is TcpState.CLOSE:
                    continue
                cells = {"state": state.token, "netns": label_by_cookie[cookie]}
                key = tuple(cells[name] for name in by)
                sums[key] = sums.get(key, 0) + count
        if by == BY_STATE:
            return [Group(key, count) for key, count in sums.items()]
        largest_first = sorted(sums.items(), key=lambda item: (-item[1], item[0]))
        return [Group(key, count) for key, count in largest_first if count]

    def close(self) -> None:
        """Detach everything."""
        for part in self._parts.values():
            part.close()
        self._parts.clear()
        self._events.close()

    def __enter__(self) -> Tally:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Part:
    """What is read of one namespace beside the kernel's own counts."""

    def __init__(self, place: Place) -> None:
        self._sockstat = open_inside(place, _open_sockstat)

    def read_timewait(self) -> int:
        """All timewait sockets: TIME-WAIT, and FIN-WAIT-2 without a program."""
        words = os.pread(self._sockstat, 4096, 0).decode("ascii", "replace").split("TCP: ", 1)[-1].split()
        return int(words[words.index("tw") + 1])

    def close(self) -> None:
        """Close it."""
        os.close(self._sockstat)


def _open_sockstat() -> int:
    try:
        return os.open("/proc/thread-self/net/sockstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        kind = NotPermitted if isinstance(error, PermissionError) else SourceError
        raise kind(
            "cannot read {path}: {reason}", path="/proc/net/sockstat", reason=os.strerror(error.errno or 0)
        ) from error
