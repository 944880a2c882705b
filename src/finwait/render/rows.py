"""Batches of connections as aligned text, whole columns at a time.

A column is a matrix of bytes, padded with blanks; a line is a row of one array, written as it stands. Columns keep the
widest width seen so far, nothing is ever cut.
"""

from __future__ import annotations

import numpy as np

from finwait.render.digits import BLANK, clock_times, durations, ipv4_endpoints, right_aligned_numbers
from finwait.render.owners import kind_text, process_text
from finwait.table.cells import cells_of, format_address
from finwait.table.columns import (
    ADDRESS,
    BOOL,
    DECLARATION_BY_NAME,
    DURATION,
    ENDPOINT,
    ENDPOINT_PARTS,
    NUMBER,
    PORT,
    STATE,
    TEXT,
    TIME,
)  # fmt: skip
from finwait.tcp.state import TcpState
from finwait.text.escape import escape_foreign
from finwait.text.width import display_width
from finwait.wire.inet_diag import AF_INET, AF_INET6, MAPPED_PREFIX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from finwait.render.style import Style
    from finwait.table.batch import Array, Batch, ColumnData

GAP = 2
# The widths that a column has from the first line on, so that later batches seldom have to widen it.
_LEAST_WIDTH = {
    "state": 12,
    "at": 15,
    "from": 12,
    "to": 12,
    "why": 19,
    "local": 21,
    "peer": 21,
    "recv_q": 6,
    "send_q": 6,
}
_QUEUE_OF_LISTENER = {"recv_q": "accept_queue_length", "send_q": "accept_queue_limit"}
_MAPPED = np.frombuffer(MAPPED_PREFIX, dtype=np.uint8)


