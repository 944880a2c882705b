"""Memory does not grow with the number of sockets: neither that of the count nor that of a streamed list."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks.sockets import BusyHost
from tests.kernel.finwait_command import COMMAND, ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Iterator

SOCKETS = 150_000
# A small parent: until exec a child's peak is that of the process it was forked from.
PEAK = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ,
                     file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)])
_, status, usage = os.wait4(pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss)
"""


@pytest.fixture(scope="module")
def busy() -> Iterator[BusyHost]:
    with BusyHost(SOCKETS, "established") as host:
        yield host


def peak_mib(host: BusyHost, *arguments: str) -> float:
    command = host.enter_command(sys.executable, "-I", "-S", "-c", PEAK, *COMMAND, *arguments)
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=True)
    code, kib = map(int, done.stdout.split())
    assert code == 0, done.stderr
    return kib / 1024


@pytest.mark.parametrize(
    ("arguments", "most"),
    [
        (("count",), 30),
        (("count", "--source", "proc"), 30),
        (("list",), 60),
        (("list", "--style", "ss"), 60),
        (("count", "--by", "state,local_port"), 60),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_peak_memory_is_within_the_budget(busy: BusyHost, arguments: tuple[str, ...], most: float) -> None:
    assert peak_mib(busy, *arguments) <= most


def test_every_socket_of_a_long_list_is_there(busy: BusyHost) -> None:
    command = busy.enter_command(*COMMAND, "list", "-H", "--columns", "cookie")
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=True)
    cookies = done.stdout.split()
    assert len(cookies) == len(set(cookies)) == SOCKETS
