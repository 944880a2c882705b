"""The lab's transcripts: who sent what when, and the states of both ends."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from finwait.lab.population import Group, Population, Spec
from finwait.tcp.state import LIFE_ORDER, TcpState
from tests.kernel.finwait_command import run

if TYPE_CHECKING:
    from pathlib import Path

# What a peer that withholds its next segment would show, by the kernel's state.
PEER_STATES = {
    TcpState.SYN_SENT: TcpState.LISTEN,
    TcpState.SYN_RECV: TcpState.SYN_SENT,
    TcpState.ESTABLISHED: TcpState.ESTABLISHED,
    TcpState.FIN_WAIT1: TcpState.ESTABLISHED,
    TcpState.FIN_WAIT2: TcpState.CLOSE_WAIT,
    TcpState.CLOSE_WAIT: TcpState.FIN_WAIT2,
    TcpState.CLOSING: TcpState.FIN_WAIT2,
    TcpState.LAST_ACK: TcpState.FIN_WAIT2,
    TcpState.TIME_WAIT: TcpState.CLOSE,
}
TIME_WAIT = """\
connect()
  SYN-SENT LISTEN
─ SYN 0 ─▶
  SYN-SENT LISTEN
◀─ SYN,ACK 0 ack 1 ─
  ESTABLISHED SYN-RECEIVED
─ ACK 1 ack 1 ─▶
  ESTABLISHED ESTABLISHED
close()
  FIN-WAIT-1 ESTABLISHED
─ FIN,ACK 1 ack 1 ─▶
  FIN-WAIT-1 ESTABLISHED
◀─ ACK 1 ack 2 ─
  FIN-WAIT-2 CLOSE-WAIT
◀─ FIN,ACK 1 ack 2 ─
  TIME-WAIT LAST-ACK
─ ACK 2 ack 2 ─▶
  TIME-WAIT CLOSED
4 more in the same way, the last at"""


def _without_times(line: str) -> str:
    """One space and one line where there are several, no time."""
    line = re.sub(r"─+", "─", re.sub(r"^ *[\d.]+ {2,}|(?<=at )[\d.]+ ms", "", line))
    return ("  " if line.startswith(" ") else "") + " ".join(line.split())


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_a_population_tells_how_its_first_was_made(family: str) -> None:
    lines = run("lab", family, "--transcript", "-", "TIME_WAIT=5", "--", "echo", "done").stdout.splitlines()
    near, far = ("10.77.0.1", "10.77.1.1") if family == "-4" else ("[fd77::1]", "[fd77::1:1]")
    assert re.fullmatch(rf"TIME-WAIT, {re.escape(near)}:\d+ - {re.escape(far)}:443", lines[0])
    assert "\n".join(map(_without_times, lines[2:-2])) == TIME_WAIT
    assert lines[-2:] == ["", "done"]
    times = [float(line.split()[0]) for line in lines[2:-3:2]]
    assert times == sorted(times)


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_every_transcript_ends_in_the_state_that_was_asked_for(family: str) -> None:
    spec = Spec(tuple(Group(state.name, 3, family) for state in LIFE_ORDER), shuffle=3)
    with Population(spec, is_recorded=True) as held:
        traces = {TcpState[trace["state"]]: trace for trace in held.transcript}
    assert set(traces) == set(LIFE_ORDER)
    for state, trace in traces.items():
        *_, shown, peer = trace["entries"][-1]
        assert (trace["count"], TcpState(shown)) == (3, state)
        if trace["ends"] is not None:
            assert TcpState(peer) is PEER_STATES[state]
    assert {state for state, trace in traces.items() if trace["ends"] is None} == {TcpState.LISTEN, TcpState.CLOSE}


def test_a_ghosts_transcript_ends_with_the_reset_and_a_flood_is_told(tmp_path: Path) -> None:
    assert run("lab", "ghost-sockets", "--transcript", str(tmp_path / "ghosts"), "--", "true").returncode == 0
    lines = [line.split() for line in (tmp_path / "ghosts").read_text(encoding="utf-8").splitlines()]
    at = next(number for number, line in enumerate(lines) if "RST,ACK" in line)
    assert lines[at + 1 :][:1] == [["CLOSED", "CLOSED"]]
    assert lines[at + 2][0] == "18"
    flood = run("lab", "syn-flood", "--transcript", "-", "--", "true").stdout.splitlines()
    assert flood[-1] == "while they are held: 200 SYNs a second, each from an address of its own"


def test_an_exchange_is_told_where_it_is_asked_for(tmp_path: Path) -> None:
    done = run("lab", "open", "--transcript", str(tmp_path / "told"), "--", "echo", "done")
    assert (done.stdout, done.stderr) == ("done\n", "")
    assert "SYN,ACK" in (tmp_path / "told").read_text(encoding="utf-8")
    done = run("lab", "open", "--", "echo", "done")
    assert done.stdout == "done\n"
    assert "SYN,ACK" in done.stderr


# Those in which no segments cross: one that crosses stands where it arrives, behind what happened since it left.
@pytest.mark.parametrize("name", ["open", "close", "reset", "half-open", "no-answer", "half-close", "time-wait"])
def test_an_exchange_is_told_in_the_order_of_its_times(name: str) -> None:
    _, *lines = run("lab", name, "--transcript", "-", "--", "true").stdout.splitlines()
    times = [float(line.split()[0]) for line in lines[::2]]
    assert times == sorted(times)
    arrows = [line for line in lines[::2] if "─" in line]
    assert arrows
    assert all("seq=" in line for line in arrows)


@pytest.mark.parametrize("end", ["client", "server"])
def test_a_reset_is_told_with_the_flags_that_it_had(end: str) -> None:
    told = run("lab", "reset", "--as", end, "--transcript", "-", "--", "true").stdout
    assert [line.split()[2:4] for line in told.splitlines() if "RST" in line] == [["RST,ACK", "seq=u"]]


@pytest.mark.parametrize("command", [(), ("--", "true")])
def test_a_transcript_that_cannot_be_written_is_one_line(command: tuple[str, ...]) -> None:
    done = run("lab", "TIME_WAIT=2", "--transcript", "/nosuch/file", *command)
    assert (done.returncode, done.stderr) == (
        125 if command else 6,
        "finwait: cannot write /nosuch/file: No such file or directory\n",
    )


# Every look at the kernel takes 50 ms here, and no segment may be later for it.
SLOW_LOOKS = """
import time
from ipaddress import ip_address
from finwait.lab import namespace, stage
from finwait.lab.holder import enter_peered_namespace
from finwait.lab.peer import TcpPeer
from finwait.lab.playing import play
from finwait.tcp.exchanges import CLIENT, EXCHANGES

enter_peered_namespace({})
look = namespace.read_rows
def look_slowly(*arguments):
    time.sleep(0.05)
    return look(*arguments)
namespace.read_rows = look_slowly
one = stage.Stage(TcpPeer("far"), ip_address("10.77.1.1"))
times = [step.at for step in play(EXCHANGES["close"], one, CLIENT)]
print(*(later - earlier for earlier, later in zip(times, times[1:])))
one.close()
namespace.destroy_all()
"""


def test_a_segments_time_is_that_of_the_wire() -> None:
    done = subprocess.run((sys.executable, "-c", SLOW_LOOKS), capture_output=True, text=True, check=True)
    pauses = [float(word) for word in done.stdout.split()]
    close_to_fin, _, _, _, fin_to_ack = pauses
    assert 0 < fin_to_ack < 0.04
    assert 0.05 < close_to_fin < 0.09  # play() looks once before it acts: that one is no segment's
