"""The port budget and the rules on it: 100 ports from 10000 on unless said."""

from __future__ import annotations

from typing import Any

import pytest

from finwait.diagnosis.budget import PortBudget, parse_ports
from finwait.diagnosis.rules import RULE_BY_ID
from finwait.table.look import Host
from finwait.tcp.state import TcpState
from tests.unit.diagnosis.cases import case_of, found, lacks, listener, severities, sock

FEW = {"ipv4.ip_local_port_range": "10000 10099", "ipv4.tcp_tw_reuse": "0"}
PEER = "10.9.0.1:443"


def _outgoing(count: int, state: TcpState = TcpState.ESTABLISHED, peer: str = PEER, local: str = "10.0.0.1", **columns: Any):  # type: ignore[no-untyped-def]  # fmt: skip
    return [sock(state, f"{local}:{10000 + number}", peer, **columns) for number in range(count)]


@pytest.mark.parametrize(("count", "wanted"), [(70, []), (71, ["warning"]), (90, ["warning"]), (91, ["critical"])])
@pytest.mark.parametrize("state", [TcpState.ESTABLISHED, TcpState.TIME_WAIT, TcpState.SYN_SENT])
def test_ports_to_one_destination(state: TcpState, count: int, wanted: list[str]) -> None:
    assert severities(case_of(_outgoing(count, state), sysctls=FEW), "port-exhaustion") == wanted


def test_each_destination_has_all_ports() -> None:
    rows = [
        *_outgoing(70),
        *_outgoing(70, peer="10.9.0.1:444"),
        *_outgoing(70, peer="10.9.0.2:443"),
        *_outgoing(70, local="10.0.0.2"),
    ]
    assert severities(case_of(rows, sysctls=FEW), "port-exhaustion") == []
    groups = list(PortBudget(case_of(rows, sysctls=FEW)).groups())
    assert [(group.used, group.capacity) for group in groups] == [(70, 100)] * 4


def test_reserved_ports_are_no_budget() -> None:
    reserved = {**FEW, "ipv4.ip_local_reserved_ports": "80,10050-10099"}
    assert severities(case_of(_outgoing(35), sysctls=reserved), "port-exhaustion") == []
    (finding,) = found(case_of(_outgoing(36), sysctls=reserved), "port-exhaustion")
    assert (finding.evidence["ports_used"], finding.evidence["ports"]) == (36, 50)
    beyond = [sock(TcpState.ESTABLISHED, f"10.0.0.1:{port}", PEER) for port in range(10050, 10100)]
    assert severities(case_of([*beyond, *_outgoing(35)], sysctls=reserved), "port-exhaustion") == []


def test_ports_that_bind_took_are_gone_for_all() -> None:
    bound = [sock(TcpState.CLOSE, f"10.0.0.1:{port}", "0.0.0.0:0") for port in range(10050, 10100)]
    (finding,) = found(case_of([*_outgoing(36), *bound], sysctls=FEW), "port-exhaustion")
    assert (finding.evidence["ports"], finding.evidence["ports_taken_by_bind"]) == (50, 50)


def test_a_range_of_which_bind_took_all() -> None:
    bound = [sock(TcpState.CLOSE, f"10.0.0.1:{port}", "0.0.0.0:0") for port in range(10000, 10100)]
    (finding,) = found(case_of([*_outgoing(1), *bound], sysctls=FEW), "port-exhaustion")
    assert (finding.evidence["ports"], finding.evidence["share"]) == (0, 1.0)


def test_a_range_of_one_port() -> None:
    one = {**FEW, "ipv4.ip_local_port_range": "10000 10000"}
    assert severities(case_of(_outgoing(1), sysctls=one), "port-exhaustion") == ["critical"]
    assert PortBudget(case_of(sysctls=one)).is_known
    assert not PortBudget(case_of(sysctls={"ipv4.ip_local_port_range": None})).is_known


def test_one_look_knows_no_rates() -> None:
    (finding,) = found(case_of(_outgoing(91), sysctls=FEW, looks=1), "port-exhaustion")
    assert (finding.evidence["opened_per_s"], finding.evidence["exhausted_in_s"]) == (None, None)


@pytest.mark.parametrize(("taken", "wanted"), [(20, []), (21, ["warning"])])
def test_many_ports_taken_by_bind(taken: int, wanted: list[str]) -> None:
    rows = _outgoing(taken, pid=7)
    for case in (
        case_of(rows, sysctls=FEW, explicit=[row["cookie"] for row in rows]),
        case_of([{**row, "state": 7} for row in rows], sysctls=FEW),
    ):
        findings = found(case, "ports-taken-by-bind")
        assert [finding.severity for finding in findings] == wanted
        assert all(finding.owners[0].pid == 7 for finding in findings)
    assert severities(case_of(rows, sysctls=FEW), "ports-taken-by-bind") == []


