"""Which rows a filter accepts, against plain Python row by row and the standard library's ipaddress."""

from __future__ import annotations

import operator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finwait.query.evaluate import accepted_rows
from finwait.query.parser import parse_filter
from finwait.table.batch import Batch, ColumnData
from finwait.table.bindings import Bindings
from tests.unit.batches import AF_INET, AF_INET6, FEW, IPV4, IPV6, MAPPED, NASTY, TEXTS, Row, batch_of, rows

OPERATORS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def accepted(text: str, table: list[Row], bindings: Bindings | None = None) -> list[int]:
    """Which of `table` the filter accepts, by position."""
    mask = accepted_rows(parse_filter(text), batch_of(table), bindings)
    assert mask.dtype == bool
    assert len(mask) == len(table)
    return [index for index, is_in in enumerate(mask.tolist()) if is_in]


NUMBERS: list[Row] = [{"state": 1, "family": 2, "recv_q": value} for value in (0, 1, 5, 6, 4294967295, None)]


@pytest.mark.parametrize(
    ("text", "positions"),
    [
        ("recv-q = 5", [2]), ("recv-q != 5", [0, 1, 3, 4, 5]), ("recv-q < 5", [0, 1]), ("recv-q <= 5", [0, 1, 2]),
        ("recv-q > 5", [3, 4]), ("recv-q >= 5", [2, 3, 4]), ("recv-q >= 0", [0, 1, 2, 3, 4]), ("recv-q < 0", []),
        ("! recv-q = 5", [0, 1, 3, 4, 5]), ("! recv-q < 5", [2, 3, 4, 5]), ("! recv-q >= 0", [5]),
        ("recv-q = 4294967295", [4]), ("recv-q = 4294967296", []), ("recv-q != 4294967296", [0, 1, 2, 3, 4, 5]),
        ("recv-q < 4294967296", [0, 1, 2, 3, 4]), ("recv-q > 99999999999999999999999999", []),
        ("recv-q <= 99999999999999999999999999", [0, 1, 2, 3, 4]), ("recv-q >= 99999999999999999999999999", []),
    ],
)  # fmt: skip
def test_a_row_without_a_value_is_equal_to_nothing_and_neither_less_nor_greater(
    text: str, positions: list[int]
) -> None:
    assert accepted(text, NUMBERS) == positions


@FEW
@given(rows(columns=["recv_q", "cookie", "retransmits"], least=1), st.sampled_from(sorted(OPERATORS)))
def test_two_columns_of_a_row_are_compared_where_both_have_a_value(table: list[Row], word: str) -> None:
    for one, other in (("recv_q", "cookie"), ("cookie", "retransmits"), ("recv_q", "recv_q")):
        expected = [
            index
            for index, row in enumerate(table)
            if (word == "!=" if None in (row[one], row[other]) else OPERATORS[word](row[one], row[other]))
        ]
        assert accepted(f"{one} {word} {other}", table) == expected


@pytest.mark.parametrize(("name", "bits"), [("retransmits", 8), ("recv_q", 32), ("bytes_sent", 64), ("cookie", 64)])
@FEW
@given(data=st.data())
def test_a_number_of_any_size_is_compared_as_python_does(name: str, bits: int, data: st.DataObject) -> None:
    top = (1 << bits) - 1
    around = st.sampled_from([0, 1, top - 1, top, top + 1, 1 << 64, 1 << 80]) | st.integers(0, 1 << 70)
    values = data.draw(st.lists(st.none() | st.integers(0, top) | st.sampled_from([0, top]), min_size=1, max_size=8))
    word, wanted = data.draw(st.sampled_from(sorted(OPERATORS))), data.draw(around)
    table: list[Row] = [{"state": 1, name: value} for value in values]
    expected = [
        index
        for index, value in enumerate(values)
        if (word == "!=" if value is None else OPERATORS[word](value, wanted))
    ]
    assert accepted(f"{name} {word} {wanted}", table) == expected


@FEW
@given(st.lists(st.none() | TEXTS, min_size=1, max_size=8), st.sampled_from(NASTY))
def test_texts_are_equal_or_not(values: list[str | None], wanted: str) -> None:
    table: list[Row] = [{"state": 1, "process": value} for value in values]
    quoted = "'" + wanted.replace("\\", "\\\\").replace("'", "\\'") + "'"
    assert accepted(f"process = {quoted}", table) == [index for index, value in enumerate(values) if value == wanted]
    assert accepted(f"process != {quoted}", table) == [index for index, value in enumerate(values) if value != wanted]


def test_words_of_states_timers_families_and_booleans() -> None:
    table: list[Row] = [
        {"state": 10, "family": 2, "timer": 0, "v6only": None},
        {"state": 6, "family": 10, "timer": 3, "v6only": True},
        {"state": 3, "family": 10, "timer": 1, "v6only": False},
        {"state": 1, "family": None, "timer": None, "v6only": None},
    ]
    assert accepted("state listen", table) == accepted("state = listen", table) == [0]
    assert accepted("state != listen", table) == accepted("exclude listen", table) == [1, 2, 3]
    assert accepted("state = bucket", table) == [1, 2]
    assert accepted("timer = time-wait", table) == [1]
    assert accepted("timer != none", table) == [1, 2, 3]
    assert accepted("family = inet6", table) == [1, 2]
    assert accepted("family != inet6", table) == [0, 3]
    assert accepted("v6only = yes", table) == [1]
    assert accepted("v6only = no", table) == [2]
    assert accepted("v6only != yes", table) == [0, 2, 3]


