"""What the doctor found as Markdown, for a ticket or a colleague."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finwait.render.doctor import SEVERITY_WORDS, SIDES, duration_text, evidence_text, owner_text, verdict_text
from finwait.render.documents import timestamp
from finwait.text.escape import escape_foreign
from finwait.text.messages import localize, mark, translate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from finwait.table.finding import Diagnosis, Endpoint, Finding

TITLE = mark("TCP of {host}")
NOT_CHECKED = mark("Not checked")
RULE = mark("rule")
WHO = mark("who")
SINCE = mark("since")
NUMBERS = mark("numbers")
DO = mark("do")
SEE_IT = mark("see it")
SOURCE = mark("source")
DONT = mark("don't")
_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>#|"})


def doctor_markdown(diagnosis: Diagnosis) -> Iterator[str]:
    """The whole page, a section a finding."""
    yield "# " + _plain(translate(TITLE).format(host=diagnosis.provenance.host))
    yield ""
    yield f"**{_plain(verdict_text(diagnosis))}** ({timestamp(diagnosis.provenance.taken_to)})"
    several = len(diagnosis.provenance.netns) > 1
    for finding in diagnosis.findings:
        yield ""
        yield from _section(finding, with_netns=several)
    if diagnosis.unchecked:
        yield ""
        yield f"## {translate(NOT_CHECKED)}"
        yield ""
        for one in diagnosis.unchecked:
            yield f"- `{one.rule}`: {_plain(localize(one.reason))}"


def _section(finding: Finding, *, with_netns: bool) -> Iterator[str]:
    word = translate(SEVERITY_WORDS[finding.severity])
    title = localize(finding.title)
    if with_netns and finding.netns is not None:
        title = f"[{finding.netns.label}] {title}"
    yield f"## {word}: {_plain(title)}"
    yield ""
    yield f"- {translate(RULE)}: `{finding.rule}`"
    for owner in finding.owners:
        yield f"- {translate(WHO)}: {_plain(owner_text(owner))}"
    if finding.since_s is not None and finding.since_s >= 1:
        since = translate(mark("at least {duration} ago")).format(duration=duration_text(finding.since_s))
        yield f"- {translate(SINCE)}: {since}"
    yield f"- {translate(NUMBERS)}: {_plain(evidence_text(finding.evidence))}"
    yield ""
    yield localize(finding.meaning)
    yield ""
    yield f"**{translate(DO)}**: {localize(finding.remedy)}"
    if finding.avoid is not None:
        yield ""
        yield f"**{translate(DONT)}**: {localize(finding.avoid)}"
    if finding.connections:
        yield ""
        yield from _table(finding)
    yield ""
    yield f"{translate(SEE_IT)}: `{finding.command}`; {translate(SOURCE)}: {'; '.join(finding.sources)}"


def _table(finding: Finding) -> Iterator[str]:
    titles = [translate(title) for title in (mark("state"), mark("local"), mark("peer"), mark("who"))]
    yield f"| {' | '.join(titles)} |"
    yield "| --- | --- | --- | --- |"
    for endpoint in finding.connections:
        yield _row(endpoint)


def _row(endpoint: Endpoint) -> str:
    owner = "" if endpoint.owner is None else owner_text(endpoint.owner)
    side = "" if endpoint.side is None else f" ({translate(SIDES[endpoint.side])})"
    cells = (f"{endpoint.state}{side}", endpoint.local, endpoint.peer, owner)
    return f"| {' | '.join(map(_plain, cells))} |"


def _plain(text: str) -> str:
    """Text that no Markdown reader takes for markup."""
    return escape_foreign(text, 1000).translate(_SPECIAL)
