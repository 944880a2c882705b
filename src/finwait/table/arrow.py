"""Batches as an Arrow stream in a PyCapsule, for pyarrow, polars, DuckDB and pandas, without pyarrow.

Numbers are handed over without a copy. Words of the machine and texts are dictionary-encoded; all batches of a stream
share one dictionary, because the Arrow file format refuses to replace one. The structures of C are in `arrow_c`.
"""

from __future__ import annotations

import numpy as np

from finwait.table import columns as kinds
from finwait.table.arrow_c import Field, build_capsule
from finwait.table.cells import NAME_OF, cells_of
from finwait.table.columns import COLUMN_BY_NAME, FAMILY_NAMES, TIMER_NAMES
from finwait.tcp.state import TcpState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from finwait.table.arrow_c import Part
    from finwait.table.batch import Array, Batch
    from finwait.table.columns import Column

    Read = Callable[[Batch], Part]

_FORMAT_BY_DTYPE = {"u1": b"C", "u2": b"S", "u4": b"I", "u8": b"L"}
_KNOWN_NUMBERS: dict[str, Iterable[int]] = {
    kinds.STATE: TcpState,
    kinds.FAMILY: FAMILY_NAMES,
    kinds.TIMER: range(len(TIMER_NAMES)),
}
_NUMBERS = 256  # states, families and timers are bytes
_OFFSET_MAX = 2**31 - 1


def export_stream(batches: Sequence[Batch], names: Sequence[str]) -> object:
    """The columns `names` of `batches` as an ArrowArrayStream in a PyCapsule, a batch to a record batch.

    The capsule can be consumed once; what was read from it outlives it and `batches`.
    """
    exported = [_export_column(COLUMN_BY_NAME[name], batches) for name in names]

    def read_batch(batch: Batch) -> tuple[int, list[Part]]:
        return len(batch), [read(batch) for _, read in exported]

    return build_capsule([field for field, _ in exported], map(read_batch, tuple(batches)))


def _export_column(column: Column, batches: Sequence[Batch]) -> tuple[Field, Read]:
    """The field of `column`, and what reads its part of a batch."""
    dictionary: list[bytes] | None = None
    if column.kind in {kinds.NUMBER, kinds.PORT}:
        format_, read = _FORMAT_BY_DTYPE[column.dtype], _number_reader(column)
    elif column.kind == kinds.BOOL:
        format_, read = b"b", _bool_reader(column)
    elif column.kind in NAME_OF:
        format_, read, dictionary = _export_words(column, batches)
    elif column.kind == kinds.TEXT:
        read, dictionary = _export_texts(column, batches)
        format_ = b"i"
    else:  # an address or an endpoint, as text: the libraries do nothing useful with 16 raw bytes
        format_, read = b"u", _cell_reader(column)
    packed = None if dictionary is None else _pack_texts(dictionary)
    return Field(column.name, format_, _has_nulls(column, batches), column.unit, packed), read


def _has_nulls(column: Column, batches: Sequence[Batch]) -> bool:
    """Whether nulls are to be expected: also in a column that declares none, where the source has not the column."""
    if column.nullable or column.kind == kinds.ENDPOINT:
        return True
    return any(batch.column(column.name).valid is not None for batch in batches)


def _number_reader(column: Column) -> Read:
    def read(batch: Batch) -> Part:
        data = batch.column(column.name)
        return data.valid, (np.ascontiguousarray(data.values, dtype=column.dtype),)

    return read


def _bool_reader(column: Column) -> Read:
    def read(batch: Batch) -> Part:
        data = batch.column(column.name)
        return data.valid, (np.packbits(data.values != 0, bitorder="little"),)

    return read


def _export_words(column: Column, batches: Sequence[Batch]) -> tuple[bytes, Read, list[bytes]]:
    """Numbers that have names. The dictionary begins with the known ones, so that those of two tables agree."""
    known = [int(number) for number in _KNOWN_NUMBERS[column.kind]]
    found: set[int] = set()
    for batch in batches:
        data = batch.column(column.name)
        found.update(np.unique(data.values[data.valid_mask()]).tolist())
    numbers = [*known, *sorted(found.difference(known))]
    # signed, as the columnar format recommends; pandas refuses unsigned indices
    dtype, format_ = ("i1", b"c") if len(numbers) <= _NUMBERS // 2 else ("i2", b"s")
    code_by_number = np.zeros(_NUMBERS, dtype=dtype)
    code_by_number[numbers] = range(len(numbers))

    def read(batch: Batch) -> Part:
        data = batch.column(column.name)
        return data.valid, (code_by_number[data.values],)

    return format_, read, [NAME_OF[column.kind](number).encode() for number in numbers]


def _export_texts(column: Column, batches: Sequence[Batch]) -> tuple[Read, list[bytes]]:
    code_by_text: dict[bytes, int] = {}
    codes_by_dictionary: dict[tuple[str, ...], Array] = {}
    for batch in batches:
        dictionary = batch.column(column.name).dictionary or ()
        if dictionary not in codes_by_dictionary:
            codes = [code_by_text.setdefault(_encode(text), len(code_by_text)) for text in dictionary]
            codes_by_dictionary[dictionary] = np.asarray([*codes, 0], dtype="i4")

    def read(batch: Batch) -> Part:
        data = batch.column(column.name)
        codes = codes_by_dictionary[data.dictionary or ()]
        # a code outside the dictionary is null, as in the cells; a reader of Arrow would follow it
        known = (data.values >= 0) & (data.values < len(codes) - 1)
        return known & data.valid_mask(), (codes[np.where(known, data.values, len(codes) - 1)],)

    return read, list(code_by_text)


def _cell_reader(column: Column) -> Read:
    def read(batch: Batch) -> Part:
        cells = cells_of(batch, column.name)
        valid = np.fromiter((cell is not None for cell in cells), dtype=np.bool_, count=len(cells))
        return valid, _pack_texts([b"" if cell is None else _encode(str(cell)) for cell in cells])[1]

    return read


def _encode(text: str) -> bytes:
    """UTF-8; the surrogates that stand for undecodable bytes become ``\\udcff``."""
    return text.encode("utf-8", "backslashreplace")


def _pack_texts(texts: Sequence[bytes]) -> tuple[int, tuple[Array, Array]]:
    """How many `texts` are, and their offsets and bytes as a utf8 array."""
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)), out=offsets[1:])
    if offsets[-1] > _OFFSET_MAX:
        raise OverflowError("more than 2 GiB of text in one batch")
    # a byte more, so that the buffer of no text has an address
    return len(texts), (offsets.astype(np.int32), np.frombuffer(b"".join((*texts, b"\0")), dtype=np.uint8))
