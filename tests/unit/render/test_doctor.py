"""The line of a monitoring plugin, and what the page for a ticket tells of namespaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finwait.render.doctor import plugin_line
from finwait.render.doctor_markdown import doctor_markdown
from finwait.table.look import Host, Process
from finwait.table.snapshot import Netns
from finwait.tcp.state import TcpState
from tests.unit.diagnosis.cases import case_of, sock, verdict

if TYPE_CHECKING:
    from finwait.table.finding import Diagnosis


def test_a_plugin_says_one_line_whatever_a_process_calls_itself() -> None:
    host = Host({7: Process(7, "ev\n|\x1b[31mil", 96, 100)})
    line = plugin_line(verdict(case_of(host=host), "descriptor-limit"))
    text, _, data = line.partition(" | ")
    assert line.isprintable()
    assert "ev\\x0a/\\x1b[31mil" in text
    assert data == "sockets=0 info=0 warning=0 critical=1 unchecked=0"


def test_a_ticket_says_which_namespace() -> None:
    server = sock(TcpState.CLOSE_WAIT, "10.1.0.1:80", "10.1.0.2:40000", last_ack_recv_ms=90_000)
    diagnosis = verdict(case_of([server]), "close-wait-leak")
    label = "[net:[1]] "
    assert not any(label in line for line in _plainly(diagnosis))
    diagnosis.provenance.netns = [Netns(None, 1), Netns(None, 2)]
    assert any(line.startswith(f"## warning: {label}") for line in _plainly(diagnosis))


def _plainly(diagnosis: Diagnosis) -> list[str]:
    return [line.replace("\\", "") for line in doctor_markdown(diagnosis)]
