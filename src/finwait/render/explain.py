"""Explanations as one document, from the machine, the timers and the texts; the text and the Markdown are made of it.

Keys and tokens are machine words; what stands in ``what``, ``trouble`` and the like is for people, in their language.
"""

from __future__ import annotations

from finwait.tcp.state import SPELLINGS, TcpState
from finwait.tcp.timers import AT_LEAST, SETTINGS, SYSCTLS, TIMERS, seconds_of, timers_in
from finwait.tcp.transitions import (
    DEPARTURES,
    EVENTS,
    LINUX,
    MACHINE,
    arrows,
    find_path,
    find_transition,
    next_transition,
    transitions_from,
    transitions_to,
)
from finwait.tcp.waits import WAITS
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from finwait.tcp.explanations import Section
    from finwait.tcp.timers import Timer
    from finwait.tcp.transitions import Transition

    Document = dict[str, Any]
    Part = Mapping[str, Any]

EXPLAIN_SCHEMA = "finwait.explain/1"
RFC = "RFC 9293"
# Departures that are the same in every state: told where a transition is asked for, not with each state.
_EVERYWHERE = frozenset({"sock_destroy", "challenge_ack"})
_LISTS = ("what", "normal", "trouble", "help", "useless")


class Explainer:
    """sections: of tcp.explanations, in the language in use. values: of sysctls by name, None for a page that speaks of no
    host. counts: sockets by state's token, None where nothing was counted.
    """  # fmt: skip

    __slots__ = ("counts", "sections", "values")

    def __init__(
        self,
        sections: Mapping[str, Section],
        values: Mapping[str, str | None] | None = None,
        counts: Mapping[str, int] | None = None,
    ) -> None:
        self.sections = sections
        self.values = values
        self.counts = counts

    def document(
        self,
        language: str,
        states: Iterable[TcpState] = (),
        timers: Iterable[str] = (),
        pair: tuple[TcpState, TcpState] | None = None,
        events: Iterable[str] = (),
    ) -> Document:
        """The document of docs/schemas/finwait.explain-1.json, without what a count says of itself."""
        return {
            "schema": EXPLAIN_SCHEMA,
            "language": language,
            "states": [self.state(state) for state in states],
            "timers": [self.timer(TIMERS[name]) for name in timers],
            "transition": None if pair is None else self.transition(*pair),
            "events": [self.event(name) for name in events],
        }

    def state(self, state: TcpState) -> Document:
        """Everything about `state`."""
        section = self.sections[f"state {state.token}"]
        looks = (line.partition(" | ") for line in section["look"])
        leaving = transitions_from(state)
        return {
            "state": state.token,
            "name": state.rfc,
            "spellings": {"ss": state.ss, "netstat": state.netstat},
            "count": None if self.counts is None else self.counts.get(state.token, 0),
            "must_act": WAITS[state][0],
            "waits_for": translate(WAITS[state][1]),
            "wait": section["wait"][0],
            **{key: list(section[key]) for key in _LISTS},
            "look": [{"command": command, "why": why} for command, _, why in looks],
            "ways_in": self._ways(transitions_to(state)),
            "ways_out": self._ways(transition for transition in leaving if not transition.is_loop),
            "stays": self._ways(transition for transition in leaving if transition.is_loop),
            "timers": [self.timer(timer) for timer in timers_in(state)],
            "settings": [self._sysctl(name) for name in SETTINGS[state]],
            "linux": self._departures(leaving, but=_EVERYWHERE),
            "rfc": _sections(leaving),
        }

    def timer(self, timer: Timer) -> Document:
        """Everything about `timer`."""
        section = self.sections[f"timer {timer.name}"]
        defaults = {name: SYSCTLS[name][0] for name in timer.sysctls}
        values = None if self.values is None else {name: self.values.get(name) for name in timer.sysctls}
        return {
            "timer": timer.name,
            "states": [state.token for state in timer.states],
            "ends_in": None if timer.ends_in is None else timer.ends_in.token,
            **{key: section[key][0] for key in ("when", "what", "ends")},
            "useless": list(section["useless"]),
            "sysctls": [self._sysctl(name) for name in timer.sysctls],
            "seconds": None if values is None else seconds_of(timer.name, values),
            "default_seconds": seconds_of(timer.name, defaults),
            "at_least": timer.name in AT_LEAST,
            "option": timer.option,
            "shown_as": timer.shown,
            "rfc": [timer.rfc],
        }

    def transition(self, state: TcpState, to: TcpState) -> Document:
        """What leads from `state` to `to`; where nothing does, the shortest path, what leads there and what leads away."""
        found = find_transition(state, to)
        return {
            "from": state.token,
            "to": to.token,
            "ways": self._ways(found),
            "path": [step.token for step in find_path(state, to)],
            "ways_in": self._ways(transitions_to(to)),
            "ways_out": self._ways(transition for transition in arrows() if transition.state is state),
            "linux": self._departures(found),
            "rfc": _sections(found) if found else [],
        }

    def event(self, name: str) -> Document:
        """What the event `name` is, and what it leads to."""
        return {
            "event": name,
            "what": self.sections["events"][name][0],
            "who": EVENTS[name],
            "ways": self._ways(one for leaving in MACHINE.values() for one in leaving if one.event == name),
        }

    def _ways(self, transitions: Iterable[Transition]) -> list[Document]:
        return [self._way(transition) for transition in transitions]

    def _way(self, transition: Transition) -> Document:
        return {
            "from": transition.state.token,
            "to": transition.to.token,
            "event": transition.event,
            "what": self._event(transition),
            "who": transition.who,
            "sent": transition.sent,
            "rfc": transition.rfc,
            "origin": transition.origin,
            "departure": transition.departure,
            "hidden": transition.hidden,
            "spawns": transition.spawns,
        }

    def _event(self, transition: Transition) -> str:
        """What happens; where it usually ends otherwise, also the condition."""
        text = self.sections["events"][transition.event][0]
        if transition.hidden or transition is next_transition(transition.state, transition.event):
            return text
        condition = self.sections["conditions"][transition.departure or ""][0]
        return translate(mark("{event}, {condition}")).format(event=text, condition=condition)

    def _departures(self, transitions: Iterable[Transition], but: frozenset[str] = frozenset()) -> list[Document]:
        names = dict.fromkeys(transition.departure for transition in transitions)
        texts = self.sections["departures"]
        return [
            {"name": name, "what": texts[name][0], "source": DEPARTURES[name]}
            for name in names
            if name is not None and name not in but
        ]

    def _sysctl(self, name: str) -> Document:
        default, unit = SYSCTLS[name]
        value = None if self.values is None else self.values.get(name)
        return {"name": f"net.{name}", "value": value, "default": default, "unit": unit}


