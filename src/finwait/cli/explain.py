"""`finwait explain`: what a state, a timer or a transition is, who must act, and what helps."""

from __future__ import annotations

import argparse
import os
import sys

from finwait.cli.parser import CommandParser, add_color, add_language
from finwait.errors import FinwaitError, UsageError
from finwait.text.messages import language_in_use, mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Any

    from finwait.table.snapshot import Provenance
    from finwait.tcp.state import TcpState

DESCRIPTION = mark("Explain the states of TCP, its timers, and what leads from one state to another, and why.")
NO_SOURCE = "none"  # nothing was counted; null in JSON
NOT_COUNTED = mark("the sockets could not be counted: {reason}")


def build_parser() -> CommandParser:
    """The command's parser."""
    parser = CommandParser(
        "explain", translate(DESCRIPTION), "[STATE... | transition STATE STATE | timer NAME... | why NAME...]"
    )
    parser.set_defaults(filter=[])
    parser.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        help=translate(
            mark(
                "states in any spelling, or all; transition and two states; timer and its names; why and what finwait trace "
                "has in WHY"
            )
        ),
    )
    group = parser.add_argument_group(translate(mark("output")))
    form = group.add_mutually_exclusive_group()
    form.add_argument(
        "--json", dest="form", action="store_const", const="json", help=translate(mark("one JSON document"))
    )
    form.add_argument(
        "--markdown", dest="form", action="store_const", const="markdown", help=translate(mark("Markdown"))
    )
    group.add_argument(
        "--no-counts",
        dest="counts",
        action="store_false",
        help=translate(mark("do not count the sockets of this host")),
    )
    add_color(group)
    add_language(group)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = build_parser().parse(arguments)
    asked = _Asked([*options.words, *options.filter])  # the latter stood behind --
    counts, provenance = _count(asked.states) if options.counts and asked.states else (None, _uncounted())
    from finwait.render.explain import Explainer
    from finwait.sources.sysctls import read_sysctls
    from finwait.tcp.explanations import read_explanations
    from finwait.tcp.timers import SYSCTLS

    language = language_in_use()
    explainer = Explainer(read_explanations(language), read_sysctls(SYSCTLS), counts)
    document = explainer.document(language, asked.states, asked.timers, asked.pair, asked.events)
    _write(document, asked, options, provenance)
    return 0


class _Asked:
    """What the words ask for. is_overview: no words. Raises UsageError with the nearest right word."""

    __slots__ = ("events", "is_overview", "pair", "states", "timers")

    def __init__(self, words: Sequence[str]) -> None:
        from finwait.tcp.transitions import STATES

        self.is_overview = not words
        self.states: Sequence[TcpState] = STATES if self.is_overview else ()
        self.timers: Sequence[str] = ()
        self.events: Sequence[str] = ()
        self.pair: tuple[TcpState, TcpState] | None = None
        first = words[0].lower() if words else ""
        if first in {"timer", "timers"}:
            self.timers = _timers(words[1:])
        elif first == "why":
            self.events = _events(words[1:])
        elif first in {"transition", "transitions"}:
            self.pair = _pair(words[1:])
        elif words:
            asked = frozenset().union(*map(_states, words))
            self.states = [state for state in STATES if state in asked]


def _states(word: str) -> frozenset[TcpState]:
    from finwait.tcp.state import is_state_word, parse_states
    from finwait.tcp.timers import TIMERS
    from finwait.tcp.transitions import EVENTS

    if not is_state_word(word) and _folded(word) in TIMERS:
        raise UsageError(
            "'{word}' is a timer; 'finwait explain timer {timer}' tells of it", word=word, timer=_folded(word)
        )
    if not is_state_word(word) and _folded(word) in EVENTS:
        raise UsageError(
            "'{word}' is no state; 'finwait explain why {event}' tells of it", word=word, event=_folded(word)
        )
    return parse_states(word)


