"""/proc/net/tcp: rows captured on Linux 6.18 (tests/fixtures/text), and rows that older kernels and pastes make."""

from collections import Counter
from pathlib import Path

import pytest

from finwait.errors import ParseError
from finwait.wire.proc_net_tcp import address_bytes, count_proc_states, parse_proc_net_tcp

FIXTURES = Path(__file__).parents[2] / "fixtures" / "text"
HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
FULL = (
    "   8: 0100007F:1F90 0100007F:AC8E 01 00000007:000004D2 02:000AFB70 00000003    33        2 59794 2 "
    "000000001dbaa0b4 20 4 32 10 7"
)
MINI = "  16: 0100007F:D76E 0100007F:1F90 06 00000000:00000000 03:00001742 00000000     0        0 0 3 00000000dc4829bf"
REQUEST = (
    "  12: 0100000A:0016 6300000A:15B3 03 00000000:00000000 01:00000045 00000002    33        0 0 0 0000000041bff953"
)


def read(name):
    return (FIXTURES / name).read_text()


def one(row, family=2):
    (record,) = parse_proc_net_tcp([HEADER, row + "\n"], family)
    return record


def with_state(row, state):
    return row.replace(" 01 0000", f" {state:02X} 0000", 1)


def test_a_full_socket_has_every_field():
    record = one(FULL)
    assert (record.state, record.family) == (1, 2)
    assert (record.src, record.sport) == (bytes([127, 0, 0, 1]) + bytes(12), 8080)
    assert (record.dst, record.dport) == (bytes([127, 0, 0, 1]) + bytes(12), 44174)
    assert (record.rqueue, record.wqueue) == (1234, 7)
    assert (record.uid, record.inode) == (33, 59794)
    assert record.info == {"snd_cwnd": 10, "ssthresh": 7}
    assert record.cookie is record.interface is record.owners is record.cgroup is record.v6only is None


def test_a_timer_is_counted_in_hundredths_of_a_second():
    assert (one(FULL).timer, one(FULL).expires_ms) == (2, 0xAFB70 * 10)
    assert one(FULL.replace("02:000AFB70", "00:00000000")).expires_ms is None
    assert one(FULL.replace("02:000AFB70", "01:00000000")).expires_ms == 0


def test_an_overdue_timer_of_an_old_kernel_has_no_time():
    assert one(FULL.replace("02:000AFB70", "01:FFFFFFFFFFFFFFFE")).expires_ms is None


def test_retrans_counts_retransmissions_for_the_first_timer_and_probes_for_keepalive_and_persist():
    assert one(FULL).retrans == 2
    assert one(FULL.replace("02:000AFB70", "04:000AFB70")).retrans == 2
    assert one(FULL.replace("02:000AFB70", "01:000AFB70")).retrans == 3
    assert one(FULL.replace("02:000AFB70", "00:00000000")).retrans == 0


def test_a_timewait_row_has_neither_uid_nor_inode_nor_info():
    record = one(MINI)
    assert (record.state, record.timer, record.expires_ms, record.retrans) == (6, 3, 59540, 0)
    assert record.uid is record.inode is record.info is None


def test_an_orphan_in_fin_wait2_is_a_mini_socket_too():
    record = one(MINI.replace(" 06 ", " 05 "))
    assert (record.state, record.timer, record.uid, record.inode) == (5, 3, None, None)


def test_a_request_socket_does_not_keep_the_uid_of_its_listener():
    record = one(REQUEST)
    assert (record.state, record.timer, record.retrans, record.uid, record.inode) == (3, 1, 2, None, None)


def test_a_syn_received_socket_with_an_inode_keeps_its_uid():
    record = one(with_state(FULL, 3))
    assert (record.state, record.uid, record.inode) == (3, 33, 59794)


def test_state_twelve_is_reported_as_syn_received():
    assert one(REQUEST.replace(" 03 ", " 0C ")).state == 3


def test_an_orphan_and_a_connection_not_yet_accepted_keep_their_uid():
    record = one(FULL.replace(" 59794 ", " 0 "))
    assert (record.uid, record.inode) == (33, None)


def test_a_listener_shows_its_queue_and_no_limit():
    record = one(with_state(FULL, 10))
    assert (record.state, record.rqueue, record.wqueue) == (10, 1234, None)
    assert record.info == {"snd_cwnd": 10}  # behind it stands the limit of Fast Open, not ssthresh


def test_an_infinite_ssthresh_is_left_out():
    assert one(FULL[:-1] + "-1").info == {"snd_cwnd": 10}
    assert one(FULL[:-1] + "2147483647").info == {"snd_cwnd": 10}


@pytest.mark.parametrize("state", range(1, 12))
def test_every_state_keeps_its_number(state):
    assert one(with_state(FULL, state)).state == state


def test_addresses_are_words_in_the_host_order():
    digits = "B80D012078563412F0DEBC9A78563412"
    expected = bytes.fromhex("20010db8123456789abcdef012345678")
    assert address_bytes(digits, "little") == expected
    assert address_bytes("20010DB8123456789ABCDEF012345678", "big") == expected
    assert address_bytes("0100007F", "little") == address_bytes("7F000001", "big") == b"\x7f\0\0\1" + bytes(12)


