"""Rules about opening and established connections: on both sides of each threshold, and near misses."""

from __future__ import annotations

from typing import Any

import pytest

from finwait.tcp.state import TcpState
from tests.unit.diagnosis.cases import case_of, found, listener, severities, sock

UP = TcpState.ESTABLISHED
NOTHING: list[str] = []


@pytest.mark.parametrize(("retransmits", "wanted"), [(1, []), (2, ["warning"])])
def test_a_syn_that_nobody_answers(retransmits: int, wanted: list[str]) -> None:
    rows = [sock(TcpState.SYN_SENT, peer="10.9.0.1:443", pid=7, timer="on", retransmits=retransmits)]
    findings = found(case_of(rows), "connect-unanswered")
    assert [finding.severity for finding in findings] == wanted
    assert all(finding.owners[0].pid == 7 and finding.evidence["peer"] == "10.9.0.1:443" for finding in findings)


def test_unanswered_syns_by_destination() -> None:
    rows = [
        sock(TcpState.SYN_SENT, peer=f"10.9.0.{number}:443", timer="on", retransmits=2)
        for number in (1, 2, 2, 3, 4, 5, 6, 7)
    ]
    findings = found(case_of(rows), "connect-unanswered")
    assert [(finding.total, finding.evidence["peer_count"]) for finding in findings] == [
        (2, 1), (1, 1), (1, 1), (1, 1), (1, 1), (2, 2)
    ]  # fmt: skip


def _idle(count: int, idle_s: float = 400, **columns: Any) -> list[dict[str, Any]]:
    names = ("last_data_sent_ms", "last_data_recv_ms", "last_ack_recv_ms")
    return [sock(UP, **{**dict.fromkeys(names, int(idle_s * 1000)), **columns}) for _ in range(count)]


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (_idle(10), ["info"]),
        (_idle(9), []),
        (_idle(10, 350), ["info"]),
        (_idle(10, 349.9), []),
        (_idle(10, last_ack_recv_ms=20_000), []),  # a keepalive was acknowledged
        (_idle(10, last_data_sent_ms=20_000), []),
        (_idle(10, last_data_recv_ms=20_000), []),
        (_idle(10, timer="keepalive"), ["info"]),  # in two hours, which is too late
        (_idle(10, timer="on"), []),
        (_idle(10, peer="127.0.0.1:80"), []),
        (_idle(10, pid=None), []),
    ],
)
def test_idle_beyond_a_load_balancers_limit(rows: list[dict[str, Any]], wanted: list[str]) -> None:
    assert severities(case_of(rows), "idle-beyond-load-balancer") == wanted


def test_idle_ones_are_told_by_process_with_those_without_keepalive() -> None:
    (finding,) = found(
        case_of([*_idle(9, 600, pid=7), *_idle(11, 600.1, pid=7, timer="keepalive")]), "idle-beyond-load-balancer"
    )
    told = {name: finding.evidence[name] for name in ("connections", "without_keepalive", "idle_over_600_s")}
    assert told == {"connections": 20, "without_keepalive": 9, "idle_over_600_s": 11}
    assert [owner.pid for owner in finding.owners] == [7]


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"retransmits": 5}, ["warning"]),
        ({"retransmits": 4}, []),
        ({"retransmits": 5, "send_q": 0}, []),
        ({"retransmits": 5, "timer": "keepalive"}, []),
        ({"retransmits": 5, "state": 8}, ["warning"]),
        ({"retransmits": 5, "state": 9}, []),  # peer-vanished speaks
    ],
)
def test_data_that_is_never_acknowledged(columns: dict[str, Any], wanted: list[str]) -> None:
    row = {**sock(UP, timer="on", send_q=9), **{name: value for name, value in columns.items() if name != "timer"}}
    if columns.get("timer") == "keepalive":
        row["timer"] = 2
    assert severities(case_of([row]), "peer-unreachable") == wanted


def _full(count: int, peer: str = "10.9.0.1:443", **columns: Any) -> list[dict[str, Any]]:
    return [sock(UP, peer=peer, **{"timer": "persist", "send_q": 2000, **columns}) for _ in range(count)]


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([*_full(3), *_full(90, timer="none", send_q=0)], ["warning"]),
        ([*_full(2), *_full(90, timer="none", send_q=0)], ["info"]),  # two paused films among many
        ([*_full(2), *_full(1, "10.9.0.2:443"), *_full(3, timer="none")], ["warning"]),  # half of all
        ([*_full(2), *_full(1, "10.9.0.2:443"), *_full(4, timer="none")], ["info"]),
        (
            [
                *(row for number in (1, 2, 3) for row in _full(1, f"10.9.0.{number}:443")),
                *_full(9, timer="none", pid=8),
            ],
            ["warning"],  # all of this process
        ),
        ([*_full(2), *_full(1, "10.9.0.2:443"), *(listener(0, 9) for _ in range(9))], ["warning"]),
        ([{**row, "state": int(TcpState.FIN_WAIT1)} for row in _full(3)], []),  # peer-vanished speaks
        (_full(3, timer="on"), []),
        (_full(3, send_q=0), []),
        (_full(3, pid=None), []),
    ],
)
def test_peers_whose_window_stays_zero(rows: list[dict[str, Any]], wanted: list[str]) -> None:
    assert severities(case_of(rows), "zero-window") == wanted


