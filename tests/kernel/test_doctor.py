"""finwait doctor as its user runs it: the lab's faults with owner and severity, near misses, and servers that are well."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from finwait import examination
from finwait.diagnosis.rules import RULE_BY_ID
from finwait.lab.namespace import await_condition as holds_in_time
from finwait.lab.population import Group, Population
from finwait.lab.scenarios import SCENARIOS
from finwait.sources.namespaces import open_inside
from finwait.table.request import Request
from tests.kernel.bad_input import AS_NOBODY
from tests.kernel.finwait_command import COMMAND, ENVIRONMENT, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from finwait.sources.namespaces import Place

    Document = dict[str, Any]

WITHOUT = (*AS_NOBODY[:-1], "--inh-caps=-all", "--bounding-set=-all", "--")


def begin(held: Population, *options: str, user: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Begin `finwait doctor --for 1 --json` inside the namespace."""
    command = held.enter_command(*user, *COMMAND, "doctor", "--for", "1", "--json", *options)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def end(doctor: subprocess.Popen[str]) -> Document:
    output, talk = doctor.communicate(timeout=60)
    assert (doctor.returncode, talk) == (0, "")
    document: Document = json.loads(output)
    return document


def told(document: Document) -> dict[str, str]:
    """Severity by rule."""
    return {finding["rule"]: finding["severity"] for finding in document["findings"]}


def of(document: Document, rule: str) -> Document:
    (finding,) = (finding for finding in document["findings"] if finding["rule"] == rule)
    return finding


