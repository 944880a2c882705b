"""Looks, look-ups and notices of a made-up namespace: what they tell of each connection is one chain, true, and told once."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finwait.sources import diag_changes
from finwait.sources.change_records import ONLY_CHANGE
from finwait.sources.diag_changes import (
    ASKED,
    ENDED,
    EVENT,
    LISTENER_LOOKS,
    LOOKUP,
    SEEN,
    TIME_WAIT_NS,
    Connections,
    match,
)
from finwait.tcp.state import TcpState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from finwait.table.batch import Array

S = TcpState
FULL = (S.SYN_SENT, S.ESTABLISHED, S.FIN_WAIT1, S.FIN_WAIT2, S.CLOSE_WAIT, S.LAST_ACK, S.CLOSING)
STEP_NS = 1000
TICK_NS = 7


class Socket:
    """A connection. port: tells it from all others. is_full: there is a program's socket, of whose end a notice tells."""

    def __init__(self, port: int, state: TcpState, at_ns: int) -> None:
        self.port, self.state, self.at_ns = port, state, at_ns
        self.cookie = port
        self.is_mini = state == S.SYN_RECV
        self.is_full = not self.is_mini
        self.was_shown = False

    def seen(self) -> Array:
        row = np.zeros(1, dtype=SEEN)
        self.was_shown = True
        row["cookie"], row["state"], row["is_mini"], row["family"] = self.cookie, self.state, self.is_mini, 2
        row["local_port"], row["peer_port"], row["inode"] = self.port, 0 if self.state == S.LISTEN else 9, self.port
        if self.state == S.TIME_WAIT:
            row["began_ns"], row["began_within_ns"] = self.at_ns + TICK_NS, 2 * TICK_NS
        return row


class FakeLook:
    """A walk over `sockets`."""

    def __init__(self, sockets: Iterable[Socket], begun_ns: int, ended_ns: int) -> None:
        rows = np.concatenate([np.zeros(0, dtype=SEEN), *(one.seen() for one in sockets)])
        self._rows = rows[np.argsort(rows["cookie"])]
        self.cookies, self.states, self.inodes = (self._rows[name].copy() for name in ("cookie", "state", "inode"))
        self.begun_ns, self.ended_ns = begun_ns, ended_ns

    def details(self, positions: Array) -> Array:
        return self._rows[positions]


