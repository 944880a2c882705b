"""The bytecode assembler against the machine of `bytecode_machine`."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from finwait.wire.diag_filter import (
    S_COND,
    Branch,
    assemble,
    host_condition,
    port_condition,
)
from tests.unit.wire.bytecode_machine import AF_INET6, COMPARE, Entry, audit, run

LEAVES = st.builds(
    lambda code, port: Branch("leaf", condition=port_condition(code, port)),
    st.sampled_from(sorted(COMPARE)),
    st.integers(0, 20),
) | st.builds(
    lambda port, octets: Branch("leaf", condition=host_condition(S_COND, 10, octets, 0, port)),
    st.integers(0, 20) | st.none(),
    st.binary(min_size=16, max_size=16),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.builds(Branch, st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=12))
    | st.builds(lambda part: Branch("not", [part]), inner),
    max_leaves=60,
)  # fmt: skip


def truth(tree: Branch, sport: int, dport: int) -> bool:
    if tree.kind == "leaf":
        assert tree.condition is not None
        code, operand = tree.condition.code, tree.condition.operand
        if code == S_COND:
            return struct.unpack_from("=i", operand, 4)[0] in {-1, sport}
        return bool(COMPARE[code](Entry(sport=sport, dport=dport), struct.unpack_from("=H", operand, 2)[0]))
    parts = [truth(part, sport, dport) for part in tree.parts]
    return not parts[0] if tree.kind == "not" else all(parts) if tree.kind == "and" else any(parts)


@given(TREES, st.integers(0, 21), st.integers(0, 21))
def test_a_program_accepts_what_its_tree_accepts_and_passes_the_audit(tree: Branch, sport: int, dport: int) -> None:
    program = assemble(tree)
    assert program is not None
    assert audit(program)
    assert run(program, Entry(AF_INET6, sport=sport, dport=dport)) == truth(tree, sport, dport)


def test_a_jump_of_more_than_255_bytes_goes_through_a_jmp() -> None:
    hosts = [Branch("leaf", condition=host_condition(S_COND, 10, bytes(16), 0, port)) for port in range(40)]
    program = assemble(Branch("or", hosts))
    assert program is not None
    assert len(program) > 40 * 28
    assert audit(program)
    assert [run(program, Entry(AF_INET6, sport=sport)) for sport in (0, 20, 39, 40)] == [True, True, True, False]


def test_a_program_that_the_kernel_could_not_jump_through_is_none() -> None:
    hosts = [Branch("leaf", condition=host_condition(S_COND, 10, bytes(16), 0, port)) for port in range(4000)]
    assert assemble(Branch("or", hosts)) is None
