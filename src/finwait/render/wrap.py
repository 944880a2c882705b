"""Text in lines of so many terminal cells, also where it is Chinese."""

from __future__ import annotations

from finwait.text.width import display_width

_CLOSING = "，。；：、）”？"
_OPENING = "（“"


def wrapped(text: str, cells: int) -> list[str]:
    """`text` in lines of at most `cells` cells where it has blanks or wide characters to break at; never empty."""
    lines, taken = [""], 0
    for piece in _pieces(text):
        if lines[-1] and taken + display_width(piece.rstrip()) > cells:
            lines[-1] = lines[-1].rstrip()
            lines.append("")
            taken = 0
        lines[-1] += piece
        taken += display_width(piece)
    return lines


def _pieces(text: str) -> list[str]:
    """Words with the blank behind them; of Chinese each character, with the punctuation behind it."""
    if text.isascii():
        words = text.split(" ")
        return [f"{word} " for word in words[:-1]] + words[-1:]
    pieces: list[str] = []
    ends = False  # whether the piece before may stand at the end of a line
    for character in text:
        is_wide = not character.isascii() and display_width(character) == 2
        joins = character == " " or character in _CLOSING or not (is_wide or ends)
        if pieces and (joins or pieces[-1][-1] in _OPENING):
            pieces[-1] += character
        else:
            pieces.append(character)
        ends = is_wide or character == " "
    return pieces
