"""Rules about what the host's TCP shares, and what stands beside it."""

from __future__ import annotations

import pytest

from finwait.diagnosis.rules import RULE_BY_ID
from finwait.tcp.state import TcpState
from tests.unit.diagnosis.cases import case_of, found, listener, severities, sock, verdict


@pytest.mark.parametrize(
    ("pages", "wanted"), [(1000, []), (1001, ["warning"]), (1800, ["warning"]), (1801, ["critical"])]
)
def test_memory_of_tcp(pages: int, wanted: list[str]) -> None:
    assert severities(case_of(counters={"sockstat.TCP.mem": pages}), "tcp-memory") == wanted


def test_memory_is_told_in_bytes_too() -> None:
    (finding,) = found(case_of(counters={"sockstat.TCP.mem": 1024}, sysctls={"ipv4.tcp_mem": "1 2 2048"}), "tcp-memory")
    assert str(finding.title) == "TCP uses 4 of 8 MiB of its memory"
    assert severities(case_of(counters={"sockstat.TCP.mem": 9}, sysctls={"ipv4.tcp_mem": "1 2"}), "tcp-memory") == []


@pytest.mark.parametrize(
    ("orphans", "wanted"), [(250, []), (251, ["warning"]), (500, ["warning"]), (501, ["critical"])]
)
def test_orphans_of_their_limit(orphans: int, wanted: list[str]) -> None:
    assert severities(case_of(counters={"sockstat.TCP.orphan": orphans}), "orphans") == wanted


def test_the_host_is_judged_once() -> None:
    case, other = (case_of(counters={"sockstat.TCP.orphan": 900}) for _ in range(2))
    assert len(verdict(case, "orphans", others=[other]).findings) == 1


@pytest.mark.parametrize(
    ("entries", "counters", "wanted"),
    [
        (750, {}, []),
        (751, {}, ["warning"]),
        (900, {}, ["warning"]),
        (901, {}, ["critical"]),
        (751, {"conntrack.drop": 1}, ["critical"]),
        (751, {"conntrack.early_drop": 1}, ["critical"]),
        (10, {"conntrack.drop": 1}, ["warning"]),
        (10, {"conntrack.drop": (None, None)}, []),
        (10, {"conntrack.insert_failed": 900}, []),
    ],
)
def test_connection_tracking_near_its_limit(
    entries: int, counters: dict[str, int | tuple[None, None]], wanted: list[str]
) -> None:
    case = case_of(counters=counters, sysctls={"netfilter.nf_conntrack_count": str(entries)})
    assert severities(case, "conntrack-full") == wanted


@pytest.mark.parametrize(
    ("entries", "timeout_s", "forwards", "wanted"),
    [
        (20_001, 432_000, "0", ["info"]),
        (20_000, 432_000, "0", []),
        (20_001, 86_400, "0", []),
        (20_001, 432_000, "1", []),  # a router has entries for others
    ],
)
def test_far_more_entries_than_sockets(entries: int, timeout_s: int, forwards: str, wanted: list[str]) -> None:
    sysctls = {
        "netfilter.nf_conntrack_count": str(entries),
        "netfilter.nf_conntrack_tcp_timeout_established": str(timeout_s),
        "ipv4.ip_forward": forwards,
    }
    assert severities(case_of([sock(TcpState.ESTABLISHED)], sysctls=sysctls), "conntrack-stale") == wanted


def test_entries_are_compared_with_the_sockets() -> None:
    rows = [sock(TcpState.ESTABLISHED) for _ in range(21)]
    sysctls = {"netfilter.nf_conntrack_count": "210"}
    assert severities(case_of(rows, sysctls=sysctls), "conntrack-stale", least_entries=20) == []
    assert severities(case_of(rows[:20], sysctls=sysctls), "conntrack-stale", least_entries=20) == ["info"]


def test_flows_to_one_destination_from_all_namespaces() -> None:
    assert RULE_BY_ID["flows-beyond-gateway"].limits == {"flows": 55_000, "share": 0.8}

    def flows(count: int, peer: str = "192.0.2.1:443", **columns: object) -> list[dict[str, object]]:
        return [sock(TcpState.ESTABLISHED, f"10.0.0.1:{20000 + number}", peer, **columns) for number in range(count)]

    mapped = [sock(TcpState.ESTABLISHED, "::ffff:10.0.0.2:20000", "::ffff:192.0.2.1:443")]
    case, other = case_of([*flows(5), *mapped]), case_of(flows(2))
    assert severities(case, "flows-beyond-gateway", flows=10) == []
    assert verdict(case, "flows-beyond-gateway", others=[other], flows=10).findings == []  # 8 are 80 %
    (finding,) = verdict(case, "flows-beyond-gateway", others=[case_of(flows(3))], flows=10).findings
    assert (finding.severity, finding.evidence["flows"], finding.evidence["peer"]) == ("info", 9, "192.0.2.1:443")
    for rows in (
        flows(9, "127.0.0.1:443"),
        [*flows(5), *flows(4, "192.0.2.1:444")],
        [{**row, "state": int(TcpState.TIME_WAIT)} for row in flows(9)],
        [*(listener(0, 9, f"0.0.0.0:{20000 + number}") for number in range(9)), *flows(9)],
    ):
        assert severities(case_of(rows), "flows-beyond-gateway", flows=10) == []
