"""Counting rows by any columns, batch by batch."""

from __future__ import annotations

import numpy as np

from finwait.table.batch import needed_columns
from finwait.table.cells import cells_of
from finwait.table.snapshot import Group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from finwait.table.batch import Array, Batch, ColumnData
    from finwait.table.snapshot import Cell


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


def order_of_cell(cell: Cell) -> tuple[int, float, str]:
    """A sort key that orders nulls before numbers before text."""
    if cell is None:
        return (0, 0, "")
    return (2, 0, cell) if isinstance(cell, str) else (1, float(cell), "")


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
