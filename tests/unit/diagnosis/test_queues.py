"""Rules about accept and SYN queues: on both sides of each threshold, and who is named."""

from __future__ import annotations

import pytest

from finwait.tcp.state import TcpState
from tests.unit.diagnosis.cases import case_of, found, listener, severities, sock


@pytest.mark.parametrize(
    ("length", "limit", "wanted"),
    [
        (101, 100, ["critical"]),
        (100, 100, ["warning"]),
        (80, 100, ["warning"]),
        (79, 100, []),
        (2, 1, ["critical"]),
        (1, 0, ["critical"]),
        (0, 0, []),
    ],
)
def test_an_accept_queue_that_stays_as_it_is(length: int, limit: int, wanted: list[str]) -> None:
    assert severities(case_of([listener(length, limit)]), "accept-queue-full") == wanted


def test_a_queue_that_is_nearly_full_must_stay_so() -> None:
    now = listener(90, 100)
    for then, wanted in ((79, []), (80, ["warning"])):
        before = [{**now, "accept_queue_length": then}]
        assert severities(case_of([now], before=before), "accept-queue-full") == wanted
    assert severities(case_of([now], before=[listener(90, 100)]), "accept-queue-full") == []  # another listener
    assert severities(case_of([now], looks=1), "accept-queue-full") == []
    assert severities(case_of([now], looks=3), "accept-queue-full") == ["warning"]


def test_one_look_tells_a_full_queue() -> None:
    (finding,) = found(case_of([listener(5, 4, "10.0.0.1:443", pid=7, fd=3)], looks=1), "accept-queue-full")
    assert [(owner.pid, owner.fds) for owner in finding.owners] == [(7, (3,))]
    assert str(finding.title) == "server-7 (pid 7) does not accept: 5 connections wait at 10.0.0.1:443, the limit is 4"
    assert (finding.evidence["length"], finding.evidence["limit"], finding.evidence["port"]) == (5, 4, 443)


def test_each_member_of_a_group_is_judged_by_itself() -> None:
    rows = [listener(17, 16, pid=7), listener(0, 16, pid=8), listener(17, 16, pid=9)]
    findings = found(case_of(rows), "accept-queue-full")
    assert [finding.owners[0].pid for finding in findings] == [7, 9]


def test_bytes_in_other_queues_are_no_accept_queue() -> None:
    rows = [sock(TcpState.ESTABLISHED, accept_queue_length=9, accept_queue_limit=1)]
    assert severities(case_of(rows), "accept-queue-full") == []


def test_overflow_names_the_fullest() -> None:
    rows = [listener(1, 100, "0.0.0.0:1"), listener(5, 4, "0.0.0.0:2", pid=7), listener(0, 4, "0.0.0.0:3")]
    (finding,) = found(case_of(rows, counters={"TcpExt.ListenOverflows": 99}), "listen-overflow")
    assert finding.evidence["fullest"] == [
        {"local": "0.0.0.0:2", "length": 5, "limit": 4},
        {"local": "0.0.0.0:1", "length": 1, "limit": 100},
    ]
    assert {owner.pid for owner in finding.owners} == {7, 4711}


@pytest.mark.parametrize(
    ("length", "limit", "somaxconn", "wanted"),
    [
        (64, 128, "128", ["info"]),
        (63, 128, "128", []),
        (64, 128, "129", []),
        (4096, 4096, "4096", []),  # the kernel's default: nobody has made it low
        (4095, 4095, "4095", ["info"]),
        (300, 511, "4096", []),  # what nginx and redis ask for
    ],
)
def test_a_backlog_that_somaxconn_has_cut(length: int, limit: int, somaxconn: str, wanted: list[str]) -> None:
    case = case_of([listener(length, limit)], sysctls={"core.somaxconn": somaxconn})
    assert severities(case, "backlog-cut") == wanted


def _half_open(count: int, unanswered: int, local: str = "10.0.0.1:80") -> list[dict[str, object]]:
    return [sock(TcpState.SYN_RECV, local, retransmits=int(number < unanswered)) for number in range(count)]


@pytest.mark.parametrize(
    ("count", "unanswered", "limit", "wanted"),
    [
        (75, 38, 100, ["warning"]),
        (76, 38, 100, []),  # TCP_DEFER_ACCEPT: the SYN-ACK is not sent again
        (74, 74, 100, []),
        (10, 10, 4, ["warning"]),
        (9, 9, 4, []),
    ],
)
def test_half_open_connections_that_nobody_answers(count: int, unanswered: int, limit: int, wanted: list[str]) -> None:
    case = case_of([listener(0, limit, pid=7), *_half_open(count, unanswered)])
    findings = found(case, "half-open-unanswered")
    assert [finding.severity for finding in findings] == wanted
    assert all([owner.pid for owner in finding.owners] == [7] for finding in findings)


def test_half_open_connections_count_for_the_listener_of_their_address() -> None:
    wide, narrow = listener(0, 1000, "0.0.0.0:80"), listener(0, 12, "10.0.0.1:80", pid=7)
    (finding,) = found(case_of([wide, narrow, *_half_open(12, 12)]), "half-open-unanswered")
    assert finding.evidence["local"] == "10.0.0.1:80"
    assert found(case_of([wide, narrow, *_half_open(12, 12, "10.0.0.2:80")]), "half-open-unanswered") == []
    assert found(case_of([narrow, *_half_open(12, 12, "10.0.0.2:80")]), "half-open-unanswered") == []
    six = [listener(0, 12, ":::80"), *_half_open(12, 12)]
    assert found(case_of(six), "half-open-unanswered") == []  # of another family


def test_a_group_of_listeners_has_the_sum_of_their_queues() -> None:
    group = [listener(0, 10), listener(0, 10)]
    assert severities(case_of([*group, *_half_open(14, 14)]), "half-open-unanswered") == []
    assert severities(case_of([*group, *_half_open(15, 15)]), "half-open-unanswered") == ["warning"]


@pytest.mark.parametrize(
    ("lengths", "wanted"),
    [
        ((17, 0, 3), ["warning"]),
        ((13, 0, 3), ["warning"]),
        ((12, 0, 3), []),
        ((17, 1, 3), []),
        ((0, 0, 0), []),
        ((17, 0), ["warning"]),
        ((17,), []),
    ],
)
def test_one_worker_is_stuck_while_another_idles(lengths: tuple[int, ...], wanted: list[str]) -> None:
    rows = [listener(length, 16, pid=number) for number, length in enumerate(lengths, 1)]
    findings = found(case_of(rows), "reuseport-imbalance")
    assert [finding.severity for finding in findings] == wanted
    assert all(finding.owners[0].pid == 1 for finding in findings)


def test_one_look_tells_a_stuck_worker_by_its_full_queue() -> None:
    for length, wanted in ((17, 1), (16, 0)):
        rows = [listener(length, 16), listener(0, 16)]
        assert len(found(case_of(rows, looks=1), "reuseport-imbalance")) == wanted


def test_listeners_on_other_ports_are_no_group() -> None:
    rows = [listener(17, 16, "0.0.0.0:80"), listener(0, 16, "0.0.0.0:81"), listener(0, 16, "10.0.0.1:80")]
    assert severities(case_of(rows), "reuseport-imbalance") == []
