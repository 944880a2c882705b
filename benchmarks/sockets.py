"""A busy server's socket table: hundreds of thousands of connections in a namespace of their own.

    with BusyHost(1_000_000, "half-time-wait") as host:
        host.pid, host.netns_path, host.by_state

A holder process (``python -m benchmarks.sockets --count 1000000 --mix established``) fills a namespace with TCP_REPAIR
sockets, which are ESTABLISHED without a packet, spread over child processes because of the limit on descriptors. With
``half-time-wait`` exactly half of them, chosen at random, are closed and answered by one hand-built FIN-ACK each, which
leads from FIN_WAIT1 straight to TIME_WAIT; the same segment once more starts its 60 seconds anew. It prints one line of
JSON when the kernel shows exactly the asked numbers, and holds until its standard input closes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

from finwait.lab import namespace
from finwait.lab.links import lay_cable
from finwait.lab.peer import ACK, FIN, Segment, TcpPeer
from finwait.tcp.state import TcpState

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MIXES = ("established", "half-time-wait")

_DESCRIPTORS_PER_WORKER = 18_000  # of 20,000; with half-time-wait on average
_SERVER_PORTS = (443, 443, 443, 443, 443, 80, 80, 8443, 5432, 6379)
_CONNECTIONS_PER_CLIENT = 8
_SERVER: dict[int, IPv4Address | IPv6Address] = {4: IPv4Address("10.0.0.1"), 6: IPv6Address("fd77::1")}
_FIRST_CLIENT: dict[int, IPv4Address | IPv6Address] = {4: IPv4Address("10.64.0.0"), 6: IPv6Address("fd77::1:0:0")}
_CLIENT_SPREAD = 2_654_435_761  # odd: a permutation of the 2**22 addresses
_REARM_S = 45.0  # of the 60 that TIME_WAIT lasts
_SETTLE_S = 30.0

TCP_REPAIR = 19
TCP_REPAIR_OFF_NO_WP = -1
TCP_REPAIR_WINDOW = 29
_REPAIR_WINDOW = struct.pack("=IIIII", 0, 65535, 65535, 65535, 0)  # struct tcp_repair_window; both sequences begin at 0

_SYSCTLS: dict[str, str | int] = {"net.ipv4.tcp_max_tw_buckets": 1 << 23}


class Share:
    """One process's share of the connections of the host; both sequence numbers of each begin at 0."""

    def __init__(self, count: int, family: int) -> None:
        self._clients = max(1, count // _CONNECTIONS_PER_CLIENT)
        self._family = family
        self._address_family = socket.AF_INET if family == 4 else socket.AF_INET6
        self._peer = TcpPeer("far", deaf=True)
        self._descriptors: list[int] = []
        self._to_close: list[tuple[Segment, bytes]] = []

    def fill(self, numbers: Iterable[int], closing: bytearray) -> None:
        """Make these connections ESTABLISHED; those marked in `closing` are only prepared, for `close`."""
        for number in numbers:
            segment = self._fin_ack(number)
            if closing[number]:
                self._to_close.append((segment, self._peer.build_frame(segment)))
            else:
                self._descriptors.append(self._open(segment).detach())

    def close(self) -> None:
        """Make the prepared connections and take them from FIN_WAIT1 to TIME_WAIT with one segment each."""
        for segment, frame in self._to_close:
            sock = self._open(segment)
            sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_WINDOW, _REPAIR_WINDOW)
            sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP)
            sock.close()
            self._peer.send_frame(frame)

    def rearm(self) -> None:
        """The client's FIN once more: TIME_WAIT's 60 seconds start anew, and a FIN that was lost arrives."""
        for _, frame in self._to_close:
            self._peer.send_frame(frame)

    def _fin_ack(self, number: int) -> Segment:
        """The client's FIN, which also acknowledges the server's. All connections have different addresses."""
        turn, client = divmod(number, self._clients)
        address = _FIRST_CLIENT[self._family] + client * _CLIENT_SPREAD % (1 << 22)
        port = 1024 + (turn * 7919 + client * 31) % 64000
        server_port = _SERVER_PORTS[client % len(_SERVER_PORTS)]
        return Segment(address, port, _SERVER[self._family], server_port, 0, 1, FIN | ACK)

    def _open(self, fin_ack: Segment) -> socket.socket:
        """In repair mode; left there, the socket also closes without a packet."""
        sock = socket.socket(self._address_family, socket.SOCK_STREAM)
        sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        sock.bind((str(fin_ack.destination), fin_ack.destination_port))
        sock.connect((str(fin_ack.source), fin_ack.source_port))
        return sock


class Worker:
    """A child process with its share, told by single bytes what to do next; it answers each with one."""

    def __init__(self, count: int, family: int, numbers: range, closing: bytearray) -> None:
        self._control, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            namespace.die_with_parent(lambda: None)
            share = Share(count, family)
            share.fill(numbers, closing)
            steps = {b"c": share.close, b"r": share.rearm}
            theirs.send(b".")
            while (command := theirs.recv(1)) in steps:
                steps[command]()
                theirs.send(b".")
            os._exit(0)
        theirs.close()

    def tell(self, command: bytes) -> None:
        """Send a command; `await_done` waits for its end."""
        self._control.send(command)

    def await_done(self) -> None:
        """Wait until the last command, or the filling, is done."""
        if self._control.recv(1) != b".":
            raise RuntimeError(f"worker {self.pid} failed")


