"""ss's text: outputs of iproute2 6.1 (tests/fixtures/text), of older ones and of what people paste."""

from pathlib import Path

import pytest

from finwait.wire.proc_net_tcp import parse_proc_net_tcp
from finwait.wire.ss_text import parse_ss
from finwait.wire.text_kind import detect_text_kind, ipv4_bytes, ipv6_bytes

FIXTURES = Path(__file__).parents[2] / "fixtures" / "text"
CAPTURED = sorted(path.name for path in FIXTURES.glob("ss_*.txt"))
ROW = "ESTAB      0      7      10.0.0.1:80      10.0.0.2:40000"
INFO = (
    "ts sack cubic wscale:7,9 rto:204 rtt:0.05/0.02 ato:40 mss:1448 pmtu:1500 rcvmss:536 advmss:1449 cwnd:10 ssthresh:9"
    " bytes_sent:11 bytes_retrans:12 bytes_acked:13 bytes_received:14 segs_out:15 segs_in:16 data_segs_out:17"
    " data_segs_in:18 bbr:(bw:8bps,mrtt:0.02) send 1.2Gbps lastsnd:19 lastrcv:20 lastack:21 pacing_rate 1.2Gbps/2.4Gbps"
    " delivery_rate 80kbps delivered:22 app_limited busy:23ms rwnd_limited:24ms(10.5%) sndbuf_limited:25ms(3.0%)"
    " unacked:26 retrans:1/27 lost:28 sacked:29 dsack_dups:1 reordering:30 reord_seen:1 rcv_rtt:1.5 rcv_space:31"
    " rcv_ssthresh:32 notsent:33 minrtt:0.03 rcv_ooopack:1 snd_wnd:34"
)
INFO_COLUMNS = {
    "congestion": "cubic", "snd_wscale": 7, "rcv_wscale": 9, "rto_us": 204_000, "rtt_us": 50, "rttvar_us": 20,
    "ato_us": 40_000, "mss": 1448, "pmtu": 1500, "rcvmss": 536, "advmss": 1449, "snd_cwnd": 10, "ssthresh": 9,
    "bytes_sent": 11, "bytes_retrans": 12, "bytes_acked": 13, "bytes_received": 14, "segs_out": 15, "segs_in": 16,
    "data_segs_out": 17, "data_segs_in": 18, "last_data_sent_ms": 19, "last_data_recv_ms": 20, "last_ack_recv_ms": 21,
    "pacing_rate": 150_000_000, "delivery_rate": 10_000, "delivered": 22, "busy_time_us": 23_000,
    "rwnd_limited_us": 24_000, "sndbuf_limited_us": 25_000, "unacked": 26, "retrans": 1, "total_retrans": 27,
    "lost": 28, "sacked": 29, "reordering": 30, "rcv_rtt_us": 1500, "rcv_space": 31, "rcv_ssthresh": 32,
    "notsent_bytes": 33, "min_rtt_us": 30, "snd_wnd": 34,
}  # fmt: skip


def parse(text):
    unread = []
    lines = text.splitlines(keepends=True) if isinstance(text, str) else text
    return list(parse_ss(lines, lambda number, line: unread.append((number, line)))), unread


def one(text):
    records, unread = parse(text + "\n")
    assert unread == []
    (record,) = records
    return record


def v4(*octets):
    return bytes(octets) + bytes(12)


@pytest.mark.parametrize("name", CAPTURED)
def test_every_captured_output_is_read_whole(name):
    text = (FIXTURES / name).read_text()
    records, unread = parse(text)
    assert (len(records), unread) == (37, [])
    assert detect_text_kind(text) == "ss"


