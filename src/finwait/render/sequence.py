"""Exchanges of TCP as sequence diagrams, drawn from `tcp.exchanges`: text in Unicode or ASCII, Mermaid, JSON."""

from __future__ import annotations

from finwait.render.transcript import CALLS
from finwait.tcp.exchanges import CLIENT, SEGMENT, TIMER
from finwait.text.messages import mark, translate
from finwait.text.width import display_width, pad_left, pad_right

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from finwait.tcp.exchanges import Exchange, Step
    from finwait.tcp.state import TcpState

SCHEMA = "finwait.diagram/1"
SPAN = 36  # cells between the two lifelines
SIDE = 30  # cells beside each of them
_UNICODE = {"life": "│", "line": "─", "right": "▶", "left": "◀", "lost": "╳", "foot": "┴"}
_ASCII = {"life": "|", "line": "-", "right": ">", "left": "<", "lost": "x", "foot": "+"}


def render_sequence(exchange: Exchange, *, unicode: bool = True) -> Iterator[str]:
    """Lines of at most 90 cells: a lifeline for each end, states and calls outside, segments between."""
    glyphs = _UNICODE if unicode else _ASCII
    client, server = translate(mark("client")), translate(mark("server"))
    yield f"{pad_left(client, SIDE)}   {'':{SPAN - 4}}   {server}".rstrip()
    states = (exchange.client, exchange.server)
    yield _row(states[0].rfc, glyphs["life"], "", glyphs["life"], states[1].rfc)
    for step in exchange.steps:
        left, right = _texts(step, states)
        middle = _arrow(step, glyphs) if step.kind == SEGMENT else ""
        if step.kind == SEGMENT and not step.arrives:
            middle = _lost(step, glyphs)
        yield _row(left, glyphs["life"], middle, glyphs["life"], right)
        states = (step.client, step.server)
    yield _row("", glyphs["foot"], "", glyphs["foot"], "")


def _row(left: str, one: str, middle: str, other: str, right: str) -> str:
    return f"{pad_left(left, SIDE)} {one}{pad_right(middle, SPAN)}{other} {right}".rstrip()


def _texts(step: Step, before: tuple[TcpState, TcpState]) -> tuple[str, str]:
    """What stands beside the lifelines: what the program calls or the clock does, and a state where it has changed."""
    left = step.client.rfc if step.client is not before[0] else ""
    right = step.server.rfc if step.server is not before[1] else ""
    if step.kind == SEGMENT:
        return left, right
    what = translate(mark("time is up")) if step.kind == TIMER else CALLS.get(str(step.event), str(step.event))
    if step.end == CLIENT:
        return (f"{what}  {left}".rstrip(), right)
    return (left, f"{right}  {what}".strip())


def _label(step: Step) -> str:
    parts = [str(step.flags), f"seq={step.seq}"]
    if step.ack is not None:
        parts.append(f"ack={step.ack}")
    if step.data is not None:
        parts.append(f"len={step.data}")
    return " ".join(parts)


def _arrow(step: Step, glyphs: dict[str, str]) -> str:
    text = f" {_label(step)} "
    fill = SPAN - 1 - display_width(text)
    before, behind = fill // 2, fill - fill // 2
    line = glyphs["line"]
    if step.end == CLIENT:
        return line * before + text + line * behind + glyphs["right"]
    return glyphs["left"] + line * before + text + line * behind


def _lost(step: Step, glyphs: dict[str, str]) -> str:
    """A segment that does not arrive ends half-way."""
    text = f" {_label(step)} "
    line, cross = glyphs["line"], glyphs["lost"]
    if step.end == CLIENT:
        return f"{line * 2}{text}{line * 2}{cross}"
    return pad_left(f"{cross}{line * 2}{text}{line * 2}", SPAN)


def sequence_mermaid(exchange: Exchange) -> Iterator[str]:
    """A Mermaid sequenceDiagram; states are notes over the lifelines."""
    yield "sequenceDiagram"
    yield "    participant C as client"
    yield "    participant S as server"
    states = (exchange.client, exchange.server)
    yield f"    Note left of C: {states[0].rfc}"
    yield f"    Note right of S: {states[1].rfc}"
    for step in exchange.steps:
        here, there = ("C", "S") if step.end == CLIENT else ("S", "C")
        if step.kind == SEGMENT:
            yield f"    {here}{'->>' if step.arrives else '-x'}{there}: {_label(step)}"
        else:
            what = "time is up" if step.kind == TIMER else CALLS.get(str(step.event), str(step.event))
            yield f"    Note {'left of C' if here == 'C' else 'right of S'}: {what}"
        if step.client is not states[0]:
            yield f"    Note left of C: {step.client.rfc}"
        if step.server is not states[1]:
            yield f"    Note right of S: {step.server.rfc}"
        states = (step.client, step.server)


def sequence_document(exchange: Exchange) -> dict[str, object]:
    """The document of docs/schemas/finwait.diagram-1.json."""
    return {
        "schema": SCHEMA,
        "name": exchange.name,
        "kind": "exchange",
        "rfc": f"RFC 9293, {exchange.rfc}",
        "client": exchange.client.token,
        "server": exchange.server.token,
        "steps": [
            {
                "kind": step.kind,
                "end": step.end,
                "event": step.event,
                "arrives": step.arrives,
                "flags": step.flags,
                "seq": step.seq,
                "ack": step.ack,
                "data": step.data,
                "client": step.client.token,
                "server": step.server.token,
            }
            for step in exchange.steps
        ],
    }
