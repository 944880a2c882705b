"""`finwait selftest`: known sockets, asked of finwait's sources, of ss and netstat, and TCP's machine proven on this kernel."""

from __future__ import annotations

from finwait.cli import output
from finwait.cli.parser import CommandParser, OptionsParser, add_language
from finwait.text.messages import mark, translate
from finwait.text.width import pad_right

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DESCRIPTION = mark("Make known sockets in a namespace of their own and compare what everybody says of them.")
ANSWERS = {"agrees": mark("agrees"), "differs": mark("DIFFERS"), "not_asked": mark("not asked")}


def build_parser() -> CommandParser:
    """The command's parser."""
    parser = OptionsParser("selftest", translate(DESCRIPTION))
    group = parser.add_argument_group(translate(mark("what to test")))
    group.add_argument(
        "--machine",
        action="store_true",
        help=translate(mark("also play every transition of TCP that can be brought about (half a minute)")),
    )
    group = parser.add_argument_group(translate(mark("output")))
    add_language(group)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns 0 where everything agrees, else 1."""
    options = build_parser().parse(arguments)
    from finwait.lab.selftest import COUNTS, DIFFERS, ask_everybody

    sockets = translate(mark("{count} sockets in eleven states, each in a prime number, {family}"))
    failed, family = 0, ""
    for verdict in ask_everybody():
        if verdict.family != family:
            family = verdict.family
            output.write_lines(
                [sockets.format(count=sum(COUNTS.values()), family="IPv4" if family == "ipv4" else "IPv6")]
            )
        failed += verdict.answer == DIFFERS
        detail = verdict.detail
        if verdict.unseen and not detail:
            detail = translate(mark("but for {states}, which it never shows")).format(states=verdict.unseen)
        answer = pad_right(translate(ANSWERS[verdict.answer]), 10)
        output.write_lines([f"  {verdict.witness:10}{answer}{detail}".rstrip()])
    if options.machine:
        for line, wrong in _machine():
            output.write_lines([line])
            failed += wrong
    return 1 if failed else 0


def _machine() -> Iterator[tuple[str, bool]]:
    """A line for each transition that is not shown as the table says, and one for all of them."""
    from finwait.lab.proof import driven, prove

    shown = 0
    for outcome in prove():
        shown += outcome.shown
        if not outcome.shown:
            yield f"  {outcome.transition.state.rfc} {outcome.transition.event}: {outcome.reason}", True
    text = translate(mark("{shown} of {count} transitions of TCP are as the table says"))
    yield text.format(shown=shown, count=len(driven())), False
