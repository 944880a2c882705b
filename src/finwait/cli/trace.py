"""`finwait trace`: every change of state as it happens, also those of TIME-WAIT, FIN-WAIT-2 and half-open connections."""

from __future__ import annotations

import sys
from contextlib import closing

from finwait.api import parse
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
from finwait.errors import FinwaitError, UsageError
from finwait.query.narrowing import TESTABLE
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from finwait.cli.trace_writers import Writer
    from finwait.replaying import Replay
    from finwait.tracing import Trace, TraceQuestion

DESCRIPTION = mark(
    "Follow TCP connections through their states: who changed, when, why, and for how long it had waited."
)
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
        "--record",
        metavar="FILE",
        help=translate(mark("write the changes to FILE, for --read, and print nothing; - is standard output")),
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
    with (
        WhileAsleep() as interrupts
    ):  # also while modules are imported: Python ends by SIGINT where that is interrupted
        from finwait.cli.trace_writers import writer_of

        trace = _trace(_question(options), options, interrupts)
        writer = writer_of(options, trace, prints=_prints(options))
        try:
            _follow(trace, writer)
        except KeyboardInterrupt:
            writer.end()
            raise
        except FinwaitError as error:
            writer.fail(error)
            raise
        writer.end()
    return 0


def _question(options: Namespace) -> TraceQuestion:
    from finwait.sources.change_records import CHANGES, COUNTS, LIFETIMES
    from finwait.tracing import TraceQuestion

    return TraceQuestion(
        request_of(options),
        parse(options.filter),
        least_us=round(options.min_time * 1_000_000),
        owners=options.owners,
        ring_bytes=None if options.buffer is None else options.buffer << 20,
        tells=LIFETIMES if options.lifetimes else COUNTS if options.summary else CHANGES,
        every_s=options.every,
        source=options.source,
        by=options.by,
        is_recorded=options.read is not None,
    )


def _prints(options: Namespace) -> bool:
    return options.record is None or options.prints or options.form is not None


def _trace(question: TraceQuestion, options: Namespace, interrupts: WhileAsleep) -> Trace | Replay:
    if options.read is not None:
        from finwait.replaying import Replay

        return Replay(question, options.read, most=options.count, until=interrupts.until)
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
    if options.record == "-" and (options.prints or options.form is not None):
        raise UsageError("--record - writes to standard output, where nothing else can be printed")
    if options.record == "-" and sys.stdout.isatty():
        raise UsageError("a recording is not for a terminal; --record FILE, or a pipe behind --record -")
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


def _follow(trace: Trace | Replay, writer: Writer) -> None:
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
