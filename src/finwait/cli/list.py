"""`finwait list`: one line a connection, streamed."""

from __future__ import annotations

import os
import sys

from finwait.api import DEFAULT_COLUMNS, column_names, open_stream, parse, question
from finwait.cli.parser import (
    CommandParser,
    FilterParser,
    add_output_options,
    add_source_options,
    request_of,
    whole_number,
)  # fmt: skip
from finwait.errors import UsageError
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence

    from finwait.monitor import Stream
    from finwait.query.expression import Filter
    from finwait.sources.archive import Recorder
    from finwait.table.batch import Batch

DESCRIPTION = mark("List TCP connections, one line each.")
STYLES = ("finwait", "ss")
OWNER_COLUMNS = ("process", "pid", "fd")
GHOST_COLUMNS = ("state", "local", "peer", "process", "pid", "fd")
TIMER_COLUMNS = ("timer", "expires_ms", "retransmits")
INFO_COLUMNS = ("congestion", "rtt_us", "rttvar_us", "rto_us", "snd_cwnd", "unacked", "retrans", "total_retrans",
                "bytes_sent", "bytes_received", "last_data_sent_ms", "last_data_recv_ms")  # fmt: skip
MEMORY_COLUMNS = (
    "rmem_alloc",
    "rcvbuf",
    "wmem_alloc",
    "sndbuf",
    "fwd_alloc",
    "wmem_queued",
    "optmem",
    "backlog",
    "drops",
)
# ss has one pair of columns for the queues of connections and of listeners
SS_COLUMNS = ("state", "recv_q", "send_q", "local", "peer")
SS_TITLES = ("State", "Recv-Q", "Send-Q", "Local Address:Port", "Peer Address:Port")


def build_parser() -> CommandParser:
    """The command's parser."""
    parser = FilterParser("list", translate(DESCRIPTION))
    add_source_options(parser)
    group = parser.add_argument_group(translate(mark("columns and rows")))
    group.add_argument(
        "--columns",
        metavar="COLUMN[,COLUMN]",
        help=translate(mark("show these columns; +COLUMN[,COLUMN] adds to the usual ones")),
    )
    group.add_argument(
        "-o",
        "--options",
        dest="timers",
        action="store_true",
        help=translate(mark("also the timer, when it fires, and retransmits")),
    )
    group.add_argument(
        "-i",
        "--info",
        action="store_true",
        help=translate(mark("also round-trip time, congestion window, retransmits and traffic (tcp_info)")),
    )
    group.add_argument("-m", "--memory", action="store_true", help=translate(mark("also the socket's memory")))
    group.add_argument(
        "-p",
        "--processes",
        action="store_true",
        help=translate(mark("also the process that holds the socket, its id and descriptor")),
    )
    group.add_argument(
        "--ghosts",
        action="store_true",
        help=translate(
            mark("only descriptors of connections that have ended and were never closed, which nothing else shows")
        ),
    )
    group.add_argument("-l", "--listening", action="store_true", help=translate(mark("listeners only")))
    group.add_argument(
        "-a",
        "--all",
        action="store_true",
        help=translate(mark("every state; this is the default, the letter is for fingers used to ss")),
    )
    group.add_argument(
        "-n", "--numeric", action="store_true", help=translate(mark("numbers for addresses and ports; likewise"))
    )
    group.add_argument("-t", "--tcp", action="store_true", help=translate(mark("TCP; likewise")))
    group.add_argument(
        "--sort", metavar="[-]COLUMN[,...]", help=translate(mark("order by these columns, - for descending"))
    )
    group.add_argument("--limit", type=whole_number, metavar="N", help=translate(mark("at most N rows")))
    add_output_options(parser, STYLES)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = build_parser().parse(arguments)
    wanted = parse(options.filter)
    if options.ghosts and options.style == "ss" and not options.form:
        raise UsageError("ss knows no ghosts; --ghosts does not go with --style ss")
    if options.ghosts and options.listening:
        raise UsageError("a ghost is no listener; --ghosts does not go with -l")
    if options.listening:
        wanted = _listeners_of(wanted)
    elif options.style == "ss" and not options.form:
        wanted = _as_ss(wanted)
    columns = _columns(options, wanted)
    if options.record is None:
        _list(options, wanted, columns, None)
    else:
        from finwait.cli.recording import recording_to

        with recording_to(options.record) as recorder:
            stream = _list(options, wanted, columns, recorder)
            recorder.finish(stream.provenance)
    return 0


