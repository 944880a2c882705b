"""Manual pages: options from the parsers, prose and exit codes from the pages of docs.

Written here and not by argparse-manpage, which knows no sections of one's own and puts a date into the page.
"""

from __future__ import annotations

import re
from pathlib import Path

from finwait.cli.overview import EXAMPLES
from finwait.version import __version__
from scripts.commands import COMMANDS, SUMMARIES, build_parser, option_groups, takes_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Action
    from collections.abc import Iterator

DIRECTORY = Path("packaging/man")
PROSE = Path("docs/overhead-and-caveats.md")
COMMAND_PAGE = Path("docs/commands.md")
FILTER_PAGE = Path("docs/filters.md")
EXIT_PAGE = Path("docs/exit-codes.md")
FILES = (
    ("/proc/net/tcp, /proc/net/tcp6", "read where sock_diag does not answer, or with **--source proc**"),
    ("/proc/net/sockstat", "timewait sockets, where **finwait count --watch** reads the kernel's tally"),
    ("/run/netns/NAME", "network namespaces that ip-netns(8) knows"),
    ("/etc/services", "names of ports in filters"),
    ("/proc/sys/net", "settings that **finwait explain** shows"),
)
ENVIRONMENT = (
    (
        "LC_ALL, LC_MESSAGES, LANG",
        "language of messages: Chinese where it begins with zh, else English; **--lang** goes before",
    ),
    ("NO_COLOR", "no colour, unless **--color always** asks for it"),
    ("COLUMNS", "width of help texts"),
)
OVERVIEW = (
    "finwait counts and lists the TCP connections of a Linux host by state, and tells what each state waits for. It reads",
    "the kernel's sock_diag, needs no privilege for the own network namespace, and changes nothing. A first word that is no",
    "command means count.",
)
MORE_EXAMPLES = (
    ("finwait count --watch 1 --csv", "the counts of every second, with their time"),
    ("finwait diagram", "the state diagram with the counts of this host"),
    ("finwait diagram --rates 10 --format svg", "the same with the changes a second on its arrows"),
    ("finwait doctor", "what is wrong, with evidence and what helps"),
    ("finwait explain transition fin-wait-2 closed", "everything that leads from one state to another"),
    ("finwait explain why rcv_rst", "what a word of the column WHY means"),
    ("finwait lab CLOSE_WAIT=23 -- finwait", "count 23 connections in CLOSE-WAIT, in a namespace of their own"),
    ("finwait ports", "how much of the ephemeral range each destination has used"),
    ("finwait trace sport = :443", "every change of the connections of port 443"),
    ("finwait trace --lifetimes --min-time 5", "whole connections of five seconds or more, at their end"),
    ("finwait trace --summary --every 10 --by listener", "changes and times of each listening port, every ten seconds"),
    ("finwait trace --record changes.fwt --for 60", "keep the changes of a minute"),
    ("finwait trace --read changes.fwt --summary state time-wait", "and sum them up later"),
    ("finwait selftest", "whether finwait, ss and netstat agree here"),
)
SEE_ALSO = "ss(8), netstat(8), tcp(7), sock_diag(7), network_namespaces(7), ip-netns(8)"
_MARKUP = re.compile(r"\*\*(.+?)\*\*|`(.+?)`|\[([^]]+)\]\(([^)#]+)[^)]*\)")


def generate(root: Path, drafts: dict[Path, str]) -> dict[Path, str]:
    """The pages by path. `drafts` go before files."""

    def read(page: Path) -> str:
        return drafts.get(page) or (root / page).read_text(encoding="utf-8")

    sections = {**_sections(read(PROSE)), **_sections(read(COMMAND_PAGE)), **_sections(read(FILTER_PAGE))}
    sections["Exit codes", ""] = read(EXIT_PAGE).splitlines()
    pages = {DIRECTORY / f"finwait-{name}.1": _command_page(name, sections) for name in COMMANDS}
    return {DIRECTORY / "finwait.1": _overview_page(sections), **pages}


def _sections(text: str) -> dict[tuple[str, str], list[str]]:
    """The lines below each ``## TITLE`` (up to what is generated) and ``### SUBTITLE``, by title and subtitle."""
    found: dict[tuple[str, str], list[str]] = {}
    title = subtitle = ""
    for line in text.splitlines():
        if line.startswith("## "):
            title, subtitle = line.removeprefix("## ").removeprefix("finwait "), ""
        elif line.startswith("### "):
            subtitle = line.removeprefix("### ")
        elif line.startswith("<!-- generated"):
            title = ""
        elif title:
            found.setdefault((title, subtitle), []).append(line)
    return found


# -- roff