def _old(count: int, age_ms: int, local: str = "10.0.0.1", peer: str = PEER):  # type: ignore[no-untyped-def]
    return _outgoing(count, TcpState.TIME_WAIT, peer, local, timer="time_wait", expires_ms=60_000 - age_ms)


@pytest.mark.parametrize(
    ("reuse", "delay", "timestamps", "age_ms", "loopback", "wanted"),
    [
        ("1", "1000", "1", 1000, False, []),
        ("1", "1000", "1", 999, False, ["critical"]),
        ("1", "5000", "1", 4999, False, ["critical"]),
        ("1", None, "1", 1000, False, []),  # before 6.14: a second
        ("1", "1000", "0", 1000, False, ["critical"]),
        ("0", "1000", "1", 1000, False, ["critical"]),
        ("2", "1000", "1", 1000, False, ["critical"]),
        ("2", "1000", "1", 1000, True, []),
        ("0", "1000", "1", 1000, True, ["critical"]),
    ],
)
def test_time_wait_that_may_be_used_again(
    reuse: str, delay: str | None, timestamps: str, age_ms: int, loopback: bool, wanted: list[str]
) -> None:
    names = {"tcp_tw_reuse": reuse, "tcp_tw_reuse_delay": delay, "tcp_timestamps": timestamps}
    sysctls = {**FEW, **{f"ipv4.{name}": value for name, value in names.items()}}
    rows = _old(95, age_ms, "127.0.0.1", "127.0.0.1:443") if loopback else _old(95, age_ms)
    assert severities(case_of(rows, sysctls=sysctls), "port-exhaustion") == wanted


def test_what_may_be_used_again_blocks_nothing() -> None:
    sysctls = {**FEW, "ipv4.tcp_tw_reuse": "1"}
    young = _old(71, 0)
    assert severities(case_of(young, sysctls=sysctls), "port-exhaustion") == ["warning"]
    assert (
        severities(case_of([{**young[0], "expires_ms": 59_000}, *young[1:]], sysctls=sysctls), "port-exhaustion") == []
    )


def test_incoming_connections_take_no_port_of_the_range() -> None:
    accepted = [sock(TcpState.TIME_WAIT, "10.0.0.1:10005", f"10.9.0.1:{port}") for port in range(500)]
    rows = [listener(0, 9, "0.0.0.0:10005"), *accepted]
    assert severities(case_of(rows, sysctls=FEW), "port-exhaustion") == []


def test_accepted_connections_are_not_outgoing_ones() -> None:
    rows = [*(listener(0, 9, f"0.0.0.0:{port}") for port in range(10000, 10005)), *_outgoing(5)]
    outgoing = [sock(TcpState.ESTABLISHED, f"10.0.0.1:{port}", PEER) for port in range(10005, 10071)]
    beyond = [sock(TcpState.CLOSE, f"10.0.0.1:{port}", "0.0.0.0:0") for port in range(10100, 10120)]
    assert severities(case_of([*rows, *outgoing, *beyond], sysctls=FEW), "port-exhaustion") == []  # 66 of 95


def test_time_to_exhaustion_at_the_present_growth() -> None:
    rows = _outgoing(80)
    (finding,) = found(case_of(rows, before=rows[:60], sysctls=FEW), "port-exhaustion")
    assert (finding.evidence["opened_per_s"], finding.evidence["exhausted_in_s"]) == (2.0, 10)
    (finding,) = found(case_of(rows, before=rows, sysctls=FEW), "port-exhaustion")
    assert (finding.evidence["opened_per_s"], finding.evidence["exhausted_in_s"]) == (0.0, None)


@pytest.mark.parametrize(("count", "wanted"), [(50, []), (51, ["info"]), (70, ["info"]), (71, [])])
def test_connect_searches_long(count: int, wanted: list[str]) -> None:
    assert severities(case_of(_outgoing(count), sysctls=FEW), "connect-slow") == wanted


@pytest.mark.parametrize(
    ("count", "overflowed", "wanted"),
    [(80, 0, []), (81, 0, ["warning"]), (1, 1, ["critical"]), (0, 0, [])],
)
def test_the_table_of_time_wait(count: int, overflowed: int, wanted: list[str]) -> None:
    counters = {"sockstat.TCP.tw": count, "TcpExt.TCPTimeWaitOverflow": overflowed}
    case = case_of(counters=counters, sysctls={"ipv4.tcp_max_tw_buckets": "100"})
    assert severities(case, "time-wait-overflow") == wanted


