"""Where the command stands, whose option it is, and what is shown when nobody says."""

from __future__ import annotations

import pytest

from finwait.cli.capabilities import build_parser as capabilities_parser
from finwait.cli.count import build_parser as count_parser
from finwait.cli.diagram import build_parser as diagram_parser
from finwait.cli.list import build_parser as list_parser
from finwait.cli.main import _choose_command
from finwait.cli.parser import OPTIONS_OF_ONE, OPTIONS_WITH_VALUE, _joined
from finwait.cli.trace import build_parser as trace_parser
from finwait.errors import UsageError

PARSERS = {"count": count_parser, "list": list_parser}


@pytest.mark.parametrize(
    ("words", "command", "rest"),
    [
        ([], "count", []),
        (["list", "-o"], "list", ["-o"]),
        (["--json", "list"], "list", ["--json"]),
        (["-N", "web", "list", "-o"], "list", ["-N", "web", "-o"]),
        (["-N", "list"], "count", ["-N", "list"]),
        (["--by=state", "count", "state", "listen"], "count", ["--by=state", "state", "listen"]),
        (["--", "list"], "count", ["--", "list"]),
        (["-4", "state", "list"], "count", ["-4", "state", "list"]),
        (["--json", "capabilities", "-H"], "capabilities", ["--json", "-H"]),
        (["--rates", "2", "--format", "svg", "diagram"], "diagram", ["--rates", "2", "--format", "svg"]),
    ],
)
def test_a_command_may_stand_behind_options(words: list[str], command: str, rest: list[str]) -> None:
    assert _choose_command(words) == (command, rest)


def test_options_that_take_a_value_are_those_of_the_parsers() -> None:
    taking = {
        name
        for build in (*PARSERS.values(), trace_parser, diagram_parser)
        for action in build()._actions
        if action.option_strings and action.nargs != 0
        for name in action.option_strings
    }
    assert taking == OPTIONS_WITH_VALUE


def test_options_of_one_command_are_not_of_the_other() -> None:
    options = {command: set(build()._option_string_actions) for command, build in PARSERS.items()}
    assert set(OPTIONS_OF_ONE["list"]) == options["list"] - options["count"]
    assert set(OPTIONS_OF_ONE["count"]) == options["count"] - options["list"]


@pytest.mark.parametrize(
    ("command", "word", "owner"),
    [("count", "-tan", "list"), ("count", "--columns=x", "list"), ("list", "--by", "count"), ("count", "-l", "list")],
)
def test_an_option_of_the_other_command_is_told_as_such(command: str, word: str, owner: str) -> None:
    with pytest.raises(UsageError, match=f"is an option of 'finwait {owner}'"):
        PARSERS[command]().parse([word])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["extra"], "takes options only, not 'extra'"),
        (["--json", "state", "listen"], "takes options only, not 'state'"),
        (["--", "--json"], "takes options only, not '--json'"),
        (["--jsno"], "did you mean --json"),
        (["--by", "state"], "--by is an option of 'finwait count'"),
        (["-o"], "-o is an option of 'finwait list'"),
        (["--json", "--csv"], "not allowed with argument"),
    ],
    ids=" ".join,
)
def test_capabilities_take_options_only(arguments: list[str], words: str) -> None:
    with pytest.raises(UsageError) as raised:
        capabilities_parser().parse(arguments)
    assert words in str(raised.value)


def test_options_of_capabilities_are_options_of_every_command() -> None:
    options = set(capabilities_parser()._option_string_actions)
    assert all(options <= set(build()._option_string_actions) for build in PARSERS.values())
    assert capabilities_parser().parse([]).form is None
    assert "FILTER" not in capabilities_parser().format_help()


@pytest.mark.parametrize("command", PARSERS)
def test_help_names_every_column(command: str) -> None:
    from finwait.table.columns import COLUMN_BY_NAME

    assert set(COLUMN_BY_NAME) <= set(PARSERS[command]().format_help().split())


@pytest.mark.parametrize(
    ("words", "joined"),
    [
        (("--for", "-1"), ["--for=-1"]),
        (("--watch", "-4"), ["--watch", "-4"]),
        (("--watch", "2", "-6"), ["--watch=2", "-6"]),
        (("--lang", "-4"), ["--lang", "-4"]),
        (("--top", "3", "-4"), ["--top", "3", "-4"]),
    ],
)
def test_a_negative_number_is_a_value_where_a_number_must_follow(words: tuple[str, ...], joined: list[str]) -> None:
    assert _joined(words) == joined
