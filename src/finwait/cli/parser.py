"""One ArgumentParser a command, and the options that commands share. Errors are UsageError, one line each."""

from __future__ import annotations

import argparse
import os
import sys

from finwait.errors import UsageError
from finwait.table.request import Request, Roots
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import NoReturn


argparse._ = translate  # type: ignore[attr-defined]  # its own words in our language, without a search for catalogues
mark("usage: "), mark("options"), mark("positional arguments"), mark("show this help message and exit")


# Options that only one command has, told to whoever gives them to another.
OPTIONS_OF_ONE = {
    "count": ("--by", "--top", "--watch"),
    "diagram": ("--rates",),
    "trace": ("--lifetimes", "--summary", "--every", "--min-time", "--no-owners", "--buffer"),
    "list": ("-o", "-i", "-m", "-l", "-p", "-a", "-n", "-t", "--options", "--info", "--memory", "--listening", "--processes",
             "--all", "--numeric", "--tcp", "--columns", "--limit", "--ghosts"),
    "explain": ("--markdown", "--no-counts"),
}  # fmt: skip
# Options that take the next word, of any command.
OPTIONS_WITH_VALUE = frozenset({
    "-N", "--net", "--source", "--read", "--record", "--proc", "--sys", "--cgroup", "--by", "--top", "--sort", "--style",
    "--color", "--lang", "--columns", "--limit", "--every", "--min-time", "--buffer", "--for", "--count", "--watch",
    "--rates", "--format",
})  # fmt: skip


_WITH_NUMBER = frozenset({"--top", "--limit", "--every", "--min-time", "--buffer", "--for", "--count", "--rates"})
LEAST_HELP_WIDTH = 20
MOST_SECONDS = 86_400.0


class CommandParser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError, takes options between filter words and knows no abbreviations."""

    def __init__(self, command: str, description: str, words: str = "") -> None:
        """words: what the usage line says behind the options; the options themselves would be eight lines."""
        super().__init__(
            prog=f"finwait {command}",
            description=description,
            usage=f"%(prog)s [OPTIONS] {words}".rstrip(),
            allow_abbrev=False,
            formatter_class=_help_formatter,
        )
        self.command = command

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong as UsageError."""
        raise UsageError(
            "{detail}; 'finwait {command} --help' lists what there is", detail=message, command=self.command
        )

    def print_help(self, file: object = None) -> None:
        """Write the help to stdout; argparse itself would not notice that it cannot be written."""
        sys.stdout.write(self.format_help())

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The options and ``filter`` words of `arguments`; everything behind the first ``--`` is filter."""
        words = list(arguments)
        behind: list[str] = []
        if "--" in words:
            at = words.index("--")
            words, behind = words[:at], words[at + 1 :]
        options, unknown = self.parse_known_intermixed_args(_joined(words))
        if unknown:
            raise self._unknown_option(unknown[0])
        options.filter = [*options.filter, *behind]
        return options

    def _unknown_option(self, word: str) -> UsageError:
        from difflib import get_close_matches

        name = word.partition("=")[0]
        for command, options in OPTIONS_OF_ONE.items():
            if command != self.command and (name in options or (name[:2] in options and not name.startswith("--"))):
                return UsageError("{word} is an option of 'finwait {command}'", word=name, command=command)
        known = list(self._option_string_actions)
        near = get_close_matches(name, known, n=1, cutoff=0.6)
        if not near:
            return UsageError(
                "unknown option {word}; 'finwait {command} --help' lists what there is", word=name, command=self.command
            )
        return UsageError("unknown option {word}; did you mean {nearest}?", word=name, nearest=near[0])


class FilterParser(CommandParser):
    """Of a command whose words are a filter. columns: that it can test, all for none. example: a filter that uses some."""

    def __init__(
        self,
        command: str,
        description: str,
        columns: Collection[str] = (),
        example: str = "state established sport = :22 recv-q > 0",
    ) -> None:
        super().__init__(command, description, "[FILTER]")
        self.columns = columns
        self.add_argument(
            "filter",
            nargs="*",
            metavar="FILTER",
            help=translate(mark("ss's filter language, with finwait's columns: {example}")).format(example=example),
        )

    def format_help(self) -> str:
        """The help, and behind it the columns by name."""
        from textwrap import fill

        from finwait.table.columns import COLUMNS

        names = fill(
            " ".join(column.name for column in COLUMNS if not self.columns or column.name in self.columns),
            _help_width(),
            initial_indent="  ",
            subsequent_indent="  ",
        )
        return f"{super().format_help()}\n{translate(mark('columns'))}:\n{names}\n"


class OptionsParser(CommandParser):
    """Of a command that takes no words."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(command, description)
        self.set_defaults(filter=[])

    def _unknown_option(self, word: str) -> UsageError:
        return super()._unknown_option(word) if word.startswith("-") and word != "-" else self._no_option(word)

    def _no_option(self, word: str) -> UsageError:
        return UsageError("'finwait {command}' takes options only, not '{word}'", command=self.command, word=word)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The options of `arguments`. Raises UsageError for anything else."""
        options = super().parse(arguments)
        if options.filter:  # behind `--`
            raise self._no_option(options.filter[0])
        return options


def _joined(words: Sequence[str]) -> list[str]:
    """`--sort -column` and `--for -1` as one word: argparse would take the value for an option; and `--watch` without its number,
    where a word of a filter follows: argparse would take that for the number.
    """  # fmt: skip
    joined: list[str] = []
    for word in words:
        before = joined[-1] if joined else ""
        is_less = word[:1] == "-" and word[1:2].isdigit() and before in _WITH_NUMBER
        if is_less or (before == "--sort" and word.startswith("-")) or (before == "--watch" and word[:1].isdigit()):
            joined[-1] = f"{before}={word}"
        elif before == "--watch" and not word.startswith("-"):
            joined[-1:] = [word, "--watch"]
        else:
            joined.append(word)
    return joined


def _help_formatter(prog: str) -> argparse.HelpFormatter:
    """With the width told: argparse would import shutil for it, for every option that is declared."""
    return argparse.RawDescriptionHelpFormatter(prog, width=_help_width())


def _help_width() -> int:
    columns = os.environ.get("COLUMNS", "")
    if columns.isascii() and columns.isdigit() and int(columns[:4]) > 0:
        return max(min(int(columns[:4]), 120) - 2, LEAST_HELP_WIDTH)
    try:
        return max(min(os.get_terminal_size().columns, 120) - 2, LEAST_HELP_WIDTH)
    except OSError:
        return 98


def add_places(parser: CommandParser) -> argparse._ArgumentGroup:
    """Which namespaces and families, by which source, where the host's file systems are."""
    group = parser.add_argument_group(translate(mark("where to look")))
    family = group.add_mutually_exclusive_group()
    family.add_argument(
        "-4",
        "--ipv4",
        dest="family",
        action="store_const",
        const=2,
        help=translate(mark("sockets of family AF_INET only")),
    )
    family.add_argument(
        "-6",
        "--ipv6",
        dest="family",
        action="store_const",
        const=10,
        help=translate(mark("sockets of family AF_INET6 only")),
    )
    group.add_argument(
        "-N",
        "--net",
        dest="netns",
        action="append",
        default=[],
        metavar="NETNS",
        help=translate(mark("a network namespace: its ip-netns name, a process id, or a path; may be repeated")),
    )
    group.add_argument(
        "--all-netns", action="store_true", help=translate(mark("every network namespace that can be found"))
    )
    group.add_argument(
        "--source",
        choices=("auto", "bpf", "sock_diag", "proc"),
        default="auto",
        help=translate(mark("how to read (default: the best that answers)")),
    )
    group.add_argument(
        "--proc", metavar="DIR", default="/proc", help=translate(mark("where the host's /proc is mounted"))
    )
    group.add_argument("--sys", metavar="DIR", default="/sys", help=translate(mark("where the host's /sys is mounted")))
    group.add_argument("--cgroup", metavar="DIR", help=translate(mark("where the host's cgroup v2 tree is mounted")))
    return group


