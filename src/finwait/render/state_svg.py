"""The state diagram of TCP as SVG: laid by hand after figure 5 of RFC 9293, with counts, weights, rates and who must act
next.

`ROUTES` has every arrow of the machine that is drawn and where it runs; what stands on it comes from the machine.
"""

from __future__ import annotations

from finwait.render import svg
from finwait.render.labels import arrow_label, must_act, weight_of
from finwait.tcp.state import TcpState
from finwait.tcp.waits import WAITS
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from finwait.render.rates import Rates
    from finwait.render.svg import Point

    Counts = Mapping[TcpState, int]

WIDTH, HEIGHT = 840, 752  # px
BOX_WIDTH, BOX_HEIGHT = 208, 56
NOTE_ROW = 22  # px, of a line below the picture
RATE_ROW = 18  # px between what stands on an arrow and how often it is taken
RATE_SIZE = 12  # so that the longest fits below the arrow that leaves TIME-WAIT
FAINT = 0.45  # opacity of an arrow that nobody took
PADDING = 13  # px between a box and what is in it
NAME_SIZE = 14
COUNT_SIZES = (16, 14, 13, 12)  # the largest in which all fit beside their names is taken
_LEFT, _MIDDLE, _RIGHT = 24, 316, 608
# The upper left corner of each state's box.
PLACES: dict[TcpState, tuple[int, int]] = {
    TcpState.CLOSE: (_MIDDLE, 24),
    TcpState.LISTEN: (_MIDDLE, 128),
    TcpState.SYN_RECV: (_LEFT, 232),
    TcpState.SYN_SENT: (_RIGHT, 232),
    TcpState.ESTABLISHED: (_MIDDLE, 332),
    TcpState.FIN_WAIT1: (_LEFT, 432),
    TcpState.CLOSE_WAIT: (_RIGHT, 432),
    TcpState.FIN_WAIT2: (_LEFT, 536),
    TcpState.CLOSING: (_MIDDLE, 536),
    TcpState.LAST_ACK: (_RIGHT, 536),
    TcpState.TIME_WAIT: (_MIDDLE, 640),
}
END = (_RIGHT, 640)  # CLOSED once more, where LAST-ACK and TIME-WAIT lead to


class Route:
    """A transition as it is drawn. points: where the line begins, turns and ends. label: where the baseline of its text begins,
    or ends (`anchor` is end), or has its middle: that lies upon a horizontal, and the rate below it. lift: px that the label is
    the higher where a rate stands below it, beside a vertical.
    """  # fmt: skip

    __slots__ = ("anchor", "event", "label", "lift", "points", "state", "to")

    def __init__(
        self,
        state: TcpState,
        event: str,
        to: TcpState,
        points: tuple[Point, ...],
        label: Point,
        anchor: str = "start",
        lift: int = RATE_ROW // 2,
    ) -> None:
        self.state = state
        self.event = event
        self.to = to
        self.points = points
        self.label = label
        self.anchor = anchor
        self.lift = lift

    def places(self) -> tuple[Point, Point]:
        """Where the label and its rate stand, where there are rates."""
        x, y = self.label
        if self.anchor == "middle":
            return self.label, (x, y + 26)
        return (x, y - self.lift), (x, y - self.lift + RATE_ROW)


ROUTES: tuple[Route, ...] = (
    Route(TcpState.CLOSE, "passive_open", TcpState.LISTEN, ((420, 80), (420, 128)), (430, 109)),
    Route(TcpState.CLOSE, "active_open", TcpState.SYN_SENT, ((524, 52), (712, 52), (712, 232)), (618, 43), "middle"),
    Route(TcpState.LISTEN, "rcv_syn", TcpState.SYN_RECV, ((316, 156), (128, 156), (128, 232)), (222, 147), "middle"),
    Route(TcpState.SYN_SENT, "rcv_syn", TcpState.SYN_RECV, ((608, 248), (232, 248)), (420, 239), "middle"),
    Route(
        TcpState.SYN_RECV, "rcv_ack_of_syn", TcpState.ESTABLISHED, ((232, 272), (376, 272), (376, 332)),
        (367, 303), "end", lift=4,
    ),
    Route(TcpState.SYN_SENT, "rcv_syn_ack", TcpState.ESTABLISHED, ((608, 272), (464, 272), (464, 332)), (473, 303), lift=4),
    Route(TcpState.SYN_RECV, "close", TcpState.FIN_WAIT1, ((72, 288), (72, 432)), (82, 332)),
    Route(TcpState.ESTABLISHED, "close", TcpState.FIN_WAIT1, ((316, 360), (176, 360), (176, 432)), (186, 401), lift=0),
    Route(
        TcpState.ESTABLISHED, "rcv_fin", TcpState.CLOSE_WAIT, ((524, 360), (712, 360), (712, 432)), (702, 401), "end",
        lift=0,
    ),
    Route(TcpState.FIN_WAIT1, "rcv_ack_of_fin", TcpState.FIN_WAIT2, ((128, 488), (128, 536)), (138, 517)),
    Route(TcpState.FIN_WAIT1, "rcv_fin", TcpState.CLOSING, ((232, 448), (452, 448), (452, 536)), (342, 439), "middle"),
    Route(
        TcpState.FIN_WAIT1, "rcv_fin_ack", TcpState.TIME_WAIT, ((232, 472), (274, 472), (274, 656), (316, 656)),
        (284, 492), lift=0,
    ),
    Route(TcpState.CLOSE_WAIT, "close", TcpState.LAST_ACK, ((712, 488), (712, 536)), (702, 517), "end"),
    Route(TcpState.FIN_WAIT2, "rcv_fin", TcpState.TIME_WAIT, ((128, 592), (128, 680), (316, 680)), (138, 671), lift=RATE_ROW),
    Route(TcpState.CLOSING, "rcv_ack_of_fin", TcpState.TIME_WAIT, ((420, 592), (420, 640)), (430, 621)),
    Route(TcpState.LAST_ACK, "rcv_ack_of_fin", TcpState.CLOSE, ((712, 592), (712, 640)), (702, 621), "end"),
    Route(TcpState.TIME_WAIT, "timeout_time_wait", TcpState.CLOSE, ((524, 668), (608, 668)), (563, 659), "middle"),
)  # fmt: skip