@pytest.mark.parametrize("name", ["ss_tan.txt", "ss_tan_H.txt", "ss_an.txt", "ss_tanoepmi.txt", "ss_tanoepmi_O.txt"])
def test_ss_says_what_proc_says(name):
    proc = {}
    for file, family in (("proc_net_tcp.txt", 2), ("proc_net_tcp6.txt", 10)):
        for record in parse_proc_net_tcp((FIXTURES / file).read_text().splitlines(), family):
            proc[record.family, record.src, record.sport, record.dst, record.dport] = record
    for record in parse((FIXTURES / name).read_text())[0]:
        expected = proc.pop((record.family, record.src, record.sport, record.dst, record.dport))
        assert (record.state, record.rqueue) == (expected.state, expected.rqueue)
        assert expected.wqueue in (None, record.wqueue)
        if "oepmi" in name:
            assert (record.uid, record.inode) == (expected.uid, expected.inode)
            assert (record.timer or 0, record.retrans or 0) == (expected.timer, expected.retrans)
            assert record.info is None or record.info["snd_cwnd"] == expected.info["snd_cwnd"]
    assert proc == {}


def test_one_line_and_two_lines_say_the_same():
    two, _ = parse((FIXTURES / "ss_tanoepmi.txt").read_text())
    one_line, _ = parse((FIXTURES / "ss_tanoepmi_O.txt").read_text())
    for first, second in zip(two, one_line, strict=True):
        assert (first.cookie, first.cgroup, first.owners, first.v6only, first.mark) == (
            second.cookie, second.cgroup, second.owners, second.v6only, second.mark,
        )  # fmt: skip
        assert (first.info or {}).keys() == (second.info or {}).keys()


def test_the_captured_details_are_true():
    records, _ = parse((FIXTURES / "ss_tanoepmi.txt").read_text())
    listener = records[3]
    assert (listener.uid, listener.inode, listener.cookie, listener.mark) == (33, 23927, 0x4A06, 0x1A)
    assert (listener.cgroup, listener.owners, listener.v6only) == ("/", (('a "b", (c', 3818, 35),), None)
    assert (listener.rqueue, listener.wqueue) == (0, 7)
    assert listener.info == {
        "rmem_alloc": 0, "rcvbuf": 131072, "wmem_alloc": 0, "sndbuf": 16384, "fwd_alloc": 0, "wmem_queued": 0,
        "optmem": 0, "backlog": 0, "drops": 0, "congestion": "bbr", "snd_cwnd": 10,
    }  # fmt: skip
    by_state = {record.state: record for record in records}
    assert (by_state[6].uid, by_state[6].timer, by_state[6].expires_ms, by_state[6].info) == (None, 3, 59_000, None)
    assert (by_state[3].uid, by_state[3].inode, by_state[3].timer) == (None, None, 1)
    assert (by_state[4].uid, by_state[4].inode, by_state[4].timer, by_state[4].expires_ms) == (0, None, 4, 28)


def test_a_row_has_addresses_and_queues():
    record = one(ROW)
    assert (record.state, record.family, record.rqueue, record.wqueue) == (1, 2, 0, 7)
    assert (record.src, record.sport, record.dst, record.dport) == (v4(10, 0, 0, 1), 80, v4(10, 0, 0, 2), 40000)
    assert record.timer is record.uid is record.inode is record.cookie is record.owners is record.info is None


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("ESTAB", 1), ("SYN-SENT", 2), ("SYN-RECV", 3), ("FIN-WAIT-1", 4), ("FIN-WAIT-2", 5), ("TIME-WAIT", 6),
        ("UNCONN", 7), ("CLOSE-WAIT", 8), ("LAST-ACK", 9), ("LISTEN", 10), ("CLOSING", 11),
    ],
)  # fmt: skip
def test_every_word_for_a_state_is_known(word, state):
    assert one(ROW.replace("ESTAB", word)).state == state
    assert one("tcp   " + ROW.replace("ESTAB", word)).state == state


