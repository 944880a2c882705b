"""Cells on a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finwait.text.width import display_width, pad_left, pad_right


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ("", 0), ("abc", 3), ("数据库", 6), ("ｗｉｄｅ", 8), ("ab数", 4), ("é", 1), ("e\u0301", 1), ("한글", 4), ("ﾊﾝ", 2),
        ("\U0001f600", 2), ("—", 1), ("…", 1), ("█▏", 2), ("ก็", 1), ("क्", 1), ("a\ufe0f", 1), ("á̧", 1),
    ],
)  # fmt: skip
def test_cells_that_a_text_takes(text: str, cells: int) -> None:
    assert display_width(text) == cells


@given(st.text(st.characters(categories=["L", "N", "P", "S", "M"])), st.integers(0, 40))
def test_padding_fills_up_to_the_width_and_never_cuts(text: str, width: int) -> None:
    for padded, kept in ((pad_right(text, width), str.startswith), (pad_left(text, width), str.endswith)):
        assert display_width(padded) == max(width, display_width(text))
        assert kept(padded, text)
