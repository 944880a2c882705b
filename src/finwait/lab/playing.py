"""An exchange of `finwait.tcp.exchanges`, played: the kernel is one end, the scripted peer the other.

Every state that the exchange gives to the kernel's end is awaited in sock_diag, every segment on the wire.
"""

from __future__ import annotations

import time

from finwait.lab.stage import WAYS, Stage, find_event
from finwait.tcp.exchanges import CLIENT, SEGMENT, SERVER, TIMER, Exchange, Step
from finwait.tcp.state import TcpState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from finwait.tcp.transitions import Transition

# What would take a minute, or end what is to be looked at.
_NOT_WAITED_FOR = frozenset({"timeout_time_wait"})


def play(exchange: Exchange, stage: Stage, end: str) -> Iterator[tuple[TcpState, float]]:
    """(what the kernel shows then, when it happened) of every step up to the first clock that is not waited for. end: the
    kernel's. A segment happens when it is put on the wire, by CLOCK_REALTIME in s.

    Raises NotShown where the kernel does otherwise.
    """
    begin = exchange.client if end == CLIENT else exchange.server
    _go_to(stage, begin, is_server=end == SERVER)
    shown = stage.state()
    for step in exchange.steps:
        if step.event in _NOT_WAITED_FOR:
            return
        at = time.time()
        if step.event is not None and step.acts == end:
            shown = stage.play(find_event(shown, step.event)).after
        yield shown, _time_of(step, stage, end, at)


def _time_of(step: Step, stage: Stage, end: str, before: float) -> float:
    """When `step` happened that began `before`, or that led to nothing."""
    if step.kind == TIMER:
        return time.time()
    if step.kind == SEGMENT and step.end == end:
        return stage.time_of_kernels(step.flags or "", before)
    if step.kind == SEGMENT and step.arrives:
        return stage.time_of_peers()
    return before


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
