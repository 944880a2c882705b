"""What of a filter the kernel can check itself: a state mask and a bytecode program that accepts no less.

A test that the kernel does not know becomes "true" where it would narrow, so that the program is never stricter than the
filter. Whoever asked checks every row again.
"""

from __future__ import annotations

from finwait.query.expression import (
    AutoboundTest,
    CgroupTest,
    Comparison,
    DeviceTest,
    HostTest,
    MarkTest,
    Node,
)  # fmt: skip
from finwait.wire import diag_filter
from finwait.wire.diag_filter import Branch, Condition, assemble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from finwait.query.expression import Filter
    from finwait.table.bindings import Bindings

_ALL = "all"  # stands for a part that the kernel cannot check


class Pushdown:
    """states: the kernel's mask. bytecode: the program, b"" for none. exact: whether it checks the whole expression."""

    __slots__ = ("bytecode", "exact", "states")

    def __init__(self, states: int, bytecode: bytes, *, exact: bool) -> None:
        self.states = states
        self.bytecode = bytecode
        self.exact = exact


def push_down(wanted: Filter, bindings: Bindings, *, net_admin: bool = False) -> Pushdown:
    """What the kernel is to check of `wanted`. net_admin: whether it will check marks (CAP_NET_ADMIN)."""
    if wanted.expression is None:
        return Pushdown(wanted.state_mask(), b"", exact=True)
    compiler = _Compiler(bindings, net_admin=net_admin)
    tree = compiler.compile(wanted.expression, negated=False)
    program = None if tree == _ALL else assemble(tree)  # type: ignore[arg-type]
    exact = compiler.exact and program is not None
    return Pushdown(wanted.state_mask(), program or b"", exact=exact)


class _Compiler:
    def __init__(self, bindings: Bindings, *, net_admin: bool) -> None:
        self.bindings = bindings
        self.net_admin = net_admin
        self.exact = True

    def compile(self, node: Node, *, negated: bool) -> Branch | str:
        """A program tree for `node` (for its contrary where `negated`), or _ALL."""
        if node.kind == "not":
            return self.compile(node.parts[0], negated=not negated)
        if node.kind in {"and", "or"}:
            kind = node.kind if not negated else {"and": "or", "or": "and"}[node.kind]
            parts = [self.compile(part, negated=negated) for part in node.parts]
            known = [part for part in parts if isinstance(part, Branch)]
            if (kind == "or" and len(known) < len(parts)) or not known:
                return _ALL
            return known[0] if len(known) == 1 else Branch(kind, known)
        condition = self._condition(node)
        if condition is None:
            self.exact = False
            return _ALL
        leaf = Branch("leaf", condition=condition)
        contrary = negated != (isinstance(node, Comparison) and node.operator in {"!=", "<", ">"})
        return Branch("not", [leaf]) if contrary else leaf

    def _condition(self, node: Node) -> Condition | None:
        if isinstance(node, HostTest):
            code = diag_filter.S_COND if node.side == "local" else diag_filter.D_COND
            family = 0 if node.address is None else 2 if len(node.address) == 4 else 10
            return diag_filter.host_condition(code, family, node.address or b"", node.prefix_length, node.port)
        if isinstance(node, Comparison):
            return self._port_condition(node)
        if isinstance(node, MarkTest) and self.net_admin:
            return diag_filter.mark_condition(node.value, node.mask)
        if isinstance(node, DeviceTest):
            index = self.bindings.interface_index(node.device)
            return None if index is None or index > 0x7FFFFFFF else diag_filter.device_condition(index)
        if isinstance(node, CgroupTest):
            cgroup_id = self.bindings.cgroup_id_by_path.get(node.path)
            return None if cgroup_id is None else diag_filter.cgroup_condition(cgroup_id)
        return Condition(diag_filter.AUTO) if isinstance(node, AutoboundTest) else None

    def _port_condition(self, node: Comparison) -> Condition | None:
        """``<`` is not ``>=`` and ``>`` not ``<=``: `compile` turns them round. Linux has S_GE, S_LE and their kin."""
        if node.column not in {"local_port", "peer_port"} or not isinstance(node.value, int):
            return None
        local = node.column == "local_port"
        if node.operator in {">=", "<"}:
            code = diag_filter.S_GE if local else diag_filter.D_GE
        elif node.operator in {"<=", ">"}:
            code = diag_filter.S_LE if local else diag_filter.D_LE
        else:
            return None
        return diag_filter.port_condition(code, node.value)
