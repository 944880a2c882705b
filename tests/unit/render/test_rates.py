"""Rates in every picture: of each arrow where it is drawn, nothing of the picture covered, what has no arrow told as well."""

from __future__ import annotations

import re
from itertools import chain

import pytest

from finwait.render.rates import MOST_CELLS, Rates, rate_text, rates_lines, rates_notes, rates_title
from finwait.render.state_graph import shown_arrows, states_document, states_dot, states_markdown, states_mermaid
from finwait.render.state_text import ARROWS, render_states
from finwait.tcp.state import TcpState
from finwait.text.messages import use_language
from finwait.text.width import display_width

S = TcpState
DRAWN = [(arrow.state, arrow.to) for arrow in ARROWS]
COUNTS = {state: 1_000_003 * int(state) for state in TcpState}
ABORTED, REFUSED = (S.ESTABLISHED, S.CLOSE), (S.SYN_RECV, S.CLOSE)
# Each arrow of the figure another prime number of times, and two changes that have none.
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59)
MANY = Rates({**dict(zip(DRAWN, PRIMES, strict=True)), ABORTED: 61, REFUSED: 67}, 10.0)
SLOW = Rates(dict.fromkeys(DRAWN, 1), 81_300.0)  # the longest text that there is
NONE = Rates({}, 2.0)


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0, "0/s"), (1, "1/s"), (50.5, "50.5/s"), (2 / 3, "0.667/s"), (0.001, "0.001/s"), (0.0012345, "0.00123/s"),
        (1 / 81_300, "1.23e-5/s"), (0.00099999, "0.001/s"), (999.4, "999/s"), (999.6, "1k/s"), (1234, "1.23k/s"),
        (99_999, "100k/s"), (999_999, "1M/s"), (1_234_567, "1.23M/s"), (123_456_789, "123M/s"),
    ],
)  # fmt: skip
def test_a_rate_has_three_digits(rate: float, text: str) -> None:
    assert rate_text(rate) == text


def test_no_rate_takes_more_cells_than_there_are_for_it() -> None:
    rates = (digits * 10.0**exponent for digits in (1, 1.23, 9.99, 9.996) for exponent in range(-5, 9))
    assert max(len(rate_text(rate)) for rate in rates) == MOST_CELLS


def test_what_was_is_told_in_the_order_of_a_life() -> None:
    assert list(MANY.pairs(DRAWN)) == [REFUSED, ABORTED]
    assert next(iter(MANY.pairs())) == (S.LISTEN, S.SYN_RECV)
    assert len(list(MANY.pairs())) == 19
    assert (MANY.count_of(*ABORTED), MANY.rate_of(*ABORTED), MANY.text_of(*ABORTED)) == (61, 6.1, "6.1/s")
    assert (NONE.count_of(*ABORTED), NONE.rate_of(*ABORTED), list(NONE.pairs())) == (0, 0, [])


@pytest.mark.parametrize("language", ["en", "zh_CN"])
@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("rates", [MANY, SLOW, NONE], ids=["many", "slow", "none"])
def test_the_rates_of_the_text_cover_nothing_of_it(rates: Rates, language: str, *, unicode: bool) -> None:
    use_language(language)
    try:
        without = [cells_of(line) for line in render_states(COUNTS, unicode=unicode)]
        rated = [cells_of(line) for line in render_states(COUNTS, rates, unicode=unicode)]
    finally:
        use_language("en")
    for bare, line in zip(without, rated, strict=True):
        kept = [cell if column < len(bare) and bare[column] != " " else " " for column, cell in enumerate(line)]
        assert "".join(kept).rstrip() == "".join(bare)
        assert len(line) <= 96
    for arrow in ARROWS:
        row, column = arrow.rate
        text = rates.text_of(arrow.state, arrow.to)
        assert "".join(rated[row][column : column + len(text)]) == text, arrow.event
        assert rated[row][column - 1] == " ", arrow.event
        if rates is not SLOW:
            assert "".join(rated[row][column + len(text) :][:1]).strip() == "", arrow.event


def cells_of(line: str) -> list[str]:
    return [cell for character in line for cell in (character, "")[: display_width(character)]]


def test_an_arrow_that_nobody_took_is_dim_where_there_are_colours() -> None:
    rates = Rates({(S.LISTEN, S.SYN_RECV): 3}, 2.0)
    lines = list(render_states(COUNTS, rates, fade=lambda text: f"<{text}>"))
    bare = list(render_states(COUNTS, rates))
    assert [line.replace("<", "").replace(">", "") for line in lines] == bare
    assert all(re.fullmatch(r"[^<>]*(<[^<>]*>[^<>]*)*", line) for line in lines)  # none begins within another
    faint = "".join(re.findall("<(.*?)>", "\n".join(lines)))
    bright = re.sub("<.*?>", "", "\n".join(lines))
    assert faint.count("0/s") == len(ARROWS) - 1
    assert faint.count("▼") + faint.count("▶") + faint.count("◀") == len(ARROWS) - 1
    assert "connect() / SYN" in faint
    assert ("rcv SYN / SYN,ACK" in bright, "1.5/s" in bright, "▼" in bright) == (True, True, True)
    assert not any(state.rfc in faint for state in TcpState)