def _escape(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped


def _inline(text: str) -> str:
    """Markdown's bold, code and links as roff; a link names the page."""
    parts, at = [], 0
    for match in _MARKUP.finditer(text):
        parts += [_escape(text[at : match.start()])]
        bold = match[1] or match[2]
        parts += [f"\\fB{_escape(bold)}\\fR" if bold else _escape(f"{match[3]} (docs/{match[4]})")]
        at = match.end()
    line = "".join([*parts, _escape(text[at:])])
    return "\\&" + line if line.startswith((".", "'")) else line


def _paragraphs(lines: list[str] | tuple[str, ...]) -> Iterator[str]:
    """Markdown's paragraphs, bullets and fences as roff."""
    code = False
    fresh = True
    for line in lines:
        if line.startswith("```"):
            code = not code
            yield from ([".PP", ".RS 4", ".nf"] if code else [".fi", ".RE"])
            fresh = not code
        elif code:
            yield _escape(line) if line else "\\&"
        elif not line.strip():
            fresh = True
        elif line.startswith("- "):
            yield from (".IP \\(bu 2", _inline(line.removeprefix("- ")))
            fresh = False
        else:
            if fresh:
                yield ".PP"
            yield _inline(line.strip())
            fresh = False


def _section(title: str, *lines: str) -> list[str]:
    body = [line for line in lines if line]
    return [f".SH {title}", *(body[1:] if body and body[0] == ".PP" else body)]


def _head(name: str) -> list[str]:
    return [
        '.\\" Generated by scripts/regenerate.py.',
        f'.TH {name.upper()} 1 "" "finwait {__version__}" "User Commands"',
    ]


def _page(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def _invocation(action: Action) -> str:
    value = "" if action.nargs == 0 else " " + _value(action)
    return ", ".join(f"\\fB{_escape(option)}\\fR{value}" for option in action.option_strings)


def _value(action: Action) -> str:
    if action.choices:
        return "|".join(_escape(str(choice)) for choice in action.choices)
    return f"\\fI{_escape(str(action.metavar or action.dest.upper()))}\\fR"


def _options(command: str) -> Iterator[str]:
    for title, actions in option_groups(build_parser(command)):
        yield f".SS {title.capitalize()}"
        for action in actions:
            yield from (".TP", _invocation(action), _escape(action.help or ""))


def _exit_status(table: list[str]) -> Iterator[str]:
    """The rows of docs/exit-codes.md: | code | exception | meaning |."""
    for line in table:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0].isdigit():
            yield from (".TP", cells[0], _inline(cells[2]))


def _tagged(entries: tuple[tuple[str, str], ...]) -> Iterator[str]:
    for name, meaning in entries:
        yield from (".TP", f"\\fI{_escape(name)}\\fR", _inline(meaning))


def _examples(command: str | None) -> Iterator[str]:
    for line, meaning in (*EXAMPLES, *(() if command is None else MORE_EXAMPLES)):
        second = line.split()[1] if " " in line else "count"
        name = second if second in COMMANDS else "count"
        if command is None or name == command:
            yield from (".TP", f"\\fB{_escape(line)}\\fR", _inline(meaning))


def _see_also(*others: str) -> str:
    names = ", ".join([*(f"\\fBfinwait{'-' + name if name else ''}\\fR(1)" for name in others)])
    return f"{names}, {SEE_ALSO}".replace("-", "\\-")


def _synopsis(command: str) -> list[str]:
    parser = build_parser(command)
    behind = _escape((parser.usage or "").partition("[OPTIONS]")[2])
    words = " [\\fIFILTER\\fR]" if takes_filter(parser) else behind
    lines = [f"\\fBfinwait {command}\\fR [\\fIOPTIONS\\fR]{words}"]
    return [*lines, ".br", "\\fBfinwait\\fR [\\fIOPTIONS\\fR] [\\fIFILTER\\fR]"] if command == "count" else lines


def _command_page(command: str, prose: dict[tuple[str, str], list[str]]) -> str:
    others = [name for name in COMMANDS if name != command]
    filters = _section("FILTER", *_paragraphs(prose["In short", ""])) if takes_filter(build_parser(command)) else []
    return _page([
        *_head(f"finwait-{command}"),
        *_section("NAME", f"finwait\\-{command} \\- {_escape(SUMMARIES[command])}"),
        *_section("SYNOPSIS", *_synopsis(command)),
        *_section("DESCRIPTION", *_paragraphs(prose[command, ""])),
        *_section("OPTIONS", *_options(command)),
        *filters,
        *_section("EXIT STATUS", *_exit_status(prose["Exit codes", ""])),
        *_section("OVERHEAD", *_paragraphs(prose[command, "Overhead"])),
        *_section("CAVEATS", *_paragraphs(prose[command, "Caveats"])),
        *_section("FILES", *_tagged(FILES)),
        *_section("EXAMPLES", *_examples(command)),
        *_section("SEE ALSO", _see_also("", *others)),
    ])  # fmt: skip


def _overview_page(prose: dict[tuple[str, str], list[str]]) -> str:
    commands = [part for name in COMMANDS for part in (".TP", f"\\fBfinwait\\-{name}\\fR(1)", _escape(SUMMARIES[name]))]
    return _page([
        *_head("finwait"),
        *_section("NAME", "finwait \\- what are your TCP connections waiting for?"),
        *_section("SYNOPSIS", "\\fBfinwait\\fR [\\fICOMMAND\\fR] [\\fIOPTIONS\\fR] [\\fIFILTER\\fR]", ".br",
                  "\\fBfinwait \\-\\-help\\fR | \\fB\\-\\-version\\fR"),
        *_section("DESCRIPTION", *OVERVIEW),
        *_section("COMMANDS", *commands),
        *_section("FILTER", "See \\fBfinwait\\-count\\fR(1)."),
        *_section("ENVIRONMENT", *_tagged(ENVIRONMENT)),
        *_section("EXIT STATUS", *_exit_status(prose["Exit codes", ""])),
        *_section("FILES", *_tagged(FILES)),
        *_section("EXAMPLES", *_examples(None)),
        *_section("SEE ALSO", _see_also(*COMMANDS)),
    ])  # fmt: skip
