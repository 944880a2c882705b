"""The pictures say what the tables say: every arrow of the figure, every step of every exchange, aligned, in 100 cells."""

from __future__ import annotations

import pytest

from finwait.render.sequence import render_sequence, sequence_document, sequence_mermaid
from finwait.render.state_graph import shown_arrows, states_document, states_dot, states_mermaid
from finwait.render.state_text import ARROWS, BOX, PLACES, render_states
from finwait.tcp.exchanges import EXCHANGES
from finwait.tcp.state import TcpState
from finwait.tcp.transitions import MACHINE, arrows
from finwait.text.messages import use_language
from finwait.text.width import display_width

COUNTS = {state: 1_000_003 * int(state) for state in TcpState}


def test_every_drawn_arrow_is_one_of_the_machine() -> None:
    known = {(transition.state, transition.event, transition.to) for row in MACHINE.values() for transition in row}
    assert set(ARROWS) <= known
    assert len(set(ARROWS)) == len(ARROWS)


def test_every_arrow_of_the_rfcs_figure_is_drawn() -> None:
    # Figure 5 but for what ends a connection from anywhere, what Linux never does, and closes before a handshake is over
    left_out = {
        (TcpState.LISTEN, "close"), (TcpState.SYN_SENT, "close"), (TcpState.SYN_SENT, "timeout_syn"),
        (TcpState.SYN_RECV, "rcv_syn_ack"), (TcpState.SYN_RECV, "rcv_fin"), (TcpState.SYN_RECV, "timeout_syn_ack"),
        (TcpState.ESTABLISHED, "shutdown_write"), (TcpState.CLOSE_WAIT, "shutdown_write"),
    }  # fmt: skip
    wanted = {(one.state, one.event) for one in shown_arrows() if one.origin == "rfc9293"} - left_out
    assert {(state, event) for state, event, _ in ARROWS} == wanted


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
    border = "│" if unicode else "|"
    for state, (column, row) in PLACES.items():
        for line in lines[row + 1 : row + 3]:
            cells = _cells(line)
            assert cells[column] == border == cells[column + BOX - 1], (state, line)
        assert state.rfc in lines[row + 1]
        assert str(COUNTS[state]) in lines[row + 1]


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
    assert sum(" -> " in line for line in dot) == wanted == sum(" --> " in line for line in mermaid)
    assert sum("\\n" in line for line in dot) == 11 == len(document["states"])  # type: ignore[arg-type]
    assert len(document["transitions"]) == len([one for one in arrows() if not one.hidden])  # type: ignore[arg-type]