class World:
    """Sockets, what becomes of them, and what is known of it."""

    def __init__(self, *, with_paths: bool = False, keeps_ended: bool = True) -> None:
        self.connections = Connections(with_paths=with_paths, keeps_ended=keeps_ended)
        self.now_ns = 10**12
        self.sockets: list[Socket] = []
        self.ghosts: list[Socket] = []
        self.notices: list[Array] = []
        self.records: list[Any] = []
        self.lifetimes: list[Any] = []
        self.truth: dict[int, list[tuple[int, int]]] = defaultdict(list)  # by port: (state, since)
        self._ports = iter(range(1, 1 << 16))

    def tick(self) -> int:
        self.now_ns += STEP_NS
        return self.now_ns

    # -- what happens

    def open(self, state: TcpState = S.ESTABLISHED) -> Socket:
        one = Socket(next(self._ports), state, self.tick())
        self.truth[one.port].append((int(state), one.at_ns))
        self.sockets.append(one)
        return one

    def move(self, one: Socket, state: TcpState) -> None:
        if state != one.state:
            one.state, one.at_ns = state, self.tick()
            self.truth[one.port].append((int(state), one.at_ns))
        if one.is_mini and state == S.ESTABLISHED:  # the handshake is completed
            one.is_mini, one.is_full = False, True

    def end(self, one: Socket, left: TcpState | None = None) -> None:
        """The program's socket is freed; what is left of it goes on as a timewait socket."""
        self._notice(one)
        one.is_full = False
        if left is None:
            self._close(one)
            return
        if not one.was_shown:
            one.cookie = 1 << 32 | one.port  # nobody has asked for the old one
        one.is_mini = True
        self.move(one, left)

    def _notice(self, one: Socket) -> None:
        notice = np.zeros(1, dtype=ENDED)
        notice["cookie"], notice["local_port"], notice["family"] = one.cookie, one.port, 2
        notice["peer_port"] = 0 if one.state == S.LISTEN else 9
        notice["at_ns"], notice["bytes_acked"] = self.tick(), one.port * 10
        self.notices.append(notice)

    def _close(self, one: Socket) -> None:
        one.state, one.at_ns = S.CLOSE, self.now_ns
        self.truth[one.port].append((int(S.CLOSE), one.at_ns))
        self.sockets.remove(one)

    def expire(self, one: Socket) -> None:
        """A mini-socket ends, or a connection whose program keeps the socket."""
        self.tick()
        self._close(one)
        if one.is_full:
            self.ghosts.append(one)

    def free(self, one: Socket) -> None:
        """A program closes a socket whose connection has ended."""
        self.ghosts.remove(one)
        self._notice(one)

    # -- what is seen

    def begin(self) -> None:
        self.connections.begin(self._look(self.sockets))

    def _look(self, sockets: list[Socket]) -> FakeLook:
        begun_ns = self.tick()
        return FakeLook(sockets, begun_ns, self.tick())

    def look(self, missed: Iterable[int] = ()) -> Array:
        """A look that misses some that were there before, the notices that came, and exact look-ups of what it missed."""
        there = [one for at, one in enumerate(self.sockets) if at not in set(missed) or not one.was_shown]
        found = [self.connections.take_look(self._look(there))]
        found.append(self._read())
        at = self.connections.doubtful()
        begun_ns = self.tick()
        asked, seen = self._answers(self.connections.rows[at])
        found += [
            self.connections.take_answers(at, asked, seen, begun_ns, self.tick()),
            self.connections.end_listeners(self.now_ns),
        ]
        return self._keep(found)

    def read(self) -> Array:
        """The notices that came."""
        return self._keep([self._read()])

    def _read(self) -> Array:
        ends = np.concatenate([np.zeros(0, dtype=ENDED), *self.notices])
        self.notices.clear()
        begun_ns = self.tick()
        asked, wanted = self.connections.questions(ends)
        there, seen = self._answers(wanted)
        changes, lifetimes = self.connections.take_ends(ends, asked[there], seen, begun_ns, self.tick())
        self.lifetimes += list(lifetimes)
        return changes

    def _answers(self, rows: Array) -> tuple[Array, Array]:
        found = [
            (at, one.seen())
            for at, row in enumerate(rows)
            for one in self.sockets
            if (one.cookie == row["cookie"] if row["cookie"] else one.port == row["local_port"])
        ]
        return np.asarray([at for at, _ in found], dtype=np.intp), np.concatenate(
            [np.zeros(0, dtype=SEEN), *(seen for _, seen in found)]
        )

    def _keep(self, found: list[Array]) -> Array:
        together = np.concatenate(found)
        self.records += list(together)
        return together

    def told(self, one: Socket) -> list[tuple[int, int]]:
        return [(int(row["from"]), int(row["to"])) for row in self.records if row["local_port"] == one.port]


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.sampled_from((*FULL, S.SYN_RECV, S.LISTEN)), st.just(0)),
        st.tuples(st.just("move"), st.sampled_from(FULL), st.integers(0, 99)),
        st.tuples(st.just("end"), st.sampled_from((None, S.TIME_WAIT, S.FIN_WAIT2)), st.integers(0, 99)),
        st.tuples(st.just("expire"), st.none(), st.integers(0, 99)),
        st.tuples(st.just("free"), st.none(), st.integers(0, 99)),
        st.tuples(st.just("look"), st.lists(st.integers(0, 9), max_size=4), st.just(0)),
        st.tuples(st.just("read"), st.none(), st.just(0)),
    ),
    max_size=60,
)


