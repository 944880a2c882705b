"""`finwait diagram --rates`: what the kernel counted while connections were opened and closed, exactly."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from finwait.lab.population import Group, Population, Spec
from tests.kernel.bad_input import one_line, refusal
from tests.kernel.finwait_command import COMMAND, ENVIRONMENT
from tests.kernel.test_privileges import WITHOUT
from tests.kernel.tracer import CONNECT, PATIENCE_S, SERVE, SYSCTLS, Actor

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNT = 101
# A connection that its client closes, and one that its client aborts once it is accepted; both ends of both are here.
CLOSED = {
    ("closed", "syn_sent"), ("syn_sent", "established"), ("established", "fin_wait_1"), ("fin_wait_1", "fin_wait_2"),
    ("fin_wait_2", "time_wait"), ("listen", "syn_received"), ("syn_received", "established"), ("established", "close_wait"),
    ("close_wait", "last_ack"), ("last_ack", "closed"),
}  # fmt: skip
ABORTED = {
    ("closed", "syn_sent"), ("syn_sent", "established"), ("listen", "syn_received"), ("syn_received", "established"),
}  # fmt: skip
ABORT = """
for _ in range({count}):
    one = connect()
    accepted, _ = server.accept()
    abort(one)
    accepted.close()
"""


class Measuring:
    """`finwait diagram --rates` in a namespace, its standard error a terminal: it tells there when it has begun to count."""

    def __init__(self, place: Population, *arguments: str, seconds: str = "2") -> None:
        self.terminal, theirs = os.openpty()
        self.process = subprocess.Popen(
            place.enter_command(*COMMAND, "diagram", *arguments, "--rates", seconds),
            stdout=subprocess.PIPE, stderr=theirs, env=ENVIRONMENT,
        )  # fmt: skip
        os.close(theirs)
        self.said = self._line()

    def _line(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(self.terminal, 1)
        return line.decode().strip()

    def end(self) -> tuple[int, bytes, str]:
        """Its exit code, what it wrote, and what it said behind the first line."""
        written, _ = self.process.communicate(timeout=PATIENCE_S)
        said = b""
        try:
            while more := os.read(self.terminal, 1 << 16):
                said += more
        except OSError:  # nobody has the other end any more
            pass
        os.close(self.terminal)
        return self.process.returncode, written, said.decode()


@pytest.fixture
def place() -> Iterator[Population]:
    with Population(Spec((Group("CLOSE_WAIT", 23),), None, SYSCTLS)) as held:
        yield held


@pytest.fixture
def pair(place: Population) -> Iterator[tuple[Actor, Actor]]:
    with ExitStack() as stack:
        actors = [Actor(place, name) for name in ("the-client", "the-server")]
        for actor in actors:
            stack.callback(actor.end)
        actors[1].do("server = listen()")
        yield actors[0], actors[1]


def document_of(measuring: Measuring) -> dict[str, Any]:
    code, written, said = measuring.end()
    assert (code, said) == (0, "")
    return json.loads(written)


def counts_of(document: dict[str, Any]) -> dict[tuple[str, str], int]:
    for row in document["changes"]:
        assert row["rate"] * document["seconds"] == pytest.approx(row["count"], rel=1e-12)
        assert round(row["rate"] * document["seconds"]) == row["count"]
    return {(row["from"], row["to"]): row["count"] for row in document["changes"]}


def open_and_close(client: Actor, server: Actor, count: int) -> None:
    server.begin(SERVE.format(count=count))
    client.do(CONNECT.format(count=count, address="127.0.0.1", end="one.close()"))
    server.answer()


def test_each_transition_is_counted_as_often_as_it_was_taken(place: Population, pair: tuple[Actor, Actor]) -> None:
    measuring = Measuring(place, "--format", "json")
    assert measuring.said == "finwait: measuring for 2 s"
    open_and_close(*pair, COUNT)
    document = document_of(measuring)
    assert 2 <= document["seconds"] < PATIENCE_S
    assert document["complete"]
    counts = counts_of(document)
    assert counts == dict.fromkeys(CLOSED, COUNT)
    for row in document["transitions"]:
        assert row["count"] == counts.get((row["from"], row["to"]), 0)
        assert round(row["rate"] * document["seconds"]) == row["count"]
    states = {row["state"]: row["count"] for row in document["states"]}
    assert {state: count for state, count in states.items() if count} == {
        "close_wait": 23, "listen": 1, "time_wait": COUNT,
    }  # fmt: skip


def test_what_has_no_arrow_is_told_too(place: Population, pair: tuple[Actor, Actor]) -> None:
    pair[1].do("server.close()")
    pair[0].do("server = listen()")
    measuring = Measuring(place, "--format", "json")
    pair[0].do(ABORT.format(count=COUNT))
    wanted = {**dict.fromkeys(ABORTED, COUNT), ("established", "closed"): 2 * COUNT}
    assert counts_of(document_of(measuring)) == wanted
    measuring = Measuring(place)
    pair[0].do(ABORT.format(count=COUNT))
    code, written, said = measuring.end()
    assert (code, said) == (0, "")
    assert re.search(r"\n   ESTABLISHED  > CLOSED +\d+(\.\d+)?/s\n$", written.decode())


def test_a_filter_of_ports_chooses_what_is_measured(place: Population, pair: tuple[Actor, Actor]) -> None:
    measuring = Measuring(place, "states", "dport", "=", ":3000", "--format", "json")
    open_and_close(*pair, 7)
    document = document_of(measuring)
    assert counts_of(document) == dict.fromkeys([
        ("closed", "syn_sent"), ("syn_sent", "established"), ("established", "fin_wait_1"), ("fin_wait_1", "fin_wait_2"),
        ("fin_wait_2", "time_wait"),
    ], 7)  # fmt: skip


def test_the_changes_of_all_namespaces_are_added_up(place: Population, pair: tuple[Actor, Actor]) -> None:
    with ExitStack() as stack:
        other = stack.enter_context(Population(Spec((), None, SYSCTLS)))
        client, server = Actor(other, "the-client"), Actor(other, "the-server")
        stack.callback(client.end)
        stack.callback(server.end)
        server.do("server = listen()")
        namespaces = [word for actor in (pair[0], client) for word in ("-N", str(actor.pid))]
        measuring = Measuring(place, *namespaces, "--format", "json")
        open_and_close(*pair, 11)
        open_and_close(client, server, 13)
        assert counts_of(document_of(measuring)) == dict.fromkeys(CLOSED, 24)


def test_ctrl_c_ends_the_measurement_and_says_nothing(place: Population) -> None:
    measuring = Measuring(place, seconds="600")
    measuring.process.send_signal(signal.SIGINT)
    assert measuring.end() == (130, b"", "")


def test_without_a_terminal_nothing_is_said(place: Population) -> None:
    command = place.enter_command(*COMMAND, "diagram", "--rates", "0.01")
    done = subprocess.run(command, capture_output=True, env=ENVIRONMENT, check=True)
    assert done.stderr == b""
    assert done.stdout.decode().count(" 0/s") == 17


def test_nobody_is_refused_in_one_line() -> None:
    assert refusal(5, "diagram", "--rates", "1", before=WITHOUT).startswith("BPF is not permitted here (")


def test_where_the_library_is_not_there_that_is_told() -> None:
    code = (
        "import sys; from finwait.sources import libbpf; libbpf.Libbpf.__init__.__defaults__ = ('not-there.so.1',)\n"
        "from finwait.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = (COMMAND[0], "-c", code, "diagram", "--rates", "1")
    done = subprocess.run(command, capture_output=True, env=ENVIRONMENT)
    assert (done.returncode, done.stdout) == (4, b"")
    assert "not-there.so.1 is not installed" in one_line(done.stderr)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "states dst 127.0.0.1",
            "what is counted in the kernel can be chosen by family, ports and states only: dst 127.0.0.1",
        ),
        ("--read docs/examples/ticket-ss.txt", "a recording has no rates: they are measured on this host"),
        ("close", "an exchange has no rates; 'finwait diagram states' has"),
        ("--source sock_diag", "rates are measured by BPF only, not by --source sock_diag"),
    ],
)
def test_what_cannot_be_measured_is_refused(words: str, told: str) -> None:
    assert refusal(2, "diagram", "--rates", "1", *words.split()) == told