@pytest.mark.parametrize(
    ("local", "family", "address", "port", "interface"),
    [
        ("127.0.0.1%lo:80", 2, v4(127, 0, 0, 1), 80, "lo"),
        ("0.0.0.0%lo:80", 2, bytes(16), 80, "lo"),
        ("[::1]:80", 10, bytes(15) + b"\1", 80, None),
        ("[fe80::1]%eth0:80", 10, bytes.fromhex("fe80") + bytes(13) + b"\1", 80, "eth0"),
        ("[fe80::1%eth0]:80", 10, bytes.fromhex("fe80") + bytes(13) + b"\1", 80, "eth0"),
        ("[::ffff:1.2.3.4]:80", 10, bytes(10) + b"\xff\xff\1\2\3\4", 80, None),
        ("*:80", 10, bytes(16), 80, None),
        ("*%eth0:80", 10, bytes(16), 80, "eth0"),
        ("[::]:80", 10, bytes(16), 80, None),
        ("0.0.0.0:80", 2, bytes(16), 80, None),
        ("0.0.0.0:http", 2, bytes(16), None, None),
        ("0.0.0.0:*", 2, bytes(16), 0, None),
        (":::22", 10, bytes(16), 22, None),  # iproute2 before 4.15
        ("fe80::1%eth0:22", 10, bytes.fromhex("fe80") + bytes(13) + b"\1", 22, "eth0"),
    ],
)
def test_an_address_is_read_in_each_of_its_spellings(local, family, address, port, interface):
    record = one(f"LISTEN 0 128 {local} {local}")
    assert (record.family, record.src, record.sport, record.interface) == (family, address, port, interface)
    assert (record.dst, record.dport) == (address, port)


def test_a_star_is_ipv4_in_old_text_ipv6_in_new_text_and_unknown_where_nobody_can_tell():
    old = "LISTEN     0      128          *:22                       *:*\n"
    new = "LISTEN 0      128            *:22            *:*\n"
    assert (one(new.strip()).family, one(new.strip()).src) == (10, bytes(16))
    assert (one(old.strip()).family, one(old.strip()).src, one(old.strip()).sport) == (None, None, 22)
    records, _ = parse("LISTEN     0      128         :::22                      :::*\n" + old)
    assert [(record.family, record.src) for record in records] == [(10, bytes(16)), (2, bytes(16))]
    records, _ = parse("LISTEN     0      128  127.0.0.1:25                       *:*\n" + old)
    assert [(record.family, record.dst) for record in records] == [(2, bytes(16)), (2, bytes(16))]
    records, _ = parse("State      Recv-Q Send-Q Local Address:Port Peer Address:Port Process\n" + old)
    assert [record.family for record in records] == [10]
    records, _ = parse("LISTEN     0      128    0.0.0.0:25                 0.0.0.0:*\n" + old)
    assert [record.family for record in records] == [2, 10]


def test_names_are_not_resolved():
    record = one("ESTAB 0 0 localhost:http-alt web.example.com:443")
    assert record.family is record.src is record.dst is record.sport is None
    assert record.dport == 443
    record = one("ESTAB 0 0 10.0.0.1:ssh client.example.com:55555")
    assert (record.family, record.src, record.dst, record.dport) == (2, v4(10, 0, 0, 1), None, 55555)


@pytest.mark.parametrize(
    ("text", "timer", "expires_ms", "retrans"),
    [
        ("timer:(on,200ms,3)", 1, 200, 3),
        ("timer:(on,040ms,0)", 1, 40, 0),
        ("timer:(on,1.234ms,0)", 1, 1234, 0),
        ("timer:(on,9.005ms,0)", 1, 9005, 0),
        ("timer:(on,12sec,0)", 1, 12_000, 0),
        ("timer:(on,1min30sec,6)", 1, 90_000, 6),
        ("timer:(keepalive,119min,0)", 2, 7_140_000, 0),
        ("timer:(timewait,59sec,0)", 3, 59_000, 0),
        ("timer:(persist,1min,0)", 4, 60_000, 0),
        ("timer:(unknown,040ms,0)", 5, 40, 0),
        ("timer:(7,040ms,0)", 7, 40, 0),
        ("timer:(on,,0)", 1, 0, 0),
        ("timer:(on,-5min,0)", 1, None, 0),
        ("timer:(sometime,1sec,0)", None, None, None),
        ("timer:(on,1sec", None, None, None),
    ],
)
def test_a_timer_has_a_name_a_time_and_a_count(text, timer, expires_ms, retrans):
    record = one(f"{ROW} {text}")
    assert (record.timer, record.expires_ms, record.retrans) == (timer, expires_ms, retrans)


