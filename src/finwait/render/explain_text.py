"""Explanations for a terminal: a page a state, in lines that fit."""

from __future__ import annotations

from finwait.render.explain import (
    NAME_BY_TOKEN,
    NO_PATH,
    NO_TIMER,
    NO_WAY,
    PATH,
    RFC,
    TITLES,
    WHO,
    ending_timers,
    option_text,
    seconds_text,
    sysctl_text,
    way_text,
    who_text,
)
from finwait.render.wrap import wrapped
from finwait.text.messages import mark, translate
from finwait.text.width import display_width, pad_right

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from finwait.render.style import Style

    Part = Mapping[str, Any]
    Parts = Sequence[Part]

USUAL_COLUMNS = 100
LEAST_COLUMNS = 40
_COLORS = {"nobody": "green", "peer": "yellow", "program": "red", "clock": "blue", "kernel": "yellow"}
_STATE_CELLS = max(map(len, NAME_BY_TOKEN.values()))
_PARAGRAPHS = ("normal", "trouble", "help", "useless")


class TextPage:
    """style: colours. columns: of the terminal, None for none. of_host: whether values of this host are in the document."""

    __slots__ = ("columns", "of_host", "style", "who_cells")

    def __init__(self, style: Style, columns: int | None = None, *, of_host: bool = True) -> None:
        self.style = style
        self.columns = max(min(columns or USUAL_COLUMNS, USUAL_COLUMNS), LEAST_COLUMNS)
        self.of_host = of_host
        self.who_cells = max(display_width(who_text(token)) for token in WHO)

    def overview(self, states: Iterable[Part], timers: Iterable[str]) -> Iterator[str]:
        """A line a state, and how to go on."""
        titles = [translate(mark("STATE")), translate(mark("COUNT")), translate(mark("MUST ACT")),
                  translate(mark("WAITS FOR"))]  # fmt: skip
        rows = [
            [state["name"], "" if state["count"] is None else str(state["count"]),
             who_text(state["must_act"]), state["waits_for"]]
            for state in states
        ]  # fmt: skip
        shown = [at for at in range(4) if at != 1 or any(row[1] for row in rows)]
        widths = [max(display_width(row[at]) for row in [titles, *rows]) for at in range(4)]
        yield self.style.paint(_row(titles, widths, shown), "bold")
        for row in rows:
            yield _row(row, widths, shown)
        yield ""
        yield from self._indented(
            translate(mark("finwait explain STATE... tells all about a state; all about all of them.")), 0
        )
        yield from self._indented(
            translate(mark("finwait explain transition STATE STATE tells what leads from one state to another.")), 0
        )
        text = translate(mark("finwait explain timer NAME... tells of a timer: {timers}.")).format(
            timers=", ".join(timers)
        )
        yield from self._indented(text, 0)
        yield from self._indented(
            translate(
                mark("finwait explain why NAME... tells of what finwait trace has in WHY; without names of all.")
            ),
            0,
        )

    def states(self, states: Sequence[Part]) -> Iterator[str]:
        """A page for each state, an empty line between them."""
        for at, state in enumerate(states):
            yield from [""] * bool(at)
            yield from self._state(state)

    def _state(self, state: Part) -> Iterator[str]:
        yield self._head(state)
        yield from self._section("what", state["what"])
        yield from self._title("wait")
        who = state["must_act"]
        yield from self._indented(state["wait"])
        yield "  " + self.style.paint(translate(mark("Must act: {who}")).format(who=who_text(who)), _COLORS[who])
        yield from self._title("ways_in")
        yield from self._ways(state["ways_in"], "from")
        yield from self._title("ways_out")
        yield from self._ways(state["ways_out"], "to")
        yield from self._title("timers")
        yield from self._timers(ending_timers(state["timers"]))
        if state["settings"]:
            yield from self._title("settings")
            yield from (f"  {sysctl_text(sysctl, of_host=self.of_host)}" for sysctl in state["settings"])
        for key in ("normal", "trouble"):
            yield from self._section(key, state[key])
        yield from self._title("look")
        yield from self._looks(state["look"])
        for key in ("help", "useless"):
            yield from self._section(key, state[key])
        yield from self._linux(state["linux"])
        yield from self._rfc(state["rfc"])

    def _head(self, state: Part) -> str:
        """The name, what others call it, and how many there are."""
        spellings = state["spellings"]
        others = dict.fromkeys(name for name in spellings.values() if name != state["name"])
        head = self.style.paint(state["name"], "bold")
        if others:
            head += f"  ({', '.join(others)})"
        if state["count"] is not None:
            head += "  " + translate(mark("here now: {count}")).format(count=state["count"])
        return head

    def timers(self, timers: Sequence[Part]) -> Iterator[str]:
        """A page for each timer."""
        for at, timer in enumerate(timers):
            yield from [""] * bool(at)
            yield self.style.paint(timer["timer"], "bold")
            yield from self._indented(timer["what"])
            names = ", ".join(NAME_BY_TOKEN[token] for token in timer["states"])
            yield from self._indented(
                translate(mark("It runs in: {states} ({when})")).format(states=names, when=timer["when"])
            )
            yield from self._indented(translate(mark("At its end: {ends}")).format(ends=timer["ends"]))
            yield from (f"  {text}" for text in self._setters(timer))
            if timer["shown_as"] is not None:
                shown = translate(mark("Which sockets have it now: {command}"))
                yield from self._indented(shown.format(command=f"finwait list -o timer = {timer['shown_as']}"))
            yield from self._section("useless", timer["useless"])
            yield from self._rfc(timer["rfc"])

    def events(self, events: Parts) -> Iterator[str]:
        """Each event, and the arrows that it is on."""
        for at, event in enumerate(events):
            yield from [""] * bool(at)
            who = self.style.paint(who_text(event["who"]), _COLORS[event["who"]])
            yield f"{self.style.paint(event['event'], 'bold')}  {who}"
            yield from self._indented(event["what"])
            for way in event["ways"]:
                text = f"{way_text(way)} [{way['rfc']}]".removeprefix(event["what"]).lstrip(";； ")
                start = f"  {NAME_BY_TOKEN[way['from']]:<{_STATE_CELLS}} > {NAME_BY_TOKEN[way['to']]:<{_STATE_CELLS}}  "
                first, *more = wrapped(text, max(self.columns - len(start), LEAST_COLUMNS // 2))
                yield start + first
                yield from (" " * len(start) + line for line in more)

    def transition(self, transition: Part) -> Iterator[str]:
        """What leads from a state to another, or that nothing does and what does instead."""
        state, to = NAME_BY_TOKEN[transition["from"]], NAME_BY_TOKEN[transition["to"]]
        if transition["ways"]:
            yield self.style.paint(f"{state} > {to}", "bold")
            yield from self._ways(transition["ways"], "to")
            yield from self._linux(transition["linux"])
            yield from self._rfc(transition["rfc"])
            return
        yield translate(NO_WAY).format(state=state, to=to)
        path = " > ".join(NAME_BY_TOKEN[token] for token in transition["path"])
        yield translate(PATH).format(path=path) if path else translate(NO_PATH).format(state=state, to=to)
        yield ""
        yield self.style.paint(translate(mark("What leads to {state}")).format(state=to), "bold")
        yield from self._ways(transition["ways_in"], "from")
        yield ""
        yield self.style.paint(translate(mark("What leads from {state}")).format(state=state), "bold")
        yield from self._ways(transition["ways_out"], "to")

    def _ways(self, ways: Parts, end: str) -> Iterator[str]:
        """Lines of state, who causes it, what happens, section. end: from or to, the state that is shown."""
        indent = 2 + _STATE_CELLS + 2 + self.who_cells + 2
        for way in ways:
            who = self.style.paint(pad_right(who_text(way["who"]), self.who_cells), _COLORS[way["who"]])
            text = f"{way_text(way)} [{way['rfc']}]"
            first, *more = wrapped(text, max(self.columns - indent, LEAST_COLUMNS // 2))
            yield f"  {NAME_BY_TOKEN[way[end]]:<{_STATE_CELLS}}  {who}  {first}"
            yield from (" " * indent + line for line in more)

    def _timers(self, timers: Parts) -> Iterator[str]:
        if not timers:
            yield from self._indented(translate(NO_TIMER))
        for timer in timers:
            first, *more = wrapped(f"{timer['timer']}: {timer['when']}", self.columns - 4)
            yield f"  {self.style.paint(timer['timer'], 'bold')}{first.removeprefix(timer['timer'])}"
            yield from (f"    {line}" for line in more)
            yield from self._indented(timer["ends"], 4)
            yield from (f"    {text}" for text in self._setters(timer))

    def _setters(self, timer: Part) -> list[str]:
        """Its sysctls with their values, the option of a socket, and how long that makes it."""
        texts = [sysctl_text(sysctl, of_host=self.of_host) for sysctl in timer["sysctls"]]
        texts = texts or [translate(mark("no sysctl"))]
        more = (option_text(timer), seconds_text(timer, of_host=self.of_host))
        return [*texts, *(text for text in more if text is not None)]

    def _looks(self, looks: Parts) -> Iterator[str]:
        for look in looks:
            yield f"  {self.style.paint(look['command'], 'bold')}"
            yield from self._indented(look["why"], 6)

    def _linux(self, departures: Parts) -> Iterator[str]:
        if departures:
            yield from self._section("linux", [departure["what"] for departure in departures])

    def _rfc(self, sections: Sequence[str]) -> Iterator[str]:
        yield ""
        yield from (self.style.paint(line, "dim") for line in wrapped(f"{RFC}: {', '.join(sections)}", self.columns))

    def _title(self, key: str) -> Iterator[str]:
        yield ""
        yield self.style.paint(translate(TITLES[key]), "bold")

    def _section(self, key: str, texts: Iterable[str]) -> Iterator[str]:
        yield from self._title(key)
        for text in texts:
            first, *more = wrapped(text, self.columns - 4)
            yield f"  - {first}"
            yield from (f"    {line}" for line in more)

    def _indented(self, text: str, cells: int = 2) -> Iterator[str]:
        for line in wrapped(text, self.columns - cells):
            yield " " * cells + line


def _row(cells: Sequence[str], widths: Sequence[int], shown: Sequence[int]) -> str:
    texts = [
        cells[at].rjust(widths[at]) if at == 1 and cells[at].isdigit() else pad_right(cells[at], widths[at])
        for at in shown
    ]
    return "  ".join(texts).rstrip()
