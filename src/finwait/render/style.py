"""How text looks: colour and characters that the output can show. Decided once, passed down; nothing below asks again."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

_SGR = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34"}
_EIGHTHS = " ▏▎▍▌▋▊▉█"


class Style:
    """color: whether SGR sequences may be written. unicode: whether block characters can be encoded."""

    __slots__ = ("color", "unicode")

    def __init__(self, *, color: bool = False, unicode: bool = True) -> None:
        self.color = color
        self.unicode = unicode

    def paint(self, text: str, *attributes: str) -> str:
        """`text` in the given attributes, where colour is wanted."""
        if not self.color or not attributes or not text:
            return text
        return f"\x1b[{';'.join(_SGR[name] for name in attributes)}m{text}\x1b[0m"

    def bar(self, part: int, whole: int, cells: int) -> str:
        """A bar of at most `cells` characters for ``part / whole``; anything above zero shows."""
        if part <= 0 or whole <= 0:
            return ""
        eighths = max(1, min(part, whole) * cells * 8 // whole)
        if not self.unicode:
            return "#" * max(1, eighths // 8)
        return _EIGHTHS[8] * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def style_of(stream: TextIO, color: str, environ: Mapping[str, str]) -> Style:
    """The style for `stream`. color: auto, always, never. auto: a terminal, no NO_COLOR, and TERM is not dumb."""
    wanted = color == "always" or (
        color == "auto" and stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    )
    encoding = (stream.encoding or "ascii").lower().replace("-", "")
    return Style(color=wanted, unicode=encoding.startswith("utf"))


def terminal_columns(stream: TextIO) -> int | None:
    """Width of the terminal behind `stream`, None where there is none."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None
