"""What the words of `finwait diagram` draw, in every format, and what is said of words that mean nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from finwait.cli import diagram
from finwait.cli.diagram import FORMATS
from finwait.cli.main import main
from finwait.errors import UsageError
from finwait.table.change import Loss, Ready, Summary, Totals
from finwait.table.snapshot import Netns, Provenance
from finwait.tcp.exchanges import EXCHANGES
from finwait.tcp.state import TcpState

if TYPE_CHECKING:
    from collections.abc import Iterator

TICKET = str(Path(__file__).resolve().parents[3] / "docs" / "examples" / "ticket-ss.txt")


CLOSING, ABORTED = (TcpState.ESTABLISHED, TcpState.FIN_WAIT1), (TcpState.ESTABLISHED, TcpState.CLOSE)


class TraceOfTwo:
    """What a trace of two namespaces yields in four seconds; it loses 5 changes."""

    def __init__(self, question: Any, **_: object) -> None:
        assert (question.owners, question.source) == (False, "bpf")
        self.provenance = Provenance("bpf")

    def __iter__(self) -> Iterator[object]:
        yield Ready(self.provenance, "bpf")
        yield Loss(1, 2)
        yield Loss(2, 3)
        first = Totals(Netns(1), {CLOSING: 40, ABORTED: 6}, {})
        yield Summary(1_000_000_000, 5_000_000_000, 4.0, (first, Totals(None, {CLOSING: 6}, {})))


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finwait.tracing.Trace", TraceOfTwo)


def drawn(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["diagram", *arguments]) == 0
    return capfd.readouterr().out


@pytest.mark.parametrize("name", ["states", *EXCHANGES])
@pytest.mark.parametrize("form", FORMATS)
def test_every_picture_comes_in_every_format(capfd: pytest.CaptureFixture[str], name: str, form: str) -> None:
    if form == "dot" and name != "states":
        with pytest.raises(UsageError, match="an exchange is no graph"):
            diagram.run([name, "--format", form])
        return
    text = drawn(capfd, name.replace("_", "-"), "--format", form)
    begin = {"svg": "<svg ", "mermaid": ("stateDiagram-v2", "sequenceDiagram"), "dot": "digraph ", "json": "{"}
    assert text.startswith({**begin, "markdown": "```mermaid"}.get(form, " "))
    assert text.isascii() or form not in {"ascii", "dot", "json"}
    if form == "svg":
        ElementTree.fromstring(text)


def test_a_filter_of_a_recording_is_counted_in_every_format(capfd: pytest.CaptureFixture[str]) -> None:
    words = ("states", "state", "close-wait", "--read", TICKET)
    assert "CLOSE-WAIT        23 " in drawn(capfd, *words)
    assert ">23</text>" in drawn(capfd, *words, "--format", "svg")
    assert '"CLOSE-WAIT (23)"' in drawn(capfd, *words, "--format", "mermaid")
    assert "CLOSE-WAIT\\n23\\n" in drawn(capfd, *words, "--format", "dot")
    assert "| the program to call close() | 23 |\n" in drawn(capfd, *words, "--format", "markdown")
    states = {state["state"]: state for state in json.loads(drawn(capfd, *words, "--format", "json"))["states"]}
    assert (states["close_wait"]["count"], states["close_wait"]["weight"]) == (23, 1)
    assert (states["established"]["count"], states["established"]["weight"]) == (0, 0)


def test_what_could_not_be_seen_stands_in_what_is_a_file_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    lost = "CLOSED sockets (bound, not connected) are not in this recording"
    for form in ("svg", "markdown"):
        text = drawn(capfd, "--read", TICKET, "--format", form)
        assert lost in text
        assert "sockets: 64" in text
    document = json.loads(drawn(capfd, "--read", TICKET, "--format", "json"))
    assert (document["complete"], document["source"]) == (False, "recording")
    assert [warning["code"] for warning in document["warnings"]] == ["closed_not_visible"]


def test_counts_are_of_this_host_now_and_only_where_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    assert json.loads(drawn(capfd, "--format", "json"))["taken_to"] is None
    counted = json.loads(drawn(capfd, "--counts", "--format", "json"))
    assert counted["taken_to"] is not None
    assert all(state["count"] is not None for state in counted["states"])
    namespace = json.loads(drawn(capfd, "-N", "/proc/self/ns/net", "--format", "json"))
    assert namespace["taken_to"] is not None


def test_the_heaviest_states_are_bold_and_the_empty_ones_dim(capfd: pytest.CaptureFixture[str]) -> None:
    text = drawn(capfd, "--read", TICKET, "--color", "always")
    assert "\x1b[31;1mCLOSE-WAIT\x1b[0m" in text
    assert "\x1b[33mSYN-SENT\x1b[0m" in text
    assert "\x1b[2mCLOSING\x1b[0m" in text


def test_svg_is_utf_8_whatever_the_terminal_takes() -> None:
    command = (sys.executable, "-m", "finwait", "diagram", "--format", "svg", "--lang", "zh")
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=True)
    assert "收到 FIN" in done.stdout.decode()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["clsoe"], "there is no picture 'clsoe'; did you mean close?"),
        (["0123"], "there is no picture '0123'; 'finwait diagram --list' names them"),
        (["close", "--counts"], "an exchange has no counts and no filter; 'finwait diagram states' has"),
        (["close", "--read", "x"], "an exchange has no counts and no filter; 'finwait diagram states' has"),
        (["close", "-N", "1"], "an exchange has no counts and no filter; 'finwait diagram states' has"),
        (["close", "state", "listen"], "an exchange has no counts and no filter; 'finwait diagram states' has"),
        (["close", "--rates", "1"], "an exchange has no rates; 'finwait diagram states' has"),
        (["--rates", "1", "--read", "x"], "a recording has no rates: they are measured on this host"),
        (["--rates", "1", "--source", "proc"], "rates are measured by BPF only, not by --source proc"),
        (["--rates", "0"], "'0' is no number of seconds above 0"),
        (["--rates", "1h"], "'1h' is no number of seconds from 0 to 86400"),
        (
            ["states", "--rates", "1", "dst", "10.0.0.1"],
            "what is counted in the kernel can be chosen by family, ports and states only: dst 10.0.0.1",
        ),
        (["--record", "x.diag"], "unknown option --record; did you mean --read?"),
    ],
    ids=str,
)
def test_what_means_nothing_is_told(words: list[str], told: str) -> None:
    with pytest.raises(UsageError) as raised:
        diagram.run(words)
    assert str(raised.value) == told


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("form", "told"),
    [
        ("text", ["close() / FIN,ACK  11.5/s ", "   ESTABLISHED  > CLOSED           1.5/s\n"]),
        ("ascii", ["close() / FIN,ACK  11.5/s ", "   ESTABLISHED  > CLOSED           1.5/s\n"]),
        ("svg", [">11.5/s</text>", ">without an arrow here: ESTABLISHED&gt;CLOSED 1.5/s</text>"]),
        ("mermaid", ["<br/>11.5/s\n", "established --> closed: 1.5/s\n"]),
        ("dot", ['\\n11.5/s"', 'established -> closed [label="1.5/s"']),
        ("markdown", ["| ESTABLISHED | FIN-WAIT-1 | 46 | 11.5/s |", "| ESTABLISHED | CLOSED | 6 | 1.5/s |"]),
    ],
)  # fmt: skip
def test_rates_stand_in_every_format_with_their_time_and_what_was_lost(
    capfd: pytest.CaptureFixture[str], form: str, told: list[str]
) -> None:
    assert main(["diagram", "--rates", "4", "--format", form]) == 0
    found = capfd.readouterr()
    for part in [*told, "changes of state a second, measured for 4 s"]:
        assert part in found.out
    lost = "5 changes of state were lost and are in no rate"
    assert lost in found.err
    assert lost in found.out or form not in {"svg", "markdown"}
    assert "0/s" in found.out


@pytest.mark.usefixtures("traced")
def test_a_document_with_rates_has_exact_counts_and_says_what_was_lost(capfd: pytest.CaptureFixture[str]) -> None:
    document = json.loads(drawn(capfd, "--rates", "4", "--format", "json"))
    assert document["seconds"] == 4
    assert document["changes"] == [
        {"from": "established", "to": "fin_wait_1", "count": 46, "rate": 11.5},
        {"from": "established", "to": "closed", "count": 6, "rate": 1.5},
    ]
    assert document["complete"] is False
    assert "changes_lost" in [warning["code"] for warning in document["warnings"]]
    assert all(state["count"] is not None for state in document["states"])


@pytest.mark.usefixtures("traced")
def test_an_arrow_that_nobody_took_is_dim(capfd: pytest.CaptureFixture[str]) -> None:
    text = drawn(capfd, "--rates", "4", "--color", "always")
    assert "\x1b[2mlisten()\x1b[0m" in text
    assert "\x1b[2mclose() / FIN,ACK\x1b[0m" not in text.partition("11.5/s")[0].splitlines()[-1]
    assert drawn(capfd, "--rates", "4").count("\x1b") == 0


def test_every_picture_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert drawn(capfd, "--list").split() == ["states", *(name.replace("_", "-") for name in EXCHANGES)]
