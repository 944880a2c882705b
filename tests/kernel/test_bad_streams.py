"""Pipes, disks and signals: a closed pipe kills by SIGPIPE, Ctrl-C ends with 130, a full disk is told, nothing stays behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from finwait.lab.namespace import await_condition
from finwait.lab.population import Population
from finwait.lab.spec import Group, Spec
from tests.kernel.bad_input import IN_OWN_MOUNTS, left_in, one_line, refusal, run_bytes, told
from tests.kernel.finwait_command import COMMAND, ENVIRONMENT, output_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OUTPUTS = [("count",), ("count", "--json"), ("count", "--csv"), ("count", "--help"), ("list",), ("list", "--json"),
           ("list", "--ndjson"), ("list", "--csv"), ("list", "--style", "ss"), ("--help",), ("--version",)]  # fmt: skip
LONG_OUTPUTS = [("list",), ("list", "--json"), ("list", "--ndjson"), ("list", "--csv"), ("list", "--style", "ss"),
                ("count", "--by", "peer"), ("count", "--by", "peer", "--csv"), ("count", "--by", "peer", "--json")]  # fmt: skip


@pytest.fixture(scope="module")
def held() -> Iterator[Population]:
    with Population(Spec((Group("LISTEN", 3), Group("ESTABLISHED", 1999, opened="repair", peers=1999)))) as population:
        yield population


@pytest.fixture
def running(held: Population) -> Iterator[Any]:
    """Starts finwait inside the population's namespace; whatever runs when the test ends is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": ENVIRONMENT, **options}
        started.append(subprocess.Popen(held.enter_command(*COMMAND, *arguments), **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def is_writing(process: subprocess.Popen[bytes]) -> None:
    """Return when `process` has begun to write; with nobody who reads on, it soon waits in write(2)."""
    assert process.stdout is not None
    assert process.stdout.read(1)


def talk_of(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stderr is not None
    return process.stderr.read()


# -- pipes


@pytest.mark.parametrize("arguments", LONG_OUTPUTS, ids=" ".join)
def test_a_pipe_closed_in_the_middle_kills_by_sigpipe(running: Any, arguments: tuple[str, ...]) -> None:
    process = running(*arguments)
    is_writing(process)
    process.stdout.close()
    assert (talk_of(process), process.wait()) == (b"", -signal.SIGPIPE)


@pytest.mark.parametrize("arguments", OUTPUTS, ids=" ".join)
def test_a_pipe_closed_from_the_beginning_kills_by_sigpipe(arguments: tuple[str, ...]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = run_bytes([*COMMAND, *arguments], capture_output=False, stdout=write_end, stderr=subprocess.PIPE)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


def test_head_gets_its_line(held: Population) -> None:
    pipeline = 'set -o pipefail; "$@" | head -1'
    done = run_bytes(held.enter_command("bash", "-c", pipeline, "bash", *COMMAND, "list", "--csv"))
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")
    assert done.stdout.startswith(b"state,local,peer")


@pytest.mark.parametrize("arguments", OUTPUTS, ids=" ".join)
def test_a_closed_stdout_is_told(arguments: tuple[str, ...]) -> None:
    done = run_bytes(["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, *arguments])
    assert told(1, done) == "standard output is closed"


@pytest.mark.parametrize("arguments", OUTPUTS, ids=" ".join)
def test_a_full_device_is_told(held: Population, arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        options: dict[str, Any] = {"capture_output": False, "stdout": full, "stderr": subprocess.PIPE}
        done = run_bytes(held.enter_command(*COMMAND, *arguments), **options)
    assert done.returncode == 1
    assert one_line(done.stderr) == "the answer could not be written: No space left on device"


def test_a_closed_stderr_silences_what_is_said() -> None:
    done = run_bytes(["sh", "-c", 'exec "$@" 2>&-', "sh", *COMMAND, "state", "nosuch"])
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")


def test_a_closed_stdin_is_told() -> None:
    done = run_bytes(["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, "--read", "-"])
    assert told(6, done) == "cannot read standard input: Bad file descriptor"


@pytest.mark.parametrize("arguments", OUTPUTS[:9], ids=" ".join)
def test_every_stream_may_be_closed_but_stdout(held: Population, arguments: tuple[str, ...]) -> None:
    done = run_bytes(held.enter_command("sh", "-c", 'exec "$@" <&- 2>&-', "sh", *COMMAND, *arguments))
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout


def test_a_pipe_that_is_named_is_read_like_standard_input(held: Population) -> None:
    text = held.run("ss", "-tan").encode()
    whole = run_bytes([*COMMAND, "--read", "-", "--json"], input=text)
    named = run_bytes(
        ["bash", "-c", '"${@:2}" --read <(cat "$1")', "bash", "/dev/stdin", *COMMAND, "--json"], input=text
    )
    assert named.returncode == whole.returncode == 0
    assert named.stdout == whole.stdout
    assert b'"count": 1999' in whole.stdout


# -- Ctrl-C


@pytest.mark.parametrize("arguments", LONG_OUTPUTS, ids=" ".join)
def test_ctrl_c_while_writing_ends_with_130(running: Any, arguments: tuple[str, ...]) -> None:
    process = running(*arguments)
    is_writing(process)
    process.send_signal(signal.SIGINT)
    assert (process.wait(10), talk_of(process)) == (130, b"")


@pytest.mark.parametrize("command", ["count", "list"])
def test_ctrl_c_while_standard_input_is_read_ends_with_130(running: Any, command: str) -> None:
    """Sixteen times, as a signal that comes between two reads of one copy is heard by none of CPython's own loops."""
    processes = [running(command, "--read", "-", stdin=subprocess.PIPE) for _ in range(16)]
    for process in processes:
        for _ in range(16):  # more than the pipe holds: it is being read
            process.stdin.write(b"ESTAB 0 0 10.0.0.1:80 10.0.0.2:1024\n" * 1000)
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
    assert [(process.wait(10), process.stdout.read(), talk_of(process)) for process in processes] == [
        (130, b"", b"")
    ] * 16


@pytest.mark.parametrize("pair", [socket.socketpair, os.openpty], ids=["socket", "terminal"])
def test_ctrl_c_ends_the_reading_of_a_socket_and_a_terminal(running: Any, pair: Callable[[], Any]) -> None:
    ours, theirs = (end if isinstance(end, int) else end.detach() for end in pair())
    process = running("list", "--read", "-", stdin=theirs)
    os.write(ours, b"ESTAB 0 0 10.0.0.1:80 10.0.0.2:1024\n")
    assert await_condition(lambda: "poll" in wait_of(process.pid), 10.0)
    process.send_signal(signal.SIGINT)
    assert (process.wait(10), process.stdout.read(), talk_of(process)) == (130, b"", b"")
    for end in (ours, theirs):
        os.close(end)


def wait_of(pid: int) -> str:
    """What the process waits for in the kernel."""
    with open(f"/proc/{pid}/wchan", encoding="ascii") as file:
        return file.read()


# -- recordings on the way


ENDS = {
    "ctrl-c": (signal.SIGINT, 130),
    "sigterm": (signal.SIGTERM, -signal.SIGTERM),
    "sighup": (signal.SIGHUP, -signal.SIGHUP),
    "closed pipe": (None, -signal.SIGPIPE),
}


@pytest.mark.parametrize("suffix", ["diag", "finwait"])
@pytest.mark.parametrize("end", ENDS)
def test_a_recording_that_ends_early_leaves_what_was_there(running: Any, end: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"kept.{suffix}"
    path.write_bytes(b"what was there")
    process = running("list", "--ndjson", "--record", str(path))
    is_writing(process)
    assert left_in(tmp_path) == [path.name, f"{path.name}.{process.pid}.part"]
    number, code = ENDS[end]
    if number is None:
        process.stdout.close()
    else:
        process.send_signal(number)
    assert (process.wait(10), talk_of(process)) == (code, b"")
    assert left_in(tmp_path) == [path.name]
    assert path.read_bytes() == b"what was there"


@pytest.mark.parametrize("suffix", ["diag", "finwait"])
@pytest.mark.parametrize("size", ["4k", "32k"])
def test_a_full_disk_is_told_and_keeps_what_was_there(held: Population, suffix: str, size: str, tmp_path: Path) -> None:
    path = f"{tmp_path}/kept.{suffix}"
    script = f"""
        mount -t tmpfs -o size={size} none {tmp_path}
        printf x > {path}
        head -c 32000 /dev/urandom > {tmp_path}/ballast 2>/dev/null || true
        "$@" > {tmp_path}.out || code=$?
        cat {path}
        ls -A {tmp_path}
        exit $code
    """
    done = run_bytes(held.enter_command(*IN_OWN_MOUNTS, script, "sh", *COMMAND, "--record", path))
    assert done.returncode == 6, done
    assert one_line(done.stderr) == f"cannot write {path}: No space left on device"
    assert done.stdout.split() == [b"xballast", f"kept.{suffix}".encode()]
    assert os.stat(f"{tmp_path}.out").st_size == 0


@pytest.mark.parametrize("name", ["x.diag", "x.finwait"])
def test_a_recording_that_cannot_be_begun_is_told(tmp_path: Path, name: str) -> None:
    missing = tmp_path / "missing" / name
    assert refusal(6, "--record", str(missing)) == f"cannot write {missing}: No such file or directory"
    assert refusal(6, "--record", f"/proc/{name}").startswith(f"cannot write /proc/{name}: ")
    (tmp_path / name).mkdir()
    assert refusal(6, "--record", str(tmp_path / name)) == f"cannot write {tmp_path / name}: Is a directory"
    assert left_in(tmp_path) == [name]


@pytest.mark.parametrize("arguments", [("state", "nosuch"), ("--sort", "nosuch"), ("-N", "nosuch"), ("--read", "x")])
def test_a_refusal_leaves_no_recording(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    run = run_bytes([*COMMAND, "--record", f"{tmp_path}/x.finwait", *arguments])
    assert run.returncode in {2, 6}
    one_line(run.stderr)
    assert left_in(tmp_path) == []


def test_a_recording_that_ends_well_is_there(held: Population, tmp_path: Path) -> None:
    for name in ("x.diag", "x.finwait"):
        output_of("count", "--record", f"{tmp_path}/{name}", held=held)
        assert (
            output_of("count", "--csv", "--read", f"{tmp_path}/{name}", "exclude", "closed").count("established,1999")
            == 1
        )
    assert left_in(tmp_path) == ["x.diag", "x.finwait"]


# -- environments


@pytest.mark.parametrize("language", ["zh_CN.UTF-8", "zh_CN.GB18030", "xx_YY.UTF-8", "C", "POSIX", ""])
@pytest.mark.parametrize("encoding", [None, "ascii", "latin-1", "gbk", "utf-8"])
@pytest.mark.parametrize(
    "arguments", [(), ("list",), ("--help",), ("list", "--help"), ("state", "数据库")], ids=" ".join
)
def test_any_locale_and_encoding_will_do(language: str, encoding: str | None, arguments: tuple[str, ...]) -> None:
    environment = {**ENVIRONMENT, "LC_ALL": language, "LANG": language}
    environment.pop("PYTHONIOENCODING", None)
    if encoding is not None:
        environment["PYTHONIOENCODING"] = encoding
    done = run_bytes([*COMMAND, *arguments], env=environment)
    assert done.returncode == (2 if "state" in arguments else 0), done
    assert b"Traceback" not in done.stderr
    if "state" in arguments:
        assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("columns", ["1", "0", "-1", "x", "", "9" * 5000, "²"])
def test_any_width_of_the_terminal_will_do(columns: str) -> None:
    for arguments in (("--help",), ("count", "--help"), ("list", "--help"), ("list",), ()):
        done = run_bytes([*COMMAND, *arguments], env={**ENVIRONMENT, "COLUMNS": columns})
        assert (done.returncode, done.stderr) == (0, b""), done
