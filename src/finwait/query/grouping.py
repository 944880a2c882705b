"""Counting rows by any columns, batch by batch."""

from __future__ import annotations

import numpy as np

from finwait.query.groups import by_owner, groups_of, owned_key, sorted_by_size
from finwait.table.batch import needed_columns
from finwait.table.cells import cells_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from finwait.table.batch import Array, Batch, ColumnData
    from finwait.table.snapshot import Cell, Group


class GroupCounter:
    """Counts rows by the columns `by`, over as many batches as come. Memory grows with the groups, not with the rows."""

    def __init__(self, by: Sequence[str]) -> None:
        self.by = tuple(by)
        self.total = 0
        self.shared = 0  # sockets that stand in several groups
        self._owners = by_owner(by)
        self._key = (*self.by, "owner_kind", "matched_by") if self._owners else self.by
        self._count_by_key: dict[tuple[Cell, ...], int] = {}

    @property
    def columns(self) -> tuple[str, ...]:
        """The stored columns that a batch must have."""
        return needed_columns(self._key)

    def add(self, batch: Batch) -> None:
        """Count the sockets of `batch`: one with several owners once in each of its groups."""
        self.total += batch.sockets
        if not batch.length:
            return
        if batch.again is not None:
            shared = np.isin(batch.socket_numbers(), batch.socket_numbers()[batch.again])
            self._add_shared(batch.take(np.flatnonzero(shared)), batch.socket_numbers()[shared].tolist())
            batch = batch.take(np.flatnonzero(~shared))
        for key, count in self._counts(batch):
            self._count_by_key[key] = self._count_by_key.get(key, 0) + count

    def _counts(self, batch: Batch) -> Iterator[tuple[tuple[Cell, ...], int]]:
        if not batch.length:
            return
        keys = np.concatenate([_key_bytes(batch, name) for name in self.columns], axis=1)
        packed = np.ascontiguousarray(keys).view(f"V{keys.shape[1]}")[:, 0]
        _, first, counts = np.unique(packed, return_index=True, return_counts=True)
        few = batch.take(first)
        yield from zip(map(self._group_key, self._cells(few)), counts.tolist(), strict=True)

    def _add_shared(self, batch: Batch, sockets: list[int]) -> None:
        """Rows of sockets that have several."""
        keys_by_socket: dict[int, set[tuple[Cell, ...]]] = {}
        for socket, cells in zip(sockets, self._cells(batch), strict=True):
            keys_by_socket.setdefault(socket, set()).add(self._group_key(cells))
        for keys in keys_by_socket.values():
            self.shared += len(keys) > 1
            for key in keys:
                self._count_by_key[key] = self._count_by_key.get(key, 0) + 1

    def _cells(self, batch: Batch) -> Iterator[tuple[Cell, ...]]:
        return zip(*(cells_of(batch, name) for name in self._key), strict=True)

    def _group_key(self, cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
        return owned_key(self.by, cells) if self._owners else cells

    def groups(self) -> list[Group]:
        """The groups, the largest first; equal ones in order of their keys."""
        return sorted_by_size(groups_of(self.by, self._count_by_key))


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
