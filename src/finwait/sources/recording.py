"""Recordings: raw dumps (``ss -D``, ``finwait --record X.diag``), X.finwait archives, and text of ss and netstat.

A raw dump is netlink messages, one behind the other. ss writes an NLMSG_DONE after each family and reads back only what
stands before the first; finwait reads on past DONE and writes one, at the end.
"""

from __future__ import annotations

import os

from finwait.errors import ParseError, SourceError
from finwait.sources.diag_columns import DiagBuffer, decode_buffer
from finwait.sources.diag_table import BATCH_BYTES, DuplicateFilter
from finwait.sources.input_file import name_of, open_input
from finwait.sources.readers import Reader
from finwait.sources.record_columns import batches_of_records
from finwait.sources.sock_diag import walk_notice
from finwait.sources.text_file import cannot_read, reason_of
from finwait.table.batch import Batch
from finwait.table.bindings import Bindings
from finwait.table.snapshot import Netns, Notice, Provenance
from finwait.tcp.state import TcpState
from finwait.text.messages import mark
from finwait.wire.change_blocks import FIRST_LINE as CHANGES_FIRST_LINE
from finwait.wire.inet_diag import SOCK_DIAG_BY_FAMILY, TCPDIAG_GETSOCK
from finwait.wire.netlink import NLMSG_DONE, NLMSGHDR, TRUNCATED, align, excerpt_of
from finwait.wire.netstat_text import parse_netstat
from finwait.wire.proc_net_tcp import parse_pasted_proc
from finwait.wire.ss_text import parse_ss
from finwait.wire.text_kind import TextSurvey, detect_text_kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence
    from typing import BinaryIO, Protocol

    from finwait.table.request import Request

    class Closable(Protocol):
        """Whatever has to be closed."""

        def close(self) -> None:
            """Close it."""


SAMPLE_BYTES = 1 << 16
MESSAGE_BYTES = 1 << 16  # no socket's message is longer: the kernel sends some 1,000 bytes
MAX_ERRNO = 4096  # include/linux/err.h
CUT = mark("the recording ends in the middle of a socket; what stands before was read")
KERNEL_ERROR = mark("the recorded dump ends with the kernel's error: {reason}")
UNREAD_LINES = mark("{count} lines look like connections but could not be understood, the first is line {line}: {text}")
NO_STATE_COLUMN = mark("{count} rows have no State column (ss leaves it out for `state X`); they were not read")
SEVERAL_FORMATS = mark("a second format begins at line {line} and was not read; give each output a file of its own")
SEVERAL_PASTES = mark("the text has {count} tables; sockets that stand in several are counted several times")
MAYBE_NOT_TCP = mark(
    "{count} rows may be UDP: they have no Netid column, and all are UNCONN or ESTAB; `ss -tan` shows TCP alone"
)
ADDRESSES_CUT = mark(
    "{count} addresses may have been cut short by netstat and are not known; netstat -W shows them whole"
)
NO_SUCH_STATE = mark("the socket at offset {offset} is in state {state}, which TCP does not have")
NOT_A_RECORDING = mark(
    "{path} is no recording that finwait reads: raw dumps of ss -D, X.finwait, text of ss, netstat or /proc/net/tcp"
)


class Recording:
    """An open recording: a reader for each of its namespaces, and what it tells of itself. A context manager.

    shows_closed: whether bound but unconnected sockets would stand in it.
    """

    __slots__ = ("_files", "provenance", "readers", "shows_closed")

    def __init__(
        self,
        readers: Sequence[Reader],
        provenance: Provenance,
        files: Sequence[Closable],
        *,
        shows_closed: bool = False,
    ) -> None:
        self.shows_closed = shows_closed
        self.readers = tuple(readers)
        self.provenance = provenance
        self._files = tuple(files)

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (*self.readers, *self._files):
            file.close()


