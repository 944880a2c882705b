"""What a trace yields, written: text, CSV, NDJSON, one JSON document, or nothing but how much was recorded."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod

from finwait.cli import output
from finwait.sources.change_recording import STANDARD_OUTPUT
from finwait.table.snapshot import Notice
from finwait.text.escape import escape_foreign
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from finwait.errors import FinwaitError
    from finwait.replaying import Replay
    from finwait.table.batch import Batch
    from finwait.table.change import Loss, Ready, Summary
    from finwait.table.snapshot import Provenance
    from finwait.tracing import Trace

LOST = mark("{count} changes were lost: they came faster than they were read; --buffer gives them more room")
RECORDED = mark("{count} changes were written to {path}; 'finwait trace --read' tells them")
BEGUN = mark("following connections; Ctrl-C ends it")
COLUMNS = ("at", "local", "peer", "process", "pid", "from", "to", "in_from_us", "why", "evidence")
LIFETIME_COLUMNS = (
    "at", "local", "peer", "process", "pid", "closed_by", "lasted_us", "bytes_acked", "bytes_received", "rtt_us",
    "total_retrans", "path",
)  # fmt: skip
SOCK_DIAG = "sock_diag"


class Writer(ABC):
    """Writes what a trace yields. The calls come in this order: begin, then write, sum_up and lose, then end."""

    def __init__(self, options: Namespace, trace: Trace | Replay) -> None:
        self.options = options
        self.trace = trace
        self.begun = False
        self._told: set[str] = set()

    def begin(self, ready: Ready) -> None:
        """Everything is attached."""
        self.begun = True
        self._say_notices(ready.provenance)

    def _say_begun(self) -> None:
        """To whoever waits at a terminal where nothing else would say it."""
        if sys.stderr.isatty() and self.options.for_s is None and self.options.read is None:
            output.say(translate(BEGUN))

    def _say_notices(self, provenance: Provenance) -> None:
        """Those that were not said at the begin."""
        new = [notice for notice in provenance.notices if notice.code not in self._told]
        self._told.update(notice.code for notice in new)
        output.say_notices(new)

    @abstractmethod
    def write(self, batch: Batch) -> None:
        """Changes, or whole lives."""

    @abstractmethod
    def sum_up(self, summary: Summary) -> None:
        """What was counted."""

    def lose(self, loss: Loss) -> None:
        """Changes that are not told."""
        output.say(translate(LOST).format(count=loss.lost))

    def end(self) -> None:
        """No more comes."""
        self._say_notices(self.trace.provenance)

    def fail(self, error: FinwaitError) -> None:
        """No more comes because of `error`, which whoever called tells."""
        if self.begun:
            self._say_notices(self.trace.provenance)


class _TextWriter(Writer):
    """Lines for people."""

    def begin(self, ready: Ready) -> None:
        from finwait.render.rows import RowRenderer
        from finwait.render.style import style_of

        super().begin(ready)
        self.style = style_of(sys.stdout, self.options.color, os.environ)
        self.with_netns = self.options.all_netns or len(self.options.netns) > 1
        if self.options.summary:
            self._say_begun()
            return
        columns: tuple[str, ...] = LIFETIME_COLUMNS if self.options.lifetimes else COLUMNS
        if self.with_netns:
            columns = (*columns[:1], "netns", *columns[1:])
        if ready.source == SOCK_DIAG and not self.options.lifetimes:
            columns = (*columns, "within_us")
        if not self.options.owners:
            columns = tuple(name for name in columns if name not in {"process", "pid"})
        self.rows = RowRenderer(columns, encoding=sys.stdout.encoding or "ascii")
        output.write_chunks(self.rows.render([], self.style, header=self.options.header))

    def write(self, batch: Batch) -> None:
        if self.options.lifetimes:
            from finwait.render.lifetimes import with_readable_paths

            batch = with_readable_paths(batch)
        output.write_chunks([self.rows.lines(batch)])

    def sum_up(self, summary: Summary) -> None:
        from finwait.render.trace_summary import render_summary

        output.write_lines([*render_summary(summary, self.style, with_netns=self.with_netns), ""])


class _RecordingWriter(Writer):
    """Prints nothing; what was kept is said at the end."""

    def begin(self, ready: Ready) -> None:
        super().begin(ready)
        self._say_begun()

    def write(self, batch: Batch) -> None:
        """There is nothing to print."""

    def sum_up(self, summary: Summary) -> None:
        """There is no summary."""

    def end(self) -> None:
        super().end()
        if self.begun:
            path = translate(STANDARD_OUTPUT) if self.options.record == "-" else escape_foreign(self.options.record)
            output.say(translate(RECORDED).format(count=self.trace.told, path=path))


class _CsvWriter(Writer):
    """Comma-separated values."""

    def begin(self, ready: Ready) -> None:
        super().begin(ready)
        if self.options.header:
            output.write_csv([self._names()])

    def _names(self) -> tuple[str, ...]:
        from finwait.render.trace_summary import SUMMARY_NAMES
        from finwait.table.change import CHANGE_NAMES, LIFETIME_NAMES

        if self.options.summary:
            return SUMMARY_NAMES
        return (*LIFETIME_NAMES, "path") if self.options.lifetimes else CHANGE_NAMES

    def write(self, batch: Batch) -> None:
        from finwait.render.lists import list_csv

        output.write_csv(list_csv(iter([batch]), self._names(), header=False))

    def sum_up(self, summary: Summary) -> None:
        from finwait.render.trace_summary import summary_rows

        output.write_csv(summary_rows(summary))


class _DocumentWriter(Writer):
    """Documents for programs: what is to be known stands in them, not on standard error."""

    def fail(self, error: FinwaitError) -> None:
        """What has begun ends whole, and says that it is not complete."""
        if self.begun:
            self.trace.provenance.add_notice(
                Notice("ended_by_error", "{reason}", missing="changes", arguments={"reason": error})
            )
            self.end()

    def _note_loss(self) -> None:
        """Let the end say that it is not complete; lines for people say each loss where it stands."""
        if self.trace.lost:
            arguments = {"count": self.trace.lost}
            self.trace.provenance.add_notice(Notice("changes_lost", LOST, missing="changes", arguments=arguments))


class _NdjsonWriter(_DocumentWriter):
    """A document a line."""

    def begin(self, ready: Ready) -> None:
        from finwait.render.change_lines import ready_document

        self.begun = True  # what is to be known stands in the record
        output.write_json(ready_document(self.trace.provenance))

    def write(self, batch: Batch) -> None:
        output.write_chunks([_json_lines(batch, self.options)])

    def sum_up(self, summary: Summary) -> None:
        from finwait.render.trace_summary import summary_documents

        for document in summary_documents(summary):
            output.write_json(document)

    def lose(self, loss: Loss) -> None:
        from finwait.render.change_lines import loss_document

        output.write_json(loss_document(loss))

    def end(self) -> None:
        from finwait.render.change_lines import end_document

        self._note_loss()
        if self.begun:
            output.write_json(end_document(self.trace.provenance, self.trace.lost))


def _json_lines(batch: Batch, options: Namespace) -> bytes:
    from finwait.render.change_lines import change_lines, lifetime_lines

    return lifetime_lines(batch) if options.lifetimes else change_lines(batch)


class _JsonWriter(_DocumentWriter):
    """One document; what was lost stands among its rows."""

    def begin(self, ready: Ready) -> None:
        from finwait.render.change_lines import TRACE_SCHEMA

        self.begun = True  # what is to be known stands at the end
        self.before = b"\n "
        output.write_chunks([f'{{"schema": "{TRACE_SCHEMA}", "rows": ['.encode()])

    def write(self, batch: Batch) -> None:
        self._add(_json_lines(batch, self.options).rstrip(b"\n").replace(b"\n", b",\n "))

    def sum_up(self, summary: Summary) -> None:
        from json import dumps

        from finwait.render.trace_summary import summary_documents

        for document in summary_documents(summary):
            self._add(dumps(document).encode())

    def lose(self, loss: Loss) -> None:
        from json import dumps

        from finwait.render.change_lines import loss_document

        self._add(dumps(loss_document(loss)).encode())

    def _add(self, rows: bytes) -> None:
        output.write_chunks([self.before, rows])
        self.before = b",\n "

    def end(self) -> None:
        from json import dumps

        from finwait.render.documents import provenance_document

        self._note_loss()
        if self.begun:
            end = dumps({"lost": self.trace.lost, **provenance_document(self.trace.provenance)})
            output.write_chunks([f"\n], {end[1:]}\n".encode()])


_WRITERS: dict[str | None, type[Writer]] = {
    None: _TextWriter,
    "csv": _CsvWriter,
    "ndjson": _NdjsonWriter,
    "json": _JsonWriter,
}


def writer_of(options: Namespace, trace: Trace | Replay, *, prints: bool) -> Writer:
    """The writer of the form that the options name; prints: or of a recording only."""
    return (_WRITERS[options.form] if prints else _RecordingWriter)(options, trace)
