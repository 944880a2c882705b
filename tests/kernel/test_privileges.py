"""Owners as nobody, with CAP_BPF and CAP_PERFMON alone, and without libbpf: what may be seen, and a word on the rest."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.kernel.bad_input import AS_NOBODY, NOBODY, one_line, refusal, run_bytes
from tests.kernel.finwait_command import COMMAND

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOTS = 23  # listeners of root's process
NOBODYS = 7  # listeners of nobody's process
WITH_BPF = (*AS_NOBODY[:-1], "--inh-caps", "-all,+bpf,+perfmon", "--ambient-caps", "-all,+bpf,+perfmon",
            "--bounding-set", "-all,+bpf,+perfmon", "--")  # fmt: skip
WITHOUT = (*AS_NOBODY[:-1], "--inh-caps=-all", "--bounding-set=-all", "--")
# Listeners of two processes, one of root and one of nobody, in a namespace of their own.
HOLDER = f"""
import ctypes, json, os, signal, socket, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
os.system("ip link set lo up")
reading, writing = os.pipe()
pid = os.fork()
if not pid:
    os.setgroups([])
    os.setresgid(*[{NOBODY}] * 3)
    os.setresuid(*[{NOBODY}] * 3)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: whoever changes users hides from the same user
    ctypes.CDLL(None).prctl(15, b"of-nobody", 0, 0, 0)  # PR_SET_NAME
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range({NOBODYS})]
    os.write(writing, b".")
    signal.pause()
ctypes.CDLL(None).prctl(15, b"of-root", 0, 0, 0)
held = [socket.create_server(("127.0.0.1", 0)) for _ in range({ROOTS})]
os.read(reading, 1)
print(json.dumps([os.getpid(), pid]), flush=True)
sys.stdin.read()
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
"""
WITHOUT_LIBRARY = """
import sys
from finwait.sources import libbpf
libbpf.Libbpf.__init__.__defaults__ = ("libbpf-that-is-not-there.so.1",)
from finwait.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


class Held:
    """Process ids of the holders; root's is the way into the namespace."""

    def __init__(self, of_root: int, of_nobody: int) -> None:
        self.of_root, self.of_nobody = of_root, of_nobody

    def document(self, user: tuple[str, ...], *arguments: str, command: tuple[str, ...] = COMMAND) -> dict[str, Any]:
        """The document that finwait prints as `user` inside the namespace; it says on stderr only what that tells."""
        inside = ("nsenter", "-t", str(self.of_root), "-n", *user, *command)
        done = run_bytes([*inside, *arguments, "--json"])
        assert (done.returncode, done.stderr) == (0, b""), done
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def held() -> Iterator[Held]:
    command = ("unshare", "-n", sys.executable, "-c", HOLDER)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        yield Held(*json.loads(holder.stdout.readline()))
        holder.communicate()


def groups_of(document: dict[str, Any]) -> dict[tuple[object, ...], int]:
    return {(row["process"], row["owner_kind"], row["matched_by"]): row["count"] for row in document["rows"]}


def codes_of(document: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in document["warnings"]]


def test_nobody_counts_by_process_what_proc_shows_of_the_own_processes(held: Held) -> None:
    document = held.document(WITHOUT, "count", "--by", "process")
    assert groups_of(document) == {
        (None, "not_permitted", None): ROOTS,
        ("of-nobody", "process", "proc_fd"): NOBODYS,
    }
    assert (document["source"], document["total"], document["complete"]) == ("sock_diag", ROOTS + NOBODYS, False)
    assert codes_of(document) == ["owners_not_permitted", "ghosts_not_told_apart"]
    assert re.search(r"could not be looked at: \d+, the first is process 1;", document["warnings"][0]["message"])
    assert document["ghosts"] == []


def test_nobody_lists_its_own_processes(held: Held) -> None:
    document = held.document(WITHOUT, "list", "-p")
    rows = Counter((row["process"], row["pid"], row["owner_kind"], row["matched_by"]) for row in document["rows"])
    assert rows == {
        (None, None, "not_permitted", None): ROOTS,
        ("of-nobody", held.of_nobody, "process", "proc_fd"): NOBODYS,
    }
    assert codes_of(document) == ["owners_not_permitted"]


@pytest.mark.parametrize(
    "arguments", [("count",), ("count", "--by", "process"), ("list",), ("list", "--ghosts")], ids=" ".join
)
def test_nobody_who_asks_for_bpf_is_refused_in_one_line(held: Held, arguments: tuple[str, ...]) -> None:
    inside = ("nsenter", "-t", str(held.of_root), "-n", *WITHOUT)
    said = refusal(5, *arguments, "--source", "bpf", before=inside)
    assert said.startswith("BPF is not permitted here (")


