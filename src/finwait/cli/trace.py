"""`finwait trace`: every change of state as it happens, also those of TIME-WAIT, FIN-WAIT-2 and half-open connections."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from contextlib import closing

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
from finwait.text.escape import escape_foreign
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from finwait.replaying import Replay
    from finwait.table.batch import Batch
    from finwait.table.change import Loss, Ready, Summary
    from finwait.table.snapshot import Provenance
    from finwait.tracing import Trace, TraceQuestion

DESCRIPTION = mark(
    "Follow TCP connections through their states: who changed, when, why, and for how long it had waited."
)
LOST = mark("{count} changes were lost: they came faster than they were read; --buffer gives them more room")
RECORDED = mark("{count} changes were written to {path}; 'finwait trace --read' tells them")
COLUMNS = ("at", "local", "peer", "process", "pid", "from", "to", "in_from_us", "why", "evidence")
LIFETIME_COLUMNS = (
    "at", "local", "peer", "process", "pid", "closed_by", "lasted_us", "bytes_acked", "bytes_received", "rtt_us",
    "total_retrans", "path",
)  # fmt: skip
SOCK_DIAG = "sock_diag"
LEAST_BUFFER, MOST_BUFFER = 1, 1024  # MiB


def build_parser() -> CommandParser:
    """The command's parser."""
    columns = (*TESTABLE, "local", "peer")
    parser = FilterParser("trace", translate(DESCRIPTION), columns, "state time-wait sport = :443 process = nginx")
    group = add_places(parser)
    group.add_argument(
        "--read",
        metavar="FILE",
        help=translate(mark("tell a recording of --record again instead of what happens; - is standard input")),
    )
    _add_limits(parser)
    _add_kinds(parser)
    _add_output(parser)
    return parser


def _add_limits(parser: CommandParser) -> None:
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


def _add_kinds(parser: CommandParser) -> None:
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


def _add_output(parser: CommandParser) -> None:
    group = parser.add_argument_group(translate(mark("output")))
    group.add_argument(
        "--record", metavar="FILE", help=translate(mark("write the changes to FILE, for --read, and print nothing"))
    )
    group.add_argument(
        "--print", dest="prints", action="store_true", help=translate(mark("with --record: print them too"))
    )
    add_forms(group)
    add_header(group)
    add_color(group)
    add_language(group)


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
    from finwait.tracing import TraceQuestion

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
        trace = _trace(question, options, interrupts)
        writer = (_WRITERS[options.form] if _prints(options) else _RecordingWriter)(options, trace)
        try:
            _follow(trace, writer)
        except KeyboardInterrupt:
            writer.end()
            raise
        writer.end()
    return 0


def _prints(options: Namespace) -> bool:
    return options.record is None or options.prints or options.form is not None


def _trace(question: TraceQuestion, options: Namespace, interrupts: WhileAsleep) -> Trace | Replay:
    if options.read is not None:
        from finwait.replaying import Replay

        return Replay(question, options.read, most=options.count)
    from finwait.tracing import Trace

    recorder = None
    if options.record is not None:
        from finwait.sources.change_recording import ChangeRecorder

        recorder = ChangeRecorder(options.record)
    return Trace(
        question,
        for_s=options.for_s,
        most=options.count,
        recorder=recorder,
        yields_rows=_prints(options),
        sleep=interrupts.sleep,
    )


def _check(options: Namespace) -> None:
    if options.source == "proc":
        raise UsageError(
            "changes of state are told by bpf or sock_diag, not by --source {source}", source=options.source
        )
    for name, value in (("--every", options.every), ("--by", options.by)):
        if value is not None and not options.summary:
            raise UsageError("{option} goes with {other}", option=name, other="--summary")
    if options.by == "process" and not options.owners:
        raise UsageError("{one} does not go with {other}", one="--by process", other="--no-owners")
    if options.summary and options.count is not None:
        raise UsageError("--summary has no lines to count; --for ends it")
    if options.prints and options.record is None:
        raise UsageError("{option} goes with {other}", option="--print", other="--record")
    _check_files(options)


def _check_files(options: Namespace) -> None:
    if options.record is not None and options.summary:
        raise UsageError("{one} does not go with {other}", one="--record", other="--summary")
    if options.read is None:
        return
    others = (
        ("--record", options.record is not None),
        ("--for", options.for_s is not None),
        ("--every", options.every is not None),
        ("--by", options.by is not None),
        ("-N", bool(options.netns)),
        ("--all-netns", options.all_netns),
        ("--source", options.source != "auto"),
        ("--buffer", options.buffer is not None),
    )
    for option, is_given in others:
        if is_given:
            raise UsageError("{one} does not go with {other}", one=option, other="--read")


def _follow(trace: Trace | Replay, writer: _Writer) -> None:
    from finwait.table.change import Loss, Ready, Summary

    with closing(iter(trace)) as items:  # type: ignore[type-var]
        for item in items:
            if isinstance(item, Ready):
                writer.begin(item)
            elif isinstance(item, Loss):
                writer.lose(item)
            elif isinstance(item, Summary):
                writer.sum_up(item)
            else:
                writer.write(item)
            sys.stdout.flush()


class _Writer(ABC):
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


class _TextWriter(_Writer):
    def begin(self, ready: Ready) -> None:
        from finwait.render.rows import RowRenderer
        from finwait.render.style import style_of

        super().begin(ready)
        self.style = style_of(sys.stdout, self.options.color, os.environ)
        self.with_netns = self.options.all_netns or len(self.options.netns) > 1
        if self.options.summary:
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


class _RecordingWriter(_Writer):
    """Prints nothing; what was kept is said at the end."""

    def write(self, batch: Batch) -> None:
        """There is nothing to print."""

    def sum_up(self, summary: Summary) -> None:
        """There is no summary."""

    def end(self) -> None:
        super().end()
        if self.begun:
            output.say(translate(RECORDED).format(count=self.trace.told, path=escape_foreign(self.options.record)))


class _CsvWriter(_Writer):
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


class _NdjsonWriter(_Writer):
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

        if self.begun:
            output.write_json(end_document(self.trace.provenance, self.trace.lost))


def _json_lines(batch: Batch, options: Namespace) -> bytes:
    from finwait.render.change_lines import change_lines, lifetime_lines

    return lifetime_lines(batch) if options.lifetimes else change_lines(batch)


class _JsonWriter(_Writer):
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

        if self.begun:
            end = dumps({"lost": self.trace.lost, **provenance_document(self.trace.provenance)})
            output.write_chunks([f"\n], {end[1:]}\n".encode()])


_WRITERS: dict[str | None, type[_Writer]] = {
    None: _TextWriter,
    "csv": _CsvWriter,
    "ndjson": _NdjsonWriter,
    "json": _JsonWriter,
}
