"""The machine is complete and says nothing that TCP does not do."""

from __future__ import annotations

import re

import pytest

from finwait.tcp import transitions
from finwait.tcp.state import TcpState
from finwait.tcp.transitions import (
    DEPARTURES,
    EVENTS,
    LINUX,
    MACHINE,
    RFC9293,
    STATES,
    Transition,
    arrows,
    find_path,
    find_transition,
    next_transition,
    transitions_from,
    transitions_to,
)

EVERY = [transition for state in STATES for transition in transitions_from(state)]
each_transition = pytest.mark.parametrize("transition", EVERY, ids=repr)
S = TcpState
# Figure 5 of RFC 9293: state, event, segment sent, state. Notes 1 and 2 have the last two.
FIGURE_5 = [
    (S.CLOSE, "passive_open", None, S.LISTEN),
    (S.CLOSE, "active_open", "SYN", S.SYN_SENT),
    (S.LISTEN, "close", None, S.CLOSE),
    (S.LISTEN, "rcv_syn", "SYN,ACK", S.SYN_RECV),
    (S.LISTEN, "send", "SYN", S.SYN_SENT),
    (S.SYN_SENT, "close", None, S.CLOSE),
    (S.SYN_SENT, "rcv_syn", "SYN,ACK", S.SYN_RECV),
    (S.SYN_SENT, "rcv_syn_ack", "ACK", S.ESTABLISHED),
    (S.SYN_RECV, "rcv_ack_of_syn", None, S.ESTABLISHED),
    (S.SYN_RECV, "close", "FIN,ACK", S.FIN_WAIT1),
    (S.ESTABLISHED, "close", "FIN,ACK", S.FIN_WAIT1),
    (S.ESTABLISHED, "rcv_fin", "ACK", S.CLOSE_WAIT),
    (S.FIN_WAIT1, "rcv_ack_of_fin", None, S.FIN_WAIT2),
    (S.FIN_WAIT1, "rcv_fin", "ACK", S.CLOSING),
    (S.CLOSE_WAIT, "close", "FIN,ACK", S.LAST_ACK),
    (S.FIN_WAIT2, "rcv_fin", "ACK", S.TIME_WAIT),
    (S.CLOSING, "rcv_ack_of_fin", None, S.TIME_WAIT),
    (S.LAST_ACK, "rcv_ack_of_fin", None, S.CLOSE),
    (S.TIME_WAIT, "timeout_time_wait", None, S.CLOSE),
    (S.SYN_RECV, "rcv_rst", None, S.LISTEN),
    (S.FIN_WAIT1, "rcv_fin_ack", "ACK", S.TIME_WAIT),
]


def test_every_state_has_its_row_in_the_order_of_life() -> None:
    assert tuple(MACHINE) == STATES == tuple(sorted(TcpState, key=STATES.index))
    assert len(STATES) == 11


@pytest.mark.parametrize(("state", "event", "sent", "to"), FIGURE_5)
def test_every_arrow_of_figure_5_is_there(state: TcpState, event: str, sent: str | None, to: TcpState) -> None:
    found = [(t.event, t.sent, t.origin) for t in find_transition(state, to)]
    assert (event, sent, RFC9293) in found


@each_transition
def test_a_transition_is_made_of_known_words(transition: Transition) -> None:
    assert transition.who in {"program", "peer", "kernel", "clock"}
    assert transition.origin in {RFC9293, LINUX}
    assert transition.sent in {None, "SYN", "SYN,ACK", "ACK", "PSH,ACK", "FIN,ACK", "RST", "RST,ACK"}
    assert re.fullmatch(r"3\.\d+(\.\d+)*", transition.rfc)
    assert transition in MACHINE[transition.state]


@each_transition
def test_what_linux_adds_or_hides_has_a_reason(transition: Transition) -> None:
    if transition.origin == LINUX or transition.hidden:
        assert transition.departure is not None
    assert transition.departure is None or transition.departure in DEPARTURES