def test_two_capabilities_count_and_own_by_bpf(held: Held) -> None:
    plain = held.document(WITH_BPF, "count", "--source", "bpf")
    assert {row["state"]: row["count"] for row in plain["rows"] if row["count"]} == {"listen": ROOTS + NOBODYS}
    assert (plain["source"], plain["complete"]) == ("bpf", True)
    for source in ("auto", "bpf"):
        document = held.document(WITH_BPF, "count", "--by", "process", "--source", source)
        assert groups_of(document) == {
            ("of-root", "process", "task_file"): ROOTS,
            ("of-nobody", "process", "task_file"): NOBODYS,
        }
        assert (document["source"], document["complete"], document["ghosts"]) == ("bpf", True, [])


@pytest.mark.parametrize("source", ["auto", "bpf"])
def test_two_capabilities_list_every_owner_by_task_file(held: Held, source: str) -> None:
    document = held.document(WITH_BPF, "list", "-p", "--source", source)
    rows = Counter((row["process"], row["pid"], row["matched_by"]) for row in document["rows"])
    assert rows == {
        ("of-root", held.of_root, "task_file"): ROOTS,
        ("of-nobody", held.of_nobody, "task_file"): NOBODYS,
    }
    assert (codes_of(document), document["complete"]) == ([], True)


def test_two_capabilities_look_for_ghosts_by_bpf(held: Held) -> None:
    document = held.document(WITH_BPF, "list", "--ghosts")
    assert (document["rows"], document["complete"], codes_of(document)) == ([], True, [])


def test_bpf_is_not_tried_where_only_one_of_the_capabilities_is_there(held: Held) -> None:
    for capability in ("bpf", "perfmon"):
        caps = f"-all,+{capability}"
        user = (*AS_NOBODY[:-1], "--inh-caps", caps, "--ambient-caps", caps, "--bounding-set", caps, "--")
        document = held.document(user, "count", "--by", "process")
        assert codes_of(document) == ["owners_not_permitted", "ghosts_not_told_apart"]  # no bpf_fallback


# -- without libbpf


def without_library(held: Held, *arguments: str) -> dict[str, Any]:
    return held.document((), *arguments, command=(sys.executable, "-c", WITHOUT_LIBRARY))


def test_without_libbpf_owners_come_from_proc_with_the_reason(held: Held) -> None:
    document = without_library(held, "count", "--by", "process")
    assert groups_of(document) == {
        ("of-root", "process", "proc_fd"): ROOTS,
        ("of-nobody", "process", "proc_fd"): NOBODYS,
    }
    assert document["source"] == "sock_diag"
    reasons = {warning["code"]: warning["message"] for warning in document["warnings"]}
    assert "libbpf-that-is-not-there.so.1 is not installed (package libbpf1)" in reasons["bpf_fallback"]
    assert reasons.keys() >= {"bpf_fallback", "ghosts_not_told_apart"}
    listed = without_library(held, "list", "-p")
    assert {row["matched_by"] for row in listed["rows"]} == {"proc_fd"}
    assert "bpf_fallback" in codes_of(listed)


def test_without_libbpf_every_namespace_is_found_all_the_same(held: Held) -> None:
    document = without_library(held, "count", "--by", "process", "--all-netns")
    assert {key[0]: count for key, count in groups_of(document).items() if str(key[0]).startswith("of-")} == {
        "of-root": ROOTS,
        "of-nobody": NOBODYS,
    }


@pytest.mark.parametrize(
    "arguments", [("count",), ("count", "--by", "process"), ("list", "-p"), ("list", "--ghosts")], ids=" ".join
)
def test_without_libbpf_its_choice_by_name_is_refused_in_one_line(held: Held, arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", WITHOUT_LIBRARY, *arguments, "--source", "bpf"]
    done = run_bytes(command)
    assert (done.returncode, done.stdout) == (4, b""), done
    assert one_line(done.stderr) == "libbpf-that-is-not-there.so.1 is not installed (package libbpf1)"


def test_libbpf_says_nothing_by_itself(held: Held) -> None:
    """As nobody it would print a dozen lines on standard error."""
    done = run_bytes([*WITHOUT, *COMMAND, "count", "--source", "bpf"])
    assert done.returncode == 5
    assert b"libbpf:" not in done.stderr
    assert done.stderr.count(b"\n") == 1
