"""Exchanges of TCP as SVG: a lifeline for each end in the colours of its states, segments that take their time between them.

A segment leaves with the step that makes the machine send it (`tcp.exchanges.replay`) and ends where it arrives, so that those
of a simultaneous open or close cross.
"""

from __future__ import annotations

from math import atan, degrees

from finwait.render import svg
from finwait.render.sequence import end_word, segment_label, step_told, what_of
from finwait.tcp.exchanges import CLIENT, SEGMENT, SERVER, replay
from finwait.tcp.state import TcpState
from finwait.tcp.waits import WAITS
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from finwait.tcp.exchanges import Exchange, Step

WIDTH = 920  # px
LIFE = {CLIENT: 290, SERVER: 630}  # where the lifelines stand
SPAN = LIFE[SERVER] - LIFE[CLIENT]
OUTWARDS = {CLIENT: -1, SERVER: 1}
TOP, ROW, FOOT = 96, 50, 82  # px: the row of the first states, between rows, below the last
HEADER = (120, 32)  # px, of the box that names an end
PILL = 26  # px, height of what holds a state's name
GAP = 12  # px between a lifeline and what stands beside it
BAR = 8  # px, of the lifeline while a state lasts
SMALL_SIZE = 12.5  # px
SMALL = f' style="font-size:{SMALL_SIZE}px"'
CROSSED_ROW = 70  # px between rows where segments cross
LABEL_RISE, LABEL_DROP = 6, 15  # px between an arrow and what stands on it, or below
CROSSED_AT = 0.22  # where on its way a segment that is crossed has its label
LOST_AT = 0.8  # where on its way a segment is lost


def sequence_svg(exchange: Exchange) -> Iterator[str]:
    """Lines of the picture."""
    rows = rows_of(exchange)
    height = rows[-1] + ROW // 2 + FOOT
    name = exchange.name.replace("_", "-")
    title = translate(mark("What two ends of a TCP connection say to each other: {name}")).format(name=name)
    told = " ".join(step_told(step) for step in exchange.steps)
    yield from svg.document(name, (WIDTH, height), title, told, _parts(exchange, name, rows, height))


def rows_of(exchange: Exchange) -> list[int]:
    """The y of what was before the first step, and of each step. What happens to both ends at once stands in one row."""
    twins = [
        (one.kind, one.event) == (two.kind, two.event) and one.end != two.end
        for one, two in zip(exchange.steps, exchange.steps[1:], strict=False)
    ]
    row = CROSSED_ROW if any(twins) else ROW
    rows = [TOP]
    for is_twin in (False, *twins):
        rows.append(rows[-1] + (0 if is_twin else row))
    return rows


def _parts(exchange: Exchange, name: str, rows: list[int], height: int) -> Iterator[str]:
    for end in (CLIENT, SERVER):
        yield from _header(end)
        yield from _lifeline(exchange, end, rows)
    flights = [
        (step, rows[replayed.left + 1], rows[at + 1])
        for at, (step, replayed) in enumerate(zip(exchange.steps, replay(exchange), strict=True))
        if replayed.left is not None
    ]
    for step, leaves, arrives in flights:
        is_crossed = any(
            other.end != step.end and other_leaves < arrives and leaves < other_arrives
            for other, other_leaves, other_arrives in flights
        )
        yield from _segment(name, step, (leaves, arrives), is_crossed=is_crossed)
    for end in (CLIENT, SERVER):
        yield from _beside(exchange, end, rows)
    yield from svg.legend(WIDTH, height - 22)


def _header(end: str) -> Iterator[str]:
    width, height = HEADER
    x, y = LIFE[end] - width / 2, 22
    yield f'<rect class="hollow faint" x="{x:g}" y="{y}" width="{width}" height="{height}" rx="8"/>'
    yield svg.text(LIFE[end], y + 21, end_word(end), "ink", "bold", "middle")


def _states(exchange: Exchange, end: str) -> list[TcpState]:
    """The states of an end, before the first step and behind each."""
    if end == CLIENT:
        return [exchange.client, *(step.client for step in exchange.steps)]
    return [exchange.server, *(step.server for step in exchange.steps)]


def _color_of(state: TcpState) -> str:
    """By who must act; a connection that is CLOSED is nobody's any more."""
    return "over" if state is TcpState.CLOSE else WAITS[state][0]


