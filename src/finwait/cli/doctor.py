"""`finwait doctor`: what is wrong with this host's TCP, who does it, what to do, and what not to touch."""

from __future__ import annotations

import os
import sys

from finwait.cli import output
from finwait.cli.parser import OptionsParser, add_color, add_forms, add_language, add_places, request_of, seconds
from finwait.errors import FinwaitError, UsageError
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from finwait.cli.parser import CommandParser
    from finwait.diagnosis.case import Case
    from finwait.diagnosis.configuration import Configuration
    from finwait.diagnosis.rule import Rule
    from finwait.sources.archive import Recorder
    from finwait.table.finding import Diagnosis
    from finwait.table.snapshot import Provenance

DESCRIPTION = mark("Judge the TCP of this host: what is wrong, who does it, what to do, and what not to touch.")
DEFAULT_SECONDS = 5.0
DEFAULT_WATCH_SECONDS = 10.0


def build_parser() -> CommandParser:
    """The command's parser."""
    parser = OptionsParser("doctor", translate(DESCRIPTION))
    _add_judging(parser)
    group = add_places(parser)
    group.add_argument(
        "--read", metavar="FILE", help=translate(mark("judge a bundle of --bundle instead of this host"))
    )
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
    group.add_argument(
        "--bundle",
        metavar="FILE",
        help=translate(mark("also write FILE.zip for a colleague: sockets, counters, settings, findings")),
    )
    group.add_argument(
        "--mask",
        action="store_true",
        help=translate(mark("with --bundle: other addresses and names, so that it can be posted")),
    )
    add_color(group)
    add_language(group)
    return parser


def _add_judging(parser: CommandParser) -> None:
    group = parser.add_argument_group(translate(mark("what to judge")))
    group.add_argument(
        "--for",
        dest="seconds",
        metavar="SECONDS",
        type=seconds,
        help=translate(mark("time between looks (default: 5, with --watch 10; 0: one look, without rates)")),
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
        help=translate(mark("leave out what is less than that (default: info)")),
    )
    group.add_argument(
        "--config",
        metavar="FILE",
        help=translate(mark("thresholds, as TOML: [rules.ID] name = number; enabled = false")),
    )
    group.add_argument(
        "--rules", action="store_true", help=translate(mark("list the rules and what they lack on this machine"))
    )
    group.add_argument(
        "--watch", action="store_true", help=translate(mark("look again and again, and tell what changes"))
    )


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    if "--plugin" not in arguments:
        return _run(_options(arguments))
    try:
        return _run(_options(arguments))
    except FinwaitError as error:  # whoever monitors takes 3 for unknown, and reads standard output
        from finwait.render.doctor import UNKNOWN_CODE
        from finwait.text.escape import escape_foreign
        from finwait.text.messages import localize

        output.write_lines([f"TCP UNKNOWN: {escape_foreign(localize(error, escape_foreign), 500)}"])
        return UNKNOWN_CODE


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    options = build_parser().parse(arguments)
    _check(options)
    return options


_TOGETHER = mark("{one} does not go with {other}")


def _check(options: argparse.Namespace) -> None:
    """Raise UsageError for options that contradict each other."""
    given = {
        "--read": options.read is not None,
        "--watch": options.watch,
        "--rules": options.rules,
        "--bundle": options.bundle is not None,
        "-N": bool(options.netns),
        "--all-netns": options.all_netns,
        "--for": options.seconds is not None,
        "--source": options.source != "auto",
        "--plugin": options.form == "plugin",
        "--markdown": options.form == "markdown",
    }
    foes = {
        "--read": ("--watch", "--bundle", "-N", "--all-netns", "--for", "--source", "--rules"),
        "--watch": ("--plugin", "--markdown", "--bundle", "--rules"),
        "--rules": ("--bundle", "--plugin", "--markdown", "--for"),
        "--bundle": ("--source",),
    }
    for one, others in foes.items():
        for other in others:
            if given[one] and given[other]:
                raise UsageError(_TOGETHER, one=one, other=other)
    if options.mask and options.bundle is None:
        raise UsageError("--mask goes with --bundle")
    if options.bundle is not None and not options.bundle.endswith(".zip"):
        raise UsageError("--bundle writes X.zip, not '{path}'", path=options.bundle)
    if options.source == "bpf":
        raise UsageError("the doctor reads by sock_diag or /proc, not by --source bpf")


