"""The state diagram of TCP on a terminal: laid by hand, 96 cells wide, in Unicode or ASCII, with counts, rates and who must act
next.

Every arrow names transitions of the machine (`ARROWS`); a test holds that they are there and that none of RFC 9293's figure is
missing.
"""

from __future__ import annotations

from itertools import groupby

from finwait.render.labels import HEAVY, arrow_label, must_act, weight_of
from finwait.tcp.state import TcpState
from finwait.tcp.waits import NOBODY, WAITS
from finwait.text.width import display_width, pad_right

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from finwait.render.rates import Rates

    Cell = tuple[int, int]

BOX = 24  # cells of a box, its border included
LEFT, MIDDLE, RIGHT = 1, 36, 71  # where the boxes of a column begin
COLUMNS, ROWS = 96, 35
_ASCII = str.maketrans("╭╮╰╯│─▼▶◀▲┏┓┗┛┃━", "++++|-v><^****#=")
_BORDER = (("╭", "╮", "╰", "╯"), "│", "─")
_HEAVY_BORDER = (("┏", "┓", "┗", "┛"), "┃", "━")
# The turn of a line by (the way it comes, the way it goes on), each (rows, columns); the head by the way it comes.
_CORNERS: dict[tuple[Cell | None, Cell], str] = {
    ((0, -1), (1, 0)): "╭", ((0, 1), (1, 0)): "╮", ((1, 0), (0, 1)): "╰", ((1, 0), (0, -1)): "╯",
}  # fmt: skip
_HEADS: dict[Cell | None, str] = {(1, 0): "▼", (0, 1): "▶", (0, -1): "◀"}
# Where each box stands: (column, row).
PLACES: dict[TcpState, tuple[int, int]] = {
    TcpState.CLOSE: (MIDDLE, 0),
    TcpState.LISTEN: (LEFT, 4),
    TcpState.SYN_SENT: (RIGHT, 4),
    TcpState.SYN_RECV: (LEFT, 11),
    TcpState.ESTABLISHED: (MIDDLE, 14),
    TcpState.FIN_WAIT1: (LEFT, 20),
    TcpState.CLOSE_WAIT: (RIGHT, 20),
    TcpState.CLOSING: (MIDDLE, 24),
    TcpState.FIN_WAIT2: (LEFT, 28),
    TcpState.LAST_ACK: (RIGHT, 26),
    TcpState.TIME_WAIT: (MIDDLE, 31),
}
END = (79, 33)  # CLOSED once more, where LAST-ACK and TIME-WAIT lead to


class Arrow:
    """A transition as it is drawn. points: (row, column) of the line's beginning, its turns and its head. label: (row, column)
    of what stands beside it, and the cells that it may take before it goes on in the next row. rate: (row, column) of how often
    it is taken.
    """  # fmt: skip

    __slots__ = ("event", "label", "points", "rate", "state", "to")

    def __init__(
        self,
        state: TcpState,
        event: str,
        to: TcpState,
        points: tuple[Cell, ...],
        label: tuple[int, int, int],
        rate: Cell,
    ) -> None:
        self.state = state
        self.event = event
        self.to = to
        self.points = points
        self.label = label
        self.rate = rate


# Every arrow that is drawn, in the order in which they are.
ARROWS: tuple[Arrow, ...] = (
    Arrow(TcpState.CLOSE, "passive_open", TcpState.LISTEN, ((2, 35), (2, 13), (3, 13)), (1, 14, 20), (3, 15)),
    Arrow(TcpState.CLOSE, "active_open", TcpState.SYN_SENT, ((2, 60), (2, 82), (3, 82)), (1, 63, 20), (3, 63)),
    Arrow(TcpState.LISTEN, "rcv_syn", TcpState.SYN_RECV, ((8, 9), (10, 9)), (8, 11, 20), (9, 11)),
    Arrow(TcpState.SYN_SENT, "rcv_syn", TcpState.SYN_RECV, ((8, 76), (9, 76), (9, 20), (10, 20)), (8, 57, 18), (10, 57)),
    Arrow(TcpState.SYN_SENT, "rcv_syn_ack", TcpState.ESTABLISHED, ((8, 88), (16, 88), (16, 60)), (12, 69, 18), (13, 69)),
    Arrow(
        TcpState.SYN_RECV, "rcv_ack_of_syn", TcpState.ESTABLISHED,
        ((13, 25), (13, 28), (16, 28), (16, 35)), (12, 26, 20), (13, 30),
    ),
    Arrow(TcpState.SYN_RECV, "close", TcpState.FIN_WAIT1, ((15, 5), (19, 5)), (17, 7, 20), (18, 7)),
    Arrow(
        TcpState.ESTABLISHED, "close", TcpState.FIN_WAIT1,
        ((17, 40), (18, 40), (18, 20), (19, 20)), (19, 22, 20), (19, 41),
    ),
    Arrow(
        TcpState.ESTABLISHED, "rcv_fin", TcpState.CLOSE_WAIT,
        ((17, 55), (18, 55), (18, 82), (19, 82)), (19, 66, 15), (17, 66),
    ),
    Arrow(TcpState.FIN_WAIT1, "rcv_ack_of_fin", TcpState.FIN_WAIT2, ((24, 5), (27, 5)), (25, 7, 9), (27, 7)),
    Arrow(TcpState.FIN_WAIT1, "rcv_fin", TcpState.CLOSING, ((22, 25), (22, 45), (23, 45)), (21, 27, 20), (23, 27)),
    Arrow(
        TcpState.FIN_WAIT1, "rcv_fin_ack", TcpState.TIME_WAIT,
        ((24, 20), (26, 20), (26, 30), (32, 30), (32, 35)), (24, 22, 13), (27, 21),
    ),
    Arrow(TcpState.CLOSE_WAIT, "close", TcpState.LAST_ACK, ((24, 82), (25, 82)), (24, 64, 18), (25, 64)),
    Arrow(TcpState.CLOSING, "rcv_ack_of_fin", TcpState.TIME_WAIT, ((28, 45), (30, 45)), (29, 47, 20), (30, 47)),
    Arrow(TcpState.FIN_WAIT2, "rcv_fin", TcpState.TIME_WAIT, ((32, 12), (33, 12), (33, 35)), (34, 14, 20), (32, 14)),
    Arrow(TcpState.LAST_ACK, "rcv_ack_of_fin", TcpState.CLOSE, ((30, 82), (32, 82)), (31, 66, 15), (30, 66)),
    Arrow(TcpState.TIME_WAIT, "timeout_time_wait", TcpState.CLOSE, ((33, 60), (33, 77)), (32, 63, 15), (34, 63)),
)  # fmt: skip


