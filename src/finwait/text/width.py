"""How many terminal cells a text takes (Unicode Standard Annex 11): Chinese characters take two."""

from __future__ import annotations


class _CellsByCharacter(dict[str, int]):
    """What characters take, looked up once each: prose is made of few."""

    def __missing__(self, character: str) -> int:
        from unicodedata import category, east_asian_width

        wide = east_asian_width(character) in {"W", "F"}
        self[character] = cells = 0 if category(character) in {"Mn", "Me"} else 1 + wide
        return cells


_CELLS = _CellsByCharacter()


def display_width(text: str) -> int:
    """Cells that `text` takes on a terminal."""
    return len(text) if text.isascii() else sum(map(_CELLS.__getitem__, text))


def pad_right(text: str, width: int) -> str:
    """`text` with spaces behind it until it takes `width` cells; never cut."""
    return text + " " * (width - display_width(text))


def pad_left(text: str, width: int) -> str:
    """`text` with spaces before it until it takes `width` cells; never cut."""
    return " " * (width - display_width(text)) + text