def _sections(transitions: Sequence[Transition]) -> list[str]:
    """The sections of RFC 9293 in order; the figure's own first."""
    found = {transition.rfc for transition in transitions if transition.origin != LINUX} | {"3.3.2"}
    return sorted(found, key=lambda section: [int(number) for number in section.split(".")])


# -- what the text and the Markdown share

WHO = {
    "program": mark("program"), "peer": mark("peer"), "kernel": mark("kernel"), "clock": mark("clock"),
    "nobody": mark("nobody"),
}  # fmt: skip
TITLES = {
    "what": mark("What it is"), "wait": mark("Who waits for whom"), "ways_in": mark("How it begins"),
    "ways_out": mark("How it ends"), "timers": mark("Which timer ends it"), "settings": mark("Settings"),
    "normal": mark("How long is normal"), "trouble": mark("When it is trouble"), "look": mark("Where to look"),
    "help": mark("What helps"), "useless": mark("What does not help"), "linux": mark("In Linux"),
}  # fmt: skip
NO_TIMER = mark("None: no timer runs in this state.")
NO_WAY = mark("Nothing leads from {state} to {to} in one step.")
NO_PATH = mark("No connection that is {state} ever becomes {to}.")
PATH = mark("The shortest way: {path}")
NAME_BY_TOKEN = {state.token: state.rfc for state in SPELLINGS}
_SHORT_UNITS = {"seconds": " s", "milliseconds": " ms"}


def who_text(token: str) -> str:
    """Who acts, for people."""
    return translate(WHO[token])


def ending_timers(timers: Sequence[Part]) -> list[Part]:
    """Those that end something: what a state's page tells of."""
    return [timer for timer in timers if timer["ends_in"] is not None]


def way_text(way: Part) -> str:
    """What happens and what is sent, in a line."""
    text: str = way["what"]
    if way["sent"] is not None:
        text = translate(mark("{event}; {segment} is sent")).format(event=text, segment=way["sent"])
    if way["hidden"]:
        return translate(mark("{text} (never in Linux)")).format(text=text)
    if way["origin"] == LINUX:
        return translate(mark("{text} (Linux)")).format(text=text)
    return text


def sysctl_text(sysctl: Part, *, of_host: bool) -> str:
    """``net.ipv4.tcp_fin_timeout = 17 s (default: 60 s)``, or only the default."""
    unit = _SHORT_UNITS.get(sysctl["unit"], "")
    default = None if sysctl["default"] is None else f"{sysctl['default']}{unit}"
    usual = default or translate(mark("by memory"))
    if not of_host:
        return translate(mark("{name} (default: {default})")).format(name=sysctl["name"], default=usual)
    if sysctl["value"] is None:
        return translate(mark("{name}: not here")).format(name=sysctl["name"])
    value = f"{sysctl['value']}{unit}"
    if value == default:
        return translate(mark("{name} = {value} (the default)")).format(name=sysctl["name"], value=value)
    return translate(mark("{name} = {value} (default: {default})")).format(
        name=sysctl["name"], value=value, default=usual
    )


def option_text(timer: Part) -> str | None:
    """What a program may set on one socket; None where there is nothing."""
    if timer["option"] is None:
        return None
    return translate(mark("for one socket: {option}")).format(option=timer["option"])


def seconds_text(timer: Part, *, of_host: bool) -> str | None:
    """How long the timer takes here, or by default; None where its settings do not tell."""
    seconds = timer["seconds" if of_host else "default_seconds"]
    if seconds is None:
        return None
    if timer["at_least"]:
        text = mark("here: at least {seconds} s") if of_host else mark("by default: at least {seconds} s")
        return translate(text).format(seconds=f"{seconds:g}")
    if of_host:
        return translate(mark("here: {seconds} s in all")).format(seconds=f"{seconds:g}")
    return translate(mark("by default: {seconds} s in all")).format(seconds=f"{seconds:g}")
