"""`finwait trace --record` and `--read`: a replay is what was printed, however the recording ended."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
import termios
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pytest

from finwait.lab.namespace import await_condition
from finwait.lab.population import Group
from finwait.sources.change_recording import ChangeRecording
from finwait.sources.change_records import CHANGE
from finwait.wire.change_blocks import FIRST_LINE
from tests.kernel.finwait_command import COMMAND, ENVIRONMENT, run
from tests.kernel.test_trace_sums import BOTH_ENDS, connections
from tests.kernel.tracer import CLIENT, SERVER, steps, times

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from finwait.lab.population import Population

COUNT = 101


@pytest.fixture
def held(population: Callable[..., Population]) -> Population:
    return population(Group("ESTABLISHED", 23), sysctls={"net.ipv4.tcp_tw_reuse": 0, "net.ipv4.tcp_rfc1337": 1})


def recorded(
    held: Population, path: Path, *arguments: str, end_by: signal.Signals = signal.SIGINT, before: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[bytes]:
    """What a trace that records says while connections are opened and closed; `before` stand before the command."""
    command = held.enter_command(*before, *COMMAND, "trace", "--record", str(path), *arguments)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    assert await_condition(lambda: path.exists() and path.stat().st_size > len(FIRST_LINE), 20) or process.poll()
    held.run(*connections(COUNT))
    if end_by == signal.SIGKILL:  # it cannot be told to write what it has
        assert await_condition(lambda: path.stat().st_size > 10 * COUNT * CHANGE.itemsize, 20)
    process.send_signal(end_by)
    output, said = process.communicate(timeout=20)
    return subprocess.CompletedProcess(command, process.returncode, output, said)


def replayed(path: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = (*COMMAND, "trace", "--read", str(path), *arguments)
    return subprocess.run(command, capture_output=True, check=False, env=ENVIRONMENT)


def changes(output: bytes) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in output.splitlines()]
    return [row for row in rows if row["type"] == "change"]


@pytest.mark.parametrize(
    "arguments",
    [("--ndjson",), ("--csv",), ("--print",), ("--lifetimes", "--ndjson"), ("--ndjson", "dst", "127.0.0.1"),
     ("--ndjson", "dport = :3000"), ("--csv", "process = python")],
    ids=" ".join,
)  # fmt: skip
def test_a_replay_is_what_was_printed(held: Population, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    path = tmp_path / "x"
    live = recorded(held, path, *arguments)
    assert live.returncode == 130
    assert live.stdout.count(b"127.0.0.1") >= COUNT
    again = tuple(word for word in arguments if word.startswith("--") and word != "--print")
    replay = replayed(path, *again)  # the filter is not needed again
    assert (replay.returncode, replay.stderr) == (0, b"")
    if "--ndjson" in arguments:
        *rows, end = live.stdout.splitlines()[1:]
        *rows_again, end_again = replay.stdout.splitlines()[1:]
        assert rows_again == rows
        both = [json.loads(line) | {"source": None} for line in (end, end_again)]
        assert both[0] == both[1]
    else:
        assert replay.stdout == live.stdout


def test_without_print_it_says_how_many_changes_there_are_and_all_are_in_it(held: Population, tmp_path: Path) -> None:
    path = tmp_path / "x"
    live = recorded(held, path)
    assert live.stdout == b""
    rows = changes(replayed(path, "--ndjson").stdout)
    assert (
        live.stderr
        == f"finwait: {len(rows)} changes were written to {path}; 'finwait trace --read' tells them\n".encode()
    )
    listener = {"closed>listen": 1, "listen>closed": 1}
    assert steps(rows) == times(COUNT, *CLIENT, *SERVER) + type(steps(rows))(listener)


def test_what_is_kept_for_later_is_what_another_one_prints(held: Population, tmp_path: Path) -> None:
    """Beside each other: one takes the kernel's records as they are, to be put in order when they are read."""
    with (tmp_path / "printed").open("wb") as file:
        command = held.enter_command(*COMMAND, "trace", "--ndjson")
        with subprocess.Popen(command, stdout=file, env=ENVIRONMENT) as printing:
            assert await_condition(lambda: (tmp_path / "printed").stat().st_size > 0, 20)
            recorded(held, tmp_path / "x")
            printing.send_signal(signal.SIGINT)
    by_ends: list[dict[Any, Any]] = [{}, {}]
    outputs = replayed(tmp_path / "x", "--ndjson").stdout, (tmp_path / "printed").read_bytes()
    for found, output in zip(by_ends, outputs, strict=True):
        for row in changes(output):
            told = [row[name] for name in ("from", "to", "why", "evidence", "process")]
            found.setdefault((row["local_port"], row["peer_port"]), []).append(told)
    assert by_ends[0] == by_ends[1]
    with ChangeRecording(str(tmp_path / "x")) as recording:
        objects = np.concatenate([records["object"] for records, _ in recording])
    assert objects.any()
    assert not (objects >> 48 == 0xFFFF).any(), "an address of the kernel's"
    assert sum(map(len, by_ends[0].values())) > 10 * COUNT


