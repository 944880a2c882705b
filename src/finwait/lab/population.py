"""Exactly the asked TCP sockets, in exactly the asked states, held still in a network namespace of their own.

    with Population(Spec((Group("LISTEN", 3), Group("CLOSE_WAIT", 23, family="ipv6")), shuffle=7)) as population:
        population.pid, population.netns_path, population.sockets, population.run("ss", "-tan")

A holder process (``python -m finwait.lab.population --spec JSON``) leaves for its own namespace, opens every socket
against the scripted peer of `finwait.lab.peer`, waits until sock_diag shows exactly those rows, prints one line of
JSON with the facts, and holds until its standard input closes. No other TCP socket exists in that namespace, and
nothing but timers changes in it. It holds for a quarter of an hour (FIN_WAIT2 mini-sockets: for 60 s).
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from finwait.lab import namespace
from finwait.lab.builder import GATEWAY_IPV4, GATEWAY_IPV6, NEAR_IPV4, NEAR_IPV6, NEAR_MAC, Builder
from finwait.lab.links import lay_cable
from finwait.lab.peer import TcpPeer
from finwait.lab.spec import Group, HeldSocket, Spec

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Group", "HeldSocket", "Population", "Spec"]

FAR_MAC = "02:00:00:00:00:02"
_SETTLE_S = 30.0  # patience for the kernel to show what was made

# Retransmissions go on for a quarter of an hour, and no queue of half-open connections is ever full.
_SYSCTLS: dict[str, str | int] = {
    "net.core.somaxconn": 1 << 20,
    "net.ipv4.ip_local_port_range": "10000 65535",
    "net.ipv4.tcp_fin_timeout": 960,
    "net.ipv4.tcp_max_syn_backlog": 1 << 20,
    "net.ipv4.tcp_max_tw_buckets": 1 << 22,
    "net.ipv4.tcp_orphan_retries": 15,
    "net.ipv4.tcp_retries2": 15,
    "net.ipv4.tcp_syn_retries": 20,
    "net.ipv4.tcp_synack_retries": 20,
}


def enter_peered_namespace(sysctls: dict[str, str | int]) -> None:
    """A namespace with lo and a veth pair: `near` is the kernel's, `far` is the scripted peer's."""
    namespace.enter_own_namespace()
    namespace.die_with_parent(namespace.destroy_all)
    namespace.raise_descriptor_limit()
    lay_cable((NEAR_IPV4, NEAR_IPV6), (GATEWAY_IPV4, GATEWAY_IPV6), NEAR_MAC, FAR_MAC)
    namespace.await_ipv6_address(NEAR_IPV6)
    namespace.write_sysctls(_SYSCTLS | sysctls)


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _await_exactly(held: list[HeldSocket]) -> None:
    """Wait until sock_diag shows exactly these sockets. Raises TimeoutError with the difference."""
    asked = Counter(one.key for one in held)
    deadline = time.monotonic() + _SETTLE_S
    while True:
        rows = namespace.read_rows()
        shown = Counter((row.state, row.family == socket.AF_INET6, row.local, row.peer) for row in rows)
        if shown == asked:
            return
        if time.monotonic() > deadline:
            missing, surplus = list((asked - shown).items())[:5], list((shown - asked).items())[:5]
            raise TimeoutError(f"the kernel does not show what was made: missing {missing}, surplus {surplus}")
        time.sleep(0.002)


def hold(*builders: Builder) -> None:
    """Keep TIME_WAIT alive until standard input closes."""
    while True:
        readable, _, _ = select.select([0], [], [], 1.0)
        if readable and not os.read(0, 4096):
            return
        for builder in builders:
            builder.rearm_time_waits()


def main() -> None:
    """The holder process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", required=True, help="JSON: {groups: [{state, count, family, ...}], shuffle: seed}")
    spec = Spec.from_json(parser.parse_args().spec)
    enter_peered_namespace(spec.sysctls)
    peer = TcpPeer("far", _octets(NEAR_MAC))
    try:
        builder = Builder(spec, peer)
        builder.build()
        _await_exactly(builder.held)
        facts = {"pid": os.getpid(), "sockets": [list(asdict(one).values()) for one in builder.held]}
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()
        hold(builder)
    finally:
        namespace.destroy_all()


class Population:
    """A holder process and what it holds; a context manager."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.sockets: list[HeldSocket] = []
        self._holder: subprocess.Popen[str] | None = None

    def __enter__(self) -> Population:
        command = (sys.executable, "-P", "-m", "finwait.lab.population", "--spec", json.dumps(asdict(self.spec)))
        self._holder = subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        line = self._holder.stdout.readline()
        if not line:
            _, errors = self._holder.communicate()
            raise RuntimeError(f"the population's holder failed:\n{errors}")
        for state, family, local, peer, cookie, inode, fd in json.loads(line)["sockets"]:
            self.sockets.append(HeldSocket(state, family, tuple(local), tuple(peer), cookie, inode, fd))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._holder is not None
        _, errors = self._holder.communicate()
        if self._holder.returncode != 0 and error is None:
            raise RuntimeError(f"the population's holder ended with {self._holder.returncode}:\n{errors}")

    @property
    def pid(self) -> int:
        """The holder, which owns every descriptor."""
        assert self._holder is not None
        return self._holder.pid

    @property
    def netns_path(self) -> str:
        """For setns(2)."""
        return f"/proc/{self.pid}/ns/net"

    @property
    def netns_inode(self) -> int:
        """The namespace's label in ss, lsns and nsfs."""
        return os.stat(self.netns_path).st_ino

    @property
    def cookies(self) -> set[int]:
        """SO_COOKIE of every socket that has or had a descriptor."""
        return {one.cookie for one in self.sockets if one.cookie is not None}

    def enter_command(self, *command: str) -> tuple[str, ...]:
        """`command` as it runs inside the namespace."""
        user = () if os.geteuid() == 0 else ("-U", "--preserve-credentials")
        return ("nsenter", "-t", str(self.pid), "-n", *user, *command)

    def run(self, *command: str) -> str:
        """What `command` prints inside the namespace."""
        return subprocess.run(self.enter_command(*command), capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
