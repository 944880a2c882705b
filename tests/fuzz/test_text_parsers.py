"""Any text whatever: the parsers of text yield records, report lines or raise ParseError, and never invent a value."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finwait.errors import ParseError
from finwait.wire.netstat_text import parse_netstat
from finwait.wire.proc_net_tcp import count_proc_states, parse_pasted_proc, parse_proc_net_tcp
from finwait.wire.records import SocketRecord
from finwait.wire.ss_text import parse_ss
from finwait.wire.text_kind import detect_text_kind, ipv4_bytes, ipv6_bytes

FIXTURES = Path(__file__).parents[1] / "fixtures" / "text"
TEXTS = {path.name: path.read_text() for path in sorted(FIXTURES.glob("*.txt"))}

FRAGMENTS = st.sampled_from(
    [
        "tcp", "tcp6", "tcp        0      0 ", "ESTAB", "LISTEN 0 128 ", "TIME-WAIT", "CLOSE_WAIT", " 0 ", "*:*",
        ":::22",
        "[::1]:80", "10.0.0.1:80", "fe80::1%eth0:22", "users:((", '"x",pid=1,fd=2', "))", "timer:(on,1min2sec,0)",
        "skmem:(r0,rb1", ")", "cgroup:/a b <->", "cubic wscale:7,7 rto:2e+05", "rtt:1/", "pacing_rate ", "1.5Gbps",
        "\n",
        "\r\n", "\t", "> ", "\ufeff", " off (0.00/0/0)", "1234/nginx: w", "0100007F:1F90", " 0A ", "   1: ", "sl ",
        "\udcff",
        "9" * 30, "e+09", "%", "/", "-",
    ]
)  # fmt: skip
ANY_TEXT = st.one_of(
    st.text(),
    st.binary().map(lambda data: data.decode("utf-8", "surrogateescape")),
    st.lists(st.one_of(FRAGMENTS, st.text(max_size=3))).map("".join),
)


@st.composite
def damaged(draw):
    """A captured text of which a piece was replaced."""
    text = draw(st.sampled_from(sorted(TEXTS.values())))
    begin = draw(st.integers(0, len(text)))
    end = draw(st.integers(begin, min(begin + 50, len(text))))
    return text[max(begin - 2000, 0) : begin] + draw(ANY_TEXT) + text[end : end + 2000]


def records_of(parse, text):
    unread = []
    records = list(parse(text.splitlines(keepends=True), lambda number, line: unread.append((number, line))))
    for number, line in unread:
        assert isinstance(number, int)
        assert isinstance(line, str)
    return records


def check(record):
    assert isinstance(record, SocketRecord)
    assert 1 <= record.state <= 11
    assert record.family in (None, 2, 10)
    for address in (record.src, record.dst):
        assert address is None or (len(address) == 16 and record.family is not None)
    for port in (record.sport, record.dport):
        assert port is None or 0 <= port <= 65535
    for number in (record.rqueue, record.wqueue, record.expires_ms, record.uid, record.inode, record.cookie):
        assert number is None or 0 <= number < 1 << 64
    for value in (record.info or {}).values():
        assert isinstance(value, str) or 0 <= value < 1 << 63


def read_everything(text):
    for parse in (parse_ss, parse_netstat):
        for record in records_of(parse, text):
            check(record)
    for family in (2, 10):
        try:
            for record in parse_proc_net_tcp(text.splitlines(keepends=True), family):
                check(record)
        except ParseError as error:
            assert str(error)
    try:
        for record in records_of(parse_pasted_proc, text):
            check(record)
    except ParseError as error:
        assert str(error)
    try:
        count_proc_states(text.encode("utf-8", "surrogateescape"))
    except ParseError as error:
        assert str(error)
    assert detect_text_kind(text) in (None, "ss", "netstat", "proc_net_tcp", "proc_net_tcp6")


@given(ANY_TEXT)
@settings(deadline=None)
def test_any_text_is_read_or_refused(text):
    read_everything(text)


@given(damaged())
@settings(deadline=None)
def test_any_damaged_output_is_read_or_refused(text):
    read_everything(text)


@given(st.data())
def test_a_row_whose_word_for_the_state_is_wrong_is_never_lost(data):
    name = data.draw(st.sampled_from(sorted(name for name in TEXTS if not name.startswith("proc_"))))
    parse, word = (parse_ss, r"[A-Z]+[A-Z0-9-]*") if name.startswith("ss_") else (parse_netstat, r"[A-Z]+[A-Z0-9_]*")
    lines = TEXTS[name].splitlines(keepends=True)
    rows = [at for at, line in enumerate(lines) if re.match(r"(tcp6? |[A-Z-]+[0-9]? +[0-9])", line)]
    at = data.draw(st.sampled_from(rows))
    wrong = data.draw(st.text("abcXYZ019-_é", min_size=1)) + "?"
    lines[at] = re.sub(rf"(?<!\S){word}(?!\S)", wrong, lines[at], count=1)
    unread = []
    records = list(parse(lines, lambda number, line: unread.append(number)))
    assert (len(rows), len(records), unread) == (37, 36, [at + 1])


@given(st.binary())
def test_any_bytes_are_counted_or_refused(data):
    try:
        counts = count_proc_states(data)
    except ParseError:
        return
    assert all(1 <= state <= 11 and count > 0 for state, count in counts.items())


@given(st.text("0123456789abcdefF:.%g", max_size=46))
def test_an_address_is_read_exactly_where_the_system_reads_it(text):
    import socket

    for family, parse in ((socket.AF_INET, ipv4_bytes), (socket.AF_INET6, ipv6_bytes)):
        try:
            expected = socket.inet_pton(family, text)
        except OSError:
            expected = None
        assert parse(text) == expected


def parser_of(name):
    if name.startswith("proc_"):
        return lambda lines, on_unread: parse_proc_net_tcp(lines, 10 if "6" in name else 2)
    return parse_ss if name.startswith("ss_") else parse_netstat


def says_nothing_new(cut, whole):
    for name in SocketRecord.__slots__:
        value, true_value = getattr(cut, name), getattr(whole, name)
        if name == "info" and value is not None:
            assert value.items() <= (true_value or {}).items()
        elif value is not None:
            assert value == true_value, name


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_a_text_cut_anywhere_says_less_and_nothing_wrong(name):
    parse, text = parser_of(name), TEXTS[name]
    starts = [0, *(index + 1 for index, character in enumerate(text) if character == "\n")]
    for start, middle, end in zip(starts, starts[2:], starts[4:], strict=False):
        whole = records_of(parse, text[start:end])
        for length in range(middle, end):
            try:
                cut = records_of(parse, text[start:length])
            except ParseError:
                assert name.startswith("proc_")
                continue
            assert len(cut) <= len(whole)
            for one_of_cut, one_of_whole in zip(cut, whole, strict=False):
                says_nothing_new(one_of_cut, one_of_whole)


@pytest.mark.parametrize("kind", ["ss", "netstat"])
@pytest.mark.parametrize(
    "line",
    [
        "tcp 0 0 " + "a:" * 20_000, "ESTAB 0 0 " + "a:" * 20_000 + " " + "b:" * 20_000, "0 0 " + "a:" * 40_000 + " b:1",
        "tcp 0 0 a:1 b:1 LISTEN " + " " * 40_000 + "x", 'ESTAB 0 0 a:1 b:1 users:(("' + '",pid=1' * 20_000,
        "ESTAB 0 0 a:1 b:1 " + "cgroup:/ " * 20_000, "ESTAB 0 0 a:1 b:1 " + "ts " * 20_000, "> " * 40_000,
        "tcp 0 0 a:1 b:1 LISTEN " + "(" * 40_000, "ESTAB 0 0 a:1 b:1 cgroup:/" + " " * 40_000 + "x",
        "ESTAB 0 0 a:1 b:1 timer:(on," + "1" * 40_000, "ESTAB 0 0 a:1 b:1 skmem:(" + "r1" * 40_000,
        "ESTAB 0 0 a:1 b:1 " + "sack" * 20_000, "a " * 40_000, "tcp 0 0 a:1 b:1 LISTEN " + "1/" * 20_000,
        "LISTEN" + " " * 40_000, "tcp" + " " * 40_000 + "x", "ESTAB 0 0" + " " * 40_000 + "x" + " " * 40_000 + "y",
        "1 " * 20_000 + "a:1 b:1", "x 1 1 " + "a:1 " * 20_000, "1" * 40_000 + " 1 a:1 b:1", "x 0 0 a:1 " + "b:" * 20_000,
        "x y 0 0 " + "a:" * 20_000 + " b:1 z", "0 0 a:1 b:1" + " " * 40_000 + "x",
    ],
)  # fmt: skip
def test_a_long_line_costs_no_more_than_its_length(kind, line):
    import time

    begin = time.process_time()
    records_of(parse_ss if kind == "ss" else parse_netstat, line)
    detect_text_kind(line)
    assert time.process_time() - begin < 1
