"""The one function between foreign text and a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finwait.text.escape import LIMIT, escape_foreign

ANY = st.text() | st.binary().map(lambda data: data.decode("utf-8", "surrogateescape"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nginx", "nginx"),
        ("", ""),
        ("数据库", "数据库"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]52;c;ZXZpbA==\x07", r"\x1b]52;c;ZXZpbA==\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("\x85\x90\x9d", r"\x85\x90\x9d"),
        ("a\nb\rc\td\0", r"a\x0ab\x0dc\x09d\x00"),
        ("\x7f", r"\x7f"),
        ("\u202eabc\u2066\u200f", r"\u202eabc\u2066\u200f"),
        ("\u200b\ufeff\u2028", r"\u200b\ufeff\u2028"),
        ("\xa0\u3000", r"\xa0\u3000"),
        ("\udcff\udc80", r"\xff\x80"),
        ("\ud800", r"\ud800"),
        ("\U000e0001\U0010ffff", r"\U000e0001\U0010ffff"),
        ("\ue000", r"\ue000"),
        (r"\x1b", r"\x1b"),
    ],
)
def test_what_is_not_printable_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert escape_foreign(text) == shown


@given(ANY)
def test_nothing_that_a_terminal_obeys_passes(text: str) -> None:
    shown = escape_foreign(text)
    assert shown.isprintable()
    assert len(shown) <= LIMIT
    assert not any(unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} for character in shown)
    assert shown == text or not text.isprintable() or len(text) > LIMIT
    shown.encode()


@pytest.mark.parametrize("text", ["x" * 257, "\x1b" * 300, "数" * 1000, "x" * 255 + "\x1b"])
def test_a_long_text_is_cut_and_says_so(text: str) -> None:
    assert len(escape_foreign(text)) == LIMIT
    assert escape_foreign(text).endswith("…")


def test_a_text_of_the_limit_is_whole() -> None:
    assert escape_foreign("x" * LIMIT) == "x" * LIMIT
    assert escape_foreign("x" * 10, 5) == "xxxx…"
