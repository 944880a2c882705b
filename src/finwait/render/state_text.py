"""The state diagram of TCP on a terminal: laid by hand, 96 cells wide, in Unicode or ASCII, with counts and who must act next.

Every arrow names transitions of the machine (`ARROWS`); a test holds that they are there and that none of RFC 9293's figure is
missing.
"""

from __future__ import annotations

from finwait.tcp.state import TcpState
from finwait.tcp.waits import NOBODY, WAITS
from finwait.text.messages import mark, translate
from finwait.text.width import display_width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

BOX = 24  # cells of a box, its border included
LEFT, MIDDLE, RIGHT = 1, 36, 71  # where the boxes of a column begin
COLUMNS, ROWS = 96, 37
WHO = {"peer": mark("peer must act"), "program": mark("program must act"), "clock": mark("clock runs"), NOBODY: ""}
_ASCII = str.maketrans("╭╮╰╯│─▼▶◀▲├┤┬┴", "++++|-v><^++++")
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
# (from, event, to) of every arrow that is drawn, in the order in which they are.
ARROWS: tuple[tuple[TcpState, str, TcpState], ...] = (
    (TcpState.CLOSE, "passive_open", TcpState.LISTEN),
    (TcpState.CLOSE, "active_open", TcpState.SYN_SENT),
    (TcpState.LISTEN, "rcv_syn", TcpState.SYN_RECV),
    (TcpState.SYN_SENT, "rcv_syn", TcpState.SYN_RECV),
    (TcpState.SYN_SENT, "rcv_syn_ack", TcpState.ESTABLISHED),
    (TcpState.SYN_RECV, "rcv_ack_of_syn", TcpState.ESTABLISHED),
    (TcpState.SYN_RECV, "close", TcpState.FIN_WAIT1),
    (TcpState.ESTABLISHED, "close", TcpState.FIN_WAIT1),
    (TcpState.ESTABLISHED, "rcv_fin", TcpState.CLOSE_WAIT),
    (TcpState.FIN_WAIT1, "rcv_ack_of_fin", TcpState.FIN_WAIT2),
    (TcpState.FIN_WAIT1, "rcv_fin", TcpState.CLOSING),
    (TcpState.FIN_WAIT1, "rcv_fin_ack", TcpState.TIME_WAIT),
    (TcpState.CLOSE_WAIT, "close", TcpState.LAST_ACK),
    (TcpState.CLOSING, "rcv_ack_of_fin", TcpState.TIME_WAIT),
    (TcpState.FIN_WAIT2, "rcv_fin", TcpState.TIME_WAIT),
    (TcpState.LAST_ACK, "rcv_ack_of_fin", TcpState.CLOSE),
    (TcpState.TIME_WAIT, "timeout_time_wait", TcpState.CLOSE),
)


class _Canvas:
    """A page of cells; a character that takes two has an empty cell behind it."""

    def __init__(self) -> None:
        self.cells = [[" "] * COLUMNS for _ in range(ROWS)]

    def put(self, row: int, column: int, text: str) -> None:
        """`text` from a place on; what does not fit is left out."""
        for character in text:
            width = display_width(character)
            if column + width > COLUMNS:
                return
            self.cells[row][column] = character
            if width == 2:
                self.cells[row][column + 1] = ""
            column += width

    def down(self, column: int, first: int, last: int) -> None:
        """A vertical line, rows `first` to `last`."""
        for row in range(first, last + 1):
            self.cells[row][column] = "│"

    def lines(self) -> Iterator[str]:
        """The page without blanks at the ends of lines."""
        for row in self.cells:
            yield "".join(row).rstrip()


def render_states(
    counts: Mapping[TcpState, int] | None = None,
    *,
    unicode: bool = True,
    paint: Callable[[TcpState, str], str] | None = None,
) -> Iterator[str]:
    """Lines of the picture. counts: by state, None for none. paint: colours a box's name by its state."""
    canvas = _Canvas()
    _draw_arrows(canvas)
    for state in PLACES:
        _draw_box(canvas, state, counts)
    lines = [line if unicode else line.translate(_ASCII) for line in canvas.lines()]
    for line in lines:
        yield line if paint is None else _painted(line, paint)


