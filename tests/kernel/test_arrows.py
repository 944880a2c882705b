"""Every arrow of TCP's machine that a program or a peer can bring about, on this kernel; the table says what must be seen."""

from __future__ import annotations

import subprocess
import sys

import pytest

from finwait.lab.proof import Outcome, driven, prove
from finwait.lab.ways import NOT_DRIVEN, OTHER_WAYS, WAYS
from finwait.tcp.transitions import MACHINE, STATES, Transition

ARROWS = driven()


def _name(transition: Transition) -> str:
    return f"{transition.state.token}-{transition.event}-{transition.departure or 'plain'}"


@pytest.fixture(scope="module", params=[4, 6], ids=["ipv4", "ipv6"])
def outcomes(request: pytest.FixtureRequest) -> dict[int, Outcome]:
    return {outcome.index: outcome for outcome in prove(request.param)}


@pytest.mark.parametrize("index", range(len(ARROWS)), ids=[_name(transition) for transition in ARROWS])
def test_the_kernel_does_what_the_table_says(outcomes: dict[int, Outcome], index: int) -> None:
    assert index in outcomes
    assert outcomes[index].shown, outcomes[index].reason


def test_what_is_not_driven_is_in_the_table_and_says_why() -> None:
    known = {(transition.state, transition.event) for row in MACHINE.values() for transition in row}
    assert set(NOT_DRIVEN) <= known
    assert all(len(reason) > 20 for reason in NOT_DRIVEN.values())
    assert set(OTHER_WAYS) <= known
    assert set(WAYS) == set(STATES)


WRONG = """
import sys
from ipaddress import ip_address
from finwait.lab import stage
from finwait.lab.holder import enter_peered_namespace
from finwait.lab.peer import TcpPeer
from finwait.lab.ways import find_event
from finwait.tcp.state import TcpState
from finwait.tcp.transitions import Transition

enter_peered_namespace(stage.SHORT_TIMERS)
stage._PATIENCE_S = 0.5
one = stage.Stage(TcpPeer("far", timeout=0.5), ip_address("10.77.2.1"))
for event, state in (("active_open", TcpState.CLOSE), ("rcv_syn_ack", TcpState.SYN_SENT)):
    one.play(find_event(state, event))
for to, sent in ((TcpState.LAST_ACK, "ACK"), (TcpState.CLOSE_WAIT, "FIN,ACK")):
    wrong = Transition("rcv_fin", to, sent, "0")
    wrong.state = one.state()
    try:
        one.play(wrong)
    except stage.NotShown as finding:
        print(finding)
one.close()
"""


def test_a_table_that_is_wrong_is_found_out() -> None:
    done = subprocess.run((sys.executable, "-c", WRONG), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "the kernel shows CLOSE-WAIT where the table says LAST-ACK",
        "the kernel sent no FIN,ACK",
    ]
