"""What every refusal has in common: one line on stderr that a terminal can show, nothing on stdout, an exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.kernel.finwait_command import COMMAND, ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Sequence

NOBODY = 65534
AS_NOBODY = ("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "--")
IN_OWN_MOUNTS = ("unshare", "--mount", "sh", "-ec")


def run_bytes(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run `command`; standard input is empty unless told otherwise."""
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    options = {"capture_output": True, "env": ENVIRONMENT, "check": False, "timeout": 60, **options}
    return subprocess.run(command, **options)


def refusal(code: int, *arguments: str, before: Sequence[str] = (), **options: Any) -> str:
    """The one line that ``finwait ARGUMENTS`` says, without its ``finwait: ``; `before`: a command that runs it."""
    return told(code, run_bytes([*before, *COMMAND, *arguments], **options))


def refusal_in_mounts(code: int, script: str, *arguments: str) -> str:
    """The same inside a mount namespace of its own, after `script`."""
    return told(code, run_bytes([*IN_OWN_MOUNTS, f'{script}\nexec "$@"', "sh", *COMMAND, *arguments]))


def told(code: int, done: subprocess.CompletedProcess[bytes]) -> str:
    """The line of a refusal that has run."""
    assert (done.returncode, done.stdout) == (code, b""), done
    return one_line(done.stderr)


def one_line(talk: bytes) -> str:
    """`talk`, which is one line of printable characters that finwait says."""
    text = talk.decode()
    assert text.startswith("finwait: "), text
    assert text.endswith("\n"), text
    assert text[:-1].isprintable(), text
    return text.removeprefix("finwait: ")[:-1]


def python(code: str, *arguments: str) -> tuple[str, ...]:
    """A command that runs `code`."""
    return (sys.executable, "-c", code, *arguments)


def left_in(directory: str | os.PathLike[str]) -> list[str]:
    """What stands in `directory`."""
    return sorted(os.listdir(directory))


def open_descriptors() -> list[str]:
    """What this process's descriptors are of."""
    targets = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            targets.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue  # the descriptor that listed them
    return sorted(targets)
