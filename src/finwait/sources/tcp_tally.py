"""Counts by state that the kernel keeps up to date: a reading costs no walk, whatever the number of sockets.

Full sockets are counted by bpf/trace_tcp.bpf.c, each with a mark, so that the one walk at the beginning and the changes
meanwhile count none twice. Timewait sockets have no mark; /proc/net/sockstat knows their sum (net/ipv4/proc.c: tw), and those
in FIN-WAIT-2 among them are told when they lose their program and looked up one by one since. Half-open connections are the
lengths of the listeners' queues.
"""

from __future__ import annotations

import os
import time
from struct import Struct

from finwait.errors import NotPermitted, SourceError
from finwait.sources.change_narrowing import Narrowing
from finwait.sources.change_records import ORPHANS, SOCKETS
from finwait.sources.namespaces import open_inside
from finwait.sources.sock_diag import open_diag_socket, receive_into, send_request
from finwait.sources.tcp_events import TcpEvents
from finwait.table.snapshot import Group, Notice, Provenance, Snapshot
from finwait.tcp.state import LIFE_ORDER, TcpState
from finwait.text.messages import mark
from finwait.wire.inet_diag import AF_INET, COOKIE, STATE, build_tcp_lookup
from finwait.wire.netlink import NLMSG_ERROR, parse_messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

    from finwait.sources.namespaces import Place
    from finwait.table.batch import Array
    from finwait.table.request import Request

BY_STATE = ("state",)
BY = (BY_STATE, ("netns",), ("state", "netns"), ("netns", "state"))  # what the kernel's counts can be grouped by
LOOKUPS = 32  # of one reading: about half a millisecond
RING_BYTES = 1 << 20
ANSWER_BYTES = 1 << 12
_COOKIE = Struct("=II")  # idiag_cookie: the low word first
NO_ROOM = mark("{count} sockets or changes found no room: the counts may differ from what a walk finds")
SPLIT = mark(
    "of {count} connections counted as FIN-WAIT-2 some may be in TIME-WAIT by now: {looked_up} are looked up at a time"
)
CLOSED_NOT_COUNTED = mark("CLOSED sockets (bound, not connected) are not counted while they are watched")
_FULL = tuple(state for state in LIFE_ORDER if state not in {TcpState.TIME_WAIT, TcpState.CLOSE})