def play(world: World, operations: list[tuple[str, Any, int]]) -> None:
    """Let the operations happen that can."""
    for name, argument, number in operations:
        if name == "open":
            world.open(argument)
        elif name == "look":
            listening = {at for at, one in enumerate(world.sockets) if one.state == S.LISTEN}
            world.look(set(argument) - listening)
        elif name == "read":
            world.read()
        elif name == "free":
            if world.ghosts:
                world.free(world.ghosts[number % len(world.ghosts)])
        elif world.sockets:
            _play_on(world, name, argument, world.sockets[number % len(world.sockets)])


def _play_on(world: World, name: str, argument: Any, one: Socket) -> None:
    if name == "end":
        if one.is_full:
            world.end(one, None if one.state in {S.LISTEN, S.LAST_ACK} else argument)
    elif name == "expire":
        if one.state != S.LISTEN:
            world.expire(one)
    elif one.is_full and one.state not in {S.LISTEN, S.LAST_ACK}:
        world.move(one, argument)
    elif one.state == S.FIN_WAIT2:
        world.move(one, S.TIME_WAIT)
    elif one.state == S.SYN_RECV:
        world.move(one, S.ESTABLISHED)


@given(OPERATIONS, OPERATIONS)
@settings(max_examples=400, deadline=None)
def test_whatever_happens_each_connection_is_one_chain_of_true_changes(
    before: list[tuple[str, Any, int]], after: list[tuple[str, Any, int]]
) -> None:
    world = World(with_paths=True)
    play(world, [operation for operation in before if operation[0] in {"open", "move", "expire"}])
    world.begin()
    at_begin = {one.port: (int(one.state), one.at_ns) for one in world.sockets}
    play(world, after)
    for one in list(world.ghosts):
        world.free(one)
    world.look()
    world.read()
    world.look()

    rows = defaultdict(list)
    for row in world.records:
        rows[int(row["local_port"])].append(row)
    for port, chain in rows.items():
        check_chain(chain, world.truth[port], at_begin.get(port))
    there = {one.port: int(one.state) for one in world.sockets}
    for port, (state, _) in at_begin.items():
        last = int(rows[port][-1]["to"]) if rows[port] else state
        assert last == there.get(port, int(S.CLOSE))
    for port, state in there.items():
        assert int(rows[port][-1]["to"]) == state if rows[port] else at_begin[port][0] == state
    known = {int(row["local_port"]): int(row["state"]) for row in world.connections.rows if not row["gone"]}
    ended = {port for port, state in known.items() if state == S.CLOSE}
    assert {port: state for port, state in known.items() if port not in ended} == there
    assert all(int(world.truth[port][-2][0]) == S.SYN_RECV for port in ended)  # of no other no notice came
    lives = [int(row["local_port"]) for row in world.lifetimes]
    assert len(lives) == len(set(lives))
    for row in world.lifetimes:
        assert row["bytes_acked"] == row["local_port"] * 10
        path = [int(state) for state in row["states"] if state]
        assert all(left != reached for left, reached in pairwise(path))
        assert S.CLOSE not in path


def check_chain(chain: list[Any], truth: list[tuple[int, int]], at_begin: tuple[int, int] | None) -> None:
    """Each row goes on where the last one ended; the state that it tells was reached in the time that it says."""
    first = chain[0]
    if at_begin is not None:
        assert first["from"] == at_begin[0]
        assert first["since_ns"] in {0, at_begin[1] + TICK_NS}
    else:
        assert first["from"] in ({S.LISTEN} if first["to"] == S.SYN_RECV else {0, int(S.CLOSE)})
        assert first["since_ns"] == 0
    for row, later in pairwise(chain):
        assert (later["from"], later["since_ns"]) == (row["to"], row["at_ns"])
    for row in chain:
        assert row["from"] != row["to"]
        assert row["since_ns"] <= row["at_ns"]
        assert row["hints"] == ONLY_CHANGE
        assert row["evidence"] in {EVENT, LOOKUP}
        if row["evidence"] == EVENT:
            assert (row["to"], row["within_ns"]) == (S.CLOSE, 0)
            continue
        earliest = row["at_ns"] - row["within_ns"]
        assert any(state == row["to"] and earliest <= at_ns <= row["at_ns"] for state, at_ns in truth), (chain, truth)


