"""`finwait trace` as its user runs it: every change of connections of two processes is told exactly once, and nothing else."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from contextlib import ExitStack
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from finwait.lab.namespace import await_condition
from tests.kernel.finwait_command import COMMAND, ENVIRONMENT
from tests.kernel.tracer import (
    BEGUN,
    CLIENT,
    CONNECT,
    PATIENCE_S,
    PORT,
    SERVE,
    SERVER,
    TICK_US,
    Lab,
    Row,
    Tracer,
    busy,
    lab,
    make_deaf_addresses,
    micros,
    step,
    steps,
    times,
    told,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from finwait.lab.population import Population

__all__ = ["busy", "lab"]  # the fixtures


@pytest.fixture(scope="module", autouse=True)
def minute() -> Iterator[Tracer]:
    """A tracer that has seen seven connections come to TIME-WAIT when the first test of this file began."""
    with ExitStack() as stack:
        lab = Lab(stack)
        client, server = lab.pair(place := lab.place())
        tracer = lab.tracer("state time-wait", place=place)
        server.begin(SERVE.format(count=7))
        client.do(CONNECT.format(count=7, address="127.0.0.1", end="one.close()"))
        server.answer()
        yield tracer


# -- connections opened and closed


@pytest.mark.parametrize(
    ("listening", "address", "count"),
    [("127.0.0.1", "127.0.0.1", 1009), ("::1", "::1", 251), ("::", "127.0.0.1", 101)],
    ids=["ipv4", "ipv6", "mapped"],
)
def test_each_change_of_every_connection_is_told_once_with_its_socket_and_its_process(
    lab: Lab, listening: str, address: str, count: int
) -> None:
    place = lab.place()
    client, server = lab.actor(place, "the-client"), lab.actor(place, "the-server")
    tracer = lab.tracer(place=place)
    server.do(f"server = listen('{listening}', dualstack_ipv6={listening == '::'})")
    server.begin(SERVE.format(count=count))
    connected = client.do(CONNECT.format(count=count, address=address, end="one.close()"))
    accepted = server.answer()
    server.do("server.close()")
    tracer.catch_up(client)
    missed = tracer.missed
    rows = tracer.stop()

    listener = [row for row in rows if "listen" in step(row) and not row["peer_port"]]
    assert told(listener) == [("closed>listen", "passive_open"), ("listen>closed", "close")]
    assert {row["pid"] for row in listener} == {server.pid}
    rows = [row for row in rows if row["peer_port"]]
    assert steps(rows) == times(count, *CLIENT, *SERVER)
    inferred = [row["cookie"] for row in rows if row["evidence"] != "event"]
    assert len(inferred) <= missed  # since when such a connection is in the next state is not known either
    since_unknown = {step(row) for row in rows if row["in_from_us"] is None and row["cookie"] not in inferred}
    assert since_unknown == {"closed>syn_sent", "listen>syn_received"}
    assert all(row["error"] is None for row in rows)

    of_client = [row for row in rows if row["peer_port"] == PORT]
    of_server = [row for row in rows if row["local_port"] == PORT]
    assert len(of_client) + len(of_server) == len(rows)
    assert Counter((row["cookie"], row["local_port"]) for row in of_client) == Counter(
        {(number, port): len(CLIENT) for number, port in connected}
    )
    assert Counter((row["cookie"], row["peer_port"]) for row in of_server if row["from"] != "listen") == Counter(
        {(number, port): len(SERVER) - 1 for number, port in accepted}
    )
    assert {(row["local_address"], row["peer_address"]) for row in rows} == {(address, address)}
    families = ({row["family"] for row in of_client}, {row["family"] for row in of_server})
    assert families == tuple({"inet6" if ":" in one else "inet"} for one in (address, listening))

    assert {(row["pid"], row["process"]) for row in of_client} == {(client.pid, "the-client")}
    by_step = defaultdict(set)
    for row in of_server:
        by_step[step(row)].add((row["pid"], row["process"]))
    assert by_step["listen>syn_received"] == by_step["syn_received>established"] == {(None, None)}
    assert by_step["established>close_wait"] <= {(None, None), (server.pid, "the-server")}
    assert by_step["close_wait>last_ack"] == by_step["last_ack>closed"] == {(server.pid, "the-server")}


def test_the_steps_of_each_connection_are_in_order(lab: Lab) -> None:
    rows = rows_of_traffic(lab, 97)
    by_end: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for row in rows:
        by_end[row["local_port"], row["peer_port"]].append(step(row))
    assert len(by_end) == 2 * 97
    for (_, peer_port), found in by_end.items():
        assert tuple(found) == (CLIENT if peer_port == PORT else SERVER)


def test_the_rows_of_all_connections_are_in_order_of_time(lab: Lab) -> None:
    at = [row["at"] for row in rows_of_traffic(lab, 4001)]
    assert at == sorted(at)


def test_no_loss_is_said_where_everything_was_told(lab: Lab) -> None:
    for _ in range(5):
        client, server = lab.pair(place := lab.place())
        tracer = lab.tracer(place=place)
        server.begin(SERVE.format(count=2003))
        client.do(CONNECT.format(count=2003, address="127.0.0.1", end="one.close()"))
        server.answer()
        tracer.catch_up(client)
        assert steps(tracer.stop()) == times(2003, *CLIENT, *SERVER)
        assert tracer.records[-1]["lost"] == 0


def rows_of_traffic(lab: Lab, count: int) -> list[Row]:
    client, server = lab.pair(place := lab.place())
    tracer = lab.tracer(place=place)
    server.begin(SERVE.format(count=count))
    client.do(CONNECT.format(count=count, address="127.0.0.1", end="one.close()"))
    server.answer()
    tracer.catch_up(client)
    return tracer.stop()


def test_the_time_in_a_state_is_the_difference_of_the_times_of_its_changes(lab: Lab) -> None:
    client, server = lab.pair(place := lab.place())
    tracer = lab.tracer(place=place)
    for code in ("connect()", "answer = None"):
        client.do(f"one = {code}" if code == "connect()" else "one.send(b'x')")
        tracer.catch_up(server)  # so that each change is read by itself
    client.do("one.shutdown(socket.SHUT_WR)")
    tracer.catch_up(server)
    server.do("server.accept()[0].close()")
    tracer.catch_up(server)
    rows = [row for row in tracer.stop() if row["peer_port"] == PORT]
    for before, after in pairwise(rows):
        assert abs(micros(after) - micros(before) - after["in_from_us"]) <= 1  # each is cut to microseconds


def test_of_two_workers_the_one_that_has_received_is_named(lab: Lab) -> None:
    place = lab.place()
    client, server = lab.pair(place)
    server.do("""
