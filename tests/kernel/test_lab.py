"""finwait lab as its user runs it: what stands there, what COMMAND returns, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from finwait.errors import SourceError
from finwait.lab.asked import parse_population
from finwait.lab.namespace import await_condition as holds_in_time
from finwait.lab.population import Group, PlayedExchange, Population, Spec
from finwait.lab.scenarios import SCENARIOS
from finwait.tcp.exchanges import CLIENT, EXCHANGES, SEGMENT, SERVER
from finwait.tcp.state import LIFE_ORDER, TcpState
from tests.kernel.finwait_command import COMMAND, counts_of, document_of, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ARTICLE = ("TIME_WAIT=150", "FIN_WAIT1=15", "FIN_WAIT2=1", "ESTABLISHED=55", "SYN_RECV=21", "CLOSING=2", "LAST_ACK=4")
ONE_LINER = "netstat -n | awk '/^tcp/ {++S[$NF]} END {for(a in S) print a, S[a]}'"


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_the_articles_population_stands_to_the_number(family: str) -> None:
    shown = run("lab", family, *ARTICLE, "--", "sh", "-c", ONE_LINER).stdout
    assert sorted(shown.splitlines()) == sorted(word.replace("=", " ") for word in ARTICLE)
    assert run("lab", family, *ARTICLE, "--", *COMMAND, "--style", "netstat").stdout.splitlines() == sorted(
        word.replace("=", " ") for word in ARTICLE
    )


@pytest.mark.parametrize("state", LIFE_ORDER)
def test_any_state_stands_in_a_prime_number(state: TcpState) -> None:
    document = json.loads(run("lab", f"{state.token}=37", "--", *COMMAND, "--json").stdout)
    counts = {row["state"]: row["count"] for row in document["rows"] if row["count"]}
    needed = {"listen": 1} if state is TcpState.SYN_RECV else {}
    assert counts == {state.token: 37, **needed}


@pytest.mark.parametrize("end", [CLIENT, SERVER])
@pytest.mark.parametrize("name", EXCHANGES)
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_an_exchange_shows_the_states_of_its_table(name: str, end: str, family: str) -> None:
    exchange = EXCHANGES[name]
    with PlayedExchange(name, end, family) as played:
        wanted = [step.client if end == CLIENT else step.server for step in exchange.steps]
        assert [TcpState(shown) for _, shown, _, _ in played.steps] == wanted[: len(played.steps)]
        for at, _, _, flags in played.steps:
            step = exchange.steps[at]
            if step.kind == SEGMENT and (step.end == end or step.arrives):  # a reset of Linux has ACK
                assert flags == ("RST,ACK" if step.flags == "RST" else step.flags)
        left_out = exchange.steps[len(played.steps) :]
        assert all(step.event == "timeout_time_wait" for step in left_out)


@pytest.mark.parametrize("name", [name for name, scenario in SCENARIOS.items() if scenario.exchange is None])
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_a_fault_is_the_population_that_it_says(name: str, family: str) -> None:
    spec = SCENARIOS[name].spec(family)
    with Population(spec) as held:
        document = json.loads(run("--json", held=held).stdout)
        counts = {row["state"]: row["count"] for row in document["rows"] if row["count"]}
        assert counts == {state.token: count for state, count in spec.count_by_state().items()}


def await_condition(holds: Callable[[], bool]) -> None:
    assert holds_in_time(holds, 20.0), "it never came true"


def _counters(held: Population) -> dict[str, int]:
    """Counters of the namespace by nstat's names, from its beginning on."""
    return {name: int(value) for name, value in json.loads(held.run("nstat", "-azsj"))["kernel"].items()}


def _sockets(held: Population) -> list[tuple[str, ...]]:
    """State and addresses of each."""
    return sorted((line.split()[0], *line.split()[3:5]) for line in held.run("ss", "-tanH").splitlines())


@pytest.fixture(params=["ipv4", "ipv6"])
def scenario(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Population]]:
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(Population(SCENARIOS[name].spec(request.param)))


