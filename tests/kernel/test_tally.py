"""The running count: what the kernel keeps equals what a walk finds, whatever was there before and whatever goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from finwait.lab.population import Group
from tests.kernel.finwait_command import COMMAND, ENVIRONMENT, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from finwait.lab.population import Population

# Runs inside a namespace: attaches, does `work`, and tells what the tally and what a walk by sock_diag say.
COMPARE = """
import json, os, socket, subprocess, sys, threading, time
from finwait.lab import namespace
from finwait.sources.census import take_census
from finwait.sources.tcp_tally import Tally
from finwait.table.request import Request
def by_state(snapshot):
    return {group.key[0]: group.count for group in snapshot.groups if group.key[0] != "closed"}
def await_states(*wanted):
    assert namespace.await_condition(lambda: set(namespace.count_by_state()) <= set(wanted), 10), namespace.count_by_state()
def compare():
    snapshot = tally.read()
    told.append([by_state(snapshot), by_state(take_census(Request(), "sock_diag")),
                 [notice.code for notice in snapshot.provenance.notices]])
told = []
before, work = sys.argv[1:3]
names = globals()
exec(before, names)
with Tally(Request()) as tally:
    names["tally"] = tally
    exec(work, names)
print(json.dumps(told))
"""
TRAFFIC = """
server = socket.create_server(("127.0.0.1", 3000), backlog=4096)
def serve():
    while True:
        try:
            accepted, _ = server.accept()
        except OSError:
            return
        accepted.recv(1)
        accepted.close()
def connect(count):
    for _ in range(count):
        client = socket.create_connection(("127.0.0.1", 3000))
        client.send(b".")
        client.recv(1)
        client.close()
threading.Thread(target=serve, daemon=True).start()
"""


def compared(held: Population, before: str, work: str) -> list[Any]:
    return json.loads(held.run(sys.executable, "-c", COMPARE, before, work))


def test_sockets_that_were_there_before_are_counted_each_once(population: Callable[..., Population]) -> None:
    held = population(
        Group("LISTEN", 3), Group("SYN_SENT", 5), Group("SYN_RECV", 7), Group("ESTABLISHED", 11),
        Group("FIN_WAIT1", 13), Group("FIN_WAIT2", 17), Group("CLOSE_WAIT", 19), Group("LAST_ACK", 23),
        Group("CLOSING", 29), Group("TIME_WAIT", 31),
    )  # fmt: skip
    [[counted, walked, notices]] = compared(held, "", "compare()")
    assert counted == walked
    assert [walked[state] for state in ("syn_received", "established", "closing", "time_wait")] == [7, 11, 29, 31]
    assert notices == ["closed_not_counted"]


def test_after_every_burst_the_tally_equals_a_walk(population: Callable[..., Population]) -> None:
    # a late ACK of a delayed one would end a TIME-WAIT by RST on the loopback
    held = population(Group("ESTABLISHED", 23), sysctls={"net.ipv4.tcp_rfc1337": 1})
    work = """
for _ in range(5):
    connect(401)
    await_states(1, 6, 10)
    compare()
"""
    told = compared(held, TRAFFIC, work)
    assert len(told) == 5
    for counted, walked, _ in told:
        assert counted == walked
        assert walked["established"] == 23
        assert walked["time_wait"] >= 401  # a later burst may take a port whose connection is in TIME-WAIT


def test_connections_that_come_and_go_while_it_is_attached_are_counted_once(
    population: Callable[..., Population],
) -> None:
    held = population(Group("ESTABLISHED", 1009))
    before = (
        TRAFFIC
        + """
running = threading.Event(); running.set()
def churn():
    while running.is_set():
        connect(1)
churners = [threading.Thread(target=churn) for _ in range(3)]
for churner in churners:
    churner.start()
"""
    )
    work = """
running.clear()
for churner in churners:
    churner.join()
