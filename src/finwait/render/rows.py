"""Batches of connections as aligned text, whole columns at a time.

A cell is bytes of fixed width; a line is a row of one array, written as it stands. Columns keep the widest width seen so
far, nothing is ever cut. Numbers and addresses are formatted once for each distinct value.
"""

from __future__ import annotations

import numpy as np

from finwait.table.cells import MAPPED_PREFIX, cells_of, format_address
from finwait.table.columns import (
    ADDRESS, BOOL, COLUMN_BY_NAME, ENDPOINT, ENDPOINT_PARTS, NUMBER, PORT, STATE, TEXT,
)  # fmt: skip
from finwait.tcp.state import TcpState
from finwait.text.escape import escape_foreign
from finwait.text.width import display_width
from finwait.wire.inet_diag import AF_INET, AF_INET6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from finwait.render.style import Style
    from finwait.table.batch import Array, Batch, ColumnData

GAP = b"  "
NONE = b"-"
# The widths that a column has from the first line on, so that later batches seldom have to widen it.
_LEAST_WIDTH = {"state": 12, "local": 21, "peer": 21, "recv_q": 6, "send_q": 6}


_QUEUE_OF_LISTENER = {"recv_q": "accept_queue_length", "send_q": "accept_queue_limit"}


class RowRenderer:
    """Turns batches into lines.

    columns: names in order. spelling: of states, ``rfc`` or ``ss``. gap: between columns. encoding: of the output; what it
    cannot show becomes an escape.
    """

    def __init__(
        self, columns: Sequence[str], *, spelling: str = "rfc", titles: Sequence[str] | None = None, encoding: str = "utf-8"
    ) -> None:
        self.columns = tuple(columns)
        self.encoding = encoding
        self.titles = [COLUMN_BY_NAME[name].title for name in columns] if titles is None else list(titles)
        self.widths = [max(len(title), _LEAST_WIDTH.get(name, 0)) for name, title in zip(columns, self.titles, strict=True)]
        self._state_text = {int(state): (state.ss if spelling == "ss" else state.rfc).encode() for state in TcpState}
        self._as_ss = spelling == "ss"
        self._address_cells = _Memory(lambda key: self._address_text(key[:16], key[16]).encode())
        self._last = len(self.columns) - 1

    def header(self) -> bytes:
        """The line of titles; call it after the first batch, so that it fits."""
        cells = [
            title.rjust(width) if COLUMN_BY_NAME[name].right_aligned else title.ljust(width)
            for name, title, width in zip(self.columns, self.titles, self.widths, strict=True)
        ]
        return "  ".join(cells).rstrip().encode() + b"\n"

    def render(self, batches: Iterable[Batch], style: Style, *, header: bool = True) -> Iterator[bytes]:
        """Lines of all `batches`, with a line of titles before the first."""
        for batch in batches:
            lines = self.lines(batch)
            if header:
                yield style.paint(self.header().decode().rstrip("\n"), "bold").encode() + b"\n"
                header = False
            yield lines
        if header:
            yield style.paint(self.header().decode().rstrip("\n"), "bold").encode() + b"\n"

    def lines(self, batch: Batch) -> bytes:
        """The lines of `batch`."""
        if not batch.length:
            return b""
        parts: list[Array] = []
        gap = np.broadcast_to(np.frombuffer(GAP, dtype=np.uint8), (batch.length, len(GAP)))
        for index, name in enumerate(self.columns):
            cells, extra = self._cells(batch, name)
            width = self.widths[index] = max(self.widths[index], cells.dtype.itemsize)
            right = COLUMN_BY_NAME[name].right_aligned
            if index:
                parts.append(gap)
            parts.append(_padded(cells, width, right=right, last=index == self._last, extra=extra))
        parts.append(np.full((batch.length, 1), 10, dtype=np.uint8))
        flat = np.concatenate(parts, axis=1).reshape(-1)
        return flat[flat != 0].tobytes() if self._has_fill(parts) else flat.tobytes()

    @staticmethod
    def _has_fill(parts: Sequence[Array]) -> bool:
        """Whether any cell holds zero bytes: the last column is not padded, and wide characters shorten their padding."""
        return any(not part.all() for part in parts)

    def _cells(self, batch: Batch, name: str) -> tuple[Array, Array | None]:
        """Column `name` as an ``S`` array; and for text with wide characters, bytes beyond the cells it takes."""
        kind = COLUMN_BY_NAME[name].kind
        if self._as_ss and name in _QUEUE_OF_LISTENER:
            return self._queues(batch, name), None
        if kind == ENDPOINT:
            return self._endpoints(batch, name), None
        data = batch.column(name)
        if kind == STATE:
            cells: Array = _by_value(data.values, lambda number: self._state_text.get(number, str(number).encode()))
        elif kind == ADDRESS:
            cells = self._addresses(data.values, batch.column("family").values)
        elif kind in {NUMBER, PORT}:
            cells = self._numbers(data.values)
        elif kind == TEXT:
            return self._texts(data)
        elif kind == BOOL:
            cells = np.where(data.values, b"yes", b"no")
        else:
            texts = [str(cell).encode() for cell in cells_of(batch, name)]
            cells = np.asarray(texts, dtype="S")
        return (cells if data.valid is None else np.where(data.valid, cells, NONE)), None

    def _queues(self, batch: Batch, name: str) -> Array:
        """As ss: one column, a connection's bytes or a listener's accept queue; 0 where nobody knows."""
        queue, accept = batch.column(name), batch.column(_QUEUE_OF_LISTENER[name])
        values = np.where(queue.valid_mask(), queue.values, np.where(accept.valid_mask(), accept.values, 0))
        return self._numbers(values)

    def _numbers(self, values: Array) -> Array:
        unique, inverse = np.unique(values, return_inverse=True)
        return _trimmed(unique.astype("S"))[inverse]

    def _addresses(self, addresses: Array, family: Array) -> Array:
        keys = np.ascontiguousarray(np.concatenate([addresses, family[:, None]], axis=1)).view("V17")[:, 0]
        unique, inverse = np.unique(keys, return_inverse=True)
        return np.asarray([self._address_cells[key.tobytes()] for key in unique], dtype="S")[inverse]

    def _texts(self, data: ColumnData) -> tuple[Array, Array | None]:
        texts = [escape_foreign(text) for text in data.dictionary or ()] or [""]
        encoded = [text.encode(self.encoding, "backslashreplace") for text in texts]
        codes = np.where(data.valid_mask(), data.values, len(texts))
        table = np.asarray([*encoded, NONE], dtype="S")
        widths = [display_width(text) if cell == text.encode() else len(cell) for text, cell in zip(texts, encoded, strict=True)]
        extra = np.asarray([len(cell) - width for cell, width in zip(encoded, widths, strict=True)] + [0])
        return table[codes], extra[codes] if extra.any() else None

    def _address_text(self, address: bytes, family: int) -> str:
        """ss shows a mapped address as the IPv6 address that it is."""
        if self._as_ss and family == AF_INET6 and address.startswith(MAPPED_PREFIX):
            return f"::ffff:{format_address(address[12:], AF_INET)}"
        return format_address(address, family)

    def _endpoints(self, batch: Batch, name: str) -> Array:
        address_name, port_name = ENDPOINT_PARTS[name]
        address = batch.column(address_name)
        family = batch.column("family").values
        hosts = self._addresses(address.values, family)
        hosts = hosts if address.valid is None else np.where(address.valid, hosts, b"?")
        device = self._devices(batch) if name == "local" else None
        if self._as_ss:
            hosts = _bracketed(self._starred(hosts, batch), family)
            hosts = hosts if device is None else np.strings.add(hosts, device)
        else:
            hosts = _bracketed(hosts if device is None else np.strings.add(hosts, device), family)
        return _trimmed(np.strings.add(np.strings.add(hosts, b":"), self._ports(batch.column(port_name))))

    def _devices(self, batch: Batch) -> Array | None:
        """``%device`` for rows that have one; None where none has."""
        device = batch.column("interface")
        if not device.valid_mask().any():
            return None
        texts, _ = self._texts(device)
        return np.where(device.valid_mask(), np.strings.add(b"%", texts), b"")

    def _starred(self, hosts: Array, batch: Batch) -> Array:
        """ss prints ``*`` for the IPv6 wildcard unless the socket is IPV6_V6ONLY."""
        v6only = batch.column("v6only")
        return np.where((hosts == b"::") & ~(v6only.values.astype(np.bool_) & v6only.valid_mask()), b"*", hosts)

    def _ports(self, port: ColumnData) -> Array:
        unique, inverse = np.unique(port.values, return_inverse=True)
        table = unique.astype("S5")
        table[unique == 0] = b"*"
        table = _trimmed(table)
        cells = table[inverse]
        return cells if port.valid is None else np.where(port.valid, cells, b"?")


