"""What of a filter a tracer in the kernel can check: families, ports and states; whoever asked checks every change again.

A change has two states. It is of a filter's states where either is.
"""

from __future__ import annotations

from finwait.errors import UsageError
from finwait.query.evaluate import accepted_rows
from finwait.query.expression import Comparison, HostTest
from finwait.tcp.state import ALL_STATES
from finwait.text.messages import mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from finwait.query.expression import Filter, Node
    from finwait.table.batch import Batch, Mask

ALL_PORTS = (0, 65535)
TESTABLE = frozenset({
    "state", "family", "ip_version", "local_address", "local_port", "peer_address", "peer_port", "cookie", "netns",
    "netns_cookie", "pid", "process",
})  # fmt: skip
NOT_TESTABLE = mark("a change of state does not tell {column}; a filter of changes tests {known}")


def check_testable(wanted: Filter) -> None:
    """Raise UsageError for a filter that reads what a change does not tell."""
    unknown = sorted(wanted.column_names() - TESTABLE)
    if not unknown and wanted.has_test("autobound"):
        unknown = ["autobound"]
    if unknown:
        raise UsageError(NOT_TESTABLE, column=unknown[0], known=", ".join(sorted(TESTABLE)))


def state_mask(wanted: Filter) -> int:
    """Bit n where changes from or to state n are wanted."""
    return sum(1 << state for state in wanted.states)


def port_range(wanted: Filter, side: str) -> tuple[int, int]:
    """The least range that holds every port that the filter accepts. side: local or peer."""
    low, high = ALL_PORTS
    for node in _conditions(wanted.expression):
        first, last = _range_of(node, side)
        low, high = max(low, first), min(high, last)
    return low, high


def _conditions(node: Node | None) -> Iterator[Node]:
    """The tests that all must hold."""
    if node is None:
        return
    if node.kind != "and":
        yield node
        return
    for part in node.parts:
        yield from _conditions(part)


def _range_of(node: Node, side: str) -> tuple[int, int]:
    if isinstance(node, HostTest) and node.side == side and node.port is not None:
        return node.port, node.port
    if isinstance(node, Comparison) and node.column == f"{side}_port" and isinstance(node.value, int):
        first, last = {
            "=": (node.value, node.value),
            ">": (node.value + 1, ALL_PORTS[1]),
            ">=": (node.value, ALL_PORTS[1]),
            "<": (0, node.value - 1),
            "<=": (0, node.value),
        }.get(node.operator, ALL_PORTS)
        return max(first, 0), max(min(last, ALL_PORTS[1]), 0)
    return ALL_PORTS


def is_exact(wanted: Filter) -> bool:
    """Whether `port_range`, `state_mask` and the family say all that the filter does."""
    return all(_is_narrowed(node) for node in _conditions(wanted.expression))


def _is_narrowed(node: Node) -> bool:
    if isinstance(node, HostTest):
        return node.address is None and node.port is not None
    is_port = isinstance(node, Comparison) and node.column in {"local_port", "peer_port"}
    return is_port and node.operator != "!=" and isinstance(node.value, int)  # type: ignore[attr-defined]


def accepted_changes(wanted: Filter, batch: Batch) -> Mask:
    """A mask of the changes in `batch` that `wanted` accepts."""
    import numpy as np

    from finwait.query.expression import Filter

    either = np.ones(batch.length, dtype=np.bool_)
    if wanted.states != ALL_STATES:
        numbers = [int(state) for state in wanted.states]
        either = np.isin(batch.column("from").values, numbers) | np.isin(batch.column("to").values, numbers)
    return either & accepted_rows(Filter(ALL_STATES, wanted.expression, wanted.family), batch)
