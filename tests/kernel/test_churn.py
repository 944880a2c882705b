"""A walk over listeners that come and go: nothing is counted twice, and an inconsistent walk says that it was."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import finwait
from finwait.sources.namespaces import open_inside, place_of
from finwait.sources.sock_diag import open_diag_socket, receive_into, send_request
from finwait.table.request import Roots
from finwait.tcp.state import TcpState
from finwait.wire.diag_census import DiagCensus
from finwait.wire.inet_diag import build_tcp_dump
from tests.kernel.finwait_command import run

if TYPE_CHECKING:
    from collections.abc import Iterator

LISTENERS = 3000
MAX_WALKS = 400
# 3,000 listeners on one port stand in one hash bucket; the walk resumes inside it by position.
CHURN = f"""
import random, socket, sys, threading
def listen():
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind(("127.0.0.1", 8080))
    one.listen()
    return one
held = [listen() for _ in range({LISTENERS})]
stopped = threading.Event()
def churn():
    while not stopped.is_set():
        at = random.randrange(len(held))
        held[at].close()
        held[at] = listen()
worker = threading.Thread(target=churn)
worker.start()
print("ready", flush=True)
sys.stdin.read()
stopped.set()
worker.join()
"""


@pytest.fixture(scope="module")
def churning() -> Iterator[int]:
    command = ("unshare", "-n", sys.executable, "-c", f"import os; os.system('ip link set lo up')\n{CHURN}")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        yield holder.pid
        holder.communicate()


def cookies_in(datagram: bytes) -> list[int]:
    """Read apart from the product: message by message."""
    found = []
    while datagram:
        length, kind = struct.unpack_from("=IH", datagram)
        if kind >= 18:
            found.append(struct.unpack_from("=Q", datagram, 60)[0])
        datagram = datagram[(length + 3) & ~3 :]
    return found


def test_an_inconsistent_walk_is_noticed_and_counts_no_socket_twice(churning: int) -> None:
    diag = open_inside(place_of(str(churning), Roots()), open_diag_socket)
    most = 0
    for _ in range(MAX_WALKS):
        send_request(diag, build_tcp_dump(None, 1 << TcpState.LISTEN))
        census, cookies = DiagCensus(), []
        while not census.done:
            buffer = memoryview(bytearray(1 << 16))
            length = receive_into(diag, buffer)
            cookies += cookies_in(bytes(buffer[:length]))
            census.add(buffer, length)
        assert census.finish()[TcpState.LISTEN] == len(set(cookies))
        assert census.duplicates == len(cookies) - len(set(cookies))
        most = max(most, census.duplicates)
        if most > 1:
            break
    diag.close()
    assert most > 1, "the test no longer makes what it is for"


def test_a_list_shows_no_cookie_twice(churning: int) -> None:
    flagged = False
    for _ in range(MAX_WALKS):
        table = finwait.connections("state listening", columns="cookie", netns=str(churning))
        cookies = table.column("cookie")
        assert len(cookies) == len(set(cookies))
        flagged = not table.complete
        if flagged:
            assert [notice.code for notice in table.warnings] == ["inconsistent_walk"]
            return
    pytest.fail(f"{MAX_WALKS} lists and no inconsistent walk")


def test_a_count_that_could_not_be_had_consistent_is_not_complete(churning: int) -> None:
    for _ in range(MAX_WALKS):
        done = run("count", "-N", str(churning), "state", "listening", "--json")
        document = json.loads(done.stdout)
        codes = [warning["code"] for warning in document["warnings"]]
        assert document["complete"] is (not codes)
        if codes:
            assert codes == ["inconsistent_walk"]
            return
    pytest.fail(f"{MAX_WALKS} counts and every one was complete")
