"""The one function that every foreign string passes before it reaches a terminal.

A process may call itself ``ESC ] 52 ; ...``; terminals obey. Rich, Textual and plain print let it through.
"""

from __future__ import annotations

LIMIT = 256


def escape_foreign(text: str, limit: int = LIMIT) -> str:
    r"""`text` with every character that is not printable as a visible escape (``\x1b``, ``\u202e``), at most `limit` long.

    Bytes that were no UTF-8 (surrogateescape) are shown as the byte they were. A longer text ends in ``…``.
    """
    if len(text) <= limit and text.isprintable():
        return text
    shown = "".join(character if character.isprintable() else _visible(character) for character in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _visible(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # PEP 383: an undecodable byte
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