# -- looks


def test_what_stays_as_it_is_is_not_told() -> None:
    world = World()
    for state in (*FULL, S.LISTEN, S.SYN_RECV):
        world.open(state)
    world.begin()
    assert len(world.look()) == len(world.look()) == 0


def test_a_new_connection_comes_from_closed_and_a_half_open_one_from_its_listener() -> None:
    world = World()
    world.begin()
    world.open(S.ESTABLISHED)
    world.open(S.SYN_RECV)
    listener = world.open(S.LISTEN)
    records = world.look()
    assert [(row["from"], row["to"]) for row in records] == [
        (S.CLOSE, S.ESTABLISHED), (S.LISTEN, S.SYN_RECV), (S.CLOSE, S.LISTEN),
    ]  # fmt: skip
    assert not records["since_ns"].any()
    assert world.told(listener) == [(S.CLOSE, S.LISTEN)]


def test_states_between_two_looks_are_not_invented() -> None:
    world = World()
    one = world.open(S.SYN_SENT)
    world.begin()
    for state in (S.ESTABLISHED, S.FIN_WAIT1, S.FIN_WAIT2):
        world.move(one, state)
    [row] = world.look()
    assert (row["from"], row["to"], row["evidence"]) == (S.SYN_SENT, S.FIN_WAIT2, LOOKUP)
    assert row["at_ns"] - row["within_ns"] <= one.at_ns <= row["at_ns"]


def test_a_look_that_misses_a_connection_ends_nothing() -> None:
    world = World()
    for _ in range(3):
        world.open()
    world.begin()
    for _ in range(20):
        assert len(world.look(missed=(0, 2))) == 0


def test_a_listener_is_gone_when_several_looks_miss_it() -> None:
    world = World()
    world.open(S.LISTEN)
    world.begin()
    for _ in range(7):
        assert sum(len(world.look(missed=[0])) for _ in range(LISTENER_LOOKS - 1)) == 0
        assert len(world.look()) == 0
    for _ in range(LISTENER_LOOKS - 1):
        assert len(world.look(missed=[0])) == 0
    [row] = world.look(missed=[0])
    assert (row["from"], row["to"], row["evidence"]) == (S.LISTEN, S.CLOSE, LOOKUP)


def test_the_second_look_of_the_beginning_finds_what_the_first_has_missed() -> None:
    world = World()
    old = [world.open() for _ in range(5)]
    world.connections.begin(world._look(old[:2]))
    world.begin()
    assert len(world.look()) == 0


def test_a_time_wait_that_every_look_of_the_beginning_has_missed_is_not_told_as_new() -> None:
    world = World()
    one = world.open(S.FIN_WAIT2)
    world.end(one, S.TIME_WAIT)
    world.notices.clear()
    world.connections.begin(world._look([]))
    assert len(world.look()) == 0
    world.expire(one)
    assert world.look()["from"].tolist() == [S.TIME_WAIT]


def test_a_time_wait_tells_when_it_began_however_late_one_looks() -> None:
    world = World()
    one = world.open()
    world.begin()
    world.end(one, S.TIME_WAIT)
    began_ns = one.at_ns
    world.now_ns += 5 * 10**9
    [row] = world.look()
    assert (row["from"], row["to"]) == (S.ESTABLISHED, S.TIME_WAIT)
    assert (row["at_ns"], row["within_ns"]) == (began_ns + TICK_NS, 2 * TICK_NS)
    assert len(world.read()) == 0


