"""What a rule is given: the looks at one namespace, who holds its sockets, and the words to ask about them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from finwait.errors import Phrase
from finwait.table.cells import cells_of
from finwait.tcp.state import TcpState
from finwait.text.messages import mark

if TYPE_CHECKING:
    from collections.abc import Iterator

    from finwait.table.batch import Array, Mask
    from finwait.table.look import Holders, Host, Look

WRAPS_AT = 1 << 32  # counters of 32-bit kernels
LOOPBACK_V4 = 127
UNSEEN = mark("some program")
PROCESS_TEXT = mark("{name} (pid {pid})")
UNNAMED = mark("pid {pid}")
MANY_PEERS = mark("{count} peers")


@dataclass
class Case:
    """looks: at one namespace, the oldest first, one or more. holders: of the sockets of the last. since_s: for each socket of
    the last look, for how many seconds at least it has been seen in its state (0.0: just now). others: the other namespaces
    that were looked at.
    """  # fmt: skip

    looks: tuple[Look, ...]
    holders: Holders | None
    host: Host
    since_s: Array
    others: tuple[Case, ...] = ()

    @property
    def now(self) -> Look:
        """The last look."""
        return self.looks[-1]

    @property
    def interval_s(self) -> float:
        """Seconds between the first look and the last."""
        return self.looks[-1].at_s - self.looks[0].at_s

    # -- counters and settings

    def delta(self, name: str) -> int:
        """By how much a counter has grown; counters of 32 bits wrap."""
        return grown(self.looks[0].counters[name], self.now.counters[name])

    def was_reset(self, name: str) -> bool:
        """Whether a counter went back in a way that no wrap explains."""
        return went_back(self.looks[0].counters[name], self.now.counters[name])

    def rate(self, name: str) -> float:
        """Growth of a counter a second."""
        return self.delta(name) / self.interval_s

    def growth(self, name: str) -> int:
        """As `delta`, of a counter that a rule can do without: 0 where a look does not have it, or it went back."""
        return growth_between(self.looks[0], self.now, name)

    def counter(self, name: str) -> int | None:
        """Its present value."""
        return self.now.counters.get(name)

    def number(self, sysctl: str) -> int | None:
        """A setting that is one whole number."""
        text = self.now.sysctls.get(sysctl, "")
        return int(text) if text.lstrip("-").isdigit() else None

    def numbers(self, sysctl: str) -> tuple[int, ...]:
        """A setting of several numbers; empty where it is not there."""
        words = self.now.sysctls.get(sysctl, "").split()
        return tuple(int(word) for word in words) if all(word.isdigit() for word in words) else ()

    # -- sockets

    @property
    def count(self) -> int:
        """Sockets of the last look."""
        return self.now.rows.length

    def values(self, name: str) -> Array:
        """A column of the last look, zeros where a row has none."""
        return filled(self.now, name)

    def has(self, name: str) -> Mask:
        """Which sockets have a value in column `name`."""
        return self.now.rows.column(name).valid_mask()

    @cached_property
    def state(self) -> Array:
        """TcpState's numbers."""
        return self.values("state")

    def in_state(self, *states: TcpState) -> Mask:
        """Which sockets are in one of `states`."""
        return np.isin(self.state, [int(state) for state in states])

    @cached_property
    def before(self) -> Array:
        """For each socket its row in the first look, -1 where it was not there."""
        then, now = filled(self.looks[0], "cookie"), self.values("cookie")
        if not len(then):
            return np.full(self.count, -1)
        order = np.argsort(then, kind="stable")
        at = np.minimum(np.searchsorted(then[order], now), len(then) - 1)
        found = order[at]
        return np.where((then[found] == now) & (now != 0), found, -1)

    def values_before(self, name: str) -> Array:
        """Column `name` of the first look for each socket of the last; zeros where it was not there."""
        then = filled(self.looks[0], name)
        return np.where(self.before >= 0, then[self.before], 0) if len(then) else np.zeros(self.count, then.dtype)

    @cached_property
    def is_loopback(self) -> Mask:
        """Whose peer is a loopback address: 127.0.0.0/8, the same mapped into IPv6, ::1."""
        address, family = self.values("peer_address"), self.values("family")
        mapped = (address[:, :10] == 0).all(axis=1) & (address[:, 10:12] == 255).all(axis=1)
        local6 = (address[:, :15] == 0).all(axis=1) & (address[:, 15] == 1)
        is_v4 = (family == 2) & (address[:, 0] == LOOPBACK_V4)
        loopback: Mask = is_v4 | ((family == 10) & (local6 | (mapped & (address[:, 12] == LOOPBACK_V4))))
        return loopback

    @cached_property
    def is_incoming(self) -> Mask:
        """Which sockets have the port of a listener: clients of this host, and the listeners."""
        listening = np.unique(self.values("local_port")[self.in_state(TcpState.LISTEN)])
        incoming: Mask = np.isin(self.values("local_port"), listening)
        return incoming

    # -- owners

    @cached_property
    def pids(self) -> Array:
        """The first process that holds each socket, -1 where none does or may be seen."""
        return np.full(self.count, -1) if self.holders is None else self.holders.first_pids(self.count)

    def by_process(self, mask: Mask) -> Iterator[tuple[int, Array]]:
        """The sockets of `mask` by the process that holds them (-1: none): (pid, rows), the most sockets first."""
        rows = np.flatnonzero(mask)
        for same in _grouped(rows, self.pids[rows]):
            yield int(self.pids[same[0]]), same

    def by_peer(self, mask: Mask, *names: str) -> Iterator[Array]:
        """The sockets of `mask` that have the same values in the columns `names`: rows, the largest group first."""
        rows = np.flatnonzero(mask)
        if not len(rows):
            return
        parts = [np.ascontiguousarray(self.values(name)[rows]).reshape(len(rows), -1) for name in names]
        keys = np.ascontiguousarray(
            np.concatenate([part.view(np.uint8).reshape(len(rows), -1) for part in parts], axis=1)
        )
        yield from _grouped(rows, keys.view(f"V{keys.shape[1]}")[:, 0])

    def worst_peers(self, mask: Mask, most: int, *names: str) -> Iterator[tuple[Array, int]]:
        """As `by_peer`, with 1 for each of at most `most` groups that are a tenth of all or more; then what is left in one,
        with how many groups it is: when a network fails nobody reads a thousand findings.
        """
        groups = list(self.by_peer(mask, *names))
        total = sum(len(rows) for rows in groups)
        large = sum(len(rows) * 10 >= total for rows in groups[:most])
        for rows in groups[:large]:
            yield rows, 1
        if groups[large:]:
            yield np.concatenate(groups[large:]), len(groups) - large

    def peer_text(self, rows: Array, count: int, name: str = "peer_address") -> object:
        """For people: the peer of `rows`, or how many they are."""
        if count > 1:
            return Phrase(MANY_PEERS, count=count)
        return str(cells_of(self.now.rows.take(rows[:1]), name)[0])

    def who(self, pid: int) -> Phrase:
        """A process for people; -1 is one that may not be seen."""
        if pid < 0:
            return Phrase(UNSEEN)
        process = self.host.processes.get(pid)
        if process is None or process.name is None:
            return Phrase(UNNAMED, pid=pid)
        return Phrase(PROCESS_TEXT, name=process.name, pid=pid)