def test_the_captured_file_of_ipv4_is_read_whole():
    records = list(parse_proc_net_tcp(read("proc_net_tcp.txt").splitlines(keepends=True), 2))
    assert Counter(record.state for record in records) == {1: 7, 2: 1, 3: 1, 4: 1, 5: 5, 6: 1, 8: 3, 9: 1, 10: 4, 11: 1}
    assert {record.family for record in records} == {2}
    assert sum(record.timer == 4 for record in records) == 4


def test_the_captured_file_of_ipv6_is_read_whole():
    records = list(parse_proc_net_tcp(read("proc_net_tcp6.txt").splitlines(), 10))
    assert Counter(record.state for record in records) == {10: 5, 1: 6, 6: 1}
    mapped = [record for record in records if record.src and record.src[:12] == bytes(10) + b"\xff\xff"]
    assert [record.src[12:] for record in mapped] == [b"\n\0\0\1", b"\x7f\0\0\1"]


def test_markup_around_the_rows_is_skipped():
    text = f"\ufeff$ cat /proc/net/tcp\n```\n{HEADER}\r\n> {FULL}\r\n```\nroot@host:~# \n[root@host ~]# exit\n"
    assert [record.inode for record in parse_proc_net_tcp(text.split("\n"), 2)] == [59794]


@pytest.mark.parametrize(
    "row",
    [
        "hello",
        FULL.replace("0100007F:1F90", "0100007:1F90"),
        FULL.replace(" 01 ", " 0D "),
        FULL.replace(" 01 ", " 00 "),
        FULL.replace(" 01 ", " 1 "),
        FULL.replace("1F90", "1f90"),
        FULL.replace("02:000AFB70", "02:000AFB7"),
        FULL.replace("59794", "5979x"),
        FULL.replace(" 33 ", " ３３ "),  # digits, but not of ASCII
        FULL[:60],
        FULL + " 8",
    ],
)
def test_a_malformed_row_names_its_line_and_its_place(row):
    with pytest.raises(ParseError) as raised:
        list(parse_proc_net_tcp([HEADER, FULL + "\n", row + "\n"], 2))
    assert raised.value.offset == len(HEADER) + len(FULL) + 1
    assert raised.value.excerpt == row[:80]
    assert raised.value.arguments["line"] == 3
    assert raised.value.exit_code == 3


def test_rows_of_the_other_family_are_malformed():
    with pytest.raises(ParseError):
        list(parse_proc_net_tcp(read("proc_net_tcp6.txt").splitlines(), 2))


def test_a_last_number_that_may_be_cut_is_not_believed():
    (record,) = parse_proc_net_tcp([HEADER, FULL], 2)
    assert record.info == {"snd_cwnd": 10}
    (record,) = parse_proc_net_tcp([HEADER.rstrip("\n"), FULL], 2)
    assert record.info == {"snd_cwnd": 10, "ssthresh": 7}


@pytest.mark.parametrize(("name", "family"), [("proc_net_tcp.txt", 2), ("proc_net_tcp6.txt", 10)])
def test_the_census_counts_what_the_records_say(name, family):
    text = read(name)
    records = parse_proc_net_tcp(text.splitlines(), family)
    assert count_proc_states(text.encode()) == Counter(record.state for record in records)


def tcp_file(rows, width=149):
    states = [1 + number * 7 % 12 for number in range(rows)]
    lines = (
        f"{number:4}: 0100007F:{number % 65536:04X} 0100007F:0A0A {state:02X} 00000000:00000000 00:00000000 00000000"
        f"     0        0 {number} 1 00000000dc4829bf 20 0 0 10 -1".ljust(width)
        for number, state in enumerate(states)
    )
    return HEADER.rstrip("\n").ljust(width) + "\n" + "".join(f"{line}\n" for line in lines), Counter(states)


@pytest.mark.parametrize("width", [149, 0])
def test_the_census_counts_on_when_the_row_number_outgrows_its_column(width):
    text, states = tcp_file(20_011, width)
    states[3] += states.pop(12)
    assert count_proc_states(text.encode()) == states
    tail = text.encode()[text.index("9998:") :]
    assert sum(count_proc_states(tail).values()) == 20_011 - 9998


def test_the_census_of_ipv6_counts_on_when_the_row_number_outgrows_its_column():
    _, row = read("proc_net_tcp6.txt").splitlines()[:2]
    numbers = [*range(9_990, 10_010), *range(99_990, 100_010), *range(999_990, 1_000_010)]
    data = "\n".join(f"{number:4}{row[4:]}" for number in numbers).encode()
    assert count_proc_states(data) == {10: 60}


def test_the_census_of_nothing_is_empty():
    assert count_proc_states(b"") == count_proc_states(HEADER.encode()) == count_proc_states(b"\n\n") == {}


def test_the_census_takes_rows_without_a_header_and_without_a_last_line_end():
    assert count_proc_states(f"{FULL}\n{MINI}".encode()) == {1: 1, 6: 1}


def test_the_census_does_not_mistake_a_port_for_a_state():
    text, _ = tcp_file(200)
    broken = text.replace(" 08 00000000:", " 0X 00000000:", 1)
    with pytest.raises(ParseError) as raised:
        count_proc_states(broken.encode())
    assert broken[raised.value.offset :].startswith(raised.value.excerpt)
    assert " 0X " in raised.value.excerpt
    assert raised.value.arguments["line"] == broken[: raised.value.offset].count("\n") + 1
