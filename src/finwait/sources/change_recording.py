"""Recordings of changes (``finwait trace --record``): the records as the tracer gave them, in the frames of
`finwait.wire.change_blocks`.

HEAD is JSON: schema, host, boot id, kernel, byte order, source, what is told (changes or lifetimes), filter, namespaces, the
layout of a record, so that a later finwait reads what an earlier one wrote. By schema 1 records are what has happened, in
order; by schema 2 they are as the kernel told them, and their reader settles them (`finwait.sources.change_order`). ROWS are
what CLOCK_MONOTONIC lacked to the time of day (8 bytes) and records; NAMES are process names by id, before the rows that need
them; LOSS and DONE are JSON.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import time

import numpy as np

from finwait.errors import ParseError, Phrase, SourceError
from finwait.sources.change_order import count_happened
from finwait.sources.change_records import CHANGES, LIFETIME, LIFETIMES, LOOKED_UP, ticks_of
from finwait.sources.input_file import name_of, open_input, wait
from finwait.sources.text_file import cannot_read, cannot_write, read_line
from finwait.table.change import EVIDENCE, Loss
from finwait.table.snapshot import Netns, Notice, Provenance
from finwait.tcp.state import TcpState
from finwait.text.messages import mark, translate
from finwait.version import __version__
from finwait.wire.change_blocks import (
    DAMAGED,
    DONE,
    FIRST_LINE,
    FRAME,
    HEAD,
    LOSS,
    MORE,
    NAMES,
    ROWS,
    build_block,
    build_frame,
    check_content,
    parse_frame,
)
from finwait.wire.recorded_values import integer_or_none, seconds_or_none, text_or_none

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any, BinaryIO

    from finwait.sources.input_file import Until
    from finwait.table.batch import Array

SCHEMA, SCHEMA_AS_TOLD = "finwait.changes/1", "finwait.changes/2"
NOT_CHANGES = mark("{path} is no recording of changes (finwait trace --record makes them)")
CUT = mark("the recording was cut: what came behind {time} is not in it")
INCOMPLETE = mark("the recording says of itself that it is not complete: {code}")
_TELLS = {"changes": CHANGES, "lifetimes": LIFETIMES}
STANDARD_OUTPUT = mark("standard output")
_RECORD = {CHANGES: LOOKED_UP, LIFETIMES: LIFETIME}
_KNOWN = {name: np.dtype(record[name]) for record in _RECORD.values() for name in record.names or ()}
_CLOCK_BYTES = 8
_FAMILIES = (2, 10)
_MOST_STATE = max(TcpState)


class ChangeRecorder:
    """Writes changes to `path`, - for standard output, as they come; `kept` are so many by now. Every block is written whole,
    so that a recording is readable whenever it ends.

    Raises SourceError where it cannot be written.
    """

    def __init__(self, path: str) -> None:
        self.path = translate(STANDARD_OUTPUT) if path == "-" else path
        self.kept = 0
        self._settled = True
        self._known: dict[int, str] = {}
        try:  # what is there stays until something comes to take its place
            descriptor = os.dup(1) if path == "-" else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._truncates = path != "-"
            self._file: BinaryIO = os.fdopen(descriptor, "wb", buffering=0)
            self.is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
            raise cannot_write(path, error) from error

    def begin(
        self, provenance: Provenance, tells: int, wanted: str, record: np.dtype[Any], *, settled: bool = True
    ) -> None:
        """What follows are records of this type. wanted: the filter's text. settled: whether they are what has happened, in
        order, or what the kernel told of it."""  # fmt: skip
        head = {
            "schema": SCHEMA if settled else SCHEMA_AS_TOLD,
            "finwait": __version__,
            "host": provenance.host,
            "boot_id": read_line("/proc/sys/kernel/random/boot_id"),
            "kernel": os.uname().release,
            "byte_order": sys.byteorder,
            "source": provenance.source,
            "tells": next(word for word, number in _TELLS.items() if number == tells),
            "filter": wanted,
            "taken_from": provenance.taken_from,
            "namespaces": [{"cookie": one.cookie, "inode": one.inode, "name": one.name} for one in provenance.netns],
            "bytes": record.itemsize,
            "fields": [
                [name, record.fields[name][1], _code(record.fields[name][0])]
                for name in record.names or ()
                if record.fields is not None and name in _KNOWN
            ],
        }
        self._settled = settled
        if self._truncates and self.is_regular:
            os.ftruncate(self._file.fileno(), 0)
        self._write(FIRST_LINE + build_block(HEAD, json.dumps(head).encode()))

    def add(self, records: Array, clock_ns: int, names_of: Callable[[Iterable[int]], Mapping[int, str]]) -> None:
        """Keep `records`, which lie without gaps, and the names of their processes that are new."""
        names = names_of(number for number in np.unique(records["tgid"]).tolist() if number)
        new = {tgid: name for tgid, name in names.items() if self._known.get(tgid) != name}
        if new:
            self._write(build_block(NAMES, json.dumps(new).encode()))
            self._known.update(new)
        clock = clock_ns.to_bytes(_CLOCK_BYTES, sys.byteorder, signed=True)
        content = memoryview(records.view(np.uint8))  # type: ignore[arg-type]
        self._write(build_frame(ROWS, clock, content) + clock, content)
        self.kept += len(records) if self._settled else count_happened(records)

    def lose(self, loss: Loss) -> None:
        """Keep that changes were lost."""
        self._write(build_block(LOSS, json.dumps({"at_ns": loss.at_ns, "lost": loss.lost}).encode()))

    def finish(self, provenance: Provenance) -> None:
        """Nothing more comes. Does nothing where writing has failed before."""
        if self._file.closed:
            return
        codes = [notice.code for notice in provenance.notices if notice.incomplete]
        self._write(build_block(DONE, json.dumps({"taken_to": provenance.taken_to, "warnings": codes}).encode()))
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, *parts: bytes | memoryview) -> None:
        left = [memoryview(part) for part in parts]
        try:
            while left:
                written = os.writev(self._file.fileno(), left)
                while left and written >= len(left[0]):
                    written -= len(left.pop(0))
                if left:
                    left[0] = left[0][written:]
        except OSError as error:
            self.close()
            if not self.kept:
                raise cannot_write(self.path, error) from error
            raise SourceError(
                "cannot write {path}: {reason}; the {count} changes before are there",
                path=self.path,
                reason=os.strerror(error.errno or 0),
                count=self.kept,
            ) from error


def _code(field: np.dtype[Any]) -> str:
    """NumPy's code of a field, arrays with their length before it; no byte order, which HEAD tells."""
    base, shape = field.subdtype or (field, ())
    return f"{shape[0] if shape else ''}{base.kind}{base.itemsize}"