def _lifeline(exchange: Exchange, end: str, rows: list[int]) -> Iterator[str]:
    """A thin line from header to foot, and a bar on it for as long as each state lasts."""
    x, last = LIFE[end], rows[-1] + ROW // 2
    yield f'<path class="faint" d="M{x} {22 + HEADER[1]}V{last}"/>'
    states = _states(exchange, end)
    begins = [at for at, state in enumerate(states) if at == 0 or state is not states[at - 1]]
    for begin, until in zip(begins, [*begins[1:], None], strict=True):
        if states[begin] is not TcpState.CLOSE:
            top, bottom = rows[begin], last if until is None else rows[until]
            place = f'x="{x - BAR / 2:g}" y="{top}" width="{BAR}" height="{bottom - top}"'
            yield f'<rect class="{_color_of(states[begin])}" {place} rx="2"/>'


def _segment(name: str, step: Step, rows: tuple[int, int], *, is_crossed: bool) -> Iterator[str]:
    """An arrow with what the segment says. rows: where it leaves and arrives. is_crossed: by one of the other end, so that the
    label keeps to the sender's side, flags above the arrow and numbers below.
    """  # fmt: skip
    inwards = -OUTWARDS[step.end]
    x, y = LIFE[step.end] + inwards * BAR / 2, float(rows[0])
    wide, high = inwards * (SPAN - BAR), rows[1] - rows[0]
    part = 1.0 if step.arrives else LOST_AT
    yield svg.arrow(name, ((x, y), (x + wide * part, y + high * part)))
    if not step.arrives:
        yield from _cross(x + wide * part, y + high * part, inwards)
    at = CROSSED_AT if is_crossed else part / 2
    middle, label = (round(x + wide * at, 1), round(y + high * at, 1)), segment_label(step)
    more = f'{SMALL} transform="rotate({degrees(atan(high / wide)):.2f} {middle[0]:g} {middle[1]:g})"'
    if is_crossed:
        label, _, below = label.partition(" ")
        yield svg.text(middle[0], middle[1] + LABEL_DROP, below, "ink", "middle", more=more)
    yield svg.text(middle[0], middle[1] - LABEL_RISE, label, "ink", "middle", more=more)


def _cross(x: float, y: float, inwards: int) -> Iterator[str]:
    """Where a segment is lost: a cross, and the word."""
    x += inwards * 8
    yield f'<path class="lost" style="stroke-width:2.4" d="M{x - 6:g} {y - 6:g}l12 12m0 -12l-12 12"/>'
    anchor = () if inwards > 0 else ("end",)
    yield svg.text(round(x + inwards * 12, 1), round(y + 5, 1), translate(mark("lost")), "muted", *anchor, more=SMALL)


def _beside(exchange: Exchange, end: str, rows: list[int]) -> Iterator[str]:
    """Beside a lifeline: each state where it begins, and outside of it what the program calls or the clock does."""
    states, outwards = _states(exchange, end), OUTWARDS[end]
    yield from _pill(states[0], end, rows[0])
    for at, step in enumerate(exchange.steps):
        x, y = LIFE[end] + outwards * GAP, rows[at + 1]
        if states[at + 1] is not states[at]:
            yield from _pill(states[at + 1], end, y)
            x += outwards * (_pill_width(states[at + 1]) + 8)
        if step.kind != SEGMENT and step.end == end:
            yield f'<circle class="ink" cx="{LIFE[end]}" cy="{y}" r="3.5"/>'
            yield svg.text(x, y + 4.5, what_of(step), "ink", "call", *(("end",) if outwards < 0 else ()), more=SMALL)


def _pill_width(state: TcpState) -> int:
    """Px for the name, the sign of who must act, and what lies between and around."""
    return round(svg.text_width(state.rfc, SMALL_SIZE, bold=True)) + (24 if state is TcpState.CLOSE else 41)


def _pill(state: TcpState, end: str, y: int) -> Iterator[str]:
    width, color = _pill_width(state), _color_of(state)
    x = LIFE[end] + (GAP if end == SERVER else -GAP - width)
    size = f'x="{x}" y="{y - PILL / 2:g}" width="{width}" height="{PILL}" rx="13"'
    yield f'<rect class="page" {size}/><rect class="{color}" {size} fill-opacity="0.16"/>'
    yield f'<rect class="hollow edge-{color}" {size} style="stroke-width:1.2"/>'
    if state is TcpState.CLOSE:
        yield svg.text(x + width / 2, y + 4.5, state.rfc, "ink", "bold", "middle", more=SMALL)
        return
    yield svg.who_sign(color, x + 17, y)
    yield svg.text(x + 29, y + 4.5, state.rfc, "ink", "bold", more=SMALL)
