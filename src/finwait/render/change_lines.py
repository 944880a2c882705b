"""Changes of state as lines: NDJSON, whole columns at a time, and the records that stand beside them.

A line is a row of one array of bytes: what is the same in all rows, and columns whose shorter texts end in zero bytes, which
are left out at the end. That is some ten times as fast as a document a row, and a tracer must not slow down what it looks at.
"""

from __future__ import annotations

import time
from functools import cache
from json import dumps

import numpy as np

from finwait.render.digits import BLANK, right_aligned_numbers, six_digits
from finwait.render.documents import provenance_document
from finwait.table.cells import NAME_OF, distinct_addresses
from finwait.table.change import CHANGE_NAMES, LIFETIME_NAMES
from finwait.table.columns import ADDRESS, DECLARATION_BY_NAME, TEXT, TIME
from finwait.text.timestamp import format_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from finwait.table.batch import Array, Batch, ColumnData
    from finwait.table.change import Loss
    from finwait.table.snapshot import Cell, Provenance

TRACE_SCHEMA = "finwait.trace/1"
_NULL = b"null"


def change_lines(batch: Batch) -> bytes:
    """The changes of `batch`, one JSON object a line, with the keys of CHANGE_NAMES."""
    return _joined([*_members(batch, "change", CHANGE_NAMES), b"}\n"], batch.length)


def lifetime_lines(batch: Batch) -> bytes:
    """Whole connections, one JSON object a line, with the keys of LIFETIME_NAMES, and ``path``: states with their times."""
    path = batch.column("path")
    cells = [dumps(path_document(text)).encode() for text in path.dictionary or ()]
    parts = [*_members(batch, "lifetime", LIFETIME_NAMES), b', "path": ', _table(cells)[path.values], b"}\n"]
    return _joined(parts, batch.length)


def path_document(path: str) -> list[dict[str, Cell]]:
    """The states of a path with the time spent in each; null in the last one, and where the begin was not seen."""
    words = [*path.split(" "), "-1"]
    return [
        {"state": state, "us": None if us == "-1" else int(us)}
        for state, us in zip(words[::2], words[1::2], strict=True)
    ]


def _members(batch: Batch, kind: str, names: Sequence[str]) -> list[bytes | Array]:
    parts: list[bytes | Array] = []
    before = f'{{"schema": "{TRACE_SCHEMA}", "type": "{kind}"'
    for name in names:
        parts += [f'{before}, "{name}": '.encode(), _block(batch, name)]
        before = ""
    return parts


def loss_document(loss: Loss) -> dict[str, object]:
    """The record of changes that are not told."""
    return {"schema": TRACE_SCHEMA, "type": "loss", "at": format_time(loss.at_ns), "lost": loss.lost}


def ready_document(provenance: Provenance) -> dict[str, object]:
    """The first record: from here on every change is told, or its loss."""
    return {"schema": TRACE_SCHEMA, "type": "ready", **provenance_document(provenance)}


def end_document(provenance: Provenance, lost: int) -> dict[str, object]:
    """The last record. lost: of the whole trace."""
    return {"schema": TRACE_SCHEMA, "type": "end", "lost": lost, **provenance_document(provenance)}


def _joined(parts: Sequence[bytes | Array], rows: int) -> bytes:
    """`parts` one behind the other, `rows` times; of an array its own row each time, without zero bytes."""
    widths = [len(part) if isinstance(part, bytes) else part.shape[1] for part in parts]
    same = b"".join(
        part if isinstance(part, bytes) else bytes(width) for part, width in zip(parts, widths, strict=True)
    )
    page = np.empty((rows, len(same)), np.uint8)
    page[:] = np.frombuffer(same, np.uint8)
    at = 0
    for part, width in zip(parts, widths, strict=True):
        if not isinstance(part, bytes):
            page[:, at : at + width] = part
        at += width
    return page.tobytes().translate(None, b"\0")


def _block(batch: Batch, name: str) -> Array:
    """Column `name` as JSON values, a row each, zero bytes behind."""
    column, data = DECLARATION_BY_NAME[name], batch.column(name)
    if column.kind == TIME:
        return _with_nulls(_timestamps(data.values), data)
    if column.kind == ADDRESS:
        texts, inverse = distinct_addresses(data.values, batch.column("family").values)
        return _with_nulls(_table([f'"{text}"'.encode() for text in texts])[inverse], data)
    if column.kind == TEXT:
        cells = [dumps(text).encode() for text in data.dictionary or ()]
        return _table([*cells, _NULL])[np.where(data.valid_mask(), data.values, len(cells))]
    if column.kind in NAME_OF:
        return _with_nulls(_words(column.kind)[data.values], data)
    numbers = right_aligned_numbers(np.where(data.valid_mask(), data.values, 0).astype(np.uint64))
    return _with_nulls(np.where(numbers == BLANK, np.uint8(0), numbers), data)


@cache
def _words(kind: str) -> Array:
    """The machine's word for each number of a column of that kind."""
    return _table([dumps(NAME_OF[kind](number)).encode() for number in range(256)])


def _timestamps(at_ns: Array) -> Array:
    seconds, micros = np.divmod(at_ns // 1000, 1_000_000)
    unique, inverse = np.unique(seconds, return_inverse=True)
    texts = [time.strftime('"%Y-%m-%dT%H:%M:%S.', time.gmtime(second)).encode() for second in unique.tolist()]
    end = np.broadcast_to(np.frombuffer(b'Z"', dtype=np.uint8), (len(at_ns), 2))
    return np.concatenate([_table(texts)[inverse], six_digits(micros), end], axis=1)


def _table(cells: Sequence[bytes]) -> Array:
    """Texts as rows of bytes, zeros behind."""
    width = max(map(len, cells))
    return np.frombuffer(b"".join(cell.ljust(width, b"\0") for cell in cells), np.uint8).reshape(len(cells), width)


def _with_nulls(block: Array, data: ColumnData) -> Array:
    if data.valid is None:
        return block
    wide = np.zeros((len(block), max(block.shape[1], len(_NULL))), dtype=np.uint8)
    wide[:, : block.shape[1]] = block
    null = np.zeros(wide.shape[1], dtype=np.uint8)
    null[: len(_NULL)] = np.frombuffer(_NULL, np.uint8)
    return np.where(data.valid[:, None], wide, null)