class ChangeRecording:
    """An open recording of changes. `provenance`, `tells` (CHANGES or LIFETIMES) and `settled` are known at once, losses and
    the end when `__iter__` has come there. until: waits for a pipe, as `wait` does. Close it; it is a context manager.

    Raises SourceError where it cannot be read, ParseError where it is none.
    """  # fmt: skip

    def __init__(self, path: str, until: Until = wait) -> None:
        self.path = name_of(path)
        self.names: dict[int, str] = {}
        try:
            self._file = open_input(path, until)
            first = self._file.read(len(FIRST_LINE))
        except (OSError, ValueError) as error:
            raise cannot_read(self.path, error) from error
        try:
            self._offset = len(FIRST_LINE)
            self._read_head(first)
        except BaseException:
            self.close()
            raise

    def _read_head(self, first: bytes) -> None:
        block = self._next_block() if first == FIRST_LINE else None
        if block is None and first and FIRST_LINE.startswith(first):
            raise ParseError(
                "{path} was cut in its head: nothing of it can be told", path=self.path, excerpt=first.hex(" ")
            )
        if block is None or block[0] != HEAD:
            raise ParseError(NOT_CHANGES, path=self.path, excerpt=first.hex(" "))
        head = self._document(block[1])
        with _Damage(self.path, self._offset):
            if head["schema"] not in (SCHEMA, SCHEMA_AS_TOLD):
                raise ParseError("{path} has schema {schema}, finwait reads {known}", path=self.path,
                                 schema=str(head["schema"])[:80], known=f"{SCHEMA}, {SCHEMA_AS_TOLD}")  # fmt: skip
            self.tells = _TELLS[head["tells"]]
            self.byte_order: str = head["byte_order"]
            self._dtype = _stored_dtype(head["bytes"], head["fields"], self.byte_order)
            self.source = text_or_none(head["source"]) or "bpf"
            self.settled = head["schema"] == SCHEMA
            self.provenance = Provenance(
                "recording",
                host=text_or_none(head["host"]),
                taken_from=seconds_or_none(head["taken_from"]),
                netns=tuple(_netns(one) for one in head["namespaces"]),
            )
        self._last_ns = int((self.provenance.taken_from or 0) * 1e9)

    def _next_block(self) -> tuple[bytes, bytes] | None:
        """(kind, content); None at the end, also where the last block is not whole."""
        at = self._offset
        try:
            frame = self._file.read(FRAME.size)
            if len(frame) < FRAME.size:
                return None
            kind, checksum, length = parse_frame(frame, self.path, at)
            content = self._file.read(length)
        except OSError as error:
            raise cannot_read(self.path, error) from error
        if len(content) < length:
            return None
        check_content(content, checksum, self.path, at)
        self._offset = at + FRAME.size + length
        return kind, content

    def _document(self, content: bytes) -> dict[str, Any]:
        with _Damage(self.path, self._offset):
            document = json.loads(content)
            if not isinstance(document, dict):
                raise TypeError("no object")
        return document

    def __iter__(self) -> Iterator[tuple[Array, int] | Loss]:
        """(records, what CLOCK_MONOTONIC lacked to the time of day) and losses, in order. Raises ParseError."""
        while (block := self._next_block()) is not None:
            kind, content = block
            if kind == ROWS:
                yield self._rows(content)
            elif kind == NAMES:
                with _Damage(self.path, self._offset):
                    self.names.update({int(tgid): str(name) for tgid, name in json.loads(content).items()})
            elif kind == LOSS:
                document = self._document(content)
                with _Damage(self.path, self._offset):
                    yield Loss(_natural(document["at_ns"]), _natural(document["lost"]))
            elif kind == DONE:
                self._end(self._document(content))
                self._check_end()
                return
        time_text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._last_ns // 1_000_000_000))
        self.provenance.add_notice(Notice("recording_cut", CUT, missing="changes", arguments={"time": time_text}))

    def _check_end(self) -> None:
        """Raise ParseError where anything follows, as a second recording."""
        try:
            more = self._file.read(16)
        except OSError as error:
            raise cannot_read(self.path, error) from error
        if more:
            raise ParseError(DAMAGED, path=self.path, offset=self._offset, excerpt=more.hex(" "), reason=Phrase(MORE))

    def _end(self, document: Mapping[str, Any]) -> None:
        with _Damage(self.path, self._offset):
            self.provenance.taken_to = seconds_or_none(document["taken_to"])
            for code in document["warnings"]:
                arguments = {"code": str(code)}
                self.provenance.add_notice(
                    Notice("recorded_incomplete", INCOMPLETE, missing="changes", arguments=arguments)
                )

    @property
    def record(self) -> np.dtype[Any]:
        """The type of its records."""
        return _RECORD[self.tells]  # type: ignore[no-any-return]

    def _rows(self, content: bytes) -> tuple[Array, int]:
        with _Damage(self.path, self._offset):
            clock_ns = int.from_bytes(content[:_CLOCK_BYTES], self.byte_order, signed=True)  # type: ignore[arg-type]
            stored = np.frombuffer(content, dtype=self._dtype, offset=_CLOCK_BYTES)
            records = np.zeros(len(stored), dtype=self.record)
            for name in records.dtype.names or ():
                if name in (stored.dtype.names or ()):
                    records[name] = stored[name]
            if self.tells == CHANGES and "within_ns" not in (stored.dtype.names or ()):
                records["within_ns"] = ticks_of(records["evidence"])
            _check_records(records, clock_ns)
        if len(records):
            self._last_ns = int(records["at_ns"].max()) + clock_ns
        return records, clock_ns

    def names_of(self, tgids: Iterable[int]) -> dict[int, str]:
        """The names of those of the processes that are known so far."""
        return {tgid: self.names[tgid] for tgid in tgids if tgid in self.names}

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> ChangeRecording:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _netns(document: Mapping[str, Any]) -> Netns:
    cookie, inode = (integer_or_none(document[name]) for name in ("cookie", "inode"))
    return Netns(cookie, inode, text_or_none(document["name"]))