@pytest.mark.parametrize(
    ("text", "owners"),
    [
        ('users:(("nginx",pid=1,fd=6),("nginx",pid=2,fd=6))', (("nginx", 1, 6), ("nginx", 2, 6))),
        ('users:(("a "b", (c) d",pid=1,fd=6))', (('a "b", (c) d', 1, 6),)),
        ('users:(("x",pid=9,fd=9)",pid=1,fd=6))', (('x",pid=9,fd=9)', 1, 6),)),
        ('users:((" ",pid=1,fd=6))', ((" ", 1, 6),)),
        ('users:(("",pid=1,fd=6))', (("", 1, 6),)),
        ('users:(("timer:(on,1sec,0",pid=1,fd=6))', (("timer:(on,1sec,0", 1, 6),)),
        ('users:(("sshd",1234,3))', (("sshd", 1234, 3),)),  # iproute2 before 4.0
        ('users:(("j",pid=1,tid=2,fd=6),("j",pid=1,tid=3,fd=6))', (("j", 1, 6),)),
        ('users:(("x",pid=1,proc_ctx=a:b:c:s0-s0:c0,c9,fd=6))', (("x", 1, 6),)),
        ('users:(("x",pid=1,proc_ctx=a:b,fd=6,sock_ctx=c:d))', (("x", 1, 6),)),
        ('users:(("x",pid=1,fd=6)', None),
        ('users:(("x",pid=1,fd=', None),
    ],
)
def test_owners_may_call_themselves_anything(text, owners):
    record = one(f"{ROW} {text}")
    assert (record.owners, record.timer) == (owners, None)
    record = one(f"{ROW}\n\t {text} uid:33 ino:5 sk:1f")
    assert record.owners == owners
    assert record.inode == (5 if owners else None)


def test_details_of_the_socket_are_read():
    record = one(f"{ROW} uid:33 ino:123 sk:1a fwmark:0x1f cgroup:/a b/c.service v6only:1 -->")
    assert (record.uid, record.inode, record.cookie, record.mark) == (33, 123, 0x1A, 0x1F)
    assert (record.cgroup, record.v6only) == ("/a b/c.service", True)


def test_no_uid_means_root_but_not_for_a_mini_socket():
    assert one(f"{ROW} ino:123 sk:1a").uid == 0
    assert one(f"{ROW} ino:0 sk:1a").uid == 0
    assert one(f"{ROW.replace('ESTAB', 'TIME-WAIT')} timer:(timewait,59sec,0) ino:0 sk:1a").uid is None
    assert one(f"{ROW.replace('ESTAB', 'SYN-RECV')} timer:(on,668ms,0) ino:0 sk:1a").uid is None
    assert one(ROW).uid is None


@pytest.mark.parametrize(
    ("text", "cgroup"),
    [
        ("ino:1 sk:1 cgroup:/x <->", "/x"),
        ("ino:1 sk:1 cgroup:/x y <-> skmem:(r0,rb1,t0,tb2,f0,w0,o0)", "/x y"),
        ("tos:0 class_id:0 cgroup:/", "/"),
        ("cgroup:/x cubic wscale:7,7", "/x"),
        ("cgroup:unreachable:1a2 <->", None),
        ("cgroup:/x and a comment", None),
    ],
)
def test_a_cgroup_may_have_blanks(text, cgroup):
    record = one(f"{ROW} {text}")
    assert record.cgroup == cgroup
    assert (record.inode == 1) == ("ino:1" in text)


@pytest.mark.parametrize("joint", [" ", "\n\t ", "\n\n    ", "\r\n> \t"])
def test_tcp_info_is_read_behind_a_row_and_on_the_next_line(joint):
    assert one(ROW + joint + INFO).info == INFO_COLUMNS


