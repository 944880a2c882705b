"""What the doctor found, as documents of JSON, as the one line of a monitoring plugin, and as words that all formats share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finwait.errors import Phrase
from finwait.render.documents import provenance_document
from finwait.table.finding import CRITICAL, INFO, WARNING
from finwait.text.escape import escape_foreign
from finwait.text.messages import localize, mark, translate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from finwait.table.finding import Diagnosis, Endpoint, Finding, Owner, Unchecked

SCHEMA = "finwait.doctor/1"
SEVERITY_WORDS = {INFO: mark("note"), WARNING: mark("warning"), CRITICAL: mark("critical")}
SIDES = {"guilty": mark("must act"), "waiting": mark("waits")}
VERDICT = mark("{verdict}: findings {count}, rules {rules}, sockets {sockets}, {looks}")
HEALTHY = mark("healthy")
NOTHING_SO_SEVERE = mark("nothing so severe")
LEFT_OUT = mark("{verdict}, left out {count} less severe")
NOTES = mark("healthy, with notes")
LOOKS = mark("looks {looks} in {seconds} s")
ONE_LOOK = mark("one look")
PLUGIN_WORD = {None: "OK", INFO: "OK", WARNING: "WARNING", CRITICAL: "CRITICAL"}
PLUGIN_CODE = {None: 0, INFO: 0, WARNING: 1, CRITICAL: 2}
UNKNOWN_CODE = 3
EXIT_CODE = {None: 0, INFO: 0, WARNING: 10, CRITICAL: 20}


def doctor_document(diagnosis: Diagnosis) -> dict[str, object]:
    """The document of docs/schemas/finwait.doctor-1.json."""
    return {
        "schema": SCHEMA,
        **provenance_document(diagnosis.provenance),
        "severity": diagnosis.severity,
        "looks": diagnosis.looks,
        "over_s": round(diagnosis.over_s, 3),
        "sockets": diagnosis.sockets,
        "left_out": diagnosis.left_out,
        "findings": [finding_document(finding) for finding in diagnosis.findings],
        "checked": diagnosis.checked,
        "unchecked": [unchecked_document(unchecked) for unchecked in diagnosis.unchecked],
    }


def finding_document(finding: Finding) -> dict[str, object]:
    """One entry of ``findings``."""
    netns = finding.netns
    return {
        "rule": finding.rule,
        "severity": finding.severity,
        "title": localize(finding.title),
        "netns": None if netns is None else {"cookie": netns.cookie, "inode": netns.inode, "name": netns.name},
        "owners": [_owner_document(owner) for owner in finding.owners],
        "evidence": dict(finding.evidence),
        "since_s": None if finding.since_s is None else round(finding.since_s, 1),
        "connections": [_endpoint_document(endpoint) for endpoint in finding.connections],
        "total": finding.total,
        "meaning": localize(finding.meaning),
        "remedy": localize(finding.remedy),
        "avoid": None if finding.avoid is None else localize(finding.avoid),
        "command": finding.command,
        "sources": list(finding.sources),
    }


def _owner_document(owner: Owner) -> dict[str, object]:
    return {
        "pid": owner.pid,
        "process": owner.process,
        "fds": list(owner.fds),
        "fd_count": owner.fd_count,
        "matched_by": owner.matched_by,
    }


def _endpoint_document(endpoint: Endpoint) -> dict[str, object]:
    return {
        "state": endpoint.state,
        "local": endpoint.local,
        "peer": endpoint.peer,
        "netns": endpoint.netns,
        "side": endpoint.side,
        "owner": None if endpoint.owner is None else _owner_document(endpoint.owner),
    }


def unchecked_document(unchecked: Unchecked) -> dict[str, object]:
    """One entry of ``unchecked``."""
    remedy = None if unchecked.remedy is None else localize(unchecked.remedy)
    return {"rule": unchecked.rule, "code": unchecked.code, "reason": localize(unchecked.reason), "remedy": remedy}


def ndjson_documents(diagnosis: Diagnosis) -> Iterator[dict[str, object]]:
    """A line for the whole, one for each finding, one for each rule that was not checked."""
    whole = doctor_document(diagnosis)
    del whole["findings"], whole["unchecked"]
    yield {"type": "diagnosis", **whole}
    for finding in diagnosis.findings:
        yield {"schema": SCHEMA, "type": "finding", **finding_document(finding)}
    for unchecked in diagnosis.unchecked:
        yield {"schema": SCHEMA, "type": "unchecked", **unchecked_document(unchecked)}


def verdict_text(diagnosis: Diagnosis) -> str:
    """The verdict in one line."""
    severity = diagnosis.severity
    healthy = NOTHING_SO_SEVERE if diagnosis.left_out else HEALTHY
    word = healthy if severity is None else NOTES if severity == INFO else SEVERITY_WORDS[severity]
    looks = translate(ONE_LOOK)
    if diagnosis.looks > 1:
        looks = translate(LOOKS).format(looks=diagnosis.looks, seconds=f"{diagnosis.over_s:.1f}")
    text = translate(VERDICT).format(
        verdict=translate(word),
        count=len(diagnosis.findings),
        rules=len(diagnosis.checked),
        sockets=diagnosis.sockets,
        looks=looks,
    )
    return translate(LEFT_OUT).format(verdict=text, count=diagnosis.left_out) if diagnosis.left_out else text


def plugin_line(diagnosis: Diagnosis) -> str:
    """The line of a monitoring plugin: service output, a bar, performance data (Monitoring Plugins Development Guidelines)."""
    counts = {severity: sum(one.severity == severity for one in diagnosis.findings) for severity in SEVERITY_WORDS}
    worst = next(iter(diagnosis.findings), None)
    text = verdict_text(diagnosis) if worst is None else localize(worst.title, escape_foreign)
    data = " ".join([
        f"sockets={diagnosis.sockets}",
        *(f"{severity}={count}" for severity, count in counts.items()),
        f"unchecked={len(diagnosis.unchecked)}",
    ])  # fmt: skip
    return f"TCP {PLUGIN_WORD[diagnosis.severity]}: {text.replace('|', '/')} | {data}"


def duration_text(seconds: float) -> str:
    """For people: seconds, minutes, hours or days, two units at most."""
    whole = int(seconds)
    if whole < 1:
        return translate(mark("less than a second"))
    units = ((86400, mark("{n} d")), (3600, mark("{n} h")), (60, mark("{n} min")), (1, mark("{n} s")))
    parts: list[str] = []
    for size, unit in units:
        if whole >= size and len(parts) < 2:
            parts.append(translate(unit).format(n=whole // size))
            whole %= size
        elif parts:
            break
    return " ".join(parts)


def owner_text(owner: Owner) -> str:
    """A process with its descriptors for people."""
    name = (
        localize(Phrase("{name} (pid {pid})", name=owner.process, pid=owner.pid))
        if owner.process
        else f"pid {owner.pid}"
    )
    if not owner.fds:
        return name
    more = owner.fd_count - len(owner.fds)
    fds = ", ".join(_ranges(owner.fds)) + (f" +{more}" if more else "")
    return translate(mark("{process}, fd {fds}")).format(process=name, fds=fds)


def _ranges(numbers: tuple[int, ...]) -> Iterator[str]:
    """Rising numbers, runs of them as first-last."""
    first = last = None
    for number in (*numbers, None):
        if last is not None and number != last + 1:
            yield str(first) if first == last else f"{first}-{last}"
            first = None
        first = number if first is None else first
        last = number


def evidence_text(evidence: Mapping[str, object]) -> str:
    """The numbers, machine words and all: who reports a finding quotes them."""
    return ", ".join(f"{name} {_value_text(value)}" for name, value in evidence.items() if value not in (None, []))


def _value_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "; ".join(" ".join(map(str, one.values())) if isinstance(one, dict) else str(one) for one in value)
    return str(value)
