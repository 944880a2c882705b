"""An exchange of `finwait.tcp.exchanges`, played: the kernel is one end, the scripted peer the other.

Every state that the exchange gives to the kernel's end is awaited in sock_diag, every segment on the wire.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from finwait.lab.ways import WAYS, find_event
from finwait.tcp.exchanges import CLIENT, SEGMENT, SERVER, TIMER, Exchange
from finwait.tcp.state import TcpState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from finwait.lab.stage import Stage
    from finwait.lab.stage import Step as Act
    from finwait.tcp.exchanges import Step
    from finwait.tcp.transitions import Transition

# What would take a minute, or end what is to be looked at.
_NOT_WAITED_FOR = frozenset({"timeout_time_wait"})


class Played(NamedTuple):
    """A step as it happened. shown: what the kernel shows then. at: CLOCK_REALTIME in s; a segment happens when it is put on
    the wire, a timer of the kernel's when it sends. flags: that a segment really had, None where it was not seen.
    """  # fmt: skip

    shown: TcpState
    at: float
    flags: str | None = None


def play(exchange: Exchange, stage: Stage, end: str) -> Iterator[Played]:
    """Every step up to the first clock that is not waited for. end: the kernel's.

    Raises NotShown where the kernel does otherwise.
    """
    begin = exchange.client if end == CLIENT else exchange.server
    _go_to(stage, begin, is_server=end == SERVER)
    stage.forget_segments()
    shown = stage.state()
    for step in exchange.steps:
        if step.event in _NOT_WAITED_FOR:
            return
        at, act = time.time(), None
        if step.event is not None and step.acts == end:
            act = stage.play(find_event(shown, step.event))
            shown = act.after
        yield Played(shown, *_facts_of(step, act, stage, end, at))


def _facts_of(step: Step, act: Act | None, stage: Stage, end: str, before: float) -> tuple[float, str | None]:
    """When `step` happened that began `before` or led to nothing, and its flags. act: what the kernel's end did."""
    if step.kind == TIMER:
        return (stage.time_of_last() if act is not None and act.sent else time.time()), None
    if step.kind == SEGMENT and step.end == end:
        flags, at = stage.take_segment(step.flags or "") or (None, before)
        return at, flags
    if step.kind == SEGMENT and act is not None:
        return stage.time_of_peers(), act.far
    return before, None


def _go_to(stage: Stage, state: TcpState, *, is_server: bool) -> None:
    """To the state in which the exchange begins; a server's connection came by its listener."""
    if state in {TcpState.CLOSE, TcpState.LISTEN} or not is_server:
        transitions = () if state is TcpState.CLOSE else _way(state)
    else:
        transitions = _way(state, "passive_open", "rcv_syn", "rcv_ack_of_syn")
    for transition in transitions:
        stage.play(transition)


def _way(state: TcpState, *first: str) -> tuple[Transition, ...]:
    events = WAYS[state] if not first else (*first, *WAYS[state][2:])
    found, at = [], TcpState.CLOSE
    for event in events:
        transition = find_event(at, event)
        found.append(transition)
        at = transition.to
    return tuple(found)