def test_a_column_that_the_batch_does_not_have_is_all_null() -> None:
    table: list[Row] = [{"state": 1}, {"state": 2}]
    for name in ("rtt", "uid", "process", "timer", "v6only", "local_port", "cookie"):
        value = {"process": "x", "timer": "on", "v6only": "yes"}.get(name, "1")
        assert accepted(f"{name} = {value}", table) == []
        assert accepted(f"{name} != {value}", table) == [0, 1]
    for test in ("src 0.0.0.0/0", "dst ::/0", "sport = :0", "dev = eth0", "cgroup = /x", "autobound"):
        assert accepted(test, table) == [], test
        assert accepted(f"! {test}", table) == [0, 1], test


def test_no_row_at_all() -> None:
    for text in ("", "state listen", "src 10/8", "process = x", "recv-q > 5", "dev = lo", "autobound", "fwmark = 0"):
        assert accepted_rows(parse_filter(text), batch_of([], ["state", "family"])).tolist() == []


# -- addresses


def in_network(row: Row, side: str, network: str, prefix: int) -> bool:
    """As ss: an IPv4 network also holds the mapped address of an IPv6 socket; an IPv6 one holds no IPv4 socket."""
    text = row[f"{side}_address"]
    if text is None:
        return False
    address = ip_address(text)
    wanted = ip_network(f"{network}/{prefix}", strict=False)
    if isinstance(address, IPv6Address) and isinstance(wanted.network_address, IPv4Address):
        return address.ipv4_mapped is not None and address.ipv4_mapped in wanted
    return address in wanted


@FEW
@given(table=rows(least=1), side=st.sampled_from(["local", "peer"]), data=st.data())
def test_a_prefix_of_any_length_holds_what_ipaddress_says(table: list[Row], side: str, data: st.DataObject) -> None:
    known = [row[f"{side}_address"] for row in table if row[f"{side}_address"] is not None]
    host = data.draw((st.sampled_from(known) if known else IPV4) | IPV4 | IPV6 | MAPPED)
    prefix = data.draw(st.integers(0, ip_address(host).max_prefixlen))
    word = f"{'src' if side == 'local' else 'dst'} {host}/{prefix}"
    expected = [index for index, row in enumerate(table) if in_network(row, side, host, prefix)]
    assert accepted(word, table) == expected
    assert accepted(f"! {word}", table) == [index for index in range(len(table)) if index not in expected]


@pytest.mark.parametrize("prefix", range(33))
def test_every_length_of_an_ipv4_prefix_cuts_where_it_should(prefix: int) -> None:
    flipped = [IPv4Address(int(IPv4Address("10.77.166.90")) ^ (1 << bit)) for bit in range(31, -1, -1)]
    table: list[Row] = [
        *({"state": 1, "family": AF_INET, "local_address": str(address)} for address in flipped),
        *({"state": 1, "family": AF_INET6, "local_address": f"::ffff:{address}"} for address in flipped),
    ]
    assert accepted(f"src 10.77.166.90/{prefix}", table) == [*range(prefix, 32), *range(32 + prefix, 64)]


@pytest.mark.parametrize("prefix", range(129))
def test_every_length_of_an_ipv6_prefix_cuts_where_it_should(prefix: int) -> None:
    address = int(IPv6Address("fd77:1:2:3:a5a5:5a5a:ffff:1"))
    table: list[Row] = [
        {"state": 1, "family": AF_INET6, "peer_address": str(IPv6Address(address ^ (1 << bit)))}
        for bit in range(127, -1, -1)
    ]
    assert accepted(f"dst {IPv6Address(address)}/{prefix}", table) == list(range(prefix, 128))


def test_a_family_word_accepts_that_family_only() -> None:
    table: list[Row] = [
        {"state": 1, "family": AF_INET, "local_address": "10.0.0.1", "local_port": 80},
        {"state": 1, "family": AF_INET6, "local_address": "::ffff:10.0.0.1", "local_port": 80},
        {"state": 1, "family": None, "local_address": None, "local_port": 80},
    ]
    assert accepted("src 10.0.0.1", table) == [0, 1]
    assert accepted("src inet:10.0.0.1", table) == [0]
    assert accepted("src inet6:*:80", table) == [1]
    assert accepted("src *:80", table) == [0, 1, 2]
    assert accepted("src ::ffff:10.0.0.1", table) == [1]
    assert accepted("src inet:10.0.0.1 or sport = :80", table) == [0]


