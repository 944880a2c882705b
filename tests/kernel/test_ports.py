"""The port budget against what connect() really does: it fails where finwait says that nothing is left, and only there."""

from __future__ import annotations

import csv
import errno
import io
import json
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from finwait.lab.population import Group, Population, Spec
from finwait.lab.scenarios import SCENARIOS
from tests.kernel.finwait_command import run

if TYPE_CHECKING:
    from collections.abc import Iterator

# Runs inside a namespace: reads a line of JSON, answers with a line, holds what it made.
CLIENT = """
import json, socket, sys
kept = []
for line in sys.stdin:
    order = json.loads(line)
    done, error = 0, None
    for _ in range(order["times"]):
        sock = socket.socket()
        try:
            if order["bind"] is not None:
                sock.bind(tuple(order["bind"]))
            if order["connect"] is not None:
                sock.connect(tuple(order["connect"]))
        except OSError as failed:
            error = failed.errno
            break
        done += 1
        if order["keep"]:
            kept.append(sock)
        else:
            sock.close()
    print(json.dumps([done, error]), flush=True)
"""
PORTS = {"net.ipv4.ip_local_port_range": "10000 10101", "net.ipv4.ip_local_reserved_ports": 10050}
CAPACITY = 101


class Client:
    """A process inside the namespace of `held` that does as it is told."""

    def __init__(self, held: Population) -> None:
        self._process = subprocess.Popen(
            held.enter_command(sys.executable, "-c", CLIENT), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(
        self,
        times: int,
        *,
        connect: tuple[str, int] | None = None,
        bind: tuple[str, int] | None = None,
        keep: bool = True,
    ) -> tuple[int, int | None]:
        """How often it could, and the errno that ended it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"times": times, "connect": connect, "bind": bind, "keep": keep}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        done, error = json.loads(self._process.stdout.readline())
        return done, error

    def close(self) -> None:
        """End it."""
        self._process.communicate()


@pytest.fixture
def held() -> Iterator[Population]:
    """A namespace with 102 ports, one of them reserved, and a listener on loopback whose accept queue is long."""
    with Population(Spec((Group("LISTEN", 1),), None, PORTS)) as population:
        yield population


@pytest.fixture
def client(held: Population) -> Iterator[Client]:
    found = Client(held)
    yield found
    found.close()


def budget_of(held: Population, *arguments: str) -> dict[str, Any]:
    document = json.loads(run("ports", "--json", *arguments, held=held).stdout)
    assert document["complete"], document["warnings"]
    return document["namespaces"][0]


def row_of(held: Population, peer: str, *arguments: str) -> dict[str, Any]:
    return next(row for row in budget_of(held, *arguments)["rows"] if row["peer"] == peer)


def test_a_budget_is_spent_where_connect_fails(held: Population, client: Client) -> None:
    assert client.tell(97, connect=("127.0.0.1", 2000)) == (97, None)
    row = row_of(held, "127.0.0.1:2000")
    assert (row["used"], row["capacity"], row["share"]) == (97, CAPACITY, round(97 / CAPACITY, 4))
    assert row["by_state"] == {"established": 97}
    assert client.tell(10, connect=("127.0.0.1", 2000)) == (CAPACITY - 97, errno.EADDRNOTAVAIL)
    assert row_of(held, "127.0.0.1:2000")["share"] == 1.0


def test_another_destination_has_a_budget_of_its_own(held: Population, client: Client) -> None:
    assert client.tell(CAPACITY, connect=("127.0.0.1", 2000)) == (CAPACITY, None)
    assert client.tell(7, connect=("127.0.0.2", 2000)) == (7, None)
    assert row_of(held, "127.0.0.1:2000")["used"] == CAPACITY
    assert row_of(held, "127.0.0.2:2000")["used"] == 7


def test_bind_takes_a_port_from_every_destination(held: Population, client: Client) -> None:
    for port in range(10001, 10021, 2):
        assert client.tell(1, bind=("127.0.0.9", port)) == (1, None)
    budget = budget_of(held)
    assert (budget["taken_by_bind"], budget["capacity"]) == (10, CAPACITY - 10)
    assert client.tell(200, connect=("127.0.0.1", 2000)) == (CAPACITY - 10, errno.EADDRNOTAVAIL)
    assert row_of(held, "127.0.0.1:2000")["share"] == 1.0


def test_a_bound_and_connected_port_is_taken_from_the_others(held: Population, client: Client) -> None:
    for port in (10003, 10005, 10007):
        assert client.tell(1, bind=("127.0.0.1", port), connect=("127.0.0.1", 2000)) == (1, None)
    assert budget_of(held)["taken_by_bind"] == 3
    assert client.tell(200, connect=("127.0.0.3", 2000)) == (CAPACITY - 3, errno.EADDRNOTAVAIL)


def test_time_wait_is_reusable_as_the_settings_say() -> None:
    spec = SCENARIOS["port-exhaustion"].spec("ipv4")
    with Population(spec) as exhausted:
        row = row_of(exhausted, "10.77.1.0:443")
        assert (row["used"], row["reusable"], row["share"]) == (CAPACITY, 0, 1.0)
    with Population(
        Spec(spec.groups, None, {**spec.sysctls, "net.ipv4.tcp_tw_reuse": 1, "net.ipv4.tcp_tw_reuse_delay": 1})
    ) as reusing:
        row = row_of(reusing, "10.77.1.0:443")
        assert (row["used"], row["reusable"], row["share"]) == (CAPACITY, CAPACITY, 0.0)
    settings = {**spec.sysctls, "net.ipv4.tcp_tw_reuse": 2, "net.ipv4.tcp_tw_reuse_delay": 1}
    with Population(Spec(spec.groups, None, settings)) as on_loopback_only:
        assert row_of(on_loopback_only, "10.77.1.0:443")["reusable"] == 0


CLOSES = """
import errno, json, socket, sys, threading
server = socket.create_server(("127.0.0.1", 3000))
def serve():
    while True:
        sock, _ = server.accept()
        sock.recv(1)
        sock.close()
threading.Thread(target=serve, daemon=True).start()
done, error = 0, None
for _ in range(300):
    sock = socket.socket()
    try:
        sock.connect((sys.argv[1], 3000))
    except OSError as failed:
        error = failed.errno
        break
    sock.shutdown(socket.SHUT_WR)
    sock.recv(1)  # until the server has closed too: the kernel is then in TIME-WAIT
    sock.close()
    done += 1
print(json.dumps([done, error]))
"""


def test_time_wait_on_loopback_exhausts_nothing_by_default(held: Population) -> None:
    """connect() takes ports in TIME-WAIT there as soon as tcp_tw_reuse_delay is over; so does the budget."""
    for delay_ms, expected, share in ((1, (300, None), 0.0), (60_000, (CAPACITY, errno.EADDRNOTAVAIL), 1.0)):
        host = "127.0.0.1" if delay_ms == 1 else "127.0.0.2"
        subprocess.run(held.enter_command("sysctl", "-qw", f"net.ipv4.tcp_tw_reuse_delay={delay_ms}"), check=True)
        server = CLOSES.replace('"127.0.0.1"', f'"{host}"')
        assert tuple(json.loads(held.run(sys.executable, "-c", server, host))) == expected
        row = row_of(held, f"{host}:3000")
        assert row["by_state"] == {"time_wait": row["used"]}
        assert row["share"] == share


def test_new_connections_are_counted_between_two_looks(held: Population) -> None:
    script = (
        "import json, socket, sys, time\n"
        "from finwait.diagnosis.budget import PortBudget\n"
        "from finwait.examination import examine\n"
        "from finwait.table.request import Request\n"
        "kept = []\n"
        "def work(_):\n"
        "    for _ in range(23): kept.append(socket.create_connection(('127.0.0.1', 2000)))\n"
        "examiner = examine(Request(), for_s=0.001, sleep=work, owners=False)\n"
        "case = examiner.cases()[0]\n"
        "group = next(PortBudget(case).groups())\n"
        "print(json.dumps([round(group.opened_per_s * case.interval_s), group.used, group.exhausted_in_s, case.interval_s]))\n"
    )
    opened, used, left_s, interval_s = json.loads(held.run(sys.executable, "-c", script))
    assert (opened, used) == (23, 23)
    assert left_s == pytest.approx((CAPACITY - 23) / (23 / interval_s))


def test_text_and_csv_tell_the_same(held: Population, client: Client) -> None:
    assert client.tell(11, connect=("127.0.0.1", 2000)) == (11, None)
    lines = run("ports", held=held).stdout.splitlines()
    assert lines[0] == f"ports 10000-10101: 102, reserved 1, taken by bind() 0; for each destination {CAPACITY}"
    assert lines[2].split() == ["127.0.0.1", "127.0.0.1:2000", "11", "10.9", "%", "0", "0"]
    rows = list(csv.DictReader(io.StringIO(run("ports", "--csv", held=held).stdout)))
    assert [(row["peer"], row["used"], row["share"]) for row in rows] == [("127.0.0.1:2000", "11", "0.1089")]


def test_a_word_is_refused() -> None:
    done = run("ports", "established")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "finwait: 'finwait ports' takes options only, not 'established'\n"


def test_ipv6_and_mapped_destinations_are_told_apart(held: Population) -> None:
    script = (
        "import socket\n"
        "server = socket.create_server(('::', 3000), family=socket.AF_INET6, dualstack_ipv6=True)\n"
        "kept = [socket.create_connection(('::1', 3000)) for _ in range(5)]\n"
        "kept += [socket.create_connection(('127.0.0.1', 3000)) for _ in range(3)]\n"
        "import json, subprocess, sys\n"
        "print(subprocess.run([sys.executable, '-m', 'finwait', 'ports', '--json'], capture_output=True, text=True).stdout)\n"
    )
    rows = json.loads(held.run(sys.executable, "-c", script))["namespaces"][0]["rows"]
    assert {row["peer"]: row["used"] for row in rows} == {"[::1]:3000": 5, "127.0.0.1:3000": 3}
    assert socket.has_ipv6