await_states(1, 6, 10)
compare()
"""
    for _ in range(3):
        [[counted, walked, _]] = compared(held, before, work)
        assert counted == walked


ORPHANS = """
listener = socket.create_server(("127.0.0.1", 3000), backlog=1000)
def orphans(count):
    pairs = []
    for _ in range(count):
        client = socket.create_connection(("127.0.0.1", 3000))
        accepted, _ = listener.accept()
        client.shutdown(socket.SHUT_WR)
        accepted.recv(1)
        pairs.append((client, accepted))
    deadline = time.monotonic() + 10
    while any(client.getsockopt(socket.IPPROTO_TCP, 11, 1) != b"\\x05" for client, _ in pairs):  # TCP_INFO: FIN_WAIT2
        assert time.monotonic() < deadline
    for client, _ in pairs:  # close() makes a timewait socket of what is in FIN-WAIT-2
        client.close()
    return [accepted for _, accepted in pairs]
"""


@pytest.mark.parametrize("count", [7, 401])
def test_a_fin_wait_2_without_a_program_is_told_from_time_wait(
    population: Callable[..., Population], count: int
) -> None:
    """Nobody looks at the sockets before: a dump would give them the cookies by which they are known."""
    held = population(Group("LISTEN", 1), sysctls={"net.ipv4.tcp_fin_timeout": 60})
    work = f"""
names["accepted"] = orphans({count})
compare()
for one in accepted[:3]:
    one.close()
await_states(5, 6, 8, 10)
deadline = time.monotonic() + 10
while by_state(take_census(Request(), "sock_diag"))["time_wait"] < 3:
    assert time.monotonic() < deadline
compare()
for one in accepted[3:]:
    one.close()
await_states(6, 10)
compare()
"""
    told = compared(held, ORPHANS, work)
    for counted, walked, _ in told:
        assert counted == walked
    found = [(counted["fin_wait_2"], counted["time_wait"]) for counted, _, _ in told]
    assert found == [(count, 0), (count - 3, 3), (0, count)]


def test_more_of_them_and_more_listeners_than_there_is_room_for_make_room(
    population: Callable[..., Population],
) -> None:
    held = population(Group("LISTEN", 97), sysctls={"net.ipv4.tcp_fin_timeout": 60})
    before = "import finwait.sources.tcp_events\nfinwait.sources.tcp_events.VISITED = 16\n" + ORPHANS
    work = "accepted = orphans(101)\ncompare()\nevents = tally._events\ncompare()\nassert tally._events is events\n"
    told = compared(held, before, work)
    assert [counted == walked for counted, walked, _ in told] == [True, True]
    assert {"tally_no_room"}.isdisjoint(code for _, _, codes in told for code in codes)
    assert [counted["fin_wait_2"] for counted, _, _ in told] == [101, 101]


def test_those_that_were_there_before_are_told_apart_too(population: Callable[..., Population]) -> None:
    held = population(Group("LISTEN", 1), sysctls={"net.ipv4.tcp_fin_timeout": 60})
    [[counted, walked, _]] = compared(held, ORPHANS + "accepted = orphans(23)\naccepted[0].close()\n", "compare()")
    assert counted == walked
    assert counted["fin_wait_2"] + counted["time_wait"] == 23


@pytest.mark.parametrize("arguments", [(), ("-N", "NETNS")], ids=["own", "named"])
def test_count_watch_tells_a_document_each_time(
    population: Callable[..., Population], arguments: tuple[str, ...]
) -> None:
    held = population(Group("ESTABLISHED", 23), Group("TIME_WAIT", 31))
    words = [str(held.pid) if word == "NETNS" else word for word in arguments]
    command: tuple[str, ...] = (*COMMAND, "count", "--watch", "0.05", "--ndjson", *words)
    if not arguments:
        command = held.enter_command(*command)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        documents = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130
    for document in documents:
        counts = {row["state"]: row["count"] for row in document["rows"]}
        assert (document["source"], counts["established"], counts["time_wait"]) == ("bpf", 23, 31)


def test_counts_by_namespace_come_from_the_tally_too(population: Callable[..., Population]) -> None:
    one, other = (
        population(Group("ESTABLISHED", 23)),
        population(Group("LISTEN", 1), Group("ESTABLISHED", 7), Group("SYN_RECV", 5)),
    )
    words = ("count", "--watch", "0.05", "--ndjson", "--by", "netns,state", "-N", str(one.pid), "-N", str(other.pid))
    with subprocess.Popen((*COMMAND, *words), stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        document = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        process.communicate()
    counts = {(row["netns"], row["state"]): row["count"] for row in document["rows"]}
    assert "closed_not_counted" in [warning["code"] for warning in document["warnings"]]  # the tally, not a walk
    assert counts.pop((str(other.pid), "listen")) == 1
    assert counts == {
        (str(one.pid), "established"): 23, (str(other.pid), "established"): 7, (str(other.pid), "syn_received"): 5,
    }  # fmt: skip


def test_a_tally_that_missed_a_change_counts_anew(population: Callable[..., Population]) -> None:
    held = population(Group("ESTABLISHED", 23))
    work = """
