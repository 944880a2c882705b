"""TCP sockets and who holds them: several processes, forks that share, threads, another user, another namespace, nobody.

    with OwnerPopulation() as owners:
        owners.pid, owners.processes["alone"], owners.sockets, owners.elsewhere

A holder process (``python -m tests.kernel.owner_population``) opens sockets as the holder of a `Population` does, one builder a
role, forks a process for each name, lets go of everything itself, prints one line of JSON, and holds until its input ends.
"""  # fmt: skip

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

from finwait.lab import namespace
from finwait.lab.builder import Builder, enter_repaired_connection, read_cookie
from finwait.lab.holder import enter_peered_namespace, hold
from finwait.lab.peer import TcpPeer
from finwait.lab.spec import Group, Spec
from tests.kernel.finwait_command import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

NOBODY = 65534
CLONE_FILES = 0x400
PR_SET_NAME = 15
HOSTILE = (b"\x1b]52;c;ZQ==\x07", b"a\n\x1b[2Jb", b"(orphan)", b"\xff\xfe\x1b[31m")
NAME_BY_PROCESS = {
    "alone": b"alone",
    "second": b"workers",  # two processes of one name
    "third": b"workers",
    "user": b"user",
    "threaded": b"threaded",
    "sender": b"sender",
    "elsewhere": b"elsewhere",
    **{f"hostile{at}": name for at, name in enumerate(HOSTILE)},
}
LISTENERS_OF_USER = 17
LISTENERS_OF_THREAD = 2
LISTENERS_ELSEWHERE = 19
CONNECTIONS_ELSEWHERE = 2


class Role(NamedTuple):
    """Sockets that the same processes hold. duplicates: further descriptors of each socket in each process."""

    name: str
    groups: tuple[Group, ...]
    holders: tuple[str, ...]
    duplicates: int = 0


UNHELD = (  # nobody holds these
    Group("TIME_WAIT", 11),
    Group("SYN_RECV", 7),
    Group("FIN_WAIT1", 5),
    Group("LAST_ACK", 3, "ipv6"),
    Group("CLOSING", 2),
    Group("ESTABLISHED", 13, accepted=False),
    Group("CLOSE_WAIT", 3, accepted=False),
)
ROLES = (
    Role("alone", (Group("LISTEN", 3), Group("ESTABLISHED", 23), Group("CLOSE_WAIT", 5, "ipv6"), Group("CLOSE", 2, "ipv6"),
                   Group("ESTABLISHED", 7, "mapped"), Group("SYN_SENT", 2), *UNHELD), ("alone",)),
    Role("twice", (Group("ESTABLISHED", 3),), ("alone",), duplicates=2),
    Role("pair", (Group("ESTABLISHED", 11), Group("CLOSE", 3)), ("second", "third")),
    Role("trio", (Group("CLOSE_WAIT", 13), Group("CLOSE", 2, "ipv6")), ("second", "third", "user"), duplicates=1),
    Role("threaded", (Group("ESTABLISHED", 5), Group("CLOSE", 5)), ("threaded",)),
    Role("flight", (Group("ESTABLISHED", 3, "ipv6"),), ()),
    *(Role(f"hostile{at}", (Group("ESTABLISHED", prime),), (f"hostile{at}",)) for at, prime in enumerate((2, 3, 5, 7))),
)  # fmt: skip


@dataclass(frozen=True)
class Held:
    """A socket that a program has, or that is on its way to one. netns: whose namespace it is in."""

    role: str
    state: str
    family: str
    cookie: int
    inode: int
    uid: int
    netns: str = "holder"


def _held_by_oneself(sockets: Sequence[socket.socket], role: str, state: str, netns: str = "holder") -> list[Held]:
    """Facts about IPv4 sockets that a forked process made."""
    return [
        Held(role, state, "ipv4", read_cookie(one), os.fstat(one.fileno()).st_ino, os.geteuid(), netns)
        for one in sockets
    ]


# -- what the processes do once they are forked: each returns the facts of the sockets that it made


def _listen_as_nobody() -> list[Held]:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    return _held_by_oneself(_listen(LISTENERS_OF_USER), "user", "LISTEN")


def _listen_in_threads() -> list[Held]:
    """One thread that shares the process's descriptors, and one that listens with descriptors of its own."""
    facts: list[Held] = []
    ready = threading.Event()

    def leave_and_listen() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_FILES):
            raise OSError(ctypes.get_errno(), "unshare")
        facts.extend(_held_by_oneself(_listen(LISTENERS_OF_THREAD), "thread", "LISTEN"))
        ready.set()
        threading.Event().wait()

    threading.Thread(target=threading.Event().wait, daemon=True).start()
    threading.Thread(target=leave_and_listen, daemon=True).start()
    ready.wait()
    return facts


