"""Which rows of a batch a filter accepts: the second check, after the kernel's, and the only one for recordings."""

from __future__ import annotations

import numpy as np

from finwait.query.expression import (
    AutoboundTest,
    CgroupTest,
    ColumnComparison,
    Comparison,
    DeviceTest,
    HostTest,
    MarkTest,
)  # fmt: skip
from finwait.table.bindings import Bindings
from finwait.table.columns import COLUMN_BY_NAME, TEXT
from finwait.tcp.state import ALL_STATES
from finwait.wire.inet_diag import AF_INET, AF_INET6, MAPPED_PREFIX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from finwait.query.expression import Filter, Node
    from finwait.table.batch import Array, Batch, Mask

_COMPARE: dict[str, Callable[[Array, Any], Mask]] = {
    "<": lambda values, value: values < value,
    "<=": lambda values, value: values <= value,
    ">": lambda values, value: values > value,
    ">=": lambda values, value: values >= value,
    "=": lambda values, value: values == value,
}


def accepted_rows(wanted: Filter, batch: Batch, bindings: Bindings | None = None) -> Mask:
    """A mask of the rows of `batch` that `wanted` accepts."""
    accepted: Mask = np.ones(batch.length, dtype=np.bool_)
    if wanted.states != ALL_STATES:
        accepted &= np.isin(batch.column("state").values, [int(state) for state in wanted.states])
    if wanted.family is not None:
        accepted &= batch.column("family").values == wanted.family
    if wanted.expression is not None:
        accepted &= _evaluate(wanted.expression, batch, bindings or Bindings())
    return accepted


def _evaluate(node: Node, batch: Batch, bindings: Bindings) -> Mask:
    if node.kind == "not":
        return ~_evaluate(node.parts[0], batch, bindings)
    if node.kind in {"and", "or"}:
        result: Mask = _evaluate(node.parts[0], batch, bindings)
        for part in node.parts[1:]:
            other = _evaluate(part, batch, bindings)
            result = result & other if node.kind == "and" else result | other
        return result
    return _TESTS[type(node)](node, batch, bindings)


def _test_host(node: HostTest, batch: Batch, _: Bindings) -> Mask:
    result = np.ones(batch.length, dtype=np.bool_)
    if node.port is not None:
        ports = batch.column(f"{node.side}_port")
        result &= (ports.values == node.port) & ports.valid_mask()
    if node.address is None:
        return result
    data = batch.column(f"{node.side}_address")
    family = batch.column("family").values
    result &= data.valid_mask()
    if len(node.address) == 16:
        equal: Mask = _prefix_equal(data.values, node.address, node.prefix_length)
        return np.asarray(result & (family == AF_INET6) & equal)
    plain: Mask = (family == AF_INET) & _prefix_equal(data.values, node.address, node.prefix_length)
    mapped: Mask = _prefix_equal(data.values, MAPPED_PREFIX + node.address, 96 + node.prefix_length)
    return np.asarray(result & (plain | ((family == AF_INET6) & mapped)))


def _prefix_equal(addresses: Array, address: bytes, bits: int) -> Mask:
    """Whether the first `bits` bits of each row of `addresses` are those of `address`."""
    whole, rest = divmod(bits, 8)
    wanted = np.frombuffer(address, dtype=np.uint8)
    equal = (addresses[:, :whole] == wanted[:whole]).all(axis=1)
    if rest:
        equal &= (addresses[:, whole] >> (8 - rest)) == wanted[whole] >> (8 - rest)
    return np.asarray(equal)


def _test_comparison(node: Comparison, batch: Batch, _: Bindings) -> Mask:
    operator = "=" if node.operator == "!=" else node.operator
    data = batch.column(node.column)
    if isinstance(node.value, frozenset):
        found = np.isin(data.values, list(node.value))
    elif COLUMN_BY_NAME[node.column].kind == TEXT:
        codes = [code for code, text in enumerate(data.dictionary or ()) if text == node.value]
        found = np.isin(data.values, codes)
    else:
        found = _compare_numbers(data.values, operator, int(node.value))
    found = found & data.valid_mask()
    return ~found if node.operator == "!=" else found


def _test_columns(node: ColumnComparison, batch: Batch, _: Bindings) -> Mask:
    operator = "=" if node.operator == "!=" else node.operator
    one, other = batch.column(node.column), batch.column(node.other)
    found = _COMPARE[operator](one.values.astype(np.uint64), other.values.astype(np.uint64))
    found = found & one.valid_mask() & other.valid_mask()
    return ~found if node.operator == "!=" else found


def _compare_numbers(values: Array, operator: str, value: int) -> Mask:
    """NumPy refuses numbers that its type cannot hold: beyond every value the answer is known."""
    if values.dtype.kind == "b":
        return np.asarray(values == bool(value))
    top = int(np.iinfo(values.dtype).max)
    if value > top:
        return np.full(len(values), operator in {"<", "<="})
    return _COMPARE[operator](values, value)


def _test_mark(node: MarkTest, batch: Batch, _: Bindings) -> Mask:
    data = batch.column("mark")
    marks = np.where(data.valid_mask(), data.values, 0).astype(np.uint32)
    return np.asarray((marks & np.uint32(node.mask)) == node.value)


def _test_device(node: DeviceTest, batch: Batch, bindings: Bindings) -> Mask:
    data = batch.column("interface")
    index = bindings.interface_index(node.device)
    names = {name for name, known in bindings.index_by_interface.items() if known == index} | {node.device}
    codes = [code for code, text in enumerate(data.dictionary or ()) if text in names]
    return np.asarray(np.isin(data.values, codes) & data.valid_mask())


def _test_cgroup(node: CgroupTest, batch: Batch, bindings: Bindings) -> Mask:
    texts = batch.column("cgroup")
    codes = [code for code, text in enumerate(texts.dictionary or ()) if _same_cgroup(text, node.path)]
    result = np.isin(texts.values, codes) & texts.valid_mask()
    wanted = bindings.cgroup_id_by_path.get(node.path)
    if wanted is not None:
        ids = batch.column("cgroup_id")
        result |= (ids.values == wanted) & ids.valid_mask()
    return np.asarray(result)


def _same_cgroup(recorded: str, path: str) -> bool:
    """ss prints the path below the mount point, and takes the whole one."""
    return recorded == path or path.removeprefix("/sys/fs/cgroup").removeprefix("/unified") == recorded


def _test_autobound(_: AutoboundTest, batch: Batch, bindings: Bindings) -> Mask:
    data = batch.column("local_port")
    first, last = bindings.port_range or (0, 0xFFFF)
    return np.asarray((data.values >= first) & (data.values <= last) & data.valid_mask())


_TESTS: dict[type[Node], Callable[..., Mask]] = {
    HostTest: _test_host,
    ColumnComparison: _test_columns,
    Comparison: _test_comparison,
    MarkTest: _test_mark,
    DeviceTest: _test_device,
    CgroupTest: _test_cgroup,
    AutoboundTest: _test_autobound,
}