def test_socket_memory_is_read():
    names = ("rmem_alloc", "rcvbuf", "wmem_alloc", "sndbuf", "fwd_alloc", "wmem_queued", "optmem", "backlog", "drops")
    record = one(f"{ROW}\n\t skmem:(r1,rb2,t3,tb4,f5,w6,o7,bl8,d9) cubic wscale:7,7 rto:201")
    assert record.info == {
        **dict(zip(names, range(1, 10), strict=True)),
        "congestion": "cubic", "snd_wscale": 7, "rcv_wscale": 7, "rto_us": 201_000,
    }  # fmt: skip
    record = one(f"{ROW} mem:(r1,w2,f3,t4)")
    assert record.info == {"rmem_alloc": 1, "wmem_queued": 2, "fwd_alloc": 3, "wmem_alloc": 4}


def test_a_listener_has_its_queue_once():
    record = one("LISTEN 1      128   0.0.0.0:80   0.0.0.0:*\n\t cubic cwnd:10 unacked:1 sacked:128")
    assert (record.rqueue, record.wqueue, record.info) == (1, 128, {"congestion": "cubic", "snd_cwnd": 10})


def test_numbers_in_the_wrong_form_are_left_out():
    record = one(
        f"{ROW}\n\t cubic wscale:7 rto:x rtt:1e99/2 mss:-1 cwnd:99999999999999999999999 lost:1 pacing_rate bps"
    )
    assert record.info == {"congestion": "cubic", "lost": 1}


def test_large_times_of_percent_g_are_read():
    assert one(f"{ROW}\n\t cubic rto:1.2e+06 rtt:123457/0.5").info == {
        "congestion": "cubic", "rto_us": 1_200_000_000, "rtt_us": 123_457_000, "rttvar_us": 500,
    }  # fmt: skip


def test_only_rows_of_tcp_are_taken_where_netid_stands():
    text = (
        "Netid State  Recv-Q Send-Q Local Address:Port  Peer Address:PortProcess\n"
        "nl    UNCONN 0      0               rtnl:kernel      *\n"
        "u_str LISTEN 0      4096   /run/x 123                * 0\n"
        'udp   UNCONN 0      0         127.0.0.1:53     0.0.0.0:*    users:(("d",pid=1,fd=1))\n'
        "\t skmem:(r1,rb2,t3,tb4,f5,w6,o7,bl8,d9)\n"
        "mptcp ESTAB  0      0         127.0.0.1:53   127.0.0.1:55\n"
        "tcp   LISTEN 0      5         127.0.0.1:54     0.0.0.0:*\n"
    )
    record = one(text)
    assert (record.sport, record.owners, record.info) == (54, None, None)


def test_pasted_text_is_tolerated():
    text = (
        "\ufeffHello, LISTEN to this: ESTAB means established\r\n# ss -tanp\r\n```\r\n"
        f"> {ROW}\r\n> > {ROW}   \r\n    {ROW}\r\n\t{ROW.replace('      ', chr(9))}\r\n\r\n"
        f"{ROW.replace(' ', chr(0xA0))}\r\n"
        "```\r\nESTAB 12\r\nthe rtt is bad: rtt:99/99\r\n"
    )
    records, unread = parse(text)
    assert [record.dport for record in records] == [40000] * 5
    assert [record.info for record in records] == [None] * 5
    assert unread == []


def test_prose_behind_a_row_ends_it():
    records, _ = parse(f"{ROW}\nwhat a slow one\n\t cubic wscale:7,7 rto:204\n{ROW}\n---\n")
    assert [record.info for record in records] == [None, None]


