"""Running a command inside a population's namespaces, as a shell would: its exit code, its signals."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from finwait.lab.population import Population

PR_SET_PDEATHSIG = 1
NOT_FOUND, NOT_EXECUTABLE = 127, 126


class CannotRun(Exception):  # noqa: N818 - an exit code, not an error of the lab
    """The command did not start. code: 127 where it was not found, else 126; reason: of the system."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def run_inside(population: Population, command: Sequence[str]) -> int:
    """Run `command` in the namespaces of `population`; returns its exit code, 128 and the signal's number where one ended
    it. It is killed where this process ends. Raises CannotRun.
    """  # fmt: skip
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def enter() -> None:
        population.enter()
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)

    try:
        process = subprocess.Popen(command, preexec_fn=enter)  # noqa: PLW1509 - no threads here
    except FileNotFoundError as error:
        raise CannotRun(NOT_FOUND, os.strerror(error.errno or 0)) from error
    except OSError as error:
        raise CannotRun(NOT_EXECUTABLE, os.strerror(error.errno or 0)) from error
    status = _wait(process)
    return 128 - status if status < 0 else status


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Ctrl-C is the command's: it ends, or it does not."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue
