"""Every cause that is found is an event that leads from the one state to the other, whatever was seen."""

from __future__ import annotations

from errno import ECONNABORTED, ECONNRESET, EHOSTUNREACH, ETIMEDOUT
from itertools import product

import pytest

from finwait.tcp.causes import Seen, find_cause
from finwait.tcp.state import TcpState
from finwait.tcp.transitions import EVENTS, find_transition

S = TcpState
HINTS = ("rst_received", "rst_sent", "by_timer", "linger_0", "no_program", "released", "fast_open", "gone", "reused")
ERRORS = (0, ECONNABORTED, ETIMEDOUT, ECONNRESET, EHOSTUNREACH)
PAIRS = [(state, to) for state, to in product(S, S) if state is not to]
EVERYTHING = [
    Seen(error=error, shutdown=shutdown, **dict(zip(HINTS, map(bool, hints), strict=True)))
    for error, shutdown, hints in product(ERRORS, range(4), product((0, 1), repeat=len(HINTS)))
]
# Answers that the table does not have for these states. Of a TIME-WAIT that is used again the table has the new connection, and
# only a timewait socket is `reused`.
REUSED = {(state, S.CLOSE, "rcv_syn") for state in S if state is not S.CLOSE}
# What the kernel does not combine: it resends nothing in FIN-WAIT-2, probes nobody who has something to resend, has nobody who
# could shut down a connection that was not accepted, and tells timewait sockets by hints of their own.
NEVER_SEEN = {
    (S.FIN_WAIT2, S.CLOSE, "timeout_retransmit"), (S.FIN_WAIT2, S.CLOSE, "listener_closed"),
    (S.FIN_WAIT1, S.CLOSE, "timeout_keepalive"), (S.CLOSING, S.CLOSE, "timeout_keepalive"),
    (S.LAST_ACK, S.CLOSE, "timeout_keepalive"), (S.TIME_WAIT, S.CLOSE, "timeout_keepalive"),
    (S.TIME_WAIT, S.CLOSE, "timeout_retransmit"), (S.TIME_WAIT, S.CLOSE, "close_unread"),
    (S.SYN_RECV, S.FIN_WAIT1, "shutdown_write"), (S.TIME_WAIT, S.SYN_RECV, "rcv_syn_fast_open"),
}  # fmt: skip


def causes(state: TcpState, to: TcpState) -> set[str]:
    found = {find_cause(state, to, seen) for seen in EVERYTHING}
    return {cause for cause in found if cause is not None}


@pytest.mark.parametrize(("state", "to"), [pair for pair in PAIRS if find_transition(*pair)], ids=str)
def test_whatever_was_seen_the_cause_is_an_event_of_the_table(state: TcpState, to: TcpState) -> None:
    known = {transition.event for transition in find_transition(state, to)}
    other = {(state, to, cause) for cause in causes(state, to) - known}
    assert other <= REUSED | NEVER_SEEN
    assert causes(state, to) <= EVENTS.keys()


@pytest.mark.parametrize(
    ("state", "to"),
    [(S.ESTABLISHED, S.LAST_ACK), (S.ESTABLISHED, S.SYN_RECV), (S.SYN_SENT, S.FIN_WAIT1), (S.CLOSE, S.SYN_RECV)],
    ids=str,
)
def test_a_change_that_the_machine_does_not_have_has_no_cause(state: TcpState, to: TcpState) -> None:
    assert not find_transition(state, to)
    assert causes(state, to) == set()


@pytest.mark.parametrize(
    ("state", "to"),
    [pair for pair in PAIRS if not find_transition(*pair) and pair[1] not in {S.SYN_RECV, S.FIN_WAIT1, S.LAST_ACK}],
    ids=str,
)
def test_most_changes_that_the_machine_does_not_have_have_no_cause(state: TcpState, to: TcpState) -> None:
    assert causes(state, to) == set()


@pytest.mark.parametrize(
    ("state", "to", "seen", "cause"),
    [
        (S.CLOSE, S.SYN_SENT, {}, "active_open"),
        (S.SYN_SENT, S.CLOSE, {"rst_received": True, "error": 111}, "rcv_rst"),
        (S.SYN_SENT, S.CLOSE, {"error": ETIMEDOUT}, "timeout_syn"),
        (S.SYN_SENT, S.CLOSE, {"released": True}, "close"),
        (S.SYN_SENT, S.CLOSE, {"error": EHOSTUNREACH}, None),
        (S.LISTEN, S.SYN_RECV, {}, "rcv_syn"),
        (S.LISTEN, S.SYN_RECV, {"fast_open": True}, "rcv_syn_fast_open"),
        (S.LISTEN, S.ESTABLISHED, {}, "rcv_ack_of_cookie"),
        (S.LISTEN, S.CLOSE, {"released": True}, "close"),
        (S.LISTEN, S.CLOSE, {}, "destroy"),
        (S.SYN_RECV, S.CLOSE, {"by_timer": True, "no_program": True}, "timeout_syn_ack"),
        (S.SYN_RECV, S.CLOSE, {"by_timer": True, "released": True, "no_program": True}, "listener_closed"),
        (S.SYN_RECV, S.CLOSE, {"gone": True, "no_program": True}, None),
        (S.ESTABLISHED, S.FIN_WAIT1, {"released": True}, "close"),
        (S.ESTABLISHED, S.FIN_WAIT1, {}, "shutdown_write"),
        (S.ESTABLISHED, S.CLOSE, {"released": True, "linger_0": True}, "abort"),
        (S.ESTABLISHED, S.CLOSE, {"released": True}, "close_unread"),
        (S.ESTABLISHED, S.CLOSE, {"error": ECONNABORTED}, "destroy"),
        (S.ESTABLISHED, S.CLOSE, {"error": ECONNRESET, "rst_received": True}, "rcv_rst"),
        (S.ESTABLISHED, S.CLOSE, {"error": ETIMEDOUT}, "timeout_retransmit"),
        (S.ESTABLISHED, S.CLOSE, {"error": ETIMEDOUT, "rst_sent": True}, "timeout_keepalive"),
        (S.ESTABLISHED, S.CLOSE, {"no_program": True}, "listener_closed"),
        (S.FIN_WAIT2, S.CLOSE, {"by_timer": True, "no_program": True}, "timeout_fin_wait_2"),
        (S.FIN_WAIT2, S.TIME_WAIT, {}, "rcv_fin"),
        (S.TIME_WAIT, S.CLOSE, {"by_timer": True, "no_program": True}, "timeout_time_wait"),
        (S.TIME_WAIT, S.CLOSE, {"gone": True, "reused": True, "no_program": True}, "rcv_syn"),
        (S.TIME_WAIT, S.CLOSE, {"gone": True, "no_program": True}, None),
        (S.LAST_ACK, S.CLOSE, {"no_program": True}, "rcv_ack_of_fin"),
    ],
)
def test_what_was_seen_tells_the_cause(state: TcpState, to: TcpState, seen: dict[str, int], cause: str | None) -> None:
    assert find_cause(state, to, Seen(**seen)) == cause  # type: ignore[arg-type]
