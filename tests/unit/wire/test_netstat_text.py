"""netstat's text: outputs of net-tools 2.10 (tests/fixtures/text), of its ancestors and of what people paste."""

from pathlib import Path

import pytest

from finwait.wire.netstat_text import parse_netstat
from finwait.wire.proc_net_tcp import parse_proc_net_tcp
from finwait.wire.text_kind import detect_text_kind

FIXTURES = Path(__file__).parents[2] / "fixtures" / "text"
CAPTURED = sorted(path.name for path in FIXTURES.glob("netstat_*.txt"))
ROW = "tcp        0      0 10.0.0.1:80             10.0.0.2:40000          ESTABLISHED"


def parse(text):
    unread = []
    lines = text.splitlines(keepends=True) if isinstance(text, str) else text
    return list(parse_netstat(lines, lambda number, line: unread.append((number, line)))), unread


def one(row):
    records, unread = parse(row + "\n")
    assert unread == []
    (record,) = records
    return record


def mapped(*octets):
    return bytes(10) + b"\xff\xff" + bytes(octets)


@pytest.mark.parametrize("name", CAPTURED)
def test_every_captured_output_is_read_whole(name):
    text = (FIXTURES / name).read_text()
    records, unread = parse(text)
    assert (len(records), unread) == (37, [])
    assert detect_text_kind(text) == "netstat"


def test_the_wide_output_says_what_proc_says():
    proc = []
    for name, family in (("proc_net_tcp.txt", 2), ("proc_net_tcp6.txt", 10)):
        proc += parse_proc_net_tcp((FIXTURES / name).read_text().splitlines(), family)
    records, _ = parse((FIXTURES / "netstat_antopeW.txt").read_text())
    fields = ("state", "family", "src", "sport", "dst", "dport", "rqueue", "wqueue", "timer", "retrans", "uid", "inode")
    assert [[getattr(record, field) for field in fields] for record in records] == [
        [getattr(record, field) for field in fields] for record in proc
    ]


def test_the_narrow_output_says_less_and_nothing_else():
    wide, _ = parse((FIXTURES / "netstat_antopeW.txt").read_text())
    narrow, _ = parse((FIXTURES / "netstat_ant.txt").read_text())
    assert [record.src is None or record.dst is None for record in narrow].count(True) == 4
    for one_of_wide, one_of_narrow in zip(wide, narrow, strict=True):
        assert one_of_narrow.src in (None, one_of_wide.src)
        assert one_of_narrow.dst in (None, one_of_wide.dst)
        assert (one_of_narrow.sport, one_of_narrow.dport) == (one_of_wide.sport, one_of_wide.dport)


def test_an_address_that_was_cut_is_unknown_even_where_it_still_reads_as_an_address():
    record = one("tcp6       0      0 fe80::f44f:dbff:fe:8086 :::*                    LISTEN")
    assert (record.family, record.src, record.sport) == (10, None, 8086)
    assert (record.dst, record.dport) == (bytes(16), 0)


def test_a_wider_text_proves_that_nothing_is_cut_until_other_text_follows():
    wide = "tcp6       0      0 ::1:443                 2001:db8:1234:5678:9abc:def0:1234:5678:443 ESTABLISHED\n"
    exact = "tcp6       0      0 2001:db8::1:2:3:4:5:443 ::1:443                 ESTABLISHED\n"
    assert len(exact.split()[3]) == 23
    records, _ = parse(exact + wide + exact + "\n" + exact + "Proto Recv-Q Send-Q\n" + exact)
    assert [record.src is None for record in records] == [True, False, False, False, True]
    assert parse(exact.replace("5:443", "5:44"))[0][0].src is not None


def test_ipv4_with_a_long_service_name_may_be_cut_too():
    record = one("tcp        0      0 192.168.1.1:postgresql1 10.0.0.2:40000          ESTABLISHED")
    assert (record.src, record.sport, record.family) == (None, None, 2)


def test_ipv4_in_a_row_of_tcp6_is_a_mapped_address():
    record = one("tcp6       0      0 10.0.0.1:8083           10.0.0.2:44329          ESTABLISHED")
    assert (record.family, record.src, record.dst) == (10, mapped(10, 0, 0, 1), mapped(10, 0, 0, 2))
    record = one("tcp6       0      0 ::ffff:10.0.0.1:8083    ::ffff:10.0.0.2:44329   ESTABLISHED")
    assert (record.family, record.src, record.dst) == (10, mapped(10, 0, 0, 1), mapped(10, 0, 0, 2))