@pytest.mark.parametrize("full_time", [True, False])
def test_the_end_of_a_time_wait_is_not_told_earlier_than_its_timer_allows(*, full_time: bool) -> None:
    world = World()
    one = world.open()
    world.begin()
    world.end(one, S.TIME_WAIT)
    world.read()
    seen_ns = world.now_ns
    world.now_ns += TIME_WAIT_NS if full_time else 10**9
    world.expire(one)
    world.now_ns += 10**9
    [row] = world.look()
    assert (row["from"], row["to"], row["evidence"], row["tgid"]) == (S.TIME_WAIT, S.CLOSE, LOOKUP, 0)
    earliest = row["at_ns"] - row["within_ns"]
    since_ns = row["since_ns"] - TICK_NS
    assert earliest == since_ns - TICK_NS + TIME_WAIT_NS if full_time else earliest < seen_ns


# -- notices


def test_a_connection_that_no_look_saw_is_told_by_its_end() -> None:
    world = World(with_paths=True)
    world.begin()
    gone, left = world.open(S.LAST_ACK), world.open(S.FIN_WAIT2)
    world.end(gone)
    world.end(left, S.TIME_WAIT)
    world.read()
    assert world.told(gone) == [(0, S.CLOSE)]
    assert world.told(left) == [(0, S.TIME_WAIT)]
    assert {int(row["cookie"]) for row in world.records} == {gone.cookie, left.cookie}
    world.look()
    world.expire(left)
    world.look()
    assert world.told(left) == [(0, S.TIME_WAIT), (S.TIME_WAIT, S.CLOSE)]
    assert [(row["from"], row["to"], row["states"].any()) for row in world.lifetimes] == [
        (0, S.CLOSE, False), (0, S.TIME_WAIT, False),
    ]  # fmt: skip


def test_a_look_that_comes_before_the_notice_has_told_it() -> None:
    world = World(with_paths=True)
    world.begin()
    one = world.open(S.FIN_WAIT2)
    world.end(one, S.TIME_WAIT)
    world.look()
    world.read()
    assert world.told(one) == [(S.CLOSE, S.TIME_WAIT)]
    [life] = world.lifetimes
    assert (life["to"], life["cookie"], life["at_ns"]) == (S.TIME_WAIT, one.cookie, one.at_ns + TICK_NS)


def test_a_socket_that_was_never_connected_is_not_told() -> None:
    world = World()
    world.begin()
    listener = world.open(S.LISTEN)
    world.end(listener)
    assert len(world.read()) == 0


def test_a_listener_is_gone_at_once_when_a_notice_says_so() -> None:
    world = World(with_paths=True)
    listener = world.open(S.LISTEN)
    world.begin()
    world.end(listener)
    [row] = world.read()
    assert (row["from"], row["to"], row["evidence"], row["at_ns"]) == (S.LISTEN, S.CLOSE, EVENT, listener.at_ns)
    assert not world.lifetimes
    assert len(world.look()) == 0


def test_a_connection_that_has_ended_is_not_told_again_when_its_program_closes_it() -> None:
    world = World(with_paths=True)
    one = world.open()
    world.begin()
    world.expire(one)
    [end] = world.look()
    assert (end["to"], end["evidence"]) == (S.CLOSE, LOOKUP)
    world.look()
    world.free(one)
    assert len(world.read()) == len(world.look()) == 0
    [life] = world.lifetimes
    assert (life["from"], life["to"], life["at_ns"]) == (S.ESTABLISHED, S.CLOSE, end["at_ns"])


def test_a_socket_that_connects_again_begins_anew() -> None:
    world = World(with_paths=True)
    one = world.open(S.SYN_SENT)
    world.begin()
    world.expire(one)
    world.look()
    world.ghosts.remove(one)
    world.sockets.append(one)
    world.move(one, S.ESTABLISHED)
    world.look()
    world.end(one)
    world.read()
    assert world.told(one) == [(S.SYN_SENT, S.CLOSE), (S.CLOSE, S.ESTABLISHED), (S.ESTABLISHED, S.CLOSE)]
    [life] = world.lifetimes
    assert [int(state) for state in life["states"] if state] == [S.ESTABLISHED]


def test_where_no_notices_come_nothing_is_kept_of_what_has_ended() -> None:
    world = World(keeps_ended=False)
    one = world.open()
    world.begin()
    world.expire(one)
    assert world.look()["to"].tolist() == [S.CLOSE]
    assert len(world.look()) == 0
    assert len(world.connections.rows) == 0


