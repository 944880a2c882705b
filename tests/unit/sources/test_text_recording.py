"""Pasted text: no row of TCP is lost without a word, whatever else stands in it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import finwait
from finwait.sources.recording import TextReader
from finwait.table.request import Request
from finwait.wire.netstat_text import parse_netstat
from finwait.wire.text_kind import detect_text_kind

if TYPE_CHECKING:
    from finwait.table.snapshot import Notice

FIXTURES = Path(__file__).parents[2] / "fixtures" / "text"
SS_HEADER = "State  Recv-Q Send-Q Local Address:Port Peer Address:Port Process\n"
SS = f"{SS_HEADER}ESTAB  0 0 10.0.0.1:80 10.0.0.2:1024\nTIME-WAIT 0 0 10.0.0.1:80 10.0.0.3:1024\n"
NETSTAT = (
    "Active Internet connections (w/o servers)\n"
    "Proto Recv-Q Send-Q Local Address           Foreign Address         State      \n"
    "tcp        0      0 10.0.0.1:80             10.0.0.2:1024           ESTABLISHED\n"
    "tcp6       0      0 ::1:80                  ::1:1024                ESTABLISHED\n"
    "udp        0      0 10.0.0.1:68             10.0.0.2:67             ESTABLISHED\n"
)
NO_STATE = (
    "Recv-Q Send-Q Local Address:Port  Peer Address:Port Process\n"
    "1      0      10.0.0.1:80         10.0.0.2:1024\n"
    "1      0      10.0.0.1:80         10.0.0.3:1024     ino:5 sk:1f\n"
)
UDP = "UNCONN 0 0 127.0.0.53%lo:53 0.0.0.0:*\nESTAB 0 0 10.0.0.1:68 10.0.0.2:67\n"
CUT = "tcp6       0      0 fe80::f44f:dbff:fe:8086 2001:db8:1:2:3:4:5::443 ESTABLISHED\n"


def fixture(name: str) -> str:
    return (FIXTURES / name).read_text()


def read(text: str, wanted: tuple[str, ...] = ("state", "local_address")) -> tuple[int, dict[str, Notice]]:
    """(sockets, notices by code) of a text."""
    notices: list[Notice] = []
    kind = detect_text_kind(text)
    assert kind is not None
    with TextReader(io.BytesIO(text.encode()), kind) as reader:
        count = sum(batch.length for batch in reader.batches(Request(), wanted, notices))
    assert all(str(notice) for notice in notices)
    by_code = {notice.code: notice for notice in notices}
    assert len(by_code) == len(notices)
    return count, by_code


@pytest.mark.parametrize("name", sorted(path.name for path in FIXTURES.glob("*.txt") if "netstat_a" not in path.name))
def test_of_a_whole_output_nothing_is_told(name: str) -> None:
    assert read(fixture(name))[1] == {}


# -- words for states


@pytest.mark.parametrize(
    "word", ["TIME-WAITX", "ESTAB2", "estab", "VERBUNDEN", "12:ESTAB", "host1 ESTAB", "tcp ESTABX"]
)
def test_a_row_of_ss_with_an_unknown_word_is_told(word: str) -> None:
    count, notices = read(f"{SS}{word} 0 0 10.0.0.1:80 10.0.0.4:1024\n")
    assert (count, list(notices)) == (2, ["lines_not_read"])
    assert notices["lines_not_read"].arguments["count"] == 1
    assert notices["lines_not_read"].arguments["line"] == 4


@pytest.mark.parametrize("row", ["tcp 0 0 {} x", "TCPX 0 0 {} ESTABLISHED", "12:tcp 0 0 {} LISTEN", "host tcp 0 0 {}"])
def test_a_row_of_netstat_with_an_unknown_word_is_told(row: str) -> None:
    count, notices = read(NETSTAT + row.format("10.0.0.1:80 10.0.0.2:1024") + "\n")
    assert (count, list(notices)) == (2, ["lines_not_read"])
    assert notices["lines_not_read"].arguments["line"] == 6


@pytest.mark.parametrize(
    "line",
    [
        "udp 0 0 127.0.0.1:53 0.0.0.0:*", "udp6 0 0 :::53 :::*", "udp UNCONN 0 0 127.0.0.1:53 0.0.0.0:*",
        "u_str ESTAB 0 0 /run/x:1 y:2", "nl UNCONN 0 0 rtnl:kernel a:1", "raw6 0 0 :::58 :::* 7",
        "icmp6 UNCONN 0 0 *:58 *:*", "host1: udp 0 0 127.0.0.1:53 0.0.0.0:*", "mptcp ESTAB 0 0 a:1 b:2",
        "at 10:30 it was 5 10 times as slow", "took 0 0 seconds",
    ],
)  # fmt: skip
@pytest.mark.parametrize("text", [SS, NETSTAT])
def test_lines_of_other_protocols_and_prose_are_passed_over(text: str, line: str) -> None:
    assert read(f"{text}{line}\n") == (2, {})


# -- several formats


def test_both_files_of_proc_in_one_text_are_read() -> None:
    tcp, tcp6 = fixture("proc_net_tcp.txt"), fixture("proc_net_tcp6.txt")
    rows = len(tcp.splitlines()) + len(tcp6.splitlines()) - 2
    for text in (tcp + tcp6, tcp6 + tcp, tcp + "".join(tcp6.splitlines(keepends=True)[1:])):
        assert read(text) == (rows, {})


@pytest.mark.parametrize(
    ("first", "second", "begins", "lost"),
    [
        (SS, NETSTAT, 5, 2),
        (NETSTAT, SS, 6, 2),
        (NETSTAT, "tcp LISTEN 0 9 10.0.0.1:80 0.0.0.0:*\n", 6, 1),
        (SS, fixture("proc_net_tcp.txt"), 4, 25),
        (NETSTAT, fixture("proc_net_tcp6.txt"), 6, 12),
        (fixture("proc_net_tcp.txt"), NETSTAT, 28, 2),
        (fixture("proc_net_tcp.txt"), SS + "\t cubic wscale:7,7\n", 27, 2),
    ],
)
def test_rows_of_a_second_format_are_told(first: str, second: str, begins: int, lost: int) -> None:
    count, notices = read(first + second)
    assert count == read(first)[0]
    assert list(notices) == ["lines_not_read", "several_formats"]
    assert notices["lines_not_read"].arguments["count"] == lost
    assert notices["several_formats"].arguments == {"line": begins}
    assert notices["several_formats"].incomplete


def test_a_second_format_without_rows_of_tcp_is_not_told() -> None:
    assert read(f"{SS}udp        0      0 127.0.0.1:53            0.0.0.0:*\n") == (2, {})
    assert read(SS + "Proto Recv-Q Send-Q Local Address\n") == (2, {})


# -- several pastes


@pytest.mark.parametrize("text", [SS, NETSTAT, fixture("proc_net_tcp.txt")])
def test_a_second_table_is_read_and_told(text: str) -> None:
    once = read(text)[0]
    for times in (2, 3):
        count, notices = read(f"{text}\n$\n" * times)
        assert (count, list(notices)) == (once * times, ["several_pastes"])
        assert notices["several_pastes"].arguments == {"count": times}
        assert notices["several_pastes"].incomplete


def test_a_table_without_rows_is_none() -> None:
    assert read(SS_HEADER + SS + SS_HEADER) == (2, {})


def test_a_second_table_may_come_of_another_ss() -> None:
    old = (
        "State       Recv-Q Send-Q   Local Address:Port     Peer Address:Port\n"
        "LISTEN      0      128                 :::22                   :::*\n"
    )
    star = SS_HEADER.replace(" Process", "") + "LISTEN 0 128 *:22 *:*\n"
    notices: list[Notice] = []
    with TextReader(io.BytesIO((old + star).encode()), "ss") as reader:
        (batch,) = reader.batches(Request(), ("ip_version",), notices)
    assert batch.column("ip_version").values.tolist() == [6, 6]


# -- UDP


@pytest.mark.parametrize("ends", ["127.0.0.53%lo:53 0.0.0.0:*", "[::1]:53 [::]:*", "*:53 *:*"])
def test_text_that_may_be_of_udp_is_told(ends: str) -> None:
    count, notices = read(UDP.replace("127.0.0.53%lo:53 0.0.0.0:*", ends))
    assert (count, list(notices)) == (2, ["maybe_not_tcp"])
    assert notices["maybe_not_tcp"].arguments == {"count": 2}
    assert not notices["maybe_not_tcp"].incomplete


@pytest.mark.parametrize("row", ["LISTEN 0 5 0.0.0.0:80 0.0.0.0:*", "tcp ESTAB 0 0 10.0.0.1:80 10.0.0.2:1024"])
def test_one_row_of_tcp_proves_its_table(row: str) -> None:
    assert read(f"{UDP}{row}\n") == (3, {})
    assert read(f"{UDP}{SS_HEADER}{row}\n")[1]["maybe_not_tcp"].arguments == {"count": 2}


def test_established_rows_alone_do_not_seem_to_be_udp() -> None:
    assert read("ESTAB 0 0 10.0.0.1:68 10.0.0.2:67\n") == (1, {})


# -- addresses that netstat cut


def test_addresses_that_may_be_cut_are_told_where_addresses_are_asked_for() -> None:
    for wanted in (("local_address",), ("state", "peer_address")):
        count, notices = read(NETSTAT + CUT, wanted)
        assert (count, list(notices)) == (3, ["addresses_cut"])
        assert notices["addresses_cut"].arguments == {"count": 2}
        assert notices["addresses_cut"].missing == "local_address,peer_address"
    assert read(NETSTAT + CUT, ("state", "local_port")) == (3, {})


def test_names_and_the_wide_output_are_not_cut() -> None:
    assert read("tcp        0      0 localhost:http-alt      a.example.com:44182     ESTABLISHED\n") == (1, {})
    assert read(fixture("netstat_antopeW.txt")) == (37, {})
    records = parse_netstat(fixture("netstat_ant.txt").splitlines(), lambda *_: None)
    unknown = sum((record.src is None) + (record.dst is None) for record in records)
    assert read(fixture("netstat_ant.txt"))[1]["addresses_cut"].arguments == {"count": unknown}


# -- ss state X


def test_rows_without_a_state_are_told_as_such() -> None:
    count, notices = read(NO_STATE)
    assert (count, list(notices)) == (0, ["no_state_column"])
    assert notices["no_state_column"].arguments == {"count": 2}
    assert notices["no_state_column"].incomplete


def test_rows_without_a_state_among_other_lines_are_lines_not_read() -> None:
    count, notices = read(f"{NO_STATE}ESTAB 0 0\n")
    assert (count, list(notices)) == (0, ["lines_not_read"])
    assert notices["lines_not_read"].arguments["count"] == 3


def test_a_socket_with_several_owners_has_a_row_for_each_and_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "ss.txt"
    path.write_text(
        "State  Recv-Q Send-Q Local Address:Port Peer Address:PortProcess\n"
        'LISTEN 0      511          0.0.0.0:80        0.0.0.0:*    users:(("nginx",pid=8,fd=6),("nginx",pid=9,fd=6))\n'
        "TIME-WAIT 0   0            10.0.0.1:80       10.0.0.2:9\n"
    )
    table = finwait.connections(columns="local,process,pid,fd,owner_kind,matched_by", read=str(path))
    owners = [(row.process, row.pid, row.fd, row.owner_kind, row.matched_by) for row in table]
    assert owners == [
        ("nginx", 8, 6, "process", "recording"),
        ("nginx", 9, 6, "process", "recording"),
        (None, None, None, "time_wait", None),
    ]
    assert len(finwait.connections(columns="local", read=str(path))) == 2
    assert len(finwait.connections("pid = 9", columns="local", read=str(path))) == 1
    by_pid = finwait.count(by="pid", read=str(path))
    assert [(group.key[0], group.count) for group in by_pid.groups] == [(None, 1), (8, 1), (9, 1)]
    assert (by_pid.total, by_pid.shared) == (2, 1)
    by_name = finwait.count(by="process", read=str(path))
    assert [(group.key[0], group.count, group.owner_kind) for group in by_name.groups] == [
        (None, 1, "time_wait"),
        ("nginx", 1, "process"),
    ]
    assert (by_name.total, by_name.shared) == (2, 0)
