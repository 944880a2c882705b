"""`finwait trace` as its user runs it: every change of connections of two processes is told exactly once, and nothing else."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from contextlib import ExitStack
from datetime import datetime, timedelta
from functools import partial
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Any

import pytest

from finwait.lab.namespace import await_condition
from finwait.lab.population import Group, Population, Spec
from finwait.table.change import CHANGE_NAMES
from tests.kernel.bad_input import refusal, run_bytes
from tests.kernel.finwait_command import COMMAND, ENVIRONMENT
from tests.kernel.test_privileges import WITHOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Row = dict[str, Any]
PATIENCE_S = 20.0
TICK_US = 10_000  # the longest tick of a kernel (HZ=100): when a timer was set is known to the tick
PORT = 3000
SENTINELS = range(1, 1000)  # ports that only `Tracer.catch_up` listens at
# tcp_rfc1337: where the timer of a delayed ACK and a close() run at once on two processors, the ACK may come after the end, is
# answered by RST, and that ends a TIME_WAIT on the loopback; told by the tracer, but no exact number.
SYSCTLS: dict[str, str | int] = {"net.ipv4.tcp_tw_reuse": 0, "net.ipv4.tcp_syncookies": 1, "net.ipv4.tcp_rfc1337": 1}
# What a connection goes through where its client closes first, and its server when it has read the end.
CLIENT = ("closed>syn_sent", "syn_sent>established", "established>fin_wait_1", "fin_wait_1>fin_wait_2",
          "fin_wait_2>time_wait")  # fmt: skip
SERVER = ("listen>syn_received", "syn_received>established", "established>close_wait", "close_wait>last_ack",
          "last_ack>closed")  # fmt: skip
BEGINNINGS = {"closed>syn_sent", "listen>syn_received", "closed>listen"}
BEGUN = ("closed>syn_sent", "syn_sent>established", "listen>syn_received", "syn_received>established")
# A program inside the namespace: it does what the lines of its standard input say, and prints what they leave in `answer`.
ACTOR = """
import ctypes, json, os, signal, socket, struct, sys, time
C = ctypes.CDLL(None)
C.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
C.prctl(15, sys.argv[1].encode(), 0, 0, 0)  # PR_SET_NAME
def cookie(one):
    return struct.unpack("Q", one.getsockopt(socket.SOL_SOCKET, 57, 8))[0]
def listen(address="127.0.0.1", port=3000, **options):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, backlog=4096, **options)
def connect(address="127.0.0.1", port=3000):
    return socket.create_connection((address, port))
def abort(one):
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()
NOTHING = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))  # BPF_RET | BPF_K: no segment is let in
def be_deaf(one):
    one.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HxxxxxxP", 1, ctypes.addressof(NOTHING)))  # SO_ATTACH_FILTER
def hear(one):
    one.setsockopt(socket.SOL_SOCKET, 27, 0)  # SO_DETACH_FILTER
def checksum(octets):
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
def send_syn(source, port):  # from an address that never answers
    ends = socket.inet_aton(source) + socket.inet_aton("10.8.0.1")
    head = struct.pack("!HHIIBBHHH", port, 3000, 7, 0, 5 << 4, 2, 8192, 0, 0)
    head = head[:16] + struct.pack("!H", checksum(ends + struct.pack("!HH", 6, 20) + head)) + head[18:]
    around = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, 6, 0, ends[:4], ends[4:])
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(around + head, ("10.8.0.1", 0))
names = dict(globals())
for line in sys.stdin:
    names["answer"] = None
    exec(json.loads(line), names)
    print(json.dumps(names["answer"]), flush=True)
