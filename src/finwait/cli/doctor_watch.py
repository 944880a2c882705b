"""`finwait doctor --watch`: look again and again; tell a finding when it comes, when it gets worse or better, and when it goes."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, NoReturn

from finwait.cli import output
from finwait.examination import Examiner, boot_clock
from finwait.render.doctor import SEVERITY_WORDS, ndjson_documents, verdict_text
from finwait.render.doctor_text import DoctorPage
from finwait.render.style import style_of, terminal_columns
from finwait.text.escape import escape_foreign
from finwait.text.messages import localize, mark, translate

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from finwait.diagnosis.case import Case
    from finwait.table.finding import Diagnosis, Finding
    from finwait.table.request import Request
    from finwait.table.snapshot import Provenance

LOOKS_KEPT = 4  # that rules compare
GONE = mark("gone: {title} ({rule})")
CHANGED = mark("now {severity}: {title} ({rule})")


def watch(
    request: Request,
    options: argparse.Namespace,
    judge: Callable[[Sequence[Case], Provenance], Diagnosis],
    every_s: float,
) -> NoReturn:
    """Look every `every_s` seconds until interrupted."""
    examiner = Examiner(request, source=options.source, window_s=every_s * (LOOKS_KEPT - 0.5))
    style = style_of(sys.stdout, options.color, os.environ)
    teller = Teller(DoctorPage(style, terminal_columns(sys.stdout)))
    due = boot_clock()
    while True:
        examiner.look()
        diagnosis = judge(examiner.cases(), examiner.provenance)
        if options.form in {"json", "ndjson"}:
            for document in ndjson_documents(diagnosis):
                output.write_json(document)
        else:
            output.write_lines(teller.tell(diagnosis))
        sys.stdout.flush()
        due = max(due + every_s, boot_clock())
        time.sleep(max(due - boot_clock(), 0))


class Teller:
    """Remembers what was told. A finding is the same one while its rule, namespace, processes and subject are."""

    def __init__(self, page: DoctorPage) -> None:
        self.page = page
        self._told: dict[tuple[object, ...], Finding] = {}
        self._begun = False

    def tell(self, diagnosis: Diagnosis) -> Iterator[str]:
        """What is new since the last time; at first everything."""
        present = {_identity(finding): finding for finding in diagnosis.findings}
        at = time.strftime("%H:%M:%S", time.localtime(diagnosis.provenance.taken_to))
        if not self._begun:
            self._begun = True
            yield f"{at}  {verdict_text(diagnosis)}"
        for identity, finding in present.items():
            known = self._told.get(identity)
            if known is None:
                yield ""
                yield at
                yield from self.page.finding(finding, with_netns=len(diagnosis.provenance.netns) > 1)
            elif known.severity != finding.severity:
                word = translate(SEVERITY_WORDS[finding.severity])
                yield f"{at}  {translate(CHANGED).format(severity=word, title=_title(finding), rule=finding.rule)}"
        for identity, finding in self._told.items():
            if identity not in present:
                yield f"{at}  {translate(GONE).format(title=_title(finding), rule=finding.rule)}"
        self._told = present


_SUBJECTS = ("peer", "local", "local_address", "port", "sysctl")  # of a finding's evidence


def _identity(finding: Finding) -> tuple[object, ...]:
    netns = None if finding.netns is None else finding.netns.cookie or finding.netns.inode
    subject = tuple(str(finding.evidence.get(name)) for name in _SUBJECTS)
    return (finding.rule, netns, tuple(sorted(owner.pid for owner in finding.owners)), subject)


def _title(finding: Finding) -> str:
    return escape_foreign(localize(finding.title, escape_foreign), 300)