@pytest.mark.parametrize(
    ("name", "counters", "at_least"),
    [
        # 1,800 are 9 s: without renewal the kernel gives half-open connections up after 7
        ("syn-flood", {"TcpExtTCPReqQFullDoCookies", "TcpExtSyncookiesSent"}, 1_800),
        ("syn-flood-without-cookies", {"TcpExtTCPReqQFullDrop", "TcpExtListenDrops"}, 300),
        ("accept-queue-full", {"TcpExtListenOverflows", "TcpExtListenDrops"}, 11),
    ],
)
def test_traffic_moves_counters_and_no_socket(
    scenario: Callable[[str], Population], name: str, counters: set[str], at_least: int
) -> None:
    held = scenario(name)
    rate = SCENARIOS[name].traffic.syns
    first, sockets, began = _counters(held), _sockets(held), time.monotonic()
    await_condition(lambda: all(_counters(held)[counter] - first[counter] >= at_least for counter in counters))
    last = _counters(held)
    seconds = time.monotonic() - began
    grown = {counter for counter, value in last.items() if value > first[counter]}
    assert {counter for counter in grown if re.search("(?i)listen|cookie|ReqQ", counter)} == counters
    most = rate * (seconds + 1)  # bounded, whatever the machine does; a second's worth may be caught up with
    assert all(last[counter] - first[counter] <= most for counter in counters)
    assert _sockets(held) == sockets
    assert counts_of(held=held) == {state.token: count for state, count in held.spec.count_by_state().items()}


def test_ghosts_are_counted_by_process_and_in_no_state(scenario: Callable[[str], Population]) -> None:
    held = scenario("ghost-sockets")
    assert counts_of(held=held) == {"listen": 1, "established": 23}
    document = document_of("count", "--by", "process", held=held)
    assert [(ghost["pid"], ghost["count"]) for ghost in document["ghosts"]] == [(held.pid, 19)]
    listed = document_of("list", "--ghosts", held=held)["rows"]
    assert {row["fd"] for row in listed} == {ghost.fd for ghost in held.ghosts}
    assert len(listed) == 19


def test_one_of_the_listeners_on_a_port_is_full(scenario: Callable[[str], Population]) -> None:
    lines = [line.split() for line in scenario("reuseport-imbalance").run("ss", "-tlnH").splitlines()]
    assert sorted((int(queue), int(limit)) for _, queue, limit, *_ in lines) == [(0, 16), (0, 16), (0, 16), (17, 16)]
    assert len({local for _, _, _, local, *_ in lines}) == 1


def test_after_the_build_the_kernel_chooses_among_listeners_again() -> None:
    spec = Spec((Group("LISTEN", 4, reuseport=True), Group("ESTABLISHED", 3, accepted=False, listener=2)))
    with Population(spec) as held:
        held.run(sys.executable, "-c", _CONNECT_40_TIMES)
        queues = [int(line.split()[1]) for line in held.run("ss", "-tlnH").splitlines()]
    assert sum(queues) == 43
    assert sum(queue > 0 for queue in queues) > 1


_CONNECT_40_TIMES = "import socket; held = [socket.create_connection(('10.77.0.1', 2000)) for _ in range(40)]"


def test_time_wait_beyond_its_limit_is_counted_and_gone(scenario: Callable[[str], Population]) -> None:
    held = scenario("time-wait-overflow")
    assert counts_of(held=held) == {"time_wait": 101}
    assert _counters(held)["TcpExtTCPTimeWaitOverflow"] == 13


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("connect-unanswered", {("SYN-SENT", "on")}),
        ("fin-unanswered", {("FIN-WAIT-1", "on"), ("CLOSING", "on"), ("LAST-ACK", "on")}),
        ("fin-wait-2-orphans", {("FIN-WAIT-2", "keepalive")}),
        ("idle", {("ESTAB", "")}),
        ("zero-window", {("ESTAB", "persist")}),
        ("peer-vanished", {("ESTAB", "on")}),
    ],
)
def test_the_timers_are_those_of_the_fault(
    scenario: Callable[[str], Population], name: str, wanted: set[tuple[str, str]]
) -> None:
    lines = scenario(name).run("ss", "-tanoH").splitlines()
    assert {(line.split()[0], line.partition("timer:(")[2].partition(",")[0]) for line in lines} == wanted


def test_nobody_owns_what_was_closed_before_accept(scenario: Callable[[str], Population]) -> None:
    rows = document_of("list", "-p", "state", "close-wait", held=scenario("close-wait-not-accepted"))["rows"]
    assert [row["owner_kind"] for row in rows] == ["not_accepted"] * 13


def test_many_half_open_connections_get_a_queue_that_is_at_most_half_full() -> None:
    groups = {group.state: group for group in parse_population(("SYN_RECV=70001",), None).groups}
    assert (groups["LISTEN"].count, groups["LISTEN"].backlog) == (1, 140_002)


_CONNECT = "import socket; socket.create_connection(('10.77.1.0', 443), 1)"


def test_no_port_is_left_where_ports_are_exhausted() -> None:
    done = run("lab", "port-exhaustion", "--", sys.executable, "-c", _CONNECT)
    assert done.stderr.splitlines()[-1] == "OSError: [Errno 99] Cannot assign requested address"