"""


# The first process of a pid namespace starts a tracer, opens a connection to itself, and tells whose it is said to be.
OWN_TRAFFIC = """
import json, os, socket, subprocess, sys
os.system("ip link set lo up")
tracer = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)
tracer.stdout.readline()
server = socket.create_server(("127.0.0.1", 3000))
client = socket.create_connection(("127.0.0.1", 3000))
accepted, _ = server.accept()
client.close(); accepted.recv(1); accepted.close()
rows = map(json.loads, tracer.stdout)
print(json.dumps([os.getpid(), [row["pid"] for row in rows if row["type"] == "change"]]))
"""


class Actor:
    """A process of that program."""

    def __init__(self, place: Population, name: str) -> None:
        self.name = name
        command = place.enter_command(sys.executable, "-c", ACTOR, name)
        self._process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self._process.pid
        self.do("pass")

    def begin(self, code: str) -> None:
        """Let it do `code`; `answer` waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def do(self, code: str) -> Any:
        """What `code` leaves in `answer`."""
        self.begin(code)
        return self.answer()

    def end(self) -> None:
        self._process.communicate(timeout=PATIENCE_S)


class Tracer:
    """`finwait trace --ndjson`, ready."""

    _sentinels = cycle(SENTINELS)

    def __init__(self, *arguments: str, place: Population | None = None) -> None:
        command = (*COMMAND, "trace", "--ndjson", *arguments)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            command if place is None else place.enter_command(*command),
            stdout=self._output,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
        )
        self._read = 0
        self._records: list[Row] = []

    @property
    def records(self) -> list[Row]:
        """Everything that it has written."""
        found = os.pread(self._output.fileno(), 1 << 28, self._read)
        whole = found[: found.rfind(b"\n") + 1]
        self._read += len(whole)
        self._records += map(json.loads, whole.splitlines())
        return self._records

    @property
    def rows(self) -> list[Row]:
        """The changes, without those of `catch_up`."""
        return [one for one in self.records if one["type"] == "change" and one["local_port"] not in SENTINELS]

    @property
    def lost(self) -> int:
        return sum(one["lost"] for one in self.records if one["type"] == "loss")

    @property
    def missed(self) -> int:
        """How often the kernel has left out one of its programs, because that ran on the processor already."""
        directory = f"/proc/{self.process.pid}/fdinfo"
        numbers = [
            re.search(r"recursion_misses:\s*(\d+)", read_text(f"{directory}/{fd}")) for fd in os.listdir(directory)
        ]
        return sum(int(found[1]) for found in numbers if found)

    def wait(self, holds: Callable[[], bool]) -> None:
        """Until `holds`; the changes are shown where it never does."""
        assert await_condition(holds, PATIENCE_S), [(step(row), row["local_port"]) for row in self.rows[-50:]]

    def wait_for(self, wanted: str, count: int = 1) -> None:
        self.wait(lambda: steps(self.rows)[wanted] >= count)

    def be_ready(self) -> None:
        self.wait(lambda: bool(self.records) or self.process.poll() is not None)
        assert self.records, self.process.communicate()
        assert self.records[0]["type"] == "ready"

    def catch_up(self, actor: Actor) -> None:
        """Until it has read whatever was before: a change is told that came after. Twice: some are held for one reading."""
        for _ in range(2):
            port = next(self._sentinels)
            actor.do(f"listen(port={port}).close()")
            self.wait(lambda port=port: any(one.get("local_port") == port for one in self.records))  # type: ignore[misc]

    def stop(self) -> list[Row]:
        """Ctrl-C. Returns the changes."""
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=PATIENCE_S)
        assert (self.process.returncode, said) == (130, b"")
        assert [one["type"] for one in self.records].count("end") == 1
        assert self.records[-1]["type"] == "end"
        return self.rows

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()
        self._output.close()


def read_text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


