"""Lists of connections as JSON and CSV, batch by batch. What was incomplete is known at the end, so it stands there."""

from __future__ import annotations

from json import dumps

from finwait.render.documents import LIST_SCHEMA, csv_cell, provenance_document
from finwait.table.cells import cells_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from finwait.table.batch import Batch
    from finwait.table.snapshot import Cell, Provenance


def _rows(batch: Batch, columns: Sequence[str]) -> Iterator[tuple[Cell, ...]]:
    return zip(*(cells_of(batch, name) for name in columns), strict=True)


def render_json(batches: Iterator[Batch], columns: Sequence[str], provenance: Provenance) -> Iterator[bytes]:
    """The document of docs/schemas/finwait.list-1.json, in pieces; ``rows`` come before what is known only at the end."""
    yield f'{{"schema": {dumps(LIST_SCHEMA)}, "columns": {dumps(list(columns))}, "rows": ['.encode()
    before, count = "\n ", 0
    for batch in batches:
        rows = [dumps(dict(zip(columns, row, strict=True))) for row in _rows(batch, columns)]
        if rows:
            yield (before + ",\n ".join(rows)).encode()
            before = ",\n "
        count += batch.sockets
    end = dumps({"total": count, **provenance_document(provenance)})
    yield f"\n], {end[1:]}\n".encode()


def render_ndjson(batches: Iterator[Batch], columns: Sequence[str], provenance: Provenance) -> Iterator[bytes]:
    """One object a line: rows with ``"record": "row"``, and at the end one with ``"record": "end"`` that tells the rest."""
    count = 0
    for batch in batches:
        rows = (dumps({"record": "row", **dict(zip(columns, row, strict=True))}) for row in _rows(batch, columns))
        yield "".join(f"{row}\n" for row in rows).encode()
        count += batch.sockets
    end = {"record": "end", "schema": LIST_SCHEMA, "columns": list(columns), "total": count}
    yield (dumps({**end, **provenance_document(provenance)}) + "\n").encode()


def list_csv(batches: Iterator[Batch], columns: Sequence[str], *, header: bool = True) -> Iterator[tuple[Cell, ...]]:
    """Rows for a CSV writer."""
    if header:
        yield tuple(columns)
    for batch in batches:
        for row in _rows(batch, columns):
            yield tuple(map(csv_cell, row))