def open_recording(path: str) -> Recording:
    """The recording at `path` (``-``: standard input), its kind found by looking at it.

    Raises SourceError where it cannot be opened, ParseError where it is none.
    """
    name = name_of(path)
    try:
        file, sample = _open_seekable(path)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise cannot_read(name, error) from error
    if sample.startswith(b"PK\x03\x04"):
        from finwait.sources.archive import open_archive

        return open_archive(file, name)
    provenance = Provenance("recording")
    if _is_raw_dump(sample):
        return Recording([RawDumpReader(file, Netns(), {})], provenance, [])
    if sample.startswith(CHANGES_FIRST_LINE):
        file.close()
        raise ParseError("{path} is a recording of changes; 'finwait trace --read' tells it", path=name)
    kind = detect_text_kind(sample.decode("utf-8", "surrogateescape"))
    if kind is None:
        file.close()
        if not sample.strip():
            raise ParseError("{path} is empty", path=name)
        raise ParseError(NOT_A_RECORDING, path=name, excerpt=sample[:16].hex(" "))
    return Recording([TextReader(file, kind)], provenance, [])


def _open_seekable(path: str) -> tuple[BinaryIO, bytes]:
    """The file at `path` and how it begins; a pipe is kept in a file without a name."""
    file = open_input(path)
    try:
        if not file.seekable():
            file = _kept(file)
        begin = file.tell()  # whoever shares standard input may have read before
        sample = file.read(SAMPLE_BYTES)
        file.seek(begin)
    except BaseException:
        file.close()
        raise
    return file, sample


def _kept(pipe: BinaryIO) -> BinaryIO:
    from shutil import copyfileobj
    from tempfile import TemporaryFile

    kept = TemporaryFile()  # noqa: SIM115 - the reader closes it
    with pipe:
        copyfileobj(pipe, kept)
    kept.seek(0)
    return kept


def _reason_of_errno(errno: int) -> str:
    """What the system says of a number that stands in a recording, where any number may stand."""
    return os.strerror(errno) if 0 < errno < MAX_ERRNO else f"errno {errno}"


def _is_raw_dump(sample: bytes) -> bool:
    if len(sample) < NLMSGHDR.size:
        return False
    length, kind, _, _, _ = NLMSGHDR.unpack_from(sample)
    return (kind in {SOCK_DIAG_BY_FAMILY, TCPDIAG_GETSOCK} and 88 <= length <= MESSAGE_BYTES) or (
        kind == NLMSG_DONE and length in {16, 20}
    )


class _RecordingReader(Reader):
    source = "recording"

    def untold(self, names: Sequence[str], told: Container[str]) -> list[str]:
        return [name for name in names if name not in told]

    def __init__(self, file: BinaryIO, netns: Netns) -> None:
        super().__init__(netns)
        self.file = file
        self.port_range: tuple[int, int] | None = None

    def bind(self, *, devices: bool, cgroups: Sequence[str], port_range: bool) -> Bindings:
        return Bindings(port_range=self.port_range)

    def close(self) -> None:
        self.file.close()


class RawDumpReader(_RecordingReader):
    """Netlink messages in a file."""

    def __init__(self, file: BinaryIO, netns: Netns, interface_names: Mapping[int, str]) -> None:
        super().__init__(file, netns)
        self.interface_names = interface_names

    def bind(self, *, devices: bool, cgroups: Sequence[str], port_range: bool) -> Bindings:
        return Bindings({name: index for index, name in self.interface_names.items()}, port_range=self.port_range)

    def batches(
        self, request: Request, wanted: Sequence[str], notices: list[Notice], sink: object = None
    ) -> Iterator[Batch]:
        """The sockets of the file. Raises ParseError with the offset in the file."""
        seen = DuplicateFilter()
        buffer = memoryview(bytearray(BATCH_BYTES))
        offset = kept = 0
        interrupted = False
        while True:
            received = self._read_into(buffer[kept:])
            length = kept + received
            if not length:
                break
            parsed, batch = self._parse(buffer, length, offset, wanted)
            interrupted |= parsed.interrupted
            if batch.length:
                yield seen.pass_through(batch)
            if parsed.errno:
                arguments = {"reason": _reason_of_errno(parsed.errno)}
                notices.append(Notice("recorded_error", KERNEL_ERROR, missing="sockets", arguments=arguments))
            kept = length - parsed.end
            offset += parsed.end
            if kept and not received:
                notices.append(Notice("recording_cut", CUT, missing="sockets"))
                break
            buffer[:kept] = bytes(buffer[parsed.end : length])
        notice = walk_notice(seen.duplicates, interrupted=interrupted)
        if notice is not None:
            notices.append(notice)

    def _read_into(self, buffer: memoryview) -> int:
        try:
            return self.file.readinto(buffer)  # type: ignore[attr-defined, no-any-return]
        except OSError as error:
            raise SourceError("cannot read the recording: {reason}", reason=reason_of(error)) from error

    def _parse(self, buffer: memoryview, length: int, offset: int, wanted: Sequence[str]) -> tuple[DiagBuffer, Batch]:
        """What ``buffer[:length]`` holds; it stands `offset` bytes behind the file's beginning, where errors point."""
        try:
            parsed = DiagBuffer(buffer, length, cut=True)
            _check_rest(buffer[parsed.end : length], parsed.end)
            batch = Batch(0, {})
            if len(parsed.offsets):  # the last message may lack the padding behind it: whatever stands there will do
                batch = decode_buffer(buffer[: align(length)], parsed, wanted, self.interface_names)
                _check_states(batch, parsed)
        except ParseError as error:
            error.arguments["offset"] = error.offset = error.offset + offset
            raise
        return parsed, batch