class Lab:
    """Namespaces, programs in them, and tracers; all of it ends with the test."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def place(self, *groups: Group, sysctls: dict[str, str | int] | None = None) -> Population:
        return self._stack.enter_context(Population(Spec(groups, None, SYSCTLS | (sysctls or {}))))

    def actor(self, place: Population, name: str) -> Actor:
        actor = Actor(place, name)
        self._stack.callback(actor.end)
        return actor

    def pair(self, place: Population) -> tuple[Actor, Actor]:
        """A client and a server that listens."""
        client, server = self.actor(place, "the-client"), self.actor(place, "the-server")
        server.do("server = listen()")
        return client, server

    def tracer(self, *arguments: str, place: Population | None = None) -> Tracer:
        tracer = Tracer(*arguments, place=place)
        self._stack.callback(tracer.kill)
        tracer.be_ready()
        return tracer


@pytest.fixture
def lab() -> Iterator[Lab]:
    with ExitStack() as stack:
        yield Lab(stack)


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


def step(row: Row) -> str:
    return f"{row['from']}>{row['to']}"


def steps(rows: list[Row]) -> Counter[str]:
    return Counter(map(step, rows))


def told(rows: list[Row], **wanted: object) -> list[tuple[str, str | None]]:
    """Steps and causes, in order, of the rows that have these cells."""
    return [(step(row), row["why"]) for row in rows if wanted.items() <= row.items()]


def times(count: int, *names: str) -> Counter[str]:
    return Counter(dict.fromkeys(names, count))


CONNECT = """
answer = []
for _ in range({count}):
    one = connect("{address}")
    answer.append([cookie(one), one.getsockname()[1]])
    {end}
"""
SERVE = """
answer = []
for _ in range({count}):
    one, _ = server.accept()
    answer.append([cookie(one), one.getpeername()[1]])
    assert one.recv(1) == b""
    one.close()
"""


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


def micros(row: Row) -> int:
    hours, minutes, seconds = row["at"][11:-1].split(":")
    return (int(hours) * 60 + int(minutes)) * 60_000_000 + round(float(seconds) * 1_000_000)


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


# -- half-open connections


def make_deaf_addresses(place: Population) -> None:
    """Let 10.8.0.1 be ours, and nobody be where 10.9.0.0/16 leads."""
    place.run("ip", "address", "add", "10.8.0.1/32", "dev", "lo")
    place.run("ip", "route", "add", "10.9.0.0/16", "dev", "lo")


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


# -- ways to open and to end


def test_a_refused_connection_is_told_with_its_error(lab: Lab) -> None:
    client = lab.actor(place := lab.place(), "the-client")
    tracer = lab.tracer(place=place)
    for address in ("127.0.0.1", "::1"):
        family = "socket.AF_INET6" if ":" in address else "socket.AF_INET"
        code = f"one = socket.socket({family}); answer = [one.connect_ex(('{address}', 4999)), cookie(one)]"
        number, cookie = client.do(code)
        tracer.catch_up(client)
        assert number == 111
        rows = [row for row in tracer.rows if row["local_address"] == address]
        assert told(rows) == [("closed>syn_sent", "active_open"), ("syn_sent>closed", "rcv_rst")]
        assert [row["error"] for row in rows] == [None, "ECONNREFUSED"]
        assert {(row["cookie"], row["pid"], row["peer_port"]) for row in rows} == {(cookie, client.pid, 4999)}
        assert len({row["local_port"] for row in rows} - {None}) == 1
    assert len(tracer.stop()) == 4


def test_a_connection_that_is_aborted_is_told_at_both_ends(lab: Lab) -> None:
    client, server = lab.pair(place := lab.place())
    tracer = lab.tracer(place=place)
    client.do("held = [connect() for _ in range(5)]")
    server.do("held = [server.accept()[0] for _ in range(5)]")
    client.do("for one in held: abort(one)")
    tracer.catch_up(client)
    rows = tracer.stop()
    assert steps(rows) == times(5, *BEGUN) + times(10, "established>closed")
    ends = [row for row in rows if row["to"] == "closed"]
    causes = Counter((row["peer_port"] == PORT, row["why"], row["error"]) for row in ends)
    assert causes == {(True, "abort", None): 5, (False, "rcv_rst", "ECONNRESET"): 5}


def test_half_a_connection_is_closed_by_shutdown(lab: Lab) -> None:
    client, server = lab.pair(place := lab.place())
    tracer = lab.tracer(place=place)
    client.do("one = connect(); one.shutdown(socket.SHUT_WR)")
    server.do("one, _ = server.accept(); assert one.recv(1) == b''; one.sendall(b'x' * 9999)")
    client.do("left = 9999\nwhile left: left -= len(one.recv(left))")
    server.do("one.close()")
    client.do("assert one.recv(1) == b''; one.close()")
    tracer.catch_up(client)
    rows = tracer.stop()
    assert told(rows, peer_port=PORT) == [
        ("closed>syn_sent", "active_open"), ("syn_sent>established", "rcv_syn_ack"),
        ("established>fin_wait_1", "shutdown_write"), ("fin_wait_1>fin_wait_2", "rcv_ack_of_fin"),
        ("fin_wait_2>time_wait", "rcv_fin"),
    ]  # fmt: skip
    assert told(rows, local_port=PORT) == [
        ("listen>syn_received", "rcv_syn"), ("syn_received>established", "rcv_ack_of_syn"),
        ("established>close_wait", "rcv_fin"), ("close_wait>last_ack", "close"), ("last_ack>closed", "rcv_ack_of_fin"),
    ]  # fmt: skip


def test_a_connection_whose_ends_close_at_once_goes_through_closing(lab: Lab) -> None:
    """Both FINs are lost; the client's comes again to a server that has sent its own."""
    client, server = lab.pair(place := lab.place())
    tracer = lab.tracer(place=place)
    client.do("one = connect(); be_deaf(one)")
    server.do("one, _ = server.accept(); be_deaf(one)")
    client.do("one.shutdown(socket.SHUT_WR)")
    server.do("one.shutdown(socket.SHUT_WR)")
    tracer.wait_for("established>fin_wait_1", 2)
    server.do("hear(one)")
    tracer.wait_for("fin_wait_1>closing")
    client.do("hear(one)")
    tracer.wait_for("closing>time_wait")
    tracer.catch_up(client)
    rows = tracer.stop()
    assert told(rows, local_port=PORT)[2:] == [
        ("established>fin_wait_1", "shutdown_write"), ("fin_wait_1>closing", "rcv_fin"),
        ("closing>time_wait", "rcv_ack_of_fin"),
    ]  # fmt: skip
    assert told(rows, peer_port=PORT)[2:] == [
        ("established>fin_wait_1", "shutdown_write"), ("fin_wait_1>fin_wait_2", "rcv_ack_of_fin"),
        ("fin_wait_2>time_wait", "rcv_fin"),
    ]  # fmt: skip
    assert len(rows) == 10


