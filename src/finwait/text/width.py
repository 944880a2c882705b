"""How many terminal cells a text takes (Unicode Standard Annex 11): Chinese characters take two."""

from __future__ import annotations


def display_width(text: str) -> int:
    """Cells that `text` takes on a terminal."""
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width

    return sum(
        0 if category(character) in {"Mn", "Me"} else 1 + (east_asian_width(character) in {"W", "F"})
        for character in text
    )


def pad_right(text: str, width: int) -> str:
    """`text` with spaces behind it until it takes `width` cells; never cut."""
    return text + " " * (width - display_width(text))


def pad_left(text: str, width: int) -> str:
    """`text` with spaces before it until it takes `width` cells; never cut."""
    return " " * (width - display_width(text)) + text