def _check_rest(rest: memoryview, offset: int) -> None:
    """Raise ParseError where what seems a message that goes on is too long to be one."""
    size = NLMSGHDR.unpack_from(rest)[0] if len(rest) >= NLMSGHDR.size else 0
    if size > MESSAGE_BYTES:
        raise ParseError(TRUNCATED, offset=offset, excerpt=excerpt_of(rest, 0), length=size)


def _check_states(batch: Batch, parsed: DiagBuffer) -> None:
    states = batch.column("state").values
    wrong = (states < min(TcpState)) | (states > max(TcpState))
    if wrong.any():
        at = int(wrong.argmax())
        raise ParseError(NO_SUCH_STATE, offset=int(parsed.offsets[at]), state=int(states[at]))


class TextReader(_RecordingReader):
    """Text as people paste it into tickets. kind: as `detect_text_kind` tells."""

    def __init__(self, file: BinaryIO, kind: str) -> None:
        super().__init__(file, Netns())
        self.kind = kind.removesuffix("6")
        self.unread = 0
        self.first_unread = (0, "")

    def batches(
        self, request: Request, wanted: Sequence[str], notices: list[Notice], sink: object = None
    ) -> Iterator[Batch]:
        """The sockets of the text; what could not be read of it is told at the end."""
        from io import TextIOWrapper

        parse = {"ss": parse_ss, "netstat": parse_netstat, "proc_net_tcp": parse_pasted_proc}[self.kind]
        survey = TextSurvey(self.kind)
        with TextIOWrapper(self.file, encoding="utf-8", errors="surrogateescape", newline="") as lines:
            yield from batches_of_records(parse(lines, self._on_unread, survey), wanted)
        notices += self._unread_notices(survey)
        notices += _notices_of_survey(survey, wanted)

    def _unread_notices(self, survey: TextSurvey) -> Iterator[Notice]:
        if self.unread and self.unread == survey.without_state:
            arguments: dict[str, object] = {"count": self.unread}
            yield Notice("no_state_column", NO_STATE_COLUMN, missing="sockets", arguments=arguments)
        elif self.unread:
            line, text = self.first_unread
            arguments = {"count": self.unread, "line": line, "text": text[:120]}
            yield Notice("lines_not_read", UNREAD_LINES, missing="sockets", arguments=arguments)

    def _on_unread(self, line: int, text: str) -> None:
        if not self.unread:
            self.first_unread = (line, text)
        self.unread += 1


def _notices_of_survey(survey: TextSurvey, wanted: Sequence[str]) -> Iterator[Notice]:
    """What must be known of a text that was read; cut addresses only where addresses are asked for."""
    if survey.other_rows:
        yield Notice("several_formats", SEVERAL_FORMATS, missing="sockets", arguments={"line": survey.other_line})
    if any(count > 1 for count in survey.tables.values()):
        count = sum(survey.tables.values())
        yield Notice("several_pastes", SEVERAL_PASTES, arguments={"count": count})
    if survey.maybe_udp:
        yield Notice("maybe_not_tcp", MAYBE_NOT_TCP, incomplete=False, arguments={"count": survey.maybe_udp})
    if survey.cut_addresses and not {"local_address", "peer_address"}.isdisjoint(wanted):
        arguments = {"count": survey.cut_addresses}
        yield Notice("addresses_cut", ADDRESSES_CUT, missing="local_address,peer_address", arguments=arguments)