def test_fast_open_is_told_as_such(lab: Lab) -> None:
    client, server = lab.pair(place := lab.place(sysctls={"net.ipv4.tcp_fastopen": 0x607}))
    tracer = lab.tracer(place=place)
    client.do("one = socket.socket(); one.sendto(b'x', 0x20000000, ('127.0.0.1', 3000))")  # MSG_FASTOPEN
    server.do("one, _ = server.accept(); assert one.recv(1) == b'x'; answer = cookie(one)")
    tracer.wait_for("syn_received>established")
    tracer.catch_up(client)
    rows = tracer.stop()
    assert told(rows, local_port=PORT) == [
        ("listen>syn_received", "rcv_syn_fast_open"), ("syn_received>established", "rcv_ack_of_syn"),
    ]  # fmt: skip
    assert told(rows, peer_port=PORT) == [("closed>syn_sent", "active_open"), ("syn_sent>established", "rcv_syn_ack")]
    assert {row["pid"] for row in rows if row["peer_port"] == PORT} == {client.pid}
    assert all(row["local_port"] for row in rows)


def test_a_syn_cookie_leads_from_the_listener_to_established(lab: Lab) -> None:
    client, server = lab.pair(place := lab.place(sysctls={"net.ipv4.tcp_syncookies": 2}))
    tracer = lab.tracer(place=place)
    client.do("held = [connect() for _ in range(11)]")
    cookies = server.do("held = [server.accept()[0] for _ in range(11)]; answer = [cookie(one) for one in held]")
    tracer.catch_up(client)
    rows = tracer.stop()
    assert steps(rows) == times(11, *BEGUN[:2], "listen>established")
    by_cookie = [row for row in rows if row["from"] == "listen"]
    assert {row["why"] for row in by_cookie} == {"rcv_ack_of_cookie"}
    assert {row["in_from_us"] for row in by_cookie} == {None}
    assert sorted(row["cookie"] for row in by_cookie) == sorted(cookies)


