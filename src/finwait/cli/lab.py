"""`finwait lab`: real sockets in any state, in a network namespace of their own."""

from __future__ import annotations

import argparse
import os
import select
import sys
import time

from finwait.cli.parser import CommandParser, add_language, seconds
from finwait.errors import FinwaitError, SourceError, UsageError
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from finwait.lab.population import Population
    from finwait.tcp.exchanges import Exchange

DESCRIPTION = mark("Make real TCP sockets in any state, in a network namespace of their own, and run a command there.")
OWN_FAILURE = 125  # as in env(1) and timeout(1): the command's own codes are all others


class _Parser(CommandParser):
    """Its words are populations, and everything behind ``--`` is a command."""

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The options, ``filter`` the words before ``--``, ``command`` those behind it."""
        words = list(arguments)
        command = None
        if "--" in words:
            at = words.index("--")
            words, command = words[:at], words[at + 1 :]
        options = super().parse(words)
        options.command = command
        return options


def build_parser() -> CommandParser:
    """The command's parser."""
    parser = _Parser("lab", translate(DESCRIPTION), "STATE=N...|SCENARIO [-- COMMAND]")
    parser.epilog = translate(
        mark("COMMAND runs inside; its exit code is the lab's (126, 127: it did not start; 125: the lab failed).")
    )
    parser.add_argument(
        "filter",
        nargs="*",
        metavar="STATE=N",
        help=translate(mark("so many sockets in that state: TIME_WAIT=150 SYN_RECV=21; or the name of a scenario")),
    )
    _add_population(parser)
    _add_output(parser)
    return parser


def _add_population(parser: CommandParser) -> None:
    group = parser.add_argument_group(translate(mark("population")))
    family = group.add_mutually_exclusive_group()
    family.add_argument(
        "-4", "--ipv4", dest="family", action="store_const", const=2, help=translate(mark("IPv4 (the default)"))
    )
    family.add_argument("-6", "--ipv6", dest="family", action="store_const", const=10, help=translate(mark("IPv6")))
    group.add_argument(
        "--as",
        dest="end",
        choices=("client", "server"),
        help=translate(
            mark("which end of an exchange is this kernel's; the other is scripted (default: what is worth a look)")
        ),
    )
    group.add_argument(
        "--hold",
        type=seconds,
        metavar="S",
        help=translate(mark("hold them for S seconds (default: until COMMAND ends, without one until Ctrl-C)")),
    )


def _add_output(parser: CommandParser) -> None:
    group = parser.add_argument_group(translate(mark("output")))
    group.add_argument(
        "--transcript",
        metavar="FILE",
        help=translate(
            mark(
                "write there who sent what when, and the states of both ends: of an exchange, or of the first connection of each "
                "kind ('-': standard output, before COMMAND runs)"
            )
        ),
    )
    group.add_argument("--list", action="store_true", help=translate(mark("name the scenarios")))
    add_language(group)


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns COMMAND's exit code, 125 where the lab itself failed."""
    options = build_parser().parse(arguments)
    if options.command == []:
        raise UsageError("there is no command behind --")
    if options.list:
        _list_scenarios()
        return 0
    made, exchange = _asked(options)
    try:
        with made as population:
            if exchange is not None or options.transcript is not None:
                _write_transcript(exchange, options, population)
            return _use(population, options)
    except FinwaitError as error:
        if options.command is None:
            raise
        error.exit_code = OWN_FAILURE
        raise


