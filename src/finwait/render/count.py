"""A count as text: finwait's own table, ss's spellings, or the lines of the netstat one-liner."""

from __future__ import annotations

from finwait.render.owners import kind_text, process_text
from finwait.table.owners import KIND_LABELS, OWNER_COLUMNS
from finwait.tcp.state import LIFE_ORDER, TcpState
from finwait.tcp.waits import CLOCK, NOBODY, PEER, PROGRAM, WAITS
from finwait.text.escape import escape_foreign
from finwait.text.messages import mark, translate
from finwait.text.width import display_width, pad_left, pad_right

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from finwait.render.style import Style
    from finwait.table.snapshot import Cell, Group, Snapshot

BAR_CELLS = 20
LEAST_BAR_CELLS = 4
SHARE_CELLS = len("100.0 %")
STATE_BY_TOKEN = {state.token: state for state in TcpState}
COLOR_BY_WHO = {NOBODY: "green", PEER: "yellow", PROGRAM: "red", CLOCK: "blue"}
COUNT_TITLE, SHARE_TITLE, WAITS_TITLE = mark("COUNT"), mark("SHARE"), mark("WAITS FOR")
TOTAL_TITLE, OTHER_TITLE = mark("total"), mark("other")


def render_count(
    snapshot: Snapshot, style: Style, spelling: str = "rfc", *, header: bool = True, columns: int | None = None
) -> Iterator[str]:
    """Lines of the table: the groups' keys, count, share and bar; by state alone also what the state waits for.

    spelling: of states, ``rfc`` or ``ss``. columns: of the terminal, None for no limit; the bar gives way first.
    """
    table = _Table(snapshot, style, spelling, columns)
    if header:
        yield table.header()
    for group in snapshot.groups:
        yield table.line(group)
    yield from table.footers()