def test_a_time_wait_whose_ports_are_used_again_ends_before_the_new_connection(lab: Lab) -> None:
    client, server = lab.pair(place := lab.place())
    tracer = lab.tracer(place=place)
    code = """
one = socket.socket()
one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
one.bind(("127.0.0.1", 4000))
one.connect(("127.0.0.1", 3000))
"""
    server.begin("one, _ = server.accept(); one.close()")  # the server's end is left in TIME_WAIT
    client.do(f"{code}assert one.recv(1) == b''; one.close()")
    server.answer()
    tracer.wait_for("last_ack>closed")
    tracer.wait_for("fin_wait_2>time_wait")
    server.begin("one, _ = server.accept()")
    client.do(code)
    server.answer()
    tracer.catch_up(client)
    of_server = told(tracer.stop(), local_port=PORT)
    assert of_server[-4:] == [
        ("fin_wait_2>time_wait", "rcv_fin"), ("time_wait>closed", "rcv_syn"), ("listen>syn_received", "rcv_syn"),
        ("syn_received>established", "rcv_ack_of_syn"),
    ]  # fmt: skip


SLOW_LINK = "tc qdisc add dev lo root tbf rate 8kbit burst 1600 latency 10s"  # a FIN takes some 60 ms


def test_both_ends_are_in_closing_where_their_fins_cross(lab: Lab) -> None:
    client = lab.actor(place := lab.place(), "the-client")
    tracer = lab.tracer(place=place)
    client.do("server = listen(); one = connect(); other, _ = server.accept(); port = one.getsockname()[1]")
    place.run(*SLOW_LINK.split())
    client.do(
        "socket.socket(type=socket.SOCK_DGRAM).sendto(bytes(1500), ('127.0.0.1', 9))\n"  # now the link is busy
        "one.shutdown(socket.SHUT_WR)\n"
        "other.shutdown(socket.SHUT_WR)\n"
        "answer = port"
    )
    tracer.wait_for("closing>time_wait", 2)
    port = client.do("answer = port")
    closing = [
        ("established>fin_wait_1", "shutdown_write"),
        ("fin_wait_1>closing", "rcv_fin"),
        ("closing>time_wait", "rcv_ack_of_fin"),
    ]
    assert told(tracer.rows, local_port=port)[2:] == closing
    assert told(tracer.rows, local_port=PORT, peer_port=port)[2:] == closing


# -- filters


FILTERED: list[tuple[tuple[str, ...], Callable[[Row], bool]]] = [
    (("sport = :3000",), lambda row: row["local_port"] == PORT),
    (("dport = :3000",), lambda row: row["peer_port"] == PORT),
    (("sport != :3000",), lambda row: row["local_port"] != PORT),
    (("sport > :3000",), lambda row: row["local_port"] > PORT),
    (("dport >= :3000", "dport <= :3000"), lambda row: row["peer_port"] == PORT),
    (("state time-wait",), lambda row: "time_wait" in {row["from"], row["to"]}),
    (("state established",), lambda row: "established" in {row["from"], row["to"]}),
    (("exclude established",), lambda row: {row["from"], row["to"]} != {"established"}),
    (("dst 127.0.0.2",), lambda row: row["peer_address"] == "127.0.0.2"),
    (("src 127.0.0.2",), lambda row: row["local_address"] == "127.0.0.2"),
    (("dst 127.0.0.0/8", "and", "sport = :3000"), lambda row: row["local_port"] == PORT and row["family"] == "inet"),
    (("-4",), lambda row: row["family"] == "inet"),
    (("-6",), lambda row: row["family"] == "inet6"),
    (("process = the-client",), lambda row: row["process"] == "the-client"),
    (("state time-wait", "dst ::1"), lambda row: row["to"] == "time_wait" and row["peer_address"] == "::1"),
]


