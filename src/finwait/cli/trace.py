"""`finwait trace`: every change of state as it happens, also those of TIME-WAIT, FIN-WAIT-2 and half-open connections."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod

from finwait.api import parse
from finwait.cli import output
from finwait.cli.interrupts import WhileAsleep
from finwait.cli.parser import (
    CommandParser,
    FilterParser,
    add_color,
    add_forms,
    add_header,
    add_language,
    add_places,
    pause,
    request_of,
    seconds,
    whole_number,
)
from finwait.errors import UsageError
from finwait.query.narrowing import TESTABLE
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from finwait.table.batch import Batch
    from finwait.table.change import Loss, Summary
    from finwait.tracing import Trace

DESCRIPTION = mark(
    "Follow TCP connections through their states: who changed, when, why, and for how long it had waited."
)
LOST = mark("{count} changes were lost: they came faster than they were read; --buffer gives them more room")
COLUMNS = ("at", "local", "peer", "process", "pid", "from", "to", "in_from_us", "why", "evidence")
LIFETIME_COLUMNS = (
    "at", "local", "peer", "process", "pid", "closed_by", "lasted_us", "bytes_acked", "bytes_received", "rtt_us",
    "total_retrans", "path",
)  # fmt: skip
LEAST_BUFFER, MOST_BUFFER = 1, 1024  # MiB


def build_parser() -> CommandParser:
    """The command's parser."""
    parser = FilterParser("trace", translate(DESCRIPTION), (*TESTABLE, "local", "peer"))
    add_places(parser)
    group = parser.add_argument_group(translate(mark("how long and how much")))
    group.add_argument(
        "--for",
        dest="for_s",
        type=seconds,
        metavar="SECONDS",
        help=translate(mark("end after so long (default: Ctrl-C)")),
    )
    group.add_argument("--count", type=whole_number, metavar="N", help=translate(mark("end after N changes")))
    group.add_argument(
        "--min-time",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help=translate(mark("only changes of connections that were so long in the state that they leave")),
    )
    group.add_argument(
        "--no-owners", dest="owners", action="store_false", help=translate(mark("do not look for who has the sockets"))
    )
    group.add_argument(
        "--buffer",
        type=_buffer,
        metavar="MIB",
        help=translate(mark("memory for changes that are not written yet (default: 16)")),
    )
    group = parser.add_argument_group(translate(mark("what to tell")))
    kind = group.add_mutually_exclusive_group()
    kind.add_argument(
        "--lifetimes",
        action="store_true",
        help=translate(mark("one line a connection at its end: its states, bytes, round-trip time, who closed first")),
    )
    kind.add_argument(
        "--summary",
        action="store_true",
        help=translate(
            mark("how many changes of each kind, and how long connections were in each state; counted in the kernel")
        ),
    )
    group.add_argument(
        "--by",
        choices=("listener", "process"),
        help=translate(mark("a summary for each listening port, or for each process that has the sockets")),
    )
    group.add_argument(
        "--every", type=pause, metavar="SECONDS", help=translate(mark("a summary so often (default: one at the end)"))
    )
    group = parser.add_argument_group(translate(mark("output")))
    add_forms(group)
    add_header(group)
    add_color(group)
    add_language(group)
    return parser


def _buffer(word: str) -> int:
    found = int(word) if word.isascii() and word.isdigit() and len(word) <= 6 else 0
    if not LEAST_BUFFER <= found <= MOST_BUFFER:
        raise UsageError("'{word}' is no number of MiB from 1 to 1024", word=word)
    return found


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = build_parser().parse(arguments)
    _check(options)
    from finwait.sources.change_records import CHANGES, COUNTS, LIFETIMES
    from finwait.tracing import Trace, TraceQuestion

    question = TraceQuestion(
        request_of(options),
        parse(options.filter),
        least_us=round(options.min_time * 1_000_000),
        owners=options.owners,
        ring_bytes=None if options.buffer is None else options.buffer << 20,
        tells=LIFETIMES if options.lifetimes else COUNTS if options.summary else CHANGES,
        every_s=options.every,
        source=options.source,
        by=options.by,
    )
    with WhileAsleep() as interrupts:
        trace = Trace(question, for_s=options.for_s, sleep=interrupts.sleep)
        writer = _WRITERS[options.form](options, trace)
        try:
            _follow(trace, writer, options.count)
        except KeyboardInterrupt:
            writer.end()
            raise
        writer.end()
    return 0


def _check(options: Namespace) -> None:
    if options.source == "proc":
        raise UsageError(
            "changes of state are told by bpf or sock_diag, not by --source {source}", source=options.source
        )
    for name, value in (("--every", options.every), ("--by", options.by)):
        if value is not None and not options.summary:
            raise UsageError("{option} goes with --summary", option=name)
    if options.by == "process" and not options.owners:
        raise UsageError("--by process does not go with --no-owners")
    if options.summary and options.count is not None:
        raise UsageError("--summary has no lines to count; --for ends it")


def _follow(trace: Trace, writer: _Writer, most: int | None) -> None:
    from finwait.table.change import Loss, Ready, Summary

    left = most
    for item in trace:
        if isinstance(item, Ready):
            writer.begin()
        elif isinstance(item, Loss):
            writer.lose(item)
        elif isinstance(item, Summary):
            writer.sum_up(item)
        else:
            batch = item if left is None else item.head(left)
            writer.write(batch)
            if left is not None:
                left -= batch.length
                if left == 0:
                    break
        sys.stdout.flush()


class _Writer(ABC):
    """Writes what a trace yields. The calls come in this order: begin, then write, sum_up and lose, then end."""

    def __init__(self, options: Namespace, trace: Trace) -> None:
        self.options = options
        self.trace = trace
        self.begun = False

    def begin(self) -> None:
        """Everything is attached."""
        self.begun = True

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
        output.say_notices(self.trace.provenance.notices)


class _TextWriter(_Writer):
    def begin(self) -> None:
        from finwait.render.rows import RowRenderer
        from finwait.render.style import style_of

        super().begin()
        self.style = style_of(sys.stdout, self.options.color, os.environ)
        self.with_netns = self.options.all_netns or len(self.options.netns) > 1
        if self.options.summary:
            return
        columns: tuple[str, ...] = LIFETIME_COLUMNS if self.options.lifetimes else COLUMNS
        if self.with_netns:
            columns = (*columns[:1], "netns", *columns[1:])
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


class _CsvWriter(_Writer):
    def begin(self) -> None:
        super().begin()
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


class _NdjsonWriter(_Writer):
    def begin(self) -> None:
        from finwait.render.change_lines import ready_document

        super().begin()
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

        if self.begun:
            output.write_json(end_document(self.trace.provenance, self.trace.lost))


def _json_lines(batch: Batch, options: Namespace) -> bytes:
    from finwait.render.change_lines import change_lines, lifetime_lines

    return lifetime_lines(batch) if options.lifetimes else change_lines(batch)


class _JsonWriter(_Writer):
    """One document; what was lost stands among its rows."""

    def begin(self) -> None:
        from finwait.render.change_lines import TRACE_SCHEMA

        super().begin()
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

        if self.begun:
            end = dumps({"lost": self.trace.lost, **provenance_document(self.trace.provenance)})
            output.write_chunks([f"\n], {end[1:]}\n".encode()])


_WRITERS: dict[str | None, type[_Writer]] = {
    None: _TextWriter,
    "csv": _CsvWriter,
    "ndjson": _NdjsonWriter,
    "json": _JsonWriter,
}
