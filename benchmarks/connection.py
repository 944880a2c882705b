"""`python -m benchmarks.connection`: how much longer a connection takes on the processor that makes it while a tracer runs
on another one: what the programs in the kernel cost, without what finwait itself does.

One loop on one processor connects over loopback, accepts, sends both ways and closes. Of its windows of 200 connections the
fifth fastest in a hundred counts, and of each tracer the least of all rounds: what else happens on a machine makes a loop
slower, never faster, so that rounds enough tell microseconds that the throughput of a web server (`benchmarks.tracing`) does
not.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from benchmarks.tracing import OUTPUT, PATIENCE_S, TRACERS, Tracer
from finwait.lab.namespace import await_condition

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 2.0
LOOP = """
import os, socket, sys, time
os.sched_setaffinity(0, {0})
server = socket.create_server(("127.0.0.1", 0))
address, end, windows = server.getsockname(), time.monotonic() + float(sys.argv[1]), []
while time.monotonic() < end:
    began = time.perf_counter()
    for _ in range(200):
        client = socket.socket()
        client.connect(address)
        accepted = server.accept()[0]
        client.send(b"hello"), accepted.recv(64), accepted.send(b"world")
        accepted.close()
        client.recv(64), client.recv(64), client.close()
    windows.append((time.perf_counter() - began) / 200 * 1e6)
windows.sort()
print(windows[len(windows) // 20])
"""
HOLD = ("unshare", "--net", "sh", "-c", "ip link set lo up && exec sleep 86400")


def begun(tracer: Tracer | None, enter: tuple[str, ...], output: str) -> subprocess.Popen[bytes] | None:
    """The tracer on all processors but the first, when it says that it is attached."""
    if tracer is None:
        return None
    others = ",".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0) - {0}))
    command = ("taskset", "-c", others, *(output if word == OUTPUT else word for word in tracer.command))
    with open(f"{output}.said", "wb") as said:
        process = subprocess.Popen([*enter, *command], stdout=said, stderr=said)
    if not await_condition(lambda: any(os.path.getsize(path) for path in (output, f"{output}.said")), PATIENCE_S):
        process.kill()
        raise SystemExit(f"{tracer.name} does not begin")
    return process


def microseconds(tracer: Tracer | None, enter: tuple[str, ...]) -> float:
    """Of a connection, in one turn."""
    with tempfile.TemporaryDirectory() as directory:
        output = os.path.join(directory, "output")
        with open(output, "wb"):
            process = begun(tracer, enter, output)
        loop = (*enter, sys.executable, "-c", LOOP, str(SECONDS))
        try:
            return float(subprocess.run(loop, capture_output=True, text=True, check=True).stdout)
        finally:
            if process is not None:
                process.send_signal(signal.SIGINT)
                process.wait(10)


def chosen(words: list[str]) -> Iterator[Tracer]:
    """Those whose name has one of `words`, of those that are installed and do anything."""
    for tracer in TRACERS:
        is_there = tracer.speaks and ("bpftrace" not in tracer.name or shutil.which("bpftrace"))
        if is_there and (not words or any(word in tracer.name for word in words)):
            yield tracer


def main() -> None:
    """Measure in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="turns of each tracer (default 12)")
    parser.add_argument("--tracer", action="append", default=[], help="only those whose name contains this")
    options = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("it takes two processors: one for the connections, one for the tracer")
    tracers = [None, *chosen(options.tracer)]
    least = dict.fromkeys(tracers, float("inf"))
    with subprocess.Popen(HOLD) as holder:
        try:
            enter = ("nsenter", "-t", str(holder.pid), "-n", "--")
            if not await_condition(lambda: b" 127.0.0.0" in _routes(enter), PATIENCE_S):
                raise SystemExit("there is no network namespace")
            for _ in range(options.rounds):
                for tracer in tracers:
                    least[tracer] = min(least[tracer], microseconds(tracer, enter))
        finally:
            holder.kill()
    print(f"Linux {platform.release()}, {options.rounds} rounds\n\n| | us a connection | more |\n|---|--:|--:|")
    for tracer, us in least.items():
        print(f"| {tracer.name if tracer else 'nothing'} | {us:.1f} | {us / least[None] - 1:.1%} |")


def _routes(enter: tuple[str, ...]) -> bytes:
    return subprocess.run([*enter, "ip", "route", "show", "table", "local"], capture_output=True, check=False).stdout


if __name__ == "__main__":
    main()