@pytest.mark.parametrize(("words", "accepts"), FILTERED, ids=[" ".join(words) for words, _ in FILTERED])
def test_a_filter_lets_through_what_it_says_and_nothing_else(
    lab: Lab, words: tuple[str, ...], accepts: Callable[[Row], bool]
) -> None:
    """A second round shows that nothing more came of the first one."""
    client, server = lab.pair(place := lab.place())
    server.do("servers = [server, listen('127.0.0.2'), listen('::1')]")
    everything, filtered = lab.tracer(place=place), lab.tracer(*words, place=place)
    for count in (5, 5):
        for at, address in enumerate(("127.0.0.1", "127.0.0.2", "::1")):
            server.do(f"server = servers[{at}]")
            server.begin(SERVE.format(count=count))
            client.do(CONNECT.format(count=count, address=address, end="one.close()"))
            server.answer()
        everything.catch_up(client)
        wanted = [row for row in everything.rows if accepts(row)]
        assert 0 < len(wanted) < len(everything.rows) or words == ("exclude established",)
        filtered.wait(lambda wanted=wanted: len(filtered.rows) >= len(wanted))  # type: ignore[misc]
        assert keys(filtered.rows) == keys(wanted)
        one, other = causes(filtered.rows), causes(everything.rows)
        assert [one[key] for key in one.keys() & other.keys()] == [other[key] for key in one.keys() & other.keys()]
    filtered.stop()
    assert steps(everything.stop()) == times(30, *CLIENT, *SERVER)


def key_of(row: Row) -> tuple[object, ...]:
    """What two tracers say of the same change; each has its own clock reading and learns owners when it can."""
    return tuple(
        row[name] for name in ("cookie", "local_address", "local_port", "peer_address", "peer_port", "from", "to")
    )


def keys(rows: list[Row]) -> Counter[tuple[object, ...]]:
    return Counter(map(key_of, rows))


def causes(rows: list[Row]) -> dict[tuple[object, ...], str | None]:
    """Of changes that were told as they happened: each tracer may miss one, and infer it."""
    return {key_of(row): row["why"] for row in rows if row["evidence"] == "event"}


def test_a_least_time_leaves_out_what_was_shorter_and_what_is_not_known(lab: Lab) -> None:
    client, server = lab.pair(place := lab.place())
    everything, slow = lab.tracer(place=place), lab.tracer("--min-time", "0.3", place=place)
    client.do("slow = connect(); slow_port = slow.getsockname()[1]; time.sleep(0.3)")
    server.do("one, _ = server.accept()")
    for code in ("slow.close()", "one = connect(); one.close()"):
        client.do(code)
    server.do("other, _ = server.accept()\nfor one in (one, other):\n    one.recv(1)\n    one.close()")
    everything.catch_up(client)
    slow.wait(lambda: len(slow.rows) >= 2)
    port = client.do("answer = slow_port")
    rows = slow.stop()
    assert keys(rows) == keys(
        [row for row in everything.stop() if row["in_from_us"] is not None and row["in_from_us"] >= 300_000]
    )
    assert {step(row) for row in rows} == {"established>fin_wait_1", "established>close_wait"}
    assert {port in {row["local_port"], row["peer_port"]} for row in rows} == {True}


def run_in(place: Population, *arguments: str) -> tuple[int, bytes, bytes]:
    done = run_bytes(place.enter_command(*COMMAND, "trace", *arguments))
    return done.returncode, done.stdout, done.stderr


ENDLESS = """
import threading
ended, made = threading.Event(), threading.Event()
def work():
    while not ended.is_set():
        one = connect()
        server.accept()[0].close()
        one.close()
        made.set()
thread = threading.Thread(target=work)
thread.start()
made.wait()
"""


@pytest.fixture
def busy(lab: Lab) -> Iterator[Population]:
    """A namespace where connections come and go all the time."""
    place = lab.place(sysctls={"net.ipv4.tcp_tw_reuse": 1})
    actor = lab.actor(place, "busy")
    actor.do("server = listen()")
    actor.do(ENDLESS)
    yield place
    actor.do("ended.set(); thread.join()")


def test_a_filter_that_matches_nothing_tells_nothing(busy: Population) -> None:
    for words in (("sport = :7",), ("state closing",), ("dst 10.1.2.3",), ("-6",), ("process = nobody-here",)):
        code, told, said = run_in(busy, "--for", "0.2", "--ndjson", *words)
        assert (code, said) == (0, b"")
        assert [json.loads(line)["type"] for line in told.splitlines()] == ["ready", "end"]


