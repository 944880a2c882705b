"""Everything is explained, in both languages, to the same depth."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from finwait.errors import FinwaitError
from finwait.tcp.exchanges import EXCHANGES
from finwait.tcp.explanations import parse_explanations, read_explanations
from finwait.tcp.timers import TIMERS
from finwait.tcp.transitions import DEPARTURES, EVENTS, STATES, next_transition, transitions_from
from finwait.text.messages import LANGUAGES

if TYPE_CHECKING:
    from finwait.tcp.state import TcpState

STATE_KEYS = ["what", "wait", "normal", "trouble", "look", "help", "useless"]
BY_LANGUAGE = {language: read_explanations(language) for language in LANGUAGES}
each_language = pytest.mark.parametrize("language", LANGUAGES)


@each_language
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.rfc)
def test_every_state_has_every_part(language: str, state: TcpState) -> None:
    section = BY_LANGUAGE[language][f"state {state.token}"]
    assert list(section) == STATE_KEYS
    assert len(section["wait"]) == 1
    assert all(re.fullmatch(r"finwait .+ \| .+", line) for line in section["look"])


@each_language
def test_every_timer_event_departure_and_exchange_has_its_text(language: str) -> None:
    sections = BY_LANGUAGE[language]
    titles = [f"state {state.token}" for state in STATES] + [f"timer {name}" for name in TIMERS]
    assert list(sections) == [
        *titles,
        "events",
        "conditions",
        "departures",
        *(f"exchange {name}" for name in EXCHANGES),
    ]
    assert list(sections["events"]) == list(EVENTS)
    assert list(sections["departures"]) == list(DEPARTURES)
    every = [transition for state in STATES for transition in transitions_from(state) if not transition.hidden]
    unusual = [t.departure for t in every if t is not next_transition(t.state, t.event)]
    assert list(sections["conditions"]) == unusual
    for name in TIMERS:
        assert list(sections[f"timer {name}"]) == ["when", "what", "ends", "useless"]
    for name in EXCHANGES:
        assert list(sections[f"exchange {name}"]) == ["title", "what"]


def test_the_languages_say_the_same_things_in_the_same_order() -> None:
    english, chinese = (_outline(BY_LANGUAGE[language]) for language in ("en", "zh_CN"))
    assert chinese == english


def _outline(sections: dict) -> list:
    return [(title, key, len(lines)) for title, section in sections.items() for key, lines in section.items()]


def test_both_languages_name_the_same_commands_numbers_and_machine_words() -> None:
    for title, english in BY_LANGUAGE["en"].items():
        for key, lines in english.items():
            for said, translated in zip(lines, BY_LANGUAGE["zh_CN"][title][key], strict=True):
                assert _machine_words(translated) == _machine_words(said), (title, key)
                assert said.partition(" | ")[0] == translated.partition(" | ")[0] or key != "look"


def _machine_words(text: str) -> set[str]:
    """Sysctls, constants and numbers of two digits or more."""
    return set(re.findall(r"\btcp_\w+|\b[A-Z]+_[A-Z_]+\b|\b\d[\d,.]*\d\b", text, re.ASCII))


def test_the_languages_are_written_in_different_characters() -> None:
    english = (Path(__file__).parents[3] / "src/finwait/tcp/explanations/en.txt").read_text(encoding="utf-8")
    assert english.isascii()
    bare = [
        (title, key)
        for title, section in BY_LANGUAGE["zh_CN"].items()
        for key, lines in section.items()
        for line in lines
        if line.isascii()
    ]
    assert bare == []


@pytest.mark.parametrize("text", ["what: no section", "[state x]\nwords", "[state x]\nwhat:", "[a]\n[a]"])
def test_what_is_no_explanation_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="line"):
        parse_explanations(text)


def test_a_missing_file_is_one_error() -> None:
    with pytest.raises(FinwaitError, match=r"tlh\.txt"):
        read_explanations("tlh")
