"""Every state in an exchange is what the machine makes of its steps."""

from __future__ import annotations

import pytest

from finwait.tcp.exchanges import CALL, CLIENT, EXCHANGES, SEGMENT, SERVER, TIMER, Exchange, Step, replay
from finwait.tcp.state import TcpState
from finwait.tcp.transitions import EVENTS

NAMES = (
    "open", "close", "close_three", "simultaneous_open", "simultaneous_close", "reset", "refused", "half_open", "no_answer",
    "half_close", "time_wait",
)  # fmt: skip
each_exchange = pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=lambda exchange: exchange.name)


def test_the_exchanges_have_these_names() -> None:
    assert tuple(EXCHANGES) == NAMES


@each_exchange
def test_the_machine_gives_the_states_of_both_ends(exchange: Exchange) -> None:
    written = [(step.client, step.server) for step in exchange.steps]
    assert [(replayed.client, replayed.server) for replayed in replay(exchange)] == written


@each_exchange
def test_every_segment_left_before_it_arrived_and_nothing_stays_behind(exchange: Exchange) -> None:
    left = [replayed.left for replayed in replay(exchange)]
    segments = [index for index, step in enumerate(exchange.steps) if step.kind == SEGMENT]
    assert [index for index, at in enumerate(left) if at is not None] == segments
    assert all(at < index for index, at in enumerate(left) if at is not None)
    assert len({at for at in left if at is not None}) == len(segments)


@each_exchange
def test_calls_are_the_programs_timers_the_clocks_segments_the_peers(exchange: Exchange) -> None:
    who = {CALL: "program", TIMER: "clock", SEGMENT: "peer"}
    assert {EVENTS[step.event] == who[step.kind] for step in exchange.steps if step.event} == {True}


@each_exchange
def test_a_segment_has_an_acknowledgement_where_it_has_the_flag(exchange: Exchange) -> None:
    for step in exchange.steps:
        if step.kind == SEGMENT:
            assert step.flags and step.seq
            assert (step.ack is not None) == ("ACK" in step.flags.split(","))
        else:
            assert (step.flags, step.seq, step.ack, step.data) == (None, None, None, None)


def test_in_a_simultaneous_close_both_segments_cross_and_both_ends_wait() -> None:
    exchange = EXCHANGES["simultaneous_close"]
    assert [replayed.left for replayed in replay(exchange)][2:4] == [0, 1]
    assert (exchange.steps[5].client, exchange.steps[5].server) == (TcpState.TIME_WAIT, TcpState.TIME_WAIT)


@pytest.mark.parametrize("name", ["close", "close_three", "half_close", "time_wait"])
def test_only_the_end_that_closes_first_waits(name: str) -> None:
    steps = EXCHANGES[name].steps
    assert TcpState.TIME_WAIT in {step.client for step in steps}
    assert TcpState.TIME_WAIT not in {step.server for step in steps}


def test_a_step_that_the_machine_does_not_know_is_refused() -> None:
    closed = TcpState.CLOSE
    wrong = Exchange("wrong", "3.5", closed, closed, Step(CALL, CLIENT, "close", closed, closed))
    with pytest.raises(ValueError, match="no close in CLOSED"):
        list(replay(wrong))
    unsent = Exchange("unsent", "3.5", closed, closed, Step(SEGMENT, SERVER, None, closed, closed, "SYN", "y"))
    with pytest.raises(ValueError, match="nothing sends SYN"):
        list(replay(unsent))
