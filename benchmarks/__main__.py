"""`python -m benchmarks`: finwait beside its peers, in one run, on the same sockets; prints the table of the README.

Each population stands in a namespace of its own. The commands take turns; a number is the median of their runs, a ratio is
to `ss -tan` of the same run (for few sockets: to the bare interpreter), with a star to `ss -tanp`, with a dagger to `finwait
list`. Peak memory is that of the
process itself (wait4). finwait is byte-compiled first, as pip leaves it.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.sockets import BusyHost

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FINWAIT = os.path.join(os.path.dirname(sys.executable), "finwait")
ONE_LINER = "netstat -n | awk '/^tcp/ {++S[$NF]} END {for(a in S) print a, S[a]}'"
PSUTIL = "import psutil, collections; print(collections.Counter(c.status for c in psutil.net_connections('tcp')))"
OWNERS = "ss -tanp"  # what counts by process are measured by
LIST = "finwait list"  # what the doctor is measured by
SIGNS = {OWNERS: "*", LIST: "\N{DAGGER}"}
SLOW_S = 5.0  # a peer slower than this runs once only
MARKERS = ("<!-- benchmarks -->", "<!-- /benchmarks -->")


class Peer(NamedTuple):
    """A command that is measured. budget: the ratio that it must keep, by scenario. base: the peer that its ratio is to where
    that was measured, else the scenario's. limit: above so many sockets it takes minutes and runs with --long only.
    """  # fmt: skip

    name: str
    command: tuple[str, ...]
    budget: dict[str, float] = {}  # noqa: RUF012 - never changed
    base: str | None = None
    limit: int | None = None


class Scenario(NamedTuple):
    """A population and what its ratios are to."""

    name: str
    count: int
    mix: str
    base: str


SCENARIOS = (
    Scenario("few", 100, "established", "bare interpreter"),
    Scenario("100,000", 100_000, "established", "ss -tan"),
    Scenario("100,000, half TIME_WAIT", 100_000, "half-time-wait", "ss -tan"),
    Scenario("1,000,000", 1_000_000, "established", "ss -tan"),
)
PEERS = (
    Peer("bare interpreter", (sys.executable, "-I", "-c", "pass")),
    Peer(
        "finwait",
        (FINWAIT,),
        {"few": 3.6, "100,000": 0.52, "100,000, half TIME_WAIT": 0.52, "1,000,000": 0.32},
    ),
    Peer(
        "finwait --source sock_diag",
        (FINWAIT, "--source", "sock_diag"),
        {"few": 3.6, "100,000": 0.72, "100,000, half TIME_WAIT": 0.80, "1,000,000": 0.57},
    ),
    Peer("finwait --by process", (FINWAIT, "--by", "process"), {"100,000": 0.11, "1,000,000": 0.01}, OWNERS),
    Peer(
        "finwait --by process, without BPF",
        (FINWAIT, "--by", "process", "--source", "sock_diag"),
        {"100,000": 0.50},
        OWNERS,
    ),
    Peer("finwait list -p", (FINWAIT, "list", "-p"), {}, OWNERS),
    Peer(LIST, (FINWAIT, "list"), {"few": 12.0, "100,000": 1.5, "1,000,000": 0.75}),
    Peer(
        "finwait doctor, two looks",
        (FINWAIT, "doctor", "--for", "0.001"),
        {"100,000": 3.0, "100,000, half TIME_WAIT": 3.0},
        LIST,
    ),
    Peer("finwait ports", (FINWAIT, "ports"), {}, LIST),
    Peer("ss -tan", ("ss", "-tan")),
    Peer(OWNERS, ("ss", "-tanp"), {}, OWNERS, limit=200_000),
    Peer("netstat one-liner", ("sh", "-c", ONE_LINER)),
    Peer("netstat -ant", ("netstat", "-ant")),
    Peer("psutil", (sys.executable, "-c", PSUTIL)),
)


class Measurement(NamedTuple):
    """Median wall time in seconds, runs, and peak resident memory in MiB."""

    seconds: float
    runs: int
    memory_mib: float


def run_once(command: Sequence[str]) -> tuple[float, float]:
    """Wall time and peak memory of one run whose output is read and thrown away."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    while process.stdout.read(1 << 20):
        pass
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return seconds, usage.ru_maxrss / 1024


def measure(scenario: Scenario, runs: int, peers: Sequence[Peer]) -> dict[str, Measurement]:
    """All `peers` in turn on the scenario's sockets."""
    seconds: dict[str, list[float]] = {peer.name: [] for peer in peers}
    memory: dict[str, float] = {peer.name: 0.0 for peer in peers}
    with BusyHost(scenario.count, scenario.mix) as host:
        for turn in range(runs):
            host.rearm()
            for peer in peers:
                known = seconds[peer.name]
                if turn and known[0] > SLOW_S and peer.name != scenario.base:
                    continue
                # The namespace is entered before the clock starts counting for the peer: nsenter execs it.
                took, most = run_once(host.enter_command(*peer.command))
                known.append(took)
                memory[peer.name] = max(memory[peer.name], most)
    return {name: Measurement(statistics.median(known), len(known), memory[name]) for name, known in seconds.items()}


