"""The state diagram of TCP as a graph: DOT, Mermaid, JSON; with how many sockets are in each state, where somebody counted."""

from __future__ import annotations

from finwait.render.sequence import SCHEMA
from finwait.tcp.transitions import STATES, Transition, arrows
from finwait.tcp.waits import WAITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from finwait.tcp.state import TcpState

    Counts = Mapping[TcpState, int]

# Whoever must act next, by colour; as in the table of the count.
_FILL = {"nobody": "#d7f0d7", "peer": "#fdf0c4", "program": "#f8d0d0", "clock": "#d3e3fa"}
# What ends a connection from anywhere would hide the picture: a RST, a time-out, the program that gives up.
_EVERYWHERE = frozenset({
    "rcv_rst", "abort", "close_unread", "listener_closed", "destroy", "timeout_retransmit", "timeout_keepalive",
    "out_of_resources", "rcv_data_after_close", "too_many_time_wait",
})  # fmt: skip


def shown_arrows(*, whole: bool = False) -> Iterator[Transition]:
    """The arrows that a picture shows: those of RFC 9293's figure and Linux's own; `whole`: also what ends a connection from
    anywhere.
    """  # fmt: skip
    for transition in arrows():
        if not transition.hidden and (whole or transition.event not in _EVERYWHERE):
            yield transition


def label_of(transition: Transition) -> str:
    """``rcv SYN / SYN,ACK``: what happens and what is sent."""
    event = transition.event.replace("rcv_", "rcv ").replace("_", " ")
    return f"{event} / {transition.sent}" if transition.sent else event


def states_dot(counts: Counts | None = None, *, whole: bool = False) -> Iterator[str]:
    """A digraph for Graphviz; a pen grows with the logarithm of the count."""
    yield "digraph tcp {"
    yield '  node [shape=box, style="rounded,filled", fontname="sans-serif"];'
    yield '  edge [fontname="sans-serif", fontsize=10];'
    for state in STATES:
        count = None if counts is None else counts.get(state, 0)
        text = state.rfc if count is None else f"{state.rfc}\\n{count}"
        width = 1 if not count else 1 + len(str(count))
        yield f'  {state.token} [label="{text}", fillcolor="{_FILL[WAITS[state][0]]}", penwidth={width}];'
    for transition in shown_arrows(whole=whole):
        style = ', style="dashed"' if transition.origin == "linux" else ""
        yield f'  {transition.state.token} -> {transition.to.token} [label="{label_of(transition)}"{style}];'
    yield "}"


def states_mermaid(counts: Counts | None = None, *, whole: bool = False) -> Iterator[str]:
    """A Mermaid stateDiagram-v2."""
    yield "stateDiagram-v2"
    for state in STATES:
        count = "" if counts is None else f" ({counts.get(state, 0)})"
        yield f'    state "{state.rfc}{count}" as {state.token}'
    for transition in shown_arrows(whole=whole):
        yield f"    {transition.state.token} --> {transition.to.token}: {label_of(transition)}"


def states_document(counts: Counts | None = None, *, whole: bool = False) -> dict[str, object]:
    """The document of docs/schemas/finwait.diagram-1.json."""
    return {
        "schema": SCHEMA,
        "name": "states",
        "kind": "states",
        "rfc": "RFC 9293, 3.3.2",
        "states": [
            {"state": state.token, "who": WAITS[state][0], "count": None if counts is None else counts.get(state, 0)}
            for state in STATES
        ],
        "transitions": [
            {
                "from": transition.state.token,
                "to": transition.to.token,
                "event": transition.event,
                "who": transition.who,
                "sent": transition.sent,
                "rfc": transition.rfc,
                "origin": transition.origin,
                "departure": transition.departure,
            }
            for transition in shown_arrows(whole=whole)
        ],
    }
