"""`python -m benchmarks.tracing`: what following connections costs a server: nginx under wrk with `Connection: close`, with a
tracer and without in turn.

nginx, wrk and the tracers share a network namespace and this machine's processors, so that every microsecond of a tracer is
missing somewhere. A ratio is the throughput with a tracer to the mean of those before and after it without; the table has
medians. bpftrace needs tracefs, which is mounted for it in a mount namespace of its own. A connection has eleven changes on
loopback: both ends and the half-open one. Output goes to a file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.__main__ import FINWAIT, byte_compiled
from benchmarks.web_server import URL, missing_commands, web_server
from finwait.lab.namespace import await_condition
from finwait.sources.bpf_ring import with_header
from finwait.sources.change_records import CHANGE

if TYPE_CHECKING:
    import resource
    from collections.abc import Sequence

SECONDS = 2
PATIENCE_S = 20.0
BPFTRACE = (
    'tracepoint:sock:inet_sock_set_state { printf("%llu %d %d %d %d\\n", nsecs, args->sport, args->dport, args->oldstate, '
    "args->newstate); }"
)
WITH_TRACEFS = 'mount -t tracefs none /sys/kernel/tracing && exec bpftrace -e "$0"'


class Tracer(NamedTuple):
    """A tracer that is measured. budget: throughput that may be lost, at 15,000 connections a second or more. OUTPUT in its
    command is the file that it writes, else that is its standard output. record_bytes: of a change in it; 0: it has lines.
    """  # fmt: skip

    name: str
    command: tuple[str, ...]
    budget: float | None = None
    speaks: bool = True
    record_bytes: int = 0


OUTPUT = "OUTPUT"
TRACERS = (
    Tracer("nothing (how far two runs differ)", ("sleep", "60"), speaks=False),
    Tracer("finwait count --watch 1", (FINWAIT, "count", "--watch", "1", "--ndjson"), 0.05),
    Tracer("finwait trace --summary", (FINWAIT, "trace", "--summary", "--every", "1", "--ndjson")),
    Tracer("finwait trace --lifetimes", (FINWAIT, "trace", "--lifetimes")),
    Tracer(
        "finwait trace --record",
        (FINWAIT, "trace", "--record", OUTPUT),
        0.12,
        record_bytes=with_header(CHANGE).itemsize,
    ),
    Tracer("finwait trace", (FINWAIT, "trace")),
    Tracer("finwait trace --ndjson", (FINWAIT, "trace", "--ndjson")),
    Tracer("finwait trace state time-wait", (FINWAIT, "trace", "state", "time-wait")),
    Tracer("bpftrace, one line", ("unshare", "-m", "sh", "-c", WITH_TRACEFS, BPFTRACE)),
)


class Run(NamedTuple):
    """One turn. ratio: throughput with the tracer to that without. rate: connections a second with it. lines: or records, that
    it wrote in a second. lost: changes that it says it lost. cpu_s: processor time that it took in user space, start included.
    """  # fmt: skip

    ratio: float
    rate: float
    lines: float
    lost: int
    cpu_s: float


def throughput(enter: Sequence[str]) -> float:
    """Connections a second."""
    load = ("wrk", "-t2", "-c64", f"-d{SECONDS}s", "-H", "Connection: close", URL)
    done = subprocess.run([*enter, *load], capture_output=True, text=True, check=True)
    found = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    if found is None:
        raise SystemExit(f"wrk said: {done.stdout}")
    return float(found[1])


def run_with(tracer: Tracer, enter: Sequence[str], before: float) -> tuple[Run, float]:
    """One turn, and the throughput without a tracer behind it."""
    with tempfile.NamedTemporaryFile() as output, tempfile.NamedTemporaryFile() as errors:
        command = [output.name if word == OUTPUT else word for word in tracer.command]
        process = subprocess.Popen([*enter, *command], stdout=output, stderr=errors)
        _await_begin(tracer, (output.name, errors.name))
        begun = _count_changes(tracer, output.name)
        rate = throughput(enter)
        lines = _count_changes(tracer, output.name) - begun
        usage = _end(process)
        lost = _lost(output.name, errors.name)
    after = throughput(enter)
    return Run(rate / ((before + after) / 2), rate, lines / SECONDS, lost, usage.ru_utime), after


def _await_begin(tracer: Tracer, paths: Sequence[str]) -> None:
    """Until the tracer says anything, which all of them do when they are attached."""
    if tracer.speaks and not await_condition(lambda: any(os.path.getsize(path) for path in paths), PATIENCE_S):
        raise SystemExit(f"{tracer.name} does not begin")


def _end(process: subprocess.Popen[bytes]) -> resource.struct_rusage:
    """Ctrl-C; one that does not end by it is a failure."""
    process.send_signal(signal.SIGINT)
    asked = os.WEXITED | os.WNOHANG | os.WNOWAIT
    if not await_condition(lambda: os.waitid(os.P_PID, process.pid, asked) is not None, PATIENCE_S):
        process.kill()
        raise SystemExit(f"Ctrl-C does not end {process.args}")
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    return usage


def _count_changes(tracer: Tracer, path: str) -> float:
    if tracer.record_bytes:
        return os.path.getsize(path) / tracer.record_bytes
    with open(path, "rb") as file:
        return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))


def _lost(output: str, errors: str) -> int:
    """As finwait tells at its end or on stderr, or bpftrace ("Lost N events")."""
    with open(output, "rb") as file:
        file.seek(max(os.path.getsize(output) - 4096, 0))
        last = file.read().rstrip().rpartition(b"\n")[2]
    with open(errors, encoding="utf-8", errors="replace") as file:
        told = sum(
            int(number)
            for number in re.findall(r"(?:Lost (\d+) events|(\d+) changes were lost)", file.read())
            for number in number
            if number
        )
    try:
        return told + int(json.loads(last).get("lost", 0))
    except (ValueError, AttributeError):
        return told


def main() -> None:
    """Measure in turns, print the table, and say what is over budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each tracer (default 5)")
    parser.add_argument("--tracer", action="append", help="only those whose name contains this")
    options = parser.parse_args()
    lacking = missing_commands()
    if lacking:
        raise SystemExit(f"not installed: {', '.join(lacking)}")
    chosen = [one for one in TRACERS if not options.tracer or any(word in one.name for word in options.tracer)]
    chosen = [one for one in chosen if "bpftrace" not in one.name or shutil.which("bpftrace")]
    runs: dict[str, list[Run]] = {one.name: [] for one in chosen}
    without: list[float] = []
    with byte_compiled(), web_server() as pid:
        enter = ("nsenter", "-t", str(pid), "-n", "--")
        throughput(enter)
        before = throughput(enter)
        for _ in range(options.rounds):
            for tracer in chosen:
                run, after = run_with(tracer, enter, before)
                runs[tracer.name].append(run)
                without.append(before)
                before = after
    rate = statistics.median(without)
    print(f"Linux {platform.release()}, {os.cpu_count()} processors, {rate:,.0f} connections/s without a tracer\n")
    print("| | throughput lost | connections/s | changes/s | lost | user CPU |\n|---|--:|--:|--:|--:|--:|")
    missed = []
    for tracer in chosen:
        middle = [statistics.median(values) for values in zip(*runs[tracer.name], strict=True)]
        ratio, with_it, lines, lost, cpu_s = middle
        print(f"| {tracer.name} | {1 - ratio:.1%} | {with_it:,.0f} | {lines:,.0f} | {lost:,.0f} | {cpu_s:.2f} s |")
        if tracer.budget is not None and 1 - ratio > tracer.budget:
            missed.append(f"{tracer.name}: {1 - ratio:.1%} > {tracer.budget:.0%}")
    for line in missed:
        print("over budget:", line, file=sys.stderr)
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
