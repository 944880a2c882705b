"""The state diagram of TCP as a graph: DOT, Mermaid, Markdown, JSON; with how many sockets are in each state, and how often
each arrow is taken, where somebody counted.
"""  # fmt: skip

from __future__ import annotations

from finwait.render.explain import who_text
from finwait.render.labels import label_of, must_act, weight_of
from finwait.render.markdown import fenced, plain, table
from finwait.render.rates import rates_title
from finwait.render.sequence import SCHEMA
from finwait.tcp.state import TcpState
from finwait.tcp.transitions import STATES, Transition, arrows
from finwait.tcp.waits import WAITS
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from finwait.render.rates import Rates

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


class _Edge:
    """What is drawn from one state to another. transitions: without rates one; with them all that lead there, none where the
    picture leaves them out. rate: its text, or None.
    """  # fmt: skip

    __slots__ = ("rate", "state", "to", "transitions")

    def __init__(self, state: TcpState, to: TcpState, transitions: Sequence[Transition], rates: Rates | None) -> None:
        self.state = state
        self.to = to
        self.transitions = transitions
        self.rate = None if rates is None else rates.text_of(state, to)

    def label(self, separator: str) -> str:
        """What leads there, and how often."""
        parts = [label_of(transition) for transition in self.transitions]
        return separator.join(parts if self.rate is None else [*parts, self.rate])


def _edges(rates: Rates | None, *, whole: bool) -> Iterator[_Edge]:
    """The arrows; with rates one for each pair of states, for a change tells no cause where it is counted, and those that were
    taken and that the picture leaves out.
    """  # fmt: skip
    shown = list(shown_arrows(whole=whole))
    if rates is None:
        yield from (_Edge(one.state, one.to, [one], None) for one in shown)
        return
    by_pair: dict[tuple[TcpState, TcpState], list[Transition]] = {}
    for one in shown:
        by_pair.setdefault((one.state, one.to), []).append(one)
    for pair in rates.pairs():
        by_pair.setdefault(pair, [])
    for pair, transitions in by_pair.items():
        yield _Edge(*pair, transitions, rates)


def _look(state: TcpState, counts: Counts | None) -> tuple[str, str, str, float]:
    """Fill, border, ink, and the border's width in px: with the logarithm of the count; a state without sockets is grey."""
    weight = weight_of(state, counts)
    if weight == 0:
        return (*_EMPTY, _EMPTY_INK, 1)
    return (*_COLORS[WAITS[state][0]], _INK, 1 if weight is None else round(1 + 4 * weight, 1))


def states_dot(counts: Counts | None = None, rates: Rates | None = None, *, whole: bool = False) -> Iterator[str]:
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
    for edge in _edges(rates, whole=whole):
        label = edge.label(r"\n")
        yield f'  {edge.state.token} -> {edge.to.token} [label="{label}"{_dot_style(edge, rates)}];'
    if rates is not None:
        yield f'  fontname="sans-serif"; label="{rates_title(rates)}";'
    yield "}"


def _dot_style(edge: _Edge, rates: Rates | None) -> str:
    is_of_linux = edge.transitions and all(one.origin == "linux" for one in edge.transitions)
    style = ', style="dashed"' if is_of_linux else ""
    if edge.to is TcpState.CLOSE or any(
        one.spawns for one in edge.transitions
    ):  # back to the beginning: life goes downwards
        style += ", constraint=false"
    if rates is not None and not rates.count_of(edge.state, edge.to):
        style += f', color="{_EMPTY[1]}", fontcolor="{_EMPTY_INK}"'
    return style


def states_mermaid(counts: Counts | None = None, rates: Rates | None = None, *, whole: bool = False) -> Iterator[str]:
    """A Mermaid stateDiagram-v2."""
    yield "stateDiagram-v2"
    if rates is not None:
        yield f"    %% {rates_title(rates)}"
    for state in STATES:
        count = "" if counts is None else f" ({counts.get(state, 0)})"
        yield f'    state "{state.rfc}{count}" as {state.token}'
    for edge in _edges(rates, whole=whole):
        yield f"    {edge.state.token} --> {edge.to.token}: {edge.label('<br/>')}"
    for state in STATES:
        fill, border, ink, width = _look(state, counts)
        style = f"fill:{fill},stroke:{border},color:{ink},stroke-width:{width:g}px"
        yield f"    classDef look_{state.token} {style}"
        yield f"    class {state.token} look_{state.token}"


def states_markdown(
    counts: Counts | None = None, notes: Sequence[str] = (), rates: Rates | None = None, *, whole: bool = False
) -> Iterator[str]:
    """The Mermaid diagram, tables of the states and the rates for where nobody draws it, and what is to be known about them."""
    yield from fenced(states_mermaid(counts, rates, whole=whole))
    yield ""
    titles = [mark("State"), mark("Who must act"), mark("It waits for")]
    rows = [[state.rfc, who_text(WAITS[state][0]), translate(WAITS[state][1])] for state in STATES]
    if counts is not None:
        titles.append(mark("Sockets"))
        rows = [[*row, str(counts.get(state, 0))] for state, row in zip(STATES, rows, strict=True)]
    yield from table([translate(title) for title in titles], rows)
    if rates is not None:
        yield from _markdown_rates(rates)
    for note in notes:
        yield from ("", plain(note))


def _markdown_rates(rates: Rates) -> Iterator[str]:
    titles = [mark("From"), mark("To"), mark("Changes"), mark("A second")]
    rows = [
        [state.rfc, to.rfc, str(rates.count_of(state, to)), rates.text_of(state, to)] for state, to in rates.pairs()
    ]
    if rows:
        yield ""
        yield from table([translate(title) for title in titles], rows)
    else:
        yield from ("", translate(mark("no connection has changed its state")))


def states_document(
    counts: Counts | None = None,
    provenance: Mapping[str, object] | None = None,
    rates: Rates | None = None,
    *,
    whole: bool = False,
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
                **_measured(rates, transition.state, transition.to),
            }
            for transition in shown_arrows(whole=whole)
        ],
        "seconds": None if rates is None else rates.seconds,
        "changes": None
        if rates is None
        else [{"from": state.token, "to": to.token, **_measured(rates, state, to)} for state, to in rates.pairs()],
    }


def _measured(rates: Rates | None, state: TcpState, to: TcpState) -> dict[str, object]:
    if rates is None:
        return {"count": None, "rate": None}
    return {"count": rates.count_of(state, to), "rate": rates.rate_of(state, to)}
