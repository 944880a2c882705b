"""Colour where it is wanted and can be shown, bars that never hide what is there."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finwait.render.style import Style, style_of, terminal_columns


class Terminal(io.TextIOWrapper):
    """A stream that says of itself whether it is a terminal."""

    def __init__(self, *, is_terminal: bool, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding)
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


@pytest.mark.parametrize(
    ("color", "is_terminal", "environ", "wanted"),
    [
        ("auto", True, {}, True),
        ("auto", False, {}, False),
        ("auto", True, {"NO_COLOR": "1"}, False),
        ("auto", True, {"NO_COLOR": ""}, True),
        ("auto", True, {"TERM": "dumb"}, False),
        ("auto", True, {"TERM": "xterm"}, True),
        ("always", False, {"NO_COLOR": "1", "TERM": "dumb"}, True),
        ("never", True, {}, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(
    color: str, is_terminal: bool, environ: dict[str, str], wanted: bool
) -> None:
    assert style_of(Terminal(is_terminal=is_terminal), color, environ).color is wanted


@pytest.mark.parametrize(
    ("encoding", "unicode"),
    [("utf-8", True), ("UTF-8", True), ("utf-16", True), ("ascii", False), ("latin-1", False), ("gbk", False)],
)
def test_block_characters_are_for_encodings_that_have_them(encoding: str, unicode: bool) -> None:
    assert style_of(Terminal(is_terminal=False, encoding=encoding), "auto", {}).unicode is unicode


@given(st.integers(0, 2**70), st.integers(0, 2**70), st.integers(1, 40), st.booleans())
def test_a_bar_shows_what_is_there_and_keeps_its_room(part: int, whole: int, cells: int, unicode: bool) -> None:
    bar = Style(unicode=unicode).bar(part, whole, cells)
    assert len(bar) <= cells
    assert (bar == "") == (part == 0 or whole == 0)
    assert unicode or bar.strip("#") == ""
    if part >= whole > 0:
        assert len(bar) == cells


def test_paint_is_nothing_without_colour_text_or_attributes() -> None:
    assert Style(color=False).paint("x", "bold") == Style(color=True).paint("x") == "x"
    assert Style(color=True).paint("", "bold") == ""
    assert Style(color=True).paint("x", "bold", "red") == "\x1b[1;31mx\x1b[0m"


def test_a_stream_without_a_terminal_has_no_width() -> None:
    assert terminal_columns(Terminal(is_terminal=True)) is None
    with open("/dev/null") as file:
        assert terminal_columns(file) is None