@pytest.mark.parametrize("word", ["recv-q > 0", "rtt_us > 5", "user = root", "uid = 0", "dev = lo", "fwmark = 1"])
def test_a_filter_of_what_changes_do_not_tell_is_refused_in_one_line(word: str) -> None:
    said = refusal(2, "trace", "--for", "0.1", word)
    assert "local_port" in said
    assert "process" in said


# -- namespaces


def test_changes_of_the_chosen_namespaces_alone_are_told(lab: Lab) -> None:
    places = [lab.place() for _ in range(3)]
    actors = [lab.actor(place, "one") for place in places]
    labels = []
    for place in places:
        inode = os.stat(f"/proc/{place.pid}/ns/net").st_ino
        labels.append({f"net:[{inode}]", str(place.pid), f"pid:{place.pid}"})
    tracers = {
        (0,): lab.tracer(place=places[0]),
        (1,): lab.tracer("-N", str(places[1].pid)),
        (0, 2): lab.tracer("-N", str(places[0].pid), "-N", str(places[2].pid)),
        (0, 1, 2): lab.tracer("--all-netns"),
    }
    for at, actor in enumerate(actors):
        actor.do(f"listen(port={4000 + at}).close()")
    for watched, tracer in tracers.items():
        wanted = {4000 + at for at in watched}
        tracer.wait(lambda wanted=wanted, tracer=tracer: wanted <= ports_of(tracer))  # type: ignore[misc]
        tracer.catch_up(actors[watched[0]])
        rows = [row for row in tracer.stop() if 4000 <= row["local_port"] < 4003]
        assert Counter(row["local_port"] for row in rows) == dict.fromkeys(wanted, 2)
        named = {row["local_port"] - 4000: row["netns"] for row in rows}
        assert all(name in labels[at] for at, name in named.items())
        assert len(set(named.values())) == len(named)


def ports_of(tracer: Tracer) -> set[int]:
    return {row["local_port"] for row in tracer.rows if row["to"] == "closed"}


def test_of_very_many_chosen_namespaces_no_other_is_told(lab: Lab) -> None:
    places = [lab.place() for _ in range(17)]  # FINWAIT_MOST_NETNS is 16
    inside, outside = lab.actor(places[16], "inside"), lab.actor(lab.place(), "outside")
    tracer = lab.tracer(*(word for place in places for word in ("-N", str(place.pid))))
    outside.do("listen(port=4000).close()")
    inside.do("listen(port=4001).close()")
    tracer.catch_up(inside)
    assert [row["local_port"] for row in tracer.stop()] == [4001, 4001]


# -- how long, and in what form


@pytest.mark.parametrize("count", [1, 23])
def test_a_trace_of_so_many_changes_ends_after_exactly_so_many(busy: Population, count: int) -> None:
    code, told, said = run_in(busy, "--count", str(count), "--ndjson")
    assert (code, said) == (0, b"")
    kinds = [json.loads(line)["type"] for line in told.splitlines()]
    assert kinds == ["ready", *["change"] * count, "end"]


def test_json_is_one_document_with_the_same_keys(busy: Population) -> None:
    code, told, said = run_in(busy, "--count", "31", "--json")
    assert (code, said) == (0, b"")
    document = json.loads(told)
    assert (document["schema"], document["lost"], document["complete"], document["source"]) == (
        "finwait.trace/1", 0, True, "bpf",
    )  # fmt: skip
    assert len(document["rows"]) == 31
    lines = [json.loads(line) for line in run_in(busy, "--count", "31", "--ndjson")[1].splitlines()]
    assert {tuple(row) for row in document["rows"]} == {tuple(line) for line in lines[1:-1]}


def test_json_of_no_change_is_a_document_too(lab: Lab) -> None:
    code, told, said = run_in(lab.place(), "--for", "0.1", "--json")
    assert (code, said) == (0, b"")
    assert json.loads(told)["rows"] == []


