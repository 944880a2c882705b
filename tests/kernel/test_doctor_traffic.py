"""Rules that need something to happen between two looks, or settings of a namespace: made to happen, and near misses."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from finwait.lab.population import Group, Population, Spec
from tests.kernel.finwait_command import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Runs inside a namespace: `before` prepares, `work` is done between the looks.
EXAMINE = """
import json, os, resource, socket, struct, sys
from finwait.diagnosis.rules import RULES
from finwait.diagnosis.verdict import diagnose
from finwait.examination import examine
from finwait.table.request import Request
before, work, limits = json.loads(sys.argv[1])
names = {"os": os, "resource": resource, "socket": socket, "struct": struct, "kept": []}
exec(before, names)
examiner = examine(Request(), for_s=0.001, sleep=lambda _: exec(work, names))
diagnosis = diagnose(examiner.cases(), RULES, limits, examiner.provenance)
found = {one.rule: [one.severity, [owner.pid for owner in one.owners], dict(one.evidence)] for one in diagnosis.findings}
print(json.dumps([os.getpid(), found]))
"""
PAIRS = """
def pair():
    client = socket.create_connection(("127.0.0.1", 3000))
    accepted, _ = server.accept()
    return client, accepted
def half_closed():
    client, accepted = pair()
    client.shutdown(socket.SHUT_WR)
    assert accepted.recv(1) == b""
    return client, accepted
