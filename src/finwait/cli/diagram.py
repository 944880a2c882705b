"""`finwait diagram`: the state diagram of TCP with live counts, and its exchanges as sequence diagrams."""

from __future__ import annotations

import argparse
import os
import sys

from finwait.cli import output
from finwait.cli.parser import CommandParser, add_source_options, request_of
from finwait.errors import UsageError
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from finwait.tcp.exchanges import Exchange
    from finwait.tcp.state import TcpState

DESCRIPTION = mark("Draw the state diagram of TCP, with how many sockets are in each state, or one of its exchanges.")
STATES = "states"
FORMATS = ("text", "ascii", "mermaid", "dot", "json", "markdown")


class _Parser(CommandParser):
    """The first word names the picture, the others filter what is counted."""

    def format_help(self) -> str:
        """The help."""
        return argparse.ArgumentParser.format_help(self)


def build_parser() -> CommandParser:
    """The command's parser."""
    parser = _Parser("diagram", translate(DESCRIPTION))
    parser.usage = "%(prog)s [OPTIONS] [states [FILTER] | EXCHANGE]"
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
        "--whole",
        action="store_true",
        help=translate(mark("mermaid, dot, json: also what ends a connection from any state")),
    )
    group.add_argument("--list", action="store_true", help=translate(mark("name the pictures")))
    add_source_options(parser)
    group = parser.add_argument_group(translate(mark("output")))
    group.add_argument("--format", choices=FORMATS, default="text", help=translate(mark("how to draw (default: text)")))
    group.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help=translate(mark("colour (default: on a terminal)")),
    )
    group.add_argument(
        "--lang", metavar="LANG", help=translate(mark("language of messages: en or zh (default: from the locale)"))
    )
    return parser


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = build_parser().parse(arguments)
    from finwait.tcp.exchanges import EXCHANGES

    if options.list:
        output.write_lines([STATES, *(name.replace("_", "-") for name in EXCHANGES)])
        return 0
    if options.record is not None:
        raise UsageError("--record goes with count and list")
    words = list(options.filter)
    name = words.pop(0).lower().replace("-", "_") if words else STATES
    if name == STATES:
        _draw_states(options, words)
        return 0
    exchange = _find(name, EXCHANGES)
    if words or options.counts:
        raise UsageError("an exchange has no counts and no filter; 'finwait diagram states' has")
    _draw_exchange(options, exchange)
    return 0


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
    elif options.format == "mermaid":
        output.write_lines(sequence.sequence_mermaid(exchange))
    elif options.format == "dot":
        raise UsageError("an exchange is no graph; --format mermaid draws it")
    elif options.format == "markdown":
        output.write_lines(_fenced(sequence.sequence_mermaid(exchange)))
    else:
        output.write_lines(sequence.render_sequence(exchange, unicode=_is_unicode(options)))


def _draw_states(options: argparse.Namespace, words: list[str]) -> None:
    counts = None
    notices: Sequence[object] = ()
    if options.counts or words or options.read is not None:
        counts, notices = _count(options, words)
    from finwait.render import state_graph

    if options.format == "json":
        output.write_json(state_graph.states_document(counts, whole=options.whole), indent=1)
    elif options.format == "dot":
        output.write_lines(state_graph.states_dot(counts, whole=options.whole))
    elif options.format in {"mermaid", "markdown"}:
        lines = state_graph.states_mermaid(counts, whole=options.whole)
        output.write_lines(lines if options.format == "mermaid" else _fenced(lines))
    else:
        _write_picture(options, counts)
    output.say_notices(notices)  # type: ignore[arg-type]


def _count(options: argparse.Namespace, words: list[str]) -> tuple[dict[TcpState, int], Sequence[object]]:
    from finwait.api import count_for, parse
    from finwait.tcp.state import TcpState

    state_by_token = {state.token: state for state in TcpState}
    snapshot = count_for(request_of(options), parse(words), ("state",), source=options.source, read=options.read)
    return {state_by_token[str(group.key[0])]: group.count for group in snapshot.groups}, snapshot.warnings


def _write_picture(options: argparse.Namespace, counts: dict[TcpState, int] | None) -> None:
    from finwait.render.count import COLOR_BY_WHO
    from finwait.render.state_text import render_states
    from finwait.render.style import style_of
    from finwait.tcp.waits import WAITS

    style = style_of(sys.stdout, options.color, os.environ)

    def paint(state: TcpState, name: str) -> str:
        if counts is not None and not counts.get(state):
            return style.paint(name, "dim")
        return style.paint(name, COLOR_BY_WHO[WAITS[state][0]])

    output.write_lines(render_states(counts, unicode=_is_unicode(options), paint=paint if style.color else None))


def _is_unicode(options: argparse.Namespace) -> bool:
    return options.format != "ascii" and (sys.stdout.encoding or "ascii").lower().startswith("utf")


def _fenced(lines: Iterator[str]) -> Iterator[str]:
    yield "```mermaid"
    yield from lines
    yield "```"
