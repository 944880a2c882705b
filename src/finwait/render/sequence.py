"""Exchanges of TCP as sequence diagrams, drawn from `tcp.exchanges`: text in Unicode or ASCII, Mermaid,
Markdown, JSON.
"""  # fmt: skip

from __future__ import annotations

from finwait.render.markdown import fenced, table
from finwait.render.transcript import CALLS
from finwait.tcp.exchanges import CALL, CLIENT, SEGMENT, TIMER
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
CLIENT_WORD, SERVER_WORD = mark("client"), mark("server")
_UNICODE = {"life": "│", "line": "─", "right": "▶", "left": "◀", "lost": "╳", "foot": "┴"}
_ASCII = {"life": "|", "line": "-", "right": ">", "left": "<", "lost": "x", "foot": "+"}


def render_sequence(exchange: Exchange, *, unicode: bool = True) -> Iterator[str]:
    """Lines of at most 90 cells: a lifeline for each end, states and calls outside, segments between."""
    glyphs = _UNICODE if unicode else _ASCII
    client, server = translate(CLIENT_WORD), translate(SERVER_WORD)
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
    what = what_of(step)
    if step.end == CLIENT:
        return (f"{what}  {left}".rstrip(), right)
    return (left, f"{right}  {what}".strip())


def what_of(step: Step) -> str:
    """What a program calls, or that the time of a clock is up."""
    return translate(mark("time is up")) if step.kind == TIMER else CALLS[str(step.event)]


def end_word(end: str) -> str:
    """``client`` or ``server``, in the language in use."""
    return translate(CLIENT_WORD if end == CLIENT else SERVER_WORD)


def step_told(step: Step) -> str:
    """A step in a sentence, with the states of both ends behind it."""
    what = segment_label(step) if step.kind == SEGMENT else what_of(step)
    message = translate(mark("{end}: {what}; then {client} and {server}."))
    if not step.arrives:
        message = translate(mark("{end}: {what}, lost; then {client} and {server}."))
    return message.format(end=end_word(step.end), what=what, client=step.client.rfc, server=step.server.rfc)


def segment_label(step: Step) -> str:
    """``FIN,ACK seq=u ack=v``: what a segment says."""
    parts = [str(step.flags), f"seq={step.seq}"]
    if step.ack is not None:
        parts.append(f"ack={step.ack}")
    if step.data is not None:
        parts.append(f"len={step.data}")
    return " ".join(parts)


def _arrow(step: Step, glyphs: dict[str, str]) -> str:
    text = f" {segment_label(step)} "
    fill = SPAN - 1 - display_width(text)
    before, behind = fill // 2, fill - fill // 2
    line = glyphs["line"]
    if step.end == CLIENT:
        return line * before + text + line * behind + glyphs["right"]
    return glyphs["left"] + line * before + text + line * behind


def _lost(step: Step, glyphs: dict[str, str]) -> str:
    """A segment that does not arrive ends half-way."""
    text = f" {segment_label(step)} "
    line, cross = glyphs["line"], glyphs["lost"]
    if step.end == CLIENT:
        return f"{line * 2}{text}{line * 2}{cross}"
    return pad_left(f"{cross}{line * 2}{text}{line * 2}", SPAN)


def sequence_mermaid(exchange: Exchange) -> Iterator[str]:
    """A Mermaid sequenceDiagram; states are notes over the lifelines."""
    yield "sequenceDiagram"
    yield f"    participant C as {translate(CLIENT_WORD)}"
    yield f"    participant S as {translate(SERVER_WORD)}"
    states = (exchange.client, exchange.server)
    yield f"    Note left of C: {states[0].rfc}"
    yield f"    Note right of S: {states[1].rfc}"
    for step in exchange.steps:
        here, there = ("C", "S") if step.end == CLIENT else ("S", "C")
        if step.kind == SEGMENT:
            yield f"    {here}{'->>' if step.arrives else '-x'}{there}: {segment_label(step)}"
        else:
            yield f"    Note {'left of C' if here == 'C' else 'right of S'}: {what_of(step)}"
        if step.client is not states[0]:
            yield f"    Note left of C: {step.client.rfc}"
        if step.server is not states[1]:
            yield f"    Note right of S: {step.server.rfc}"
        states = (step.client, step.server)


def sequence_markdown(exchange: Exchange) -> Iterator[str]:
    """The Mermaid diagram, and a table of the steps for where nobody draws it."""
    yield from fenced(sequence_mermaid(exchange))
    yield ""
    rows = [["", "", exchange.client.rfc, exchange.server.rfc]]
    for step in exchange.steps:
        what = f"`{segment_label(step)}`" if step.kind == SEGMENT else what_of(step)
        if step.kind == CALL:
            what = f"`{what}`"
        if not step.arrives:
            what = translate(mark("{segment}, lost")).format(segment=what)
        rows.append([end_word(step.end), what, step.client.rfc, step.server.rfc])
    titles = [mark("Who"), mark("What happens"), CLIENT_WORD, SERVER_WORD]
    yield from table([translate(title) for title in titles], rows)


def sequence_document(exchange: Exchange) -> dict[str, object]:
    """The document of docs/schemas/finwait.diagram-1.json."""
    return {
        "schema": SCHEMA,
        "complete": True,
        "name": exchange.name,
        "kind": "exchange",
        "rfc": exchange.rfc,
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
