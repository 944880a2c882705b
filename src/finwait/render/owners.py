"""Owners as people read them: a process by its name, the lack of one in brackets, never one for the other."""

from __future__ import annotations

from finwait.table.owners import KIND_LABELS
from finwait.text.escape import escape_foreign
from finwait.text.messages import translate


def kind_text(kind: str | None) -> str:
    """Why there is no owner, in brackets; ``-`` where nobody knows."""
    return f"({translate(KIND_LABELS[kind])})" if kind in KIND_LABELS else "-"


def process_text(name: str) -> str:
    """A process's name, escaped; one that begins with a bracket or is a dash stands in quotes."""
    shown = escape_foreign(name)
    return f'"{shown}"' if shown.startswith("(") or shown in {"-", ""} else shown
