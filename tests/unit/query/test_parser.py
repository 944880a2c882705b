"""The filter language: its grammar, its rank, and what it says about every mistake."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from finwait.errors import UsageError
from finwait.query.parser import MAX_DEPTH, parse_filter
from finwait.query.words import OPERATOR_BY_WORD, is_filter_word
from finwait.table.columns import COLUMNS
from finwait.tcp.state import ALL_STATES, STATE_GROUPS, TcpState

SERVICES = {"http": 80, "https": 443, "ssh": 22, "x-y": 7}


def parsed(*words: str) -> str:
    return repr(parse_filter(words, SERVICES.get).expression)


def refusal(*words: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse_filter(words, SERVICES.get)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("sport = :22", "local=*/0:22"),
        ("dport = :22", "peer=*/0:22"),
        ("sport :22", "local=*/0:22"),
        ("sport 22", "local=*/0:22"),
        ("sport = *:22", "local=*/0:22"),
        ("sport = *", "local=*/0:*"),
        ("sport = :0x16", "local=*/0:22"),
        ("sport = :026", "local=*/0:22"),
        ("sport = :ssh", "local=*/0:22"),
        ("sport = ssh", "local=*/0:22"),
        ("dport = :x-y", "peer=*/0:7"),
        ("sport != :22", "not(local=*/0:22,)"),
        ("sport >= :22", "local_port >= 22"),
        ("dport lt http", "peer_port < 80"),
        ("sport = 10.0.0.1:22", "local=0a000001/32:22"),
        ("src 10.0.0.1", "local=0a000001/32:*"),
        ("src = 10.0.0.1", "local=0a000001/32:*"),
        ("dst != 10.0.0.1", "not(peer=0a000001/32:*,)"),
        ("src 10.1/16", "local=0a010000/16:*"),
        ("src 10.1.2.3/255.255.0.0", "local=0a010203/16:*"),
        ("src 0x0a.010.0.1", "local=0a080001/32:*"),
        ("src 10.0.0.1:ssh", "local=0a000001/32:22"),
        ("src ::1", f"local={'0' * 31}1/128:*"),
        ("src [::1]:22", f"local={'0' * 31}1/128:22"),
        ("src ::1/64:22", f"local={'0' * 31}1/64:22"),
        ("src [::]/0", f"local={'0' * 32}/0:*"),
        ("src fe80::1%eth0", "local=fe80000000000000" + "0" * 15 + "1/128:*"),
        ("src *:443", "local=*/0:443"),
        ("src :443", "local=*/0:443"),
        ("src any", "local=*/0:*"),
        ("dev = eth0", "dev=eth0"),
        ("dev eth0", "dev=eth0"),
        ("dev != 4294967295", "not(dev=4294967295,)"),
        ("fwmark = 0x17", "fwmark=0x17/0xffffffff"),
        ("fwmark 23/0xff", "fwmark=0x17/0xff"),
        ("cgroup = /sys/fs/cgroup/a=b&c", "cgroup=/sys/fs/cgroup/a=b&c"),
        ("autobound", "autobound"),
        ("recv-q > 0", "recv_q > 0"),
        ("recv_q ge 0x10", "recv_q >= 16"),
        ("RECV-Q 5", "recv_q = 5"),
        ("rtt <= 5000", "rtt_us <= 5000"),
        ("lport = 22", "local=*/0:22"),
        ("peer-port > 22", "peer_port > 22"),
        ("local = 10.0.0.1:22", "local=0a000001/32:22"),
        ("peer-address = 10.0.0.1", "peer=0a000001/32:*"),
        ("uid = 33", "uid = 33"),
        ("timer = keepalive", "timer = 2"),
        ("timer = time-wait", "timer = 3"),
        ("timer = 77", "timer = 77"),
        ("process = nginx", "process = 'nginx'"),
        ("process != 'my server'", "process != 'my server'"),
        ("v6only = yes", "v6only = 1"),
        ("v6only FALSE", "v6only = 0"),
        ("family = inet6", "family = 10"),
        ("recv-q > send-q", "recv_q > send_q"),
        ("accept-queue-length >= accept_queue_limit", "accept_queue_length >= accept_queue_limit"),
        ("state = listen", "state = frozenset({10})"),
        ("state != time-wait", "state != frozenset({6})"),
        ("state = bucket", "state = frozenset({3, 6})"),
        ("recv-q = 18446744073709551617", "recv_q = 18446744073709551617"),
    ],
)
def test_a_test_means(text: str, meaning: str) -> None:
    assert parsed(text) == parsed(*text.split()) == meaning


A, B, C, D = "uid = 1", "uid = 2", "uid = 3", "uid = 4"


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        (f"{A} {B}", f"({A} and {B})"),
        (f"{A} and {B} & {C} && {D}", f"({A} and {B} and {C} and {D})"),
        (f"{A} or {B} | {C} || {D}", f"({A} or {B} or {C} or {D})"),
        (f"{A} or {B} and {C}", f"(({A} or {B}) and {C})"),
        (f"{A} | {B} {C}", f"(({A} or {B}) and {C})"),
        (f"{A} {B} | {C} {D}", f"((({A} and {B}) or {C}) and {D})"),
        (f"{A} or ({B} and {C})", f"({A} or ({B} and {C}))"),
        (f"({A}) or (({B}))", f"({A} or {B})"),
        (f"! {A} {B}", f"(not({A},) and {B})"),
        (f"not {A} or {B}", f"(not({A},) or {B})"),
        (f"! ({A} or {B}) and {C}", f"(not(({A} or {B}),) and {C})"),
        (f"!!{A}", f"not(not({A},),)"),
    ],
)
def test_and_or_and_side_by_side_have_one_rank_and_not_takes_one_term(text: str, meaning: str) -> None:
    assert parsed(text) == meaning


@pytest.mark.parametrize(
    ("glued", "apart"),
    [
        ("sport=:22", "sport = :22"),
        ("sport!=:22", "sport != :22"),
        ("recv-q>=5", "recv-q >= 5"),
        ("recv-q>5", "recv-q > 5"),
        ("!(sport=:22)", "! ( sport = :22 )"),
        ("uid=1|uid=2&uid=3", "uid = 1 | uid = 2 & uid = 3"),
        ("uid=1||uid=2&&uid=3", "uid = 1 or uid = 2 and uid = 3"),
        ("(uid=1)(uid=2)", "( uid = 1 ) ( uid = 2 )"),
        ("\tuid\n=\v1 ", "uid = 1"),
    ],
)
def test_operators_part_words(glued: str, apart: str) -> None:
    assert parsed(glued) == parsed(apart)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'a b'", "a b"), ('"a b"', "a b"), (r"a\ b", "a b"), (r"\=", "="), ("'or'", "or"), ('"("', "("), (r"a\'b", "a'b"),
        (r"'it\'s'", "it's"), ("a'b c'd", "ab cd"), ("''", ""), ("数据库", "数据库"),
        ("'\x1b[31m'", "\x1b[31m"), ("a\\", "a\\"),
    ],
)  # fmt: skip
def test_quotes_and_backslash_keep_a_word_together(text: str, value: str) -> None:
    assert parsed(f"process = {text}") == f"process = {value!r}"


def test_a_quoted_word_is_no_operator_and_no_column() -> None:
    assert refusal("uid = 1 'or' uid = 2").startswith("unknown word 'or' at character 9")
    assert refusal("'uid' = 1").startswith("unknown word 'uid' at character 1")


@pytest.mark.parametrize(
    ("text", "states"),
    [
        ("state listen", {10}),
        ("state FIN_WAIT1 state fin-wait-2", {4, 5}),
        ("state connected exclude established", STATE_GROUPS["connected"] - {1}),
        ("exclude listening", ALL_STATES - {10}),
        ("excl all state closing", {11}),
        ("exclude bucket exclude big state time-wait", {6}),
        ("state bucket", {3, 6}),
        ("state bound-inactive", {7}),
        ("state 'fin wait 1'", {4}),
        ("", ALL_STATES),
        ("   ", ALL_STATES),
    ],
)
def test_states_come_first(text: str, states: set[int]) -> None:
    assert parse_filter(text).states == states
    assert parse_filter(f"{text} uid = 1").states == states
    assert repr(parse_filter(f"{text} uid = 1").expression) == "uid = 1"


def test_the_state_mask_asks_for_request_sockets_and_bound_ones_too() -> None:
    assert parse_filter("state syn-recv").state_mask() == 1 << 3 | 1 << 12
    assert parse_filter("state closed").state_mask() == 1 << 7 | 1 << 13
    assert parse_filter("").state_mask() == 0b11_1111_1111_1110


def test_the_last_family_word_holds_for_the_whole_filter() -> None:
    assert parse_filter("src inet:10.0.0.1 or dst inet6:*").family == 10
    assert parse_filter("src inet:*:80").family == 2
    assert parse_filter("src 10.0.0.1").family is None


@pytest.mark.parametrize(
    ("text", "message"),  # @5: at character 5 of the filter: and its text
    [
        # the place
        ("uid", "the filter ends where a value should follow: uid"),
        ("uid =", "the filter ends where a value should follow: uid ="),
        ("state", "the filter ends where a state should follow: state"),
        ("sport =", "the filter ends where a port should follow: sport ="),
        ("src", "the filter ends where an address should follow: src"),
        ("dev =", "the filter ends where a value should follow: dev ="),
        ("uid = 1 and", "the filter ends where a condition should follow: uid = 1 and"),
        ("not", "the filter ends where a condition should follow: not"),
        ("(uid = 1", "the parenthesis is never closed @1"),
        ("uid = 1 or ((uid = 2)", "the parenthesis is never closed @12"),
        ("uid = 1 ) or", "unmatched ')' @9"),
        ("()", "')' where a condition should stand @2"),
        ("and uid = 1", "'and' where a condition should stand @1"),
        ("uid = 1 or or uid = 2", "'or' where a condition should stand @12"),
        ("= 1", "'=' where a condition should stand @1"),
        ("uid = = 1", "'=' where a value should stand @7"),
        ("uid = and", "'and' where a value should stand @7"),
        ("sport = (", "'(' where a port should stand @9"),
        ("src = )", "')' where an address should stand @7"),
        ("process = 'abc", "the quote at character 11 of the filter is never closed: process = 'abc"),
        ('uid = 1 "', 'the quote at character 9 of the filter is never closed: uid = 1 "'),
        # the nearest word
        ("udi = 1", "unknown word 'udi' @1; did you mean uid?"),
        ("uid = 1 prot = 5", "unknown word 'prot' @9; did you mean sport?"),
        ("spotr = :22", "unknown word 'spotr' @1; did you mean sport?"),
        ("autobuond", "unknown word 'autobuond' @1; did you mean autobound?"),
        ("recvq_ > 1", "unknown word 'recvq_' @1; did you mean recv_q?"),
        ("stat listen", "unknown word 'stat' @1; did you mean state?"),
        ("listening", "'listening' stands alone @1; did you mean state listening?"),
        ("uid = 1 TIME_WAIT", "'TIME_WAIT' stands alone @9; did you mean state TIME_WAIT?"),
        ("state tmie-wait", "unknown TCP state 'tmie-wait' @7; did you mean time_wait?"),
        ("state = estab1", "unknown TCP state 'estab1' @9; did you mean ESTAB?"),
        # what a word cannot be
        ("state listen exclude all", "'state' and 'exclude' leave no state: state listen exclude all"),
        ("process > x", "'>' cannot be used here, only = != @9"),
        ("dev < 1", "'<' cannot be used here, only = != @5"),
        ("src > 10.0.0.1", "'>' cannot be used here, only = != @5"),
        ("timer >= on", "'>=' cannot be used here, only = != @7"),
        ("uid = x", "uid is compared with a whole number, not with 'x' @7"),
        ("recv-q = -1", "recv_q is compared with a whole number of bytes, not with '-1' @10"),
        ("uid = 08", "uid is compared with a whole number, not with '08' @7"),
        ("uid = 1_0", "uid is compared with a whole number, not with '1_0' @7"),
        ("uid = ٣", "uid is compared with a whole number, not with '٣' @7"),
        ("uid = 0x", "uid is compared with a whole number, not with '0x' @7"),
        ("timer = x", "timer is compared with none on keepalive time_wait persist delayed_ack, not with 'x' @9"),
        ("timer = 256", "timer is compared with none on keepalive time_wait persist delayed_ack, not with '256' @9"),
        ("v6only = 2", "v6only is compared with yes no true false 1 0, not with '2' @10"),
        ("family = ipv4", "family is compared with inet inet6 2 10, not with 'ipv4' @10"),
        ("fwmark = x", "a mark is MARK or MARK/MASK, not 'x' @10"),
        ("fwmark = 0x100000000", "a mark is MARK or MARK/MASK, not '0x100000000' @10"),
        ("fwmark = 1/", "a mark is MARK or MARK/MASK, not '1/' @10"),
        ("dev = 12345678901", "'12345678901' is no device: a number of one has ten digits at most @7"),
        ("sport = :65536", "'65536' is no port: ports end at 65535 @9"),
        ("sport > :99999", "'99999' is no port: ports end at 65535 @9"),
        ("sport = :gopher", "'gopher' is no port and no known service @9"),
        ("sport > *", "'*' where a number should stand @9"),
        ("src 10.0.0.256", "'10.0.0.256' is no address: write ADDR, ADDR/PREFIX, ADDR:PORT, [ADDR]:PORT, :PORT or * @5"),
        ("src 10.0.0.1/33", "'10.0.0.1/33': the prefix length goes from 0 to 32 @5"),
        ("src ::1/129", "'::1/129': the prefix length goes from 0 to 128 @5"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(text: str, message: str) -> None:
    wanted = re.sub(r" @(\d+)", lambda at: f" at character {at[1]} of the filter: {text}", message)
    assert refusal(text) == wanted


HOSTILE = ["src 10.0.0.1.5", "src [::1", "src ::1]", "src [::1]x", "src *x", "src inet:::1", "src inet6:10.0.0.1", "src 1..2",
           "src :::1", "src 10.0.0.1/255.0.255.0", "src 10.0.0.1/", "src [10.0.0.1", "src host.example", "src /24",
           "src ::ffff:1.2.3.4.5"]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_no_address_is_refused(text: str) -> None:
    assert "at character 5 of the filter" in refusal(text)


def test_without_services_only_numbers_are_ports() -> None:
    with pytest.raises(UsageError, match="no known service"):
        parse_filter("sport = :ssh")


@pytest.mark.parametrize("count", [4300, 4301, 100_000])
@pytest.mark.parametrize("words", ["src {}", "src 1.{}", "src 1.1.1.1/{}", "sport = {}", "dev = {}", "recv-q = {}",
                                   "fwmark = {}", "timer = {}", "state {}", "{}", "src ::{}"])  # fmt: skip
def test_a_number_of_any_length_is_a_number_or_a_usage_error(words: str, count: int) -> None:
    try:
        parse_filter(words.format("9" * count))
    except UsageError as error:
        assert len(error.message_id) < 200


def test_a_filter_of_a_hundred_thousand_words_is_parsed() -> None:
    words = ["sport", "=", ":1", "or"] * 25_000
    expression = parse_filter([*words, "sport", "=", ":2"]).expression
    assert expression is not None
    assert len(expression.parts) == 25_001
    assert expression.depth == 2


@pytest.mark.parametrize("word", ["(", "!", "uid = 1 or uid = 2 and", "! (", "not"])
def test_too_deep_a_filter_is_refused_before_it_is_too_deep_for_python(word: str) -> None:
    text = " ".join([word] * 10_000) + " uid = 1"
    told = refusal(text)
    assert told.startswith(f"nested more than {MAX_DEPTH} deep at character ")
    assert len(told) < 400


def test_a_deep_filter_that_is_accepted_can_be_walked() -> None:
    from finwait.query.pushdown import push_down
    from finwait.table.bindings import Bindings

    alternating = " ".join(["uid = 1 or sport = :2 and"] * (MAX_DEPTH // 2 - 1))
    text = "! (" * (MAX_DEPTH // 2) + alternating + " uid = 3" + ")" * (MAX_DEPTH // 2)
    wanted = parse_filter(text)
    assert wanted.expression is not None
    assert wanted.column_names() == {"uid", "local_port"}
    push_down(wanted, Bindings())
    repr(wanted.expression)


def test_a_mistake_far_inside_is_shown_with_what_stands_around_it() -> None:
    told = refusal("uid = 1 " * 10_000 + "udi = 2" + " uid = 3" * 10_000)
    assert "at character 80001 of the filter: …" in told
    assert "uid = 1 udi = 2 uid = 3" in told
    assert told.endswith("…; did you mean uid?")


FRAGMENTS = st.sampled_from(
    [*OPERATOR_BY_WORD, "(", ")", "!", "not", "and", "or", "&", "|", "&&", "||", "'", '"', "\\", " ", "sport", "dport", "src",
     "dst", "dev", "fwmark", "cgroup", "autobound", "state", "exclude", ":22", "10.0.0.1", "[::1]:80", "listen", "all",
     "inet6:", "*", "/", "0x", *(column.name for column in COLUMNS)]
)  # fmt: skip
ANY_FILTER = st.text() | st.lists(FRAGMENTS | st.text(max_size=3)).map(" ".join) | st.lists(FRAGMENTS).map("".join)


@given(ANY_FILTER)
@example("state = ")
@example("! state listen")
def test_any_text_is_a_filter_or_a_usage_error(text: str) -> None:
    try:
        wanted = parse_filter(text, SERVICES.get)
    except UsageError as error:
        place = error.arguments.get("place")
        assert place is None or (isinstance(place, int) and 1 <= place <= len(text))
        assert str(error)
        return
    assert wanted.states
    assert wanted.states <= set(TcpState)
    wanted.column_names()


@given(st.lists(st.text(max_size=8), max_size=6))
def test_whether_a_filter_can_begin_with_a_word_is_always_told(words: list[str]) -> None:
    for word in words:
        assert is_filter_word(word) in {True, False}


@pytest.mark.parametrize(
    "word", ["state", "exclude", "sport", "src", "(", "!x", "not", "recv-q", "uid=1", "RTT", "'x'", "a>b"]
)
def test_a_filter_can_begin_with(word: str) -> None:
    assert is_filter_word(word)


@pytest.mark.parametrize("word", ["coutn", "lsit", "", "listening", "help"])
def test_a_filter_cannot_begin_with(word: str) -> None:
    assert not is_filter_word(word)


def test_a_path_ends_before_a_parenthesis_that_it_did_not_open() -> None:
    assert repr(parse_filter("(cgroup = /a) sport = 1").expression) == repr(
        parse_filter("( cgroup = /a ) sport = 1").expression
    )
    assert repr(parse_filter("cgroup = /a(b)c").expression) == "cgroup=/a(b)c"
    assert repr(parse_filter("(cgroup = /a(b))").expression) == "cgroup=/a(b)"
