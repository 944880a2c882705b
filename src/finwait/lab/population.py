"""Exactly the asked TCP sockets, in exactly the asked states, held still in a network namespace of their own.

    with Population(Spec((Group("LISTEN", 3), Group("CLOSE_WAIT", 23, family="ipv6")), shuffle=7)) as population:
        population.pid, population.netns_path, population.sockets, population.run("ss", "-tan")

A holder process (`finwait.lab.holder`) has them. It ends with its parent, and each cleans up where the other was killed:
sockets whose program has gone would keep their namespace alive until their retransmissions run out.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from finwait.errors import NotPermitted, SourceError
from finwait.lab import namespace
from finwait.lab.spec import Group, HeldSocket, Spec
from finwait.text.messages import mark

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Group", "HeldSocket", "Population", "Spec"]

FAILED = mark("the lab could not make its sockets: {reason}")
_PATIENCE_S = 10.0  # for a holder that was told to end


class Population:
    """A holder process and what it holds; a context manager. Entering raises NotPermitted or SourceError."""

    def __init__(self, spec: Spec, *, is_recorded: bool = False) -> None:
        self.spec = spec
        self._arguments: tuple[str, ...] = (
            "--spec",
            json.dumps(asdict(spec)),
            *(("--transcript",) if is_recorded else ()),
        )
        self.sockets: list[HeldSocket] = []
        self.ghosts: list[HeldSocket] = []  # descriptors whose connection is gone; their state is what it was
        self.transcript: list[dict[str, Any]] = []  # of each group's first connection, where it is asked for
        self.seconds = 0.0  # that it took to make them
        self._holder: subprocess.Popen[str] | None = None
        self._namespaces: list[int] = []  # descriptors of the holder's: user namespace, where it has one, and network

    def __enter__(self) -> Population:
        command = (sys.executable, "-P", "-m", "finwait.lab.holder", *self._arguments)
        try:  # a session of its own: Ctrl-C is for the command that runs inside, and for us
            self._holder = subprocess.Popen(
                command,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise SourceError(FAILED, reason=f"{sys.executable}: {os.strerror(error.errno or 0)}") from error
        try:
            self._read_facts()
            self._open_namespaces()
            facts = self._read_facts()
        except BaseException:
            self._end(kill=True)
            raise
        self._take(facts)
        return self

    def _take(self, facts: dict[str, Any]) -> None:
        """Keep what the holder says of what it made."""
        self.seconds = facts["seconds"]
        self.transcript = facts.get("transcript", [])
        for those, told in ((self.sockets, facts["sockets"]), (self.ghosts, facts["ghosts"])):
            for state, family, local, peer, cookie, inode, fd in told:
                those.append(HeldSocket(state, family, tuple(local), tuple(peer), cookie, inode, fd))

    def _read_facts(self) -> dict[str, Any]:
        """The holder's next line. Raises what it says went wrong."""
        assert self._holder is not None
        assert self._holder.stdout is not None
        line = self._holder.stdout.readline()
        if not line:
            _, errors = self._holder.communicate()
            raise SourceError(FAILED, reason=errors.strip().rpartition("\n")[2] or f"status {self._holder.returncode}")
        facts: dict[str, Any] = json.loads(line)
        if "error" in facts:
            raise _error_of(facts)
        return facts

    def _open_namespaces(self) -> None:
        for kind in ("user", "net") if os.geteuid() else ("net",):
            self._namespaces.append(os.open(f"/proc/{self.pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._holder is not None
        status, errors = self._end(kill=kind is not None)
        if status != 0 and error is None:
            raise SourceError(FAILED, reason=errors.strip().rpartition("\n")[2] or f"status {status}")

    def _end(self, *, kill: bool) -> tuple[int, str]:
        """Let the holder clean up, or do it in its place. Returns its status and what it said on stderr."""
        holder = self._holder
        assert holder is not None
        if kill and holder.poll() is None:
            holder.send_signal(signal.SIGTERM)
        try:
            _, errors = holder.communicate(timeout=None if not kill else _PATIENCE_S)
        except subprocess.TimeoutExpired:
            holder.kill()
            _, errors = holder.communicate()
        if holder.returncode not in {0, 1, 128 + signal.SIGTERM} and self._namespaces:
            self._destroy_sockets()
        for descriptor in self._namespaces:
            os.close(descriptor)
        self._namespaces.clear()
        return holder.returncode, errors

    def _destroy_sockets(self) -> None:
        """In a child that enters the holder's namespaces, since the holder was killed."""
        child = os.fork()
        if child == 0:
            try:
                self.enter()
                namespace.destroy_all()
            finally:
                os._exit(0)
        os.waitpid(child, 0)

    def enter(self) -> None:
        """Enter the holder's namespaces with the calling process. For a child between fork and exec."""
        for descriptor in self._namespaces:
            namespace.enter_namespace(descriptor)

    @property
    def holder(self) -> subprocess.Popen[str]:
        """The process that has the sockets."""
        assert self._holder is not None
        return self._holder

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


class PlayedExchange(Population):
    """A holder that has played an exchange with the kernel at one end, and stands where it ended. steps: (index into the
    exchange's steps, what the kernel's end showed, seconds since the beginning, the flags that a segment had or None).
    """  # fmt: skip

    def __init__(self, name: str, end: str, family: str) -> None:
        super().__init__(Spec(()))
        self._arguments = ("--exchange", name, "--end", end, "--family", family)
        self.steps: list[tuple[int, int, float, str | None]] = []

    def _take(self, facts: dict[str, Any]) -> None:
        super()._take(facts)
        self.steps = [(at, shown, seconds, flags) for at, shown, seconds, flags in facts["steps"]]


def _error_of(facts: dict[str, Any]) -> NotPermitted | SourceError:
    if facts["step"] == "namespace" and facts["errno"] in {errno.EPERM, errno.EACCES, errno.ENOSPC}:
        return NotPermitted(
            "not permitted to make a network namespace ({reason}); it takes root, or user namespaces for ordinary users "
            "(sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces, AppArmor's restriction)",
            reason=facts["error"],
        )
    return SourceError(FAILED, reason=facts["error"])
