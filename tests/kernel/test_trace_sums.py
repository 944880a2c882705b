"""Whole lives, summaries, and the library's changes: each equal to what was done."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from finwait.lab.population import Group
from tests.kernel.finwait_command import COMMAND, ENVIRONMENT, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from finwait.lab.population import Population

# Client and server in one process: `count` connections, each side sends one byte; the client closes first.
CONNECT = """
import socket, sys
count = int(sys.argv[1])
server = socket.create_server(("127.0.0.1", 3000))
for _ in range(count):
    client = socket.create_connection(("127.0.0.1", 3000))
    accepted, _ = server.accept()
    client.send(b"."); accepted.recv(1); accepted.send(b".."); client.recv(2)
    client.close(); assert accepted.recv(1) == b""; accepted.close()
server.close()
"""
BOTH_ENDS = {
    ("closed", "listen"): 1, ("listen", "closed"): 1,
    **dict.fromkeys([
        ("closed", "syn_sent"), ("listen", "syn_received"), ("syn_sent", "established"), ("syn_received", "established"),
        ("established", "fin_wait_1"), ("established", "close_wait"), ("fin_wait_1", "fin_wait_2"),
        ("fin_wait_2", "time_wait"), ("close_wait", "last_ack"), ("last_ack", "closed"),
    ], 1009),
}  # fmt: skip


def traced(held: Population, *arguments: str, work: tuple[str, ...]) -> list[dict[str, Any]]:
    """The records that a trace wrote while `work` was done in the same namespace."""
    command = held.enter_command(*COMMAND, "trace", "--ndjson", "--source", "bpf", *arguments)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["type"] == "ready"
        held.run(*work)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()
    assert process.returncode == 130
    return [json.loads(line) for line in output.splitlines()]


def connections(count: int) -> tuple[str, ...]:
    return (sys.executable, "-c", CONNECT, str(count))


def test_a_summary_counts_every_transition_exactly(population: Callable[..., Population]) -> None:
    held = population(Group("ESTABLISHED", 23))
    summary, end = traced(held, "--summary", work=connections(1009))
    assert {(row["from"], row["to"]): row["count"] for row in summary["transitions"]} == BOTH_ENDS
    times = {row["state"]: row["count"] for row in summary["times"]}
    assert times == {
        "listen": 1, "syn_sent": 1009, "syn_received": 1009, "established": 2018, "fin_wait_1": 1009, "fin_wait_2": 1009,
        "close_wait": 1009, "last_ack": 1009,
    }  # fmt: skip
    assert all(row["p50_us"] <= row["p90_us"] <= row["p99_us"] for row in summary["times"])
    assert (end["type"], end["lost"]) == ("end", 0)


# Whole batches are closed by their clients before their servers close: delayed acknowledgements of many are due at once, and a
# FIN-WAIT-2 without a program lasts less than a tick.
BATCHES = """
import socket, sys
server = socket.create_server(("127.0.0.1", 3000), backlog=4096)
for _ in range(int(sys.argv[1])):
    clients = [socket.create_connection(("127.0.0.1", 3000)) for _ in range(97)]
    accepted = [server.accept()[0] for _ in clients]
    [client.close() for client in clients]
    for one in accepted:
        assert not one.recv(1)
        one.close()
"""


def test_no_time_is_longer_than_the_trace_and_nothing_ends_that_goes_on(population: Callable[..., Population]) -> None:
    held = population(Group("LISTEN", 1), sysctls={"net.ipv4.tcp_tw_reuse": 0})
    summary, _ = traced(held, "--summary", work=(sys.executable, "-c", BATCHES, "11"))
    whole_us = (_moment(summary["to"]) - _moment(summary["from"])) / timedelta(microseconds=1)
    assert all(row["total_us"] <= row["count"] * whole_us and row["p99_us"] <= 2 * whole_us for row in summary["times"])
    counts = {(row["from"], row["to"]): row["count"] for row in summary["transitions"]}
    assert sum(count for (begin, _), count in counts.items() if begin == "fin_wait_1") == 11 * 97
    assert sum(count for (_, end), count in counts.items() if end == "time_wait") == 11 * 97
    assert ("fin_wait_1", "closed") not in counts


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_summaries_come_at_every_interval_and_their_sum_is_the_whole(population: Callable[..., Population]) -> None:
    held = population(Group("LISTEN", 1))
    *summaries, _ = traced(held, "--summary", "--every", "0.01", work=connections(1009))
    assert len(summaries) > 2
    sums: dict[tuple[str, str], int] = {}
    for summary in summaries:
        for row in summary["transitions"]:
            pair = (row["from"], row["to"])
            sums[pair] = sums.get(pair, 0) + row["count"]
    assert sums == BOTH_ENDS


def test_sums_by_listener_are_of_the_ports_that_are_listened_at(population: Callable[..., Population]) -> None:
    """The lab's listener was there before, at another port."""
    held = population(Group("LISTEN", 1), Group("CLOSE_WAIT", 3))
    *summaries, _ = traced(held, "--summary", "--by", "listener", work=connections(101))
    by_port = {
        row["local_port"]: {(one["from"], one["to"]): one["count"] for one in row["transitions"]} for row in summaries
    }
    assert by_port.keys() == {3000, None}
    active = {("closed", "syn_sent"), ("syn_sent", "established"), ("established", "fin_wait_1"),
              ("fin_wait_1", "fin_wait_2"), ("fin_wait_2", "time_wait")}  # fmt: skip
    assert by_port[None] == dict.fromkeys(active, 101)
    assert by_port[3000] == {
        pair: count if count == 1 else 101 for pair, count in BOTH_ENDS.items() if pair not in active
    }