def test_csv_has_a_title_unless_it_is_not_wanted(busy: Population) -> None:
    for arguments, first in ((("--csv",), [list(CHANGE_NAMES)]), (("--csv", "-H"), [])):
        code, told, said = run_in(busy, "--count", "29", *arguments)
        assert (code, said) == (0, b"")
        rows = list(csv.reader(io.StringIO(told.decode())))
        assert rows[: len(first)] == first
        assert len(rows) == len(first) + 29
        assert {len(row) for row in rows} == {len(CHANGE_NAMES)}
        assert {row[-2:] == ["", ""] or row[-1] == "busy" for row in rows[len(first) :]} == {True}


def test_text_has_a_line_for_each_change(busy: Population) -> None:
    for arguments, titles in (((), 1), (("-H",), 0)):
        code, told, said = run_in(busy, "--count", "37", *arguments)
        assert (code, said) == (0, b"")
        lines = told.decode().splitlines()
        assert len(lines) == 37 + titles
        assert all(line.isprintable() for line in lines)
        assert all("127.0.0.1:" in line for line in lines[titles:])
        assert all(("process" in line.lower()) == (at < titles) for at, line in enumerate(lines))


def test_without_owners_the_same_changes_are_told(lab: Lab) -> None:
    client, server = lab.pair(place := lab.place())
    tracer = lab.tracer("--no-owners", place=place)
    server.begin(SERVE.format(count=3))
    client.do(CONNECT.format(count=3, address="127.0.0.1", end="one.close()"))
    server.answer()
    tracer.catch_up(client)
    rows = tracer.stop()
    assert steps(rows) == times(3, *CLIENT, *SERVER)


def test_what_happened_before_ctrl_c_is_told(lab: Lab) -> None:
    client, server = lab.pair(place := lab.place())
    tracer = lab.tracer(place=place)
    tracer.process.send_signal(signal.SIGSTOP)
    server.begin(SERVE.format(count=53))
    client.do(CONNECT.format(count=53, address="127.0.0.1", end="one.close()"))
    server.answer()
    tracer.process.send_signal(signal.SIGINT)
    tracer.process.send_signal(signal.SIGCONT)
    tracer.process.wait(PATIENCE_S)
    assert steps(tracer.rows) == times(53, *CLIENT, *SERVER)


def is_in_main(pid: int) -> bool:
    """Whether the command has begun: it has loaded what only a trace needs, and Python has its own way with SIGINT (before that
    and while it runs code from a text, as namedtuple() does, it ends by the signal).
    """  # fmt: skip
    status = dict(line.split(":\t") for line in read_text(f"/proc/{pid}/status").splitlines() if line.startswith("Sig"))
    catches_term = int(status["SigCgt"], 16) >> (signal.SIGTERM - 1) & 1
    return bool(catches_term)


def test_ctrl_c_at_any_moment_ends_it_with_nothing_or_a_whole_document() -> None:
    for moment in range(29):
        with tempfile.TemporaryFile() as file:
            tracer = subprocess.Popen(
                (*COMMAND, "trace", "--json"), stdout=file, stderr=subprocess.PIPE, env=ENVIRONMENT
            )
            try:
                assert await_condition(partial(is_in_main, tracer.pid), PATIENCE_S)
                with pytest.raises(subprocess.TimeoutExpired):
                    tracer.wait(0.01 * moment)
                tracer.send_signal(signal.SIGINT)
                _, said = tracer.communicate(timeout=PATIENCE_S)
            finally:
                tracer.kill()
                tracer.communicate()
            assert (tracer.returncode, said) == (130, b"")
            file.seek(0)
            told = file.read()
            assert told == b"" or json.loads(told)["rows"] == []


# -- without capabilities


def test_nobody_is_refused_in_one_line() -> None:
    for arguments in (("--source", "bpf"), ("--summary", "--by", "listener"), ("--summary", "--by", "process")):
        said = refusal(5, "trace", *arguments, "--for", "0.1", before=WITHOUT)
        assert said.startswith("BPF is not permitted here (")


def test_what_cannot_be_is_refused_in_one_line() -> None:
    said = refusal(2, "trace", "--summary", "--by", "listener", "--source", "sock_diag")
    assert said.startswith("sums by listener are counted by BPF only")
    assert refusal(2, "trace", "--for", "-1").startswith("'-1' is no number of seconds")


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