def test_a_population_beyond_the_ports_says_what_the_kernel_said() -> None:
    few_ports = {"net.ipv4.ip_local_port_range": "10000 10003"}
    with pytest.raises(SourceError, match=r": connect to 10\.77\.1\.0 port 443: Cannot assign requested address"):
        Population(Spec((Group("SYN_SENT", 5, peers=1),), None, few_ports)).__enter__()


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("true",), 0),
        (("sh", "-c", "exit 23"), 23),
        (("sh", "-c", "kill -9 $$"), 137),
        (("/nosuch",), 127),
        (("/etc/passwd",), 126),
    ],
)
def test_the_exit_code_is_the_commands(command: tuple[str, ...], code: int) -> None:
    done = run("lab", "TIME_WAIT=3", "--", *command)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == (code in {126, 127})


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("TIM_WAIT=3",), "finwait: unknown TCP state 'TIM_WAIT'; did you mean time_wait?"),
        (("TIME_WAIT=x",), "finwait: 'TIME_WAIT=x': a population is a whole number up to 1000000"),
        (("TIME_WAIT=1", "time-wait=2"), "finwait: TIME-WAIT is asked for twice"),
        (("clse",), "finwait: unknown scenario 'clse'; did you mean close?"),
        (("close", "reset"), "finwait: one scenario at a time: 'reset' is too much"),
        ((), "finwait: the lab is asked for no socket; say STATE=N, for example TIME_WAIT=150"),
        (("TIME_WAIT=1", "--"), "finwait: there is no command behind --"),
        (("ESTABLISHED=999999",), None),
        (("TIME_WAIT=1", "--as", "server"), "finwait: --as goes with an exchange, which has two ends"),
        (("syn-flood", "--as", "server"), "finwait: --as goes with an exchange, which has two ends"),
    ],
)
def test_a_wrong_request_is_one_line(arguments: tuple[str, ...], line: str | None) -> None:
    done = run("lab", *arguments)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert line in {None, done.stderr.rstrip("\n")}


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]


def _namespaces() -> set[str]:
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/net"))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("delay_s", [0.0, 0.02, 0.05, 0.1, 0.2, 0.3])
def test_a_lab_that_is_killed_at_any_moment_leaves_nothing(number: signal.Signals, delay_s: float) -> None:
    before = _namespaces()
    lab = subprocess.Popen(
        (*COMMAND, "lab", "FIN_WAIT1=31", "LAST_ACK=29", "ESTABLISHED=23", "--", "sleep", "600"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(delay_s)  # the moment is what is varied
    os.kill(lab.pid, number)
    if number == signal.SIGINT:  # Ctrl-C goes to the command too
        os.killpg(lab.pid, number)
    lab.wait()
    await_condition(lambda: _namespaces() <= before)
    await_condition(lambda: not _orphans())


def _orphans() -> int:
    with open("/proc/net/sockstat", encoding="ascii") as file:
        return int(file.read().partition("orphan ")[2].split()[0])


def test_a_holder_that_is_killed_leaves_nothing() -> None:
    before = _namespaces()
    lab = subprocess.Popen((*COMMAND, "lab", "FIN_WAIT1=31", "LAST_ACK=29"), stdout=subprocess.PIPE, text=True)
    assert lab.stdout is not None
    lab.stdout.readline()
    (holder,) = _children(lab.pid)
    os.kill(holder, signal.SIGKILL)
    lab.communicate(timeout=20)
    assert lab.returncode not in {0, None}
    await_condition(lambda: _namespaces() <= before)
    await_condition(lambda: not _orphans())


def test_a_lab_without_a_command_says_where_to_look_and_holds() -> None:
    lab = subprocess.Popen((*COMMAND, "lab", "CLOSE_WAIT=17"), stdout=subprocess.PIPE, text=True)
    assert lab.stdout is not None
    lines = [lab.stdout.readline().strip() for _ in range(4)]
    pid = lines[1].rpartition(" ")[2]
    assert lines[1] == f"finwait -N {pid}"
    assert json.loads(run("-N", pid, "--json").stdout)["total"] == 17
    lab.send_signal(signal.SIGINT)
    lab.communicate(timeout=20)
    assert lab.returncode == 130


def test_a_state_without_a_number_is_no_scenario() -> None:
    done = run("lab", "TIME_WAIT")
    assert (done.returncode, done.stderr) == (
        2,
        "finwait: 'TIME_WAIT' is no population; say STATE=N, for example TIME_WAIT=150\n",
    )


def test_a_half_open_connection_is_shown_from_the_side_that_waits() -> None:
    done = run("lab", "half-open", "--", *COMMAND, "--csv", "state", "connected")
    assert "server (this kernel)" in done.stderr