def add_read(group: argparse._ArgumentGroup) -> None:
    """What to read instead of this host."""
    group.add_argument(
        "--read",
        metavar="FILE",
        help=translate(
            mark("read a recording or pasted text of ss or netstat instead of this host; - is standard input")
        ),
    )


def add_source_options(parser: CommandParser) -> None:
    """Where the connections come from, and where to keep what was read."""
    group = add_places(parser)
    add_read(group)
    group.add_argument(
        "--record",
        metavar="FILE",
        help=translate(
            mark("also write what was read: FILE.diag (ss reads it) or FILE.finwait (with host, times, namespaces)")
        ),
    )


FORMS = {
    "json": mark("one JSON document"),
    "ndjson": mark("JSON, one line each"),
    "csv": mark("comma-separated values"),
}


def add_forms(group: argparse._ArgumentGroup, *names: str) -> argparse._MutuallyExclusiveGroup:
    """What machines read: options that exclude each other, and any that is added to them. names: of FORMS, all for none."""
    form = group.add_mutually_exclusive_group()
    for name in names or FORMS:
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, help=translate(FORMS[name]))
    return form


def add_header(group: argparse._ArgumentGroup) -> None:
    """Whether a table has titles."""
    group.add_argument(
        "-H", "--no-header", dest="header", action="store_false", help=translate(mark("no line of titles"))
    )


def add_color(group: argparse._ArgumentGroup) -> None:
    """Whether text has colours."""
    group.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help=translate(mark("colour (default: on a terminal)")),
    )


def add_language(group: argparse._ArgumentGroup) -> None:
    """Which language is spoken."""
    group.add_argument(
        "--lang", metavar="LANG", help=translate(mark("language of messages: en or zh (default: from the locale)"))
    )


def add_output_options(parser: CommandParser, styles: tuple[str, ...]) -> None:
    """How the answer is written."""
    group = parser.add_argument_group(translate(mark("output")))
    form = add_forms(group)
    form.add_argument(
        "--style", choices=styles, default="finwait", help=translate(mark("whose text to print (default: finwait)"))
    )
    add_header(group)
    add_color(group)
    add_language(group)


def request_of(options: argparse.Namespace) -> Request:
    """What the options of `add_source_options` ask of a source."""
    roots = Roots(options.proc, options.sys, options.cgroup)
    return Request(family=options.family, netns=options.netns, all_netns=options.all_netns, roots=roots)


def whole_number(word: str) -> int:
    """A number from 1 on, for argparse. Raises UsageError."""
    digits = word.lstrip("0")[:18] if word.isascii() and word.isdigit() else ""  # more is more than there can be
    if not digits:
        raise UsageError("'{word}' is not a whole number from 1 on", word=word)
    return int(digits)


def pause(word: str) -> float:
    """A time between two counts, for argparse. Raises UsageError."""
    found = seconds(word)
    if not found:
        raise UsageError("'{word}' is no number of seconds above 0", word=word)
    return found


def seconds(word: str) -> float:
    """A time for ``--for``, for argparse. Raises UsageError."""
    try:
        found = float(word)
    except ValueError:
        found = -1.0
    if not 0 <= found <= MOST_SECONDS:
        raise UsageError("'{word}' is no number of seconds from 0 to 86400", word=word)
    return found
