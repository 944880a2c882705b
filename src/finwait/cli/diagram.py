"""`finwait diagram`: the state diagram of TCP with live counts, and its exchanges as sequence diagrams."""

from __future__ import annotations

import os
import sys

from finwait.cli import output
from finwait.cli.parser import CommandParser, add_color, add_language, add_places, add_read, pause, request_of
from finwait.errors import UsageError
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from finwait.render.rates import Rates
    from finwait.table.snapshot import Notice, Snapshot
    from finwait.tcp.exchanges import Exchange
    from finwait.tcp.state import TcpState

DESCRIPTION = mark("Draw the state diagram of TCP, with how many sockets are in each state, or one of its exchanges.")
LOST = mark("{count} changes of state were lost and are in no rate")
STATES = "states"
FORMATS = ("text", "ascii", "svg", "mermaid", "dot", "json", "markdown")


def build_parser() -> CommandParser:
    """The command's parser."""
    parser = CommandParser("diagram", translate(DESCRIPTION), "[states [FILTER] | EXCHANGE]")
    parser.add_argument(
        "filter",
        nargs="*",
        metavar="NAME",
        help=translate(mark("states (the default) and a filter of what is counted, or an exchange")),
    )
    group = parser.add_argument_group(translate(mark("picture")))
    group.add_argument(
        "--counts", action="store_true", help=translate(mark("write into each state how many sockets are in it"))
    )
    group.add_argument(
        "--rates",
        type=pause,
        metavar="SECONDS",
        help=translate(
            mark("measure for so long how often connections take each arrow, write that on it, and then count")
        ),
    )
    group.add_argument(
        "--whole",
        action="store_true",
        help=translate(mark("mermaid, markdown, dot, json: also what ends a connection from any state")),
    )
    group.add_argument("--list", action="store_true", help=translate(mark("name the pictures")))
    add_read(add_places(parser))
    group = parser.add_argument_group(translate(mark("output")))
    group.add_argument("--format", choices=FORMATS, default="text", help=translate(mark("how to draw (default: text)")))
    add_color(group)
    add_language(group)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = build_parser().parse(arguments)
    from finwait.tcp.exchanges import EXCHANGES

    if options.list:
        output.write_lines([STATES, *(name.replace("_", "-") for name in EXCHANGES)])
        return 0
    words = list(options.filter)
    name = words.pop(0).lower().replace("-", "_") if words else STATES
    if name == STATES:
        _draw_states(options, words)
        return 0
    exchange = _find(name, EXCHANGES)
    if options.rates is not None:
        raise UsageError("an exchange has no rates; 'finwait diagram states' has")
    if words or options.counts or _names_a_place(options):
        raise UsageError("an exchange has no counts and no filter; 'finwait diagram states' has")
    _draw_exchange(options, exchange)
    return 0


def _names_a_place(options: argparse.Namespace) -> bool:
    """Whether the options say where to count."""
    return bool(options.netns or options.all_netns or options.read is not None)


def _find(name: str, exchanges: dict[str, Exchange]) -> Exchange:
    if name not in exchanges:
        from difflib import get_close_matches

        near = get_close_matches(name, [STATES, *exchanges], n=1, cutoff=0.4)
        if not near:
            raise UsageError("there is no picture '{word}'; 'finwait diagram --list' names them", word=name)
        raise UsageError(
            "there is no picture '{word}'; did you mean {nearest}?", word=name, nearest=near[0].replace("_", "-")
        )
    return exchanges[name]


def _draw_exchange(options: argparse.Namespace, exchange: Exchange) -> None:
    from finwait.render import sequence

    if options.format == "json":
        output.write_json(sequence.sequence_document(exchange), indent=1)
    elif options.format == "svg":
        from finwait.render.sequence_svg import sequence_svg

        _write_svg(sequence_svg(exchange))
    elif options.format == "mermaid":
        output.write_lines(sequence.sequence_mermaid(exchange))
    elif options.format == "dot":
        raise UsageError("an exchange is no graph; --format mermaid draws it")
    elif options.format == "markdown":
        output.write_lines(sequence.sequence_markdown(exchange))
    else:
        output.write_lines(sequence.render_sequence(exchange, unicode=_is_unicode(options)))


def _draw_states(options: argparse.Namespace, words: list[str]) -> None:
    notices: list[Notice] = []
    rates = None if options.rates is None else _measure(options, words, notices)
    snapshot = None
    if options.counts or rates is not None or words or _names_a_place(options):
        snapshot = _count(options, words)
        for notice in notices:
            snapshot.provenance.add_notice(notice)
    counts = None if snapshot is None else _counts_by_state(snapshot)
    if options.format == "json":
        _write_document(options, snapshot, counts, rates)
        return  # warnings are in it
    notes = [] if snapshot is None else _notes(snapshot)
    if options.format == "svg":
        _write_states_svg(counts, notes, rates)
    elif options.format in {"text", "ascii"}:
        _write_picture(options, counts, rates)
    else:
        _write_graph(options, counts, notes, rates)
    if snapshot is not None:
        output.say_notices(snapshot.provenance.notices)


def _write_document(
    options: argparse.Namespace, snapshot: Snapshot | None, counts: dict[TcpState, int] | None, rates: Rates | None
) -> None:
    from finwait.render.documents import provenance_document
    from finwait.render.state_graph import states_document

    provenance = None if snapshot is None else provenance_document(snapshot.provenance)
    output.write_json(states_document(counts, provenance, rates, whole=options.whole), indent=1)


