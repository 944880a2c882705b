"""Every arrow of the machine, driven on this kernel: what the table says against what sock_diag and the wire show.

``python -m finwait.lab.proof`` makes a namespace, plays one connection for each transition (and loop) that a program or a peer
can bring about, and writes a line of JSON each; `prove` runs it and yields the outcomes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from finwait.errors import SourceError
from finwait.lab import namespace
from finwait.lab.holder import enter_peered_namespace
from finwait.lab.peer import TcpPeer
from finwait.lab.population import FAILED
from finwait.lab.stage import SHORT_TIMERS, NotShown, Stage
from finwait.lab.ways import NOT_DRIVEN, way_to
from finwait.tcp.transitions import MACHINE, STATES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from finwait.tcp.transitions import Transition

_ORDINARY: dict[str, str | int] = {
    "net.ipv4.tcp_max_tw_buckets": 1 << 20,
    "net.ipv4.tcp_syncookies": 1,
    "net.ipv4.tcp_abort_on_overflow": 0,
}


class Outcome:
    """What one transition did. shown: whether the kernel did what the table says; else `reason`. seconds: that it took."""

    __slots__ = ("index", "reason", "seconds", "shown", "transition")

    def __init__(self, transition: Transition, index: int, *, shown: bool, reason: str, seconds: float) -> None:
        self.transition = transition
        self.index = index
        self.shown = shown
        self.reason = reason
        self.seconds = seconds


def driven() -> tuple[Transition, ...]:
    """The transitions that are driven, in the table's order; not those that Linux never takes, nor NOT_DRIVEN."""
    return tuple(
        transition
        for state in STATES
        for transition in MACHINE[state]
        if not transition.hidden and (transition.state, transition.event) not in NOT_DRIVEN
    )


def prove(family: int = 4) -> Iterator[Outcome]:
    """Drive all of them in a process of its own. family: of the addresses, 4 or 6. Raises SourceError where that fails."""
    command = (sys.executable, "-P", "-m", "finwait.lab.proof", str(family))
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    transitions = driven()
    try:
        for line in process.stdout:
            facts: dict[str, Any] = json.loads(line)
            yield Outcome(transitions[facts["index"]], **facts)
    except BaseException:  # whoever wants no more of it
        process.terminate()
        raise
    finally:
        _, errors = process.communicate()
    if process.returncode:
        raise SourceError(FAILED, reason=errors.strip().rpartition("\n")[2] or f"status {process.returncode}")


def main() -> None:
    """The process that drives."""
    family = int(sys.argv[1])
    enter_peered_namespace(SHORT_TIMERS)
    try:
        for index, transition in enumerate(driven()):
            address = f"10.77.2.{index + 1}" if family == 4 else f"fd77::2:{index + 1:x}"
            began = time.monotonic()
            reason = _drive(transition, address)
            seconds = round(time.monotonic() - began, 3)
            facts = {"index": index, "shown": reason is None, "reason": reason or "", "seconds": seconds}
            sys.stdout.write(json.dumps(facts) + "\n")
            sys.stdout.flush()
    finally:
        namespace.destroy_all()


def _drive(transition: Transition, address: str) -> str | None:
    """Why the transition was not shown; None where it was."""
    namespace.write_sysctls(_ORDINARY)
    peer = TcpPeer("far")
    stage = Stage(peer, ip_address(address))
    try:
        stage.prepare(transition.departure)
        for step in (*way_to(transition), transition):
            stage.play(step)
    except NotShown as finding:
        return str(finding)
    finally:
        stage.close()
        namespace.destroy_all()
        peer.close()
    return None


if __name__ == "__main__":
    main()