pids = []
for number in range(2):
    orders, told = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        C.prctl(15, f"worker-{number}".encode(), 0, 0, 0)
        C.prctl(1, signal.SIGKILL, 0, 0, 0)
        while os.read(orders[0], 1):
            one, _ = server.accept()
            one.recv(1)
            os.write(told[1], b".")
            assert one.recv(1) == b""
            one.close()
        os._exit(0)
    os.close(orders[0])
    pids.append((pid, orders[1], told[0]))
""")
    workers = server.do("answer = [pid for pid, _, _ in pids]")
    tracer = lab.tracer(place=place)
    wanted = {}
    for number in (0, 1, 1, 0, 1):
        server.do(f"os.write(pids[{number}][1], b'.')")
        port = client.do("one = connect(); one.send(b'x'); answer = one.getsockname()[1]")
        server.do(f"os.read(pids[{number}][2], 1)")
        client.do("one.close()")
        wanted[port] = (workers[number], f"worker-{number}")
    tracer.wait_for("last_ack>closed", 5)
    server.do("for pid, orders, _ in pids:\n    os.kill(pid, signal.SIGKILL)\n    os.waitpid(pid, 0)")
    for row in tracer.stop():
        if row["local_port"] != PORT or not row["peer_port"]:
            continue
        named = (row["pid"], row["process"])
        assert named == ((None, None) if row["to"] in {"syn_received", "established"} else wanted[row["peer_port"]])


BYSTAND = "until = time.monotonic() + 2\nwhile time.monotonic() < until: pass"


def test_a_bystander_is_never_named(lab: Lab) -> None:
    """shutdown() of a Fast Open connection in SYN-RECEIVED takes effect when the ACK comes (Linux 6.10)."""
    client, server = lab.pair(place := lab.place(sysctls={"net.ipv4.tcp_fastopen": 0x607}))
    bystanders = [lab.actor(place, "bystander") for _ in range(2 * (os.cpu_count() or 1))]
    tracer = lab.tracer(place=place)
    client.do("""
