"""The texts of the kernel's counters."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from finwait.wire.proc_counters import parse_conntrack_stat, parse_open_files_limit, parse_snmp, parse_sockstat

SNMP = """Ip: Forwarding DefaultTTL
Ip: 2 64
Tcp: RtoAlgorithm MaxConn ActiveOpens
Tcp: 1 -1 23
TcpExt: SyncookiesSent ListenDrops
TcpExt: 0 18446744073709551615
"""
SOCKSTAT = "sockets: used 282\nTCP: inuse 5 orphan 1 tw 2 alloc 8 mem 3\nTCP6: inuse 4\nFRAG: inuse 0 memory 0\n"
CONNTRACK = """entries  clashres found new invalid drop early_drop
0000000a  00000000 00000001 00000000 000000ff 00000002 00000000
0000000a  00000000 00000002 00000000 00000001 00000003 00000000
"""
LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max open files            1024                 524288               files
Max locked memory         8388608              8388608              bytes
"""


def test_snmp_pairs_names_with_numbers() -> None:
    assert parse_snmp(SNMP) == {
        "Ip.Forwarding": 2, "Ip.DefaultTTL": 64, "Tcp.RtoAlgorithm": 1, "Tcp.MaxConn": -1, "Tcp.ActiveOpens": 23,
        "TcpExt.SyncookiesSent": 0, "TcpExt.ListenDrops": (1 << 64) - 1,
    }  # fmt: skip


def test_lines_of_two_groups_are_no_pair() -> None:
    assert parse_snmp("Tcp: A B\nIp: 1 2\nTcp: 3\n") == {}


def test_a_cut_line_tells_what_it_has() -> None:
    assert parse_snmp("Tcp: A B C\nTcp: 1 2") == {"Tcp.A": 1, "Tcp.B": 2}
    assert parse_snmp("Tcp: A B\nTcp: 1 x") == {"Tcp.A": 1}


def test_sockstat_has_words_and_numbers_in_turn() -> None:
    found = parse_sockstat(SOCKSTAT)
    assert (found["sockstat.TCP.orphan"], found["sockstat.TCP.mem"], found["sockstat.TCP6.inuse"]) == (1, 3, 4)
    assert len(found) == 9


def test_conntrack_is_summed_over_processors_but_for_its_entries() -> None:
    found = parse_conntrack_stat(CONNTRACK)
    assert (found["conntrack.found"], found["conntrack.invalid"], found["conntrack.drop"]) == (3, 256, 5)
    assert "conntrack.entries" not in found


def test_the_soft_limit_of_open_files() -> None:
    assert parse_open_files_limit(LIMITS) == 1024
    assert parse_open_files_limit("Max open files            unlimited            unlimited            files\n") is None
    assert parse_open_files_limit("") is None


@given(st.text())
def test_any_text_parses(text: str) -> None:
    for parse in (parse_snmp, parse_sockstat, parse_conntrack_stat):
        assert all(isinstance(value, int) for value in parse(text).values())
    assert parse_open_files_limit(text) is None or "Max open files" in text


@given(st.integers(min_value=0, max_value=len(SNMP)))
def test_a_text_cut_anywhere_tells_no_wrong_counter(length: int) -> None:
    whole = parse_snmp(SNMP)
    for name, value in parse_snmp(SNMP[:length]).items():
        assert name in whole or whole.keys() & {other for other in whole if other.startswith(name)}
        assert str(whole.get(name, value)).startswith(str(value))
