"""`finwait capabilities`: what this machine can do for finwait, what is missing, and what would give it."""

from __future__ import annotations

import os
import sys

from finwait.cli.parser import CommandParser, OptionsParser, add_color, add_forms, add_header, add_language
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

DESCRIPTION = mark("Tell what this machine can do for finwait, what is missing, and what would give it.")


def build_parser() -> CommandParser:
    """The command's parser."""
    parser = OptionsParser("capabilities", translate(DESCRIPTION))
    group = parser.add_argument_group(translate(mark("output")))
    add_forms(group)
    add_header(group)
    add_color(group)
    add_language(group)
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
