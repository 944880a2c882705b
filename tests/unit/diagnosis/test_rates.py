"""Rules that speak when a counter grows fast enough: silent at the threshold, heard just above it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from finwait.tcp.state import TcpState
from tests.unit.diagnosis.cases import case_of, found, listener, severities, sock

if TYPE_CHECKING:
    from finwait.diagnosis.case import Case

OVERFLOWS, DROPS, FULL = "TcpExt.ListenOverflows", "TcpExt.ListenDrops", "TcpExt.TCPReqQFullDrop"
COOKIES, SENT, ANSWERED = "TcpExt.TCPReqQFullDoCookies", "TcpExt.SyncookiesSent", "TcpExt.SyncookiesRecv"
NOTHING: list[str] = []


@pytest.mark.parametrize(
    ("rule", "counter", "in_10_s", "wanted"),
    [
        ("listen-overflow", OVERFLOWS, 10, []),
        ("listen-overflow", OVERFLOWS, 11, ["warning"]),
        ("listen-overflow", OVERFLOWS, 50, ["warning"]),
        ("listen-overflow", OVERFLOWS, 51, ["critical"]),
        ("listen-drops-other", DROPS, 10, []),
        ("listen-drops-other", DROPS, 11, ["warning"]),
        ("syn-queue-drop", FULL, 0, []),
        ("syn-queue-drop", FULL, 1, ["warning"]),
        ("syn-queue-drop", FULL, 50, ["warning"]),
        ("syn-queue-drop", FULL, 51, ["critical"]),
        ("aborts", "TcpExt.TCPAbortOnData", 10, []),
        ("aborts", "TcpExt.TCPAbortOnData", 11, ["info"]),
        ("aborts", "TcpExt.TCPAbortOnClose", 10, []),
        ("aborts", "TcpExt.TCPAbortOnClose", 11, ["info"]),
        ("aborts", "TcpExt.TCPAbortOnTimeout", 10, []),
        ("aborts", "TcpExt.TCPAbortOnTimeout", 11, ["warning"]),
        ("aborts", "TcpExt.TCPAbortOnMemory", 0, []),
        ("aborts", "TcpExt.TCPAbortOnMemory", 1, ["critical"]),
        ("timestamps-rejected", "TcpExt.PAWSEstab", 10, []),
        ("timestamps-rejected", "TcpExt.PAWSEstab", 11, ["warning"]),
        ("timestamps-rejected", "TcpExt.PAWSActive", 11, ["warning"]),
        ("timestamps-rejected", "TcpExt.TSEcrRejected", 11, ["warning"]),
        ("conntrack-insert-failed", "conntrack.insert_failed", 10, []),
        ("conntrack-insert-failed", "conntrack.insert_failed", 11, ["warning"]),
        ("connect-refused", "Tcp.AttemptFails", 500, []),
        ("connect-refused", "Tcp.AttemptFails", 501, ["warning"]),
        ("connect-refused", "Tcp.OutRsts", 500, []),
        ("connect-refused", "Tcp.OutRsts", 501, ["info"]),
    ],
)
def test_threshold_of_a_rate(rule: str, counter: str, in_10_s: int, wanted: list[str]) -> None:
    assert severities(case_of(counters={counter: (7000, 7000 + in_10_s)}), rule) == wanted


def test_thresholds_can_be_set() -> None:
    case = case_of(counters={OVERFLOWS: 30})
    assert severities(case, "listen-overflow", warning_per_s=3) == []
    assert severities(case, "listen-overflow", critical_per_s=2) == ["critical"]


def test_drops_of_full_queues_are_not_others() -> None:
    """Each overflow and each SYN dropped by a full SYN queue is counted in ListenDrops too."""
    full = {OVERFLOWS: 40, FULL: 60}
    assert severities(case_of(counters={**full, DROPS: 110}), "listen-drops-other") == []
    (finding,) = found(case_of(counters={**full, DROPS: 111}), "listen-drops-other")
    assert finding.evidence["drops"] == 11


def _cookies(sent: int, answered: int, **sysctls: str) -> Case:
    counters = {COOKIES: sent, SENT: sent, ANSWERED: answered}
    return case_of(counters=counters, sysctls={f"ipv4.{name}": value for name, value in sysctls.items()})


@pytest.mark.parametrize(
    ("sent", "answered", "flood", "burst"),
    [
        (10, 0, [], []),
        (11, 0, ["warning"], []),
        (50, 0, ["warning"], []),
        (51, 0, ["critical"], []),
        (1000, 99, ["critical"], []),
        (1000, 100, [], ["warning"]),
        (11, 11, [], ["warning"]),
        (10, 10, [], []),
    ],
)
def test_answered_cookies_tell_clients_from_a_flood(
    sent: int, answered: int, flood: list[str], burst: list[str]
) -> None:
    assert severities(_cookies(sent, answered), "syn-flood") == flood
    assert severities(_cookies(sent, answered), "syn-backlog-burst") == burst


def test_cookies_for_every_syn_tell_nothing_of_a_full_queue() -> None:
    for rule in ("syn-flood", "syn-backlog-burst"):
        assert severities(_cookies(1000, 0, tcp_syncookies="2"), rule) == []
        assert severities(_cookies(1000, 900, tcp_syncookies="2"), rule) == []


def test_the_flooded_listener_is_named() -> None:
    rows = [
        listener(0, 8, "0.0.0.0:81"),
        listener(0, 8, pid=7),
        *(sock(TcpState.SYN_RECV, "10.0.0.1:80") for _ in range(9)),
    ]
    (finding,) = found(case_of(rows, counters={COOKIES: 99, SENT: 99}), "syn-flood")
    assert [owner.pid for owner in finding.owners] == [7]
    assert finding.evidence["listeners"] == ["0.0.0.0:80"]
    for half_open, named in ((6, ["0.0.0.0:80"]), (5, [])):
        (finding,) = found(case_of(rows[: 2 + half_open], counters={COOKIES: 99, SENT: 99}), "syn-flood")
        assert finding.evidence["listeners"] == named


@pytest.mark.parametrize(
    ("looks", "wanted"),
    [
        ((0, 50, 99), []),  # 9.8 a second, and 10 the usual
        ((0, 2, 27), ["warning"]),  # 5 a second, and 0.4
        ((0, 2, 26), []),  # 4.8 a second
        ((0, 3, 33), []),  # 6 a second, 10 times 0.6
        ((0, 3, 34), ["warning"]),
        ((0, 3000, 6000), []),  # always so
    ],
)
def test_refusals_are_told_from_what_is_usual(looks: tuple[int, ...], wanted: list[str]) -> None:
    for counter in ("Tcp.AttemptFails", "Tcp.OutRsts"):
        assert severities(case_of(looks=3, counters={counter: looks}), "connect-refused") == wanted


def test_resets_of_own_connections_answer_no_stranger() -> None:
    counters = {"Tcp.OutRsts": 900, "TcpExt.TCPAbortOnData": 200, "TcpExt.TCPAbortOnClose": 200}
    assert severities(case_of(counters=counters), "connect-refused") == []
    assert severities(case_of(counters={**counters, "Tcp.OutRsts": 901}), "connect-refused") == ["info"]


@pytest.mark.parametrize(
    ("sent", "again", "syns", "wanted"),
    [
        (1000, 10, 0, []),
        (1000, 11, 0, ["warning"]),
        (99, 900, 0, []),
        (100, 900, 0, ["critical"]),
        (1000, 50, 0, ["warning"]),
        (1000, 51, 0, ["critical"]),
        (1000, 900, 890, []),
        (1000, 900, 889, ["warning"]),
    ],
)
def test_share_of_segments_sent_again(sent: int, again: int, syns: int, wanted: list[str]) -> None:
    counters = {"Tcp.OutSegs": sent, "Tcp.RetransSegs": again, "TcpExt.TCPSynRetrans": syns}
    assert severities(case_of(counters=counters), "retransmissions") == wanted


def test_retransmissions_name_few_peers_that_own_most() -> None:
    counters = {"Tcp.OutSegs": 10_000, "Tcp.RetransSegs": 300}
    lost = {"10.9.0.0": 70, "10.9.0.1": 5, "10.9.0.2": 15, "10.9.0.3": 10}
    few = [sock(TcpState.ESTABLISHED, peer=f"{peer}:443", total_retrans=again) for peer, again in lost.items()]
    (finding,) = found(case_of(few, counters=counters), "retransmissions")
    assert finding.evidence["peers"] == [
        {"peer": "10.9.0.0", "retransmitted_ever": 70, "share": 0.7},
        {"peer": "10.9.0.2", "retransmitted_ever": 15, "share": 0.15},
        {"peer": "10.9.0.3", "retransmitted_ever": 10, "share": 0.1},
    ]
    assert "few peers own most" in str(finding.meaning)
    for again, wanted in ((78, "no few peers own most"), (79, "a few peers own most")):
        lost = {
            "10.9.1.0": again,
            **{f"10.9.0.{number}": 1 for number in range(20)},
        }  # three of them: 80 of 98, 81 of 99
        rows = [sock(TcpState.ESTABLISHED, peer=f"{peer}:443", total_retrans=count) for peer, count in lost.items()]
        (finding,) = found(case_of(rows, counters=counters), "retransmissions", few_peers_share=80 / 98)
        assert wanted in str(finding.meaning)
    quiet = [sock(TcpState.ESTABLISHED, peer=f"10.9.0.{number}:443", total_retrans=number) for number in range(2)]
    (finding,) = found(case_of(quiet, counters=counters), "retransmissions")
    assert finding.evidence["peers"] == [{"peer": "10.9.0.1", "retransmitted_ever": 1, "share": 1.0}]
    many = [sock(TcpState.ESTABLISHED, peer=f"10.9.0.{number}:443", total_retrans=10) for number in range(10)]
    (finding,) = found(case_of(many, counters=counters), "retransmissions")
    assert "no few peers own most" in str(finding.meaning)


@pytest.mark.parametrize(("opened", "again", "wanted"), [(50, 1, []), (50, 2, ["warning"]), (49, 40, []), (100, 2, [])])
def test_share_of_syns_sent_again(opened: int, again: int, wanted: list[str]) -> None:
    counters = {"Tcp.ActiveOpens": opened, "TcpExt.TCPSynRetrans": again}
    assert severities(case_of(counters=counters), "syn-retransmits") == wanted


def test_syn_acks_sent_again_are_in_the_same_counter() -> None:
    counters = {"Tcp.ActiveOpens": 100, "TcpExt.TCPSynRetrans": 90}
    assert severities(case_of([sock(TcpState.SYN_RECV, retransmits=1)], counters=counters), "syn-retransmits") == []
    assert severities(case_of([sock(TcpState.SYN_RECV)], counters=counters), "syn-retransmits") == ["warning"]


def test_challenge_acks_matter_where_close_wait_stands() -> None:
    rows = [sock(TcpState.CLOSE_WAIT)]
    for grown, rows_now, wanted in ((10, rows, ["warning"]), (9, rows, NOTHING), (99, [], NOTHING)):
        case = case_of(rows_now, counters={"TcpExt.TCPChallengeACK": grown})
        assert severities(case, "close-wait-challenged") == wanted


@pytest.mark.parametrize(("overflows", "wanted"), [(0, ["info"]), (1, ["warning"])])
def test_abort_on_overflow_matters_while_queues_overflow(overflows: int, wanted: list[str]) -> None:
    on = {"ipv4.tcp_abort_on_overflow": "1"}
    assert severities(case_of(counters={OVERFLOWS: overflows}, sysctls=on), "abort-on-overflow") == wanted
    assert severities(case_of(counters={OVERFLOWS: overflows}), "abort-on-overflow") == []
