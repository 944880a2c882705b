"""What the words of `finwait diagram` draw, in every format, and what is said of words that mean nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from finwait.cli import diagram
from finwait.cli.diagram import FORMATS
from finwait.cli.main import main
from finwait.errors import UsageError
from finwait.tcp.exchanges import EXCHANGES

TICKET = str(Path(__file__).resolve().parents[3] / "docs" / "examples" / "ticket-ss.txt")


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
        (["--record", "x.diag"], "unknown option --record; did you mean --read?"),
    ],
    ids=str,
)
def test_what_means_nothing_is_told(words: list[str], told: str) -> None:
    with pytest.raises(UsageError) as raised:
        diagram.run(words)
    assert str(raised.value) == told


def test_every_picture_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert drawn(capfd, "--list").split() == ["states", *(name.replace("_", "-") for name in EXCHANGES)]