def test_busybox_prints_tcp_for_both_families_and_may_cut_the_port():
    record = one("tcp        0      0 :::22                   :::*                    LISTEN      ")
    assert (record.family, record.src, record.sport, record.dport) == (10, bytes(16), 22, 0)
    record = one("tcp        0      0 ::ffff:192.168.1.11:808 ::ffff:192.168.1.12:999 ESTABLISHED ")
    assert (record.family, record.src, record.sport, record.dst, record.dport) == (10, None, None, None, None)


def test_a_star_is_any_address_of_a_row_of_tcp6_and_undecided_in_a_row_of_tcp():
    record = one("tcp6       0      0 *:22                    *:*                     LISTEN")
    assert (record.family, record.src, record.dst, record.sport, record.dport) == (10, bytes(16), bytes(16), 22, 0)
    record = one("tcp        0      0 *:22                    *:*                     LISTEN")
    assert (record.family, record.src, record.dst, record.sport, record.dport) == (None, None, None, 22, 0)


def test_names_are_not_resolved():
    record = one("tcp        0      0 localhost:http-alt      web.example.com:44182   FIN_WAIT2  ")
    assert (record.state, record.family) == (5, None)
    assert record.src is record.dst is record.sport is None
    assert record.dport == (None if len("web.example.com:44182") == 23 else 44182)
    record = one("tcp        0      0 0.0.0.0:ssh             0.0.0.0:*               LISTEN     ")
    assert (record.family, record.src, record.sport, record.dport) == (2, bytes(16), None, 0)
    record = one("tcp6       0      0 [::]:ssh                [::]:*                  LISTEN     ")
    assert (record.family, record.src, record.sport, record.dport) == (10, bytes(16), None, 0)


def test_a_listener_has_a_queue_and_no_limit():
    record = one("tcp        3      0 0.0.0.0:80              0.0.0.0:*               LISTEN     ")
    assert (record.rqueue, record.wqueue) == (3, None)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("ESTABLISHED", 1), ("SYN_SENT", 2), ("SYN_RECV", 3), ("FIN_WAIT1", 4), ("FIN_WAIT2", 5), ("TIME_WAIT", 6),
        ("CLOSE", 7), ("CLOSE_WAIT", 8), ("LAST_ACK", 9), ("LISTEN", 10), ("CLOSING", 11),
    ],
)  # fmt: skip
def test_every_word_for_a_state_is_known(word, state):
    assert one(ROW.replace("ESTABLISHED", word)).state == state


@pytest.mark.parametrize(
    ("text", "timer", "expires_ms", "retrans"),
    [
        ("off (0.00/3/0)", 0, None, 0),
        ("on (0.20/3/1)", 1, 200, 3),
        ("keepalive (7199.10/3/2)", 2, 7_199_100, 2),
        ("timewait (59.00/0/0)", 3, 59_000, 0),
        ("probe (1.05/0/4)", 4, 1050, 4),
        ("unkn-4 (1.05/0/4)", 4, 1050, 4),
        ("on (184467440737095516.15/0/0)", 1, None, 0),
        ("aus (0.00/0/0)", None, None, None),
    ],
)
def test_the_timer_column_has_seconds_retransmissions_and_probes(text, timer, expires_ms, retrans):
    record = one(f"{ROW} {text}")
    assert (record.timer, record.expires_ms, record.retrans) == (timer, expires_ms, retrans)
    record = one(f"{ROW} 1000       4711       12/a b               {text}")
    assert (record.timer, record.expires_ms, record.retrans) == (timer, expires_ms, retrans)
    assert record.owners == (("a b", 12, None),)
    assert (record.uid, record.inode) == (1000, 4711)