def test_a_window_that_opens_now_and_then_is_no_trouble() -> None:
    rows = _full(3)
    assert severities(case_of(rows, before=[{**row, "send_q": 2000} for row in rows]), "zero-window") == ["warning"]
    assert severities(case_of(rows, before=[{**row, "send_q": 2001} for row in rows]), "zero-window") == []
    assert severities(case_of(rows, before=[{**row, "timer": 0} for row in rows]), "zero-window") == []
    open_now = [{**row, "timer": 0} for row in rows]
    assert severities(case_of(open_now, before=rows), "zero-window") == []
    assert severities(case_of(rows, before=_full(3)), "zero-window") == []  # other connections


def test_one_look_tells_a_zero_window_by_its_probes() -> None:
    assert severities(case_of(_full(3, backoff=3), looks=1), "zero-window") == ["warning"]
    assert severities(case_of(_full(3, backoff=2), looks=1), "zero-window") == []
    assert severities(case_of(_full(3, backoff=3, timer="on"), looks=1), "zero-window") == []
    assert severities(case_of(_full(3, backoff=3, send_q=0), looks=1), "zero-window") == []


def test_data_that_does_not_leave_for_half_a_minute() -> None:
    waiting = _full(3, timer="none", notsent_bytes=500, bytes_acked=7)
    for seconds, changed, wanted in (
        (30.0, {}, ["warning"]),
        (29.9, {}, NOTHING),
        (30.0, {"notsent_bytes": 501}, NOTHING),
        (30.0, {"bytes_acked": 6}, NOTHING),
        (30.0, {"notsent_bytes": 0}, NOTHING),
    ):
        before = [{**row, **changed} for row in waiting]
        case = case_of(waiting, before=before, seconds=seconds, info_before=True)
        assert severities(case, "zero-window") == wanted
    for changed in ({"retransmits": 1}, {"state": int(TcpState.FIN_WAIT1)}, {"cookie": None}):
        others = [{**row, **changed} for row in waiting]
        assert severities(case_of(others, seconds=30.0, info_before=True), "zero-window") == []
    assert severities(case_of(waiting, seconds=30.0), "zero-window") == []  # the first look lacks tcp_info


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({}, ["warning"]),
        ({"last_data_recv_ms": 9_999}, []),
        ({"recv_q": 0}, []),
        ({"pid": None}, []),  # nobody has accepted it
        ({"last_data_recv_ms": None}, []),
    ],
)
def test_data_that_lies_unread(columns: dict[str, Any], wanted: list[str]) -> None:
    row = sock(UP, **{"recv_q": 4000, "last_data_recv_ms": 10_000, **columns})
    findings = found(case_of([row], looks=1), "reader-stuck")
    assert [finding.severity for finding in findings] == wanted


@pytest.mark.parametrize(
    ("recv_q", "incoming", "wanted"),
    [(2047, False, ["info"]), (2048, False, ["warning"]), (1, True, ["warning"])],
)
def test_a_program_that_only_writes_leaves_a_little_unread(recv_q: int, incoming: bool, wanted: list[str]) -> None:
    rows = [sock(UP, "10.0.0.1:80", recv_q=recv_q, last_data_recv_ms=60_000), *([listener(0, 9)] if incoming else [])]
    assert severities(case_of(rows), "reader-stuck") == wanted


@pytest.mark.parametrize(("count", "wanted"), [(9, ["info"]), (10, ["warning"])])
def test_clients_that_vanish_are_a_note_unless_many_of_one_address(count: int, wanted: list[str]) -> None:
    gone = [sock(UP, "10.0.0.1:80", timer="on", send_q=9, retransmits=5) for _ in range(count)]
    closing = [{**row, "state": int(TcpState.LAST_ACK), "pid": None} for row in gone]
    for rows, rule in ((gone, "peer-unreachable"), (closing, "peer-vanished")):
        assert severities(case_of([listener(0, 9), *rows]), rule) == wanted
        assert severities(case_of(rows), rule) == ["warning"]  # a server of ours
    many = [{**row, "peer_address": f"10.9.0.{at}"} for at, row in enumerate(gone * 4)]
    assert set(severities(case_of([listener(0, 9), *many]), "peer-unreachable")) == {"info"}


def test_a_program_that_reads_slowly_is_not_stuck() -> None:
    row = sock(UP, recv_q=4000, last_data_recv_ms=60_000)
    for then, wanted in ((4001, NOTHING), (4000, ["warning"]), (0, ["warning"])):
        assert severities(case_of([row], before=[{**row, "recv_q": then}]), "reader-stuck") == wanted


def test_data_that_goes_on_coming_and_is_not_read() -> None:
    now = sock(UP, recv_q=4000, bytes_received=5000)
    for seconds, recv_q, received, wanted in (
        (10.0, 3500, 4500, ["warning"]),
        (9.9, 3500, 4500, NOTHING),
        (10.0, 3500, 4400, NOTHING),  # 100 were read
        (10.0, 0, 1000, NOTHING),  # nothing lay there
    ):
        before = [{**now, "recv_q": recv_q, "bytes_received": received}]
        assert severities(case_of([now], before=before, seconds=seconds, info_before=True), "reader-stuck") == wanted
    assert severities(case_of([now], before=[{**now, "recv_q": 400}]), "reader-stuck") == []  # no tcp_info: who knows
