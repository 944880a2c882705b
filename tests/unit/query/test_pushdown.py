"""What the kernel is asked to check lets every row pass that the filter accepts, and where it is exact no other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finwait.query.evaluate import accepted_rows
from finwait.query.parser import parse_filter
from finwait.query.pushdown import push_down
from finwait.table.bindings import Bindings
from finwait.wire.diag_filter import MARK_COND
from tests.unit.batches import AF_INET, AF_INET6, FEW, Row, batch_of, packed, rows
from tests.unit.wire.bytecode_machine import Entry, audit, run

BINDINGS = Bindings({"eth0": 3, "lo": 1}, {"/a": 17}, (0, 65535))
PUSHABLE = ["sport = :22", "dport = :443", "sport >= :443", "sport < :443", "dport <= :80", "dport > :80", "sport != :22",
            "src 10.0.0.1", "dst 10.0.0.0/8", "src ::/0", "dst 0.0.0.0/0", "src fd77::/16", "src ::ffff:0:0/96", "src *",
            "dst 10.0.0.1:443", "dev = eth0", "dev != lo", "dev = 3", "cgroup = /a", "cgroup != /a"]  # fmt: skip
MARKS = ["fwmark = 1", "fwmark = 0", "fwmark != 1/1", "fwmark = 0/3"]
UNPUSHABLE = ["recv-q = 0", "recv-q > 0", "recv-q != 1", "process = x", "uid != 1", "v6only = yes", "cgroup = /unknown",
              "dev = unknown", "state = listen", "retransmits >= 1", "recv-q >= uid", "recv-q != uid"]  # fmt: skip
COLUMNS = ("recv_q", "uid", "retransmits", "v6only", "mark", "cgroup_id")


def spelled(tree: Any) -> str:
    if isinstance(tree, str):
        return tree
    kind, *parts = tree
    return f"not ( {spelled(parts[0])} )" if kind == "not" else f"( {f' {kind} '.join(map(spelled, parts))} )"


def trees(leaves: list[str]) -> st.SearchStrategy[Any]:
    return st.recursive(
        st.sampled_from(leaves),
        lambda inner: (
            st.tuples(st.sampled_from(["and", "or"]), inner, inner)
            | st.tuples(st.sampled_from(["and", "or"]), inner, inner, inner)
            | st.tuples(st.just("not"), inner)
        ),
        max_leaves=12,
    )


SOCKETS = rows(nulls=False, columns=COLUMNS, least=1).flatmap(
    lambda table: st.lists(st.sampled_from(["eth0", "lo", None]), min_size=len(table), max_size=len(table)).map(
        lambda devices: [
            {**row, "interface": device, "mark": row["mark"] & 3, "cgroup_id": 17 + row["cgroup_id"] % 3}
            for row, device in zip(table, devices, strict=True)
        ]
    )
)


def entry_of(row: Row) -> Entry:
    return Entry(row["family"], packed(row["local_address"]), packed(row["peer_address"]), row["local_port"], row["peer_port"],
                 ifindex={"eth0": 3, "lo": 1, None: 0}[row["interface"]], mark=row["mark"], cgroup_id=row["cgroup_id"],
                 autobound=True)  # fmt: skip


def passed_by_kernel(program: bytes, table: list[Row]) -> list[bool]:
    assert audit(program)
    return [not program or run(program, entry_of(row)) for row in table]


def accepted(text: str, table: list[Row]) -> list[bool]:
    mask: list[bool] = accepted_rows(parse_filter(text), batch_of(table), BINDINGS).tolist()
    return mask


@FEW
@given(trees(PUSHABLE + UNPUSHABLE + MARKS + ["autobound"]), SOCKETS, st.booleans())
def test_the_kernel_passes_all_that_the_filter_accepts(tree: Any, table: list[Row], net_admin: bool) -> None:
    text = spelled(tree)
    pushed = push_down(parse_filter(text), BINDINGS, net_admin=net_admin)
    for passed, wanted in zip(passed_by_kernel(pushed.bytecode, table), accepted(text, table), strict=True):
        assert passed or not wanted
        assert passed == wanted or not pushed.exact


@FEW
@given(trees([*PUSHABLE, *MARKS, "autobound"]), SOCKETS)
def test_what_the_kernel_knows_it_checks_exactly(tree: Any, table: list[Row]) -> None:
    text = spelled(tree)
    pushed = push_down(parse_filter(text), BINDINGS, net_admin=True)
    assert pushed.exact
    assert pushed.bytecode
    assert passed_by_kernel(pushed.bytecode, table) == accepted(text, table)


@given(trees(MARKS))
def test_without_cap_net_admin_no_mark_is_asked_for(tree: Any) -> None:
    pushed = push_down(parse_filter(spelled(tree)), BINDINGS)
    assert (pushed.bytecode, pushed.exact) == (b"", False)


def test_a_known_part_of_an_and_still_narrows() -> None:
    pushed = push_down(parse_filter("recv-q > 0 and sport = :22 and process = x"), BINDINGS)
    table: list[Row] = [
        {"family": family, "local_address": address, "peer_address": address, "local_port": port, "peer_port": 0,
         "interface": None, "mark": 0, "cgroup_id": 0}
        for family, address in ((AF_INET, "10.0.0.1"), (AF_INET6, "::1")) for port in (22, 23)
    ]  # fmt: skip
    assert passed_by_kernel(pushed.bytecode, table) == [True, False, True, False]
    assert not pushed.exact


@pytest.mark.parametrize(
    "text", ["recv-q > 0", "recv-q > 0 or sport = :22", "! (recv-q > 0 and sport = :22)", "dev = nosuch"]
)
def test_what_cannot_be_narrowed_asks_for_everything(text: str) -> None:
    pushed = push_down(parse_filter(text), BINDINGS)
    assert (pushed.bytecode, pushed.exact) == (b"", False)


def test_states_go_into_the_mask() -> None:
    pushed = push_down(parse_filter("state listen"), BINDINGS)
    assert (pushed.states, pushed.bytecode, pushed.exact) == (1 << 10, b"", True)
    assert push_down(parse_filter("exclude listen uid = 1"), BINDINGS).states == 0b11_1011_1111_1110


def test_marks_are_asked_for_with_cap_net_admin() -> None:
    assert push_down(parse_filter("fwmark = 1"), BINDINGS, net_admin=True).bytecode[0] == MARK_COND


def test_a_program_that_would_be_too_long_is_not_sent() -> None:
    words = " or ".join(f"src fd77::{port:x}" for port in range(4000))
    pushed = push_down(parse_filter(words), BINDINGS)
    assert (pushed.bytecode, pushed.exact) == (b"", False)
