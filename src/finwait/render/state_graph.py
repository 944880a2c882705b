"""The state diagram of TCP as a graph: DOT, Mermaid, Markdown, JSON; with how many sockets are in each state, where somebody
counted.
"""  # fmt: skip

from __future__ import annotations

from finwait.render.explain import who_text
from finwait.render.labels import label_of, must_act, weight_of
from finwait.render.markdown import fenced, plain, table
from finwait.render.sequence import SCHEMA
from finwait.tcp.state import TcpState
from finwait.tcp.transitions import STATES, Transition, arrows
from finwait.tcp.waits import WAITS
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Counts = Mapping[TcpState, int]

# Whoever must act next, by colour, as in the table of the count: (fill, border).
_COLORS = {
    "nobody": ("#d7f0d7", "#1a7f37"), "peer": ("#fdf0c4", "#b27a00"), "program": ("#f8d0d0", "#cf222e"),
    "clock": ("#d3e3fa", "#0969da"),
}  # fmt: skip
_INK, _EMPTY, _EMPTY_INK = "#1f2328", ("#f6f8fa", "#d1d9e0"), "#59636e"
# The keys of a document for which nothing was counted; as those of a count.
_UNCOUNTED: dict[str, object] = {
    "taken_from": None, "taken_to": None, "host": None, "source": None, "complete": True, "warnings": [], "netns": [],
}  # fmt: skip
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


def _look(state: TcpState, counts: Counts | None) -> tuple[str, str, str, float]:
    """Fill, border, ink, and the border's width in px: with the logarithm of the count; a state without sockets is grey."""
    weight = weight_of(state, counts)
    if weight == 0:
        return (*_EMPTY, _EMPTY_INK, 1)
    return (*_COLORS[WAITS[state][0]], _INK, 1 if weight is None else round(1 + 4 * weight, 1))


def states_dot(counts: Counts | None = None, *, whole: bool = False) -> Iterator[str]:
    """A digraph for Graphviz."""
    yield "digraph tcp {"
    yield '  node [shape=box, style="rounded,filled", fontname="sans-serif"];'
    yield '  edge [fontname="sans-serif", fontsize=10];'
    yield "  {rank=source; closed}"
    for state in STATES:
        count = "" if counts is None else f"\\n{counts.get(state, 0)}"
        who = "" if weight_of(state, counts) == 0 else f"\\n{must_act(state)}"
        text = f"{state.rfc}{count}{who}"
        fill, border, ink, width = _look(state, counts)
        colors = f'fillcolor="{fill}", color="{border}", fontcolor="{ink}"'
        yield f'  {state.token} [label="{text}", {colors}, penwidth={width:g}];'
    for transition in shown_arrows(whole=whole):
        style = ', style="dashed"' if transition.origin == "linux" else ""
        if transition.to is TcpState.CLOSE or transition.spawns:  # back to the beginning: the life goes downwards
            style += ", constraint=false"
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
    for state in STATES:
        fill, border, ink, width = _look(state, counts)
        style = f"fill:{fill},stroke:{border},color:{ink},stroke-width:{width:g}px"
        yield f"    classDef look_{state.token} {style}"
        yield f"    class {state.token} look_{state.token}"


def states_markdown(counts: Counts | None = None, notes: Sequence[str] = (), *, whole: bool = False) -> Iterator[str]:
    """The Mermaid diagram, a table of the states for where nobody draws it, and what is to be known about the counts."""
    yield from fenced(states_mermaid(counts, whole=whole))
    yield ""
    titles = [mark("State"), mark("Who must act"), mark("It waits for")]
    rows = [[state.rfc, who_text(WAITS[state][0]), translate(WAITS[state][1])] for state in STATES]
    if counts is not None:
        titles.append(mark("Sockets"))
        rows = [[*row, str(counts.get(state, 0))] for state, row in zip(STATES, rows, strict=True)]
    yield from table([translate(title) for title in titles], rows)
    for note in notes:
        yield from ("", plain(note))


def states_document(
    counts: Counts | None = None, provenance: Mapping[str, object] | None = None, *, whole: bool = False
) -> dict[str, object]:
    """The document of docs/schemas/finwait.diagram-1.json. provenance: of the counts, as in every document."""
    return {
        "schema": SCHEMA,
        **(_UNCOUNTED if provenance is None else provenance),
        "name": "states",
        "kind": "states",
        "rfc": "3.3.2",
        "states": [
            {
                "state": state.token,
                "who": WAITS[state][0],
                "count": None if counts is None else counts.get(state, 0),
                "weight": weight_of(state, counts),
            }
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
