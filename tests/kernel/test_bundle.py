"""A bundle gives the same findings elsewhere; a masked one the same but for names and addresses; a broken one a line."""

from __future__ import annotations

import json
import os
import re
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from finwait.lab.population import Population
from finwait.lab.scenarios import SCENARIOS
from tests.kernel.finwait_command import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = "[rules.close-wait-leak]\nwarning_age_s = 0.2\n[rules.close-wait-not-accepted]\nleast_connections = 1\n"
TOLD = ("rule", "severity", "title", "owners", "evidence", "since_s", "connections", "total")


@pytest.fixture(scope="module")
def held() -> Iterator[Population]:
    with Population(SCENARIOS["close-wait-leak"].spec("ipv4")) as population:
        yield population


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "doctor.toml"
    path.write_text(CONFIG, encoding="utf-8")
    return str(path)


def bundle(held: Population, config: str, path: Path, *arguments: str) -> dict[str, Any]:
    done = run("doctor", "--for", "0.3", "--config", config, "--json", "--bundle", str(path), *arguments, held=held)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def reread(path: Path, config: str) -> dict[str, Any]:
    done = run("doctor", "--config", config, "--json", "--read", str(path))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def told(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [{name: finding[name] for name in TOLD} for finding in document["findings"]]


def test_a_bundle_gives_the_same_findings(held: Population, config: str, tmp_path: Path) -> None:
    path = tmp_path / "host.zip"
    live = bundle(held, config, path)
    again = reread(path, config)
    assert live["findings"][0]["rule"] == "close-wait-leak"
    assert told(again) == told(live)
    assert (again["checked"], again["unchecked"], again["sockets"], again["over_s"]) == (
        live["checked"], live["unchecked"], live["sockets"], live["over_s"]
    )  # fmt: skip
    with zipfile.ZipFile(path) as archive:
        assert told(json.loads(archive.read("findings.json"))) == told(live)
        assert live["findings"][0]["title"].split(" (")[0] in archive.read("report.md").decode()
        archive.extract("look-2.finwait", tmp_path)
    counted = json.loads(run("count", "--json", "--read", str(tmp_path / "look-2.finwait")).stdout)
    assert counted["total"] == live["sockets"] == len(held.sockets)


def test_a_masked_bundle_has_no_address_and_no_name_of_the_host(held: Population, config: str, tmp_path: Path) -> None:
    path = tmp_path / "masked.zip"
    live = bundle(held, config, path, "--mask")
    again = reread(path, config)
    assert [(one["rule"], one["severity"], one["total"]) for one in again["findings"]] == [
        (one["rule"], one["severity"], one["total"]) for one in live["findings"]
    ]
    leak = again["findings"][0]
    assert leak["owners"][0]["process"] == "process-1"
    assert re.fullmatch(r"198\.18\.\d+\.\d+:2000", leak["connections"][0]["local"])
    assert again["host"] == "host-1"
    name = live["findings"][0]["owners"][0]["process"]
    with zipfile.ZipFile(path) as archive:
        content = b"".join(archive.read(member) for member in archive.namelist())
        for look in ("look-1.finwait", "look-2.finwait"):
            with archive.open(look) as file, zipfile.ZipFile(file) as recording:
                content += b"".join(recording.read(member) for member in recording.namelist())
    addresses = [bytes([10, 77, 0, 1]), b"10.77."]
    for secret in (
        *addresses,
        os.uname().nodename.encode() if len(os.uname().nodename) > 3 else b"10.77.",
        f'"{name}"'.encode(),
    ):
        assert secret not in content, secret


def test_a_bundle_of_an_ipv6_host_is_masked_too(config: str, tmp_path: Path) -> None:
    path = tmp_path / "six.zip"
    with Population(SCENARIOS["close-wait-leak"].spec("ipv6")) as six:
        bundle(six, config, path, "--mask")
    assert reread(path, config)["findings"][0]["connections"][0]["local"].startswith("[2001:db8::")


BROKEN = {
    "no zip": lambda content: b"not a zip",
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_bundle_is_one_line(held: Population, config: str, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "broken.zip"
    bundle(held, config, path)
    path.write_bytes(BROKEN[kind](path.read_bytes()))
    done = run("doctor", "--read", str(path))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (3, "", 1)
    assert "is no bundle of finwait doctor" in done.stderr


def of_last_look(manifest: dict[str, Any], **changed: object) -> dict[str, Any]:
    manifest["namespaces"][0]["looks"][-1].update(changed)
    return manifest


MANGLED = {
    "another schema": (lambda manifest: {**manifest, "schema": "finwait.bundle/9"}, "has schema finwait.bundle/9"),
    "no processes": (lambda manifest: {key: manifest[key] for key in manifest if key != "processes"}, "processes"),
    "a word for a number": (lambda manifest: {**manifest, "looks": "many"}, "many"),
    "no such look": (lambda manifest: {**manifest, "looks": 9}, "look-3.finwait"),
    "a list": (lambda _: [], ""),
    "no namespace": (lambda manifest: {**manifest, "namespaces": []}, "it holds no namespace"),
    "a word for a time": (lambda manifest: {**manifest, "taken_from": "noon"}, "noon"),
    "a word for descriptors": (lambda manifest: {**manifest, "processes": [[1, "x", "many", 9, 0, None]]}, "many"),
    "counters that are none": (lambda manifest: of_last_look(manifest, counters=None), ""),
    "a word for a counter": (lambda manifest: of_last_look(manifest, counters={"TcpExt.ListenDrops": "x"}), "'x'"),
    "settings that are none": (lambda manifest: of_last_look(manifest, sysctls=[1]), ""),
    "no time": (lambda manifest: of_last_look(manifest, at_s=float("nan")), "nan is no time"),
}


@pytest.mark.parametrize("kind", MANGLED)
def test_a_bundle_with_another_manifest_is_one_line(held: Population, config: str, tmp_path: Path, kind: str) -> None:
    whole, mangled = tmp_path / "whole.zip", tmp_path / "mangled.zip"
    bundle(held, config, whole)
    change, reason = MANGLED[kind]
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(mangled, "w") as other:
        for member in archive.namelist():
            content = archive.read(member)
            if member == "manifest.json":
                content = json.dumps(change(json.loads(content))).encode()
            other.writestr(member, content)
    done = run("doctor", "--read", str(mangled))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (3, "", 1)
    assert reason in done.stderr


def test_a_recording_is_no_bundle(tmp_path: Path) -> None:
    path = tmp_path / "host.finwait"
    assert run("count", "--record", str(path)).returncode == 0
    done = run("doctor", "--read", str(path))
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1)


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (("--read", "/nosuch.zip"), 6, "cannot read /nosuch.zip: No such file or directory"),
        (("--bundle", "/nosuch/x.zip", "--for", "0"), 6, "cannot write /nosuch/x.zip: No such file or directory"),
        (("--bundle", "x.tar"), 2, "--bundle writes X.zip, not 'x.tar'"),
        (("--mask",), 2, "--mask goes with --bundle"),
        (("--read", "x.zip", "--watch"), 2, "--read does not go with --watch"),
        (("--read", "x.zip", "-N", "web"), 2, "--read does not go with -N"),
        (("--for", "soon"), 2, "'soon' is no number of seconds from 0 to 86400"),
        (("--for", "-1"), 2, None),
        (("--rule", "close-wait-lek"), 2, "unknown rule 'close-wait-lek'; did you mean close-wait-leak?"),
        (("--config", "/nosuch.toml"), 6, "cannot read /nosuch.toml: No such file or directory"),
        (("--source", "bpf"), 2, "the doctor reads by sock_diag or /proc, not by --source bpf"),
        (("-N", "nosuch-namespace"), 6, None),
        (("close-wait",), 2, "'finwait doctor' takes options only, not 'close-wait'"),
    ],
)
def test_a_wrong_request_is_one_line(arguments: tuple[str, ...], code: int, line: str | None) -> None:
    done = run("doctor", *arguments)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (code, "", 1)
    assert line is None or done.stderr == f"finwait: {line}\n"


@pytest.mark.parametrize(
    "arguments",
    [("-N", "nosuch-namespace"), ("--watch",), ("--for", "soon"), ("--nosuch",), ("--rule", "nosuch"), ("--json",)],
)
def test_a_plugin_that_cannot_judge_says_unknown(arguments: tuple[str, ...]) -> None:
    done = run("doctor", "--plugin", *arguments)  # 2 would be CRITICAL
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.startswith("TCP UNKNOWN: ")
    assert len(done.stdout.splitlines()) == 1


def test_what_was_there_stays_where_a_bundle_cannot_be_written(held: Population, config: str, tmp_path: Path) -> None:
    full = "/dev/full.zip"
    done = run("doctor", "--for", "0", "--config", config, "--bundle", full, held=held)
    assert done.returncode in {0, 6}
    left = [name for name in os.listdir("/dev") if name.startswith("full.zip")]
    for name in left:
        os.unlink(f"/dev/{name}")
    assert not [name for name in left if name.endswith(".part")]
