"""The doctor's configuration file: what it sets, and one line with file, line and key for what it does not understand."""

from __future__ import annotations

import pytest

from finwait.diagnosis.configuration import parse_configuration
from finwait.diagnosis.rules import RULES
from finwait.errors import ParseError

WHOLE = """
for = 10
min_severity = "warning"
[rules.close-wait-leak]
warning_age_s = 300
[rules.listener-in-ephemeral-range]
enabled = false
[rules.ghost-sockets]
enabled = true
descriptors = 0
"""


def test_it_sets_thresholds_and_switches() -> None:
    found = parse_configuration(WHOLE, "doctor.toml")
    assert (found.seconds, found.min_severity) == (10, "warning")
    assert found.limits == {"close-wait-leak": {"warning_age_s": 300}, "ghost-sockets": {"descriptors": 0}}
    assert found.disabled == {"listener-in-ephemeral-range"}


def test_an_empty_file_changes_nothing() -> None:
    found = parse_configuration("# nothing\n", "doctor.toml")
    assert (found.limits, found.disabled, found.seconds, found.min_severity) == ({}, set(), None, None)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("for = \n", 1, "Invalid value"),
        ("for = 5\nminseverity = 'info'\n", 2, "there is no 'minseverity' here; did you mean min_severity?"),
        ("for = 'soon'\n", 1, "'for' takes a number from 0 on"),
        ("for = -1\n", 1, "'for' takes a number from 0 on"),
        ("for = nan\n", 1, "'for' takes a number from 0 on"),
        ("for = true\n", 1, "'for' takes a number from 0 on"),
        ("min_severity = 'bad'\n", 1, "'min_severity' takes info, warning or critical"),
        ("rules = 3\n", 1, "'rules' is a table, [rules]"),
        ("\n[rules.close-wait-lek]\n", 2, "there is no 'close-wait-lek' here; did you mean close-wait-leak?"),
        ("[rules]\nclose-wait-leak = 3\n", 2, "'rules.close-wait-leak' is a table, [rules.close-wait-leak]"),
        (
            "[rules.ghost-sockets]\ndescriptors = 1\n\n[rules.close-wait-leak]\nwarning_age = 3\n",
            5,
            "there is no 'warning_age' here; did you mean warning_age_s?",
        ),
        ("[rules.close-wait-leak]\nwarning_age_s = 'x'\n", 2, "'warning_age_s' takes a number from 0 on"),
        ("[rules.close-wait-leak]\nenabled = 1\n", 2, "'enabled' takes true or false"),
        ("[rules.close-wait-leak\n", 1, "Expected ']' at the end of a table declaration"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, line: int, reason: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_configuration(text, "doctor.toml")
    assert str(caught.value) == f"doctor.toml, line {line}: {reason}"


def test_every_threshold_of_every_rule_can_be_set() -> None:
    lines = [f"[rules.{rule.id}]\n" + "".join(f"{name} = 7\n" for name in rule.limits) for rule in RULES]
    found = parse_configuration("\n".join(lines), "doctor.toml")
    assert found.limits == {rule.id: dict.fromkeys(rule.limits, 7) for rule in RULES if rule.limits}
