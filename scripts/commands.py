"""The commands as the documentation needs them: their parsers, in English and of one width whatever the environment."""

from __future__ import annotations

import os
from importlib import import_module

from finwait.cli.main import COMMANDS
from finwait.cli.overview import COMMANDS as SUMMARIES
from finwait.text.messages import use_language

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Action
    from collections.abc import Iterator

    from finwait.cli.parser import CommandParser

HELP_COLUMNS = 100


def build_parser(command: str) -> CommandParser:
    """The parser of `command`, its help in English at HELP_COLUMNS."""
    use_language("en")
    os.environ["COLUMNS"] = str(HELP_COLUMNS)
    parser: CommandParser = import_module(f"finwait.cli.{command}").build_parser()
    return parser


def takes_filter(parser: CommandParser) -> bool:
    """Whether words that are no options are a filter; otherwise there are none."""
    return any(action.dest == "filter" and not action.option_strings for action in parser._actions)


def option_groups(parser: CommandParser) -> Iterator[tuple[str, list[Action]]]:
    """The titled groups of options of `parser`, none empty, without the filter."""
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.option_strings]
        if actions:
            yield group.title or "", actions


__all__ = ["COMMANDS", "HELP_COLUMNS", "SUMMARIES", "build_parser", "option_groups", "takes_filter"]
