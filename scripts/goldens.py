"""The golden files of tests/contract: what finwait prints from a recording, or on a made-up machine, one file a format with its
real extension.
"""  # fmt: skip

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DIRECTORY = Path("tests/contract/golden")
TICKET = "docs/examples/ticket-ss.txt"
ARTICLE = "docs/examples/ticket-netstat.txt"
MACHINE = "tests/contract/fixed_machine.py"
FINWAIT = ""  # finwait itself, no recording
EXPLAINED = "tests/contract/fixed_explain.py"
PATIENT = "tests/contract/fixed_doctor.py"
TRACED = "tests/contract/fixed_trace.py"
# file: (recording or program, arguments); what goes to standard error stands behind a line of its own in the .txt files
COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "count.txt": (TICKET, ("count",)),
    "count.zh_CN.txt": (TICKET, ("count", "--lang", "zh")),
    "count.ascii.txt": (TICKET, ("count", "-H")),
    "count.color.txt": (TICKET, ("count", "--color", "always")),
    "count.ss.txt": (TICKET, ("count", "--style", "ss")),
    "count.netstat.txt": (ARTICLE, ("count", "--style", "netstat")),
    "count.json": (TICKET, ("count", "--json")),
    "count.ndjson": (TICKET, ("count", "--ndjson")),
    "count.csv": (TICKET, ("count", "--csv")),
    "count_by.txt": (TICKET, ("count", "--by", "state,process", "--top", "3")),
    "count_by.zh_CN.txt": (TICKET, ("count", "--by", "state,process", "--top", "3", "--lang", "zh")),
    "count_by.json": (TICKET, ("count", "--by", "state,process", "--top", "3", "--json")),
    "count_by.csv": (TICKET, ("count", "--by", "state,process", "--top", "3", "--csv")),
    "list.txt": (TICKET, ("list",)),
    "list.timers.txt": (TICKET, ("list", "-o", "--sort", "state,-peer_address", "--limit", "13")),
    "list.ss.txt": (TICKET, ("list", "--style", "ss")),
    "list.json": (TICKET, ("list", "--json", "-o", "state", "close-wait")),
    "list.ndjson": (TICKET, ("list", "--ndjson", "-o", "state", "close-wait")),
    "list.csv": (TICKET, ("list", "--csv", "-o")),
    "capabilities.txt": (MACHINE, ("capabilities",)),
    "capabilities.zh_CN.txt": (MACHINE, ("capabilities", "--lang", "zh")),
    "capabilities.color.txt": (MACHINE, ("capabilities", "-H", "--color", "always")),
    "capabilities.json": (MACHINE, ("capabilities", "--json")),
    "capabilities.ndjson": (MACHINE, ("capabilities", "--ndjson", "--lang", "zh")),
    "capabilities.csv": (MACHINE, ("capabilities", "--csv")),
    "explain.txt": (EXPLAINED, ("explain",)),
    "explain.zh_CN.txt": (EXPLAINED, ("explain", "--lang", "zh")),
    "explain_all.txt": (EXPLAINED, ("explain", "all")),
    "explain_all.zh_CN.txt": (EXPLAINED, ("explain", "all", "--lang", "zh")),
    "explain_state.color.txt": (EXPLAINED, ("explain", "close-wait", "--color", "always")),
    "explain_state.json": (EXPLAINED, ("explain", "FIN_WAIT2", "--json")),
    "explain_state.zh_CN.json": (EXPLAINED, ("explain", "FIN_WAIT2", "--json", "--no-counts", "--lang", "zh")),
    "explain_timers.txt": (EXPLAINED, ("explain", "timer")),
    "explain_why.txt": (EXPLAINED, ("explain", "why")),
    "explain_why.zh_CN.txt": (EXPLAINED, ("explain", "why", "rcv_ack_of_fin", "--lang", "zh")),
    "explain_timers.zh_CN.txt": (EXPLAINED, ("explain", "timer", "--lang", "zh")),
    "explain_transition.txt": (EXPLAINED, ("explain", "transition", "established", "fin_wait_1")),
    "explain_transition.zh_CN.txt": (EXPLAINED, ("explain", "transition", "established", "time-wait", "--lang", "zh")),
    "explain_transition.json": (EXPLAINED, ("explain", "transition", "last-ack", "time-wait", "--json")),
    "explain_transition.md": (EXPLAINED, ("explain", "transition", "syn-recv", "established", "--markdown")),
    "explain_state.md": (EXPLAINED, ("explain", "time-wait", "--markdown")),
    "doctor.txt": (PATIENT, ("doctor",)),
    "doctor.zh_CN.txt": (PATIENT, ("doctor", "--lang", "zh")),
    "doctor.color.txt": (PATIENT, ("doctor", "--color", "always", "--min-severity", "critical")),
    "doctor.json": (PATIENT, ("doctor", "--json")),
    "doctor.ndjson": (PATIENT, ("doctor", "--ndjson", "--rule", "close-wait-leak,ghost-sockets")),
    "doctor.md": (PATIENT, ("doctor", "--markdown")),
    "doctor.zh_CN.md": (PATIENT, ("doctor", "--markdown", "--lang", "zh", "--rule", "close-wait-leak")),
    "doctor_healthy.txt": (PATIENT, ("doctor", "--rule", "tcp-memory,orphans")),
    "doctor_plugin.txt": (PATIENT, ("doctor", "--plugin")),
    "doctor_rules.txt": (PATIENT, ("doctor", "--rules", "--rule", "close-wait-leak,ghost-sockets,conntrack-full")),
    "doctor_rules.zh_CN.txt": (PATIENT, ("doctor", "--rules", "--lang", "zh", "--rule", "ghost-sockets")),
    "doctor_rules.json": (PATIENT, ("doctor", "--rules", "--json", "--rule", "ghost-sockets")),
    "ports.txt": (PATIENT, ("ports",)),
    "ports.zh_CN.txt": (PATIENT, ("ports", "--lang", "zh")),
    "ports.json": (PATIENT, ("ports", "--json")),
    "ports.csv": (PATIENT, ("ports", "--csv")),
    "trace.txt": (TRACED, ("trace",)),
    "trace.color.txt": (TRACED, ("trace", "--all-netns", "--no-owners", "--color", "always")),
    "trace.zh_CN.txt": (TRACED, ("trace", "-H", "--count", "2", "--lang", "zh")),
    "trace.json": (TRACED, ("trace", "--json")),
    "trace.ndjson": (TRACED, ("trace", "--ndjson")),
    "trace.csv": (TRACED, ("trace", "--csv")),
    "trace_lifetimes.txt": (TRACED, ("trace", "--lifetimes")),
    "trace_lifetimes.json": (TRACED, ("trace", "--lifetimes", "--json")),
    "trace_lifetimes.ndjson": (TRACED, ("trace", "--lifetimes", "--ndjson")),
    "trace_lifetimes.csv": (TRACED, ("trace", "--lifetimes", "--csv")),
    "trace_summary.txt": (TRACED, ("trace", "--summary", "--every", "5", "--all-netns")),
    "trace_summary.zh_CN.txt": (TRACED, ("trace", "--summary", "--lang", "zh")),
    "trace_summary.json": (TRACED, ("trace", "--summary", "--json")),
    "trace_summary.ndjson": (TRACED, ("trace", "--summary", "--ndjson")),
    "trace_summary.csv": (TRACED, ("trace", "--summary", "--csv")),
    "diagram_states.txt": (TICKET, ("diagram",)),
    "diagram_states.zh_CN.txt": (TICKET, ("diagram", "--lang", "zh")),
    "diagram_states.ascii.txt": (TICKET, ("diagram", "--format", "ascii")),
    "diagram_states.color.txt": (TICKET, ("diagram", "--color", "always")),
    "diagram_states.svg": (TICKET, ("diagram", "--format", "svg")),
    "diagram_states.zh_CN.svg": (TICKET, ("diagram", "--format", "svg", "--lang", "zh")),
    "diagram_states.mmd": (TICKET, ("diagram", "--format", "mermaid")),
    "diagram_states.dot": (TICKET, ("diagram", "--format", "dot")),
    "diagram_states.json": (TICKET, ("diagram", "--format", "json")),
    "diagram_states.md": (TICKET, ("diagram", "--format", "markdown")),
    "diagram_close.txt": (FINWAIT, ("diagram", "close")),
    "diagram_close.zh_CN.txt": (FINWAIT, ("diagram", "close", "--lang", "zh")),
    "diagram_close.ascii.txt": (FINWAIT, ("diagram", "close", "--format", "ascii")),
    "diagram_close.svg": (FINWAIT, ("diagram", "close", "--format", "svg")),
    "diagram_close.zh_CN.svg": (FINWAIT, ("diagram", "close", "--format", "svg", "--lang", "zh")),
    "diagram_close.mmd": (FINWAIT, ("diagram", "close", "--format", "mermaid")),
    "diagram_close.json": (FINWAIT, ("diagram", "close", "--format", "json")),
    "diagram_close.md": (FINWAIT, ("diagram", "close", "--format", "markdown")),
}
# Pictures that pages show: what is on no host and in no recording.
IMAGES = Path("docs/images")
PICTURES: dict[str, tuple[str, ...]] = {
    "states.svg": ("diagram", "--format", "svg"),
    "states.zh_CN.svg": ("diagram", "--format", "svg", "--lang", "zh"),
    **{
        f"{name}{suffix}.svg": ("diagram", name, "--format", "svg", "--lang", language)
        for name in ("open", "close")
        for suffix, language in (("", "en"), (".zh_CN", "zh"))
    },
}
SEPARATOR = "-- standard error --\n"
_ENCODING_BY_FILE = {"count.ascii.txt": "ascii"}


def render(root: Path, name: str) -> str:
    """What golden file `name` should hold."""
    recording, arguments = COMMANDS[name]
    done = _run(root, recording, arguments, _ENCODING_BY_FILE.get(name, "utf-8"))
    errors = done.stderr.decode()
    if name.endswith(".txt") and errors:
        return done.stdout.decode() + SEPARATOR + errors
    return done.stdout.decode()


def _run(root: Path, recording: str, arguments: tuple[str, ...], encoding: str) -> subprocess.CompletedProcess[bytes]:
    environment = {
        "PATH": "/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
        "PYTHONIOENCODING": encoding,
    }
    if recording.endswith(".py"):
        command = (sys.executable, recording, *arguments)
    else:
        command = (sys.executable, "-m", "finwait", *arguments, *(("--read", recording) if recording else ()))
    tells = "--plugin" in arguments  # by its exit code
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, check=not tells)


def generate(root: Path) -> dict[Path, str]:
    """The golden files and the pictures of pages, by path."""
    goldens = {DIRECTORY / name: render(root, name) for name in COMMANDS}
    pictures = {
        IMAGES / name: _run(root, FINWAIT, arguments, "utf-8").stdout.decode() for name, arguments in PICTURES.items()
    }
    return goldens | pictures
