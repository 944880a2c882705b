"""The port budget: for every (local address, peer, peer port) how much of the range of ephemeral ports is in use.

connect() finds a port for each such destination anew: one port serves many. What takes a port away from all of
them is bind(): a port that some socket was bound to is not considered (net/ipv4/inet_hashtables.c). A TIME-WAIT
that tcp_tw_reuse lets go does not count. The kernel searches an even number of ports, so of an odd range it may miss the last.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from finwait.diagnosis.case import filled
from finwait.table.cells import cells_of
from finwait.tcp.state import TcpState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from finwait.diagnosis.case import Case
    from finwait.table.batch import Array, Mask
    from finwait.table.look import Look

RANGE = "ipv4.ip_local_port_range"
RESERVED = "ipv4.ip_local_reserved_ports"
TIME_WAIT_S = 60  # TCP_TIMEWAIT_LEN, include/net/tcp.h; no sysctl changes it
REUSE_DELAY_MS = 1000  # before tcp_tw_reuse_delay (Linux 6.14) it was a second
_KEY = ("local_address", "peer_address", "peer_port", "family")
_UNCONNECTED = (TcpState.LISTEN, TcpState.CLOSE, TcpState.SYN_RECV)


@dataclass(frozen=True, slots=True)
class PortGroup:
    """One destination. used: ports that are in use by it; by_state: sockets by token; reusable: those in TIME-WAIT whose port
    connect() may take. capacity: ports of the range that connect() considers at all. opened_per_s: new connections that were
    still there at the second look, None for one look. exhausted_in_s: at the present growth; None where it does not grow.
    rows: of the last look.
    """  # fmt: skip

    local_address: str
    peer: str
    used: int
    by_state: Mapping[str, int]
    reusable: int
    capacity: int
    opened_per_s: float | None
    exhausted_in_s: float | None
    rows: Array = field(repr=False)

    @property
    def blocked(self) -> int:
        """Ports that a new connection to this destination cannot have."""
        return self.used - self.reusable

    @property
    def share(self) -> float:
        """Blocked ports of those that there are; 1.0 where there are none."""
        return self.blocked / self.capacity if self.capacity > 0 else 1.0


class PortBudget:
    """The ports of one namespace. Its range must be known (`is_known`)."""

    def __init__(self, case: Case) -> None:
        self.case = case
        numbers = case.numbers(RANGE)
        self.first, self.last = numbers if len(numbers) == 2 else (0, -1)
        self.reserved = parse_ports(case.now.sysctls.get(RESERVED, ""), self.first, self.last)

    @property
    def is_known(self) -> bool:
        """Whether the kernel told the range."""
        return self.last >= self.first

    @cached_property
    def size(self) -> int:
        """Ports of the range that are not reserved."""
        return self.last - self.first + 1 - len(self.reserved)

    @cached_property
    def taken(self) -> frozenset[int]:
        """Ports of the range that bind() or listen() took from all destinations."""
        case = self.case
        explicit = (
            np.isin(case.values("cookie"), case.now.explicit) if case.now.explicit is not None else case.in_state()
        )
        bound = (explicit | case.in_state(TcpState.LISTEN, TcpState.CLOSE)) & self.in_range(case.now)
        return frozenset(np.unique(case.values("local_port")[bound]).tolist())

    @cached_property
    def capacity(self) -> int:
        """Ports that connect() considers."""
        return self.size - len(self.taken)

    def in_range(self, look: Look) -> Mask:
        """Which sockets have a port that connect() could have chosen."""
        port = filled(look, "local_port")
        found: Mask = (port >= self.first) & (port <= self.last)
        return found & ~np.isin(port, list(self.reserved)) if self.reserved else found

    def outgoing(self, look: Look) -> Mask:
        """Which sockets hold a port for their destination alone: of the range, and no listener's."""
        state, port = filled(look, "state"), filled(look, "local_port")
        listening = np.unique(port[state == TcpState.LISTEN])
        mask = self.in_range(look) & ~np.isin(state, [int(one) for one in _UNCONNECTED])
        return mask & ~np.isin(port, listening)

    @cached_property
    def reusable(self) -> Mask:
        """TIME-WAIT whose port connect() takes: old enough where tcp_tw_reuse applies; it needs timestamps."""
        case = self.case
        reuse = case.number("ipv4.tcp_tw_reuse") or 0
        if not reuse or case.number("ipv4.tcp_timestamps") == 0:
            return case.in_state()
        delay = case.number("ipv4.tcp_tw_reuse_delay")
        age_ms = TIME_WAIT_S * 1000 - case.values("expires_ms").astype(np.int64)
        old: Mask = case.in_state(TcpState.TIME_WAIT) & (age_ms >= (REUSE_DELAY_MS if delay is None else delay))
        return old & case.is_loopback if reuse == 2 else old

    @cached_property
    def destinations(self) -> list[Array]:
        """The sockets of each destination, the one with most of them first: there may be as many as sockets."""
        return list(self.case.by_peer(self.outgoing(self.case.now), *_KEY))

    def groups(self) -> Iterator[PortGroup]:
        """What each destination takes, as far as somebody asks, the one with most sockets first."""
        before = self._counts_before()
        for rows in self.destinations:
            yield self._group(rows, before)

    def _group(self, rows: Array, before: Mapping[bytes, int]) -> PortGroup:
        case = self.case
        ports = case.values("local_port")[rows]
        states, counts = np.unique(case.state[rows], return_counts=True)
        opened = growth = None
        if len(case.looks) > 1 and case.interval_s > 0:
            opened = float((case.before[rows] < 0).sum()) / case.interval_s
            growth = (len(rows) - before.get(_key(case.now, rows[0]), 0)) / case.interval_s
        one = case.now.rows.take(rows[:1])
        used = len(np.unique(ports))
        reusable = int(self.reusable[rows].sum())
        left = max(self.capacity - used + reusable, 0)
        return PortGroup(
            local_address=str(cells_of(one, "local_address")[0]),
            peer=str(cells_of(one, "peer")[0]),
            used=used,
            by_state={
                TcpState(number).token: count for number, count in zip(states.tolist(), counts.tolist(), strict=True)
            },
            reusable=reusable,
            capacity=self.capacity,
            opened_per_s=opened,
            exhausted_in_s=left / growth if growth and growth > 0 else None,
            rows=rows,
        )

    def _counts_before(self) -> dict[bytes, int]:
        """Sockets by destination at the first look."""
        look = self.case.looks[0]
        rows = np.flatnonzero(self.outgoing(look))
        if len(self.case.looks) < 2 or not len(rows):
            return {}
        keys, counts = np.unique(_keys(look, rows), return_counts=True)
        return {key.tobytes(): count for key, count in zip(keys, counts.tolist(), strict=True)}


def _keys(look: Look, rows: Array) -> Array:
    parts = [np.ascontiguousarray(filled(look, name)[rows]).reshape(len(rows), -1).view(np.uint8) for name in _KEY]
    joined = np.ascontiguousarray(np.concatenate(parts, axis=1))
    return joined.view(f"V{joined.shape[1]}")[:, 0]


def _key(look: Look, row: int) -> bytes:
    return bytes(_keys(look, np.asarray([row]))[0].tobytes())


def parse_ports(text: str, first: int, last: int) -> frozenset[int]:
    """The ports of ip_local_reserved_ports (``8080,9000-9010``) from `first` to `last`."""
    found: set[int] = set()
    for part in text.split(","):
        begin, _, end = part.strip().partition("-")
        if begin.isdigit() and (end or begin).isdigit():
            found.update(range(max(int(begin), first), min(int(end or begin), last) + 1))
    return frozenset(found)
