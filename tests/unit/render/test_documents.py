"""JSON and CSV: machine words, original names, no formula and no escape sequence in a cell."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finwait.errors import NotPermitted, Phrase
from finwait.render.documents import count_csv, count_document, csv_cell, message_of, notice_document, timestamp
from finwait.render.lists import list_csv, render_json, render_ndjson
from finwait.table.snapshot import Group, Netns, Notice, Provenance, Snapshot
from tests.unit.batches import FEW, NASTY, TEXTS, Row, batch_of, rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from finwait.table.snapshot import Cell

COLUMNS = ("state", "local", "peer", "process", "interface", "recv_q", "v6only")
EXTRA = ("process", "interface", "recv_q", "v6only")
STORED = ("state", "family", "local_address", "local_port", "peer_address", "peer_port", *EXTRA)


@given(st.integers(0, 253402300799 * 10**6))
def test_a_time_is_rfc_3339_in_utc(micros: int) -> None:
    text = timestamp(micros / 10**6)
    assert text is not None
    read = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    assert abs(read.timestamp() - micros / 10**6) < 1e-3


def test_an_unknown_time_is_null() -> None:
    assert timestamp(None) is None
    assert timestamp(0.9999999) == "1970-01-01T00:00:01.000000Z"


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (None, ""), (0, 0), (5, 5), (-5, -5), (True, "true"), (False, "false"),
        ("", ""), ("nginx", "nginx"), ("=1+1", "'=1+1"), ("+1", "'+1"),
        ("-1", "'-1"), ("@x", "'@x"), ("\tx", r"'\x09x"), ("\rx", r"'\x0dx"), ("a=1", "a=1"), ("'x", "'x"),
        ("\x1b[31m", r"\x1b[31m"),
        ("数据库", "数据库"), ("a\nb", r"a\x0ab"), ("\udcff", r"\xff"), ("\u202e", r"\u202e"), ("x" * 1000, "x" * 1000),
    ],
)  # fmt: skip
def test_a_cell_of_csv_is_no_formula_and_nothing_that_a_terminal_obeys(cell: Cell, shown: Cell) -> None:
    assert csv_cell(cell) == shown


@given(TEXTS)
def test_any_text_is_a_safe_cell(text: str) -> None:
    cell = csv_cell(text)
    assert isinstance(cell, str)
    assert cell.isprintable()
    assert not cell.startswith(("=", "+", "-", "@"))


def read_csv(table: Iterable[tuple[Cell, ...]]) -> list[list[str]]:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(table)
    return list(csv.reader(io.StringIO(file.getvalue())))


def provenance() -> Provenance:
    notice = Notice("x_y", "could not read {what}", missing="sockets", remedy="be root", arguments={"what": NASTY[0]})
    return Provenance(
        "proc", host=NASTY[1], taken_from=1.5, taken_to=2.5, netns=(Netns(1, 2, NASTY[2]),), notices=(notice,)
    )


def test_a_count_is_a_document() -> None:
    groups = [Group((name, index), index, "process", "task_file") for index, name in enumerate(NASTY, 1)]
    groups.append(Group((None, 0), 7, "time_wait"))
    ghosts = [(NASTY[0], 12, 5)]
    snapshot = Snapshot(("process", "uid"), groups, 500, provenance(), other=3, other_groups=2, shared=1, ghosts=ghosts)
    text = json.dumps(count_document(snapshot))
    assert text.isascii()
    document = json.loads(text)
    assert document["schema"] == "finwait.count/1"
    assert (document["total"], document["other"], document["shared"], document["complete"]) == (500, 3, 1, False)
    assert document["rows"] == [
        {
            "owner_kind": group.owner_kind,
            "matched_by": group.matched_by,
            "process": group.key[0],
            "uid": group.key[1],
            "count": group.count,
        }
        for group in groups
    ]
    assert document["ghosts"] == [{"process": NASTY[0], "pid": 12, "count": 5}]
    assert document["warnings"] == [
        {"code": "x_y", "message": f"could not read {NASTY[0]}", "missing": "sockets", "remedy": "be root"}
    ]
    assert (document["host"], document["netns"]) == (NASTY[1], [{"cookie": 1, "inode": 2, "name": NASTY[2]}])
    header, *lines = read_csv(count_csv(snapshot))
    assert header == ["process", "uid", "owner_kind", "count"]
    assert [line[2:] for line in lines] == [[group.owner_kind, str(group.count)] for group in groups]
    assert read_csv(count_csv(snapshot, header=False)) == lines


def test_a_message_within_a_message_is_told() -> None:
    reason = NotPermitted("not permitted: {what}", what=Phrase("number {number}", number=5))
    notice = Notice("x", "went elsewhere ({reason})", arguments={"reason": reason})
    assert message_of(notice) == "went elsewhere (not permitted: number 5)" == str(notice)
    assert notice_document(notice)["message"] == message_of(notice)


@FEW
@given(st.lists(rows(columns=EXTRA), max_size=3))
def test_a_list_says_the_same_in_json_ndjson_and_csv(tables: list[list[Row]]) -> None:
    batches = [batch_of(table, STORED) for table in tables]
    whole: dict[str, Any] = json.loads(b"".join(render_json(iter(batches), COLUMNS, provenance())))
    lines = b"".join(render_ndjson(iter(batches), COLUMNS, provenance()))
    assert lines.isascii()
    *listed, end = [json.loads(line) for line in lines.splitlines()]
    assert [{key: value for key, value in row.items() if key != "record"} for row in listed] == whole["rows"]
    assert {row["record"] for row in listed} <= {"row"}
    assert (end["record"], end["total"], whole["total"]) == ("end", len(listed), len(listed))
    assert list(whole)[:3] == ["schema", "columns", "rows"]
    assert whole["columns"] == end["columns"] == list(COLUMNS)
    assert (whole["complete"], end["complete"], whole["warnings"]) == (False, False, end["warnings"])
    header, *cells = read_csv(list_csv(iter(batches), COLUMNS))
    assert header == list(COLUMNS)
    assert [row[0] for row in cells] == [row["state"] for row in listed]
    assert cells == [["" if value is None else str(csv_cell(value)) for value in row.values()] for row in whole["rows"]]


def test_a_list_of_nothing_is_a_document_too() -> None:
    whole = json.loads(b"".join(render_json(iter([]), COLUMNS, provenance())))
    assert (whole["rows"], whole["total"]) == ([], 0)
    assert read_csv(list_csv(iter([]), COLUMNS, header=False)) == []
