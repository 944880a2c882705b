"""The line of a monitoring plugin."""

from __future__ import annotations

from finwait.render.doctor import plugin_line
from finwait.table.look import Host, Process
from tests.unit.diagnosis.cases import case_of, verdict


def test_a_plugin_says_one_line_whatever_a_process_calls_itself() -> None:
    host = Host({7: Process(7, "ev\n|\x1b[31mil", 96, 100)})
    line = plugin_line(verdict(case_of(host=host), "descriptor-limit"))
    text, _, data = line.partition(" | ")
    assert line.isprintable()
    assert "ev\\x0a/\\x1b[31mil" in text
    assert data == "sockets=0 info=0 warning=0 critical=1 unchecked=0"
