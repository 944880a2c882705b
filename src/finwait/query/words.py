"""Words of the filter language, and a filter's text cut into them."""

from __future__ import annotations

from finwait.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

AND_WORDS = frozenset({"and", "&", "&&"})
OR_WORDS = frozenset({"or", "|", "||"})
NOT_WORDS = frozenset({"not", "!"})
OPERATOR_BY_WORD = {
    "=": "=", "==": "=", "eq": "=", "!=": "!=", "ne": "!=", "neq": "!=",
    ">": ">", "gt": ">", "<": "<", "lt": "<", ">=": ">=", "ge": ">=", "geq": ">=", "<=": "<=", "le": "<=", "leq": "<=",
}  # fmt: skip
TEST_WORDS = ("src", "dst", "sport", "dport", "dev", "fwmark", "cgroup", "autobound")
STATE_WORDS = ("state", "exclude", "excl")
_SYMBOLS = ("&&", "||", "==", "!=", ">=", "<=", "(", ")", "!", "&", "|", "=", ">", "<")


EXCERPT = 60  # characters of a long filter shown on each side of an error


class Word:
    """One word of a filter. at: its offset in the filter's text, from 0. quoted: no operator whatever it looks like."""

    __slots__ = ("at", "quoted", "text")

    def __init__(self, text: str, at: int, *, quoted: bool = False) -> None:
        self.text = text
        self.at = at
        self.quoted = quoted

    def is_one_of(self, words: frozenset[str] | dict[str, str] | tuple[str, ...]) -> bool:
        """Whether the word, unquoted, stands in `words`."""
        return not self.quoted and self.text in words


def is_filter_word(word: str) -> bool:
    """Whether a filter can begin with `word`."""
    from finwait.table.columns import COLUMN_BY_NAME, fold_name

    first = word.split(None, 1)[0] if word.split() else ""
    return (
        first in STATE_WORDS
        or first in TEST_WORDS
        or first in NOT_WORDS
        or first.startswith(("(", "!", "'", '"'))
        or any(symbol in first for symbol in ("=", "<", ">"))
        or fold_name(first) in COLUMN_BY_NAME
    )


def excerpt_around(text: str, at: int) -> str:
    """`text`, or the part of a long one around the character `at`, so that an error shows its place."""
    if len(text) <= 3 * EXCERPT:
        return text
    begin, end = max(0, at - EXCERPT), min(len(text), at + EXCERPT)
    return ("…" if begin else "") + text[begin:end] + ("…" if end < len(text) else "")


def split_words(arguments: Sequence[str]) -> tuple[str, list[Word]]:
    """The filter's text and its words. White space and operators part words; quotes keep them whole, a backslash the
    next character, as in ss. A word that begins with ``/`` is a path up to the next white space or a ``)`` too many.

    Raises UsageError for a quote that is never closed.
    """
    text = " ".join(arguments)
    words: list[Word] = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        symbol = next((symbol for symbol in _SYMBOLS if text.startswith(symbol, at)), None)
        if symbol is not None:
            words.append(Word(symbol, at))
            at += len(symbol)
            continue
        word, at = _read_word(text, at)
        words.append(word)
    return text, words


def _read_word(text: str, at: int) -> tuple[Word, int]:
    begin = at
    quote = ""
    quoted = text[at] in "'\""
    whole = text[at] == "/"
    characters: list[str] = []
    while at < len(text):
        character = text[at]
        if character == "\\" and at + 1 < len(text):
            characters.append(text[at + 1])
            quoted = True
            at += 2
            continue
        if quote:
            if character == quote:
                quote = ""
            else:
                characters.append(character)
        elif character in "'\"":
            quote = character
            quoted = True
        elif character.isspace() or (not whole and character in "()!=<>&|"):
            break
        elif character == ")" and text.count("(", begin, at) == text.count(")", begin, at):
            break  # it closes what was opened before the path
        else:
            characters.append(character)
        at += 1
    if quote:
        raise UsageError(
            "the quote at character {place} of the filter is never closed: {text}",
            place=begin + 1,
            text=excerpt_around(text, begin),
        )
    return Word("".join(characters), begin, quoted=quoted), at
