"""`finwait count`: connections by state, or by any columns."""

from __future__ import annotations

import os
import sys
import time

from finwait.api import column_names, count_for, parse
from finwait.cli.parser import (
    CommandParser,
    FilterParser,
    add_output_options,
    add_source_options,
    pause,
    request_of,
    whole_number,
)
from finwait.errors import UsageError
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence
    from typing import NoReturn

    from finwait.table.snapshot import Snapshot

DESCRIPTION = mark("Count TCP connections by state and tell what each state waits for.")
STYLES = ("finwait", "ss", "netstat")
WATCH_S = 2.0


def build_parser() -> CommandParser:
    """The command's parser."""
    parser = FilterParser("count", translate(DESCRIPTION))
    add_source_options(parser)
    group = parser.add_argument_group(translate(mark("grouping")))
    group.add_argument(
        "--by",
        default="state",
        metavar="COLUMN[,COLUMN]",
        help=translate(mark("group by these columns (default: state)")),
    )
    group.add_argument(
        "--top",
        type=whole_number,
        metavar="N",
        help=translate(mark("show the N largest groups and fold the rest into other")),
    )
    group.add_argument(
        "--sort",
        metavar="[-]COLUMN[,...]",
        help=translate(mark("order of the groups: count or columns of --by, - for descending")),
    )
    parser.add_argument(
        "--watch",
        nargs="?",
        type=pause,
        const=WATCH_S,
        metavar="SECONDS",
        help=translate(mark("count again and again (default: every 2 seconds)")),
    )
    add_output_options(parser, STYLES)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = build_parser().parse(arguments)
    by = column_names(options.by)
    if options.style == "netstat" and by != ("state",):
        raise UsageError("--style netstat counts by state, not by {by}", by=options.by)
    order = _order(options.sort, by)
    if options.watch is not None:
        _watch(options, by, order)
    _write(_sorted(_count(options, by), by, order), options)
    return 0


def _sorted(snapshot: Snapshot, by: tuple[str, ...], order: tuple[tuple[str, bool], ...]) -> Snapshot:
    if order:
        from finwait.query.groups import sorted_groups

        snapshot.groups = sorted_groups(snapshot.groups, by, order)
    return snapshot


def _watch(options: Namespace, by: tuple[str, ...], order: tuple[tuple[str, bool], ...]) -> NoReturn:
    """Write counts until interrupted; each begins where the last one did on a terminal, else behind it."""
    if options.record is not None or options.read is not None:
        raise UsageError("--watch counts this host; it does not go with --read or --record")
    from finwait.watching import watch_counts

    wanted = parse(options.filter)
    whole = wanted is None and options.family is None and options.top is None
    request = request_of(options)
    snapshots = watch_counts(
        request, options.watch, count=lambda: _count(options, by), source=options.source, by=by if whole else None
    )
    told: set[str] = set()
    if options.form == "json":
        options.form = "ndjson"  # a document each, one line each
    for number, snapshot in enumerate(snapshots):
        if options.form is None:
            _begin_page(number, snapshot)
        if options.form in {None, "csv"}:  # what documents hold is said once
            options.header = options.header and (options.form is None or number == 0)
            notices = snapshot.provenance.notices
            snapshot.provenance.notices = [notice for notice in notices if notice.code not in told]
            told.update(notice.code for notice in notices)
        _write(_sorted(snapshot, by, order), options)
        sys.stdout.flush()
    raise AssertionError("a watch never ends by itself")


def _begin_page(number: int, snapshot: Snapshot) -> None:
    if sys.stdout.isatty() and os.environ.get("TERM") not in {None, "", "dumb"}:
        sys.stdout.write("\x1b[H\x1b[J")
    elif number:
        sys.stdout.write("\n")
    sys.stdout.write(time.strftime("%H:%M:%S\n", time.localtime(snapshot.provenance.taken_to)))


def _order(text: str | None, by: tuple[str, ...]) -> tuple[tuple[str, bool], ...]:
    if text is None:
        return ()
    from finwait.query.groups import parse_group_order

    return parse_group_order(text, by)


def _count(options: Namespace, by: tuple[str, ...]) -> Snapshot:
    request, wanted = request_of(options), parse(options.filter)
    if options.record is None:
        return count_for(request, wanted, by, top=options.top, source=options.source, read=options.read)
    from finwait.cli.recording import recording_to

    with recording_to(options.record) as recorder:
        snapshot = count_for(
            request, wanted, by, top=options.top, source=options.source, read=options.read, recorder=recorder
        )
        recorder.finish(snapshot.provenance)
    return snapshot


def _write(snapshot: Snapshot, options: Namespace) -> None:
    from finwait.cli import output

    if options.form in {"json", "ndjson"}:
        from finwait.render.documents import count_document

        output.write_json(count_document(snapshot), indent=1 if options.form == "json" else None)
        return
    if options.form == "csv":
        from finwait.render.documents import count_csv, timestamp

        at = None if options.watch is None else timestamp(snapshot.provenance.taken_to)
        output.write_csv(count_csv(snapshot, header=options.header, at=at))
        if snapshot.other:
            output.say(translate(mark("{count} connections in {groups} other groups")).format(
                count=snapshot.other, groups=snapshot.other_groups))  # fmt: skip
    elif options.style == "netstat":
        from finwait.render.count import render_count_netstat

        output.write_lines(render_count_netstat(snapshot))
    else:
        from finwait.render.count import render_count
        from finwait.render.style import style_of, terminal_columns

        style = style_of(sys.stdout, options.color, os.environ)
        spelling = "ss" if options.style == "ss" else "rfc"
        columns = terminal_columns(sys.stdout)
        output.write_lines(render_count(snapshot, style, spelling, header=options.header, columns=columns))
    output.say_notices(snapshot.provenance.notices)
