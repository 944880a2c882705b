"""The doctor's rules: what each looks for, and whether it can be judged on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finwait.render.doctor import unchecked_document
from finwait.render.wrap import wrapped
from finwait.text.messages import localize, mark, translate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from finwait.diagnosis.rule import Rule
    from finwait.render.style import Style
    from finwait.table.finding import Unchecked

SCHEMA = "finwait.doctor-rules/1"
NEVER = mark("Rule 19 is that the number of TIME-WAIT alone is never a finding.")


def rules_document(rules: Sequence[Rule], lacks: Mapping[str, Unchecked]) -> dict[str, object]:
    """The document of docs/schemas/finwait.doctor-rules-1.json. lacks: why a rule cannot be judged here, by its id."""
    return {
        "schema": SCHEMA,
        "rules": [
            {
                "id": rule.id,
                "numbers": list(rule.numbers),
                "summary": translate(rule.summary),
                "scope": rule.scope,
                "reads": list(rule.reads),
                "limits": dict(rule.limits),
                "sources": list(rule.sources),
                "lacks": unchecked_document(lacks[rule.id]) if rule.id in lacks else None,
            }
            for rule in rules
        ],
    }


def render_rules(rules: Sequence[Rule], lacks: Mapping[str, Unchecked], style: Style, columns: int) -> Iterator[str]:
    """A paragraph a rule: its id and what it looks for, its thresholds, what it lacks here."""
    for rule in rules:
        yield style.paint(rule.id, "bold")
        yield from _indented(translate(rule.summary), columns)
        if rule.limits:
            limits = ", ".join(f"{name} = {value:g}" for name, value in rule.limits.items())
            yield from _indented(limits, columns)
        if rule.id in lacks:
            lack = lacks[rule.id]
            reason = localize(lack.reason)
            if lack.remedy is not None:
                reason = translate(mark("{message} ({remedy})")).format(message=reason, remedy=localize(lack.remedy))
            text = translate(mark("not possible here: {reason}"))
            if lack.code.endswith("_partly"):
                text = translate(mark("possible in part: {reason}"))
            for line in _indented(text.format(reason=reason), columns):
                yield style.paint(line, "yellow")
    yield ""
    yield from wrapped(translate(NEVER), columns)


def _indented(text: str, columns: int) -> Iterator[str]:
    yield from (f"    {line}" for line in wrapped(text, columns - 4))
