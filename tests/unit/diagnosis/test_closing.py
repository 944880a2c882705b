"""Rules about closing: on both sides of each threshold, near misses, and both ends on one host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from finwait.table.look import Host, Process
from finwait.tcp.state import TcpState
from tests.unit.diagnosis.cases import case_of, found, listener, severities, sock, verdict

if TYPE_CHECKING:
    from finwait.diagnosis.case import Case
    from tests.unit.diagnosis.cases import Row

CLOSE_WAIT, FIN_WAIT2, SYN_SENT = TcpState.CLOSE_WAIT, TcpState.FIN_WAIT2, TcpState.SYN_SENT
NOTHING: list[str] = []


@pytest.mark.parametrize(
    ("silent_s", "wanted"), [(59.999, []), (60, ["warning"]), (599.999, ["warning"]), (600, ["critical"])]
)
def test_a_leak_by_the_last_ack(silent_s: float, wanted: list[str]) -> None:
    case = case_of([sock(CLOSE_WAIT, recv_q=1, last_ack_recv_ms=int(silent_s * 1000))])
    assert severities(case, "close-wait-leak") == wanted


def test_a_leak_by_how_long_it_was_seen() -> None:
    rows = [sock(CLOSE_WAIT, recv_q=1)]
    assert severities(case_of(rows, since_s=59.9), "close-wait-leak") == []
    (finding,) = found(case_of(rows, since_s=60.0), "close-wait-leak")
    assert finding.since_s == 60.0


def test_idle_for_an_hour_and_closed_just_now_is_no_leak() -> None:
    rows = [sock(CLOSE_WAIT, recv_q=1, last_data_recv_ms=3_600_000, last_data_sent_ms=3_600_000, last_ack_recv_ms=900)]
    assert severities(case_of(rows), "close-wait-leak") == []


def test_who_goes_on_sending_has_half_closed_on_purpose() -> None:
    sending = sock(CLOSE_WAIT, last_data_sent_ms=500, bytes_acked=9)
    assert severities(case_of([sending], since_s=700.0), "close-wait-leak") == []
    silent = sock(CLOSE_WAIT, last_data_sent_ms=700_000, bytes_acked=9)
    assert severities(case_of([silent], since_s=700.0), "close-wait-leak") == ["critical"]


def test_a_leak_by_process_with_what_was_read() -> None:
    old: dict[str, Any] = {"last_ack_recv_ms": 90_000}
    rows = [
        *(sock(CLOSE_WAIT, pid=7, fd=20 + number, recv_q=size, **old) for number, size in enumerate((0, 1, 5, 9))),
        sock(CLOSE_WAIT, pid=8, **old),
        sock(CLOSE_WAIT, pid=None, **old),
    ]
    first, second = found(case_of(rows), "close-wait-leak")
    assert ([owner.pid for owner in first.owners], first.owners[0].fds) == ([7], (20, 21, 22, 23))
    assert [first.evidence[name] for name in ("unread_data", "end_of_file_not_read", "read_but_not_closed")] == [
        2,
        1,
        1,
    ]
    assert ([owner.pid for owner in second.owners], second.total) == ([8], 1)


@pytest.mark.parametrize(("stayed", "wanted"), [(0, ["info"]), (10, ["info"]), (11, ["warning"]), (20, [])])
def test_turnover_of_close_wait_by_how_many_stay(stayed: int, wanted: list[str]) -> None:
    rows = [sock(CLOSE_WAIT) for _ in range(20)]
    before = rows[:stayed] + [sock(CLOSE_WAIT) for _ in range(20 - stayed)]
    assert severities(case_of(rows, before=before), "close-wait-churn") == wanted


@pytest.mark.parametrize(
    ("unread", "wanted"),
    [
        ((0, 0, 1, 9), "did not close"),
        ((1, 1, 1, 0), "the end of the stream unread"),
        ((9, 9, 9, 0), "has not even read"),
    ],
)
def test_what_the_program_has_read_tells_why(unread: tuple[int, ...], wanted: str) -> None:
    rows = [sock(CLOSE_WAIT, recv_q=size, last_ack_recv_ms=90_000) for size in unread]
    (finding,) = found(case_of(rows), "close-wait-leak")
    assert wanted in str(finding.meaning)


@pytest.mark.parametrize("unread", [(9, 9, 0, 0), (1, 1, 0, 0)])
def test_a_half_is_not_most(unread: tuple[int, ...]) -> None:
    rows = [sock(CLOSE_WAIT, recv_q=size, last_ack_recv_ms=90_000) for size in unread]
    (finding,) = found(case_of(rows), "close-wait-leak")
    assert "did not close" in str(finding.meaning)


def _looks(*looks: list[Row], now: list[Row]) -> Case:
    case = case_of(now, looks=len(looks) + 1)
    for at, rows in enumerate(looks):
        case.looks[at].rows = case_of(rows).now.rows
    return case


def test_a_leak_that_grows_is_critical() -> None:
    rows = [sock(CLOSE_WAIT, last_ack_recv_ms=90_000) for _ in range(9)]
    assert severities(_looks(rows[:7], rows[:8], now=rows), "close-wait-leak") == ["critical"]
    assert severities(_looks(rows[:8], rows[:8], now=rows), "close-wait-leak") == ["warning"]
    assert severities(_looks(rows[:8], rows, now=rows), "close-wait-leak") == ["warning"]
    assert severities(_looks(rows[:8], now=rows), "close-wait-leak") == ["warning"]


def test_another_programs_growth_is_not_ones_own() -> None:
    steady = [sock(CLOSE_WAIT, pid=7, last_ack_recv_ms=90_000) for _ in range(5)]
    grows = [sock(CLOSE_WAIT, pid=8, last_ack_recv_ms=90_000) for _ in range(4)]
    findings = found(_looks(steady + grows[:2], steady + grows[:3], now=steady + grows), "close-wait-leak")
    assert [(finding.owners[0].pid, finding.severity) for finding in findings] == [(8, "critical"), (7, "warning")]


def test_turnover_beside_an_old_leak_is_no_growth() -> None:
    leaked = [sock(CLOSE_WAIT, last_ack_recv_ms=90_000)]
    brief = [sock(CLOSE_WAIT) for _ in range(60)]
    case = _looks(leaked + brief[:20], leaked + brief[10:30], now=leaked + brief[15:35])
    assert severities(case, "close-wait-leak") == ["warning"]


def test_who_was_established_before_did_not_stay() -> None:
    rows = [sock(CLOSE_WAIT) for _ in range(20)]
    before = [*rows[:10], *({**row, "state": int(TcpState.ESTABLISHED)} for row in rows[10:]), *_others(10)]
    assert severities(case_of(rows, before=before), "close-wait-churn") == ["info"]
    nobodys = [sock(CLOSE_WAIT, pid=None) for _ in range(20)]
    assert severities(case_of(nobodys, before=_others(20)), "close-wait-churn") == []


def _others(count: int) -> list[Row]:
    return [sock(CLOSE_WAIT) for _ in range(count)]


def test_few_or_ever_more_close_wait_are_no_turnover() -> None:
    rows = [sock(CLOSE_WAIT) for _ in range(20)]
    others = [sock(CLOSE_WAIT) for _ in range(20)]
    assert severities(case_of(rows[:19], before=others), "close-wait-churn") == []
    assert severities(case_of(rows, before=others[:9]), "close-wait-churn") == []
    assert severities(case_of(rows, before=others[:10]), "close-wait-churn") == ["info"]
    many = [sock(CLOSE_WAIT) for _ in range(41)]
    assert severities(case_of(rows, before=many[:40]), "close-wait-churn") == ["info"]
    assert severities(case_of(rows, before=many), "close-wait-churn") == []
    assert severities(case_of(rows, before=others, since_s=60.0), "close-wait-churn") == []
    assert severities(case_of(rows, before=others, since_s=59.9), "close-wait-churn") == ["info"]


@pytest.mark.parametrize(("count", "wanted"), [(2, []), (3, ["warning"])])
def test_peers_that_gave_up_in_the_accept_queue(count: int, wanted: list[str]) -> None:
    rows = [listener(3, 64, pid=7), *(sock(CLOSE_WAIT, "10.0.0.1:80", pid=None) for _ in range(count))]
    findings = found(case_of(rows), "close-wait-not-accepted")
    assert [finding.severity for finding in findings] == wanted
    assert all([owner.pid for owner in finding.owners] == [7] for finding in findings)
    accepted = [sock(CLOSE_WAIT, "10.0.0.1:80") for _ in range(9)]
    assert severities(case_of(accepted), "close-wait-not-accepted") == []


def test_connect_meets_the_old_connection() -> None:
    client = sock(SYN_SENT, "127.0.0.1:40000", "127.0.0.1:80", retransmits=1)
    server = sock(CLOSE_WAIT, "127.0.0.1:80", "127.0.0.1:40000", pid=7)
    (finding,) = found(case_of([client, server]), "connect-meets-close-wait")
    assert [(end.state, end.side) for end in finding.connections] == [("syn_sent", "waiting"), ("close_wait", "guilty")]
    mapped = sock(CLOSE_WAIT, "::ffff:127.0.0.1:80", "::ffff:127.0.0.1:40000", pid=7)
    elsewhere = verdict(case_of([client]), "connect-meets-close-wait", others=[case_of([mapped])])
    assert [finding.severity for finding in elsewhere.findings] == ["critical"]
    other_way = sock(CLOSE_WAIT, "127.0.0.1:40000", "127.0.0.1:80", pid=7)
    assert severities(case_of([client, other_way]), "connect-meets-close-wait") == []
    fresh = {**client, "retransmits": 0}
    assert severities(case_of([fresh, server]), "connect-meets-close-wait") == []
    assert severities(case_of([client, {**server, "state": 1}]), "connect-meets-close-wait") == []


@pytest.mark.parametrize(("silent_s", "wanted"), [(59.999, []), (60, ["warning"])])
def test_a_program_that_waits_in_fin_wait_2(silent_s: float, wanted: list[str]) -> None:
    rows = [sock(FIN_WAIT2, last_ack_recv_ms=int(silent_s * 1000))]
    assert severities(case_of(rows), "fin-wait-2-forever") == wanted
    orphan = {**rows[0], "pid": None, "inode": None}
    assert severities(case_of([orphan]), "fin-wait-2-forever") == []


@pytest.mark.parametrize(("count", "wanted"), [(99, []), (100, ["warning"])])
def test_a_peer_that_does_not_close(count: int, wanted: list[str]) -> None:
    rows = [sock(FIN_WAIT2, peer="10.9.0.1:443", pid=None) for _ in range(count)]
    others = [sock(FIN_WAIT2, peer=f"10.9.1.{number}:443", pid=None) for number in range(200)]
    assert severities(case_of([*rows, *others]), "peer-leaks-close-wait") == wanted
    owned = [sock(FIN_WAIT2, peer="10.9.0.1:443") for _ in range(count)]
    assert severities(case_of(owned), "peer-leaks-close-wait") == []


@pytest.mark.parametrize("state", [TcpState.FIN_WAIT1, TcpState.CLOSING, TcpState.LAST_ACK])
def test_a_fin_that_nobody_acknowledges(state: TcpState) -> None:
    for columns, wanted in (
        ({"timer": "on", "retransmits": 2}, NOTHING),
        ({"timer": "on", "retransmits": 3}, ["warning"]),
        ({"timer": "persist"}, ["warning"]),
    ):
        assert severities(case_of([sock(state, pid=None, **columns)]), "peer-vanished") == wanted


def test_an_outage_is_no_thousand_findings() -> None:
    rows = [
        sock(TcpState.LAST_ACK, peer=f"10.9.{number // 200}.{number % 200}:443", pid=None, timer="on", retransmits=4)
        for number in range(1000)
    ]
    of_one = [{**rows[7], "cookie": (1 << 40) + number} for number in range(111)]
    findings = found(case_of([*rows, *of_one]), "peer-vanished")
    assert [finding.total for finding in findings] == [112, 999]
    assert findings[0].evidence["peer"] == "10.9.0.7"
    assert str(findings[1].title).startswith("no answer from 999 peers")
    assert [finding.total for finding in found(case_of([*rows, *of_one[:109]]), "peer-vanished")] == [1109]
    few = [{**row, "cookie": (2 << 40) + at} for at, row in enumerate(rows[:7])]
    assert [finding.total for finding in found(case_of(few), "peer-vanished")] == [1, 1, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("ghosts", "before", "wanted"),
    [(100, None, []), (101, None, ["warning"]), (10, 9, ["warning"]), (9, 8, []), (50, 50, []), (50, 51, [])],
)
def test_ghosts_many_or_ever_more(ghosts: int, before: int | None, wanted: list[str]) -> None:
    host = Host({7: Process(7, "leaky", 200, 1000, ghosts, before)}, ghosts_seen=True)
    findings = found(case_of(host=host), "ghost-sockets")
    assert [finding.severity for finding in findings] == wanted
    assert all([owner.pid for owner in finding.owners] == [7] for finding in findings)


@pytest.mark.parametrize(
    ("descriptors", "limit", "wanted"),
    [(800, 1000, []), (801, 1000, ["warning"]), (950, 1000, ["warning"]), (951, 1000, ["critical"]), (951, None, [])],
)
def test_a_process_near_its_limit(descriptors: int, limit: int | None, wanted: list[str]) -> None:
    host = Host({7: Process(7, "greedy", descriptors, limit)})
    assert severities(case_of(host=host), "descriptor-limit") == wanted


def test_both_ends_on_one_host_show_the_guilty_one() -> None:
    server = sock(CLOSE_WAIT, "127.0.0.1:80", "127.0.0.1:40000", pid=7, last_ack_recv_ms=90_000)
    client = sock(FIN_WAIT2, "127.0.0.1:40000", "127.0.0.1:80", pid=8, last_ack_recv_ms=90_000)
    (finding,) = found(case_of([server, client]), "close-wait-leak")
    ends = [(end.state, end.side, end.owner.pid if end.owner else None) for end in finding.connections]
    assert ends == [("close_wait", "guilty", 7), ("fin_wait_2", "waiting", 8)]


def test_who_waits_in_fin_wait_2_shows_who_must_close() -> None:
    server = sock(CLOSE_WAIT, "127.0.0.1:80", "127.0.0.1:40000", pid=7, last_ack_recv_ms=90_000)
    client = sock(FIN_WAIT2, "127.0.0.1:40000", "127.0.0.1:80", pid=8, last_ack_recv_ms=90_000)
    (finding,) = found(case_of([server, client]), "fin-wait-2-forever")
    ends = [(end.state, end.side, end.owner.pid if end.owner else None) for end in finding.connections]
    assert ends == [("fin_wait_2", "waiting", 8), ("close_wait", "guilty", 7)]


def test_the_other_end_has_both_ports_and_both_addresses() -> None:
    server = sock(CLOSE_WAIT, "127.0.0.1:80", "127.0.0.1:40000", last_ack_recv_ms=90_000)
    for local, peer in (
        ("127.0.0.1:40001", "127.0.0.1:80"),
        ("127.0.0.1:40000", "127.0.0.1:81"),
        ("127.0.0.2:40000", "127.0.0.1:80"),
        ("127.0.0.1:40000", "127.0.0.2:80"),
    ):
        (finding,) = found(case_of([sock(FIN_WAIT2, local, peer), server]), "close-wait-leak")
        assert [end.side for end in finding.connections] == [None]


def test_each_owner_has_its_own_descriptors() -> None:
    rows = [listener(5, 4, f"0.0.0.0:{port}", pid=pid, fd=fd) for port, pid, fd in ((80, 7, 3), (81, 8, 4), (82, 8, 5))]
    (finding,) = found(case_of(rows, counters={"TcpExt.ListenOverflows": 99}), "listen-overflow")
    assert [(owner.pid, owner.fds) for owner in finding.owners] == [(8, (4, 5)), (7, (3,))]


def test_the_other_end_may_be_in_another_namespace_and_family() -> None:
    server = sock(CLOSE_WAIT, "::ffff:10.1.0.1:80", "::ffff:10.1.0.2:40000", pid=7, last_ack_recv_ms=90_000)
    client = sock(FIN_WAIT2, "10.1.0.2:40000", "10.1.0.1:80", pid=8)
    diagnosis = verdict(case_of([server]), "close-wait-leak", others=[case_of([client])])
    assert [(end.state, end.side) for end in diagnosis.findings[0].connections] == [
        ("close_wait", "guilty"),
        ("fin_wait_2", "waiting"),
    ]