held = [socket.socket() for _ in range(23)]
for one in held:
    be_deaf(one)
    try:
        one.sendto(b"x", 0x20000040, ("127.0.0.1", 3000))  # MSG_FASTOPEN | MSG_DONTWAIT
    except BlockingIOError:
        pass
""")
    server.do("""
held = [server.accept()[0] for _ in range(23)]
for one in held:
    assert one.recv(1) == b"x"
    one.shutdown(socket.SHUT_WR)
""")
    tracer.catch_up(server)
    assert steps(tracer.rows) == times(23, "closed>syn_sent", "listen>syn_received")
    for one in bystanders:
        one.begin(BYSTAND)
    client.do("for one in held: hear(one)")
    tracer.wait_for("established>fin_wait_1", 23)  # when the SYN,ACK has come again
    for one in bystanders:
        one.answer()
    for row in tracer.stop():
        assert row["pid"] in {None, client.pid if row["peer_port"] == PORT else server.pid}, row


# -- sockets that were there before


def test_the_next_change_of_a_socket_that_was_there_has_no_time_and_the_right_owner(lab: Lab) -> None:
    place = lab.place()
    client, server = lab.pair(place)
    client.do("old = [connect() for _ in range(7)]")
    server.do("old = [server.accept()[0] for _ in range(7)]")
    tracer = lab.tracer(place=place)
    client.do("for one in old: one.close()")
    server.do("for one in old:\n    assert one.recv(1) == b''\n    one.close()")
    tracer.catch_up(client)
    rows = tracer.stop()
    assert steps(rows) == times(7, *CLIENT[2:], *SERVER[2:])
    assert {step(row) for row in rows if row["in_from_us"] is None} == {
        "established>fin_wait_1", "established>close_wait",
    }  # fmt: skip
    for row in rows:
        assert (row["pid"], row["process"]) == (
            (client.pid, "the-client") if row["peer_port"] == PORT else (server.pid, "the-server")
        )


def test_a_listener_that_was_there_is_closed_by_its_process(lab: Lab) -> None:
    client, server = lab.pair(place := lab.place())
    tracer = lab.tracer(place=place)
    server.do("server.close()")
    tracer.catch_up(client)
    [row] = tracer.stop()
    assert (step(row), row["why"], row["in_from_us"]) == ("listen>closed", "close", None)
    assert (row["pid"], row["local_port"]) == (server.pid, PORT)


def test_mini_sockets_that_were_there_are_told_when_they_end(lab: Lab) -> None:
    sysctls: dict[str, str | int] = {"net.ipv4.tcp_fin_timeout": 3, "net.ipv4.tcp_synack_retries": 1}
    client, server = lab.pair(place := lab.place(sysctls=sysctls))
    make_deaf_addresses(place)
    server.do("other = listen('10.8.0.1')")
    client.do("for at in range(5): send_syn(f'10.9.0.{at}', 4000)")
    client.do("old = [connect() for _ in range(3)]")
    server.do("old = [server.accept()[0] for _ in range(3)]")
    client.do("for one in old: one.close()")
    tracer = lab.tracer(place=place)
    tracer.wait(lambda: len(tracer.rows) >= 8)
    tracer.catch_up(client)
    rows = tracer.stop()
    causes = Counter((step(row), row["why"]) for row in rows)
    assert causes == {("syn_received>closed", "timeout_syn_ack"): 5, ("fin_wait_2>closed", "timeout_fin_wait_2"): 3}
    for row in rows:
        assert (row["in_from_us"] is None) == (row["from"] == "fin_wait_2")
        assert row["from"] == "fin_wait_2" or row["in_from_us"] >= 3_000_000  # 1 s, the SYN,ACK again, 2 s


# -- nothing stays, nothing is lost unsaid


BPF_IDS = """
import ctypes, json, os, sys
BPF, BY_ID = 321, {"prog": 13, "map": 14, "link": 30}  # bpf(2) of x86-64; BPF_PROG_GET_FD_BY_ID, ...
left = []
for kind, number in json.loads(sys.argv[1]):
    attribute = (ctypes.c_uint32 * 32)(number)
    found = ctypes.CDLL(None).syscall(BPF, BY_ID[kind], attribute, ctypes.sizeof(attribute))
    if found >= 0:
        os.close(found)
        left.append([kind, number])
