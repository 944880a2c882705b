"""Programs inside namespaces that do what they are told, and `finwait trace` beside them: what its tests are made of."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from itertools import cycle
from typing import TYPE_CHECKING, Any

import pytest

from finwait.lab.namespace import await_condition
from finwait.lab.population import Group, Population, Spec
from tests.kernel.finwait_command import COMMAND, ENVIRONMENT

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


def make_deaf_addresses(place: Population) -> None:
    """Let 10.8.0.1 be ours, and nobody be where 10.9.0.0/16 leads."""
    place.run("ip", "address", "add", "10.8.0.1/32", "dev", "lo")
    place.run("ip", "route", "add", "10.9.0.0/16", "dev", "lo")


def micros(row: Row) -> int:
    hours, minutes, seconds = row["at"][11:-1].split(":")
    return (int(hours) * 60 + int(minutes)) * 60_000_000 + round(float(seconds) * 1_000_000)


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