@contextmanager
def byte_compiled() -> Iterator[None]:
    """The package as pip installs it."""
    compileall.compile_dir(os.path.join(ROOT, "src", "finwait"), quiet=2)
    yield


def table_of(results: dict[str, dict[str, Measurement]]) -> list[str]:
    """A Markdown table: a row a peer, a column a scenario."""
    names = [scenario for scenario in SCENARIOS if scenario.name in results]
    lines = ["| | " + " | ".join(f"{one.name} sockets" for one in names) + " |", "|---|" + "--:|" * len(names)]
    for peer in PEERS:
        cells = [_cell(results[one.name], peer, one) for one in names]
        if any(cell != "" for cell in cells):
            lines.append(f"| {peer.name} | " + " | ".join(cells) + " |")
    return lines


def _cell(measured: dict[str, Measurement], peer: Peer, scenario: Scenario) -> str:
    if peer.name not in measured:
        return ""
    one = measured[peer.name]
    ratio = one.seconds / measured[base_of(peer, measured, scenario)].seconds
    mark = SIGNS.get(base_of(peer, measured, scenario), "")
    time_text = f"{one.seconds * 1000:.0f} ms" if one.seconds < 1 else f"{one.seconds:.2f} s"
    digits = 3 if ratio < 0.095 and scenario.base != "bare interpreter" else 2
    return f"{time_text} ({ratio:.{digits}f}{mark}), {one.memory_mib:.0f} MB"


def base_of(peer: Peer, measured: dict[str, Measurement], scenario: Scenario) -> str:
    """The peer that the ratio of `peer` is to."""
    return peer.base if peer.base in measured and scenario.base != "bare interpreter" else scenario.base  # type: ignore[return-value]


def over_budget(results: dict[str, dict[str, Measurement]]) -> list[str]:
    """What is slower than its budget, or larger: a line each."""
    found = []
    for scenario in SCENARIOS:
        measured = results.get(scenario.name, {})
        for peer in PEERS:
            if peer.name in measured and scenario.name in peer.budget:
                base = base_of(peer, measured, scenario)
                if peer.base not in {None, base}:
                    continue
                ratio = measured[peer.name].seconds / measured[base].seconds
                if ratio > peer.budget[scenario.name]:
                    found.append(f"{peer.name}, {scenario.name}: {ratio:.2f} > {peer.budget[scenario.name]}")
        for name, most in (("finwait", 30), ("finwait list", 60), ("finwait --by process", 60)):
            if name in measured and measured[name].memory_mib > most:
                found.append(f"{name}, {scenario.name}: {measured[name].memory_mib:.0f} MB > {most} MB")
    return found


def write_readmes(lines: Sequence[str]) -> None:
    """Put the table between the markers of both READMEs."""
    for name in ("README.md", "README.zh_CN.md"):
        path = os.path.join(ROOT, name)
        with open(path, encoding="utf-8") as file:
            text = file.read()
        before, begin, rest = text.partition(MARKERS[0])
        _, end, behind = rest.partition(MARKERS[1])
        if not begin or not end:
            raise SystemExit(f"{name} has no {MARKERS[0]} ... {MARKERS[1]}")
        with open(path, "w", encoding="utf-8") as file:
            file.write(before + begin + "\n" + "\n".join(lines) + "\n" + end + behind)


def main() -> None:
    """Measure, print, and say what is over budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs of each command (default 5)")
    parser.add_argument("--scenario", action="append", choices=[one.name for one in SCENARIOS], help="only these")
    parser.add_argument(
        "--peer", action="append", choices=[peer.name for peer in PEERS], help="only these, and the base"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the numbers")
    parser.add_argument("--write", action="store_true", help="put the table into both READMEs")
    parser.add_argument("--long", action="store_true", help="also what takes minutes: ss -tanp over a million sockets")
    options = parser.parse_args()
    results: dict[str, dict[str, Measurement]] = {}
    with byte_compiled():
        for scenario in SCENARIOS:
            if options.scenario and scenario.name not in options.scenario:
                continue
            wanted = [one for one in PEERS if not options.peer or one.name in {*options.peer, scenario.base}]
            wanted = [one for one in wanted if options.long or one.limit is None or scenario.count <= one.limit]
            runs = options.runs * 4 if scenario.count <= 1000 else options.runs
            results[scenario.name] = measure(scenario, runs, wanted)
    lines = table_of(results)
    print(f"Linux {platform.release()}, Python {platform.python_version()}, {os.cpu_count()} processors\n")
    print("\n".join(lines))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(
                {name: {peer: one._asdict() for peer, one in measured.items()} for name, measured in results.items()},
                file,
            )
    if options.write:
        write_readmes(lines)
    missed = over_budget(results)
    for line in missed:
        print("over budget:", line, file=sys.stderr)
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