def test_below_the_text_stands_what_has_no_arrow() -> None:
    assert list(rates_lines(MANY, DRAWN)) == [
        "",
        " on the arrows: changes of state a second, measured for 10 s",
        " without an arrow here:",
        "   SYN-RECEIVED > CLOSED           6.7/s",
        "   ESTABLISHED  > CLOSED           6.1/s",
    ]
    assert list(rates_lines(SLOW, DRAWN)) == ["", " on the arrows: changes of state a second, measured for 81300 s"]


def test_the_same_is_a_paragraph_where_lines_are_wrapped() -> None:
    assert list(rates_notes(MANY, DRAWN)) == [
        rates_title(MANY), "without an arrow here: SYN-RECEIVED>CLOSED 6.7/s, ESTABLISHED>CLOSED 6.1/s",
    ]  # fmt: skip
    assert list(rates_notes(NONE, DRAWN)) == ["on the arrows: changes of state a second, measured for 2 s"]


@pytest.mark.parametrize("whole", [False, True])
def test_a_graph_has_one_arrow_for_each_pair_of_states_with_its_rate(*, whole: bool) -> None:
    shown = {(one.state, one.to) for one in shown_arrows(whole=whole)}
    dot = list(states_dot(COUNTS, MANY, whole=whole))
    mermaid = list(states_mermaid(COUNTS, MANY, whole=whole))
    found = re.findall(r'^  (\w+) -> (\w+) \[label="(.*?)"', "\n".join(dot), re.MULTILINE)
    drawn = re.findall(r"^    (\w+) --> (\w+): (.*)$", "\n".join(mermaid), re.MULTILINE)
    labels = {(state, to): label.split("\\n") for state, to, label in found}
    assert {(state, to): label.split("<br/>") for state, to, label in drawn} == labels
    assert len(found) == len(drawn) == len(labels)
    assert set(labels) == {(state.token, to.token) for state, to in shown | {ABORTED, REFUSED}}
    for state, to in shown | {ABORTED, REFUSED}:
        assert labels[state.token, to.token][-1] == MANY.text_of(state, to)
    assert len(labels[S.ESTABLISHED.token, S.CLOSE.token]) == (8 if whole else 1)
    assert labels["established", "fin_wait_1"] == ["close() / FIN,ACK", "shutdown(SHUT_WR) / FIN,ACK", "1.9/s"]
    assert sum(rates_title(MANY) in line for line in dot) == 1 == sum(rates_title(MANY) in line for line in mermaid)


def test_a_graph_draws_faintly_what_nobody_took() -> None:
    arrows = [line for line in states_dot(COUNTS, Rates({ABORTED: 3}, 2.0)) if " -> " in line]
    (taken,) = [line for line in arrows if "fontcolor" not in line]
    assert taken == '  established -> closed [label="1.5/s", constraint=false];'


def test_markdown_has_a_table_of_what_was() -> None:
    lines = list(states_markdown(COUNTS, ["a note"], MANY))
    assert lines[: lines.index("```") + 1] == ["```mermaid", *states_mermaid(COUNTS, MANY), "```"]
    at = lines.index("| From | To | Changes | A second |")
    rows = [line.strip("| ").split(" | ") for line in lines[at + 2 : at + 2 + 19]]
    assert rows == [
        [state.rfc, to.rfc, str(MANY.count_of(state, to)), MANY.text_of(state, to)] for state, to in MANY.pairs()
    ]
    assert lines[at + 2 + 19 :] == ["", "a note"]
    assert list(states_markdown(COUNTS, [], NONE))[-1] == "no connection has changed its state"


def test_the_document_has_each_change_once_and_the_rate_of_each_transition() -> None:
    document = states_document(COUNTS, None, MANY, whole=True)
    assert document["seconds"] == 10.0
    changes, transitions = document["changes"], document["transitions"]
    assert isinstance(changes, list)
    assert isinstance(transitions, list)
    assert [(row["from"], row["to"], row["count"]) for row in changes] == [
        (state.token, to.token, MANY.count_of(state, to)) for state, to in MANY.pairs()
    ]
    by_pair = {(row["from"], row["to"]): (row["count"], row["rate"]) for row in changes}
    for row in transitions:
        assert (row["count"], row["rate"]) == by_pair.get((row["from"], row["to"]), (0, 0))
    assert all(row["rate"] * document["seconds"] == pytest.approx(row["count"]) for row in chain(changes, transitions))


def test_a_document_without_rates_says_null() -> None:
    document = states_document(COUNTS)
    assert (document["seconds"], document["changes"]) == (None, None)
    assert all((row["count"], row["rate"]) == (None, None) for row in document["transitions"])  # type: ignore[attr-defined]
