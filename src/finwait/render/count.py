"""A count as text: finwait's own table, ss's spellings, or the lines of the netstat one-liner."""

from __future__ import annotations

from finwait.tcp.state import LIFE_ORDER, TcpState
from finwait.tcp.waits import CLOCK, NOBODY, PEER, PROGRAM, WAITS
from finwait.text.escape import escape_foreign
from finwait.text.messages import mark, translate
from finwait.text.width import display_width, pad_left, pad_right

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from finwait.render.style import Style
    from finwait.table.snapshot import Cell, Group, Snapshot

BAR_CELLS = 20
STATE_BY_TOKEN = {state.token: state for state in TcpState}
_COLOR_BY_WHO = {NOBODY: "green", PEER: "yellow", PROGRAM: "red", CLOCK: "blue"}
COUNT_TITLE, SHARE_TITLE, WAITS_TITLE = mark("COUNT"), mark("SHARE"), mark("WAITS FOR")
TOTAL_TITLE, OTHER_TITLE = mark("total"), mark("other")


def render_count(snapshot: Snapshot, style: Style, spelling: str = "rfc", *, header: bool = True) -> Iterator[str]:
    """Lines of the table: the groups' keys, count, share and bar; by state alone also what the state waits for.

    spelling: of states, ``rfc`` or ``ss``.
    """
    by_state = snapshot.by == ("state",)
    titles = [_title(column) for column in snapshot.by]
    keys = [[_key_text(column, cell, spelling) for column, cell in zip(snapshot.by, group.key, strict=True)]
            for group in snapshot.groups]  # fmt: skip
    footers = list(_footers(snapshot))
    widths = [
        max(
            map(
                display_width,
                [title, *(key[index] for key in keys), *([text for text, _ in footers] if not index else [])],
            )
        )
        for index, title in enumerate(titles)
    ]
    count_title, share_title = translate(COUNT_TITLE), translate(SHARE_TITLE)
    count_width = max(display_width(count_title), len(str(snapshot.total)))
    share_width = max(display_width(share_title), 7)
    if header:
        cells = [pad_right(title, width) for title, width in zip(titles, widths, strict=True)]
        cells += [pad_left(count_title, count_width), pad_left(share_title, share_width)]
        cells += [" " * BAR_CELLS, translate(WAITS_TITLE)] if by_state else []
        yield style.paint("  ".join(cells).rstrip(), "bold")
    for key, group in zip(keys, snapshot.groups, strict=True):
        line = _line(snapshot, group, [*map(pad_right, key, widths)], count_width, share_width, style)
        yield line.rstrip()
    for text, count in footers:
        cells = [pad_right(text, widths[0]), *(" " * width for width in widths[1:]), str(count).rjust(count_width)]
        yield style.paint("  ".join(cells), "bold")


def _line(
    snapshot: Snapshot, group: Group, key: Sequence[str], count_width: int, share_width: int, style: Style
) -> str:
    bar = style.bar(group.count, snapshot.total, BAR_CELLS)
    cells = [*key, str(group.count).rjust(count_width), _share(group.count, snapshot.total).rjust(share_width)]
    if snapshot.by != ("state",):
        return "  ".join([*cells, bar])
    who, waits = WAITS[STATE_BY_TOKEN[str(group.key[0])]]
    attributes = (_COLOR_BY_WHO[who],) if group.count else ("dim",)
    return style.paint("  ".join(cells), *attributes) + "  " + _painted_wait(style, bar, translate(waits), group.count)


def _painted_wait(style: Style, bar: str, waits: str, count: int) -> str:
    text = bar.ljust(BAR_CELLS) + "  " + waits  # a bar has one cell a character
    return text if count else style.paint(text, "dim")


def _share(part: int, whole: int) -> str:
    """Per cent to one place; what is there is never shown as zero, what is not all never as all."""
    if not part:
        return "-"
    tenths = min(max(1, (part * 2000 + whole) // (2 * whole)), 1000 if part == whole else 999)
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
    return escape_foreign(str(cell))


def render_count_netstat(snapshot: Snapshot) -> Iterator[str]:
    """The lines of ``netstat -n | awk '/^tcp/ {++S[$NF]} END {for(a in S) print a, S[a]}' | LC_ALL=C sort``.

    netstat without -a hides LISTEN, and nothing but sock_diag's bit 13 shows CLOSE.
    """
    counts = {STATE_BY_TOKEN[str(group.key[0])]: group.count for group in snapshot.groups}
    hidden = {TcpState.LISTEN, TcpState.CLOSE}
    yield from sorted(
        f"{state.netstat} {counts[state]}" for state in LIFE_ORDER if state not in hidden and counts.get(state)
    )
