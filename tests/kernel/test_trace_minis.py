"""`finwait trace` of sockets that have no tracepoint: half-open connections, and FIN-WAIT-2 without a program."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime

import pytest

from tests.kernel.finwait_command import COMMAND, ENVIRONMENT
from tests.kernel.tracer import (
    CLIENT,
    OWN_TRAFFIC,
    PORT,
    SERVER,
    TICK_US,
    Lab,
    lab,
    make_deaf_addresses,
    step,
    steps,
    times,
    told,
)

__all__ = ["lab"]  # the fixture


# -- half-open connections


def test_a_half_open_connection_is_told_when_it_comes_and_when_it_times_out_and_not_between(lab: Lab) -> None:
    client, server = lab.pair(place := lab.place(sysctls={"net.ipv4.tcp_synack_retries": 1}))
    make_deaf_addresses(place)
    server.do("other = listen('10.8.0.1')")
    tracer = lab.tracer(place=place)
    client.do("for at in range(23): send_syn(f'10.9.0.{at}', 4000)")
    tracer.wait_for("listen>syn_received", 23)
    client.do("for at in range(11): send_syn(f'10.9.0.{at}', 4000)")  # a SYN that comes again sets the timer anew
    tracer.catch_up(client)
    assert steps(tracer.rows) == {"listen>syn_received": 23}
    tracer.wait_for("syn_received>closed", 23)
    tracer.catch_up(client)
    rows = tracer.stop()
    assert steps(rows) == times(23, "listen>syn_received", "syn_received>closed")
    for row in rows:
        assert (row["local_address"], row["local_port"], row["peer_port"]) == ("10.8.0.1", PORT, 4000)
        if row["to"] == "closed":
            assert (row["why"], row["evidence"]) == ("timeout_syn_ack", "event")
            assert row["in_from_us"] >= 3_000_000  # 1 s, the SYN,ACK again, 2 s
    assert len({row["peer_address"] for row in rows}) == 23


def test_a_half_open_connection_goes_with_its_listener_or_by_a_reset(lab: Lab) -> None:
    client, server = lab.pair(place := lab.place())
    make_deaf_addresses(place)
    server.do("other = listen('10.8.0.1')")
    tracer = lab.tracer(place=place)
    # a peer that never heard of it answers the SYN,ACK with RST: the route of 10.8.0.2 leads back to us
    place.run("ip", "address", "add", "10.8.0.2/32", "dev", "lo")
    client.do("send_syn('10.8.0.2', 4001)")
    tracer.wait_for("syn_received>closed")
    client.do("send_syn('10.9.0.1', 4002)")
    server.do("other.close()")
    tracer.wait_for("syn_received>closed", 2)  # within 1 s: when the SYN,ACK would be sent again
    tracer.catch_up(client)
    rows = tracer.stop()
    assert told(rows, peer_port=4001) == [("listen>syn_received", "rcv_syn"), ("syn_received>closed", None)]
    assert told(rows, peer_port=4002) == [
        ("listen>syn_received", "rcv_syn"), ("syn_received>closed", "listener_closed"),
    ]  # fmt: skip


def test_a_connection_that_is_never_answered_is_ended_by_its_timer(lab: Lab) -> None:
    client = lab.actor(place := lab.place(), "the-client")
    make_deaf_addresses(place)
    tracer = lab.tracer(place=place)
    code = """
