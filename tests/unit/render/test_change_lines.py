"""Lines that are made a whole column at a time are those that json.dumps makes of the same cells."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from finwait.render.change_lines import TRACE_SCHEMA, change_lines, end_document, loss_document, ready_document
from finwait.table.batch import Batch, ColumnData, storage_dtype
from finwait.table.cells import cells_of
from finwait.table.change import CHANGE_NAMES, EVIDENCE, Loss, changes_of
from finwait.table.columns import ADDRESS, DECLARATION_BY_NAME, TEXT
from finwait.table.snapshot import Provenance
from finwait.tcp.state import TcpState
from tests.unit.batches import AF_INET, AF_INET6, FEW, IPV4, IPV6, MAPPED, NASTY, TEXTS, Row, packed

ALWAYS = {"at", "family", "from", "to", "evidence"}
U4, U8 = 2**32 - 1, 2**64 - 1


def column(name: str, cells: list[Any]) -> ColumnData:
    """Where a row has no value something else stands in the array: nobody may look at it."""
    kind = DECLARATION_BY_NAME[name]
    valid = np.asarray([cell is not None for cell in cells], dtype=np.bool_)
    if kind.kind == TEXT:
        texts = tuple(dict.fromkeys(cell for cell in cells if cell is not None))
        return ColumnData(np.asarray([0 if cell is None else texts.index(cell) for cell in cells], "i4"), valid, texts)
    if kind.kind == ADDRESS:
        octets = b"".join(bytes([7] * 16) if cell is None else packed(cell) for cell in cells)
        return ColumnData(np.frombuffer(octets, np.uint8).reshape(-1, 16), valid)
    return ColumnData(np.asarray([9 if cell is None else cell for cell in cells], dtype=storage_dtype(kind)), valid)


def batch_of(rows: list[Row]) -> Batch:
    return Batch(len(rows), {name: column(name, [row[name] for row in rows]) for name in CHANGE_NAMES})


@st.composite
def rows(draw: st.DrawFn) -> Row:
    family = draw(st.sampled_from([AF_INET, AF_INET6]))
    addresses = IPV4 if family == AF_INET else IPV6 | MAPPED
    ports = st.sampled_from([0, 9, 10, 99, 100, 65535]) | st.integers(0, 65535)
    numbers = st.sampled_from([0, 9, 10, 999_999, 1_000_000, U4 - 1, U4]) | st.integers(0, U4)
    row: Row = {
        "at": draw(st.integers(0, 4 * 10**18)),
        "netns": draw(TEXTS),
        "cookie": draw(numbers | st.sampled_from([U8, U8 - 1, 2**63, 10**19])),
        "family": family,
        "local_address": draw(addresses),
        "local_port": draw(ports),
        "peer_address": draw(addresses),
        "peer_port": draw(ports),
        "from": draw(st.integers(1, 12)),
        "to": draw(st.integers(1, 12)),
        "in_from_us": draw(numbers | st.just(2**63 - 1)),
        "why": draw(st.sampled_from(["rcv_fin", "close"])),
        "error": draw(st.sampled_from(["ECONNRESET", "133"])),
        "evidence": draw(st.sampled_from(EVIDENCE)),
        "within_us": draw(numbers),
        "pid": draw(numbers),
        "process": draw(TEXTS),
    }
    for name in draw(st.sets(st.sampled_from(CHANGE_NAMES))) - ALWAYS:
        row[name] = None
    return row


def expected(batch: Batch) -> str:
    columns = [cells_of(batch, name) for name in CHANGE_NAMES]
    head = {"schema": TRACE_SCHEMA, "type": "change"}
    return "".join(
        json.dumps(head | dict(zip(CHANGE_NAMES, row, strict=True))) + "\n" for row in zip(*columns, strict=True)
    )


@FEW
@given(st.lists(rows(), min_size=1, max_size=12))
def test_lines_are_those_of_json(drawn: list[Row]) -> None:
    batch = batch_of(drawn)
    assert change_lines(batch).decode("ascii") == expected(batch)


PLAIN: Row = {
    "at": 1_700_000_000_123_456_789, "netns": None, "cookie": None, "family": AF_INET6,
    "local_address": "::ffff:192.0.2.1", "local_port": None, "peer_address": "fd77::1:2", "peer_port": 65535,
    "from": 1, "to": 4,
    "in_from_us": None, "why": None, "error": None, "evidence": "event", "within_us": 0, "pid": None, "process": None,
}  # fmt: skip


@pytest.mark.parametrize("name", NASTY, ids=repr)
def test_whatever_a_process_calls_itself_is_one_line_and_comes_back(name: str) -> None:
    batch = batch_of([{**PLAIN, "process": name, "netns": name}, PLAIN, {**PLAIN, "process": "x"}])
    lines = change_lines(batch).splitlines()
    assert len(lines) == 3
    read = [json.loads(line) for line in lines]
    assert [one["process"] for one in read] == [name, None, "x"]
    assert all(byte >= 32 for line in lines for byte in line)


def test_a_line_has_its_values_in_words() -> None:
    [line] = change_lines(batch_of([PLAIN])).splitlines()
    assert json.loads(line) == {
        "schema": "finwait.trace/1", "type": "change", **PLAIN, "at": "2023-11-14T22:13:20.123456Z", "family": "inet6",
        "local_address": "192.0.2.1", "from": "established", "to": "fin_wait_1",
    }  # fmt: skip
    assert list(json.loads(line)) == ["schema", "type", *CHANGE_NAMES]


@given(st.lists(rows(), min_size=1, max_size=5), st.lists(rows(), min_size=1, max_size=5))
@FEW
def test_batches_are_written_alike_together_and_apart(first: list[Row], second: list[Row]) -> None:
    assert change_lines(batch_of(first + second)) == change_lines(batch_of(first)) + change_lines(batch_of(second))


@given(st.integers(0, 4 * 10**18))
@example(999_999_999)
@example(1_000_000_000)
@FEW
def test_a_time_is_cut_to_microseconds(at: int) -> None:
    [line] = change_lines(batch_of([{**PLAIN, "at": at}])).splitlines()
    assert json.loads(line)["at"][-8:-1] == f".{at // 1000 % 10**6:06d}"


def test_changes_are_typed() -> None:
    [change] = changes_of(batch_of([{**PLAIN, "pid": 7, "process": "nginx"}]))
    assert (change.from_state, change.to, change.pid, change.process) == (
        TcpState.ESTABLISHED, TcpState.FIN_WAIT1, 7, "nginx",
    )  # fmt: skip
    assert (change.local_address, change.family, change.in_from_us) == ("192.0.2.1", "inet6", None)


def test_what_stands_beside_changes_has_their_schema() -> None:
    assert loss_document(Loss(1_700_000_000_123_456_789, 23)) == {
        "schema": "finwait.trace/1", "type": "loss", "at": "2023-11-14T22:13:20.123456Z", "lost": 23,
    }  # fmt: skip
    provenance = Provenance("bpf", host="h")
    assert (ready_document(provenance)["type"], end_document(provenance, 5)["type"]) == ("ready", "end")
    assert end_document(provenance, 5)["lost"] == 5