def test_of_connections_that_have_ended_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diag_changes, "MOST_ENDED", 3)
    world = World()
    old = [world.open() for _ in range(5)]
    world.begin()
    for one in old:
        world.expire(one)
        world.look()
    world.look()
    assert sorted(world.connections.rows["local_port"].tolist()) == [one.port for one in old[2:]]


def test_an_end_of_a_copy_whose_connection_goes_on_ends_nothing() -> None:
    """Two processors may complete one handshake at once: the kernel drops one of the two sockets, which has the same cookie."""
    world = World(with_paths=True)
    one = world.open(S.SYN_RECV)
    world.begin()
    world.move(one, S.ESTABLISHED)
    world._notice(one)
    world.read()
    world.look()
    assert world.told(one) == [(S.SYN_RECV, S.ESTABLISHED)]
    assert not world.lifetimes


# -- lifetimes, owners


def test_a_life_has_the_states_that_were_seen() -> None:
    world = World(with_paths=True)
    old = world.open(S.SYN_SENT)
    world.begin()
    new = world.open(S.SYN_SENT)
    world.look()
    for one in (old, new):
        world.move(one, S.ESTABLISHED)
    world.look()
    for one in (old, new):
        world.end(one, S.FIN_WAIT2)
    world.read()
    began, established = (np.unique([row["at_ns"] for row in world.records if row["to"] == to]) for to in (2, 1))
    lives = {int(row["local_port"]): row for row in world.lifetimes}
    for one in (old, new):
        life = lives[one.port]
        assert life["states"].tolist() == [S.SYN_SENT, S.ESTABLISHED, 0, 0, 0, 0, 0, 0]
        assert life["begins_ns"].tolist()[:2] == [0 if one is old else began[0], established[0]]
        assert (life["from"], life["to"]) == (S.ESTABLISHED, S.FIN_WAIT2)


def test_an_owner_is_remembered_and_looked_for_twice_at_most() -> None:
    world = World()
    one, other = world.open(), world.open()
    world.begin()
    connections = world.connections
    assert connections.without_owner().tolist() == [1, 2]
    assert not connections.has_nobodys()
    connections.learn_owners(np.asarray([1], np.uint64), np.asarray([77], np.uint32))
    assert connections.without_owner().tolist() == [2]
    for _ in range(ASKED - 1):
        connections.learn_owners(np.zeros(0, np.uint64), np.zeros(0, np.uint32))
    assert connections.without_owner().tolist() == []
    assert connections.has_nobodys()
    for socket in (one, other):
        world.end(socket, S.TIME_WAIT)
    assert sorted(world.read()["tgid"].tolist()) == [0, 77]


def test_an_owner_that_is_learned_later_is_filled_in() -> None:
    world = World()
    world.begin()
    world.open()
    records = world.look()
    world.connections.learn_owners(np.asarray([1], np.uint64), np.asarray([77], np.uint32))
    world.connections.name_owners(records)
    assert records["tgid"].tolist() == [77]


NUMBERS = st.sets(st.integers(0, 1 << 64 - 1), max_size=30)


@given(NUMBERS, NUMBERS)
def test_cookies_are_matched(known: set[int], looked: set[int]) -> None:
    first, second = (np.asarray(sorted(one), dtype=np.uint64) for one in (known, looked))
    at, found, missing = match(first, second)
    assert first[at].tolist() == second[found].tolist() == sorted(known & looked)
    assert first[missing].tolist() == sorted(known - looked)


def test_a_socket_that_is_just_closed_keeps_the_port_that_it_had() -> None:
    """inet_put_port: a walk that has taken the socket already shows it with port 0."""
    world = World()
    one = world.open(S.LAST_ACK)
    world.look()
    world.move(one, S.CLOSE)
    one.port, known = 0, one.port
    world.look()
    (record,) = [record for record in world.records if record["to"] == S.CLOSE]
    assert (record["from"], record["local_port"]) == (S.LAST_ACK, known)
