"""Fences and tables of Markdown, as GitHub draws them."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


def fenced(lines: Iterable[str], kind: str = "mermaid") -> Iterator[str]:
    """`lines` in a fence of `kind`."""
    yield f"```{kind}"
    yield from lines
    yield "```"


def plain(text: str) -> str:
    """`text` so that Markdown and HTML take nothing in it for theirs."""
    return re.sub(r"[\\`*_\[\]<>&|#~]", lambda found: "\\" + found[0], text)


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a table."""
    for cells in (titles, ["---"] * len(titles), *rows):
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