def _columns(options: Namespace, wanted: Filter | None) -> tuple[str, ...]:
    text: str | None = options.columns
    chosen = () if text is None else column_names(text.removeprefix("+"))
    if text is not None and not text.startswith("+"):
        base: tuple[str, ...] = chosen
        chosen = ()
    else:
        base = _usual_columns(options, wanted)
    if (options.all_netns or len(options.netns) > 1) and text is None:
        base = (*base, "netns")
    owners: tuple[str, ...] = OWNER_COLUMNS
    if options.form:  # programs read why there is no owner from a column of its own
        owners = (*OWNER_COLUMNS, "owner_kind", "matched_by")
    elif options.style == "ss":
        owners = ("process",)
    extra = (*(owners if options.processes else ()), *(TIMER_COLUMNS if options.timers else ()), *(INFO_COLUMNS if options.info else ()),
             *(MEMORY_COLUMNS if options.memory else ()))  # fmt: skip
    return tuple(dict.fromkeys((*base, *extra, *chosen)))


def _usual_columns(options: Namespace, wanted: Filter | None) -> tuple[str, ...]:
    """What is shown when nobody says; text leaves out the queues that no row can have."""
    from finwait.tcp.state import ALL_STATES, TcpState

    if options.ghosts:
        return GHOST_COLUMNS
    if options.form:
        return DEFAULT_COLUMNS
    if options.style == "ss":
        return SS_COLUMNS
    states = ALL_STATES if wanted is None else wanted.states
    absent: tuple[str, ...] = ()
    if TcpState.LISTEN not in states:
        absent = ("accept_queue_length", "accept_queue_limit")
    elif states == {TcpState.LISTEN}:
        absent = ("recv_q", "send_q")
    return tuple(name for name in DEFAULT_COLUMNS if name not in absent)


def _listeners_of(wanted: Filter | None) -> Filter:
    from finwait.query.expression import Filter
    from finwait.tcp.state import TcpState

    wanted = wanted or Filter()
    listening = wanted.states & {TcpState.LISTEN}
    if not listening:
        raise UsageError("-l shows listeners, and the filter leaves them out: {text}", text=wanted.text)
    return Filter(listening, wanted.expression, wanted.family, wanted.text)


def _as_ss(wanted: Filter | None) -> Filter:
    """ss does not know sockets that are bound and not connected; they are shown where the filter names states."""
    from finwait.query.expression import Filter
    from finwait.tcp.state import ALL_STATES, TcpState

    wanted = wanted or Filter()
    if wanted.states != ALL_STATES:
        return wanted
    return Filter(ALL_STATES - {TcpState.CLOSE}, wanted.expression, wanted.family, wanted.text)


def _list(options: Namespace, wanted: Filter | None, columns: tuple[str, ...], recorder: Recorder | None) -> Stream:
    from finwait.query.ordering import limited, parse_order, sorted_batches

    order = () if options.sort is None else parse_order(options.sort)
    asked = question(
        request_of(options), wanted, source=options.source, read=options.read, recorder=recorder, ghosts=options.ghosts
    )
    hidden = (
        ("accept_queue_length", "accept_queue_limit", "v6only", *(("pid", "fd") if options.processes else ()))
        if options.style == "ss"
        else ()
    )
    stream = open_stream(asked, (*columns, *hidden, *(name for name, _ in order)))
    batches: Iterator[Batch] = iter(stream)
    if order:
        batches = sorted_batches(batches, order)
    if options.limit is not None:
        batches = limited(batches, options.limit, drain=recorder is not None)
    _write(options, stream, batches, columns)
    return stream


def _write(options: Namespace, stream: Stream, batches: Iterator[Batch], columns: tuple[str, ...]) -> None:
    from finwait.cli import output

    if options.form in {"json", "ndjson"}:
        from finwait.render.lists import render_json, render_ndjson

        render = render_json if options.form == "json" else render_ndjson
        output.write_chunks(render(batches, columns, stream.provenance))
        return
    if options.form == "csv":
        from finwait.render.lists import list_csv

        output.write_csv(list_csv(batches, columns, header=options.header))
    else:
        _write_text(options, batches, columns)
    output.say_notices(stream.provenance.notices)


def _write_text(options: Namespace, batches: Iterator[Batch], columns: tuple[str, ...]) -> None:
    from finwait.cli import output
    from finwait.render.rows import RowRenderer
    from finwait.render.style import style_of

    titles = None
    spelling = "rfc"
    if options.style == "ss":
        title_by_column = dict(zip((*SS_COLUMNS, "process"), (*SS_TITLES, "Process"), strict=True))
        titles = [title_by_column.get(name, name) for name in columns]
        spelling = "ss"
        if options.processes:
            from finwait.render.ss_users import fold_owners

            batches = fold_owners(batches)
    encoding = sys.stdout.encoding or "ascii"
    renderer = RowRenderer(columns, spelling=spelling, titles=titles, encoding=encoding)
    style = style_of(sys.stdout, options.color, os.environ)
    output.write_chunks(renderer.render(batches, style, header=options.header))