# What each scenario shows at once, and what more with a threshold that a test can wait for.
FAULTS: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
    "accept-queue-full": ({"accept-queue-full": "critical", "listen-overflow": "critical"}, {}, ""),
    "syn-flood": ({"syn-flood": "critical", "half-open-unanswered": "warning"}, {}, ""),
    "reuseport-imbalance": ({"accept-queue-full": "critical", "reuseport-imbalance": "warning"}, {}, ""),
    "close-wait-not-accepted": ({"close-wait-not-accepted": "warning"}, {}, ""),
    "zero-window": ({"zero-window": "warning"}, {}, ""),
    "close-wait-leak": ({}, {"close-wait-leak": "warning"}, "warning_age_s = 1"),
    "connect-unanswered": ({}, {"connect-unanswered": "warning"}, "retransmits = 1"),
    "ghost-sockets": ({}, {"ghost-sockets": "warning"}, "descriptors = 18"),
    "idle": ({}, {"idle-beyond-load-balancer": "info"}, "idle_s = 1"),
    "peer-vanished": ({}, {"peer-unreachable": "warning"}, "retransmits = 2"),
    "half-close-for-ever": ({}, {"fin-wait-2-forever": "warning"}, "age_s = 1"),
    "reader-stuck": ({}, {"reader-stuck": "warning"}, "idle_s = 1"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_with_its_owner(name: str, tmp_path: Path) -> None:
    """Nothing else is found, and what takes a minute not at once."""
    at_once, later, threshold = FAULTS[name]
    with Population(SCENARIOS[name].spec("ipv4")) as held:
        doctors = [begin(held)]
        if later:
            configuration = tmp_path / "low.toml"
            configuration.write_text(f"[rules.{next(iter(later))}]\n{threshold}\n")
            doctors.append(begin(held, "--config", str(configuration)))
        documents = [end(doctor) for doctor in doctors]
        assert [told(document) for document in documents] == [at_once, {**at_once, **later}][: len(documents)]
        for finding in documents[-1]["findings"]:
            assert [owner["pid"] for owner in finding["owners"]] == [held.pid], finding["rule"]


def test_the_lab_runs_the_doctor() -> None:
    done = run("lab", "accept-queue-full", "--", *COMMAND, "doctor", "--for", "0", "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, told(document)) == (0, {"accept-queue-full": "critical"})
    assert {lack["code"] for lack in document["unchecked"]} == {"one_look", "no_setting"}


def test_syns_that_are_dropped_for_want_of_cookies() -> None:
    with Population(SCENARIOS["syn-flood-without-cookies"].spec("ipv4")) as held:
        document = end(begin(held))
    assert told(document) == {
        "syn-queue-drop": "critical",
        "half-open-unanswered": "warning",
        "sysctl-myth": "warning",
    }
    assert of(document, "syn-queue-drop")["owners"][0]["pid"] == held.pid
    assert (
        of(document, "syn-queue-drop")["evidence"]["drops_per_s"]
        > RULE_BY_ID["syn-queue-drop"].limits["critical_per_s"]
    )


def test_what_no_program_owns(tmp_path: Path) -> None:
    for name, wanted in {
        "port-exhaustion": {"port-exhaustion": "critical"},
        "time-wait-overflow": {"time-wait-overflow": "warning", "sysctl-myth": "warning"},  # the limit is low
        "fin-unanswered": {"peer-vanished": "warning"},
    }.items():
        configuration = tmp_path / "low.toml"
        configuration.write_text("[rules.peer-vanished]\nretransmits = 2\n")
        with Population(SCENARIOS[name].spec("ipv4")) as held:
            document = end(begin(held, "--config", str(configuration)))
        assert told(document) == wanted
        assert all(finding["owners"] == [] for finding in document["findings"])


def test_a_peer_that_leaks_close_wait(population: Callable[..., Population]) -> None:
    for count, wanted in ((99, {}), (100, {"peer-leaks-close-wait": "warning"})):
        held = population(Group("FIN_WAIT2", count, orphan=True, peers=1))
        assert told(end(begin(held))) == wanted


def test_ipv6_faults_are_found_alike() -> None:
    with Population(SCENARIOS["accept-queue-full"].spec("ipv6")) as held:
        document = end(begin(held))
    assert told(document) == {"accept-queue-full": "critical", "listen-overflow": "critical"}
    assert of(document, "accept-queue-full")["evidence"]["local"] == "[::]:2000"


def resent(held: Population) -> int:
    """How often the segment that a connection waits for was sent again, the most of any."""
    found = held.run("ss", "-tanoH", "state", "syn-sent", "state", "fin-wait-1")
    return max((int(number) for number in re.findall(r"timer:\(on,[^,]*,(\d+)\)", found)), default=0)


def test_a_queue_that_is_in_use_and_states_that_are_young_are_no_trouble(population: Callable[..., Population]) -> None:
    for _ in range(5):
        held = population(
            Group("LISTEN", 1, backlog=64),
            Group("ESTABLISHED", 51, accepted=False),  # 79 %
            Group("ESTABLISHED", 55),
            Group("CLOSE_WAIT", 23, opened="passive"),
            Group("FIN_WAIT2", 13),
            Group("TIME_WAIT", 997, peers=3),
            Group("SYN_SENT", 5),
            Group("FIN_WAIT1", 5),
        )
        document = end(begin(held))
        if resent(held) < 2:  # a machine that stands still makes them old
            break
    assert told(document) == {}
    assert {lack["rule"]: lack["code"] for lack in document["unchecked"]} == {
        "tcp-memory": "no_setting",  # the host's alone
        "orphans": "no_setting",
    }


LEAK = """
import ctypes, json, os, signal, socket, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
os.system("ip link set lo up")
listener = socket.create_server(("127.0.0.1", 2000))
client = os.fork()
if not client:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    listener.close()
    held = [socket.create_connection(("127.0.0.1", 2000)) for _ in range(5)]
    for one in held:
        one.shutdown(socket.SHUT_WR)
    signal.pause()
accepted = [listener.accept()[0] for _ in range(5)]
for one in accepted:
    assert one.recv(1) == b""
print(json.dumps([os.getpid(), client]), flush=True)
sys.stdin.read()
os.kill(client, signal.SIGKILL)
os.waitpid(client, 0)
"""


def test_both_ends_on_one_host_show_who_is_guilty(tmp_path: Path) -> None:
    configuration = tmp_path / "low.toml"
    configuration.write_text("[rules.close-wait-leak]\nwarning_age_s = 0\n")
    command = ("unshare", "-n", sys.executable, "-c", LEAK)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        server, client = json.loads(holder.stdout.readline())
        options = ("--for", "0", "-N", str(server), "--config", str(configuration))
        document = json.loads(run("doctor", "--json", *options).stdout)
        holder.communicate()
    assert told(document) == {"close-wait-leak": "warning"}
    finding = of(document, "close-wait-leak")
    assert [(owner["pid"], owner["fd_count"]) for owner in finding["owners"]] == [(server, 5)]
    ends = [(end["state"], end["side"], end["owner"]["pid"]) for end in finding["connections"][:2]]
    assert ends == [("close_wait", "guilty", server), ("fin_wait_2", "waiting", client)]


SERVERS = """
cd "$1"
ip link set lo up
nginx -p "$1" -c nginx.conf 2>/dev/null &
redis-server --port 6379 --save '' --dir "$1" >/dev/null &
until [ "$(ss -tlnH | wc -l)" -ge 3 ]; do sleep 0.05; done
wrk -t1 -c100 -d60 http://127.0.0.1:8080/ >/dev/null 2>&1 &
redis-benchmark -q -t set,get -n 100000000 -c 50 >/dev/null 2>&1 &
wait
"""
NGINX = """
daemon off;
pid nginx.pid;
error_log stderr;
worker_processes 2;
events {}
http {
  access_log off;
  client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c; uwsgi_temp_path d; scgi_temp_path e;
  server { listen 8080; location / { return 200 "well"; } }
}
"""


@pytest.fixture
def busy_servers(tmp_path: Path) -> Iterator[int]:
    """nginx under wrk and redis under redis-benchmark in a namespace of their own; a process id in it."""
    lacking = [name for name in ("nginx", "redis-server", "redis-benchmark", "wrk") if shutil.which(name) is None]
    if lacking:
        pytest.skip(f"not installed: {lacking}")
    (tmp_path / "nginx.conf").write_text(NGINX)
    # A process namespace ends with its first process, and takes all of them with it.
    apart = ("unshare", "--net", "--pid", "--fork", "--kill-child=KILL", "sh", "-c", SERVERS, "sh", str(tmp_path))
    with subprocess.Popen(apart, env={**ENVIRONMENT, "PATH": f"/usr/sbin:{os.environ['PATH']}"}) as servers:
        try:
            assert holds_in_time(lambda: bool(_children(servers.pid)), 20.0)
            (pid,) = _children(servers.pid)
            assert holds_in_time(lambda: _established(pid) >= 250, 20.0)  # both ends of most connections
            yield pid
        finally:
            for child in _children(servers.pid):
                os.kill(child, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]


def _established(pid: int) -> int:
    document = json.loads(run("-N", str(pid), "--json").stdout)
    return sum(row["count"] for row in document["rows"] if row["state"] == "established")


def test_busy_servers_that_are_well_get_no_warning(busy_servers: int) -> None:
    done = run("doctor", "-N", str(busy_servers), "--for", "2", "--min-severity", "warning", "--json")
    document = json.loads(done.stdout)
    assert (document["findings"], document["sockets"] > 250) == ([], True)
    assert len(document["checked"]) > 35
    assert run("doctor", "-N", str(busy_servers), "--for", "1", "--plugin").returncode == 0


def test_nobody_is_told_what_could_not_be_seen() -> None:
    with Population(SCENARIOS["accept-queue-full"].spec("ipv4")) as held:
        document = end(begin(held, user=WITHOUT))
    assert told(document) == {"accept-queue-full": "critical", "listen-overflow": "critical"}
    finding = of(document, "accept-queue-full")
    assert finding["owners"] == []
    assert finding["title"].startswith("some program does not accept")
    codes = {lack["rule"]: lack["code"] for lack in document["unchecked"]}
    assert codes["accept-queue-full"] == "owners_partly"
    assert codes["ghost-sockets"] == "no_ghosts"


def test_a_namespace_that_ends_while_it_is_looked_at_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen(["unshare", "-n", "sleep", "60"])
    path = f"/proc/{child.pid}/ns/net"
    while os.path.samefile(path, "/proc/self/ns/net"):
        assert child.poll() is None

    def ending(place: Place, opener: Callable[[], Any]) -> Any:
        if place.path == path:
            child.kill()
            child.wait()
        return open_inside(place, opener)

    monkeypatch.setattr(examination, "open_inside", ending)
    examiner = examination.examine(Request(all_netns=True), for_s=0)
    assert child.poll() is not None
    told = [one.code for one in examiner.provenance.notices if f"pid:{child.pid}" in str(one)]
    assert told == ["netns_not_read"]
    assert len(examiner.cases()) == len(examiner.provenance.netns) >= 1