class _Table:
    """The layout of one count: texts of the keys and widths of the columns, in terminal cells."""

    def __init__(self, snapshot: Snapshot, style: Style, spelling: str, columns: int | None) -> None:
        self.snapshot = snapshot
        self.style = style
        self.spelling = spelling
        self.waits = snapshot.by == ("state",)
        self.titles = [_title(column) for column in snapshot.by]
        self.footer_texts = list(_footers(snapshot))
        texts = [self.titles, *map(self._key, snapshot.groups)]
        self.widths = [max(display_width(row[index]) for row in texts) for index in range(len(self.titles))]
        self.widths[0] = max(self.widths[0], *(display_width(text) for text, _ in self.footer_texts))
        self.count_width = max(display_width(translate(COUNT_TITLE)), len(str(snapshot.total)))
        self.share_width = max(display_width(translate(SHARE_TITLE)), SHARE_CELLS)
        self.bar_cells = self._room_for_bar(columns)

    def _key(self, group: Group) -> list[str]:
        texts = [
            _key_text(column, cell, self.spelling) for column, cell in zip(self.snapshot.by, group.key, strict=True)
        ]
        where = next((at for at, column in enumerate(self.snapshot.by) if column in OWNER_COLUMNS), None)
        if where is not None and group.key[where] is None and group.owner_kind in KIND_LABELS:
            texts[where] = kind_text(group.owner_kind)
        return texts

    def _room_for_bar(self, columns: int | None) -> int:
        """Cells for the bar and the blanks behind it, none where they would be few."""
        if columns is None:
            return BAR_CELLS
        longest = max(display_width(translate(text)) for _, text in WAITS.values()) if self.waits else 0
        taken = sum(self.widths) + 2 * len(self.widths) + self.count_width + 2 + self.share_width + 2
        room = min(BAR_CELLS, columns - taken - (longest + 2 if self.waits else 0))
        return room if room >= LEAST_BAR_CELLS else 0

    def header(self) -> str:
        """The line of titles."""
        cells = [*map(pad_right, self.titles, self.widths)]
        cells += [
            pad_left(translate(COUNT_TITLE), self.count_width),
            pad_left(translate(SHARE_TITLE), self.share_width),
        ]
        if self.waits:
            cells += [" " * self.bar_cells] * bool(self.bar_cells) + [translate(WAITS_TITLE)]
        return self.style.paint("  ".join(cells).rstrip(), "bold")

    def line(self, group: Group) -> str:
        """The line of one group."""
        total = self.snapshot.total
        cells = [*map(pad_right, self._key(group), self.widths)]
        cells += [str(group.count).rjust(self.count_width), _share(group.count, total).rjust(self.share_width)]
        bar = self.style.bar(group.count, total, self.bar_cells).ljust(self.bar_cells)  # one cell a character
        bars = [bar] * bool(self.bar_cells)
        if not self.waits:
            return "  ".join([*cells, *bars]).rstrip()
        who, waits = WAITS[STATE_BY_TOKEN[str(group.key[0])]]
        painted = self.style.paint("  ".join(cells), COLOR_BY_WHO[who] if group.count else "dim")
        text = "  ".join([*bars, translate(waits)])
        return painted + "  " + (text if group.count else self.style.paint(text, "dim"))

    def footers(self) -> Iterator[str]:
        """What was folded away, and the total."""
        for text, count in self.footer_texts:
            cells = [pad_right(text, self.widths[0]), *(" " * width for width in self.widths[1:])]
            yield self.style.paint("  ".join([*cells, str(count).rjust(self.count_width)]), "bold")
        yield from self._ghosts()

    def _ghosts(self) -> Iterator[str]:
        """A line for each process that holds ended connections; behind the total, because they are not in it."""
        at = [self.snapshot.by.index(column) for column in ("process", "pid") if column in self.snapshot.by]
        counts: dict[tuple[str, ...], int] = {}
        for process, pid, count in self.snapshot.ghosts or ():
            texts = [" " * 0 for _ in self.snapshot.by]
            for index in at:
                texts[index] = process_text(process or "-") if self.snapshot.by[index] == "process" else str(pid)
            counts[tuple(texts)] = counts.get(tuple(texts), 0) + count
        for key, count in counts.items():
            cells = [*map(pad_right, key, self.widths), str(count).rjust(self.count_width)]
            ghosts = translate(mark("descriptors of connections that have ended: finwait list --ghosts"))
            yield self.style.paint("  ".join([*cells, ghosts]), "red")


def _share(part: int, whole: int) -> str:
    """Per cent to one place; what is there is never shown as zero, what is not all never as all."""
    if not part:
        return "-"
    tenths = min((part * 2000 + whole) // (2 * whole), 1000 if part == whole else 999)
    if not tenths:
        return "<0.1 %"
    return f"{tenths // 10}.{tenths % 10} %"


def _footers(snapshot: Snapshot) -> Iterator[tuple[str, int]]:
    if snapshot.other:
        yield f"{translate(OTHER_TITLE)} ({snapshot.other_groups})", snapshot.other
    yield translate(TOTAL_TITLE), snapshot.total


def _title(column: str) -> str:
    return column.replace("_", "-").upper()


def _key_text(column: str, cell: Cell, spelling: str) -> str:
    if cell is None:
        return "-"
    if column == "state":
        state = STATE_BY_TOKEN[str(cell)]
        return state.ss if spelling == "ss" else state.rfc
    return process_text(str(cell)) if column == "process" else escape_foreign(str(cell))


def render_count_netstat(snapshot: Snapshot) -> Iterator[str]:
    """The lines of ``netstat -n | awk '/^tcp/ {++S[$NF]} END {for(a in S) print a, S[a]}' | LC_ALL=C sort``.

    netstat without -a hides LISTEN, and nothing but sock_diag's bit 13 shows CLOSE.
    """
    counts = {STATE_BY_TOKEN[str(group.key[0])]: group.count for group in snapshot.groups}
    hidden = {TcpState.LISTEN, TcpState.CLOSE}
    yield from sorted(
        f"{state.netstat} {counts[state]}" for state in LIFE_ORDER if state not in hidden and counts.get(state)
    )