print(json.dumps(left))
"""


def bpf_objects_of(pid: int) -> set[tuple[str, int]]:
    """Programs, maps and links that a process has descriptors of."""
    found = set()
    for name in os.listdir(f"/proc/{pid}/fdinfo"):
        with open(f"/proc/{pid}/fdinfo/{name}", encoding="ascii") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key in {"prog_id", "map_id", "link_id"}:
                    found.add((key[:-3], int(value)))
    return found


def alive(objects: set[tuple[str, int]]) -> list[list[object]]:
    command = (sys.executable, "-c", BPF_IDS, json.dumps(sorted(objects)))
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize("seed", range(11))
def test_of_a_tracer_that_is_killed_at_any_moment_nothing_stays_attached(busy: Population, seed: int) -> None:
    """It is stopped first, so that what it has can be seen; the first half of them while they begin."""
    moment_s = random.Random(seed).uniform(0.05, 0.5)
    command = busy.enter_command(*COMMAND, "trace", "--ndjson")
    tracer = subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT)
    assert tracer.stdout is not None
    if seed % 2:
        assert b'"ready"' in tracer.stdout.readline()
    with pytest.raises(subprocess.TimeoutExpired):
        tracer.wait(moment_s)
    tracer.send_signal(signal.SIGSTOP)
    assert await_condition(lambda: state_of(tracer.pid) == "T", PATIENCE_S)
    had = bpf_objects_of(tracer.pid)
    assert len(alive(had)) == len(had)
    assert not seed % 2 or {kind for kind, _ in had} == {"prog", "map", "link"}
    tracer.kill()
    tracer.stdout.close()
    tracer.wait(PATIENCE_S)
    assert await_condition(lambda: not alive(had), PATIENCE_S), alive(had)


def state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0]


MANY = 20_011
SERVE_ABORTS = """
for _ in range({count}):
    one, _ = server.accept()
    try:
        assert one.recv(1) == b""
    except ConnectionResetError:
        pass
    one.close()
"""


@pytest.mark.parametrize(
    ("end", "serve", "wanted"),
    [
        pytest.param(
            "abort(one)",
            SERVE_ABORTS,
            times(MANY, *BEGUN) + times(2 * MANY, "established>closed"),
            id="aborted",
        ),
        pytest.param(
            "one.close()",
            SERVE,
            times(MANY, *CLIENT, *SERVER),
            id="closed",
        ),
    ],
)
def test_what_a_small_ring_has_no_room_for_is_counted(lab: Lab, end: str, serve: str, wanted: Counter[str]) -> None:
    place = lab.place(sysctls={"net.ipv4.ip_local_port_range": "1024 65535"})
    client, server = lab.pair(place)
    tracer = lab.tracer("--buffer", "1", place=place)
    tracer.process.send_signal(signal.SIGSTOP)
    server.begin(serve.format(count=MANY))
    client.do(CONNECT.format(count=MANY, address="127.0.0.1", end=end))
    server.answer()
    tracer.process.send_signal(signal.SIGCONT)
    tracer.wait(lambda: tracer.lost > 0)
    tracer.catch_up(client)
    rows = tracer.stop()
    assert not steps(rows) - wanted
    assert tracer.records[-1]["lost"] == tracer.lost
    assert len(rows) + tracer.lost == wanted.total()


def test_time_wait_lasts_a_minute_and_ends_by_its_timer(minute: Tracer) -> None:
    """Its timer ends up to an eighth later than it was set for (kernel/time/timer.c)."""
    assert await_condition(lambda: steps(minute.rows)["time_wait>closed"] == 7, 75.0)
    begins = {row["cookie"]: row["at"] for row in minute.rows if row["to"] == "time_wait"}
    ends = [row for row in minute.rows if row["from"] == "time_wait"]
    assert {(row["why"], row["evidence"], row["pid"]) for row in ends} == {("timeout_time_wait", "event", None)}
    for row in ends:
        assert 60_000_000 <= row["in_from_us"] <= 67_500_000
        lasted = datetime.fromisoformat(row["at"]) - datetime.fromisoformat(begins.pop(row["cookie"]))
        assert abs(lasted // timedelta(microseconds=1) - row["in_from_us"]) <= TICK_US
    assert not begins
