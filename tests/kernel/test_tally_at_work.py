"""The tally at nginx under wrk: after every burst of connections it equals what ss counts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from finwait.lab.namespace import await_condition
from finwait.sources.tcp_tally import Tally
from finwait.table.request import Request
from finwait.tcp.state import parse_state
from tests.kernel.finwait_command import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BURSTS = 3
BEGIN = """
ip link set lo up && sysctl -qw net.ipv4.tcp_max_tw_buckets=2000000 && exec nginx -p "$1" -c nginx.conf
"""
NGINX = """
daemon off;
pid nginx.pid;
error_log stderr;
worker_processes 2;
events { worker_connections 4000; }
http {
  access_log off;
  keepalive_timeout 0;
  client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c; uwsgi_temp_path d; scgi_temp_path e;
  server { listen 127.0.0.1:8080 backlog=4096; location / { return 200 "well"; } }
}
"""
WRK = ("wrk", "-t1", "-c64", "-d1s", "-H", "Connection: close", "http://127.0.0.1:8080/")


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[int]:
    """A process id of it, in a namespace of its own."""
    environment = {**ENVIRONMENT, "PATH": f"/usr/sbin:{os.environ['PATH']}"}
    lacking = [name for name in ("nginx", "wrk") if shutil.which(name, path=environment["PATH"]) is None]
    if lacking:
        pytest.skip(f"not installed: {lacking}")
    (tmp_path / "nginx.conf").write_text(NGINX)
    apart = ("unshare", "--net", "--pid", "--fork", "--kill-child=KILL", "sh", "-c", BEGIN, "sh", str(tmp_path))
    with subprocess.Popen(apart, env=environment, stderr=subprocess.DEVNULL) as server:
        try:
            assert await_condition(lambda: bool(children(server.pid)), 20.0)
            [pid] = children(server.pid)
            assert await_condition(lambda: inside(pid, "ss", "-tlnH") != "", 20.0)
            yield pid
        finally:
            for child in children(server.pid):
                os.kill(child, signal.SIGKILL)


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
            assert counted["time_wait"] > burst * 1000