class _Damage:
    """Whatever goes wrong with the content of a block is a ParseError that names the offset behind it."""

    def __init__(self, path: str, offset: int) -> None:
        self._path = path
        self._offset = offset

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, LookupError | TypeError | ValueError | OverflowError | RecursionError | AttributeError):
            reason = (
                Phrase("{name} is missing", name=str(error.args[0])[:80])
                if isinstance(error, KeyError)
                else str(error)[:200]
            )
            raise ParseError(DAMAGED, path=self._path, offset=self._offset, reason=reason) from error


def _stored_dtype(size: int, fields: list[list[Any]], byte_order: str) -> np.dtype[Any]:
    """The type of a record as HEAD describes it. Raises ValueError for one that finwait never wrote."""
    order = {"little": "<", "big": ">"}[byte_order]
    names, offsets, formats = [], [], []
    for name, offset, code in fields:
        if name not in _KNOWN:
            continue
        if _code(_KNOWN[name]) != code:
            raise ValueError(f"field {name[:40]} is of type {str(code)[:20]}")
        names.append(name)
        offsets.append(_natural(offset))
        formats.append(_KNOWN[name].newbyteorder(order))
    if "at_ns" not in names or not 0 < _natural(size) <= 1 << 16:
        raise ValueError("a record without a time, or of no length")
    ends = [0, *(offset + _KNOWN[name].itemsize for offset, name in sorted(zip(offsets, names, strict=True)))]
    if any(offset < end for offset, end in zip([*sorted(offsets), size], ends, strict=True)):
        raise ValueError("the fields of a record overlap")  # few bytes would be many records
    return np.dtype({"names": names, "offsets": offsets, "formats": formats, "itemsize": size})


def _check_records(records: Array, clock_ns: int) -> None:
    """Raise ValueError for values that no change has."""
    wrong = (
        (records["from"] > _MOST_STATE).any()
        or not (records["to"] > 0).all()
        or (records["to"] > _MOST_STATE).any()
        or not np.isin(records["family"], _FAMILIES).all()
        or (records["evidence"] >= len(EVIDENCE)).any()
        or ("states" in (records.dtype.names or ()) and _has_wrong_states(records["states"]))
        or abs(clock_ns) >= 1 << 62
        or any(
            (records[name] >= 1 << 62).any()
            for name in ("at_ns", "since_ns", "within_ns", "begins_ns")
            if name in (records.dtype.names or ())
        )
    )
    if wrong:
        raise ValueError("a record has a state, a family or a time that there is not")


def _has_wrong_states(states: Array) -> bool:
    """Whether a path has a state that there is not, or one behind a gap."""
    return bool((states > _MOST_STATE).any() or ((states[:, 1:] != 0) & (states[:, :-1] == 0)).any())


def _natural(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise ValueError(f"{str(value)[:40]} is no number that can stand here")
    return value