def _listen_elsewhere() -> list[Held]:
    namespace.enter_own_namespace()
    namespace.bring_up_loopback()
    listeners = _listen(LISTENERS_ELSEWHERE)
    connections = [socket.socket() for _ in range(CONNECTIONS_ELSEWHERE)]
    for at, one in enumerate(connections):
        enter_repaired_connection(one, ("127.0.0.1", 3000 + at), ("127.0.0.1", 4000 + at))
    _keep.extend(connections)
    return [
        *_held_by_oneself(listeners, "elsewhere", "LISTEN", "elsewhere"),
        *_held_by_oneself(connections, "elsewhere", "ESTABLISHED", "elsewhere"),
    ]


def _listen(count: int) -> list[socket.socket]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    _keep.extend(listeners)
    return listeners


def _send_away(sockets: Sequence[socket.socket]) -> list[Held]:
    """Put `sockets` in flight (SCM_RIGHTS): nobody receives them, and no descriptor stays."""
    ends = socket.socketpair()
    socket.send_fds(ends[0], [b"."], [one.fileno() for one in sockets])
    for one in sockets:
        one.close()
    _keep.extend(ends)
    return []


_keep: list[socket.socket] = []  # open for as long as the process runs


# -- the holder


class _Holder:
    """Builds the sockets of every role and hands them to processes of their own."""

    def __init__(self, peer: TcpPeer) -> None:
        self.peer = peer
        self.builders: dict[str, Builder] = {}
        self.facts: list[Held] = []
        self.processes: dict[str, int] = {}

    def build(self) -> None:
        for role in ROLES:
            builder = self.builders[role.name] = Builder(Spec(role.groups), self.peer)
            builder.build()
            for one in builder.held:
                if one.fd is not None:
                    assert one.cookie is not None
                    self.facts.append(Held(role.name, one.state, one.family, one.cookie, one.inode, os.geteuid()))

    def hand_over(self) -> None:
        work: dict[str, Callable[[], list[Held]]] = {
            "user": _listen_as_nobody,
            "threaded": _listen_in_threads,
            "elsewhere": _listen_elsewhere,
            "sender": lambda: _send_away(self.builders["flight"].open_sockets),
        }
        for name in NAME_BY_PROCESS:
            self._fork(name, work.get(name, list))
        for builder in self.builders.values():
            for one in builder.open_sockets:
                one.close()

    def _fork(self, name: str, work: Callable[[], list[Held]]) -> None:
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            self._become(name, work, writing)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            line = pipe.readline()
        if not line:
            raise RuntimeError(f"process {name} failed")
        self.processes[name] = pid
        self.facts.extend(Held(**facts) for facts in json.loads(line))

    def _become(self, name: str, work: Callable[[], list[Held]], writing: int) -> None:
        """The rest of a forked process's life."""
        try:
            for role in ROLES:
                if name not in role.holders and not (role.name == "flight" and name == "sender"):
                    for one in self.builders[role.name].open_sockets:
                        one.close()
                elif role.holders:
                    _keep.extend(one.dup() for one in self.builders[role.name].open_sockets * role.duplicates)
            facts = work()
            namespace.die_with_parent(lambda: None)
            ctypes.CDLL(None).prctl(PR_SET_NAME, NAME_BY_PROCESS[name], 0, 0, 0)
            os.write(writing, json.dumps([asdict(one) for one in facts]).encode() + b"\n")
            os.close(writing)
            while True:
                signal.pause()
        finally:
            os._exit(1)

    def end(self) -> None:
        """End the processes; their sockets are reset, for the builders asked for that."""
        for pid in self.processes.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def main() -> None:
    """The holder process."""
    enter_peered_namespace({})
    holder = _Holder(TcpPeer("far"))
    try:
        holder.build()
        holder.hand_over()
        print(json.dumps([os.getpid(), holder.processes, [asdict(one) for one in holder.facts]]), flush=True)
        hold(*(builder.rearm_time_waits for builder in holder.builders.values()))
    finally:
        holder.end()
        namespace.destroy_all()


class OwnerPopulation:
    """The holder process, its processes and what they hold; a context manager."""

    def __init__(self) -> None:
        self.pid = 0
        self.processes: dict[str, int] = {}
        self.sockets: list[Held] = []
        self._holder: subprocess.Popen[str] | None = None

    def __enter__(self) -> OwnerPopulation:
        command = (sys.executable, "-m", "tests.kernel.owner_population")
        self._holder = subprocess.Popen(
            command, cwd=REPOSITORY, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        line = self._holder.stdout.readline()
        if not line:
            raise RuntimeError(f"the population's holder failed:\n{self._holder.communicate()[1]}")
        self.pid, self.processes, sockets = json.loads(line)
        self.sockets = [Held(**facts) for facts in sockets]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._holder is not None
        _, errors = self._holder.communicate()
        if self._holder.returncode != 0 and error is None:
            raise RuntimeError(f"the population's holder ended with {self._holder.returncode}:\n{errors}")

    def run(self, *command: str) -> bytes:
        """What `command` prints inside the namespace."""
        words = ("nsenter", "-t", str(self.pid), "-n", *command)
        return subprocess.run(words, capture_output=True, check=True).stdout


if __name__ == "__main__":
    main()