def _run(options: argparse.Namespace) -> int:
    from finwait.diagnosis.rules import find_rules

    configuration = _configuration(options.config)
    rules = [rule for rule in find_rules(options.rule) if rule.id not in configuration.disabled]
    if options.rules:
        return _list_rules(options, rules)
    judge = _Judge(rules, configuration, options.min_severity or configuration.min_severity or "info")
    if options.watch:
        from finwait.cli.doctor_watch import watch

        every_s = options.seconds or configuration.seconds or DEFAULT_WATCH_SECONDS
        watch(request_of(options), options, judge, every_s)
    if options.read is not None:
        from finwait.bundle import read_bundle

        return _write(judge(*read_bundle(options.read)), options)
    asked = options.seconds if options.seconds is not None else configuration.seconds
    return _examine(options, judge, DEFAULT_SECONDS if asked is None else asked)


def _configuration(path: str | None) -> Configuration:
    from finwait.diagnosis.configuration import Configuration, parse_configuration

    if path is None:
        return Configuration()
    from finwait.sources.text_file import read_text_file

    return parse_configuration(read_text_file(path), path)


class _Judge:
    """Judges cases by the rules and thresholds that were asked for."""

    def __init__(self, rules: Sequence[Rule], configuration: Configuration, min_severity: str) -> None:
        self.rules = rules
        self.configuration = configuration
        self.min_severity = min_severity

    def __call__(self, cases: Sequence[Case], provenance: Provenance) -> Diagnosis:
        from finwait.diagnosis.verdict import diagnose
        from finwait.table.finding import SEVERITIES

        diagnosis = diagnose(cases, self.rules, self.configuration.limits, provenance)
        least = SEVERITIES.index(self.min_severity)
        shown = [one for one in diagnosis.findings if SEVERITIES.index(one.severity) >= least]
        diagnosis.left_out = len(diagnosis.findings) - len(shown)
        diagnosis.findings = shown
        return diagnosis


def _list_rules(options: argparse.Namespace, rules: Sequence[Rule]) -> int:
    from finwait.diagnosis.verdict import lack_here
    from finwait.examination import examine
    from finwait.render.rules import render_rules, rules_document

    cases = examine(request_of(options), source=options.source, for_s=0).cases()
    lacks = {rule.id: lack for rule in rules if (lack := lack_here(rule, cases)) is not None}
    if options.form in {"json", "ndjson"}:
        output.write_json(rules_document(rules, lacks), indent=1 if options.form == "json" else None)
        return 0
    from finwait.render.doctor_text import page_columns
    from finwait.render.style import style_of, terminal_columns

    style = style_of(sys.stdout, options.color, os.environ)
    output.write_lines(render_rules(rules, lacks, style, page_columns(terminal_columns(sys.stdout))))
    return 0


def _examine(options: argparse.Namespace, judge: _Judge, for_s: float) -> int:
    from finwait.examination import examine

    if options.bundle is None:
        examiner = examine(request_of(options), source=options.source, for_s=for_s)
        return _write(judge(examiner.cases(), examiner.provenance), options)
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="finwait-") as directory:
        return _bundle(options, judge, for_s, directory)


def _bundle(options: argparse.Namespace, judge: _Judge, for_s: float, directory: str) -> int:
    """Look with recorders, write the bundle, read it back for the findings that are in it, and judge."""
    from finwait.bundle import write_bundle
    from finwait.examination import examine
    from finwait.sources.archive import Recorder
    from finwait.wire.masking import Mask

    mask = Mask() if options.mask else None
    looks: list[str] = []

    def record() -> Recorder:
        looks.append(f"{directory}/look-{len(looks) + 1}.finwait")
        return Recorder(looks[-1], mask)

    examiner = examine(request_of(options), source="sock_diag", for_s=for_s, record=record)
    cases, provenance = examiner.cases(), examiner.provenance
    first = f"{directory}/first.zip"
    write_bundle(first, looks, cases, provenance, mask, {})
    write_bundle(options.bundle, looks, cases, provenance, mask, _documents(first, judge))
    return _write(judge(cases, provenance), options)


def _documents(path: str, judge: _Judge) -> dict[str, str]:
    """What a colleague reads without finwait: the findings as the bundle at `path` tells them."""
    from json import dumps

    from finwait.bundle import read_bundle
    from finwait.render.doctor import doctor_document
    from finwait.render.doctor_markdown import doctor_markdown

    diagnosis = judge(*read_bundle(path))
    report = "\n".join(doctor_markdown(diagnosis))
    return {"findings.json": dumps(doctor_document(diagnosis), indent=1), "report.md": f"{report}\n"}


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
