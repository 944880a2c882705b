"""The table of capabilities: lines that fit, and Chinese that is broken where it may be."""

from __future__ import annotations

import pytest

from finwait.errors import Phrase
from finwait.render.capabilities import capabilities_csv, capabilities_document, render_capabilities
from finwait.render.style import Style
from finwait.render.wrap import wrapped
from finwait.table.capability import Capability, Machine, cannot_tell, no, yes
from finwait.text.width import display_width

PLAIN = Style()


def machine_of(*known: Capability) -> Machine:
    return Machine(known, host="h", kernel="k", finwait="f", python="p", user=0)


@pytest.mark.parametrize(
    ("text", "cells", "lines"),
    [
        ("", 10, [""]),
        ("one two three", 20, ["one two three"]),
        ("one two three", 7, ["one two", "three"]),
        ("one two three", 5, ["one", "two", "three"]),
        ("unbreakable", 4, ["unbreakable"]),
        ("统计并列出套接字", 8, ["统计并列", "出套接字"]),
        ("加载 BPF 程序，再卸载", 14, ["加载 BPF 程", "序，再卸载"]),
        ("程序加载，卸载", 8, ["程序加", "载，卸载"]),
        ("程序加（卸载）", 8, ["程序加", "（卸载）"]),
    ],
)
def test_text_is_broken_at_blanks_and_between_wide_characters(text: str, cells: int, lines: list[str]) -> None:
    assert wrapped(text, cells) == lines


def test_what_is_missing_says_why_and_what_would_help() -> None:
    lines = render_capabilities(machine_of(Capability("a", "does a", no(Phrase("why {x}", x=1), "this"))), PLAIN)
    assert list(lines) == [
        "CAPABILITY  ANSWER  WHAT FOR",
        "a           no      does a",
        " " * 20 + "why 1; needed: this",
    ]


def test_a_yes_has_its_detail_in_the_same_line() -> None:
    lines = render_capabilities(machine_of(Capability("a", "does a", yes(Phrase("v1")))), PLAIN, header=False)
    assert list(lines) == ["a           yes     does a (v1)"]


def test_without_a_remedy_the_reason_stands_alone() -> None:
    lines = render_capabilities(machine_of(Capability("a", "does a", cannot_tell(Phrase("why")))), PLAIN, header=False)
    assert [line.split("  ")[-1].strip() for line in lines] == ["does a", "why"]


@pytest.mark.parametrize("columns", [None, 100, 60])
def test_lines_fit(columns: int | None) -> None:
    reason = Phrase("a reason of many words that goes on and on " * 5)
    lines = render_capabilities(
        machine_of(Capability("a_name", "what it is for", no(reason, "much"))), PLAIN, columns=columns
    )
    assert max(map(display_width, lines)) <= (columns or 100)


def test_a_foreign_text_is_escaped_for_people_and_kept_for_programs() -> None:
    machine = machine_of(Capability("a", "does a", no(Phrase("{x}", x="\x1b]0;x\x07"), None)))
    assert not any("\x1b" in line for line in render_capabilities(machine, PLAIN))
    assert capabilities_document(machine)["capabilities"][0]["reason"] == "\x1b]0;x\x07"  # type: ignore[index]
    assert not any("\x1b" in str(cell) for row in capabilities_csv(machine) for cell in row)


def test_csv_has_a_row_for_each() -> None:
    machine = machine_of(Capability("a", "does a", yes()), Capability("b", "-N", cannot_tell(Phrase("why"), "this")))
    rows = list(capabilities_csv(machine))
    assert rows == [
        ("name", "answer", "gives", "reason", "remedy"),
        ("a", "yes", "does a", "", ""),
        ("b", "cannot_tell", "'-N", "why", "this"),
    ]
    assert list(capabilities_csv(machine, header=False)) == rows[1:]
