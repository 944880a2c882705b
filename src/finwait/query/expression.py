"""What a filter means, as data: a tree of AND, OR, NOT over tests of one connection.

Pure standard library: the plain count parses filters too.
"""

from __future__ import annotations

from finwait.tcp.state import ALL_STATES, BOUND_INACTIVE, NEW_SYN_RECV, TcpState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Node:
    """A part of an expression. kind: and, or, not, or the name of a test; parts: of and, or (two or more), not (one).
    depth: of the tree below, 1 for a test.
    """  # fmt: skip

    __slots__ = ("depth", "kind", "parts")

    def __init__(self, kind: str, *parts: Node) -> None:
        self.kind = kind
        self.parts = parts
        self.depth: int = 1 + max((part.depth for part in parts), default=0)

    def __repr__(self) -> str:
        return (
            f"({f' {self.kind} '.join(map(repr, self.parts))})" if len(self.parts) > 1 else f"{self.kind}{self.parts}"
        )


class HostTest(Node):
    """``src``/``dst``: side "local" or "peer". address: 4 or 16 bytes, or None for any. prefix_length: leading bits that
    must be equal. port: None for any. family: 2 or 10 where the word was ``inet:`` or ``inet6:``, else None.

    An IPv4 address also matches the IPv4-mapped address of an AF_INET6 socket, as in the kernel.
    """

    __slots__ = ("address", "family", "port", "prefix_length", "side")

    def __init__(
        self, side: str, address: bytes | None, prefix_length: int, port: int | None, family: int | None = None
    ) -> None:
        super().__init__("host")
        self.side = side
        self.address = address
        self.prefix_length = prefix_length
        self.port = port
        self.family = family

    def __repr__(self) -> str:
        shown = self.address.hex() if self.address is not None else "*"
        return f"{self.side}={shown}/{self.prefix_length}:{'*' if self.port is None else self.port}"


class Comparison(Node):
    """``COLUMN OP VALUE``. operator: one of = != < <= > >=. value: a number, a text, or a frozenset of state or timer
    numbers. A row without a value is equal to nothing and neither less nor greater; ``!=`` is the contrary of ``=``.
    """

    __slots__ = ("column", "operator", "value")

    def __init__(self, column: str, operator: str, value: int | str | frozenset[int]) -> None:
        super().__init__("comparison")
        self.column = column
        self.operator = operator
        self.value = value

    def __repr__(self) -> str:
        return f"{self.column} {self.operator} {self.value!r}"


class ColumnComparison(Node):
    """``COLUMN OP COLUMN``, both numbers. A row that lacks either is as in `Comparison`."""

    __slots__ = ("column", "operator", "other")

    def __init__(self, column: str, operator: str, other: str) -> None:
        super().__init__("columns")
        self.column = column
        self.operator = operator
        self.other = other

    def __repr__(self) -> str:
        return f"{self.column} {self.operator} {self.other}"


class MarkTest(Node):
    """``fwmark``: (mark & mask) == value; a socket without a known mark counts as mark 0, as in ss."""

    __slots__ = ("mask", "value")

    def __init__(self, value: int, mask: int) -> None:
        super().__init__("mark")
        self.value = value
        self.mask = mask

    def __repr__(self) -> str:
        return f"fwmark={self.value:#x}/{self.mask:#x}"


class DeviceTest(Node):
    """``dev``: bound to this device, by name or number."""

    __slots__ = ("device",)

    def __init__(self, device: str) -> None:
        super().__init__("device")
        self.device = device

    def __repr__(self) -> str:
        return f"dev={self.device}"


class CgroupTest(Node):
    """``cgroup``: created in the cgroup at this path; mini-sockets are in none."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        super().__init__("cgroup")
        self.path = path

    def __repr__(self) -> str:
        return f"cgroup={self.path}"


class AutoboundTest(Node):
    """``autobound``: the kernel chose the local port (only the kernel knows; the port must be in ip_local_port_range)."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("autobound")

    def __repr__(self) -> str:
        return "autobound"


class Filter:
    """A whole filter. states: that may pass. family: 2 or 10 where a host word restricted the whole filter to it (ss
    does so), else None. expression: what else must hold, None for nothing. text: what the user wrote.
    """  # fmt: skip

    __slots__ = ("expression", "family", "states", "text")

    def __init__(
        self,
        states: frozenset[TcpState] = ALL_STATES,
        expression: Node | None = None,
        family: int | None = None,
        text: str = "",
    ) -> None:
        self.states = states
        self.expression = expression
        self.family = family
        self.text = text

    def column_names(self) -> frozenset[str]:
        """The columns that evaluating the filter reads."""
        names = {"state"} if self.states != ALL_STATES else set()
        if self.family is not None:
            names.add("family")
        if self.expression is not None:
            for node in walk(self.expression):
                names.update(_columns_of(node))
        return frozenset(names)

    def has_test(self, kind: str) -> bool:
        """Whether there is a test of this kind in it."""
        return self.expression is not None and any(node.kind == kind for node in walk(self.expression))

    def state_mask(self) -> int:
        """The kernel's state mask: request sockets go with SYN_RECV, bound-inactive ones with CLOSE."""
        mask = sum(1 << state for state in self.states)
        if TcpState.SYN_RECV in self.states:
            mask |= 1 << NEW_SYN_RECV
        if TcpState.CLOSE in self.states:
            mask |= 1 << BOUND_INACTIVE
        return mask


def walk(node: Node) -> Iterator[Node]:
    """`node` and every node below it."""
    yield node
    for part in node.parts:
        yield from walk(part)


def _columns_of(node: Node) -> tuple[str, ...]:
    if isinstance(node, Comparison):
        return (node.column,)
    if isinstance(node, ColumnComparison):
        return (node.column, node.other)
    if isinstance(node, HostTest):
        names = (f"{node.side}_port",) if node.port is not None else ()
        return (*names, f"{node.side}_address", "family") if node.address is not None else names
    if isinstance(node, MarkTest):
        return ("mark",)
    if isinstance(node, DeviceTest):
        return ("interface",)
    if isinstance(node, CgroupTest):
        return ("cgroup_id", "cgroup")
    return ("local_port",) if isinstance(node, AutoboundTest) else ()