def _asked(options: argparse.Namespace) -> tuple[Population, Exchange | None]:
    """What the words ask for: a scenario, or a population of their own."""
    from finwait.lab.asked import FAMILIES, parse_population
    from finwait.lab.population import PlayedExchange, Population
    from finwait.lab.scenarios import find_scenario

    family, is_recorded = FAMILIES[options.family or 2], options.transcript is not None
    scenario = find_scenario(options.filter[0]) if options.filter else None
    if options.end is not None and (scenario is None or scenario.exchange is None):
        raise UsageError("--as goes with an exchange, which has two ends")
    if scenario is None:
        return Population(parse_population(options.filter, options.family), is_recorded=is_recorded), None
    if len(options.filter) > 1:
        raise UsageError("one scenario at a time: '{word}' is too much", word=options.filter[1])
    if scenario.exchange is None:
        return Population(scenario.spec(family), is_recorded=is_recorded), None
    options.end = options.end or scenario.kernel_end
    return PlayedExchange(scenario.exchange.name, options.end, family), scenario.exchange


def _list_scenarios() -> None:
    from finwait.cli.output import write_lines
    from finwait.lab.scenarios import SCENARIOS

    width = max(map(len, SCENARIOS)) + 2
    write_lines(f"{name:{width}}{translate(scenario.title)}" for name, scenario in SCENARIOS.items())


def _write_transcript(exchange: Exchange | None, options: argparse.Namespace, population: Population) -> None:
    """What happened; where no file is named, on stderr if stdout is COMMAND's."""
    if options.transcript not in {None, "-"}:
        try:
            with open(options.transcript, "w", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in _transcript(exchange, options, population, unicode=True))
        except OSError as error:
            raise SourceError(
                "cannot write {path}: {reason}", path=options.transcript, reason=os.strerror(error.errno or 0)
            ) from error
        return
    stream = sys.stdout if options.command is None or options.transcript else sys.stderr
    unicode = (stream.encoding or "ascii").lower().startswith("utf")
    stream.writelines(f"{line}\n" for line in _transcript(exchange, options, population, unicode=unicode))
    stream.flush()


def _transcript(
    exchange: Exchange | None, options: argparse.Namespace, population: Population, *, unicode: bool
) -> Iterator[str]:
    from finwait.lab.population import PlayedExchange
    from finwait.render.transcript import render_recorded, render_transcript

    if exchange is not None:
        assert isinstance(population, PlayedExchange)
        yield from render_transcript(exchange, options.end, population.steps, unicode=unicode)
        return
    for trace in population.transcript:
        yield from render_recorded(trace, unicode=unicode)
        yield ""
    if population.spec.traffic is not None:
        text = translate(mark("while they are held: {count} SYNs a second, each from an address of its own"))
        yield text.format(count=population.spec.traffic.syns)


def _use(population: Population, options: argparse.Namespace) -> int:
    if options.command is None:
        _say_where(population, options.hold)
        _hold(population, options.hold)
        return 0
    from finwait.lab.inside import CannotRun, run_inside

    began = time.monotonic()
    try:
        code = run_inside(population, options.command)
    except CannotRun as refusal:
        from finwait.cli.output import say
        from finwait.text.escape import escape_foreign

        say(f"{escape_foreign(options.command[0])}: {refusal.reason}")
        return refusal.code
    if options.hold is not None:
        _hold(population, max(0.0, options.hold - (time.monotonic() - began)))
    return code


def _say_where(population: Population, hold: float | None) -> None:
    """Where to look, on stdout: it is what this command is asked for."""
    made = translate(mark("{count} sockets stand in the network namespace of process {pid}, made in {seconds:.1f} s"))
    if not population.sockets:
        made = translate(mark("what is left of it stands in the network namespace of process {pid}"))
    # to enter by -N takes privilege in the namespace that is around the user's own
    words = (f"finwait -N {population.pid}",) if os.geteuid() == 0 else population.enter_command("finwait")
    lines = [
        made.format(count=len(population.sockets), pid=population.pid, seconds=population.seconds),
        f"  {' '.join(words)}",
        f"  {' '.join(population.enter_command('ss', '-tan'))}",
        translate(mark("until Ctrl-C")) if hold is None else translate(mark("for {seconds:g} s")).format(seconds=hold),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _hold(population: Population, hold: float | None) -> None:
    """Wait; a holder that ends before its time ends the wait."""
    assert population.holder.stdout is not None
    select.select([population.holder.stdout], [], [], hold)