def test_a_recording_is_summed_up_and_filtered_as_what_happens_is(held: Population, tmp_path: Path) -> None:
    path = tmp_path / "x"
    recorded(held, path)
    summary, _ = [json.loads(line) for line in replayed(path, "--summary", "--ndjson").stdout.splitlines()[1:]]
    assert {(row["from"], row["to"]): row["count"] for row in summary["transitions"]} == {
        pair: min(count, COUNT) for pair, count in BOTH_ENDS.items()
    }
    found = changes(replayed(path, "--ndjson", "state time-wait dport = :3000").stdout)
    assert steps(found) == times(COUNT, "fin_wait_2>time_wait")
    assert len(changes(replayed(path, "--ndjson", "--count", "7").stdout)) == 7
    assert len(changes(replayed(path, "--ndjson", "-6").stdout)) == 0
    either = "state time-wait dport = :3000 or process = nobody"  # which the kernel could not test
    summary, _ = [json.loads(line) for line in replayed(path, "--summary", "--ndjson", either).stdout.splitlines()[1:]]
    assert {(row["from"], row["to"]): row["count"] for row in summary["transitions"]} == {
        ("fin_wait_2", "time_wait"): COUNT
    }


def test_it_ends_after_so_many_changes(held: Population, tmp_path: Path) -> None:
    path = tmp_path / "x"
    command = held.enter_command(*COMMAND, "trace", "--record", str(path), "--count", "37")
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert await_condition(lambda: path.exists() and path.stat().st_size > len(FIRST_LINE), 20)
        held.run(*connections(COUNT))
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said.startswith(b"finwait: 37 changes were written")) == (0, True)
    assert len(changes(replayed(path, "--ndjson").stdout)) == 37


def test_standard_output_can_have_the_recording(held: Population, tmp_path: Path) -> None:
    path = tmp_path / "x"
    command = held.enter_command(*COMMAND, "trace", "--record", "-")
    with (
        path.open("wb") as file,
        subprocess.Popen(command, stdout=file, stderr=subprocess.PIPE, env=ENVIRONMENT) as process,
    ):
        assert await_condition(lambda: path.stat().st_size > len(FIRST_LINE), 20)
        held.run(*connections(COUNT))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    rows = changes(replayed(path, "--ndjson").stdout)
    assert steps(rows)["fin_wait_2>time_wait"] == COUNT
    assert (
        said
        == f"finwait: {len(rows)} changes were written to standard output; 'finwait trace --read' tells them\n".encode()
    )


@pytest.mark.parametrize("form", ["--json", "--ndjson"])
def test_a_document_of_what_is_damaged_is_whole_and_says_so(held: Population, tmp_path: Path, form: str) -> None:
    recorded(held, tmp_path / "x")
    (tmp_path / "both").write_bytes(2 * (tmp_path / "x").read_bytes())
    done = replayed(tmp_path / "both", form)
    assert (done.returncode, done.stderr.count(b"\n")) == (3, 1)
    assert b"both is damaged at offset" in done.stderr
    lines = done.stdout if form == "--json" else done.stdout.splitlines()[-1]
    end = json.loads(lines)
    assert (end["complete"], [one["code"] for one in end["warnings"]]) == (False, ["ended_by_error"])
    rows = end["rows"] if form == "--json" else changes(done.stdout)
    assert steps(rows)["fin_wait_2>time_wait"] == COUNT


def test_sigterm_ends_it_whole(held: Population, tmp_path: Path) -> None:
    live = recorded(held, tmp_path / "x", end_by=signal.SIGTERM)
    assert live.returncode == -signal.SIGTERM or live.returncode == 128 + signal.SIGTERM
    replay = replayed(tmp_path / "x", "--ndjson")
    assert (replay.returncode, replay.stderr) == (0, b"")
    assert steps(changes(replay.stdout))["fin_wait_2>time_wait"] == COUNT


