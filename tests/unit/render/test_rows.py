"""Lines of a list, against a renderer that takes one row at a time."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import Any
from unicodedata import category, east_asian_width

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finwait.render.rows import RowRenderer
from finwait.render.style import Style
from finwait.table.columns import COLUMN_BY_NAME, ENDPOINT_PARTS, timer_name
from finwait.tcp.state import TcpState
from tests.unit.batches import AF_INET6, FEW, Row, batch_of, rows

EXTRA = (
    "interface",
    "process",
    "recv_q",
    "send_q",
    "uid",
    "cookie",
    "timer",
    "v6only",
    "retransmits",
    "bytes_sent",
    "cgroup",
)
ALL = ("state", "family", "local", "peer", "local_address", "peer_address", "local_port", "peer_port", *EXTRA)
PLAIN = Style(color=False)


def cells_wide(text: str) -> int:
    return sum(
        0 if category(letter) in {"Mn", "Me"} else 2 if east_asian_width(letter) in {"W", "F"} else 1 for letter in text
    )


def escaped(text: str) -> str:
    shown = "".join(letter if letter.isprintable() else code_of(letter) for letter in text)
    return shown if len(shown) <= 256 else shown[:255] + "…"


def code_of(letter: str) -> str:
    number = ord(letter)
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"


def host_text(row: Row, name: str, *, as_ss: bool) -> str:
    text = row.get(name)
    if text is None:
        return "?"
    address = ip_address(text)
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return f"::ffff:{address.ipv4_mapped}" if as_ss else str(address.ipv4_mapped)
    if as_ss and int(address) == 0 and not row.get("v6only"):
        return "*"
    return str(address)


def endpoint_text(row: Row, name: str, *, as_ss: bool) -> str:
    address_name, port_name = ENDPOINT_PARTS[name]
    host, device, port = host_text(row, address_name, as_ss=as_ss), row.get("interface"), row.get(port_name)
    scope = f"%{escaped(device)}" if device is not None and name == "local" else ""
    if as_ss:
        shown = (f"[{host}]" if ":" in host else host) + scope
    else:
        shown = f"[{host}{scope}]" if ":" in host + scope else host + scope
    return f"{shown}:{'?' if port is None else port or '*'}"


def cell_text(row: Row, name: str, *, as_ss: bool) -> str:
    column, cell = COLUMN_BY_NAME[name], row.get(name)
    if column.kind == "endpoint":
        return endpoint_text(row, name, as_ss=as_ss)
    if as_ss and name in {"recv_q", "send_q"}:
        queue = row.get("accept_queue_length" if name == "recv_q" else "accept_queue_limit")
        return str(cell if cell is not None else queue or 0)
    if cell is None:
        return "-"
    if column.kind == "state":
        return TcpState(cell).ss if as_ss else TcpState(cell).rfc
    if column.kind == "address":
        return host_text(row, name, as_ss=as_ss).replace("*", "::")
    if column.kind == "text":
        return escaped(cell)
    if column.kind == "bool":
        return "yes" if cell else "no"
    if column.kind == "timer":
        return timer_name(cell)
    return {2: "inet", 10: "inet6"}[cell] if name == "family" else str(cell)


def plain_lines(table: list[Row], names: list[str], least: list[int], *, as_ss: bool = False) -> list[str]:
    """One row at a time; `least`: of each column."""
    cells = [[cell_text(row, name, as_ss=as_ss) for name in names] for row in table]
    widths = [max([wide, *(cells_wide(row[at]) for row in cells)]) for at, wide in enumerate(least)]
    return [
        "  ".join(_padded(cell, name, width) for cell, name, width in zip(row, names, widths, strict=True))
        for row in cells
    ]


def _padded(cell: str, name: str, width: int) -> str:
    gap = " " * (width - cells_wide(cell))
    return gap + cell if COLUMN_BY_NAME[name].right_aligned else cell + gap


NAMES = st.lists(st.sampled_from(ALL), min_size=1, max_size=5, unique=True)


def rendered(renderer: RowRenderer, table: list[Row]) -> list[str]:
    lines = renderer.lines(batch_of(table)).decode("utf-8")
    assert lines.endswith("\n")
    return lines[:-1].split("\n")


def without_lead(lines: list[str]) -> list[str]:
    """A number in the last column stands at the column's beginning, as wide as the batch's widest."""
    return [re.sub(r"\s+", " ", line).strip() for line in lines]


@FEW
@given(rows(columns=EXTRA, least=1), NAMES)
def test_lines_are_those_of_a_plain_renderer(table: list[Row], names: list[str]) -> None:
    names = [*names, "state"] if "state" not in names else [*(name for name in names if name != "state"), "state"]
    renderer = RowRenderer(names)
    least = list(renderer.widths)
    wanted = [line.rstrip() for line in plain_lines(table, names, least)]
    assert [line.rstrip() for line in rendered(renderer, table)] == wanted


@FEW
@given(rows(columns=(*EXTRA, "accept_queue_length", "accept_queue_limit"), least=1), NAMES)
def test_in_the_style_of_ss_too(table: list[Row], names: list[str]) -> None:
    renderer = RowRenderer([*names, "state"] if "state" not in names else names, spelling="ss")
    wanted = plain_lines(table, list(renderer.columns), list(renderer.widths), as_ss=True)
    assert without_lead(rendered(renderer, table)) == without_lead(wanted)


@FEW
@given(rows(columns=EXTRA, least=1), NAMES)
def test_the_last_column_too_shows_every_cell(table: list[Row], names: list[str]) -> None:
    wanted = plain_lines(table, names, [0] * len(names))
    assert without_lead(rendered(RowRenderer(names), table)) == without_lead(wanted)


@FEW
@given(st.lists(rows(columns=("process", "interface"), least=1), min_size=1, max_size=3))
def test_columns_begin_in_one_cell_whatever_stands_before_them(tables: list[list[Row]]) -> None:
    renderer = RowRenderer(["process", "interface", "local", "local_port"])
    for table in tables:
        assert len({cells_wide(line) for line in rendered(renderer, table)}) == 1
    # and once the widest was seen every batch and the titles agree
    lines = b"".join(renderer.render(map(batch_of, tables), PLAIN)).decode().splitlines()
    assert {cells_wide(line) for line in lines} == {sum(renderer.widths) + 2 * 3}


@FEW
@given(rows(columns=("process",), least=1), st.sampled_from(["ascii", "latin-1", "gbk", "utf-8"]))
def test_what_an_encoding_lacks_is_escaped(table: list[Row], encoding: str) -> None:
    lines = RowRenderer(["process", "local_port"], encoding=encoding).lines(batch_of(table)).decode(encoding)
    assert lines.count("\n") == len(table)
    assert lines.replace("\n", "").isprintable()


@pytest.mark.parametrize("spelling", ["rfc", "ss"])
def test_a_batch_without_a_row_has_no_line(spelling: str) -> None:
    assert RowRenderer(ALL, spelling=spelling).lines(batch_of([], ["state", "family"])) == b""


@pytest.mark.parametrize("spelling", ["rfc", "ss"])
@pytest.mark.parametrize("name", [*COLUMN_BY_NAME])
def test_a_column_that_the_batch_does_not_have_is_a_dash(name: str, spelling: str) -> None:
    if name == "state":
        return
    lines = RowRenderer(["state", name], spelling=spelling).lines(batch_of([{"state": 1, "family": AF_INET6}])).decode()
    shown = {"local": "?:?", "peer": "?:?", "family": "inet6"}.get(name, "-")
    if spelling == "ss" and name in {"recv_q", "send_q"}:
        shown = "0"
    assert lines.split()[1] == shown


def test_every_state_number_has_a_text() -> None:
    lines = RowRenderer(["state"]).lines(batch_of([{"state": number} for number in range(256)])).decode()
    assert lines.split()[1:12] == [state.rfc for state in TcpState]
    assert lines.split()[12:] == [str(number) for number in range(12, 256)]


def header_and_lines(tables: list[list[Row]], *, header: bool = True) -> list[str]:
    renderer = RowRenderer(["state", "recv_q", "process"])
    return b"".join(renderer.render(map(batch_of, tables), PLAIN, header=header)).decode().splitlines()


def test_a_header_comes_once_even_without_a_row() -> None:
    row: Row = {"state": 1, "recv_q": 5, "process": "x"}
    assert header_and_lines([]) == ["STATE         RECV-Q  PROCESS"]
    assert header_and_lines([[row], [row]]) == [
        "STATE         RECV-Q  PROCESS", "ESTABLISHED        5  x", "ESTABLISHED        5  x"
    ]  # fmt: skip
    assert header_and_lines([[row]], header=False) == ["ESTABLISHED        5  x"]


def test_columns_never_get_narrower_again() -> None:
    wide: Row = {"state": 1, "recv_q": 4_000_000_000, "process": "x"}
    narrow: Row = {"state": 1, "recv_q": 1, "process": "x"}
    assert header_and_lines([[wide], [narrow]])[1:] == ["ESTABLISHED   4000000000  x", "ESTABLISHED            1  x"]


def test_titles_of_ones_own_are_printed() -> None:
    renderer = RowRenderer(["state", "local"], titles=["State", "Local Address:Port"])
    assert b"".join(renderer.render([], Style(color=True))) == b"\x1b[1mState         Local Address:Port\x1b[0m\n"


def test_an_address_of_unknown_family_or_port_is_shown_as_far_as_it_is_known() -> None:
    table: list[dict[str, Any]] = [
        {"state": 1, "family": None, "local_address": None, "local_port": 80},
        {"state": 1, "family": 2, "local_address": "10.0.0.1", "local_port": None},
        {"state": 1, "family": 10, "local_address": "::ffff:10.0.0.1", "local_port": None},
        {"state": 1, "family": 10, "local_address": None, "local_port": None},
    ]
    assert RowRenderer(["local"]).lines(batch_of(table)).decode().split() == ["?:80", "10.0.0.1:?", "10.0.0.1:?", "?:?"]