def _grouped(rows: Array, keys: Array) -> Iterator[Array]:
    """`rows` by equal `keys`, the largest group first; within a group in their order."""
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ordered = rows[np.argsort(inverse, kind="stable")]
    for at in np.argsort(-counts, kind="stable").tolist():
        yield ordered[ends[at] - counts[at] : ends[at]]


def filled(look: Look, name: str) -> Array:
    """Column `name` of `look`, zeros where a row has none."""
    data = look.rows.column(name)
    if data.valid is None:
        return data.values
    valid = data.valid.reshape(-1, *[1] * (data.values.ndim - 1))
    return np.where(valid, data.values, 0)


def grown(before: int, now: int) -> int:
    """By how much a counter has grown; counters of 32 bits wrap."""
    return now - before if now >= before else (now - before) % WRAPS_AT


def went_back(before: int, now: int) -> bool:
    """Whether a counter went back in a way that no wrap explains."""
    return now < before and (before >= WRAPS_AT or grown(before, now) > WRAPS_AT // 2)


def growth_between(first: Look, last: Look, name: str) -> int:
    """By how much a counter has grown; 0 where a look does not have it, or it went back."""
    before, now = first.counters.get(name), last.counters.get(name)
    return 0 if before is None or now is None or went_back(before, now) else grown(before, now)