TWO_PROCESSES = """
import os, socket
server = socket.create_server(("127.0.0.1", 3000))
if os.fork():
    accepted = [server.accept()[0] for _ in range(23)]
    for one in accepted:
        one.recv(1); one.close()
    server.close()
    os.wait()
else:
    server.close()
    with open("/proc/self/comm", "w") as file:
        file.write("the-client")
    for one in [socket.create_connection(("127.0.0.1", 3000)) for _ in range(23)]:
        one.close()
"""


def test_sums_by_process_are_of_who_has_the_sockets(population: Callable[..., Population]) -> None:
    # no RST that crosses the last ACK ends a TIME-WAIT
    held = population(Group("LISTEN", 1), sysctls={"net.ipv4.tcp_rfc1337": 1})
    *summaries, _ = traced(
        held, "--summary", "--by", "process", "dport = :3000", work=(sys.executable, "-c", TWO_PROCESSES)
    )
    [only] = summaries
    assert only["process"] == "the-client"
    counts = {(row["from"], row["to"]): row["count"] for row in only["transitions"]}
    assert counts == dict.fromkeys([
        ("closed", "syn_sent"), ("syn_sent", "established"), ("established", "fin_wait_1"), ("fin_wait_1", "fin_wait_2"),
        ("fin_wait_2", "time_wait"),
    ], 23)  # fmt: skip
    *summaries, _ = traced(
        held, "--summary", "--by", "process", "sport = :3000", work=(sys.executable, "-c", TWO_PROCESSES)
    )
    counts_by_pid = {
        row["pid"]: {(one["from"], one["to"]): one["count"] for one in row["transitions"]} for row in summaries
    }
    nobody = counts_by_pid.pop(None)  # what happens before accept() is nobody's
    [server] = counts_by_pid.values()
    assert (server["close_wait", "last_ack"], server["last_ack", "closed"]) == (23, 23)
    assert (nobody["listen", "syn_received"], nobody["syn_received", "established"]) == (23, 23)
    assert server.get(("established", "close_wait"), 0) + nobody.get(("established", "close_wait"), 0) == 23


def test_a_summary_is_of_the_ports_that_the_filter_names(population: Callable[..., Population]) -> None:
    held = population(Group("LISTEN", 1))
    summary, _ = traced(held, "--summary", "dport = :3000", work=connections(7))
    assert {(row["from"], row["to"]): row["count"] for row in summary["transitions"]} == dict.fromkeys([
        ("closed", "syn_sent"), ("syn_sent", "established"), ("established", "fin_wait_1"), ("fin_wait_1", "fin_wait_2"),
        ("fin_wait_2", "time_wait"),
    ], 7)  # fmt: skip


def test_a_summary_of_local_ports_has_the_begin_of_connect_too(population: Callable[..., Population]) -> None:
    """connect() has no port yet when it goes to SYN-SENT."""
    held = population(Group("LISTEN", 1))
    held.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=20000 60999")
    summary, _ = traced(held, "--summary", "sport >= :20000 and dport = :3000", work=connections(23))
    assert {(row["from"], row["to"]): row["count"] for row in summary["transitions"]} == dict.fromkeys([
        ("closed", "syn_sent"), ("syn_sent", "established"), ("established", "fin_wait_1"), ("fin_wait_1", "fin_wait_2"),
        ("fin_wait_2", "time_wait"),
    ], 23)  # fmt: skip


