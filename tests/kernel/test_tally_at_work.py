"""The tally at nginx under wrk: after every burst of connections it equals what ss counts."""

from __future__ import annotations

import subprocess
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from benchmarks.web_server import URL, missing_commands, web_server
from finwait.lab.namespace import await_condition
from finwait.sources.tcp_tally import Tally
from finwait.table.request import Request
from finwait.tcp.state import parse_state

if TYPE_CHECKING:
    from collections.abc import Iterator

BURSTS = 3
WRK = ("wrk", "-t1", "-c64", "-d1s", "-H", "Connection: close", URL)


@pytest.fixture
def nginx() -> Iterator[int]:
    """A process id in its namespace."""
    lacking = missing_commands()
    if lacking:
        pytest.skip(f"not installed: {lacking}")
    with web_server() as pid:
        yield pid


def inside(pid: int, *command: str) -> str:
    return subprocess.run(
        ("nsenter", "-t", str(pid), "-n", *command), capture_output=True, text=True, check=True
    ).stdout


def counted_by_ss(pid: int) -> dict[str, int]:
    found = Counter(line.split()[0] for line in inside(pid, "ss", "-tanH").splitlines())
    return {parse_state(word).token: count for word, count in found.items()}


def test_after_every_burst_the_tally_equals_ss(nginx: int) -> None:
    with Tally(Request(netns=(str(nginx),))) as tally:
        for burst in range(1, BURSTS + 1):
            inside(nginx, *WRK)
            assert await_condition(lambda: counted_by_ss(nginx).keys() == {"listen", "time_wait"}, 20.0)
            snapshot = tally.read()
            counted = {group.key[0]: group.count for group in snapshot.groups if group.count}
            assert counted == counted_by_ss(nginx)
            assert counted["time_wait"] > burst * 100  # a slow machine serves as few