def _painted(line: str, paint: Callable[[TcpState, str], str]) -> str:
    """A line may name three states; the longest names first, for none is a part of another but by its end."""
    for state in sorted(PLACES, key=lambda state: -len(state.rfc)):
        line = line.replace(f" {state.rfc} ", f" {paint(state, state.rfc)} ")
    return line


def _draw_box(canvas: _Canvas, state: TcpState, counts: Mapping[TcpState, int] | None) -> None:
    column, row = PLACES[state]
    count = "" if counts is None else str(counts.get(state, 0))
    text = WHO[WAITS[state][0]] if counts is None or counts.get(state) else ""
    who = translate(text) if text else ""  # the translation of nothing is the catalogue's header
    canvas.put(row, column, f"╭{'─' * (BOX - 2)}╮")
    canvas.put(row + 1, column, f"│ {state.rfc}{count.rjust(BOX - 4 - len(state.rfc))} │")
    canvas.put(
        row + 2, column, f"│{' ' * (BOX - 2)}│" if not who else f"│ {who}{' ' * (BOX - 4 - display_width(who))} │"
    )
    canvas.put(row + 3, column, f"╰{'─' * (BOX - 2)}╯")


def _draw_arrows(canvas: _Canvas) -> None:
    put = canvas.put
    # CLOSED to LISTEN and SYN-SENT
    put(2, 13, "╭" + "─" * 22)
    put(1, 14, "listen()")
    put(3, 13, "▼")
    put(2, 60, "─" * 22 + "╮")
    put(1, 63, "connect() / SYN")
    put(3, 82, "▼")
    # LISTEN, SYN-SENT to SYN-RECEIVED
    canvas.down(9, 8, 9)
    put(8, 11, "rcv SYN / SYN,ACK")
    put(10, 9, "▼")
    canvas.down(76, 8, 8)
    put(8, 57, "rcv SYN / SYN,ACK")
    put(9, 20, "╭" + "─" * 55 + "╯")
    put(10, 20, "▼")
    # SYN-SENT and SYN-RECEIVED to ESTABLISHED
    canvas.down(88, 8, 15)
    put(12, 69, "rcv SYN,ACK / ACK")
    put(16, 60, "◀" + "─" * 27 + "╯")
    put(13, 25, "───╮")
    put(12, 26, "rcv ACK of SYN")
    canvas.down(28, 14, 15)
    put(16, 28, "╰──────▶")
    # SYN-RECEIVED to FIN-WAIT-1
    canvas.down(5, 15, 18)
    put(17, 7, "close() / FIN,ACK")
    put(19, 5, "▼")
    # ESTABLISHED to FIN-WAIT-1 and CLOSE-WAIT
    put(18, 20, "╭" + "─" * 19 + "╯")
    put(19, 20, "▼")
    put(19, 22, "close() / FIN,ACK")
    put(18, 55, "╰" + "─" * 26 + "╮")
    put(19, 82, "▼")
    put(19, 66, "rcv FIN / ACK")
    # FIN-WAIT-1 to CLOSING, TIME-WAIT, FIN-WAIT-2
    put(22, 25, "─" * 20 + "╮")
    put(21, 27, "rcv FIN / ACK")
    put(23, 45, "▼")
    canvas.down(20, 24, 26)
    put(26, 20, "╰" + "─" * 9 + "╮")
    put(24, 22, "rcv FIN,ACK /")
    put(25, 22, "ACK")
    canvas.down(30, 27, 31)
    put(32, 30, "╰────▶")
    canvas.down(5, 24, 26)
    put(25, 7, "rcv ACK")
    put(26, 7, "of FIN")
    put(27, 5, "▼")
    # CLOSE-WAIT to LAST-ACK, and the ends
    canvas.down(82, 24, 24)
    put(24, 64, "close() / FIN,ACK")
    put(25, 82, "▼")
    canvas.down(45, 28, 29)
    put(29, 47, "rcv ACK of FIN")
    put(30, 45, "▼")
    canvas.down(12, 32, 33)
    put(34, 12, "╰" + "─" * 16 + "──────▶")
    put(35, 14, "rcv FIN / ACK")
    canvas.down(82, 30, 32)
    put(31, 66, "rcv ACK of FIN")
    put(33, 82, "▼")
    put(34, 79, "CLOSED")
    put(34, 60, f"─ {translate(mark('60 s'))} ─────────▶")