def _write_states_svg(counts: dict[TcpState, int] | None, notes: list[str], rates: Rates | None) -> None:
    from finwait.render.state_svg import ROUTES, states_svg

    if rates is not None:
        from finwait.render.rates import rates_notes

        notes = [*rates_notes(rates, {(route.state, route.to) for route in ROUTES}), *notes]
    _write_svg(states_svg(counts, notes, rates))


def _write_graph(
    options: argparse.Namespace, counts: dict[TcpState, int] | None, notes: list[str], rates: Rates | None
) -> None:
    from finwait.render.state_graph import states_dot, states_markdown, states_mermaid

    if options.format == "markdown":
        if rates is not None:
            from finwait.render.rates import rates_title

            notes = [rates_title(rates), *notes]
        output.write_lines(states_markdown(counts, notes, rates, whole=options.whole))
    else:
        write = states_dot if options.format == "dot" else states_mermaid
        output.write_lines(write(counts, rates, whole=options.whole))


def _measure(options: argparse.Namespace, words: list[str], notices: list[Notice]) -> Rates:
    """How often connections change their state, in all namespaces together. notices: what is to be known about it goes there."""
    if options.read is not None:
        raise UsageError("a recording has no rates: they are measured on this host")
    if options.source not in {"auto", "bpf"}:
        raise UsageError("rates are measured by BPF only, not by --source {source}", source=options.source)
    from finwait.api import parse
    from finwait.render.rates import Rates
    from finwait.sources.change_records import COUNTS
    from finwait.table.change import Loss, Summary
    from finwait.table.snapshot import Notice
    from finwait.tracing import Trace, TraceQuestion

    question = TraceQuestion(request_of(options), parse(words), owners=False, tells=COUNTS, source="bpf")
    trace = Trace(question, for_s=options.rates, sleep=_Wait(options.rates))
    lost, seconds = 0, 0.0
    changes: dict[tuple[TcpState, TcpState], int] = {}
    for item in trace:
        if isinstance(item, Loss):
            lost += item.lost
        elif isinstance(item, Summary):
            seconds += item.seconds
            for totals in item.totals:
                for (left, reached), count in totals.changes.items():
                    if left is not None:  # BPF knows where each comes from
                        changes[left, reached] = changes.get((left, reached), 0) + count
    notices += trace.provenance.notices
    if lost:
        notices.append(Notice("changes_lost", LOST, missing="changes", arguments={"count": lost}))
    return Rates(changes, seconds)


class _Wait:
    """Sleeps. The first time, when the kernel has begun to count, it tells whoever waits at a terminal for how long."""

    def __init__(self, for_s: float) -> None:
        self.for_s = for_s
        self.is_told = not sys.stderr.isatty()

    def __call__(self, seconds: float) -> None:
        if not self.is_told:
            self.is_told = True
            output.say(translate(mark("measuring for {seconds:g} s")).format(seconds=self.for_s))
        from time import sleep

        sleep(seconds)


def _count(options: argparse.Namespace, words: list[str]) -> Snapshot:
    from finwait.api import count_for, parse

    return count_for(request_of(options), parse(words), ("state",), source=options.source, read=options.read)


def _notes(snapshot: Snapshot) -> list[str]:
    """What is counted, where and when, and what could not be seen."""
    from time import gmtime, strftime

    from finwait.render.documents import message_of
    from finwait.text.escape import escape_foreign

    host, seconds = snapshot.provenance.host, snapshot.provenance.taken_to
    message = translate(mark("sockets: {count}"))
    if host is not None and seconds is not None:
        message = translate(mark("sockets on {host}, {time}: {count}"))
    moment = "" if seconds is None else strftime("%Y-%m-%d %H:%M:%S UTC", gmtime(seconds))
    caption = message.format(count=snapshot.total, host=escape_foreign(host or "", 255), time=moment)
    return [caption, *(escape_foreign(message_of(notice), 1000) for notice in snapshot.provenance.notices)]


def _counts_by_state(snapshot: Snapshot) -> dict[TcpState, int]:
    from finwait.tcp.state import TcpState

    state_by_token = {state.token: state for state in TcpState}
    return {state_by_token[str(group.key[0])]: group.count for group in snapshot.groups}


def _write_picture(options: argparse.Namespace, counts: dict[TcpState, int] | None, rates: Rates | None) -> None:
    from finwait.render.count import COLOR_BY_WHO
    from finwait.render.labels import HEAVY, weight_of
    from finwait.render.state_text import ARROWS, render_states
    from finwait.render.style import style_of
    from finwait.tcp.waits import WAITS

    style = style_of(sys.stdout, options.color, os.environ)

    def paint(state: TcpState, name: str) -> str:
        if counts is not None and not counts.get(state):
            return style.paint(name, "dim")
        heavy = ("bold",) if (weight_of(state, counts) or 0) >= HEAVY else ()
        return style.paint(name, COLOR_BY_WHO[WAITS[state][0]], *heavy)

    def fade(text: str) -> str:
        return style.paint(text, "dim")

    is_plain = not style.color
    lines = render_states(
        counts,
        rates,
        unicode=_is_unicode(options),
        paint=None if is_plain else paint,
        fade=None if is_plain else fade,
    )
    output.write_lines(lines)
    if rates is not None:
        from finwait.render.rates import rates_lines

        output.write_lines(rates_lines(rates, {(arrow.state, arrow.to) for arrow in ARROWS}))


def _write_svg(lines: Iterator[str]) -> None:
    """In UTF-8, which XML is where it does not say otherwise, whatever the terminal takes."""
    output.write_chunks(f"{line}\n".encode() for line in lines)


def _is_unicode(options: argparse.Namespace) -> bool:
    return options.format != "ascii" and (sys.stdout.encoding or "ascii").lower().startswith("utf")