class Tally:
    """What `request` asks for (namespaces), counted from now on. by: of BY. Close it; it is a context manager.

    Raises NotSupported, NotPermitted, SourceError.
    """

    def __init__(self, request: Request, by: tuple[str, ...] = BY_STATE) -> None:
        self._request = request
        self._by = by
        self._open()

    def _open(self) -> None:
        self.notices: list[Notice] = []
        self._parts: dict[int, _Part] = {}
        self._events = TcpEvents(
            SOCKETS | ORPHANS, self._request, Narrowing(), self.notices, owners=False, timers=False, ring=RING_BYTES
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
        if self._events.missed() or self._events.lost():
            self.close()
            self._open()
            snapshot = self._read(by or self._by)
        return snapshot

    def _read(self, by: tuple[str, ...]) -> Snapshot:
        provenance = Provenance(
            "bpf", host=os.uname().nodename, netns=tuple(self._events.netns), taken_from=time.time()
        )
        for notice in self.notices:
            provenance.add_notice(notice)
        counts = self._count_full()
        self._add_orphans()
        for cookie, part in self._parts.items():
            orphans = part.count_orphans(provenance)
            timewait = part.read_timewait()
            orphans = min(orphans, timewait)
            counts[cookie][TcpState.FIN_WAIT2] += orphans
            counts[cookie][TcpState.TIME_WAIT] = timewait - orphans
        lost = self._events.lost()
        if lost:
            provenance.add_notice(Notice("tally_no_room", NO_ROOM, missing="sockets", arguments={"count": lost}))
        provenance.add_notice(Notice("closed_not_counted", CLOSED_NOT_COUNTED, missing="closed"))
        provenance.taken_to = time.time()
        groups = self._groups(counts, by)
        return Snapshot(by, groups, sum(group.count for group in groups), provenance)

    def _count_full(self) -> dict[int, dict[TcpState, int]]:
        """By the namespace's cookie."""
        counts = {cookie: dict.fromkeys(LIFE_ORDER, 0) for cookie in self._parts}
        for element in self._events.sockets():
            found = counts.get(int(element["netns_cookie"]))
            if found is not None:
                for state in _FULL:
                    found[state] = int(element["by_state"].astype("i8")[state])
        return counts

    def _groups(self, counts: dict[int, dict[TcpState, int]], by: tuple[str, ...]) -> list[Group]:
        label_by_cookie = {netns.cookie or 0: netns.label for netns in self._events.netns}
        sums: dict[tuple[str, ...], int] = {}
        for cookie, by_state in counts.items():
            for state, count in by_state.items():
                cells = {"state": state.token, "netns": label_by_cookie[cookie]}
                key = tuple(cells[name] for name in by)
                sums[key] = sums.get(key, 0) + count
        if by == BY_STATE:
            return [Group(key, count) for key, count in sums.items()]
        largest_first = sorted(sums.items(), key=lambda item: (-item[1], item[0]))
        return [Group(key, count) for key, count in largest_first if count]

    def _add_orphans(self) -> None:
        for record in self._events.drain(ORPHANS):
            part = self._parts.get(int(record["netns_cookie"]))
            if part is not None:
                part.add_orphan(record)

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
        self._sockstat, self._diag = open_inside(place, _open_both)
        self._lookups: dict[int, bytes] = {}  # request by cookie, of connections in FIN-WAIT-2 without a program

    def read_timewait(self) -> int:
        """All timewait sockets: TIME-WAIT, and FIN-WAIT-2 without a program."""
        words = os.pread(self._sockstat, 4096, 0).decode("ascii", "replace").split("TCP: ", 1)[-1].split()
        return int(words[words.index("tw") + 1])

    def add_orphan(self, record: Array) -> None:
        """A connection that has lost its program."""
        family = int(record["family"])
        length = 4 if family == AF_INET else 16
        local, peer = (bytes(record[name][:length]) for name in ("local_address", "peer_address"))
        ends = (local, int(record["local_port"])), (peer, int(record["peer_port"]))
        self._lookups[int(record["cookie"])] = build_tcp_lookup(family, *ends)

    def count_orphans(self, provenance: Provenance) -> int:
        """How many there still are, as far as the look-ups of one reading reach."""
        for cookie in list(self._lookups)[:LOOKUPS]:
            request = self._lookups.pop(cookie)
            if _is_in_fin_wait_2(self._diag, request, cookie):
                self._lookups[cookie] = request  # behind the others: each has its turn
        if len(self._lookups) > LOOKUPS:
            arguments = {"count": len(self._lookups), "looked_up": LOOKUPS}
            provenance.add_notice(Notice("timewait_split", SPLIT, missing="fin_wait_2", arguments=arguments))
        return len(self._lookups)

    def close(self) -> None:
        """Close both."""
        os.close(self._sockstat)
        self._diag.close()


def _open_both() -> tuple[int, socket]:
    diag = open_diag_socket()
    try:
        return os.open("/proc/thread-self/net/sockstat", os.O_RDONLY | os.O_CLOEXEC), diag
    except OSError as error:
        diag.close()
        kind = NotPermitted if isinstance(error, PermissionError) else SourceError
        raise kind(
            "cannot read {path}: {reason}", path="/proc/net/sockstat", reason=os.strerror(error.errno or 0)
        ) from error


def _is_in_fin_wait_2(diag: socket, request: bytes, cookie: int) -> bool:
    send_request(diag, request)
    answer = memoryview(bytearray(ANSWER_BYTES))
    length = receive_into(diag, answer)
    kind = next(parse_messages(answer[:length]))[0]
    if kind == NLMSG_ERROR:
        return False
    low, high = _COOKIE.unpack_from(answer, COOKIE)
    return low | high << 32 == cookie and answer[STATE] == TcpState.FIN_WAIT2
