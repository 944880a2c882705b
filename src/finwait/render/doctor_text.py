"""What the doctor found, for a terminal: a verdict, then a paragraph a finding, the worst first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finwait.render.doctor import SEVERITY_WORDS, SIDES, duration_text, evidence_text, owner_text, verdict_text
from finwait.render.wrap import wrapped
from finwait.table.finding import CRITICAL, INFO, WARNING
from finwait.tcp.state import TcpState
from finwait.text.escape import escape_foreign
from finwait.text.messages import localize, mark, translate
from finwait.text.width import display_width, pad_right

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from finwait.render.style import Style
    from finwait.table.finding import Diagnosis, Endpoint, Finding, Unchecked

USUAL_COLUMNS = 100
LEAST_COLUMNS = 40
COLORS = {INFO: "blue", WARNING: "yellow", CRITICAL: "red"}
LABELS = {
    "who": mark("who"),
    "evidence": mark("numbers"),
    "since": mark("since"),
    "means": mark("means"),
    "do": mark("do"),
    "avoid": mark("don't"),
    "again": mark("see it"),
    "sources": mark("source"),
    "shown": mark("such as"),
}
_RFC_BY_TOKEN = {state.token: state.rfc for state in TcpState}


def page_columns(columns: int | None) -> int:
    """How wide a page is on a terminal of so many columns, None for none."""
    return max(min(columns or USUAL_COLUMNS, USUAL_COLUMNS), LEAST_COLUMNS)


class DoctorPage:
    """style: colours. columns: of the terminal, None for none."""

    def __init__(self, style: Style, columns: int | None = None) -> None:
        self.style = style
        self.columns = page_columns(columns)
        self.label_cells = max(display_width(translate(label)) for label in LABELS.values()) + 2

    def lines(self, diagnosis: Diagnosis) -> Iterator[str]:
        """The whole page."""
        color = COLORS.get(diagnosis.severity or "", "green")
        for line in wrapped(verdict_text(diagnosis), self.columns):
            yield self.style.paint(line, "bold", color)
        several = len(diagnosis.provenance.netns) > 1
        for finding in diagnosis.findings:
            yield ""
            yield from self.finding(finding, with_netns=several)
        if diagnosis.unchecked:
            yield ""
            yield from self.unchecked(diagnosis.unchecked)

    def finding(self, finding: Finding, *, with_netns: bool = False) -> Iterator[str]:
        """The title with its rule, then what is known, line by line under labels."""
        word = translate(SEVERITY_WORDS[finding.severity]).upper()
        title = escape_foreign(localize(finding.title, escape_foreign), 500)
        if with_netns and finding.netns is not None:
            title = f"[{escape_foreign(finding.netns.label, 80)}] {title}"
        for at, line in enumerate(wrapped(f"{word}  {title}  ({finding.rule})", self.columns)):
            yield self.style.paint(line, "bold", COLORS[finding.severity]) if at == 0 else line
        for owner in finding.owners[:5]:
            yield from self._labelled("who", escape_foreign(owner_text(owner), 300))
        if finding.since_s is not None and finding.since_s >= 1:
            since = translate(mark("at least {duration} ago")).format(duration=duration_text(finding.since_s))
            yield from self._labelled("since", since)
        yield from self._labelled("evidence", escape_foreign(evidence_text(finding.evidence), 1000))
        yield from self._examples(finding)
        yield from self._labelled("means", localize(finding.meaning))
        yield from self._labelled("do", localize(finding.remedy))
        if finding.avoid is not None:
            yield from self._labelled("avoid", localize(finding.avoid))
        yield from self._labelled("again", finding.command)
        yield from self._labelled("sources", "; ".join(finding.sources))

    def _examples(self, finding: Finding) -> Iterator[str]:
        shown = LABELS["shown"]
        label = self.style.paint(pad_right(translate(shown), self.label_cells), "dim")
        for endpoint in finding.connections:
            yield f"  {label}{self._endpoint(endpoint)}"
            label = " " * self.label_cells
        more = finding.total - sum(endpoint.side != "guilty" for endpoint in finding.connections)
        if finding.connections and more > 0:
            yield f"  {label}" + translate(mark("and {count} more")).format(count=more)

    def _endpoint(self, endpoint: Endpoint) -> str:
        owner = "" if endpoint.owner is None else f"  {owner_text(endpoint.owner)}"
        side = "" if endpoint.side is None else f"  [{translate(SIDES[endpoint.side])}]"
        state = _RFC_BY_TOKEN.get(endpoint.state, endpoint.state)
        return escape_foreign(f"{state} {endpoint.local} {endpoint.peer}{owner}{side}", 400)

    def _labelled(self, label: str, text: str) -> Iterator[str]:
        """`text` in lines that fit, the label before the first."""
        word = self.style.paint(pad_right(translate(LABELS[label]), self.label_cells), "dim")
        for line in wrapped(text, self.columns - self.label_cells - 2):
            yield f"  {word}{line}"
            word = " " * self.label_cells

    def unchecked(self, unchecked: Sequence[Unchecked]) -> Iterator[str]:
        """What could not be judged, rules of one reason together."""
        by_reason: dict[str, list[str]] = {}
        for one in unchecked:
            reason = localize(one.reason)
            if one.remedy is not None:
                places = {"message": reason, "remedy": localize(one.remedy)}
                reason = translate(mark("{message} ({remedy})")).format(**places)
            by_reason.setdefault(reason, []).append(one.rule)
        yield self.style.paint(translate(mark("not checked:")), "bold")
        for reason, rules in by_reason.items():
            yield from ("  " + line for line in wrapped(f"{', '.join(rules)}: {reason}", self.columns - 2))
