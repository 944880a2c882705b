"""finwait selftest: everybody agrees here, a witness that lies is found out, one that is missing is named."""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import TYPE_CHECKING

from finwait.lab import selftest
from finwait.lab.selftest import AGREES, COUNTS, DIFFERS, NOT_ASKED, ask_everybody
from finwait.tcp.state import LIFE_ORDER, TcpState
from tests.kernel.finwait_command import ENVIRONMENT, run

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_every_witness_agrees_on_this_kernel() -> None:
    verdicts = list(ask_everybody())
    assert [verdict.answer for verdict in verdicts] == [AGREES] * 10
    assert [verdict.witness for verdict in verdicts[:5]] == ["bpf", "sock_diag", "proc", "ss", "netstat"]
    assert list(COUNTS) == list(LIFE_ORDER)


def test_the_command_says_so_and_returns_0() -> None:
    done = run("selftest")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("agrees") == 10


def test_a_witness_that_lies_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = selftest._WITNESSES["sock_diag"]
    monkeypatch.setattr(
        selftest, "_WITNESSES", {"liar": lambda population: honest(population) - Counter({TcpState.CLOSE_WAIT: 1})}
    )
    verdicts = list(ask_everybody())
    wanted = COUNTS[TcpState.CLOSE_WAIT]
    assert [verdict.answer for verdict in verdicts] == [DIFFERS, DIFFERS]
    assert verdicts[0].detail == f"CLOSE-WAIT {wanted - 1} instead of {wanted}"


def test_a_witness_that_is_not_installed_is_named(tmp_path: Path) -> None:
    os.symlink("/usr/bin/nsenter", tmp_path / "nsenter")
    done = run("selftest", env={**ENVIRONMENT, "PATH": str(tmp_path), "PYTHONPATH": ":".join(sys.path)})
    assert done.returncode == 0
    assert done.stdout.count("not asked ss is not installed") == 2
    assert done.stdout.count("not asked netstat is not installed") == 2
    assert NOT_ASKED not in done.stdout


def test_a_witness_that_fails_is_told_by_its_first_line(tmp_path: Path) -> None:
    for name, lines in (("ss", "echo no -H here; echo usage"), ("netstat", ":")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{{ {lines}; }} >&2\nexit 255\n", encoding="ascii")
        (tmp_path / name).chmod(0o755)
    done = run("selftest", env={**ENVIRONMENT, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("ss        not asked no -H here\n") == 2
    assert done.stdout.count("netstat   not asked exit code 255\n") == 2