server = socket.create_server(("127.0.0.1", 3000))
"""


@pytest.fixture
def held() -> Iterator[Population]:
    with Population(Spec((Group("LISTEN", 1),), None, {"net.ipv4.ip_local_port_range": "10000 10101"})) as population:
        yield population


def found_in(
    held: Population, before: str, work: str, limits: dict[str, dict[str, float]] | None = None
) -> tuple[int, dict[str, Any]]:
    """The process that did it, and severity, owners and evidence by rule."""
    pid, found = json.loads(held.run(sys.executable, "-c", EXAMINE, json.dumps([before, work, limits or {}])))
    return pid, found


REFUSED = "for _ in range(60):\n    socket.socket().connect_ex(('127.0.0.1', 9))"
ACCEPTED = "for _ in range(60):\n    kept.append(pair())"
LINGER = (
    "for client, accepted in kept:\n"
    "    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))\n    client.close()"
)
UNREAD = (
    "for client, accepted in kept:\n    client.send(b'x')\n    accepted.recv(1, socket.MSG_PEEK)\n    accepted.close()"
)
CHURN = (
    "for client, accepted in kept[:20]:\n    accepted.close()\n    client.close()\n"
    "kept[:20] = [half_closed() for _ in range(20)]"
)


def test_refused_connections_are_found_and_accepted_ones_are_none(held: Population) -> None:
    _, found = found_in(held, PAIRS, REFUSED)
    assert found["connect-refused"][0] == "warning"
    _, found = found_in(held, PAIRS, ACCEPTED)
    assert "connect-refused" not in found


def test_aborts_are_told_by_their_reason(held: Population) -> None:
    before = PAIRS + "kept.extend(pair() for _ in range(20))"
    for work, counter in ((LINGER, "TcpExtTCPAbortOnData"), (UNREAD, "TcpExtTCPAbortOnClose")):
        _, found = found_in(held, before, work)
        severity, _, evidence = found["aborts"]
        assert (severity, evidence["counter"]) == ("info", counter)
    _, found = found_in(held, before, "[(client.close(), accepted.close()) for client, accepted in kept]")
    assert "aborts" not in found


def test_close_wait_that_changes_is_turnover_and_what_stays_is_not(held: Population) -> None:
    before = PAIRS + "kept.extend(half_closed() for _ in range(30))"
    pid, found = found_in(held, before, CHURN)
    severity, owners, evidence = found["close-wait-churn"]
    assert (severity, owners) == ("info", [pid])
    assert (evidence["connections"], evidence["stayed"]) == (30, 10)
    _, found = found_in(held, before, "pass")
    assert "close-wait-churn" not in found


def test_a_process_near_its_limit_of_descriptors_is_named(held: Population) -> None:
    before = "resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))\n" + PAIRS
    for pairs, expected in ((85, "warning"), (40, None)):
        pid, found = found_in(held, before + f"kept.extend(pair() for _ in range({pairs}))", "pass")
        assert found.get("descriptor-limit", [None])[0] == expected
        assert expected is None or found["descriptor-limit"][1] == [pid]


def test_ports_that_bind_took_are_counted_against_all(held: Population) -> None:
    bind = "for at in range({}):\n    kept.append(socket.socket())\n    kept[-1].bind(('127.0.0.1', 10001 + 2 * at))"
    pid, found = found_in(held, bind.format(21), "pass")
    severity, owners, evidence = found["ports-taken-by-bind"]
    assert (severity, owners, evidence["ports_taken"]) == ("warning", [pid], 21)
    _, found = found_in(held, bind.format(20), "pass")
    assert "ports-taken-by-bind" not in found


def test_a_crowded_destination_slows_connect(held: Population) -> None:
    for pairs, expected in ((60, "info"), (40, None)):
        _, found = found_in(held, PAIRS + f"kept.extend(pair() for _ in range({pairs}))", "pass")
        assert found.get("connect-slow", [None])[0] == expected
        assert "port-exhaustion" not in found


def test_a_fixed_listener_in_the_range_is_found_and_one_of_the_kernels_choice_is_not(held: Population) -> None:
    pid, found = found_in(held, "kept.append(socket.create_server(('127.0.0.1', 10007)))", "pass")
    severity, owners, evidence = found["listener-in-ephemeral-range"]
    assert (severity, owners, evidence["ports"]) == ("warning", [pid], [10007])
    _, found = found_in(held, "kept.append(socket.create_server(('127.0.0.1', 0)))", "pass")
    assert "listener-in-ephemeral-range" not in found


def found_by_command(spec: Spec, configuration: str, path: Path, seconds: str = "0.2") -> dict[str, Any]:
    """Severity and evidence by rule, of two looks at what stands still."""
    path.write_text(configuration, encoding="utf-8")
    with Population(spec) as population:
        done = run("doctor", "--for", seconds, "--json", "--config", str(path), held=population)
    assert done.returncode == 0, done.stderr
    return {one["rule"]: (one["severity"], one["evidence"]) for one in json.loads(done.stdout)["findings"]}


def test_a_backlog_that_was_cut_is_found_once_it_is_used(tmp_path: Path) -> None:
    for waiting, expected in ((64, "info"), (63, None)):
        groups = (Group("LISTEN", 1), Group("ESTABLISHED", waiting, accepted=False))
        found = found_by_command(Spec(groups, None, {"net.core.somaxconn": 128}), "", tmp_path / "doctor.toml")
        assert found.get("backlog-cut", (None,))[0] == expected


@pytest.mark.parametrize(
    ("name", "value", "rule", "severity"),
    [
        ("net.ipv4.tcp_fin_timeout", 15, "sysctl-myth", "info"),
        ("net.ipv4.tcp_timestamps", 0, "sysctl-myth", "info"),
        ("net.ipv4.tcp_syncookies", 2, "sysctl-myth", "warning"),
        ("net.ipv4.tcp_abort_on_overflow", 1, "abort-on-overflow", None),
    ],
)
def test_settings_are_judged_where_they_are_set(
    name: str, value: int, rule: str, severity: str | None, tmp_path: Path
) -> None:
    found = found_by_command(Spec((Group("LISTEN", 1),), None, {name: value}), "", tmp_path / "doctor.toml")
    assert rule in found
    assert severity in {None, found[rule][0]}
    without = found_by_command(
        Spec((Group("LISTEN", 1),)), "[rules.sysctl-myth]\nenabled = true\n", tmp_path / "doctor.toml"
    )
    assert rule not in without


def test_a_crowd_of_flows_to_one_destination_is_counted_over_all(tmp_path: Path) -> None:
    for flows, expected in ((8, "info"), (7, None)):  # one of the others goes there too
        groups = (Group("ESTABLISHED", flows, peers=1), Group("ESTABLISHED", 5, peers=5))
        found = found_by_command(Spec(groups), "[rules.flows-beyond-gateway]\nflows = 10\n", tmp_path / "doctor.toml")
        assert found.get("flows-beyond-gateway", (None,))[0] == expected


def test_a_client_whose_ports_run_out_at_our_listener_is_named(tmp_path: Path) -> None:
    groups = (Group("LISTEN", 1), Group("TIME_WAIT", 101, opened="passive", peers=1))
    for limit, expected in ((100, "warning"), (101, None)):
        text = f"[rules.client-near-port-limit]\ntime_wait = {limit}\n"
        found = found_by_command(Spec(groups), text, tmp_path / "doctor.toml")
        assert found.get("client-near-port-limit", (None,))[0] == expected


def test_data_that_is_sent_again_and_again_is_found(tmp_path: Path) -> None:
    groups = (Group("ESTABLISHED", 23, unacked=1000),)
    path = tmp_path / "doctor.toml"
    found = found_by_command(Spec(groups), "[rules.retransmissions]\nleast_segments = 1\n", path, "2")
    assert found["retransmissions"][0] == "critical"
    assert "retransmissions" not in found_by_command(Spec(groups), "", path, "2")  # too few segments to judge by