events = tally._events
events.missed = lambda: 1
connect(7)
await_states(1, 6, 10)
compare()
assert tally._events is not events
connect(7)
await_states(1, 6, 10)
events = tally._events
compare()
assert tally._events is events
"""
    for counted, walked, _ in compared(held, TRAFFIC, work):
        assert counted == walked


def test_what_the_tally_cannot_answer_is_counted_anew(population: Callable[..., Population]) -> None:
    held = population(Group("ESTABLISHED", 23), Group("CLOSE_WAIT", 7))
    command = held.enter_command(*COMMAND, "--watch", "0.05", "--csv", "-H", "state", "close-wait")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        rows = [process.stdout.readline().partition(",") for _ in range(30)]
        process.send_signal(signal.SIGINT)
        process.communicate()
    lines = [line for _, _, line in rows]
    moments = [at for at, _, line in rows if line == "close_wait,7\n"]
    assert len(moments) >= 2
    assert moments == sorted(set(moments))
    assert "established,0\n" in lines


def test_a_watch_of_a_recording_is_refused() -> None:
    done = run("--watch", "--read", "x.diag")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--watch counts this host" in done.stderr


FAST_OPEN = """
import json
from ipaddress import ip_address
from finwait.lab import namespace
from finwait.lab.builder import NEAR_IPV4
from finwait.lab.holder import enter_peered_namespace
from finwait.lab.peer import ACK, MSS_OPTION, SYN, FarEnd, TcpPeer
from finwait.sources.tcp_tally import Tally
from finwait.table.request import Request
import socket
def state_counts():
    return {group.key[0]: group.count for group in tally.read().groups if group.count}
enter_peered_namespace({"net.ipv4.tcp_fastopen": 0x603})
peer = TcpPeer("far")
listener = socket.socket()
listener.bind(("0.0.0.0", 2000))
listener.listen(5)
with Tally(Request()) as tally:
    ends = [FarEnd(peer, ip_address("10.77.2.1"), 10000 + number, NEAR_IPV4, 2000) for number in range(3)]
    for far in ends:
        far.send(SYN, payload=b"data", options=MSS_OPTION)
        far.expect(SYN | ACK)
    during = [state_counts(), {str(state): count for state, count in namespace.count_by_state().items()}]
namespace.destroy_all()
print(json.dumps(during))
"""


def test_a_connection_that_fast_open_made_is_counted_before_its_handshake_is_complete() -> None:
    done = subprocess.run([sys.executable, "-c", FAST_OPEN], capture_output=True, text=True, check=True)
    counted, walked = json.loads(done.stdout)
    assert walked == {"3": 3, "10": 1}
    assert counted == {"listen": 1, "syn_received": 3}