def test_killed_it_is_readable_and_said_to_be_cut(held: Population, tmp_path: Path) -> None:
    recorded(held, tmp_path / "x", end_by=signal.SIGKILL)
    replay = replayed(tmp_path / "x", "--ndjson")
    end = json.loads(replay.stdout.splitlines()[-1])
    assert (replay.returncode, end["complete"]) == (0, False)
    assert [warning["code"] for warning in end["warnings"]] == ["recording_cut"]
    assert steps(changes(replay.stdout))["established>fin_wait_1"] > 0


def test_a_full_disk_is_one_line_and_what_was_written_is_readable(held: Population, tmp_path: Path) -> None:
    """A limit of the file's size is as a full disk; three blocks of connections do not fit."""
    path = tmp_path / "x"
    size = 3 * COUNT * CHANGE.itemsize
    live = recorded(held, path, before=("prlimit", f"--fsize={size}", "--"))
    assert (live.returncode, live.stdout) == (6, b"")
    replay = replayed(path, "--ndjson")
    kept = len(changes(replay.stdout))
    more = f"; the {kept} changes before are there" if kept else ""
    assert live.stderr == f"finwait: cannot write {path}: File too large{more}\n".encode()
    assert replay.returncode == 0
    assert json.loads(replay.stdout.splitlines()[-1])["complete"] is False


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--read", "{x}", "--for", "1"), 2, "--for does not go with --read"),
        (("--read", "{x}", "-N", "1"), 2, "-N does not go with --read"),
        (("--read", "{x}", "--summary", "--by", "process"), 2, "--by does not go with --read"),
        (("--read", "{x}", "--lifetimes"), 2, "{x} has single changes, no whole connections"),
        (("--read", "{none}"), 6, "cannot read {none}: No such file or directory"),
        (("--read", "{text}"), 3, "{text} is no recording of changes (finwait trace --record makes them)"),
        (("--record", "{x}", "--summary"), 2, "--record does not go with --summary"),
        (("--record", "-", "--csv"), 2, "--record - writes to standard output, where nothing else can be printed"),
        (("--print",), 2, "--print goes with --record"),
        (("--record", "{none}/y"), 6, "cannot write {none}/y: No such file or directory"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_one_line(
    held: Population, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    places = {name: str(tmp_path / name) for name in ("x", "none", "text")}
    recorded(held, tmp_path / "x")
    (tmp_path / "text").write_text("State Recv-Q\n")
    done = run("trace", *(word.format(**places) for word in arguments))
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"finwait: {said.format(**places)}\n")


def test_each_command_says_whose_recording_it_is(held: Population, tmp_path: Path) -> None:
    recorded(held, tmp_path / "x")
    done = run("list", "--read", str(tmp_path / "x"))
    assert (done.returncode, done.stderr) == (
        3, f"finwait: {tmp_path}/x is a recording of changes; 'finwait trace --read' tells it\n",
    )  # fmt: skip


LIBRARY = """
import json, sys, finwait
path, work = sys.argv[1:]
with finwait.trace("dport = :3000", record=path) as changes:
    exec(work)
    live = [next(changes) for _ in range(35)]
with finwait.trace(read=path) as changes:
    print(json.dumps(live == list(changes)))
"""


def test_the_library_reads_what_it_recorded(held: Population, tmp_path: Path) -> None:
    work = f"import sys; sys.argv = ['x', '7']\n{connections(7)[2]}"
    assert held.run(sys.executable, "-c", LIBRARY, str(tmp_path / "x"), work) == "true\n"


def unread_in(pipe: IO[bytes]) -> int:
    """How many bytes its reader has not read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize("end_by", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_reading_of_a_pipe_and_what_was_read_is_told(
    held: Population, tmp_path: Path, end_by: signal.Signals
) -> None:
    live = recorded(held, tmp_path / "x")
    whole = len(changes(replayed(tmp_path / "x", "--ndjson").stdout))
    command = (*COMMAND, "trace", "--read", "-", "--ndjson")
    with (
        (tmp_path / "printed").open("wb") as file,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, env=ENVIRONMENT) as reading,
    ):
        assert reading.stdin is not None
        reading.stdin.write((tmp_path / "x").read_bytes()[:-8])
        reading.stdin.flush()
        assert await_condition(lambda: unread_in(reading.stdin) == 0, 20)
        reading.send_signal(end_by)
        assert reading.wait(10) == (130 if end_by == signal.SIGINT else -end_by)
    assert len(changes((tmp_path / "printed").read_bytes())) == whole
    assert f"{whole} changes were written".encode() in live.stderr
