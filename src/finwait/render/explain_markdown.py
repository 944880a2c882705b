"""Explanations as Markdown: what docs/states.md is made of."""

from __future__ import annotations

from finwait.render.explain import (
    NAME_BY_TOKEN,
    NO_PATH,
    NO_TIMER,
    NO_WAY,
    PATH,
    RFC,
    TITLES,
    ending_timers,
    option_text,
    seconds_text,
    sysctl_text,
    way_text,
    who_text,
)
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    Part = Mapping[str, Any]
    Parts = Sequence[Part]

URL = "https://www.rfc-editor.org/rfc/rfc9293#section-"


class MarkdownPage:
    """of_host: whether values of this host are in the document. level: of the headings that name a state or a timer."""

    __slots__ = ("level", "of_host")

    def __init__(self, *, of_host: bool = True, level: int = 2) -> None:
        self.of_host = of_host
        self.level = level

    def states(self, states: Parts) -> Iterator[str]:
        """A part for each state."""
        for state in states:
            yield from self._heading(state["name"])
            if state["count"] is not None:
                yield from (translate(mark("here now: {count}")).format(count=state["count"]), "")
            yield from _paragraphs(state["what"])
            who = translate(mark("Must act: {who}")).format(who=who_text(state["must_act"]))
            yield from (f"**{translate(TITLES['wait'])}**: {state['wait']} {who}", "")
            yield from _ways(TITLES["ways_in"], state["ways_in"], "from")
            yield from _ways(TITLES["ways_out"], state["ways_out"], "to")
            yield from self._timers_of(ending_timers(state["timers"]))
            settings = [_code(sysctl_text(sysctl, of_host=self.of_host)) for sysctl in state["settings"]]
            yield from _list(TITLES["settings"], settings)
            for key in ("normal", "trouble"):
                yield from _list(TITLES[key], state[key])
            yield from _list(TITLES["look"], [f"`{look['command']}`: {look['why']}" for look in state["look"]])
            for key in ("help", "useless"):
                yield from _list(TITLES[key], state[key])
            yield from _departures(state["linux"])
            yield from _rfc(state["rfc"])

    def timers(self, timers: Parts) -> Iterator[str]:
        """A part for each timer."""
        for timer in timers:
            yield from self._heading(timer["timer"])
            yield from _paragraphs([timer["what"]])
            names = ", ".join(NAME_BY_TOKEN[token] for token in timer["states"])
            yield from (translate(mark("It runs in: {states} ({when})")).format(states=names, when=timer["when"]), "")
            yield from (translate(mark("At its end: {ends}")).format(ends=timer["ends"]), "")
            yield from _list(TITLES["settings"], self._setters(timer))
            yield from _list(TITLES["useless"], timer["useless"])
            yield from _rfc(timer["rfc"])

    def events(self, events: Parts) -> Iterator[str]:
        """A part for each event, with the arrows that it is on."""
        for event in events:
            yield from self._heading(event["event"])
            yield from _paragraphs([f"{event['what']} ({who_text(event['who'])})"])
            names = (mark("From"), mark("To"), mark("What happens"), RFC)
            yield f"| {' | '.join(map(translate, names))} |"
            yield "| --- | --- | --- | --- |"
            for way in event["ways"]:
                states = f"{NAME_BY_TOKEN[way['from']]} | {NAME_BY_TOKEN[way['to']]}"
                yield f"| {states} | {way_text(way)} | {way['rfc']} |"
            yield ""

    def transition(self, transition: Part) -> Iterator[str]:
        """What leads from a state to another, or that nothing does and what does instead."""
        state, to = NAME_BY_TOKEN[transition["from"]], NAME_BY_TOKEN[transition["to"]]
        yield from self._heading(f"{state} > {to}")
        if transition["ways"]:
            yield from _ways(None, transition["ways"], "to")
            yield from _departures(transition["linux"])
            yield from _rfc(transition["rfc"])
            return
        yield from (translate(NO_WAY).format(state=state, to=to), "")
        path = " > ".join(NAME_BY_TOKEN[token] for token in transition["path"])
        yield from (translate(PATH).format(path=path) if path else translate(NO_PATH).format(state=state, to=to), "")
        yield from _ways(translate(mark("What leads to {state}")).format(state=to), transition["ways_in"], "from")
        yield from _ways(translate(mark("What leads from {state}")).format(state=state), transition["ways_out"], "to")

    def _heading(self, text: str) -> Iterator[str]:
        yield from (f"{'#' * self.level} {text}", "")

    def _timers_of(self, timers: Parts) -> Iterator[str]:
        texts = [
            f"`{timer['timer']}`, {timer['when']}: {timer['ends']} {'; '.join(self._setters(timer))}"
            for timer in timers
        ]
        yield from _list(TITLES["timers"], texts or [translate(NO_TIMER)])

    def _setters(self, timer: Part) -> list[str]:
        texts = [_code(sysctl_text(sysctl, of_host=self.of_host)) for sysctl in timer["sysctls"]]
        texts = texts or [translate(mark("no sysctl"))]
        more = (option_text(timer), seconds_text(timer, of_host=self.of_host))
        return [*texts, *(text for text in more if text is not None)]


def _paragraphs(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from (text, "")


def _list(title: str, texts: Sequence[str]) -> Iterator[str]:
    if texts:
        yield from (f"**{translate(title)}**", "", *(f"- {text}" for text in texts), "")


def _departures(departures: Parts) -> Iterator[str]:
    yield from _list(TITLES["linux"], [f"{departure['what']} ({departure['source']})" for departure in departures])


def _rfc(sections: Iterable[str]) -> Iterator[str]:
    yield from (f"{RFC}: {', '.join(f'[{section}]({URL}{section})' for section in sections)}", "")


def _code(text: str) -> str:
    """The name of a sysctl, which stands first, as code."""
    end = next(
        (
            at
            for at, character in enumerate(text)
            if not (character.isascii() and (character.isalnum() or character in "._"))
        ),
        len(text),
    )
    return f"`{text[:end]}`{text[end:]}"


def _ways(title: str | None, ways: Parts, end: str) -> Iterator[str]:
    """A table of arrows. end: from or to, the state that is shown."""
    if title is not None:
        yield from (f"**{translate(title)}**", "")
    titles = (mark("From"), mark("Who"), mark("What happens"), RFC) if end == "from" else (
        mark("To"), mark("Who"), mark("What happens"), RFC)  # fmt: skip
    yield f"| {' | '.join(map(translate, titles))} |"
    yield "| --- | --- | --- | --- |"
    for way in ways:
        yield f"| {NAME_BY_TOKEN[way[end]]} | {who_text(way['who'])} | {way_text(way)} | {way['rfc']} |"
    yield ""