one = socket.socket()
one.setsockopt(socket.IPPROTO_TCP, 7, 1)  # TCP_SYNCNT
answer = one.connect_ex(("10.9.0.1", 3000))
"""
    assert client.do(code) == 110
    tracer.catch_up(client)
    rows = tracer.stop()
    assert told(rows) == [("closed>syn_sent", "active_open"), ("syn_sent>closed", "timeout_syn")]
    assert [row["error"] for row in rows] == [None, "ETIMEDOUT"]
    assert rows[1]["in_from_us"] >= 3_000_000
    assert {row["pid"] for row in rows} == {client.pid}


# -- FIN_WAIT2 without a program


@pytest.mark.parametrize("first", ["", "one.shutdown(socket.SHUT_WR)"], ids=["close", "shutdown-before"])
def test_an_orphan_in_fin_wait_2_is_told_when_its_time_is_over(lab: Lab, first: str) -> None:
    client, server = lab.pair(place := lab.place(sysctls={"net.ipv4.tcp_fin_timeout": 1}))
    tracer = lab.tracer(place=place)
    client.do("one = connect()")
    server.do("one, _ = server.accept()")
    if first:
        client.do(first)
        tracer.wait_for("fin_wait_1>fin_wait_2")
    client.do("one.close()")
    tracer.wait_for("fin_wait_2>closed")
    tracer.catch_up(client)
    rows = tracer.stop()
    of_client = [row for row in rows if row["peer_port"] == PORT]
    assert told(of_client) == [
        ("closed>syn_sent", "active_open"),
        ("syn_sent>established", "rcv_syn_ack"),
        ("established>fin_wait_1", "shutdown_write" if first else "close"),
        ("fin_wait_1>fin_wait_2", "rcv_ack_of_fin"),
        ("fin_wait_2>closed", "timeout_fin_wait_2"),
    ]
    assert of_client[-1]["in_from_us"] >= 1_000_000
    assert len({row["cookie"] for row in of_client}) == 1
    assert {(row["pid"], row["process"]) for row in of_client} == {(client.pid, "the-client")}
    assert steps(rows) - steps(of_client) == times(1, *SERVER[:3])


@pytest.mark.parametrize("timeout_s", [30, 60])
def test_an_orphan_in_fin_wait_2_that_gets_a_fin_is_told_to_be_in_time_wait(lab: Lab, timeout_s: int) -> None:
    """With 60 s, as long as a TIME-WAIT is, the kernel moves the end of some timers without a word; those are looked up."""
    client, server = lab.pair(place := lab.place(sysctls={"net.ipv4.tcp_fin_timeout": timeout_s}))
    tracer = lab.tracer(place=place)
    client.do("held = [connect() for _ in range(13)]")
    server.do("held = [server.accept()[0] for _ in range(13)]")
    client.do("for one in held: one.close()")
    tracer.wait_for("fin_wait_1>fin_wait_2", 13)
    tracer.catch_up(client)
    assert steps(tracer.rows) == times(13, *CLIENT[:4], *SERVER[:3])
    begin = server.do("answer = time.time()\nfor one in held: one.close()\n")
    end = server.do("answer = time.time()")
    tracer.wait_for("fin_wait_2>time_wait", 13)
    tracer.catch_up(client)
    rows = tracer.stop()
    assert steps(rows) == times(13, *CLIENT, *SERVER)
    ends = [row for row in rows if row["to"] == "time_wait"]
    assert {(step(row), row["why"], row["pid"]) for row in ends} == {("fin_wait_2>time_wait", "rcv_fin", client.pid)}
    assert {row["evidence"] for row in ends} <= {"event", "lookup"}
    for row in ends:
        at = datetime.fromisoformat(row["at"]).timestamp()
        assert begin - 2 * TICK_US / 1e6 <= at <= end + 2 * TICK_US / 1e6
        assert row["in_from_us"] > 0


def test_an_orphan_that_came_to_time_wait_without_a_word_is_told_before_its_end(lab: Lab) -> None:
    client, server = lab.pair(place := lab.place(sysctls={"net.ipv4.tcp_fin_timeout": 60}))
    tracer = lab.tracer(place=place)
    client.do("held = [connect() for _ in range(7)]")
    server.do("held = [server.accept()[0] for _ in range(7)]")
    client.do("for one in held: one.close()")
    tracer.wait_for("fin_wait_1>fin_wait_2", 7)
    server.do("for one in held: one.close()")
    tracer.wait_for("fin_wait_2>time_wait", 7)
    place.run("ss", "-K", "state", "time-wait")
    tracer.wait_for("time_wait>closed", 7)
    assert steps(tracer.stop()) == times(7, *CLIENT, *SERVER, "time_wait>closed")


def test_processes_are_counted_as_the_tracer_counts_them_where_proc_is_its_own_too() -> None:
    tracer = (*COMMAND, "trace", "--ndjson", "--count", "5", "dport = :3000")
    apart = (
        "unshare",
        "--net",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child=KILL",
        sys.executable,
        "-c",
        OWN_TRAFFIC,
    )
    done = subprocess.run((*apart, *tracer), capture_output=True, text=True, check=True, env=ENVIRONMENT, timeout=60)
    assert json.loads(done.stdout) == [1, [1] * 5]
