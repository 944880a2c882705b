"""All rules, in the order in which they are judged and told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finwait.diagnosis import beside, closing, established, host, opening, ports, queues
from finwait.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from finwait.diagnosis.rule import Rule

RULES: tuple[Rule, ...] = (
    *queues.RULES,
    *closing.RULES,
    *ports.RULES,
    *opening.RULES,
    *established.RULES,
    *host.RULES,
    *beside.RULES,
)
RULE_BY_ID = {rule.id: rule for rule in RULES}


def find_rules(words: Sequence[str]) -> tuple[Rule, ...]:
    """The rules that `words` name, each word one or several with commas; all for none. Raises UsageError with the nearest."""
    asked = [one.strip().lower().replace("_", "-") for word in words for one in word.split(",")]
    for one in asked:
        if one not in RULE_BY_ID:
            raise unknown_rule(one)
    return tuple(rule for rule in RULES if not asked or rule.id in asked)


def unknown_rule(word: str) -> UsageError:
    """What to raise for a rule that there is not."""
    from difflib import get_close_matches

    near = get_close_matches(word, list(RULE_BY_ID), n=1, cutoff=0.4)
    if not near:
        return UsageError("unknown rule '{word}'; 'finwait doctor --rules' names them", word=word)
    return UsageError("unknown rule '{word}'; did you mean {nearest}?", word=word, nearest=near[0])