class RowRenderer:
    """Turns batches into lines.

    columns: names in order. spelling: ``rfc``, or ``ss`` for ss's states, addresses and queues. titles: of the columns,
    if not their own. encoding: of the output; what it cannot show becomes an escape.
    """

    def __init__(
        self,
        columns: Sequence[str],
        *,
        spelling: str = "rfc",
        titles: Sequence[str] | None = None,
        encoding: str = "utf-8",
    ) -> None:
        self.columns = tuple(columns)
        self.encoding = encoding
        self.titles = [DECLARATION_BY_NAME[name].title for name in columns] if titles is None else list(titles)
        self.widths = [
            max(len(title), _LEAST_WIDTH.get(name, 0)) for name, title in zip(columns, self.titles, strict=True)
        ]
        self._as_ss = spelling == "ss"
        self._states = _state_table(spelling)

    def render(self, batches: Iterable[Batch], style: Style, *, header: bool = True) -> Iterator[bytes]:
        """Lines of all `batches`, with a line of titles before the first."""
        for batch in batches:
            lines = self.lines(batch)
            if header:
                yield self._header(style)
                header = False
            yield lines
        if header:
            yield self._header(style)

    def _header(self, style: Style) -> bytes:
        cells = [
            title.rjust(width) if DECLARATION_BY_NAME[name].right_aligned else title.ljust(width)
            for name, title, width in zip(self.columns, self.titles, self.widths, strict=True)
        ]
        return style.paint("  ".join(cells).rstrip(), "bold").encode() + b"\n"

    def lines(self, batch: Batch) -> bytes:
        """The lines of `batch`; the last column has blanks behind it up to the batch's widest."""
        if not batch.length:
            return b""
        blocks = [self._block(batch, name) for name in self.columns]
        cells = [self._cells(name, block) for name, block in zip(self.columns, blocks, strict=True)]
        self.widths = [*map(max, self.widths, cells)]
        # bytes of each column: as many more than its cells as its block has
        sizes = [width + block.shape[1] - own for width, block, own in zip(self.widths, blocks, cells, strict=True)]
        last = len(blocks) - 1
        right = DECLARATION_BY_NAME[self.columns[last]].right_aligned
        length = sum(sizes[:last]) + GAP * last + (sizes[last] if right else blocks[last].shape[1]) + 1
        page = np.full((batch.length, length), BLANK, dtype=np.uint8)
        at = 0
        for name, block, size in zip(self.columns, blocks, sizes, strict=True):
            if not DECLARATION_BY_NAME[name].right_aligned:
                page[:, at : at + block.shape[1]] = block
            else:
                page[:, at + size - block.shape[1] : at + size] = block
            at += size + GAP
        page[:, -1] = 10
        lines = page.tobytes()
        return lines if sizes == self.widths else lines.translate(None, b"\0")

    def _cells(self, name: str, block: Array) -> int:
        """Terminal cells of a row of `block`; foreign text may have more bytes than cells."""
        if DECLARATION_BY_NAME[name].kind not in {TEXT, ENDPOINT} or (block.max() < 128 and block.all()):
            return int(block.shape[1])
        return display_width(block[0].tobytes().replace(b"\0", b"").decode(self.encoding))

    # -- columns as matrices of bytes

    def _block(self, batch: Batch, name: str) -> Array:
        column = DECLARATION_BY_NAME[name]
        if self._as_ss and name in _QUEUE_OF_LISTENER:
            return self._queues(batch, name)
        if column.kind == ENDPOINT:
            return self._endpoints(batch, name)
        data = batch.column(name)
        if column.kind == STATE:
            return _with_dashes(self._states[data.values], data, right=False)
        if column.kind == TIME:
            return clock_times(data.values)
        if column.kind == DURATION:
            return _with_dashes(durations(data.values), data, right=True)
        if column.kind in {NUMBER, PORT}:
            block = right_aligned_numbers(
                np.where(data.valid, data.values, 0) if data.valid is not None else data.values
            )
            return _with_dashes(block, data, right=True)
        if name == "process" and "owner_kind" in batch.columns:
            return self._processes(data, batch.column("owner_kind"))
        if column.kind == TEXT:
            return self._texts(data)
        if column.kind == ADDRESS:
            known = np.where(data.valid_mask()[:, None], data.values, np.uint8(0))
            block = _matrix(self._hosts(known, batch.column("family").values))
            return _with_dashes(block, data, right=False)
        if column.kind == BOOL:
            return _with_dashes(_matrix(np.where(data.values, b"yes", b"no")), data, right=False)
        return _matrix(np.asarray([b"-" if cell is None else str(cell).encode() for cell in cells_of(batch, name)]))

    def _queues(self, batch: Batch, name: str) -> Array:
        """As ss: one column, a connection's bytes or a listener's accept queue; 0 where nobody knows."""
        queue, accept = batch.column(name), batch.column(_QUEUE_OF_LISTENER[name])
        waiting = np.where(accept.valid_mask(), accept.values, 0)
        return right_aligned_numbers(np.where(queue.valid_mask(), queue.values, waiting))

    def _processes(self, data: ColumnData, kind: ColumnData) -> Array:
        """Names of processes, and where there is none why."""
        names = [process_text(text) for text in data.dictionary or ()]
        kinds = [kind_text(text) for text in kind.dictionary or ()]
        cells = [text.encode(self.encoding, "backslashreplace") for text in (*names, *kinds, "-")]
        why = np.where(kind.valid_mask(), kind.values + len(names), len(cells) - 1)
        return self._text_matrix(cells)[np.where(data.valid_mask(), data.values, why)]

    def _texts(self, data: ColumnData) -> Array:
        """Foreign text, escaped."""
        texts = [escape_foreign(text) for text in data.dictionary or ()]
        table = self._text_matrix([text.encode(self.encoding, "backslashreplace") for text in texts] + [b"-"])
        return table[np.where(data.valid_mask(), data.values, len(texts))]

    def _text_matrix(self, cells: Sequence[bytes]) -> Array:
        """Encoded texts as rows of equal cells: blanks behind each, and zero bytes where it has fewer bytes than another."""
        widths = [display_width(cell.decode(self.encoding)) for cell in cells]
        width = max(widths)
        longest = max(len(cell) + width - shown for cell, shown in zip(cells, widths, strict=True))
        table = np.zeros((len(cells), longest), dtype=np.uint8)
        for row, cell, shown in zip(table, cells, widths, strict=True):
            row[: len(cell)] = np.frombuffer(cell, dtype=np.uint8)
            row[len(cell) : len(cell) + width - shown] = BLANK
        return table

    def _endpoints(self, batch: Batch, name: str) -> Array:
        address_name, port_name = ENDPOINT_PARTS[name]
        address, port, family = batch.column(address_name), batch.column(port_name), batch.column("family").values
        device = batch.column("interface") if name == "local" else None
        octets, simple = self._ipv4_rows(address, port, family)
        if device is not None and "interface" in batch.columns:
            if not all(escape_foreign(text).isascii() for text in device.dictionary or ()):
                texts, inverse = np.unique(
                    self._other_endpoints(batch, address_name, port_name, local=True), return_inverse=True
                )
                return self._text_matrix(texts.tolist())[inverse]
            simple = simple & ~device.valid_mask()
        if simple.all():
            block, width = ipv4_endpoints(octets, port.values)
            return block[:, :width]
        others = np.flatnonzero(~simple)
        rest = _matrix(self._other_endpoints(batch.take(others), address_name, port_name, local=name == "local"))
        width = rest.shape[1]
        block = np.full((batch.length, max(width, 24)), BLANK, dtype=np.uint8)
        block[others, :width] = rest
        if len(others) < batch.length:
            plain, longest = ipv4_endpoints(octets[simple], port.values[simple])
            block[simple, :24] = plain
            width = max(width, longest)
        return block[:, :width]

    def _ipv4_rows(self, address: ColumnData, port: ColumnData, family: Array) -> tuple[Array, Array]:
        """The octets of every row as IPv4, and which rows are IPv4 or, but for ss, mapped, and have all they need."""
        octets = address.values[:, :4]
        simple = (family != AF_INET6) & address.valid_mask() & port.valid_mask()
        if not self._as_ss and not simple.all():
            mapped = (family == AF_INET6) & (address.values[:, :12] == _MAPPED).all(axis=1) & port.valid_mask()
            octets = np.where(mapped[:, None], address.values[:, 12:], octets)
            simple |= mapped
        return octets, simple

    def _other_endpoints(self, batch: Batch, address_name: str, port_name: str, *, local: bool) -> Array:
        address, family = batch.column(address_name), batch.column("family").values
        hosts: Array = self._hosts(address.values, family)
        hosts = hosts if address.valid is None else np.where(address.valid, hosts, b"?")
        device = self._devices(batch) if local else None
        if self._as_ss:
            hosts = _bracketed(self._starred(hosts, batch))
            hosts = hosts if device is None else np.strings.add(hosts, device)
        else:
            hosts = _bracketed(hosts if device is None else np.strings.add(hosts, device))
        return _joined(hosts, self._ports(batch.column(port_name)))

    @staticmethod
    def _ports(port: ColumnData) -> Array:
        table = np.asarray([b"*", *(str(number).encode() for number in np.unique(port.values).tolist() if number)])
        ports: Array = table[np.searchsorted(np.unique(np.append(port.values, 0)), port.values)]
        return ports if port.valid is None else np.where(port.valid, ports, b"?")

    def _hosts(self, addresses: Array, family: Array) -> Array:
        keys = np.ascontiguousarray(np.concatenate([addresses, family[:, None]], axis=1)).view("V17")[:, 0]
        unique, inverse = np.unique(keys, return_inverse=True)
        return np.asarray([self._address_text(key.tobytes()).encode() for key in unique], dtype="S")[inverse]

    def _address_text(self, key: bytes) -> str:
        """ss shows a mapped address as the IPv6 address that it is."""
        address, family = key[:16], key[16]
        if self._as_ss and family == AF_INET6 and address.startswith(MAPPED_PREFIX):
            return f"::ffff:{format_address(address[12:], AF_INET)}"
        return format_address(address, family)

    def _devices(self, batch: Batch) -> Array | None:
        """``%device`` for rows that have one; None where none has."""
        device = batch.column("interface")
        if not device.valid_mask().any():
            return None
        names = [escape_foreign(text).encode(self.encoding, "backslashreplace") for text in device.dictionary or ()]
        table = np.asarray([b"%" + name for name in names] + [b""])
        return table[np.where(device.valid_mask(), device.values, len(names))]

    def _starred(self, hosts: Array, batch: Batch) -> Array:
        """ss prints ``*`` for the IPv6 wildcard unless the socket is IPV6_V6ONLY."""
        v6only = batch.column("v6only")
        return np.where((hosts == b"::") & ~(v6only.values.astype(np.bool_) & v6only.valid_mask()), b"*", hosts)


