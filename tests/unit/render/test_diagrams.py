"""The pictures say what the tables say: every arrow of the figure, every step of every exchange, aligned, in 100 cells."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from finwait.render.labels import EVENT_LABELS, arrow_label, label_of, weight_of
from finwait.render.sequence import render_sequence, sequence_document, sequence_markdown, sequence_mermaid
from finwait.render.state_graph import shown_arrows, states_document, states_dot, states_markdown, states_mermaid
from finwait.render.state_text import ARROWS, BOX, END, PLACES, render_states
from finwait.render.transcript import CALLS
from finwait.tcp.exchanges import EXCHANGES
from finwait.tcp.state import TcpState
from finwait.tcp.transitions import EVENTS, MACHINE, arrows
from finwait.text.messages import use_language
from finwait.text.width import display_width

DRAWN = [(arrow.state, arrow.event, arrow.to) for arrow in ARROWS]
COUNTS = {state: 1_000_003 * int(state) for state in TcpState}


def test_every_drawn_arrow_is_one_of_the_machine() -> None:
    known = {(transition.state, transition.event, transition.to) for row in MACHINE.values() for transition in row}
    assert set(DRAWN) <= known
    assert len(set(DRAWN)) == len(DRAWN)


def test_every_arrow_of_the_rfcs_figure_is_drawn() -> None:
    # Figure 5 but for what ends a connection from anywhere, what Linux never does, and closes before a handshake is over
    left_out = {
        (TcpState.LISTEN, "close"), (TcpState.SYN_SENT, "close"), (TcpState.SYN_SENT, "timeout_syn"),
        (TcpState.SYN_RECV, "rcv_syn_ack"), (TcpState.SYN_RECV, "rcv_fin"), (TcpState.SYN_RECV, "timeout_syn_ack"),
        (TcpState.ESTABLISHED, "shutdown_write"), (TcpState.CLOSE_WAIT, "shutdown_write"),
    }  # fmt: skip
    wanted = {(one.state, one.event) for one in shown_arrows() if one.origin == "rfc9293"} - left_out
    assert {(state, event) for state, event, _ in DRAWN} == wanted


@pytest.mark.parametrize("language", ["en", "zh_CN"])
@pytest.mark.parametrize("unicode", [True, False])
def test_the_state_diagram_is_aligned_and_fits(language: str, *, unicode: bool) -> None:
    use_language(language)
    try:
        lines = list(render_states(COUNTS, unicode=unicode))
    finally:
        use_language("en")
    assert max(map(display_width, lines)) <= 100
    assert unicode or "".join(lines).isascii() or language != "en"
    border = "┃" if unicode else "#"  # as many sockets in every state: each is heavy
    for state, (column, row) in PLACES.items():
        for line in lines[row + 1 : row + 3]:
            cells = _cells(line)
            assert cells[column] == border == cells[column + BOX - 1], (state, line)
        assert state.rfc in lines[row + 1]
        assert str(COUNTS[state]) in lines[row + 1]


@pytest.mark.parametrize("language", ["en", "zh_CN"])
def test_every_arrow_of_the_text_is_drawn_whole_with_its_label(language: str) -> None:
    use_language(language)
    try:
        page = [_cells(line.ljust(100)) for line in render_states()]
        for arrow in ARROWS:
            for (row, column), (to_row, to_column) in pairwise(arrow.points):
                lines = {"│"} if column == to_column else {"─"}
                between = [
                    page[at_row][at_column]
                    for at_row in range(min(row, to_row), max(row, to_row) + 1)
                    for at_column in range(min(column, to_column), max(column, to_column) + 1)
                    if (at_row, at_column) not in arrow.points
                ]
                assert set(between) <= lines, (arrow.event, between)
            head_row, head_column = arrow.points[-1]
            assert page[head_row][head_column] in "▼▶◀"
            row, column, _ = arrow.label
            label = arrow_label(arrow.state, arrow.event, arrow.to).split()
            assert "".join(page[row][column : column + display_width(label[0])]) == label[0]
    finally:
        use_language("en")


def test_every_arrow_of_the_text_leads_from_box_to_box() -> None:
    for arrow in ARROWS:
        assert _distance(arrow.points[0], PLACES[arrow.state]) <= 1, arrow.event
        if arrow.to is TcpState.CLOSE:  # its name alone, once more
            row, column = arrow.points[-1]
            assert row in {END[1] - 1, END[1]}
            assert END[0] - 2 <= column <= END[0] + len(TcpState.CLOSE.rfc)
        else:
            assert _distance(arrow.points[-1], PLACES[arrow.to]) == 1, arrow.event


def _distance(point: tuple[int, int], place: tuple[int, int]) -> int:
    """Cells from a point (row, column) to a box at a place (column, row); 0 within."""
    row, column = point
    down = max(place[1] - row, row - (place[1] + 3), 0)
    across = max(place[0] - column, column - (place[0] + BOX - 1), 0)
    return max(down, across) if 0 in {down, across} else down + across


def test_a_heavy_state_has_a_heavy_border_and_a_light_one_has_not() -> None:
    counts = {TcpState.CLOSE_WAIT: 1000, TcpState.TIME_WAIT: 200, TcpState.SYN_SENT: 20}
    text = "\n".join(render_states(counts))
    assert text.count("┏") == 2
    assert re.search("┃ CLOSE-WAIT +1000 ┃", text)
    assert re.search("┃ TIME-WAIT +200 ┃", text)
    assert re.search("│ SYN-SENT +20 │", text)


def test_a_weight_is_of_the_logarithm() -> None:
    counts = {TcpState.CLOSE_WAIT: 99, TcpState.TIME_WAIT: 9}
    assert [weight_of(state, counts) for state in (*counts, TcpState.LISTEN)] == [1.0, 0.5, 0.0]
    assert weight_of(TcpState.LISTEN, None) is None
    assert weight_of(TcpState.LISTEN, dict.fromkeys(TcpState, 0)) == 0


def test_every_event_has_a_label_in_both_languages() -> None:
    assert set(EVENT_LABELS) == set(EVENTS)
    english = [label_of(transition) for transition in arrows()]
    use_language("zh_CN")
    try:
        chinese = [label_of(transition) for transition in arrows()]
    finally:
        use_language("en")
    for transition, one, other in zip(arrows(), english, chinese, strict=True):
        is_a_word_of_machines = transition.event in {*CALLS, "destroy", "timeout_fin_wait_2"}
        assert (one == other) == is_a_word_of_machines, transition
        assert one.endswith(transition.sent or "")
        assert other.endswith(transition.sent or "")


def _cells(line: str) -> list[str]:
    return [cell for character in line for cell in (character, "")[: display_width(character)]]


@pytest.mark.parametrize("name", EXCHANGES)
@pytest.mark.parametrize("unicode", [True, False])
def test_a_sequence_diagram_has_every_step_and_keeps_its_lifelines(name: str, *, unicode: bool) -> None:
    exchange = EXCHANGES[name]
    lines = list(render_sequence(exchange, unicode=unicode))
    assert len(lines) == len(exchange.steps) + 3
    assert max(map(display_width, lines)) <= 100
    life = "│" if unicode else "|"
    places = {(line.index(life), line.rindex(life)) for line in lines[1:-1] if line.count(life) == 2}
    assert len(places) == 1
    for line, step in zip(lines[2:-1], exchange.steps, strict=True):
        assert (step.flags or "") in line


@pytest.mark.parametrize("name", EXCHANGES)
def test_mermaid_and_json_have_every_segment(name: str) -> None:
    exchange = EXCHANGES[name]
    segments = [step for step in exchange.steps if step.flags]
    assert sum(">>" in line or "-x" in line for line in sequence_mermaid(exchange)) == len(segments)
    steps = sequence_document(exchange)["steps"]
    assert isinstance(steps, list)
    assert [step["flags"] for step in steps if step["flags"]] == [step.flags for step in segments]


def test_graphs_have_every_state_and_arrow() -> None:
    dot, mermaid, document = list(states_dot(COUNTS)), list(states_mermaid(COUNTS)), states_document(COUNTS, whole=True)
    wanted = len(list(shown_arrows()))
    assert sum(line.startswith("    classDef ") for line in mermaid) == 11
    for state in TcpState:
        assert any(f"{state.rfc}\\n{COUNTS[state]}\\n" in line for line in dot)
    assert sum(" -> " in line for line in dot) == wanted == sum(" --> " in line for line in mermaid)
    assert sum("penwidth" in line for line in dot) == 11 == len(document["states"])  # type: ignore[arg-type]
    assert len(document["transitions"]) == len([one for one in arrows() if not one.hidden])  # type: ignore[arg-type]


def test_a_pen_grows_with_the_count_and_an_empty_state_is_grey() -> None:
    counts = {TcpState.CLOSE_WAIT: 1000, TcpState.SYN_SENT: 20}
    widths = {}
    for line in states_dot(counts):
        if found := re.match(r'  (\w+) \[label.* fillcolor="(#\w+)".* penwidth=([\d.]+)', line):
            widths[found[1]] = (found[2], float(found[3]))
    assert widths["close_wait"][1] > widths["syn_sent"][1] > widths["listen"][1] == 1
    assert widths["listen"][0] == widths["closing"][0] != widths["syn_sent"][0]
    style = {line.split()[1]: line for line in states_mermaid(counts) if "classDef" in line}
    assert "stroke-width:5px" in style["look_close_wait"]
    assert "stroke-width:1px" in style["look_closing"]


@pytest.mark.parametrize("name", EXCHANGES)
def test_markdown_of_an_exchange_has_the_picture_and_every_step(name: str) -> None:
    exchange = EXCHANGES[name]
    lines = list(sequence_markdown(exchange))
    end = lines.index("```")
    assert lines[: end + 1] == ["```mermaid", *sequence_mermaid(exchange), "```"]
    rows = [line.strip("| ").split(" | ") for line in lines[end + 4 :]]
    assert rows[0][-2:] == [exchange.client.rfc, exchange.server.rfc]
    for row, step in zip(rows[1:], exchange.steps, strict=True):
        assert row[0] == step.end
        assert row[2:] == [step.client.rfc, step.server.rfc]
        assert (step.flags or "") in row[1]
        assert ("lost" in row[1]) != step.arrives


def test_markdown_of_the_states_has_who_must_act_and_how_many() -> None:
    lines = list(states_markdown(COUNTS))
    assert lines[: lines.index("```") + 1] == ["```mermaid", *states_mermaid(COUNTS), "```"]
    assert f"| CLOSE-WAIT | program | the program to call close() | {COUNTS[TcpState.CLOSE_WAIT]} |" in lines
    assert "| State | Who must act | It waits for |" in list(states_markdown())
    assert list(states_markdown(COUNTS, ["<b>3 sockets on a_b"]))[len(lines) :] == ["", r"\<b\>3 sockets on a\_b"]
