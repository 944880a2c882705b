"""Receive buffers of a TCP dump to columns, without a Python step per row wherever messages look alike.

Messages of one length whose attribute headers are equal are one matrix; its columns are the table's. A dump has a handful
of such layouts (full, time-wait and request sockets, IPv4, IPv6, listeners), however many sockets there are.
"""

from __future__ import annotations

import numpy as np

from finwait.errors import ParseError
from finwait.table.batch import ADDRESS_BYTES, Batch, ColumnData, absent_column, storage_dtype
from finwait.table.columns import COLUMN_BY_NAME, TEXT
from finwait.tcp.state import NEW_SYN_RECV, TcpState
from finwait.wire import inet_diag
from finwait.wire.netlink import (
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    TRUNCATED,
    align,
    excerpt_of,
    parse_attributes,
    parse_errno,
)  # fmt: skip
from finwait.wire.tcp_info import (
    NO_MIN_RTT,
    SK_MEMINFO_FIELDS,
    TCP_INFINITE_SSTHRESH,
    TCP_INFO_FIELDS,
    UNLIMITED_RATE,
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from finwait.table.batch import Array, Mask

_ATTRIBUTE_NUMBER = {"info": inet_diag.INET_DIAG_INFO, "skmem": inet_diag.INET_DIAG_SKMEMINFO}
_FIELDS = {"info": TCP_INFO_FIELDS, "skmem": SK_MEMINFO_FIELDS}
_TCPI_OPT_WSCALE = 4
# values of tcp_info that mean "not known"
_UNKNOWN = {
    "ssthresh": TCP_INFINITE_SSTHRESH, "pacing_rate": UNLIMITED_RATE, "min_rtt_us": NO_MIN_RTT,
    "rtt_us": 0, "rttvar_us": 0, "rcv_rtt_us": 0, "rto_us": 0,
}  # fmt: skip
_SINCE = frozenset({"last_data_sent_ms", "last_data_recv_ms", "last_ack_recv_ms"})
_MSG_WORDS = {"EXPIRES": inet_diag.EXPIRES, "UID": inet_diag.UID, "INODE": inet_diag.INODE,
              "RQUEUE": inet_diag.RQUEUE, "WQUEUE": inet_diag.WQUEUE}  # fmt: skip
_MSG_BYTES = {"STATE": inet_diag.STATE, "FAMILY": inet_diag.FAMILY, "TIMER": inet_diag.TIMER,
              "RETRANS": inet_diag.RETRANS}  # fmt: skip


class DiagBuffer:
    """What a buffer of netlink messages holds besides sockets, and where the sockets' messages begin.

    offsets, lengths: of each socket's message, in bytes. done, errno, interrupted: as in `DiagCensus`. end: where the
    first message begins that is not whole, the buffer's length if all are.
    """

    __slots__ = ("done", "end", "errno", "interrupted", "lengths", "offsets")

    def __init__(self, buffer: memoryview, length: int, *, cut: bool = False) -> None:
        """cut: whether the last message may be a part only. Raises ParseError where a message does not fit otherwise, or
        is shorter than struct inet_diag_msg.
        """  # fmt: skip
        self.done = False
        self.end = length
        self.errno = 0
        self.interrupted = False
        words = buffer[: length & ~3].cast("I")
        uniform = _uniform_rows(words)
        size = words[0] if uniform else 0
        offsets, lengths = self._scan(buffer, words, uniform * size, length, cut=cut)
        self.offsets = np.concatenate([np.arange(uniform, dtype=np.int64) * size, np.asarray(offsets, dtype=np.int64)])
        self.lengths = np.concatenate([np.full(uniform, size, dtype=np.int64), np.asarray(lengths, dtype=np.int64)])

    def _scan(
        self, buffer: memoryview, words: memoryview, at: int, end: int, *, cut: bool
    ) -> tuple[list[int], list[int]]:
        offsets, lengths = [], []
        while at < end:
            size = words[at >> 2] if end - at >= 16 else 0
            if cut and (end - at < 16 or 16 <= end - at < size):
                self.end = at
                break
            if size < 16 or size > end - at:
                raise ParseError(TRUNCATED, offset=at, excerpt=excerpt_of(buffer, at), length=size or end - at)
            header = words[(at >> 2) + 1]
            kind = header & 0xFFFF
            if kind in {inet_diag.SOCK_DIAG_BY_FAMILY, inet_diag.TCPDIAG_GETSOCK}:
                if size < inet_diag.ATTRIBUTES:
                    raise ParseError(TRUNCATED, offset=at, excerpt=excerpt_of(buffer, at), length=size)
                offsets.append(at)
                lengths.append(size)
            elif kind in {NLMSG_DONE, NLMSG_ERROR}:
                self.done = True
                self.errno = self.errno or parse_errno(buffer, at + 16, at + size)
            if header >> 16 & NLM_F_DUMP_INTR:
                self.interrupted = True
            at += align(size)
        return offsets, lengths


def _uniform_rows(words: memoryview) -> int:
    """How many messages from the first on have its length and header."""
    if len(words) < inet_diag.ATTRIBUTES // 4 or words[0] % 4 or words[0] < inet_diag.ATTRIBUTES:
        return 0
    header = words[1]
    if header & 0xFFFF < inet_diag.TCPDIAG_GETSOCK or header >> 16 & NLM_F_DUMP_INTR:
        return 0
    stride = words[0] // 4
    matrix = np.frombuffer(words, dtype=np.uint32)
    matrix = matrix[: len(matrix) // stride * stride].reshape(-1, stride)
    alike = (matrix[:, 0] == words[0]) & (matrix[:, 1] == header)
    return len(alike) if alike.all() else int(alike.argmin())


def decode_buffer(
    buffer: memoryview, parsed: DiagBuffer, wanted: Sequence[str], interface_names: Mapping[int, str]
) -> Batch:
    """The sockets of `buffer` as a batch with the columns `wanted` and always cookie and state.

    interface_names: name by index in the namespace that the dump comes from. Raises ParseError for broken attributes.
    """
    rows = len(parsed.offsets)
    builder = _Builder(rows, (*wanted, "cookie", "state"))
    words = np.frombuffer(buffer[: len(buffer) & ~3], dtype=np.uint32)
    for length in np.unique(parsed.lengths).tolist():
        positions = np.flatnonzero(parsed.lengths == length)
        width = align(length) // 4
        starts = parsed.offsets[positions] // 4
        if int(starts[-1] - starts[0]) == (len(starts) - 1) * width:  # they follow one another: no copy
            matrix = words[int(starts[0]) : int(starts[0]) + len(starts) * width].reshape(-1, width)
        else:
            matrix = words[starts[:, None] + np.arange(width)]
        _fill_by_layout(builder, matrix, positions, length, parsed.offsets)
    return builder.finish(interface_names)


def _fill_by_layout(builder: _Builder, matrix: Array, positions: Array, length: int, offsets: Array) -> None:
    """Split `matrix` into rows whose attribute headers are equal and fill each in one go. offsets: of all messages."""
    while len(matrix):
        first = memoryview(matrix[0].tobytes())
        try:
            spans = {kind: (start, end) for kind, start, end in parse_attributes(first, inet_diag.ATTRIBUTES, length)}
        except ParseError as error:
            error.arguments["offset"] = error.offset = error.offset + int(offsets[positions[0]])
            raise
        headers = [start // 4 - 1 for start, _ in spans.values()]
        alike = (matrix[:, headers] == matrix[0, headers]).all(axis=1)
        if alike.all():
            builder.fill(matrix, positions, spans)
            return
        builder.fill(matrix[alike], positions[alike], spans)
        matrix, positions = matrix[~alike], positions[~alike]


class _Builder:
    """Fills columns of `rows` rows from matrices of words whose rows have one layout."""

    def __init__(self, rows: int, wanted: Sequence[str]) -> None:
        self.rows = rows
        self.wanted = tuple(dict.fromkeys(wanted))
        self.columns: dict[str, ColumnData] = {}
        self.masks: dict[str, Mask] = {}
        self.texts: dict[str, dict[str, int]] = {}

    def fill(self, matrix: Array, positions: Array, spans: Mapping[int, tuple[int, int]]) -> None:
        whole = slice(None) if len(positions) == self.rows else positions
        layout = _Layout(matrix, spans)
        for name in self.wanted:
            values, valid = layout.column(name)
            if values is None:
                continue
            if name in {"interface", "congestion"}:
                values = self._codes(name, values)
            self._store(name, whole, values, valid)

    def _store(self, name: str, rows: slice | Array, values: Array, valid: Mask | None) -> None:
        column = COLUMN_BY_NAME[name]
        if name not in self.columns:
            absent = absent_column(column, self.rows)
            self.columns[name] = absent
            self.masks[name] = absent.valid_mask()
        self.columns[name].values[rows] = values
        self.masks[name][rows] = True if valid is None else valid

    def _codes(self, name: str, values: Array) -> Array:
        """Codes for what stands for the text: interface indexes, or rows of the bytes of a string."""
        codes = self.texts.setdefault(name, {})
        if values.ndim == 2:  # strings of one length
            values = values if values.shape[1] else np.zeros((len(values), 1), dtype=np.uint8)
            values = np.ascontiguousarray(values).view(f"V{values.shape[1]}")[:, 0]
        unique, inverse = np.unique(values, return_inverse=True)
        keys = [item.tobytes().rstrip(b"\0").decode("utf-8", "surrogateescape") if values.dtype.kind == "V" else str(item)
                for item in unique]  # fmt: skip
        return np.asarray([codes.setdefault(key, len(codes)) for key in keys], dtype="i4")[inverse]

    def finish(self, interface_names: Mapping[int, str]) -> Batch:
        columns = {}
        for name, data in self.columns.items():
            dictionary = data.dictionary
            if name in self.texts:
                dictionary = tuple(self.texts[name])
                if name == "interface":
                    dictionary = tuple(interface_names.get(int(index), index) for index in dictionary)
            columns[name] = ColumnData(data.values, self.masks[name], dictionary)
        return Batch(self.rows, columns)


class _Layout:
    """Messages of one length and attribute layout: `matrix` has a row each, of native 32-bit words."""

    def __init__(self, matrix: Array, spans: Mapping[int, tuple[int, int]]) -> None:
        self.matrix = matrix
        self.bytes = np.ascontiguousarray(matrix).view(np.uint8).reshape(len(matrix), -1)
        self.spans = spans
        state = self.bytes[:, inet_diag.STATE]
        self.state = np.where(state == NEW_SYN_RECV, TcpState.SYN_RECV, state).astype(np.uint8)
        self.listens = self.state == TcpState.LISTEN
        self.is_mini = inet_diag.INET_DIAG_SHUTDOWN not in spans  # only full sockets tell what is shut down

    def column(self, name: str) -> tuple[Array | None, Mask | None]:
        """Values and validity of column `name`; (None, None) where these messages do not have it."""
        special = getattr(self, f"_read_{name}", None)
        if special is not None:
            return special()  # type: ignore[no-any-return]
        origin = COLUMN_BY_NAME[name].origin
        if origin is None:
            return None, None
        where, field = origin
        if where == "msg":
            if field in _MSG_BYTES:
                return self.bytes[:, _MSG_BYTES[field]], None
            return self.matrix[:, _MSG_WORDS[field] // 4], None
        if where == "attribute":
            return self._read_attribute(name, getattr(inet_diag, f"INET_DIAG_{field}"))
        return self._read_field(name, where, field)

    def _read_attribute(self, name: str, number: int) -> tuple[Array | None, Mask | None]:
        if number not in self.spans:
            return None, None
        start, end = self.spans[number]
        if COLUMN_BY_NAME[name].kind == TEXT:
            return self.bytes[:, start:end], None
        dtype = np.dtype(storage_dtype(COLUMN_BY_NAME[name]))
        return self._read_at(start, end, dtype)

    def _read_at(self, start: int, end: int, dtype: np.dtype[np.generic]) -> tuple[Array | None, Mask | None]:
        if start + dtype.itemsize > end:
            return None, None
        return np.ascontiguousarray(self.bytes[:, start : start + dtype.itemsize]).view(dtype)[:, 0], None

    def _read_field(self, name: str, where: str, field: str) -> tuple[Array | None, Mask | None]:
        """A field of tcp_info or of the memory array; a listener's tcp_info holds its queue instead, so it has none."""
        number = _ATTRIBUTE_NUMBER[where]
        if number not in self.spans:
            return None, None
        start, end = self.spans[number]
        offset, code = _FIELDS[where][field]
        values, _ = self._read_at(start + offset, end, np.dtype(code))
        if values is None:
            return None, None
        valid = ~self.listens if where == "info" else None
        if name in _UNKNOWN:
            valid = (values != _UNKNOWN[name]) & ~self.listens
        if name in _SINCE:  # counted from the boot until something was sent or received
            valid = ~self.listens & ~np.isin(self.state, (TcpState.SYN_SENT, TcpState.SYN_RECV))
        return values, valid

    def _read_state(self) -> tuple[Array, None]:
        return self.state, None

    def _read_local_address(self) -> tuple[Array, None]:
        return self.bytes[:, inet_diag.SRC : inet_diag.SRC + ADDRESS_BYTES], None

    def _read_peer_address(self) -> tuple[Array, None]:
        return self.bytes[:, inet_diag.DST : inet_diag.DST + ADDRESS_BYTES], None

    def _read_local_port(self) -> tuple[Array, None]:
        return self._read_port(inet_diag.SPORT)

    def _read_peer_port(self) -> tuple[Array, None]:
        return self._read_port(inet_diag.DPORT)

    def _read_port(self, offset: int) -> tuple[Array, None]:
        return np.ascontiguousarray(self.bytes[:, offset : offset + 2]).view(">u2")[:, 0], None

    def _read_cookie(self) -> tuple[Array, None]:
        low, high = self.matrix[:, inet_diag.COOKIE // 4], self.matrix[:, inet_diag.COOKIE // 4 + 1]
        return low.astype(np.uint64) | high.astype(np.uint64) << np.uint64(32), None

    def _read_interface(self) -> tuple[Array, Mask]:
        index = self.matrix[:, inet_diag.IF // 4]
        return index, index != 0

    def _read_recv_q(self) -> tuple[Array, Mask]:
        return self.matrix[:, inet_diag.RQUEUE // 4], ~self.listens

    def _read_send_q(self) -> tuple[Array, Mask]:
        return self.matrix[:, inet_diag.WQUEUE // 4], ~self.listens

    def _read_accept_queue_length(self) -> tuple[Array, Mask]:
        return self.matrix[:, inet_diag.RQUEUE // 4], self.listens

    def _read_accept_queue_limit(self) -> tuple[Array, Mask]:
        return self.matrix[:, inet_diag.WQUEUE // 4], self.listens

    def _read_expires_ms(self) -> tuple[Array, Mask]:
        return self.matrix[:, inet_diag.EXPIRES // 4], self.bytes[:, inet_diag.TIMER] != 0

    def _read_uid(self) -> tuple[Array | None, Mask | None]:
        return (None, None) if self.is_mini else (self.matrix[:, inet_diag.UID // 4], None)

    def _read_inode(self) -> tuple[Array, Mask]:
        inode = self.matrix[:, inet_diag.INODE // 4]
        return inode, inode != 0

    def _read_snd_wscale(self) -> tuple[Array | None, Mask | None]:
        return self._read_wscale(0)

    def _read_rcv_wscale(self) -> tuple[Array | None, Mask | None]:
        return self._read_wscale(4)

    def _read_wscale(self, shift: int) -> tuple[Array | None, Mask | None]:
        """Bit fields of one byte: snd_wscale is declared first, so it is the low half on little-endian machines."""
        packed, valid = self._read_field("snd_wscale", "info", "tcpi_wscale")
        options, _ = self._read_field("snd_wscale", "info", "tcpi_options")
        if packed is None or options is None:
            return None, None
        if np.little_endian is False:
            shift = 4 - shift
        agreed = (options & _TCPI_OPT_WSCALE) != 0
        return packed >> shift & 15, agreed if valid is None else agreed & valid

    def _read_ip_version(self) -> tuple[Array, None]:
        family = self.bytes[:, inet_diag.FAMILY]
        mapped = mapped_rows(self.bytes[:, inet_diag.SRC : inet_diag.SRC + ADDRESS_BYTES])
        return np.where((family == inet_diag.AF_INET) | mapped, 4, 6).astype(np.uint8), None


_MAPPED_PREFIX = np.frombuffer(inet_diag.MAPPED_PREFIX, dtype=np.uint8)


def mapped_rows(addresses: Array) -> Mask:
    """Which of the (n, 16) `addresses` are ``::ffff:a.b.c.d`` (RFC 4291, 2.5.5.2)."""
    return np.asarray((addresses[:, :12] == _MAPPED_PREFIX).all(axis=1))
