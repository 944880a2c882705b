"""What rules ask a case: counters over time, sockets over looks, who is on this host."""

from __future__ import annotations

import pytest

from finwait.diagnosis.case import grown, growth_between, went_back
from finwait.tcp.state import TcpState
from tests.unit.diagnosis.cases import case_of, listener, sock

HALF, WRAP = 1 << 31, 1 << 32


@pytest.mark.parametrize(
    ("before", "now", "wanted", "reset"),
    [
        (5, 5, 0, False),
        (5, 9, 4, False),
        (WRAP - 1, 0, 1, False),
        (WRAP - 1, HALF - 1, HALF, False),
        (WRAP - 1, HALF, HALF + 1, True),
        (9, 5, WRAP - 4, True),
        (WRAP, 0, 0, True),  # a counter of 64 bits
        (WRAP, WRAP, 0, False),
        (WRAP, WRAP + 7, 7, False),
        (0, WRAP * 2, WRAP * 2, False),
    ],
)
def test_counters_wrap_or_go_back(before: int, now: int, wanted: int, reset: bool) -> None:
    assert (grown(before, now), went_back(before, now)) == (wanted, reset)


def test_growth_of_what_is_not_there_is_none() -> None:
    case = case_of(counters={"a.x": (None, 5), "a.y": (5, None), "a.z": (9, 5), "a.w": (5, 9)})
    first, last = case.looks
    assert [growth_between(first, last, f"a.{name}") for name in "xyzwv"] == [0, 0, 0, 4, 0]


@pytest.mark.parametrize(
    ("peer", "wanted"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("128.0.0.1", False),
        ("::1", True),
        ("::2", False),
        ("1::1", False),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", False),
        ("1::ffff:7f00:1", False),
        ("::fffe:7f00:1", False),
        ("7f00::", False),
    ],
)
def test_loopback(peer: str, wanted: bool) -> None:
    local = "::" if ":" in peer else "10.0.0.1"
    assert case_of([sock(TcpState.ESTABLISHED, f"{local}:80", f"{peer}:9")]).is_loopback.tolist() == [wanted]


def test_a_socket_is_known_by_its_cookie() -> None:
    first, second, third = (sock(TcpState.ESTABLISHED, recv_q=number) for number in (10, 20, 30))
    nameless = sock(TcpState.ESTABLISHED, recv_q=40, cookie=None)
    case = case_of([first, second, third, nameless], before=[nameless, {**third, "recv_q": 3}, {**first, "recv_q": 1}])
    assert case.before.tolist() == [2, -1, 1, -1]
    assert case.values_before("recv_q").tolist() == [1, 0, 3, 0]
    assert case_of([first], before=[]).before.tolist() == [-1]


def test_groups_are_the_largest_first_in_their_order() -> None:
    rows = [
        sock(TcpState.ESTABLISHED, peer=f"10.9.0.{last}:443", pid=pid) for last, pid in ((1, 7), (2, 8), (2, 7), (2, 8))
    ]
    case = case_of(rows)
    everything = case.in_state(TcpState.ESTABLISHED)
    assert [group.tolist() for group in case.by_peer(everything, "peer_address")] == [[1, 2, 3], [0]]
    assert [(pid, group.tolist()) for pid, group in case.by_process(everything)] == [(7, [0, 2]), (8, [1, 3])]
    assert list(case.by_peer(case.in_state(TcpState.CLOSE), "peer_address")) == []
    assert list(case.by_process(case.in_state(TcpState.CLOSE))) == []


@pytest.mark.parametrize(("singles", "wanted"), [(9, [(1, 1), (9, 9)]), (90, [(10, 1), (90, 90)]), (91, [(101, 92)])])
def test_a_peer_with_a_tenth_is_told_by_itself(singles: int, wanted: list[tuple[int, int]]) -> None:
    own = 10 if singles >= 90 else 1
    rows = [sock(TcpState.ESTABLISHED, peer="10.9.1.1:443") for _ in range(own)]
    rows += [sock(TcpState.ESTABLISHED, peer=f"10.9.0.{number}:443") for number in range(singles)]
    case = case_of(rows)
    groups = case.worst_peers(case.in_state(TcpState.ESTABLISHED), 1, "peer_address")
    assert [(len(rows), peers) for rows, peers in groups] == wanted


def test_who_comes_in_has_a_listeners_port() -> None:
    rows = [listener(0, 9, "0.0.0.0:80"), sock(TcpState.ESTABLISHED, "10.0.0.1:80"), sock(TcpState.ESTABLISHED)]
    assert case_of(rows).is_incoming.tolist() == [True, True, False]


def test_names_of_processes() -> None:
    case = case_of([sock(TcpState.ESTABLISHED, pid=7)])
    assert [str(case.who(pid)) for pid in (7, 0, 9, -1)] == ["server-7 (pid 7)", "pid 0", "pid 9", "some program"]
