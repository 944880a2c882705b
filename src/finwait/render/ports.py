"""The port budget as text, JSON and CSV."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finwait.render.doctor import duration_text
from finwait.render.documents import csv_cell, provenance_document
from finwait.text.escape import escape_foreign
from finwait.text.messages import mark, translate
from finwait.text.width import display_width, pad_left, pad_right

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from finwait.diagnosis.budget import PortBudget, PortGroup
    from finwait.render.style import Style
    from finwait.table.snapshot import Cell, Netns, Provenance

SCHEMA = "finwait.ports/1"
WARNING_SHARE, CRITICAL_SHARE = 0.7, 0.9  # as port-exhaustion has them
TITLES = (
    mark("LOCAL"),
    mark("PEER"),
    mark("USED"),
    mark("SHARE"),
    mark("TIME-WAIT"),
    mark("REUSABLE"),
    mark("NEW/S"),
    mark("LEFT FOR"),
)
COLUMNS = (
    "netns",
    "local_address",
    "peer",
    "used",
    "capacity",
    "share",
    "time_wait",
    "reusable",
    "opened_per_s",
    "exhausted_in_s",
)
HEADING = mark(
    "{netns}ports {first}-{last}: {size}, reserved {reserved}, taken by bind() {taken}; for each destination {capacity}"
)
UNKNOWN = mark("{netns}the range of ephemeral ports cannot be read")
NONE = mark("no outgoing connection holds a port")
MORE = mark("and {count} more destinations")


class PortTable:
    """One namespace: its budget and the destinations that are shown. groups_total: how many there are."""

    def __init__(self, netns: Netns, budget: PortBudget, groups: Sequence[PortGroup], groups_total: int) -> None:
        self.netns = netns
        self.budget = budget
        self.groups = groups
        self.groups_total = groups_total


def ports_document(tables: Sequence[PortTable], provenance: Provenance) -> dict[str, object]:
    """The document of docs/schemas/finwait.ports-1.json."""
    return {
        "schema": SCHEMA,
        **provenance_document(provenance),
        "namespaces": [_namespace(table) for table in tables],
    }


def _namespace(table: PortTable) -> dict[str, object]:
    netns, budget = table.netns, table.budget
    return {
        "netns": {"cookie": netns.cookie, "inode": netns.inode, "name": netns.name},
        "range": [budget.first, budget.last] if budget.is_known else None,
        "reserved": len(budget.reserved),
        "taken_by_bind": len(budget.taken),
        "capacity": budget.capacity if budget.is_known else None,
        "destinations": table.groups_total,
        "rows": [_row(group) for group in table.groups],
    }


def _row(group: PortGroup) -> dict[str, object]:
    return {
        "local_address": group.local_address,
        "peer": group.peer,
        "used": group.used,
        "capacity": group.capacity,
        "share": round(group.share, 4),
        "reusable": group.reusable,
        "by_state": dict(group.by_state),
        "opened_per_s": None if group.opened_per_s is None else round(group.opened_per_s, 2),
        "exhausted_in_s": None if group.exhausted_in_s is None else round(group.exhausted_in_s, 1),
    }


def ports_csv(tables: Sequence[PortTable], *, header: bool = True) -> Iterator[tuple[Cell, ...]]:
    """Rows for a CSV writer."""
    if header:
        yield COLUMNS
    for table in tables:
        for group in table.groups:
            row = {**_row(group), "netns": table.netns.label, "time_wait": group.by_state.get("time_wait", 0)}
            yield tuple(csv_cell(row[name]) for name in COLUMNS)  # type: ignore[arg-type]


def render_ports(tables: Sequence[PortTable], style: Style, *, header: bool = True) -> Iterator[str]:
    """A heading a namespace, then a line a destination, the fullest first."""
    for at, table in enumerate(tables):
        if at:
            yield ""
        budget = table.budget
        netns = f"{escape_foreign(table.netns.label, 80)}: " if len(tables) > 1 else ""
        if not budget.is_known:
            yield translate(UNKNOWN).format(netns=netns)
            continue
        places = {
            "netns": netns, "first": budget.first, "last": budget.last, "size": budget.last - budget.first + 1,
            "reserved": len(budget.reserved), "taken": len(budget.taken), "capacity": budget.capacity,
        }  # fmt: skip
        yield translate(HEADING).format(**places)
        yield from _lines(table, style, header=header)


def _lines(table: PortTable, style: Style, *, header: bool) -> Iterator[str]:
    if not table.groups:
        yield translate(NONE)
        return
    rows = [_cells(group) for group in table.groups]
    titles = [translate(title) for title in TITLES]
    widths = [max(display_width(row[at]) for row in [titles, *rows]) for at in range(len(titles))]
    if header:
        yield style.paint(_joined(titles, widths), "bold")
    for group, row in zip(table.groups, rows, strict=True):
        color = ("red",) if group.share > CRITICAL_SHARE else ("yellow",) if group.share > WARNING_SHARE else ()
        yield style.paint(_joined(row, widths), *color)
    if table.groups_total > len(rows):
        yield translate(MORE).format(count=table.groups_total - len(rows))


def _cells(group: PortGroup) -> list[str]:
    left = "" if group.exhausted_in_s is None else duration_text(group.exhausted_in_s)
    opened = "" if group.opened_per_s is None else f"{group.opened_per_s:.1f}"
    return [
        group.local_address, group.peer, str(group.used), f"{100 * group.share:.1f} %",
        str(group.by_state.get("time_wait", 0)), str(group.reusable), opened, left,
    ]  # fmt: skip


def _joined(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        pad_right(cell, width) if at < 2 else pad_left(cell, width)
        for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()
