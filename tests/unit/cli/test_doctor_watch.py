"""What --watch tells: a finding when it comes, when its severity changes, and when it goes; nothing in between."""

from __future__ import annotations

from finwait.cli.doctor_watch import Teller
from finwait.errors import Phrase
from finwait.render.doctor_text import DoctorPage
from finwait.render.style import Style
from finwait.table.finding import CRITICAL, WARNING, Diagnosis, Finding, Owner
from finwait.table.snapshot import Netns, Provenance


def finding(severity: str = WARNING, pid: int = 7, count: int = 3) -> Finding:
    return Finding(
        rule="close-wait-leak",
        severity=severity,
        title=Phrase("{who} does not close: {count} connections in CLOSE-WAIT", who=f"web (pid {pid})", count=count),
        evidence={"connections": count},
        meaning=Phrase("meaning"),
        remedy=Phrase("remedy"),
        avoid=None,
        command="finwait list",
        sources=("RFC",),
        owners=(Owner(pid, "web", (3,), 1, "proc_fd"),),
        netns=Netns(1, 2, None),
    )


def told(teller: Teller, *findings: Finding) -> list[str]:
    diagnosis = Diagnosis(Provenance("sock_diag", taken_to=0.0), list(findings), ["close-wait-leak"])
    return list(teller.tell(diagnosis))


def test_a_finding_is_told_when_it_comes_and_when_it_goes() -> None:
    teller = Teller(DoctorPage(Style()))
    assert len(told(teller)) == 1  # the verdict
    assert "WARNING  web (pid 7) does not close: 3 connections in CLOSE-WAIT  (close-wait-leak)" in told(
        teller, finding()
    )
    assert told(teller, finding()) == []
    assert told(teller, finding(count=5)) == []
    (gone,) = told(teller)
    assert gone.endswith("gone: web (pid 7) does not close: 5 connections in CLOSE-WAIT (close-wait-leak)")
    assert told(teller) == []


def test_another_severity_is_told_in_a_line() -> None:
    teller = Teller(DoctorPage(Style()))
    told(teller, finding())
    (line,) = told(teller, finding(CRITICAL))
    assert line.endswith("now critical: web (pid 7) does not close: 3 connections in CLOSE-WAIT (close-wait-leak)")


def test_the_same_rule_of_another_process_is_another_finding() -> None:
    teller = Teller(DoctorPage(Style()))
    told(teller, finding())
    lines = told(teller, finding(), finding(pid=8))
    assert sum("(pid 8) does not close" in line for line in lines) == 1
    assert not any("(pid 7) does not close" in line for line in lines)