class _Memory(dict[bytes, bytes]):
    """A cache of formatted values, emptied when it grows beyond what a list needs."""

    LIMIT = 100_000

    def __init__(self, make: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: bytes) -> bytes:
        if len(self) > self.LIMIT:
            self.clear()
        value = self[key] = self._make(key)
        return value


def _bracketed(hosts: Array, family: Array) -> Array:
    """IPv6 addresses in brackets."""
    if not bool((family == AF_INET6).any()):
        return hosts
    has_colon = np.strings.find(hosts, b":") >= 0
    return np.where(has_colon, np.strings.add(np.strings.add(b"[", hosts), b"]"), hosts)


def _trimmed(cells: Array) -> Array:
    """`cells` no wider than the widest of them."""
    return cells.astype(f"S{max(1, int(np.strings.str_len(cells).max()))}")


def _by_value(values: Array, text_of: Callable[[int], bytes]) -> Array:
    unique, inverse = np.unique(values, return_inverse=True)
    return np.asarray([text_of(number) for number in unique.tolist()], dtype="S")[inverse]


def _padded(cells: Array, width: int, *, right: bool, last: bool, extra: Array | None) -> Array:
    """`cells` as an (n, width) matrix of bytes, blanks in the padding; zero bytes where there shall be nothing."""
    matrix = cells.astype(f"S{width}").view(np.uint8).reshape(len(cells), width)
    if right:
        lengths = np.strings.str_len(cells)
        columns = np.arange(width)[None, :] - (width - lengths)[:, None]
        shifted = np.take_along_axis(matrix, np.clip(columns, 0, width - 1), axis=1)
        return np.where(columns < 0, np.uint8(32), shifted)
    if last:
        return matrix
    padded = np.where(matrix == 0, np.uint8(32), matrix)
    if extra is not None and extra.any():
        fill = np.where(np.arange(int(extra.max()))[None, :] < extra[:, None], np.uint8(32), np.uint8(0))
        padded = np.concatenate([padded, fill], axis=1)
    return padded


