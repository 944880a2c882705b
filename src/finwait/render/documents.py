"""Answers as JSON and CSV. Keys and tokens are machine words, never translated."""

from __future__ import annotations

from finwait.errors import Phrase
from finwait.table.owners import OWNER_COLUMNS
from finwait.text.escape import escape_foreign
from finwait.text.messages import localize, translate
from finwait.text.timestamp import format_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from finwait.table.snapshot import Cell, Notice, Provenance, Snapshot

COUNT_SCHEMA = "finwait.count/1"
LIST_SCHEMA = "finwait.list/1"
_FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r")


def timestamp(seconds: float | None) -> str | None:
    """RFC 3339 in UTC with microseconds."""
    return None if seconds is None else format_time(round(seconds * 1_000_000) * 1000)


def message_of(notice: Notice) -> str:
    """The notice for people, in the language in use."""
    return localize(Phrase(notice.message_id, **notice.arguments))


def notice_document(notice: Notice) -> dict[str, Cell]:
    """One entry of ``warnings``."""
    remedy = None if notice.remedy is None else translate(notice.remedy)
    return {"code": notice.code, "message": message_of(notice), "missing": notice.missing, "remedy": remedy}


def provenance_document(provenance: Provenance) -> dict[str, object]:
    """The keys that every document begins with, but for ``schema``."""
    return {
        "taken_from": timestamp(provenance.taken_from),
        "taken_to": timestamp(provenance.taken_to),
        "host": provenance.host,
        "source": provenance.source,
        "complete": provenance.complete,
        "warnings": [notice_document(notice) for notice in provenance.notices],
        "netns": [{"cookie": netns.cookie, "inode": netns.inode, "name": netns.name} for netns in provenance.netns],
    }


def count_document(snapshot: Snapshot) -> dict[str, object]:
    """The document of docs/schemas/finwait.count-1.json."""
    is_by_owner = not OWNER_COLUMNS.isdisjoint(snapshot.by)
    rows = []
    for group in snapshot.groups:
        cells = dict(zip(snapshot.by, group.key, strict=True))
        owner = {"owner_kind": group.owner_kind, "matched_by": group.matched_by} if is_by_owner else {}
        rows.append(
            {**cells, **{name: token for name, token in owner.items() if name not in cells}, "count": group.count}
        )
    return {
        "schema": COUNT_SCHEMA,
        **provenance_document(snapshot.provenance),
        "by": list(snapshot.by),
        "total": snapshot.total,
        "other": snapshot.other,
        "shared": snapshot.shared,
        **({} if snapshot.ghosts is None else {"ghosts": ghosts_document(snapshot.ghosts)}),
        "rows": rows,
    }


def ghosts_document(ghosts: Sequence[tuple[str | None, int, int]]) -> list[dict[str, Cell]]:
    """Descriptors of ended connections by process."""
    return [{"process": process, "pid": pid, "count": count} for process, pid, count in ghosts]


def csv_cell(cell: Cell) -> Cell:
    """`cell` so that no spreadsheet takes text for a formula (it gets a leading apostrophe) and no terminal obeys it."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if not isinstance(cell, str):
        return cell
    shown = cell if cell.isprintable() else escape_foreign(cell, 10 * len(cell))  # an escape has ten characters at most
    return "'" + shown if cell.startswith(_FORMULA_BEGINS) else shown


def count_csv(snapshot: Snapshot, *, header: bool = True, at: str | None = None) -> Iterator[tuple[Cell, ...]]:
    """Rows for a CSV writer. What ``--top`` folded away is not a row: it is said on stderr. at: the first cell, when it was,
    where one count follows another.
    """  # fmt: skip
    is_by_owner = not OWNER_COLUMNS.isdisjoint(snapshot.by) and "owner_kind" not in snapshot.by
    if header:
        yield (*(("at",) if at else ()), *snapshot.by, *(("owner_kind",) if is_by_owner else ()), "count")
    for group in snapshot.groups:
        kind = (csv_cell(group.owner_kind),) if is_by_owner else ()
        yield (*((at,) if at else ()), *map(csv_cell, group.key), *kind, group.count)
