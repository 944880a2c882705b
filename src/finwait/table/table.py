"""ConnectionTable: what `finwait.connections()` returns, and the row view of it."""

from __future__ import annotations

from finwait.errors import UsageError
from finwait.table.cells import cells_of
from finwait.table.columns import COLUMN_BY_NAME, ENDPOINT, parse_column
from finwait.tcp.state import TcpState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from finwait.table.batch import Batch
    from finwait.table.snapshot import Cell, Netns, Notice, Provenance

_STATE_BY_TOKEN = {state.token: state for state in TcpState}


class Connection:
    """One row of a ConnectionTable. An attribute for each column of the table, named as the column and in its unit (the
    unit is the last word of the name: `rtt_us`); None where the row has no value. `state` is a TcpState.

    An attribute that names a column which the table was not asked for raises AttributeError.
    """  # fmt: skip

    __slots__ = ("_cells",)

    def __init__(self, cells: dict[str, Cell]) -> None:
        self._cells = cells

    @property
    def state(self) -> TcpState:
        """The connection's state."""
        return _STATE_BY_TOKEN[str(self._cell("state"))]

    def __getattr__(self, name: str) -> Cell:
        if name.startswith("_"):  # copy and pickle ask before there are cells
            raise AttributeError(name)
        return self._cell(name)

    def __reduce__(self) -> tuple[type[Connection], tuple[dict[str, Cell]]]:
        return Connection, (self._cells,)

    def _cell(self, name: str) -> Cell:
        try:
            return self._cells[name]
        except KeyError:
            raise AttributeError(f"the table has no column {name!r}; it has {', '.join(self._cells)}") from None

    def as_dict(self) -> dict[str, Cell]:
        """The row as JSON values: tokens, texts, numbers, None."""
        return dict(self._cells)

    def __repr__(self) -> str:
        return (
            f"Connection({', '.join(f'{name}={value!r}' for name, value in self._cells.items() if value is not None)})"
        )


class ConnectionTable:
    """Connections as columns. batches: in order, none empty. columns: the names that were asked for, in that order.

    Iterating yields `Connection` rows. pyarrow, polars and others take the table as it is, by the Arrow PyCapsule
    interface (``pyarrow.table(t)``, ``polars.DataFrame(t)``).
    """

    def __init__(self, batches: Sequence[Batch], columns: Sequence[str], provenance: Provenance) -> None:
        self.batches = tuple(batch for batch in batches if batch.length)
        self.columns = tuple(columns)
        self.provenance = provenance

    @property
    def complete(self) -> bool:
        """Whether nothing that was asked for stayed unseen."""
        return self.provenance.complete

    @property
    def warnings(self) -> tuple[Notice, ...]:
        """What could not be seen, or should be known about the answer."""
        return tuple(self.provenance.notices)

    @property
    def netns(self) -> tuple[Netns, ...]:
        """The namespaces that were read."""
        return tuple(self.provenance.netns)

    def __len__(self) -> int:
        return sum(batch.length for batch in self.batches)

    def __iter__(self) -> Iterator[Connection]:
        for batch in self.batches:
            cells = [cells_of(batch, name) for name in self.columns]
            for row in zip(*cells, strict=True):
                yield Connection(dict(zip(self.columns, row, strict=True)))

    def column(self, name: str) -> list[Cell]:
        """Column `name` as a list of JSON values. Raises UsageError for a column that is unknown or was not asked for."""
        known = parse_column(name).name
        if known not in self.columns:
            have = ", ".join(self.columns)
            raise UsageError("the table was not asked for column {column}; it has {have}", column=known, have=have)
        return [cell for batch in self.batches for cell in cells_of(batch, known)]

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The table as an ArrowArrayStream in a PyCapsule (Arrow PyCapsule interface); endpoints are left to their parts."""
        from finwait.table.arrow import export_stream

        stored = [name for name in self.columns if COLUMN_BY_NAME[name].kind != ENDPOINT]
        return export_stream(self.batches, stored)

    def __repr__(self) -> str:
        return f"ConnectionTable({len(self)} connections, columns={self.columns}, complete={self.complete})"
