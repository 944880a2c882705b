"""`finwait ports`: how much of the range of ephemeral ports each destination uses, at what rate, and when it is exhausted."""

from __future__ import annotations

import os
import sys
from itertools import islice

from finwait.cli import output
from finwait.cli.parser import (
    OptionsParser,
    add_color,
    add_forms,
    add_header,
    add_language,
    add_places,
    request_of,
    seconds,
    whole_number,
)
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from finwait.cli.parser import CommandParser
    from finwait.diagnosis.case import Case
    from finwait.render.ports import PortTable

DESCRIPTION = mark(
    "Show how much of the range of ephemeral ports each destination uses, at what rate, and when it is exhausted."
)
DEFAULT_ROWS = 20


def build_parser() -> CommandParser:
    """The command's parser."""
    parser = OptionsParser("ports", translate(DESCRIPTION))
    group = parser.add_argument_group(translate(mark("what to show")))
    group.add_argument(
        "--for",
        dest="seconds",
        metavar="SECONDS",
        type=seconds,
        default=0.0,
        help=translate(mark("look twice, so far apart, for the rates (default: 0, one look)")),
    )
    group.add_argument(
        "--limit",
        type=whole_number,
        default=DEFAULT_ROWS,
        metavar="N",
        help=translate(mark("destinations to show, the fullest first (default: 20)")),
    )
    add_places(parser)
    group = parser.add_argument_group(translate(mark("output")))
    add_forms(group, "json", "csv")
    add_header(group)
    add_color(group)
    add_language(group)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = build_parser().parse(arguments)
    from finwait.examination import examine
    from finwait.render import ports

    examiner = examine(request_of(options), source=options.source, for_s=options.seconds, owners=False)
    tables = [_table(case, options.limit) for case in examiner.cases()]
    if options.form == "json":
        output.write_json(ports.ports_document(tables, examiner.provenance), indent=1)
    elif options.form == "csv":
        output.write_csv(ports.ports_csv(tables, header=options.header))
        output.say_notices(examiner.provenance.notices)
    else:
        from finwait.render.style import style_of

        style = style_of(sys.stdout, options.color, os.environ)
        output.write_lines(ports.render_ports(tables, style, header=options.header))
        output.say_notices(examiner.provenance.notices)
    return 0


def _table(case: Case, limit: int) -> PortTable:
    from finwait.diagnosis.budget import PortBudget
    from finwait.render.ports import PortTable

    budget = PortBudget(case)
    if not budget.is_known:
        return PortTable(case.now.netns, budget, [], 0)
    groups = sorted(islice(budget.groups(), limit), key=lambda group: -group.share)
    return PortTable(case.now.netns, budget, groups, len(budget.destinations))