@FEW
@given(rows(least=1), st.sampled_from(["sport", "dport"]), st.sampled_from(sorted(OPERATORS)), st.integers(0, 65535))
def test_ports_are_compared(table: list[Row], word: str, compare: str, port: int) -> None:
    name = "local_port" if word == "sport" else "peer_port"
    expected = [
        index
        for index, row in enumerate(table)
        if (compare == "!=" if row[name] is None else OPERATORS[compare](row[name], port))
    ]
    assert accepted(f"{word} {compare} :{port}", table) == expected


# -- the rest


@FEW
@given(
    st.lists(st.none() | st.integers(0, 2**32 - 1), min_size=1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)
)
def test_an_unknown_mark_is_mark_0(marks: list[int | None], value: int, mask: int) -> None:
    table: list[Row] = [{"state": 1, "mark": mark} for mark in marks]
    expected = [index for index, mark in enumerate(marks) if ((mark or 0) & mask) == value]
    assert accepted(f"fwmark = {value:#x}/{mask:#x}", table) == expected


def test_a_device_is_known_by_name_and_number() -> None:
    table: list[Row] = [{"state": 1, "interface": name} for name in ("eth0", "lo", None, "7")]
    bindings = Bindings({"eth0": 3, "lo": 1})
    assert accepted("dev = eth0", table, bindings) == accepted("dev = 3", table, bindings) == [0]
    assert accepted("dev != 3", table, bindings) == [1, 2, 3]
    assert accepted("dev = 7", table, bindings) == [3]
    assert accepted("dev = eth0", table) == [0]
    assert accepted("dev = nosuch", table, bindings) == []


def test_a_cgroup_is_known_by_path_and_by_id() -> None:
    table: list[Row] = [
        {"state": 1, "cgroup": "/a.slice", "cgroup_id": None},
        {"state": 1, "cgroup": None, "cgroup_id": 17},
        {"state": 1, "cgroup": "/a.slice/b", "cgroup_id": 18},
        {"state": 6, "cgroup": None, "cgroup_id": None},
    ]
    assert accepted("cgroup = /a.slice", table) == [0]
    assert accepted("cgroup = /sys/fs/cgroup/a.slice", table) == [0]
    assert accepted("cgroup = /sys/fs/cgroup/unified/a.slice/b", table) == [2]
    assert accepted("cgroup = /a.slice", table, Bindings(cgroup_id_by_path={"/a.slice": 17})) == [0, 1]
    assert accepted("cgroup != /a.slice", table, Bindings(cgroup_id_by_path={"/a.slice": 17})) == [2, 3]


def test_autobound_is_the_ports_range() -> None:
    table: list[Row] = [{"state": 1, "local_port": port} for port in (32767, 32768, 60999, 61000, None)]
    assert accepted("autobound", table, Bindings(port_range=(32768, 60999))) == [1, 2]
    assert accepted("autobound", table) == [0, 1, 2, 3]


# -- and, or, not

LEAVES = [f"recv-q {word} {value}" for word in OPERATORS for value in (0, 1, 7)] + [
    f"{word} {compare} :{port}" for word in ("sport", "dport") for compare in ("=", ">=", "<") for port in (22, 443)
]


def holds(tree: Any, row: Row) -> bool:
    if isinstance(tree, str):
        name, word, value = tree.split()
        cell = row[{"recv-q": "recv_q", "sport": "local_port", "dport": "peer_port"}[name]]
        return word == "!=" if cell is None else bool(OPERATORS[word](cell, int(value.lstrip(":"))))
    kind, *parts = tree
    truths = [holds(part, row) for part in parts]
    return not truths[0] if kind == "not" else all(truths) if kind == "and" else any(truths)


def spelled(tree: Any) -> str:
    if isinstance(tree, str):
        return tree
    kind, *parts = tree
    return f"not ( {spelled(parts[0])} )" if kind == "not" else f"( {f' {kind} '.join(map(spelled, parts))} )"


TREES = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: (
        st.tuples(st.sampled_from(["and", "or"]), inner, inner)
        | st.tuples(st.sampled_from(["and", "or"]), inner, inner, inner)
        | st.tuples(st.just("not"), inner)
    ),
    max_leaves=8,
)


@FEW
@given(TREES, rows(columns=["recv_q"], least=1))
def test_and_or_and_not_are_pythons(tree: Any, table: list[Row]) -> None:
    assert accepted(spelled(tree), table) == [index for index, row in enumerate(table) if holds(tree, row)]


def test_two_columns_of_numbers_are_compared_row_by_row() -> None:
    length = ColumnData(np.array([5, 4, 0, 9], dtype=np.uint32), np.array([True, True, True, False]))
    limit = ColumnData(np.array([4, 4, 4, 4], dtype=np.uint32))
    batch = Batch(4, {"accept_queue_length": length, "accept_queue_limit": limit})

    def accepted(text: str) -> list[bool]:
        return accepted_rows(parse_filter(text), batch).tolist()  # type: ignore[no-any-return]

    assert accepted("accept-queue-length > accept-queue-limit") == [True, False, False, False]
    assert accepted("accept-q = ACCEPT-LIMIT") == [False, True, False, False]
    assert accepted("accept-q != accept-limit") == [True, False, True, True]  # null is equal to nothing
    assert accepted("accept-q <= accept-limit") == [False, True, True, False]
