"""Batches made by hand from plain rows, for the tests of whatever works on batches."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from finwait.table.batch import ADDRESS_BYTES, Batch, ColumnData, storage_dtype
from finwait.table.columns import ADDRESS, COLUMN_BY_NAME, TEXT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

AF_INET, AF_INET6 = 2, 10
FEW = settings(max_examples=15, deadline=None)  # of tables: all unit tests together take some seconds
Row = dict[str, Any]


def packed(text: str) -> bytes:
    """16 bytes as a table keeps an address: IPv4 in the first four."""
    return ip_address(text).packed.ljust(ADDRESS_BYTES, b"\0")


def batch_of(rows: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> Batch:
    """`rows` as a batch; addresses are text, states and families the kernel's numbers, what is missing is null.

    Where a row has no value something else stands in the array: nobody may look at it.
    """
    chosen = names if names is not None else tuple(dict.fromkeys(name for row in rows for name in row))
    return Batch(len(rows), {name: _column(name, [row.get(name) for row in rows]) for name in chosen})


def _column(name: str, cells: list[Any]) -> ColumnData:
    column = COLUMN_BY_NAME[name]
    valid = np.asarray([cell is not None for cell in cells], dtype=np.bool_)
    if column.kind == TEXT:
        texts = tuple(dict.fromkeys(cell for cell in cells if cell is not None))
        codes = [texts.index(cell) if cell is not None else 0 for cell in cells]
        return ColumnData(np.asarray(codes, dtype="i4"), valid, texts)
    if column.kind == ADDRESS:
        octets = b"".join(
            bytes([index % 251] * 16) if cell is None else packed(cell) for index, cell in enumerate(cells)
        )
        return ColumnData(np.frombuffer(octets, dtype=np.uint8).reshape(-1, ADDRESS_BYTES), valid)
    dtype = np.dtype(storage_dtype(column))
    numbers = [(index * 37 + 5) % 2 if cell is None else cell for index, cell in enumerate(cells)]
    return ColumnData(np.asarray(numbers, dtype=dtype), valid)


IPV4 = st.ip_addresses(v=4).map(str) | st.sampled_from(
    ["10.0.0.1", "10.0.0.2", "0.0.0.0", "255.255.255.255", "127.0.0.1"]
)
IPV6 = st.ip_addresses(v=6).map(str) | st.sampled_from(["::", "::1", "fd77::1", "fd77::1:2", "fe80::1"])
MAPPED = IPV4.map(lambda text: f"::ffff:{text}")
# what a process, an interface or a host may call itself
NASTY = ("\x1b[31mred", "\x1b]52;c;ZWNobw==\x07", "\x9b2J", "\u202eevil", "\u2066x", "a\nb", "tab\tbed", "\x00", "\x7f",
         "\udcff", "=1+1", "+1", "-1", "@SUM(A1)", "\r", "\tx", "数据库服务器", "ｗｉｄｅ", "naïve", "e\u0301", "\U0001f600",
         " ", "'", '"', ",", "", "\\x1b", "%s", "{place}", "\u200b", "\ufeff", "x" * 300)  # fmt: skip
TEXTS = st.sampled_from(NASTY) | st.text(max_size=12)


@st.composite
def rows(draw: st.DrawFn, *, nulls: bool = True, columns: Sequence[str] = (), least: int = 0) -> list[Row]:
    """Rows of IPv4, IPv6 and mapped sockets with the columns of a usual list and those of `columns`."""
    return [draw(_row(nulls, tuple(columns))) for _ in range(draw(st.integers(least, 12)))]


@st.composite
def _row(draw: st.DrawFn, nulls: bool, columns: tuple[str, ...]) -> Row:
    family = draw(st.sampled_from([AF_INET, AF_INET6]))
    addresses = IPV4 if family == AF_INET else IPV6 | MAPPED
    ports = st.sampled_from([0, 22, 80, 443, 65535]) | st.integers(0, 65535)
    row: Row = {
        "state": draw(st.integers(1, 11)),
        "family": family,
        "local_address": draw(addresses),
        "local_port": draw(ports),
        "peer_address": draw(addresses),
        "peer_port": draw(ports),
        **{name: draw(_cells(name)) for name in columns},
    }
    if nulls:
        for name in draw(st.sets(st.sampled_from(sorted(row)))) - {"state", "family"}:
            row[name] = None
    return row


def _cells(name: str) -> st.SearchStrategy[Any]:
    column = COLUMN_BY_NAME[name]
    if column.kind == TEXT:
        return TEXTS
    if column.kind == "bool":
        return st.booleans()
    top = int(np.iinfo(column.dtype).max)
    return st.sampled_from([0, 1, 9, 10, 255, 99, 100]) | st.sampled_from([top, top - 1]) | st.integers(0, top)
