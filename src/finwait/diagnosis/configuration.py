"""Thresholds and switches that a configuration file sets, checked against the rules.

::

    for = 10                    # seconds between the looks
    min_severity = "warning"
    [rules.close-wait-leak]
    warning_age_s = 300
    [rules.listener-in-ephemeral-range]
    enabled = false
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from finwait.diagnosis.rules import RULE_BY_ID
from finwait.errors import ParseError, Phrase
from finwait.table.finding import SEVERITIES
from finwait.text.messages import mark

if TYPE_CHECKING:
    from collections.abc import Mapping

WRONG = mark("{path}, line {line}: {reason}")
UNKNOWN_KEY = mark("there is no '{key}' here; did you mean {nearest}?")
NO_NUMBER = mark("'{key}' takes a number from 0 on")
NO_BOOLEAN = mark("'{key}' takes true or false")
NO_SEVERITY = mark("'{key}' takes info, warning or critical")
NO_TABLE = mark("'{key}' is a table, [{key}]")


@dataclass(slots=True)
class Configuration:
    """limits: thresholds by rule and name. disabled: rules that are not judged. seconds, min_severity: None where not said."""

    limits: dict[str, dict[str, float]] = field(default_factory=dict)
    disabled: set[str] = field(default_factory=set)
    seconds: float | None = None
    min_severity: str | None = None


class _Reader:
    """Where things stand in the text is only looked for when something is wrong."""

    def __init__(self, text: str, path: str) -> None:
        self.text = text
        self.path = path

    def wrong(self, reason: Phrase, key: str, rule: str = "") -> ParseError:
        """The error, with the line of `key` behind the title of `rule`."""
        lines = self.text.splitlines()
        begin = next(
            (at for at, line in enumerate(lines) if rule and rule in line and line.lstrip().startswith("[")), 0
        )
        pattern = re.compile(rf"\s*\[?.*\b{re.escape(key)}\b")
        line = next((at for at, line in enumerate(lines) if at >= begin and pattern.match(line)), begin)
        return ParseError(WRONG, path=self.path, line=line + 1, reason=reason)

    def number(self, value: object, key: str, rule: str = "") -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise self.wrong(Phrase(NO_NUMBER, key=key), key, rule)
        return float(value)

    def unknown(self, key: str, known: list[str], rule: str = "") -> ParseError:
        from difflib import get_close_matches

        nearest = get_close_matches(key, known, n=1, cutoff=0.0)[0]
        return self.wrong(Phrase(UNKNOWN_KEY, key=key, nearest=nearest), key, rule)


def parse_configuration(text: str, path: str) -> Configuration:
    """Raises ParseError with file, line and key."""
    import tomllib

    reader = _Reader(text, path)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        line = int(found[1]) if found else len(text.splitlines())
        raise ParseError(WRONG, path=path, line=line, reason=str(error).partition(" (at")[0]) from error
    configuration = Configuration()
    for key, value in document.items():
        if key == "for":
            configuration.seconds = reader.number(value, key)
        elif key == "min_severity":
            if value not in SEVERITIES:
                raise reader.wrong(Phrase(NO_SEVERITY, key=key), key)
            configuration.min_severity = str(value)
        elif key == "rules" and isinstance(value, dict):
            for rule, settings in value.items():
                _read_rule(reader, configuration, rule, settings)
        elif key == "rules":
            raise reader.wrong(Phrase(NO_TABLE, key=key), key)
        else:
            raise reader.unknown(key, ["for", "min_severity", "rules"])
    return configuration


def _read_rule(reader: _Reader, configuration: Configuration, rule: str, settings: object) -> None:
    if rule not in RULE_BY_ID:
        raise reader.unknown(rule, list(RULE_BY_ID))
    if not isinstance(settings, dict):
        raise reader.wrong(Phrase(NO_TABLE, key=f"rules.{rule}"), rule)
    known: Mapping[str, float] = RULE_BY_ID[rule].limits
    for key, value in settings.items():
        if key == "enabled":
            if not isinstance(value, bool):
                raise reader.wrong(Phrase(NO_BOOLEAN, key=key), key, rule)
            if not value:
                configuration.disabled.add(rule)
        elif key in known:
            configuration.limits.setdefault(rule, {})[key] = reader.number(value, key, rule)
        else:
            raise reader.unknown(key, ["enabled", *known], rule)
