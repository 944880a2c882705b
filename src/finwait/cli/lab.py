"""`finwait lab`: real sockets in any state, in a network namespace of their own."""

from __future__ import annotations

import argparse
import select
import sys
import time

from finwait.cli.parser import CommandParser
from finwait.errors import FinwaitError, UsageError
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from finwait.lab.population import Population

DESCRIPTION = mark("Make real TCP sockets in any state, in a network namespace of their own, and run a command there.")
OWN_FAILURE = 125  # as in env(1) and timeout(1): the command's own codes are all others


class _Parser(CommandParser):
    """Its words are populations, and everything behind ``--`` is a command."""

    def format_help(self) -> str:
        """The help; a lab has no columns."""
        return argparse.ArgumentParser.format_help(self)

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
    parser = _Parser("lab", translate(DESCRIPTION))
    parser.usage = "%(prog)s [OPTIONS] STATE=N... [-- COMMAND]"
    parser.add_argument(
        "filter",
        nargs="*",
        metavar="STATE=N",
        help=translate(mark("so many sockets in that state: TIME_WAIT=150 SYN_RECV=21")),
    )
    group = parser.add_argument_group(translate(mark("population")))
    family = group.add_mutually_exclusive_group()
    family.add_argument(
        "-4", "--ipv4", dest="family", action="store_const", const=2, help=translate(mark("IPv4 (the default)"))
    )
    family.add_argument("-6", "--ipv6", dest="family", action="store_const", const=10, help=translate(mark("IPv6")))
    group.add_argument(
        "--hold",
        type=seconds,
        metavar="S",
        help=translate(mark("hold them for S seconds (default: until COMMAND ends, without one until Ctrl-C)")),
    )
    group = parser.add_argument_group(translate(mark("output")))
    group.add_argument(
        "--lang", metavar="LANG", help=translate(mark("language of messages: en or zh (default: from the locale)"))
    )
    return parser


def seconds(word: str) -> float:
    """A number of seconds, for argparse. Raises UsageError."""
    try:
        number = float(word)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 86_400:
        raise UsageError("--hold is a number of seconds up to 86400, not '{word}'", word=word)
    return number


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns COMMAND's exit code, 125 where the lab itself failed."""
    options = build_parser().parse(arguments)
    if options.command == []:
        raise UsageError("there is no command behind --")
    from finwait.lab.asked import parse_population
    from finwait.lab.population import Population

    spec = parse_population(options.filter, options.family)
    try:
        with Population(spec) as population:
            return _use(population, options)
    except FinwaitError as error:
        if options.command is None:
            raise
        error.exit_code = OWN_FAILURE
        raise


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
    lines = [
        made.format(count=len(population.sockets), pid=population.pid, seconds=population.seconds),
        f"  finwait -N {population.pid}",
        f"  nsenter -t {population.pid} -n ss -tan",
        translate(mark("until Ctrl-C")) if hold is None else translate(mark("for {seconds:g} s")).format(seconds=hold),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _hold(population: Population, hold: float | None) -> None:
    """Wait; a holder that ends before its time ends the wait."""
    assert population.holder.stdout is not None
    select.select([population.holder.stdout], [], [], hold)
