"""What a machine can do, as a table for people, and as JSON and CSV."""

from __future__ import annotations

from finwait.render.documents import csv_cell
from finwait.render.wrap import wrapped
from finwait.text.escape import escape_foreign
from finwait.text.messages import localize, mark, translate
from finwait.text.width import display_width, pad_right

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from finwait.render.style import Style
    from finwait.table.capability import Capability, Machine
    from finwait.table.snapshot import Cell

CAPABILITIES_SCHEMA = "finwait.capabilities/1"
CSV_COLUMNS = ("name", "answer", "gives", "reason", "remedy")
USUAL_COLUMNS = 100
LEAST_TEXT_CELLS = 30
_REASON_CHARACTERS = 1000
_WORDS = {True: mark("yes"), False: mark("no"), None: mark("cannot tell")}
_COLORS = {True: "green", False: "red", None: "yellow"}
_TITLES = (mark("CAPABILITY"), mark("ANSWER"), mark("WHAT FOR"))


def capabilities_document(machine: Machine) -> dict[str, object]:
    """The document of docs/schemas/finwait.capabilities-1.json."""
    return {
        "schema": CAPABILITIES_SCHEMA,
        "host": machine.host,
        "kernel": machine.kernel,
        "finwait": machine.finwait,
        "python": machine.python,
        "user": machine.user,
        "capabilities": [dict(zip(CSV_COLUMNS, _row(known, str), strict=True)) for known in machine.capabilities],
    }


def capabilities_csv(machine: Machine, *, header: bool = True) -> Iterator[tuple[Cell, ...]]:
    """Rows for a CSV writer."""
    if header:
        yield CSV_COLUMNS
    for known in machine.capabilities:
        yield tuple(map(csv_cell, _row(known, str)))


def _row(known: Capability, show: Callable[[str], str]) -> tuple[str, str, str, str | None, str | None]:
    reason = None if known.reason is None else localize(known.reason, show)
    remedy = None if known.remedy is None else translate(known.remedy)
    return known.name, known.answer_word, translate(known.gives), reason, remedy


def render_capabilities(
    machine: Machine, style: Style, *, header: bool = True, columns: int | None = None
) -> Iterator[str]:
    """Lines of the table: a line a capability, and below those that are not there why, and what would give them.

    columns: of the terminal, None for no terminal.
    """
    titles = [translate(title) for title in _TITLES]
    names = [known.name for known in machine.capabilities]
    words = [translate(_WORDS[known.answer]) for known in machine.capabilities]
    widths = [max(map(display_width, [title, *texts])) for title, texts in zip(titles, (names, words), strict=False)]
    indent = sum(widths) + 2 * len(widths)
    room = max((columns or USUAL_COLUMNS) - indent, LEAST_TEXT_CELLS)
    if header:
        yield style.paint("  ".join([*map(pad_right, titles, widths), titles[-1]]), "bold")
    for known, word in zip(machine.capabilities, words, strict=True):
        painted = style.paint(pad_right(word, widths[1]), _COLORS[known.answer])
        first, *more = _texts(known, room)
        yield "  ".join([pad_right(known.name, widths[0]), painted, first])
        yield from (" " * indent + style.paint(line, "dim") for line in more)


def _texts(known: Capability, cells: int) -> list[str]:
    """What it is for, then why it is not there and what would give it, in lines of at most `cells` cells."""
    _, _, gives, reason, remedy = _row(known, escape_foreign)
    reason = reason and escape_foreign(reason, _REASON_CHARACTERS)
    if reason and known.answer:
        return wrapped(translate(mark("{gives} ({detail})")).format(gives=gives, detail=reason), cells)
    if reason and remedy:
        reason = translate(mark("{reason}; needed: {remedy}")).format(reason=reason, remedy=remedy)
    return wrapped(gives, cells) + (wrapped(reason, cells) if reason else [])