def test_a_summary_by_what_the_kernel_cannot_choose_by_is_refused() -> None:
    done = run("trace", "--summary", "dst 127.0.0.1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "family, ports and states only" in done.stderr


def test_each_connection_has_one_line_at_its_end(population: Callable[..., Population]) -> None:
    held = population(Group("ESTABLISHED", 23))
    *lifetimes, end = traced(held, "--lifetimes", work=connections(101))
    assert end["lost"] == 0
    clients = [row for row in lifetimes if row["opened_by"] == "local"]
    servers = [row for row in lifetimes if row["opened_by"] == "peer"]
    assert (len(clients), len(servers), len(lifetimes)) == (101, 101, 202)
    for row in clients:
        path = [step["state"] for step in row["path"]]
        assert path == ["syn_sent", "established", "fin_wait_1", "fin_wait_2", "time_wait"]
        assert (row["closed_by"], row["to"], row["why"]) == ("local", "time_wait", "rcv_fin")
        assert (row["bytes_acked"], row["bytes_received"]) == (1 + 2, 2 + 1)  # SYN and FIN count
    for row in servers:
        path = [step["state"] for step in row["path"]]
        assert path == ["syn_received", "established", "close_wait", "last_ack", "closed"]
        assert (row["closed_by"], row["to"], row["why"]) == ("peer", "closed", "rcv_ack_of_fin")
        assert (row["bytes_acked"], row["bytes_received"]) == (2 + 1, 1 + 1)
    for row in lifetimes:
        spent = [step["us"] for step in row["path"][:-1]]
        assert row["path"][-1]["us"] is None
        assert abs(sum(spent) - row["lasted_us"]) <= len(spent)  # each is cut to whole microseconds


def test_a_life_that_began_before_the_trace_is_told_without_its_begin(population: Callable[..., Population]) -> None:
    held = population(Group("ESTABLISHED", 23))
    destroy = (sys.executable, "-c", "from finwait.lab import namespace; namespace.destroy_all()")
    *lifetimes, _ = traced(held, "--lifetimes", work=destroy)
    assert len(lifetimes) == 23
    for row in lifetimes:
        assert (row["began"], row["lasted_us"], row["opened_by"], row["why"]) == (None, None, None, "destroy")
        assert row["path"] == [{"state": "established", "us": None}, {"state": "closed", "us": None}]


LIBRARY = """
import asyncio, json, subprocess, sys
import finwait
work = sys.argv[1:]
with finwait.trace("dport = :3000", seconds=30) as changes:
    subprocess.run(work, check=True)
    found = []
    for change in changes:
        found.append([change.from_state.token, change.to.token, change.why, change.pid is not None])
        if change.to is finwait.TcpState.TIME_WAIT:
            break
async def first():
    with finwait.trace("dport = :3000", seconds=30) as changes:
        subprocess.run(work, check=True)
        async for change in changes:
            return [change.from_state.token, change.to.token, changes.provenance.source]
print(json.dumps([found, asyncio.run(first())]))
"""


def test_the_library_yields_typed_changes_and_awaits_them(population: Callable[..., Population]) -> None:
    held = population(Group("LISTEN", 1))
    found, first = json.loads(held.run(sys.executable, "-c", LIBRARY, *connections(1)))
    assert found == [
        ["closed", "syn_sent", "active_open", True],
        ["syn_sent", "established", "rcv_syn_ack", True],
        ["established", "fin_wait_1", "close", True],
        ["fin_wait_1", "fin_wait_2", "rcv_ack_of_fin", True],
        ["fin_wait_2", "time_wait", "rcv_fin", True],
    ]
    assert first == ["closed", "syn_sent", "bpf"]


GIVEN_UP = """
import asyncio, json, socket
import finwait
async def main():
    with finwait.trace("dport = :3000") as changes:
        given_up = 0
        for _ in range(3):
            try:
                await asyncio.wait_for(anext(changes), 0.1)
            except TimeoutError:
                given_up += 1
        server = socket.create_server(("127.0.0.1", 3000))
        client = socket.create_connection(("127.0.0.1", 3000))
        client.close()
        return given_up, [(await anext(changes)).to.token for _ in range(3)]
print(json.dumps(asyncio.run(main())))
"""


def test_a_wait_for_the_next_change_can_be_given_up_and_loses_none(population: Callable[..., Population]) -> None:
    held = population(Group("LISTEN", 1))
    found = json.loads(held.run(sys.executable, "-c", GIVEN_UP))
    assert found == [3, ["syn_sent", "established", "fin_wait_1"]]
