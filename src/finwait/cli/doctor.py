"""`finwait doctor`: what is wrong with this host's TCP, who does it, what to do, and what not to touch."""

from __future__ import annotations

import os
import sys

from finwait.cli import output
from finwait.cli.parser import OptionsParser, add_color, add_forms, add_language, add_places, request_of, seconds
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from finwait.cli.parser import CommandParser
    from finwait.diagnosis.rule import Rule
    from finwait.table.finding import Diagnosis

DESCRIPTION = mark("Judge the TCP of this host: what is wrong, who does it, what to do, and what not to touch.")
DEFAULT_SECONDS = 5.0


def build_parser() -> CommandParser:
    """The command's parser."""
    parser = OptionsParser("doctor", translate(DESCRIPTION))
    group = parser.add_argument_group(translate(mark("what to judge")))
    group.add_argument(
        "--for",
        dest="seconds",
        metavar="SECONDS",
        type=seconds,
        default=DEFAULT_SECONDS,
        help=translate(mark("time between the two looks (default: 5; 0: one look, without rates)")),
    )
    group.add_argument(
        "--rule",
        dest="rule",
        action="append",
        default=[],
        metavar="ID,...",
        help=translate(mark("only these rules; may be repeated")),
    )
    group.add_argument(
        "--min-severity",
        choices=("info", "warning", "critical"),
        default="info",
        help=translate(mark("leave out what is less than that (default: info)")),
    )
    group.add_argument(
        "--config",
        metavar="FILE",
        help=translate(mark("thresholds, as TOML: [rules.ID] name = number; enabled = false")),
    )
    group.add_argument("--rules", action="store_true", help=translate(mark("list the rules and what they need here")))
    group.add_argument(
        "--watch", action="store_true", help=translate(mark("look again and again, and tell what changes"))
    )
    add_places(parser)
    group = parser.add_argument_group(translate(mark("output")))
    form = add_forms(group, "json", "ndjson")
    form.add_argument(
        "--markdown",
        dest="form",
        action="store_const",
        const="markdown",
        help=translate(mark("Markdown, for a ticket")),
    )
    form.add_argument(
        "--plugin",
        dest="form",
        action="store_const",
        const="plugin",
        help=translate(mark("one line for a monitoring system; exit code 0, 1, 2 or 3")),
    )
    group.add_argument(
        "--exit-code",
        action="store_true",
        help=translate(mark("exit with 10 for a warning, 20 for something critical")),
    )
    add_color(group)
    add_language(group)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = build_parser().parse(arguments)
    from finwait.diagnosis.rules import find_rules

    rules = find_rules(options.rule)
    diagnosis = _diagnose(options, rules)
    return _write(diagnosis, options)


def _diagnose(options: argparse.Namespace, rules: Sequence[Rule]) -> Diagnosis:
    from finwait.diagnosis.verdict import diagnose
    from finwait.examination import examine
    from finwait.table.finding import SEVERITIES

    examiner = examine(request_of(options), source=options.source, for_s=options.seconds)
    diagnosis = diagnose(examiner.cases(), rules, {}, examiner.provenance)
    least = SEVERITIES.index(options.min_severity)
    diagnosis.findings = [one for one in diagnosis.findings if SEVERITIES.index(one.severity) >= least]
    return diagnosis


def _write(diagnosis: Diagnosis, options: argparse.Namespace) -> int:
    from finwait.render import doctor

    if options.form == "plugin":
        output.write_lines([doctor.plugin_line(diagnosis)])
        return doctor.PLUGIN_CODE[diagnosis.severity]
    if options.form == "json":
        output.write_json(doctor.doctor_document(diagnosis), indent=1)
    elif options.form == "ndjson":
        for document in doctor.ndjson_documents(diagnosis):
            output.write_json(document)
    elif options.form == "markdown":
        from finwait.render.doctor_markdown import doctor_markdown

        output.write_lines(doctor_markdown(diagnosis))
    else:
        from finwait.render.doctor_text import DoctorPage
        from finwait.render.style import style_of, terminal_columns

        page = DoctorPage(style_of(sys.stdout, options.color, os.environ), terminal_columns(sys.stdout))
        output.write_lines(page.lines(diagnosis))
        output.say_notices(diagnosis.provenance.notices)
    return doctor.EXIT_CODE[diagnosis.severity] if options.exit_code else 0