def _state_table(spelling: str) -> Array:
    """(256, width) bytes: the text of every state's number, of numbers that are none themselves."""
    texts = [str(number) for number in range(256)]
    for state in TcpState:
        texts[state] = state.ss if spelling == "ss" else state.rfc
    return _matrix(np.asarray([text.encode() for text in texts]))


def _matrix(cells: Array) -> Array:
    """An ``S`` array as (n, width) bytes with blanks behind, as wide as its widest text."""
    width = max(1, int(np.strings.str_len(cells).max()))
    matrix = cells.astype(f"S{width}").view(np.uint8).reshape(len(cells), width)
    return np.where(matrix == 0, np.uint8(BLANK), matrix)


def _with_dashes(block: Array, data: ColumnData, *, right: bool) -> Array:
    """`block` with ``-`` in the rows that have no value."""
    if data.valid is None:
        return block
    dash = np.full(block.shape[1], BLANK, dtype=np.uint8)
    dash[-1 if right else 0] = ord("-")
    return np.where(data.valid[:, None], block, dash)


def _joined(hosts: Array, ports: Array) -> Array:
    return np.strings.add(np.strings.add(hosts, b":"), ports)


def _bracketed(hosts: Array) -> Array:
    """IPv6 addresses in brackets."""
    has_colon = np.strings.find(hosts, b":") >= 0
    return np.where(has_colon, np.strings.add(np.strings.add(b"[", hosts), b"]"), hosts)