@pytest.mark.parametrize(
    ("tail", "owner"),
    [
        ("1234/nginx: master ", ("nginx: master", 1234)),
        ("1234/nginx: worker  off (0.00/0/0)", ("nginx: worker", 1234)),
        ("1/a (b) 5/c         ", ("a (b) 5/c", 1)),
        ("1/(x                 on (0.20/0/0)", ("(x", 1)),
        ("1/                  ", ("", 1)),
        ("1000       77         1234/java           ", ("java", 1234)),
        ("root       77         1234/java           ", ("java", 1234)),
        ("1234/sshd           system_u:system_r:sshd_t:s0", ("sshd", 1234)),
        ("-                   ", None),
        ("1000       77         -                    on (0.20/0/0)", None),
        ("<-- look here", None),
    ],
)
def test_the_program_keeps_its_blanks(tail, owner):
    record = one(f"{ROW} {tail}")
    assert record.owners == (None if owner is None else ((*owner, None),))


def test_a_program_that_calls_itself_a_timer_is_not_believed():
    record = one(f"{ROW} 1/a on (0.20/0/0)")
    assert record.owners is record.timer is record.expires_ms is None


def test_user_may_be_a_name_or_a_number():
    assert (one(f"{ROW} root       4711").uid, one(f"{ROW} root       4711").inode) == (None, 4711)
    assert (one(f"{ROW} 33         4711").uid, one(f"{ROW} 33         4711").inode) == (33, 4711)


@pytest.mark.parametrize("state", ["TIME_WAIT", "SYN_RECV", "FIN_WAIT2"])
def test_mini_sockets_have_no_uid(state):
    record = one(f"{ROW.replace('ESTABLISHED', state)} 0          0")
    assert record.uid is record.inode is None


def test_an_orphan_keeps_its_uid():
    assert one(f"{ROW.replace('ESTABLISHED', 'FIN_WAIT1')} 33         0").uid == 33


def test_pasted_text_is_tolerated():
    text = (
        "\ufeffHello, see what I got:\r\n$ netstat -ant\r\n```\r\n激活Internet连接 (服务器和已建立连接的)\r\n"
        "协议  接收队列 发送队列 本地地址              外部地址            状态\r\n"
        f"> {ROW}\r\n> > {ROW}   \r\n    {ROW}\r\n\t{ROW.replace('        ', chr(9))}\r\n\r\n"
        f"{ROW.replace(' ', chr(0xA0))}\r\n```\r\ntcp connections are many, tcp 10 of them\r\n"
        "udp        0      0 127.0.0.1:53            0.0.0.0:*                           \r\n"
        "unix  2      [ ACC ]     STREAM     LISTENING     17000    /run/x\r\n"
    )
    records, unread = parse(text)
    assert [record.sport for record in records] == [80] * 5
    assert unread == []


@pytest.mark.parametrize(
    "row",
    [
        ROW.replace("ESTABLISHED", "VERBUNDEN"),
        ROW.replace("ESTABLISHED", ""),
        ROW.replace("10.0.0.1:80", "10.0.0.1.80"),
        ROW.replace("10.0.0.1:80", "10.0.0.256:80"),
        ROW.replace("10.0.0.1:80", "10.0.0.01:80"),
        ROW.replace("10.0.0.1:80", "10.0.0.1:65536"),
        ROW.replace("10.0.0.1:80", "1:::2:80"),
        ROW.replace("10.0.0.1:80", ":80"),
        "tcp4       0      0  192.168.1.5.52345     17.57.144.1.443   ESTABLISHED",  # macOS
        "  TCP    0.0.0.0:135            0.0.0.0:0              LISTENING       1",  # Windows
        "tcp        0      0 10.0.0.1:80",
        "tcp        0",
        "tcp        0      0 10.0.0.1:80             10.0.0.2:40000          ESTAB",
    ],
)
def test_a_row_that_cannot_be_understood_is_reported_and_skipped(row):
    records, unread = parse(f"Proto\r\n{row}\r\n{ROW}\r\n")
    assert len(records) == 1
    assert unread == [(2, row)]


def test_the_end_of_a_last_line_without_an_end_is_not_believed():
    whole = f"{ROW} 1000       4711"
    (_, record), _ = parse(f"{ROW}\n{whole}")
    assert record.uid is record.inode is None
    (_, record), _ = parse(f"{ROW}\n{whole}\n")
    assert (record.uid, record.inode) == (1000, 4711)
    assert parse(f"{ROW}\n{ROW.replace('ESTABLISHED', 'CLOSE')}")[1] != []
    assert parse([ROW, whole])[0][1].inode == 4711  # split already: nothing says that it was cut
