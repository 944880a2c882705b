"""What this machine can do: as root, as nobody, with two capabilities alone, without libbpf; and nothing stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from finwait.lab.spec import Group
from finwait.sources import libbpf
from finwait.sources.machine import PROBES, capabilities
from finwait.sources.proc_fd import hidden_processes
from tests.kernel.bad_input import AS_NOBODY
from tests.kernel.finwait_command import COMMAND, ENVIRONMENT, document_of, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

    from finwait.lab.population import Population

BPF_PROGRAMS = ("bpf_count", "bpf_list", "bpf_descriptors", "bpf_owners", "bpf_namespaces")
# What may be missing on a machine that runs the kernel tests.
MAY_BE_MISSING = {"closed_visible", "other_processes", "cgroup2", "user_namespaces", "sock_destroy"}
WITH_BPF = (*AS_NOBODY[:-1], "--inh-caps", "+bpf,+perfmon", "--ambient-caps", "+bpf,+perfmon", "--")
ROOT_OF_ITS_OWN = ("unshare", "--user", "--map-root-user", "--net")


def answers_of(*before: str) -> dict[str, dict[str, Any]]:
    """What finwait answers when it is run by the command `before`."""
    done = subprocess.run(
        (*before, *COMMAND, "capabilities", "--json"), capture_output=True, text=True, env=ENVIRONMENT
    )
    assert (done.returncode, done.stderr) == (0, "")
    return {known["name"]: known for known in json.loads(done.stdout)["capabilities"]}


def words_of(answers: dict[str, dict[str, Any]], *names: str) -> list[str]:
    return [answers[name]["answer"] for name in names]


def test_root_can_do_everything(population: Callable[..., Population]) -> None:
    population(Group("LISTEN", 1))  # there is another network namespace
    found = capabilities()
    assert [known.name for known in found.capabilities if not known.answer and known.name not in MAY_BE_MISSING] == []
    assert found.user == 0
    for known in found.capabilities:
        assert known.answer or (known.reason and known.remedy), known


def test_processes_that_hide_are_counted() -> None:
    hidden = hidden_processes()
    known = answers_of()["other_processes"]
    if hidden:
        assert known["answer"] == "no"
        assert f"{len(hidden)}, the first is process {hidden[0]}" in known["reason"]
    else:
        assert known["answer"] == "yes"


def test_nobody_may_read_and_may_not_load() -> None:
    answers = answers_of(*AS_NOBODY)
    assert words_of(answers, "sock_diag", "destroy_groups", "proc_net", "libbpf", "bpf_objects") == ["yes"] * 5
    assert words_of(answers, "socket_marks", "sock_destroy", "other_processes", "other_namespaces") == ["no"] * 4
    assert answers["socket_marks"]["remedy"] == "CAP_NET_ADMIN"
    assert answers["bpf_permitted"]["answer"] == "no"
    assert answers["bpf_permitted"]["remedy"] == "CAP_BPF and CAP_PERFMON, or root"
    for name in BPF_PROGRAMS:
        assert answers[name] == {
            **answers[name],
            "answer": "no",
            "reason": "bpf_permitted is missing",
            "remedy": "CAP_BPF and CAP_PERFMON, or root",
        }


def test_two_capabilities_are_enough_for_bpf() -> None:
    answers = answers_of(*WITH_BPF)
    assert words_of(answers, "bpf_permitted", *BPF_PROGRAMS) == ["yes"] * 6
    assert words_of(answers, "socket_marks", "other_namespaces") == ["no"] * 2


def test_root_of_a_user_namespace_has_no_power_over_bpf() -> None:
    answers = answers_of(*ROOT_OF_ITS_OWN)
    assert words_of(answers, "sock_diag", "socket_marks") == ["yes"] * 2
    assert answers["bpf_permitted"]["answer"] == "no"
    assert "in spite of the capabilities" in answers["bpf_permitted"]["reason"]
    assert "user namespaces" in answers["bpf_permitted"]["remedy"]


def test_without_its_library_bpf_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "open_library", lambda: libbpf.Libbpf("libbpf-that-is-not-there.so.1"))
    known = {capability.name: capability for capability in capabilities().capabilities}
    for name in ("libbpf", *BPF_PROGRAMS):
        assert known[name].answer_word == "no"
        assert "libbpf1" in str(known[name].remedy)
    assert known["bpf_permitted"].answer_word == "yes"  # it needs no library


def test_nothing_is_left_over(population: Callable[..., Population]) -> None:
    population(Group("LISTEN", 1))
    capabilities()  # libbpf and Python open what they keep
    before = left_by_probes()
    for _ in range(3):
        capabilities()
    assert left_by_probes() == before
    assert threading.active_count() == 1


def left_by_probes() -> tuple[set[str], str, list[str], int]:
    """Descriptors (a loaded BPF program is one), namespace, children and user of this process."""
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as children:
        pids = children.read().split()
    return set(descriptors()), os.readlink("/proc/thread-self/ns/net"), pids, os.geteuid()


def descriptors() -> Iterator[str]:
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor that listed them
            yield f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}"


def test_the_command_prints_a_line_a_capability() -> None:
    done = run("capabilities", "-H")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines() if not line.startswith(" ")] == list(PROBES)


def test_one_document_has_who_asked_and_where() -> None:
    document = document_of("capabilities")
    assert document["kernel"] == os.uname().release
    assert document["host"] == os.uname().nodename
    assert document["user"] == 0
    assert document["python"] == sys.version.split()[0]
