"""`finwait capabilities`: what this machine can do for finwait, what is missing, and what would give it."""

from __future__ import annotations

import argparse
import os
import sys

from finwait.cli.parser import CommandParser
from finwait.errors import UsageError
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

DESCRIPTION = mark("Tell what this machine can do for finwait, what is missing, and what would give it.")


class _Parser(CommandParser):
    """It has no filter, so no columns stand behind its help."""

    def format_help(self) -> str:
        """The help."""
        return argparse.ArgumentParser.format_help(self)

    def _unknown_option(self, word: str) -> UsageError:
        if word.startswith("-") and word != "-":
            return super()._unknown_option(word)
        return self._no_option(word)

    def _no_option(self, word: str) -> UsageError:
        return UsageError("'finwait {command}' takes options only, not '{word}'", command=self.command, word=word)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The options of `arguments`. Raises UsageError for anything else."""
        options = super().parse(arguments)
        if options.filter:  # behind `--`
            raise self._no_option(options.filter[0])
        return options


def build_parser() -> CommandParser:
    """The command's parser."""
    parser = _Parser("capabilities", translate(DESCRIPTION))
    parser.usage = "%(prog)s [OPTIONS]"
    parser.set_defaults(filter=[])
    group = parser.add_argument_group(translate(mark("output")))
    form = group.add_mutually_exclusive_group()
    form.add_argument(
        "--json", dest="form", action="store_const", const="json", help=translate(mark("one JSON document"))
    )
    form.add_argument(
        "--ndjson", dest="form", action="store_const", const="ndjson", help=translate(mark("JSON, one line each"))
    )
    form.add_argument(
        "--csv", dest="form", action="store_const", const="csv", help=translate(mark("comma-separated values"))
    )
    group.add_argument(
        "-H", "--no-header", dest="header", action="store_false", help=translate(mark("no line of titles"))
    )
    group.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help=translate(mark("colour (default: on a terminal)")),
    )
    group.add_argument(
        "--lang", metavar="LANG", help=translate(mark("language of messages: en or zh (default: from the locale)"))
    )
    return parser


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = build_parser().parse(arguments)
    from finwait.cli import output
    from finwait.render import capabilities as render
    from finwait.sources.machine import capabilities

    machine = capabilities()
    if options.form in {"json", "ndjson"}:
        output.write_json(render.capabilities_document(machine), indent=1 if options.form == "json" else None)
    elif options.form == "csv":
        output.write_csv(render.capabilities_csv(machine, header=options.header))
    else:
        from finwait.render.style import style_of, terminal_columns

        style = style_of(sys.stdout, options.color, os.environ)
        columns = terminal_columns(sys.stdout)
        output.write_lines(render.render_capabilities(machine, style, header=options.header, columns=columns))
    return 0
