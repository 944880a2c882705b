"""ss is the oracle: every generated filter gives live ss's rows, live and from a recording of the same population."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import finwait
from finwait.lab.population import Population
from finwait.lab.spec import FAMILIES, Group, Spec
from finwait.query.parser import parse_filter
from finwait.render.rows import RowRenderer
from finwait.sources.bindings import find_cgroup2_mounts
from finwait.sources.services import port_of_service
from finwait.table.request import Roots
from finwait.tcp.state import LIFE_ORDER, STATE_GROUPS, TcpState
from tests.kernel.finwait_command import output_of

if TYPE_CHECKING:
    from collections.abc import Iterator

SPEC = Spec(
    (
        *(Group(state.name, 5 + 2 * index, family) for index, family in enumerate(FAMILIES) for state in LIFE_ORDER),
        Group("ESTABLISHED", 3, mark=0x17),
        Group("ESTABLISHED", 2, mark=0x117),
        Group("ESTABLISHED", 4, opened="passive"),
        Group("ESTABLISHED", 2, device="near"),
    ),
    shuffle=3,
)
COLUMNS = ("state", "recv_q", "send_q", "local", "peer", "accept_queue_length", "accept_queue_limit", "v6only")


class Frozen:
    """A population that stands still, a recording of it, and words that filters can be made of."""

    def __init__(self, held: Population, path: str) -> None:
        self.held = held
        self.path = path
        output_of("count", "--record", path, held=held)

    def rows_of_ss(self, *words: str) -> Counter[tuple[str, ...]]:
        done = subprocess.run(
            self.held.enter_command("ss", "-tan", *words), capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), (words, done)
        header, *rows = (line.split() for line in done.stdout.splitlines())
        if header[0] != "State":  # ss leaves the column out where only one state can come
            (state,) = parse_filter(words, port_of_service).states
            rows = [[state.ss, *row] for row in rows]
        return Counter(tuple(row[:5]) for row in rows)

    def rows(self, *words: str, recorded: bool = False) -> Counter[tuple[str, ...]]:
        """finwait's rows, without the bound but unconnected ones, which ss does not know."""
        if recorded:
            table = finwait.connections(words, columns=COLUMNS, read=self.path)
        else:
            table = finwait.connections(words, columns=COLUMNS, netns=str(self.held.pid))
        renderer = RowRenderer(COLUMNS[:5], spelling="ss")
        lines = b"".join(map(renderer.lines, table.batches)).decode().splitlines()
        return Counter(row for line in lines if (row := tuple(line.split()))[0] != TcpState.CLOSE.ss)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frozen]:
    with Population(SPEC) as held:
        yield Frozen(held, str(tmp_path_factory.mktemp("filters") / "frozen.finwait"))


PORTS = st.sampled_from(
    [0, 80, 443, 2000, 2001, 2005, 2010, 10000, 10001, 10003, 32768, 40000, 50000, 60999, 65535]
) | st.integers(0, 65535)
PORT_WORDS = (
    st.builds(lambda port: f":{port}", PORTS)
    | st.sampled_from([":http", ":https", ":0x1bb", ":02001"])
    | PORTS.map(str)
)
OPERATORS = st.sampled_from(
    ["=", "==", "eq", "!=", "ne", "neq", ">", "gt", "<", "lt", ">=", "ge", "geq", "<=", "le", "leq"]
)
IPV4 = st.builds(lambda c, d, p: (f"10.77.{c}.{d}" + p), st.integers(0, 3), st.integers(0, 255),
                 st.sampled_from(["", "/32", "/31", "/30", "/24", "/20", "/16", "/8", "/255.255.255.0"]))  # fmt: skip
IPV6 = st.sampled_from(
    ["[fd77::1]", "[fd77::1:2e]", "[::1]", "fd77::/16", "fd77::/64", "fd77::1:0/112", "fd77::1:0/117", "::ffff:0:0/96",
     "[::ffff:10.77.1.7]", "::ffff:10.77.0.0/112"]
)  # fmt: skip
HOSTS = (
    IPV4
    | IPV6
    | st.sampled_from(
        ["*", "any", "10/8", "10.77/16", "127.0.0.1", "*:443", "[fd77::1]:443", "[fd77::1]", "10.77.0.1:443"]
    )
    | st.builds(lambda host, port: f"{host}:{port}", IPV4, PORTS)
    | st.builds(lambda host, port: f"[{host}]:{port}", st.sampled_from(["fd77::1", "fd77::1:2e"]), PORTS)
)
FAMILY_HOSTS = st.sampled_from(["inet:10.77.0.0/16", "inet6:fd77::/16", "inet:*:443", "inet6:*"])
MARKS = st.sampled_from(["0x17", "23", "0x17/0xff", "0", "0/0x10", "0x100/0x100"])

PORT_TESTS = st.tuples(st.sampled_from(["sport", "dport"]), OPERATORS, PORT_WORDS) | st.tuples(
    st.sampled_from(["sport", "dport"]), PORT_WORDS
)
HOST_TESTS = st.tuples(st.sampled_from(["src", "dst"]), st.sampled_from([(), ("=",)]), HOSTS).map(
    lambda parts: (parts[0], *parts[1], parts[2])
)
OTHER_TESTS = (
    st.tuples(st.just("fwmark"), st.sampled_from(["=", "!="]), MARKS)
    | st.tuples(st.just("dev"), st.sampled_from(["=", "!="]), st.sampled_from(["lo", "near", "1", "2"]))
    | st.tuples(st.just("cgroup"), st.sampled_from(["=", "!="]), st.sampled_from(find_cgroup2_mounts(Roots())))
)
AND = st.sampled_from([("and",), ("&",), ("&&",), ()])
OR = st.sampled_from([("or",), ("|",), ("||",)])