def test_every_event_and_every_departure_is_used() -> None:
    assert {transition.event for transition in EVERY} == set(EVENTS)
    assert {transition.departure for transition in EVERY} - {None} == set(DEPARTURES)


def test_no_transition_stands_twice() -> None:
    keys = [(t.state, t.event, t.to, t.sent, t.departure) for t in EVERY]
    assert len(set(keys)) == len(keys)


def test_where_an_event_has_several_ends_only_the_first_goes_without_a_departure() -> None:
    for state in STATES:
        seen = set()
        for transition in MACHINE[state]:
            assert transition.event not in seen or transition.departure is not None
            seen.add(transition.event)


def test_the_first_transition_of_an_event_is_the_one_that_linux_usually_takes() -> None:
    for transition in EVERY:
        first = next_transition(transition.state, transition.event)
        assert first is not None
        assert not first.hidden or first.event in {"send", "abort"}


def test_closed_is_left_by_opening_alone() -> None:
    assert {t.event for t in arrows() if t.state is S.CLOSE} == {"passive_open", "active_open"}


def test_close_wait_is_left_by_the_program_or_to_closed() -> None:
    assert {t.who for t in arrows() if t.state is S.CLOSE_WAIT and t.to is not S.CLOSE} == {"program"}


def test_only_a_received_fin_or_the_ack_of_ours_leads_to_time_wait() -> None:
    assert [(t.state, t.event) for t in transitions_to(S.TIME_WAIT)] == [
        (S.FIN_WAIT1, "rcv_fin_ack"),
        (S.FIN_WAIT2, "rcv_fin"),
        (S.CLOSING, "rcv_ack_of_fin"),
    ]


def test_time_wait_is_left_by_the_clock_a_reset_a_new_connection_or_the_operator() -> None:
    events = {t.event for t in arrows() if t.state is S.TIME_WAIT and not t.hidden}
    assert events == {"timeout_time_wait", "rcv_rst", "rcv_syn", "active_open", "destroy"}


def test_a_reset_ends_every_connection() -> None:
    without = {S.LISTEN, S.CLOSE}
    ended = {t.state for t in transitions_to(S.CLOSE) if t.event == "rcv_rst"}
    assert ended == set(STATES) - without


def test_every_state_is_reached_and_leads_to_closed() -> None:
    assert {t.to for t in arrows()} == set(STATES)
    assert {t.state for t in arrows() if t.to is S.CLOSE} == set(STATES) - {S.CLOSE}


def test_linux_hides_three_arrows() -> None:
    assert [(t.state, t.event, t.to) for t in EVERY if t.hidden] == [
        (S.LISTEN, "send", S.SYN_SENT),
        (S.SYN_RECV, "rcv_rst", S.LISTEN),
        (S.TIME_WAIT, "abort", S.CLOSE),
    ]


def test_there_is_no_way_from_established_to_time_wait_in_one_step() -> None:
    assert find_transition(S.ESTABLISHED, S.TIME_WAIT) == ()
    assert transitions.next_transition(S.TIME_WAIT, "close") is None


@pytest.mark.parametrize(
    ("states", "path"),
    [
        ((S.ESTABLISHED, S.TIME_WAIT), (S.ESTABLISHED, S.FIN_WAIT1, S.TIME_WAIT)),
        ((S.LISTEN, S.CLOSE_WAIT), (S.LISTEN, S.SYN_RECV, S.CLOSE_WAIT)),
        ((S.CLOSE, S.ESTABLISHED), (S.CLOSE, S.LISTEN, S.ESTABLISHED)),
        ((S.CLOSE_WAIT, S.TIME_WAIT), ()),
        ((S.LAST_ACK, S.ESTABLISHED), ()),
        ((S.TIME_WAIT, S.SYN_SENT), ()),
        ((S.FIN_WAIT2, S.CLOSE), (S.FIN_WAIT2, S.CLOSE)),
    ],
)
def test_the_shortest_path_is_that_of_one_connection(states: tuple[S, S], path: tuple[S, ...]) -> None:
    assert find_path(*states) == path
