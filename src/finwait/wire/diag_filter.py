"""INET_DIAG_REQ_BYTECODE: the filter that the kernel runs on each socket (net/ipv4/inet_diag.c, inet_diag_bc_run).

An operation is ``{u8 code, u8 yes, u16 no}`` and its operand: where it holds the kernel goes on `yes` bytes ahead, else
`no` bytes. The end of the program accepts; one operation (four bytes) past it rejects. Jumps go forward only and the
kernel audits them (inet_diag_bc_audit): one that does not land on an operation is EINVAL.

Programs are built back to front: a program for a condition with places to go where it holds and where not. `yes`
has eight bits, so a far target on that side is reached by a JMP, whose `no` has sixteen.
"""

from __future__ import annotations

from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

NOP, JMP, S_GE, S_LE, D_GE, D_LE, AUTO, S_COND, D_COND, DEV_COND, MARK_COND, S_EQ, D_EQ, CGROUP_COND = range(14)
MAX_BYTES = 0xFFFF - 256  # of a program behind any operation, so that `no` reaches its end

_OP = Struct("=BBH")
_HOSTCOND = Struct("=BBxxi")  # family, prefix_len, port (-1: any), then the address
_MARKCOND = Struct("=II")
_IFINDEX = Struct("=I")
_CGROUP = Struct("=Q")


class Condition:
    """One operation: `code` and its operand's bytes. A port comparison keeps its port in the `no` of the operand."""

    __slots__ = ("code", "operand")

    def __init__(self, code: int, operand: bytes = b"") -> None:
        self.code = code
        self.operand = operand


def port_condition(code: int, port: int) -> Condition:
    """S_GE, S_LE, D_GE, D_LE, S_EQ, D_EQ against `port` in host order."""
    return Condition(code, _OP.pack(NOP, 0, port))


def host_condition(code: int, family: int, address: bytes, prefix_length: int, port: int | None) -> Condition:
    """S_COND or D_COND: `address` (4 or 16 bytes; b"" with family 0 for any) and, where not None, `port`."""
    return Condition(code, _HOSTCOND.pack(family, prefix_length, -1 if port is None else port) + address)


def mark_condition(value: int, mask: int) -> Condition:
    """(fwmark & mask) == value. The kernel asks for CAP_NET_ADMIN."""
    return Condition(MARK_COND, _MARKCOND.pack(value, mask))


def device_condition(index: int) -> Condition:
    """Bound to the device of this interface index (Linux 4.10)."""
    return Condition(DEV_COND, _IFINDEX.pack(index))


def cgroup_condition(cgroup_id: int) -> Condition:
    """Created in this cgroup (Linux 5.10). Mini-sockets have cgroup 0."""
    return Condition(CGROUP_COND, _CGROUP.pack(cgroup_id))


class Branch:
    """A tree of conditions. kind: "and", "or", "not" over `parts`, or "leaf" over one `condition`."""

    __slots__ = ("condition", "kind", "parts")

    def __init__(self, kind: str, parts: Sequence[Branch] = (), condition: Condition | None = None) -> None:
        self.kind = kind
        self.parts = tuple(parts)
        self.condition = condition


def assemble(tree: Branch) -> bytes | None:
    """The program that accepts what `tree` accepts; None where it would be longer than MAX_BYTES."""
    # Blocks from the last to the first. A position is counted in bytes from the program's end: accept is 0, reject -4.
    blocks: list[bytes] = []
    length = 0

    def emit(code: int, operand: bytes, yes: int, no: int) -> int:
        """Put one operation in front; `yes` and `no` are positions. Returns its own position."""
        nonlocal length
        if length > MAX_BYTES:
            raise OverflowError
        size = _OP.size + len(operand)
        far = yes != length
        if far:  # `yes` must be the next operation, or a JMP there that is taken by its `no`
            blocks.append(_OP.pack(JMP, 4, length + 4 - yes))
            length += 4
        blocks.append(_OP.pack(code, size, length + size - no) + operand)
        length += size
        return length

    def place(node: Branch, yes: int, no: int) -> int:
        """Put the code of `node` in front: it goes to `yes` or `no`. Returns the position of its first operation."""
        if node.kind == "leaf" and node.condition is not None:
            return emit(node.condition.code, node.condition.operand, yes, no)
        if node.kind == "not":
            return place(node.parts[0], no, yes)
        entry = yes if node.kind == "and" else no
        for part in reversed(node.parts):
            entry = place(part, entry, no) if node.kind == "and" else place(part, yes, entry)
        return entry

    try:
        entry = place(tree, 0, -4)
    except OverflowError:
        return None
    if entry != length:  # an empty tree: accept or reject all
        blocks.append(_OP.pack(JMP, 4, length + 4 - entry))
    return b"".join(reversed(blocks))
