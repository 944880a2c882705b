"""Owners while sockets come and go: who stands still is counted exactly, nobody twice, and every sum is right."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

import finwait

if TYPE_CHECKING:
    from collections.abc import Iterator

    from finwait.table.snapshot import Snapshot

STABLE = 997
COUNTS = 20
LISTS = 10
# The holder has a namespace of its own and holds STABLE sockets; one child opens, accepts, resets and closes without a pause,
# another forks children that share its sockets. Prints the process ids.
HOLDER = f"""
import ctypes, json, os, resource, signal, socket, struct, sys

def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG

die_with_parent()
os.system("ip link set lo up")
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

def churn():
    "Every connection is reset at the end, so that no TIME_WAIT fills the namespace."
    die_with_parent()
    server = socket.create_server(("127.0.0.1", 0), backlog=64)
    RESET = struct.pack("ii", 1, 0)
    while True:
        ours = [socket.create_connection(server.getsockname()) for _ in range(13)]
        theirs = [server.accept()[0] for _ in range(11)]
        bound = [socket.socket() for _ in range(7)]
        for one in bound:
            one.bind(("127.0.0.1", 0))
        for one in (*ours, *theirs):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        for one in (*ours, *theirs, *bound):
            one.close()
        server.setblocking(False)  # a reset that overtook its handshake on another processor leaves nothing to accept
        try:
            while True:
                server.accept()[0].close()
        except BlockingIOError:
            server.setblocking(True)

def fork_and_share():
    "Children that hold what their parent holds, for as long as it takes to fork the next."
    die_with_parent()
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
    while True:
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)

children = []
for work in (churn, fork_and_share):
    pid = os.fork()
    if not pid:
        work()
    children.append(pid)
held = [socket.socket() for _ in range({STABLE})]
for at, one in enumerate(held):
    if at % 3:
        one.setsockopt(socket.IPPROTO_TCP, 19, 1)  # TCP_REPAIR
    one.bind(("127.0.0.1", 20000 + at))
    if at % 3:
        one.connect(("127.0.0.2", 443))
    elif at % 2:
        one.listen()
print(json.dumps([os.getpid(), *children]), flush=True)
sys.stdin.read()
for pid in children:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""


@pytest.fixture(scope="module")
def pids() -> Iterator[list[int]]:
    command = ("unshare", "-n", sys.executable, "-c", HOLDER)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        yield json.loads(holder.stdout.readline())
        holder.communicate()


def count_of(snapshot: Snapshot, pid: int) -> int:
    return sum(group.count for group in snapshot.groups if pid in group.key)


@pytest.mark.parametrize("source", ["auto", "sock_diag"])
@pytest.mark.parametrize("by", ["pid", "pid,state", "pid,local_port"])
def test_who_stands_still_is_counted_exactly_while_others_churn(pids: list[int], source: str, by: str) -> None:
    stable, *_ = pids
    totals: set[int] = set()
    for _ in range(COUNTS // 2 if source == "sock_diag" or by.endswith("port") else COUNTS):
        snapshot = finwait.count(by=by, source=source, netns=str(stable))
        assert count_of(snapshot, stable) == STABLE
        assert all(group.count > 0 for group in snapshot.groups)
        counted = sum(group.count for group in snapshot.groups)
        assert counted - snapshot.total >= snapshot.shared  # each of these stands in two groups at least
        assert (counted == snapshot.total) is (snapshot.shared == 0)
        assert {notice.code for notice in snapshot.warnings} <= {"owners_not_permitted", "ghosts_not_told_apart"}
        assert not [count for _, pid, count in snapshot.ghosts or () if pid == stable]
        totals.add(snapshot.total)
    assert len(totals) > 1, "the test no longer makes what it is for"


@pytest.mark.parametrize("source", ["bpf", "auto", "sock_diag"])
def test_a_list_shows_every_descriptor_of_who_stands_still_once(pids: list[int], source: str) -> None:
    stable, *_ = pids
    for _ in range(LISTS):
        table = finwait.connections(columns="cookie,pid,fd", source=source, netns=str(stable))
        rows = Counter((row.cookie, row.pid, row.fd) for row in table)
        assert set(rows.values()) == {1}
        assert len({fd for _, pid, fd in rows if pid == stable}) == STABLE
        assert sum(pid == stable for _, pid, _ in rows) == STABLE


def test_the_plain_count_by_bpf_has_no_fewer_than_stand_still(pids: list[int]) -> None:
    for _ in range(COUNTS):
        counts = {group.key[0]: group.count for group in finwait.count(source="bpf", netns=str(pids[0])).groups}
        assert counts["established"] >= sum(at % 3 > 0 for at in range(STABLE))
        assert counts["listen"] >= sum(at % 6 == 3 for at in range(STABLE))
        assert counts["closed"] >= sum(at % 6 == 0 for at in range(STABLE))