@pytest.mark.parametrize(
    "row",
    [
        ROW.replace("ESTAB", "UNKNOWN"),
        ROW.replace("10.0.0.1:80", "10.0.0.256:80"),
        ROW.replace("10.0.0.1:80", "10.0.0.1:65536"),
        ROW.replace("10.0.0.1:80", "10.0.0.1"),
        ROW.replace("10.0.0.1:80", "[10.0.0.1]:80"),
        ROW.replace("10.0.0.1:80", "[::1:80"),
        ROW.replace("10.0.0.1:80", "[::1]x:80"),
        ROW.replace("10.0.0.1:80", "[::1]:80"),  # two families in one row
        "ESTAB 0 0 10.0.0.1:80",
        "ESTAB 0 0",
        "tcp ESTAB 0",
        "0      0      10.0.0.1:80      10.0.0.2:40000",  # ss state established: which state, the text does not say
        "tcp    0      0      10.0.0.1:80      10.0.0.2:40000",
        "ESTAB 99999999999 0 10.0.0.1:80 10.0.0.2:40000",
    ],
)
def test_a_row_that_cannot_be_understood_is_reported_and_skipped_with_its_details(row):
    records, unread = parse(f"State\r\n{row}\r\n\t cubic wscale:7,7 rto:204\r\n{ROW}\r\n")
    assert [record.info for record in records] == [None]
    assert unread == [(2, row)]


def test_the_end_of_a_last_line_without_an_end_is_not_believed():
    (_, record), _ = parse(f"{ROW}\n{ROW}")
    assert (record.dst, record.dport) == (v4(10, 0, 0, 2), None)
    (_, record), _ = parse(f"{ROW}\n{ROW} uid:3 ino:12")
    assert (record.dport, record.uid, record.inode) == (40000, 3, None)
    (record,), _ = parse(f"{ROW}\n\t cubic rto:204 rtt:1/2")
    assert record.info == {"congestion": "cubic", "rto_us": 204_000}
    (_, record), _ = parse([ROW, ROW])
    assert record.dport == 40000


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", None),
        ("hello\nworld\n", None),
        ("Active Internet connections (w/o servers)\nProto Recv-Q Send-Q Local Address\n", "netstat"),
        ("\ufeff> tcp6       0      0 :::22      :::*     LISTEN\n", "netstat"),
        ("协议\ntcp        0      0 10.0.0.1:80   10.0.0.2:4   ESTABLISHED\n", "netstat"),
        ("$ ss -tan\nLISTEN 0 128 *:22 *:*\n", "ss"),
        ("nl UNCONN 0 0 rtnl:kernel *\n", "ss"),
        ("State Recv-Q Send-Q Local Address:Port Peer Address:Port\n", "ss"),
        ("Recv-Q Send-Q Local Address:Port Peer Address:Port\n", "ss"),
        ("  sl  local_address rem_address   st tx_queue\n", "proc_net_tcp"),
        ("  sl  local_address                         remote_address                        st\n", "proc_net_tcp6"),
        ("> 0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:0\n", "proc_net_tcp"),
    ],
)
def test_the_kind_of_text_is_told_from_its_first_rows(text, kind):
    assert detect_text_kind(text) == kind


@pytest.mark.parametrize("name", ["proc_net_tcp", "proc_net_tcp6"])
def test_the_kind_of_proc_files_is_told_with_and_without_header(name):
    text = (FIXTURES / f"{name}.txt").read_text()
    assert detect_text_kind(text) == detect_text_kind(text.split("\n", 1)[1]) == name


@pytest.mark.parametrize(
    "text",
    ["1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.256", "1.2.3.4 ", "1.2.3.", "", "a.b.c.d", "１.2.3.4", "1.2.3.-4"],
)
def test_what_is_no_ipv4_address_is_refused(text):
    assert ipv4_bytes(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "", ":", ":::", "1", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1::2::3", "12345::", "::g", "1:2:3:4:5:6:7::8",
        "::1.2.3", "::1.2.3.4:5", "1.2.3.4", "::1%lo", "[::1]", ":1:2:3:4:5:6:7", "1:2:3:4:5:6:7:", "::١",
    ],
)  # fmt: skip
def test_what_is_no_ipv6_address_is_refused(text):
    assert ipv6_bytes(text) is None


@pytest.mark.parametrize(
    "text", ["::", "::1", "1::", "1:2:3:4:5:6:7:8", "1::8", "::ffff:1.2.3.4", "fe80::a:B:c", "64:ff9b::1.2.3.4"]
)
def test_an_ipv6_address_is_read_as_the_system_reads_it(text):
    import socket

    assert ipv6_bytes(text) == socket.inet_pton(socket.AF_INET6, text)