def states_svg(counts: Counts | None = None, notes: Sequence[str] = (), rates: Rates | None = None) -> Iterator[str]:
    """Lines of the picture. counts: by state, None for none. notes: what is to be known about them, below the picture: a file
    goes where nobody sees what stood on standard error. rates: of the arrows, None for none.
    """  # fmt: skip
    title = translate(mark("The states of TCP and what leads from one to another"))
    told = " ".join([*_told(counts, rates), *notes])
    lines = [line for note in notes for line in svg.wrap(note, WIDTH - 2 * _LEFT)]
    parts = [*_parts(counts, rates), *(_note(line, at) for at, line in enumerate(lines))]
    yield from svg.document("states", (WIDTH, HEIGHT + NOTE_ROW * len(lines)), title, told, parts)


def _note(line: str, at: int) -> str:
    return svg.text(WIDTH / 2, HEIGHT + 8 + NOTE_ROW * at, line, "muted", "middle")


def _told(counts: Counts | None, rates: Rates | None) -> Iterator[str]:
    """The picture in sentences."""
    for state in PLACES:
        if counts is None:
            yield translate(mark("{state}: {who}.")).format(state=state.rfc, who=must_act(state))
        else:
            message = translate(mark("{state}: {count}, {who}."))
            yield message.format(state=state.rfc, count=counts.get(state, 0), who=must_act(state))
    for route in ROUTES:
        what = arrow_label(route.state, route.event, route.to)
        if rates is not None:
            what = f"{what}, {rates.text_of(route.state, route.to)}"
        message = translate(mark("From {state} to {to}: {what}."))
        yield message.format(state=route.state.rfc, to=route.to.rfc, what=what)


def _parts(counts: Counts | None, rates: Rates | None) -> Iterator[str]:
    for route in ROUTES:
        is_faint = rates is not None and not rates.count_of(route.state, route.to)
        yield svg.arrow("states", route.points, opacity=FAINT if is_faint else 1)
    for route in ROUTES:
        yield from _label(route, rates)
    for state in PLACES:
        yield from _box(state, counts)
    x, y = END
    yield f'<rect class="faint dashed" x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="10"/>'
    yield svg.text(x + BOX_WIDTH / 2, y + BOX_HEIGHT / 2 + 5, TcpState.CLOSE.rfc, "muted", "bold", "middle")
    yield from svg.legend(WIDTH, HEIGHT - 22)


def _label(route: Route, rates: Rates | None) -> Iterator[str]:
    text = arrow_label(route.state, route.event, route.to)
    anchor = () if route.anchor == "start" else (route.anchor,)
    if rates is None:
        yield svg.text(*route.label, text, "ink", *anchor)
        return
    ink = "ink" if rates.count_of(route.state, route.to) else "muted"
    place, below = route.places()
    yield svg.text(*place, text, ink, *anchor)
    more = f' style="font-size:{RATE_SIZE}px"'
    yield svg.text(*below, rates.text_of(route.state, route.to), ink, "number", *anchor, more=more)


def _box(state: TcpState, counts: Counts | None) -> Iterator[str]:
    """A box: its tint and its border are the stronger the heavier the state is; a state without sockets is grey."""
    x, y = PLACES[state]
    who, weight = WAITS[state][0], weight_of(state, counts)
    size = f'x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="10"'
    yield f'<g id="finwait-state-{state.token}">'
    yield f'<rect class="page" {size}/>'
    if weight == 0:
        yield f'<rect class="faint" {size}/>'
    else:
        strength = 0.5 if weight is None else weight
        yield f'<rect class="{who}" {size} fill-opacity="{0.06 + 0.24 * strength:.3g}"/>'
        yield f'<rect class="hollow edge-{who}" {size} style="stroke-width:{1 + 3 * strength if weight else 1.5:.3g}"/>'
    ink = "muted" if weight == 0 else "ink"
    baseline = y + (33 if weight == 0 else 24)  # alone in its box, or above who must act
    more = f' style="font-size:{NAME_SIZE}px"'
    yield svg.text(x + PADDING, baseline, state.rfc, ink, "bold", more=more)
    if counts is not None:
        count = str(counts.get(state, 0))
        more = f' style="font-size:{_count_size(counts)}px"'
        yield svg.text(x + BOX_WIDTH - PADDING, baseline, count, ink, "number", "end", more=more)
    if weight != 0:
        yield svg.who_sign(who, x + PADDING + 6, y + 40)
        yield svg.text(x + PADDING + 18, y + 44.5, must_act(state), "ink")
    yield "</g>"


def _count_size(counts: Counts) -> int:
    """The largest size in which every count fits beside its name."""

    def fits(size: int) -> bool:
        return all(
            svg.text_width(state.rfc, NAME_SIZE, bold=True) + 6 + svg.text_width(str(count), size, bold=True)
            <= BOX_WIDTH - 2 * PADDING
            for state, count in counts.items()
        )

    return next(filter(fits, COUNT_SIZES), COUNT_SIZES[-1])