def test_a_proxy_in_front_runs_out_of_ports() -> None:
    assert RULE_BY_ID["client-near-port-limit"].limits == {"time_wait": 20_000}

    def at(count: int, port: int) -> list[dict[str, Any]]:
        return [sock(TcpState.TIME_WAIT, f"10.0.0.1:{port}", f"10.9.0.1:{number + 1}") for number in range(count)]

    rows = [listener(0, 9), *at(20, 80)]
    assert severities(case_of(rows), "client-near-port-limit", time_wait=20) == []
    assert severities(case_of([*rows, *at(1, 80)]), "client-near-port-limit", time_wait=20) == ["warning"]
    assert severities(case_of([*rows, *at(50, 81)]), "client-near-port-limit", time_wait=20) == []  # not a listener's


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("tcp_fin_timeout", "60", []),
        ("tcp_fin_timeout", "59", ["info"]),
        ("tcp_max_tw_buckets", "4096", []),
        ("tcp_max_tw_buckets", "4095", ["warning"]),
        ("tcp_syncookies", "0", ["warning"]),
        ("tcp_syncookies", "2", ["warning"]),
        ("tcp_timestamps", "0", ["info"]),
        ("tcp_tw_reuse", "1", ["info"]),
        ("tcp_tw_reuse", "0", []),
        ("tcp_retries2", "8", []),
        ("tcp_retries2", "7", ["info"]),
        ("tcp_rfc1337", "1", ["info"]),
        ("tcp_fin_timeout", None, []),
    ],
)
def test_settings_that_are_myths(name: str, value: str | None, wanted: list[str]) -> None:
    assert severities(case_of(sysctls={f"ipv4.{name}": value}), "sysctl-myth") == wanted


def test_files_that_set_what_is_gone() -> None:
    settings = (
        ("/etc/sysctl.conf", 3, "net.ipv4.tcp_tw_recycle", "1"),
        ("/etc/sysctl.conf", 4, "net.core.somaxconn", "65535"),
    )
    (finding,) = found(case_of(host=Host(settings=settings)), "sysctl-myth")
    assert finding.severity == "info"
    assert str(finding.title) == "net.ipv4.tcp_tw_recycle is 1 (/etc/sysctl.conf:3)"
    assert "gone since Linux 4.12" in str(finding.meaning)


def test_a_setting_in_force_is_told_once_with_its_file() -> None:
    settings = (("/a", 3, "net.ipv4.tcp_fin_timeout", "20"), ("/b", 5, "net.ipv4.tcp_fin_timeout", "30"))
    case = case_of(sysctls={"ipv4.tcp_fin_timeout": "30"}, host=Host(settings=settings))
    (finding,) = found(case, "sysctl-myth")
    assert finding.evidence == {"sysctl": "net.ipv4.tcp_fin_timeout", "value": 30, "default": "60", "file": "/b:5"}


@pytest.mark.parametrize(("port", "wanted"), [(9999, []), (10000, ["warning"]), (10099, ["warning"]), (10100, [])])
def test_a_listener_on_an_ephemeral_port(port: int, wanted: list[str]) -> None:
    rows = [listener(0, 9, f"0.0.0.0:{port}", pid=7)]
    findings = found(case_of(rows, sysctls=FEW), "listener-in-ephemeral-range")
    assert [finding.severity for finding in findings] == wanted
    assert all([owner.pid for owner in finding.owners] == [7] for finding in findings)


def test_a_listener_that_is_reserved_or_let_the_kernel_choose() -> None:
    rows = [listener(0, 9, "0.0.0.0:10005")]
    reserved = {**FEW, "ipv4.ip_local_reserved_ports": "10005"}
    assert severities(case_of(rows, sysctls=reserved), "listener-in-ephemeral-range") == []
    assert severities(case_of(rows, sysctls=FEW, explicit=[]), "listener-in-ephemeral-range") == []
    assert severities(case_of(rows, sysctls=FEW, explicit=[rows[0]["cookie"]]), "listener-in-ephemeral-range") == [
        "warning"
    ]


def test_without_a_range_there_is_no_budget() -> None:
    for rule in ("port-exhaustion", "connect-slow", "ports-taken-by-bind", "listener-in-ephemeral-range"):
        assert lacks(case_of(sysctls={"ipv4.ip_local_port_range": None}), rule) == ["no_setting"]


def test_ports_of_a_list() -> None:
    assert parse_ports("8080, 9000-9002,9999-10000,x,5-", 8000, 9999) == {8080, 9000, 9001, 9002, 9999}