def expressions(tests: st.SearchStrategy[tuple[str, ...]]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.recursive(
        tests,
        lambda inner: (
            st.tuples(inner, AND | OR, inner).map(lambda parts: (*parts[0], *parts[1], *parts[2]))
            | st.tuples(st.sampled_from(["!", "not"]), inner).map(lambda parts: (parts[0], "(", *parts[1], ")"))
            | st.tuples(st.sampled_from(["!", "not"]), tests).map(lambda parts: (parts[0], *parts[1]))
            | inner.map(lambda words: ("(", *words, ")"))
        ),
        max_leaves=9,
    )


def leaves_a_state(words: tuple[str, ...]) -> bool:
    """Where none is left finwait says so, and ss shows every state."""
    try:
        parse_filter(words)
    except finwait.UsageError:
        return False
    return True


STATE_CLAUSES = (
    st.lists(
        st.tuples(
            st.sampled_from(["state", "exclude"]),
            st.sampled_from(
                [
                    *(state.ss_filter for state in LIFE_ORDER),
                    *(name for name in STATE_GROUPS if name != "bound-inactive"),
                ]
            ),
        ),
        max_size=3,
    )
    .map(lambda clauses: tuple(word for clause in clauses for word in clause))
    .filter(leaves_a_state)
)
OVERDUE = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)


ZEROS = ["0.0.0.0/0", "::/0", "[::]", "0.0.0.0"]


@pytest.mark.parametrize("host", ZEROS)
def test_zero_addresses_and_prefixes_give_the_rows_of_ss(frozen: Frozen, host: str) -> None:
    assert frozen.rows("src", host) == frozen.rows_of_ss("src", host)


@pytest.mark.parametrize("host", ZEROS)
def test_the_contrary_of_a_zero_address_is_all_the_rest(frozen: Frozen, host: str) -> None:
    """ss 6.1 compares zeros across families in its own check, so that some sockets pass neither X nor `! X` there."""
    assert frozen.rows("src", host) + frozen.rows("!", "src", host) == frozen.rows()


@OVERDUE
@given(states=STATE_CLAUSES, words=expressions(PORT_TESTS | HOST_TESTS | OTHER_TESTS))
@example(states=(), words=("sport", "=", ":2000", "|", "sport", "=", ":2001", "&", "dport", "=", ":443"))
@example(states=(), words=("!", "sport", "=", ":2000", "dport", "=", ":443"))
@example(states=(), words=("dst", "0.0.0.0/0"))
@example(states=("exclude", "time-wait"), words=("dst", "10.77.0.0/16", "or", "src", "fd77::/16"))
def test_a_filter_gives_the_rows_of_ss(frozen: Frozen, states: tuple[str, ...], words: tuple[str, ...]) -> None:
    wanted = frozen.rows_of_ss(*states, *words)
    assert frozen.rows(*states, *words) == wanted
    if "cgroup" not in words:  # an id means nothing elsewhere
        assert frozen.rows(*states, *words, recorded=True) == wanted


@settings(max_examples=60, deadline=None)
@given(host=FAMILY_HOSTS, joint=AND | OR, words=expressions(PORT_TESTS))
def test_a_family_word_restricts_the_whole_filter(
    frozen: Frozen, host: str, joint: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """In ss such a word also rules how later addresses are read, so there is one in each filter."""
    whole = ("src", host, *joint, *words)
    assert frozen.rows(*whole) == frozen.rows_of_ss(*whole) == frozen.rows(*whole, recorded=True)


@settings(max_examples=40, deadline=None)
@given(words=expressions(PORT_TESTS | st.just(("autobound",))))
@example(words=("autobound",))
@example(words=("!", "autobound"))
def test_autobound_is_asked_of_the_kernel(frozen: Frozen, words: tuple[str, ...]) -> None:
    assert frozen.rows(*words) == frozen.rows_of_ss(*words)


def test_autobound_of_a_recording_says_that_it_is_half_a_test(frozen: Frozen) -> None:
    table = finwait.connections("autobound", read=frozen.path)
    assert "autobound_not_asked" in [notice.code for notice in table.warnings]


@pytest.mark.parametrize("state", LIFE_ORDER, ids=str)
def test_one_quoted_word_is_the_same_as_several(frozen: Frozen, state: TcpState) -> None:
    assert frozen.rows(f"state {state.token}  sport > :1") == frozen.rows("state", state.rfc, "sport", ">", ":1")


def test_a_program_too_long_for_the_kernel_is_checked_in_user_space(frozen: Frozen) -> None:
    words = [word for port in range(3000) for word in ("or", "sport", "=", f":{port + 2000}")][1:]
    wanted = Counter[tuple[str, ...]]()
    for row, count in frozen.rows().items():
        if 2000 <= int(row[3].rpartition(":")[2]) < 5000:
            wanted[row] += count
    assert frozen.rows(*words) == wanted
    assert wanted


def test_a_far_jump_is_chained(frozen: Frozen) -> None:
    """`yes` has eight bits: conditions of more than 255 bytes need a JMP."""
    hosts = [word for last in range(30) for word in ("or", "src", f"[fd77::{last:x}]")][1:]
    words = ("(", *hosts, ")", "dport", "=", ":443")
    assert frozen.rows(*words) == frozen.rows_of_ss(*words)
    assert frozen.rows("not", *words) == frozen.rows_of_ss("not", *words)
