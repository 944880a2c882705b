"""Every arrow of TCP's machine under the tracer: each change is told once, in order, as an event, with the cause that the
table has.
"""  # fmt: skip

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from finwait.lab.proof import driven
from tests.kernel.finwait_command import REPOSITORY

if TYPE_CHECKING:
    from finwait.tcp.transitions import Transition

ARROWS = driven()
# What the kernel does in two steps where the table has one, or in other words. None: what can be seen allows several causes.
IN_TWO_STEPS = {
    ("fin_wait_1", "time_wait", "rcv_fin_ack"): [
        ("fin_wait_1", "fin_wait_2", "rcv_ack_of_fin"), ("fin_wait_2", "time_wait", "rcv_fin"),
    ],
    ("syn_received", "close_wait", "rcv_fin"): [
        ("syn_received", "established", "rcv_ack_of_syn"), ("established", "close_wait", "rcv_fin"),
    ],
    ("time_wait", "syn_received", "rcv_syn"): [
        ("time_wait", "closed", "rcv_syn"), ("listen", "syn_received", "rcv_syn"),
    ],
}  # fmt: skip
OTHER_CAUSE = {
    ("syn_received", "established", "rcv_syn_ack"): "rcv_ack_of_syn",
    ("syn_received", "established", "rcv_data"): "rcv_ack_of_syn",
    ("syn_received", "closed", "rcv_rst"): None,
    ("syn_received", "closed", "rcv_ack_of_syn"): None,
    ("syn_received", "closed", "destroy"): None,
    ("fin_wait_1", "closed", "rcv_data_after_close"): None,
    ("fin_wait_2", "closed", "rcv_data_after_close"): None,
    ("time_wait", "closed", "rcv_rst"): None,
    ("time_wait", "closed", "destroy"): None,
}


def _name(transition: Transition) -> str:
    return f"{transition.state.token}-{transition.event}-{transition.departure or 'plain'}"


@pytest.fixture(scope="module", params=[4, 6], ids=["ipv4", "ipv6"])
def told(request: pytest.FixtureRequest) -> dict[int, tuple[str, list[list[str]], list[list[str]], int]]:
    command = (sys.executable, "-m", "tests.kernel.traced_arrows", str(request.param))
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return {row[0]: tuple(row[1:]) for row in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("index", range(len(ARROWS)), ids=[_name(transition) for transition in ARROWS])
def test_the_tracer_tells_what_the_table_says(
    told: dict[int, tuple[str, list[list[str]], list[list[str]], int]], index: int
) -> None:
    reason, expected, changes, lost = told[index]
    assert (reason, lost) == ("", 0)
    steps = [step for one in map(tuple, expected) for step in IN_TWO_STEPS.get(one, [one])]
    assert changes == [[state, to, OTHER_CAUSE.get((state, to, why), why), "event"] for state, to, why in steps]
