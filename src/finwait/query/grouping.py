"""Counting rows by any columns, batch by batch."""

from __future__ import annotations

import numpy as np

from finwait.errors import UsageError
from finwait.table.batch import needed_columns
from finwait.table.cells import cells_of
from finwait.table.columns import parse_column
from finwait.table.snapshot import Group
from finwait.tcp.state import LIFE_ORDER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from finwait.table.batch import Array, Batch, ColumnData
    from finwait.table.snapshot import Cell

_RANK_BY_TOKEN = {state.token: rank for rank, state in enumerate(LIFE_ORDER)}


class GroupCounter:
    """Counts rows by the columns `by`, over as many batches as come. Memory grows with the groups, not with the rows."""

    def __init__(self, by: Sequence[str]) -> None:
        self.by = tuple(by)
        self.total = 0
        self._count_by_key: dict[tuple[Cell, ...], int] = {}

    @property
    def columns(self) -> tuple[str, ...]:
        """The stored columns that a batch must have."""
        return needed_columns(self.by)

    def add(self, batch: Batch) -> None:
        """Count the rows of `batch`."""
        self.total += batch.length
        if not batch.length:
            return
        keys = np.concatenate([_key_bytes(batch, name) for name in self.columns], axis=1)
        packed = np.ascontiguousarray(keys).view(f"V{keys.shape[1]}")[:, 0]
        _, first, counts = np.unique(packed, return_index=True, return_counts=True)
        few = batch.take(first)
        cells = zip(*(cells_of(few, name) for name in self.by), strict=True)
        for key, count in zip(cells, counts.tolist(), strict=True):
            self._count_by_key[key] = self._count_by_key.get(key, 0) + count

    def groups(self) -> list[Group]:
        """The groups, the largest first; equal ones in order of their keys."""
        groups = [Group(key, count) for key, count in self._count_by_key.items()]
        return sorted(groups, key=lambda group: (-group.count, tuple(map(order_of_cell, group.key))))


def order_of_cell(cell: Cell) -> tuple[int, int | float, str]:
    """A sort key that orders nulls before numbers before text."""
    if cell is None:
        return (0, 0, "")
    return (2, 0, cell) if isinstance(cell, str) else (1, cell, "")


def parse_group_order(text: str, by: Sequence[str]) -> tuple[tuple[str, bool], ...]:
    """(``count`` or a column of `by`, whether descending) of ``count,-state``. Raises UsageError."""
    order = []
    for word in text.split(","):
        name = word.strip().removeprefix("-")
        column = name if name == "count" or not name else parse_column(name).name
        if column not in {"count", *by}:
            raise UsageError("--sort {name}: the groups have count and {by}", name=name or "''", by=", ".join(by))
        order.append((column, word.strip().startswith("-")))
    return tuple(order)


def sorted_groups(groups: Sequence[Group], by: Sequence[str], order: Sequence[tuple[str, bool]]) -> list[Group]:
    """`groups` in `order`; those without a value come last either way, states go in the order of a connection's life.
    Equal ones keep their order.
    """  # fmt: skip
    ordered = list(groups)
    for name, descending in reversed(order):
        if name == "count":
            ordered.sort(key=lambda group: group.count, reverse=descending)
            continue
        at = tuple(by).index(name)
        known = [group for group in ordered if group.key[at] is not None]
        unknown = [group for group in ordered if group.key[at] is None]
        rank = _rank_of_state if name == "state" else order_of_cell
        known.sort(key=lambda group, at=at, rank=rank: rank(group.key[at]), reverse=descending)  # type: ignore[misc]
        ordered = known + unknown
    return ordered


def _rank_of_state(token: Cell) -> tuple[int, int | float, str]:
    return (1, _RANK_BY_TOKEN[str(token)], "")


def _key_bytes(batch: Batch, name: str) -> Array:
    """The column as (n, k) bytes that are equal where the cells are: nulls are zeros with a mark in front."""
    data: ColumnData = batch.column(name)
    values = (
        data.values
        if data.values.ndim == 2
        else np.ascontiguousarray(data.values).view(np.uint8).reshape(batch.length, -1)
    )
    if data.valid is None:
        return values.astype(np.uint8, copy=False)
    marked = np.where(data.valid[:, None], values, 0).astype(np.uint8)
    return np.concatenate([data.valid[:, None].astype(np.uint8), marked], axis=1)


def fold_small_groups(groups: list[Group], top: int | None) -> tuple[list[Group], int | None, int | None]:
    """The first `top` groups, and how many rows and groups were folded into "other" (None where none were asked to be)."""
    if top is None:
        return groups, None, None
    folded = groups[top:]
    return groups[:top], sum(group.count for group in folded), len(folded)