class Holder:
    """All workers of one host."""

    def __init__(self, count: int, mix: str, family: int, seed: int) -> None:
        self._closed = count // 2 if mix == "half-time-wait" else 0
        self._wanted = {TcpState.ESTABLISHED: count - self._closed, TcpState.TIME_WAIT: self._closed}
        closing = bytearray(count)
        for number in random.Random(seed).sample(range(count), self._closed):
            closing[number] = 1
        share_size = _DESCRIPTORS_PER_WORKER * (2 if self._closed else 1)
        starts = range(0, count, share_size)
        self.workers = [
            Worker(count, family, range(start, min(start + share_size, count)), closing) for start in starts
        ]
        for worker in self.workers:
            worker.await_done()
        if self._closed:
            self._tell_all(b"c")
        self._rearmed_at = time.monotonic()

    def _tell_all(self, command: bytes) -> None:
        for worker in self.workers:
            worker.tell(command)
        for worker in self.workers:
            worker.await_done()

    def rearm(self) -> None:
        """Give every TIME_WAIT its 60 seconds again."""
        self._rearmed_at = time.monotonic()
        if self._closed:
            self._tell_all(b"r")

    def await_exactly(self) -> dict[str, int]:
        """Wait until the kernel shows the asked numbers, and return them. Raises TimeoutError."""
        deadline = time.monotonic() + _SETTLE_S
        wanted = {int(state): count for state, count in self._wanted.items() if count}
        while (shown := dict(namespace.count_by_state())) != wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the kernel shows {shown}, not {wanted}")
            self.rearm()
        return {TcpState(state).name: count for state, count in shown.items()}

    def hold(self) -> None:
        """Until standard input closes; a line read there re-arms TIME_WAIT at once and is answered by a line."""
        while True:
            patience = self._rearmed_at + _REARM_S - time.monotonic()
            readable, _, _ = select.select([0], [], [], max(0.0, patience))
            if not readable:
                self.rearm()
            elif os.read(0, 4096):
                started = time.monotonic()
                self.rearm()
                print(json.dumps({"rearm_s": round(time.monotonic() - started, 3)}), flush=True)
            else:
                return

    def end(self) -> None:
        """End every worker."""
        for worker in self.workers:
            worker.tell(b"q")
        for worker in self.workers:
            os.waitpid(worker.pid, 0)


def main() -> None:
    """The holder process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--mix", choices=MIXES, default="established")
    parser.add_argument("--family", type=int, choices=(4, 6), default=4)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    started = time.monotonic()
    namespace.enter_own_namespace()
    namespace.die_with_parent(lambda: None)  # the workers die in turn; repaired sockets and TIME_WAIT leave no orphan
    namespace.raise_descriptor_limit()
    near = (IPv4Address("10.0.0.1"), IPv6Address("fd77::1"))
    lay_cable(near, (IPv4Address("10.0.0.2"), IPv6Address("fd77::2")))
    namespace.await_ipv6_address(near[1])
    namespace.write_sysctls(_SYSCTLS)
    holder = Holder(arguments.count, arguments.mix, arguments.family, arguments.seed)
    by_state = holder.await_exactly()
    workers = [worker.pid for worker in holder.workers]
    seconds = round(time.monotonic() - started, 3)
    print(json.dumps({"by_state": by_state, "seconds": seconds, "workers": workers}), flush=True)
    holder.hold()
    holder.end()


class BusyHost:
    """A holder process and its workers; a context manager."""

    def __init__(self, count: int, mix: str = "established", *, family: int = 4, seed: int = 7) -> None:
        self._options = (f"--count={count}", f"--mix={mix}", f"--family={family}", f"--seed={seed}")
        self._holder: subprocess.Popen[str] | None = None
        self.by_state: dict[str, int] = {}
        self.seconds = 0.0  # that it took to build
        self.workers: list[int] = []  # the processes that own the descriptors

    def __enter__(self) -> BusyHost:
        self._holder = subprocess.Popen(
            (sys.executable, "-m", "benchmarks.sockets", *self._options),
            cwd=REPOSITORY, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        facts = self._read_line()
        self.by_state, self.seconds, self.workers = facts["by_state"], facts["seconds"], facts["workers"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._holder is not None
        self._holder.communicate()
        if self._holder.returncode != 0 and error is None:
            raise RuntimeError(f"the busy host ended with {self._holder.returncode}")

    def _read_line(self) -> dict[str, Any]:
        assert self._holder is not None
        assert self._holder.stdout is not None
        line = self._holder.stdout.readline()
        if not line:
            raise RuntimeError(f"the busy host failed with {self._holder.wait()}")
        facts: dict[str, Any] = json.loads(line)
        return facts

    @property
    def pid(self) -> int:
        """The holder; its namespace is that of all workers."""
        assert self._holder is not None
        return self._holder.pid

    @property
    def netns_path(self) -> str:
        """For setns(2)."""
        return f"/proc/{self.pid}/ns/net"

    def rearm(self) -> float:
        """Give TIME_WAIT its 60 seconds again, so that the next 45 are undisturbed; returns the seconds it took."""
        assert self._holder is not None
        assert self._holder.stdin is not None
        self._holder.stdin.write("rearm\n")
        self._holder.stdin.flush()
        return float(self._read_line()["rearm_s"])

    def enter_command(self, *command: str) -> tuple[str, ...]:
        """`command` as it runs inside the namespace."""
        return ("nsenter", "-t", str(self.pid), "-n", *command)


if __name__ == "__main__":
    main()
