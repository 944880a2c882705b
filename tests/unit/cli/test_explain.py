"""What the words of `finwait explain` ask for, and what is said of words that mean nothing."""

from __future__ import annotations

import json
import shlex

import pytest

from finwait.cli import explain
from finwait.cli.explain import _Asked, build_parser
from finwait.cli.main import main
from finwait.errors import NotSupported, UsageError
from finwait.tcp.explanations import read_explanations
from finwait.tcp.state import TcpState
from finwait.tcp.timers import TIMERS
from finwait.tcp.transitions import EVENTS, MACHINE, STATES


@pytest.mark.parametrize(
    ("words", "states"),
    [
        ([], list(STATES)),
        (["all"], list(STATES)),
        (["close-wait"], [TcpState.CLOSE_WAIT]),
        (["TIME_WAIT", "estab", "time-wait"], [TcpState.ESTABLISHED, TcpState.TIME_WAIT]),
        (["bucket"], [TcpState.SYN_RECV, TcpState.TIME_WAIT]),
        (["timer"], []),
        (["transition", "listen", "closed"], []),
    ],
)
def test_states_come_in_the_order_of_life_each_once(words: list[str], states: list[TcpState]) -> None:
    assert list(_Asked(words).states) == states


@pytest.mark.parametrize(
    ("words", "timers"),
    [
        (["timer"], list(TIMERS)),
        (["timers", "keepalive"], ["keepalive"]),
        (["timer", "FIN-WAIT-2", "on"], ["fin_wait_2", "retransmit"]),
    ],
)
def test_timers_have_the_names_that_finwait_and_ss_show(words: list[str], timers: list[str]) -> None:
    assert list(_Asked(words).timers) == timers


def test_a_transition_has_two_states() -> None:
    assert _Asked(["transition", "estab", "fin-wait-1"]).pair == (TcpState.ESTABLISHED, TcpState.FIN_WAIT1)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tim-wait"], "unknown TCP state 'tim-wait'; did you mean time_wait?"),
        (["timer", "keepalve"], "unknown timer 'keepalve'; did you mean keepalive?"),
        (["timer", "foo"], "unknown timer 'foo'; did you mean syn_retries, "),
        (["keepalive"], "'keepalive' is a timer; 'finwait explain timer keepalive' tells of it"),
        (["transition", "listen"], "'finwait explain transition' takes two states, not 1"),
        (["transition", "listen", "x", "y"], "'finwait explain transition' takes two states, not 3"),
        (["transition", "listen", "clsed"], "unknown TCP state 'clsed'; did you mean closed?"),
        (["listen", "transition"], "unknown TCP state 'transition'; did you mean"),
    ],
)
def test_what_means_nothing_is_told_with_the_nearest_word(words: list[str], told: str) -> None:
    with pytest.raises(UsageError) as raised:
        _Asked(words)
    assert str(raised.value).startswith(told)


@pytest.mark.parametrize("word", ["time_wait", "fin_wait_2"])
def test_a_word_that_is_a_state_and_a_timer_is_the_state(word: str) -> None:
    assert [state.token for state in _Asked([word]).states] == [word]


def test_words_behind_two_dashes_are_words() -> None:
    options = build_parser().parse(["--json", "listen", "--", "closed"])
    assert [*options.words, *options.filter] == ["listen", "closed"]


def test_sockets_that_cannot_be_counted_are_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise NotSupported("no sockets on {planet}", planet="Mars")

    monkeypatch.setattr("finwait.api.count_for", refuse)
    assert explain.run(["listen", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["source"], document["complete"], document["states"][0]["count"]) == (None, False, None)
    assert document["warnings"] == [
        {
            "code": "not_counted",
            "message": "the sockets could not be counted: no sockets on Mars",
            "missing": "count",
            "remedy": None,
        }
    ]
    assert explain.run(["listen"]) == 0
    told = capsys.readouterr()
    assert "here now" not in told.out
    assert told.err == "finwait: the sockets could not be counted: no sockets on Mars\n"


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.rfc)
def test_every_command_that_is_named_can_be_run(state: TcpState, capsys: pytest.CaptureFixture[str]) -> None:
    for line in read_explanations("en")[f"state {state.token}"]["look"]:
        words = shlex.split(line.partition(" | ")[0])[1:]
        recording = [] if "--ghosts" in words else ["--read", "docs/examples/ticket-ss.txt"]
        assert main([*words, *recording]) == 0, line
        assert "mean" not in capsys.readouterr().err


@pytest.mark.parametrize("timer", [timer for timer in TIMERS.values() if timer.shown], ids=lambda timer: timer.name)
def test_the_command_that_shows_a_running_timer_can_be_run(timer: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "timer", timer.name]) == 0  # type: ignore[attr-defined]
    command = capsys.readouterr().out.partition("have it now: finwait ")[2].splitlines()[0]
    assert main([*command.split(), "--read", "docs/examples/ticket-ss.txt"]) == 0


@pytest.mark.parametrize("event", EVENTS)
def test_a_cause_names_every_arrow_that_it_is_on(event: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "why", event.replace("_", "-").upper(), "--json"]) == 0
    [told] = json.loads(capsys.readouterr().out)["events"]
    arrows = [(one.state.token, one.to.token) for leaving in MACHINE.values() for one in leaving if one.event == event]
    assert (told["event"], told["who"]) == (event, EVENTS[event])
    assert [(way["from"], way["to"]) for way in told["ways"]] == arrows
    assert main(["explain", "why", event]) == 0
    assert capsys.readouterr().out.count(" > ") == len(arrows)


def test_a_cause_is_taken_for_no_state(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "close_unread"]) == 2
    assert "'finwait explain why close_unread'" in capsys.readouterr().err
    assert main(["explain", "why", "rcv_fim"]) == 2
    assert "did you mean rcv_fin" in capsys.readouterr().err