class _Canvas:
    """A page of cells; a character that takes two has an empty cell behind it. faint: whether what is drawn now is."""

    def __init__(self) -> None:
        self.cells = [[" "] * COLUMNS for _ in range(ROWS)]
        self.faint = False
        self._faint_cells: set[Cell] = set()

    def _set(self, row: int, column: int, character: str) -> None:
        self.cells[row][column] = character
        (self._faint_cells.add if self.faint else self._faint_cells.discard)((row, column))

    def put(self, row: int, column: int, text: str) -> None:
        """`text` from a place on; what does not fit is left out."""
        for character in text:
            width = display_width(character)
            if column + width > COLUMNS:
                return
            self._set(row, column, character)
            if width == 2:
                self._set(row, column + 1, "")
            column += width

    def draw(self, points: tuple[Cell, ...]) -> None:
        """A line through `points` with a head at its end."""
        before: Cell | None = None
        (row, column), head = points[0], points[-1]
        for to_row, to_column in points[1:]:
            way = (_sign(to_row - row), _sign(to_column - column))
            self._set(row, column, _CORNERS.get((before, way), "│" if way[0] else "─"))
            while (row, column) != (to_row, to_column):
                row, column = row + way[0], column + way[1]
                self._set(row, column, "│" if way[0] else "─")
            before = way
        self._set(*head, _HEADS[before])

    def lines(self, fade: Callable[[str], str] | None) -> Iterator[str]:
        """The page without blanks at the ends of lines; what is faint as `fade` has it."""
        for at, row in enumerate(self.cells):
            if fade is None:
                yield "".join(row).rstrip()
                continue
            runs = groupby(enumerate(row), lambda cell, at=at: (at, cell[0]) in self._faint_cells)  # type: ignore[misc]
            texts = ((is_faint, "".join(cell for _, cell in run)) for is_faint, run in runs)
            yield "".join(fade(text) if is_faint else text for is_faint, text in texts).rstrip()


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


def render_states(
    counts: Mapping[TcpState, int] | None = None,
    rates: Rates | None = None,
    *,
    unicode: bool = True,
    paint: Callable[[TcpState, str], str] | None = None,
    fade: Callable[[str], str] | None = None,
) -> Iterator[str]:
    """Lines of the picture. counts: by state, None for none; a heavy state has a heavy border. rates: of the arrows, None for
    none. paint: colours a box's name by its state. fade: what an arrow that nobody took looks like.
    """  # fmt: skip
    canvas = _Canvas()
    for arrow in ARROWS:
        canvas.faint = rates is not None and not rates.count_of(arrow.state, arrow.to)
        canvas.draw(arrow.points)
        _draw_label(canvas, arrow)
        if rates is not None:
            canvas.put(*arrow.rate, rates.text_of(arrow.state, arrow.to))
    canvas.faint = False
    for state in PLACES:
        _draw_box(canvas, state, counts)
    column, row = END
    canvas.put(row, column, TcpState.CLOSE.rfc)
    lines = [line if unicode else line.translate(_ASCII) for line in canvas.lines(fade)]
    for line in lines:
        yield line if paint is None else _painted(line, paint)


def _painted(line: str, paint: Callable[[TcpState, str], str]) -> str:
    """A line may name three states; the longest names first, for none is a part of another but by its end."""
    for state in sorted(PLACES, key=lambda state: -len(state.rfc)):
        line = line.replace(f" {state.rfc} ", f" {paint(state, state.rfc)} ")
    return line


def _draw_label(canvas: _Canvas, arrow: Arrow) -> None:
    row, column, room = arrow.label
    line = ""
    for word in arrow_label(arrow.state, arrow.event, arrow.to).split():
        if line and display_width(f"{line} {word}") > room:
            canvas.put(row, column, line)
            row, line = row + 1, ""
        line = f"{line} {word}".lstrip()
    canvas.put(row, column, line)


def _draw_box(canvas: _Canvas, state: TcpState, counts: Mapping[TcpState, int] | None) -> None:
    column, row = PLACES[state]
    count = "" if counts is None else str(counts.get(state, 0))
    is_told = WAITS[state][0] != NOBODY and (counts is None or bool(counts.get(state)))
    who = must_act(state) if is_told else ""
    border = _HEAVY_BORDER if (weight_of(state, counts) or 0) >= HEAVY else _BORDER
    (one, two, three, four), side, line = border
    canvas.put(row, column, f"{one}{line * (BOX - 2)}{two}")
    canvas.put(row + 1, column, f"{side} {state.rfc}{count.rjust(BOX - 4 - len(state.rfc))} {side}")
    canvas.put(row + 2, column, f"{side} {pad_right(who, BOX - 4)} {side}")
    canvas.put(row + 3, column, f"{three}{line * (BOX - 2)}{four}")