def _events(words: Sequence[str]) -> list[str]:
    from finwait.tcp.transitions import EVENTS

    if [word.lower() for word in words] == ["all"]:
        return list(EVENTS)
    return _known(words, EVENTS, mark("no change has the cause '{word}'; did you mean {nearest}?"))


def _timers(words: Sequence[str]) -> list[str]:
    from finwait.tcp.timers import TIMERS

    return _known(words, TIMERS, mark("unknown timer '{word}'; did you mean {nearest}?"))


def _known(words: Sequence[str], names: Collection[str], unknown: str) -> list[str]:
    """The names that the words are, without words all. unknown: what to say of another word."""
    for word in words:
        if _folded(word) not in names:
            from difflib import get_close_matches

            near = get_close_matches(_folded(word), list(names), n=1, cutoff=0.5) or names
            raise UsageError(unknown, word=word, nearest=", ".join(near))
    return [_folded(word) for word in words] or list(names)


def _folded(word: str) -> str:
    """A timer's name as the table has it; ss's and finwait's names of a running timer too."""
    name = word.lower().replace("-", "_")
    return {"on": "retransmit", "timewait": "time_wait", "probe": "persist"}.get(name, name)


def _pair(words: Sequence[str]) -> tuple[TcpState, TcpState]:
    from finwait.tcp.state import parse_state

    if len(words) != 2:
        raise UsageError("'finwait explain transition' takes two states, not {count}", count=len(words))
    return parse_state(words[0]), parse_state(words[1])


def _count(states: Sequence[TcpState]) -> tuple[dict[str, int] | None, Provenance]:
    """Sockets in `states` by token, and how they were counted; None where they cannot be counted here."""
    from finwait.api import count_for
    from finwait.table.request import Request
    from finwait.table.snapshot import Notice
    from finwait.tcp.state import BOUND_INACTIVE, TcpState

    mask = sum(1 << state for state in states) | (1 << BOUND_INACTIVE if TcpState.CLOSE in states else 0)
    try:
        snapshot = count_for(Request(states=mask), None, ("state",))
    except FinwaitError as error:
        provenance = _uncounted()
        provenance.add_notice(Notice("not_counted", NOT_COUNTED, missing="count", arguments={"reason": error}))
        return None, provenance
    return {str(group.key[0]): group.count for group in snapshot.groups}, snapshot.provenance


def _uncounted() -> Provenance:
    """Of an answer without a count."""
    from finwait.table.snapshot import Provenance

    return Provenance(NO_SOURCE, host=_host())


def _host() -> str:
    return os.uname().nodename


def _write(document: dict[str, Any], asked: _Asked, options: argparse.Namespace, provenance: Provenance) -> None:
    from finwait.cli import output

    if options.form == "json":
        from finwait.render.documents import provenance_document

        told = provenance_document(provenance)
        told["source"] = None if provenance.source == NO_SOURCE else provenance.source
        head = {key: document.pop(key) for key in ("schema", "language")}
        output.write_json({**head, **told, **document}, indent=1)
        return
    if options.form == "markdown":
        from finwait.render.explain_markdown import MarkdownPage

        markdown = MarkdownPage()
        lines = [*markdown.states(document["states"]), *markdown.timers(document["timers"])]
        lines += markdown.events(document["events"])
        lines += markdown.transition(document["transition"]) if asked.pair else []
        output.write_lines(lines[:-1])
    else:
        output.write_lines(_text(document, asked, options.color))
    output.say_notices(provenance.notices)


def _text(document: dict[str, Any], asked: _Asked, color: str) -> list[str]:
    from finwait.render.explain_text import TextPage
    from finwait.render.style import style_of, terminal_columns
    from finwait.tcp.timers import TIMERS

    page = TextPage(style_of(sys.stdout, color, os.environ), terminal_columns(sys.stdout))
    if asked.is_overview:
        return list(page.overview(document["states"], TIMERS))
    if asked.pair:
        return list(page.transition(document["transition"]))
    return [*page.states(document["states"]), *page.timers(document["timers"]), *page.events(document["events"])]
