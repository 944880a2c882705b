"""Ordering rows by columns, and taking the first of them."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from finwait.errors import UsageError
from finwait.table.batch import ROWS_PER_BATCH, Batch, concatenate, needed_columns
from finwait.table.columns import COLUMN_BY_NAME, TEXT, parse_column
from finwait.tcp.state import LIFE_ORDER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from finwait.table.batch import Array

    Order = Sequence[tuple[str, bool]]

_RANK_BY_STATE = np.zeros(256, dtype=np.uint8)
_RANK_BY_STATE[[int(state) for state in LIFE_ORDER]] = range(len(LIFE_ORDER))


def parse_order(text: str) -> tuple[tuple[str, bool], ...]:
    """(column, whether descending) of ``a,-b``. Raises UsageError with the nearest right word."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.removeprefix("-") for word in words):
        raise UsageError("--sort wants COLUMN or -COLUMN, separated by commas, not '{text}'", text=text)
    return tuple((parse_column(word.removeprefix("-")).name, word.startswith("-")) for word in words)


def sorted_batches(batches: Iterator[Batch], order: Order) -> Iterator[Batch]:
    """All rows in `order`, the first column first; rows without a value come last either way. Equal rows keep their order.

    States go in the order of a connection's life, addresses by their bytes. Holds all rows in memory.
    """
    together = list(batches)
    if not together:
        return
    whole = concatenate(together)
    keys: list[Array] = []
    for name, descending in reversed(order):
        for part in reversed(needed_columns([name]) if COLUMN_BY_NAME[name].kind == "endpoint" else [name]):
            if part not in {"family", "interface", "state"} or part == name:
                keys.extend(_keys(whole, part, descending=descending))
    positions = np.lexsort(keys)
    for start in range(0, whole.length, ROWS_PER_BATCH):
        yield whole.take(positions[start : start + ROWS_PER_BATCH])


def _keys(batch: Batch, name: str, *, descending: bool) -> list[Array]:
    """Sort keys for np.lexsort, least important first: the values, then whether there is none."""
    data = batch.column(name)
    values = data.values
    if name == "state":
        values = _RANK_BY_STATE[values]
    elif COLUMN_BY_NAME[name].kind == TEXT:
        dictionary = data.dictionary or ()
        rank_by_text = {text: rank for rank, text in enumerate(sorted(set(dictionary)))}
        values = np.asarray([*(rank_by_text[text] for text in dictionary), 0], dtype=np.int64)[values]
    if data.valid is not None:  # what stands where there is no value must not order anything
        values = np.where(data.valid if values.ndim == 1 else data.valid[:, None], values, np.zeros(1, values.dtype))
    columns = [values] if values.ndim == 1 else [values[:, index] for index in reversed(range(values.shape[1]))]
    keys = [~column if descending else column for column in map(np.ascontiguousarray, columns)]
    return keys if data.valid is None else [*keys, ~data.valid]


def limited(batches: Iterator[Batch], limit: int, *, drain: bool = False) -> Iterator[Batch]:
    """The first `limit` rows; then `batches` is closed. drain: read the rest too, for whoever records it."""
    left = limit
    try:
        for batch in batches:
            if left:
                yield batch.head(left)
            left = max(0, left - batch.length)
            if not left and not drain:
                break
    finally:
        if isinstance(batches, Generator):
            batches.close()
