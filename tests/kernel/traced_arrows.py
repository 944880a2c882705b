"""Every arrow of the machine that can be driven, played under the tracer; a line of JSON each: what the table says, what was
told.

    python -m tests.kernel.traced_arrows FAMILY    in a namespace of its own
"""

from __future__ import annotations

import json
import sys
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING

import numpy as np

from finwait.lab import namespace
from finwait.lab.holder import enter_peered_namespace
from finwait.lab.peer import TcpPeer
from finwait.lab.proof import _ORDINARY, driven
from finwait.lab.stage import SHORT_TIMERS, NotShown, Stage
from finwait.lab.ways import way_to
from finwait.sources.change_columns import batch_of
from finwait.sources.change_narrowing import Narrowing
from finwait.sources.change_order import settle
from finwait.sources.change_records import CHANGE, CHANGES
from finwait.sources.tcp_events import TcpEvents
from finwait.table.cells import cells_of
from finwait.table.request import Request
from finwait.tcp.state import TcpState

if TYPE_CHECKING:
    from finwait.tcp.transitions import Transition

PATIENCE_S = 2.0
FILLER_PORT = 20000  # of the connection that fills an accept queue


def main() -> None:
    """Play all of them under one tracer."""
    enter_peered_namespace(SHORT_TIMERS)
    try:
        with TcpEvents(CHANGES, Request(), Narrowing(), []) as events:
            for index, transition in enumerate(driven()):
                address = f"10.77.2.{index + 1}" if sys.argv[1] == "4" else f"fd77::2:{index + 1:x}"
                expected = [
                    [step.state.token, step.to.token, step.event]
                    for step in (*way_to(transition), transition)
                    if not step.is_loop and step.event != "passive_open"
                ]
                reason, told = play(events, transition, address, len(expected))
                sys.stdout.write(json.dumps([index, reason, expected, told, events.lost()]) + "\n")
                sys.stdout.flush()
    finally:
        namespace.destroy_all()


def play(events: TcpEvents, transition: Transition, address: str, count: int) -> tuple[str, list[list[object]]]:
    """What the stage found wrong, and what was told of the connection to `address`: from, to, why, evidence."""
    namespace.write_sysctls(_ORDINARY)
    peer = TcpPeer("far")
    stage = Stage(peer, ip_address(address))
    reason, told = "", []
    try:
        stage.prepare(transition.departure)
        for step in (*way_to(transition), transition):
            stage.play(step)
        told = told_of(events, address, count, of_listener=transition.state is TcpState.LISTEN)
    except NotShown as finding:
        reason = str(finding)
    finally:
        stage.close()
        namespace.destroy_all()
        peer.close()
    events.drain(CHANGES)
    return reason, told


def told_of(events: TcpEvents, address: str, count: int, *, of_listener: bool) -> list[list[object]]:
    """Waits until `count` changes of the connection were told."""
    records = np.zeros(0, dtype=CHANGE)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        records = np.concatenate([records, events.drain(CHANGES)])
        settled = settle(records, None)[0]
        settled = settled[np.argsort(settled["at_ns"], kind="stable")]
        batch = batch_of(settled, 0, events.netns, events.names)
        peers, ports = cells_of(batch, "peer_address"), cells_of(batch, "peer_port")
        columns = [cells_of(batch, name) for name in ("from", "to", "why", "evidence")]
        mine = [
            list(row)
            for peer, port, *row in zip(peers, ports, *columns, strict=True)
            if (peer == address and port not in {0, FILLER_PORT}) or (not port and row[0] == "listen" and of_listener)
        ]
        if len(mine) >= count or time.monotonic() > deadline:
            return mine
        time.sleep(0.005)


if __name__ == "__main__":
    main()
