"""The process that holds a population of sockets: ``python -m finwait.lab.holder --spec JSON``.

It leaves for a network namespace of its own, opens every socket against the scripted peer of `finwait.lab.peer`, waits until
sock_diag shows exactly those rows, writes one line of JSON with the facts, and holds until its standard input closes. No
other TCP socket exists in that namespace, and nothing but timers changes in it. It holds for a quarter of an hour (FIN_WAIT2
mini-sockets: for 60 s).
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import sys
import time
from collections import Counter
from dataclasses import asdict
from ipaddress import ip_address

from finwait.errors import FinwaitError
from finwait.lab import namespace
from finwait.lab.builder import GATEWAY_IPV4, GATEWAY_IPV6, NEAR_IPV4, NEAR_IPV6, Builder
from finwait.lab.links import lay_cable
from finwait.lab.peer import TcpPeer
from finwait.lab.playing import play
from finwait.lab.recorder import Recorder
from finwait.lab.spec import HeldSocket, Spec
from finwait.lab.stage import NotShown, Stage
from finwait.tcp.exchanges import CLIENT, EXCHANGES, SERVER, Exchange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_SETTLE_S = 30.0  # patience for the kernel to show what was made

# Retransmissions go on for a quarter of an hour, and no queue of half-open connections is ever full.
_SYSCTLS: dict[str, str | int] = {
    "net.core.somaxconn": 1 << 21,
    "net.ipv4.ip_local_port_range": "10000 65535",
    "net.ipv4.tcp_fin_timeout": 960,
    "net.ipv4.tcp_max_syn_backlog": 1 << 20,
    "net.ipv4.tcp_max_tw_buckets": 1 << 22,
    "net.ipv4.tcp_orphan_retries": 15,
    "net.ipv4.tcp_retries2": 15,
    "net.ipv4.tcp_syn_retries": 20,
    "net.ipv4.tcp_synack_retries": 20,
}

# Of an exchange that waits for the clock: seconds instead of minutes.
BRIEF_TIMERS: dict[str, str | int] = {"net.ipv4.tcp_syn_retries": 1, "net.ipv4.tcp_synack_retries": 1}


def enter_peered_namespace(sysctls: dict[str, str | int]) -> None:
    """A namespace with lo and a veth pair: `near` is the kernel's, `far` is the scripted peer's."""
    namespace.enter_own_namespace()
    namespace.die_with_parent(namespace.destroy_all)
    namespace.raise_descriptor_limit()
    lay_cable((NEAR_IPV4, NEAR_IPV6), (GATEWAY_IPV4, GATEWAY_IPV6))
    namespace.await_ipv6_address(NEAR_IPV6)
    namespace.write_sysctls(_SYSCTLS | sysctls)


def _await_exactly(held: list[HeldSocket]) -> None:
    """Wait until sock_diag shows exactly these sockets. Raises TimeoutError with the difference."""
    asked = Counter(one.key for one in held)
    if not namespace.await_condition(lambda: _shown() == asked, _SETTLE_S):
        shown = _shown()
        missing, surplus = list((asked - shown).items())[:5], list((shown - asked).items())[:5]
        raise TimeoutError(f"the kernel does not show what was made: missing {missing}, surplus {surplus}")


def _shown() -> Counter[tuple[int, bool, tuple[str, int], tuple[str, int]]]:
    """What sock_diag shows, as `HeldSocket.key`."""
    rows = namespace.read_rows()
    return Counter((row.state, row.family == socket.AF_INET6, row.local, row.peer) for row in rows)


def hold(*chores: Callable[[], float]) -> None:
    """Until standard input closes, do each of `chores` as often as it asks for: it returns the seconds until it is due."""
    while True:
        due_s = min((chore() for chore in chores), default=None)
        readable, _, _ = select.select([0], [], [], due_s)
        if readable and not os.read(0, 4096):
            return


def _say(facts: dict[str, object]) -> None:
    """One line of JSON for the parent; where nobody reads any more there is nothing to say."""
    try:
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.close(1)


def _reason(error: Exception) -> str:
    """Without the number, which is told beside it; a file's name is kept."""
    if isinstance(error, OSError) and error.strerror and error.filename is None:
        return error.strerror
    return str(error)


def main() -> int:
    """The holder process. What goes wrong is told as a line of JSON: ``errno`` and ``error``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", help="JSON: {groups: [{state, count, family, ...}], shuffle: seed}")
    parser.add_argument("--transcript", action="store_true", help="tell what was sent, too")
    parser.add_argument("--exchange", choices=EXCHANGES, help="play this instead")
    parser.add_argument("--end", choices=(CLIENT, SERVER), default=CLIENT, help="which end of it is the kernel's")
    parser.add_argument("--family", choices=("ipv4", "ipv6"), default="ipv4")
    options = parser.parse_args()
    spec = None if options.spec is None else Spec.from_json(options.spec)
    try:
        enter_peered_namespace({} if spec is None else spec.sysctls)
    except (OSError, FinwaitError) as error:
        _say({"step": "namespace", "errno": getattr(error, "errno", None), "error": _reason(error)})
        return 1
    _say({"entered": os.getpid()})
    try:
        if spec is not None:
            _build_and_hold(spec, is_recorded=options.transcript)
        else:
            _play_and_hold(EXCHANGES[options.exchange], options.end, options.family)
    except (OSError, TimeoutError, NotShown) as error:
        _say({"step": "sockets", "errno": getattr(error, "errno", None), "error": _reason(error)})
        return 1
    finally:
        namespace.destroy_all()
    return 0


def _play_and_hold(exchange: Exchange, end: str, family: str) -> None:
    began = time.monotonic()
    address = ip_address("10.77.1.1" if family == "ipv4" else "fd77::1:1")
    stage = Stage(TcpPeer("far"), address)
    namespace.write_sysctls(BRIEF_TIMERS)
    began_at = time.time()
    played = enumerate(play(exchange, stage, end))
    steps = [[at, one.shown, round(one.at - began_at, 6), one.flags] for at, one in played]
    _say(
        {"pid": os.getpid(), "steps": steps, "sockets": [], "ghosts": [], "seconds": round(time.monotonic() - began, 3)}
    )
    hold()
    stage.close()


def _build_and_hold(spec: Spec, *, is_recorded: bool) -> None:
    began = time.monotonic()
    peer = TcpPeer("far")
    recorder = Recorder(peer) if is_recorded else None
    builder = Builder(spec, peer, recorder)
    builder.build()
    _await_exactly(builder.held)
    sockets, ghosts = ([list(asdict(one).values()) for one in those] for those in (builder.held, builder.ghosts))
    seconds = round(time.monotonic() - began, 3)
    transcript = [] if recorder is None else recorder.facts()
    _say({"pid": os.getpid(), "sockets": sockets, "ghosts": ghosts, "seconds": seconds, "transcript": transcript})
    hold(*builder.chores())


if __name__ == "__main__":
    sys.exit(main())
