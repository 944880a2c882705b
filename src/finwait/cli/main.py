"""The entry point: language, command, errors. Every heavy import waits until a command asks for it."""

from __future__ import annotations

import os
import sys

from finwait.errors import FinwaitError, UsageError
from finwait.text.messages import language_of_environment, parse_language, use_language

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = ("count", "list", "explain", "diagram", "lab", "doctor", "ports", "trace", "selftest", "capabilities")
_MODULE = {"help": "overview"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run finwait; returns the exit code. SIGPIPE ends the process, Ctrl-C gives 130."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _die_by_sigpipe()
        _open_streams()
        code = _run(words)
        sys.stdout.flush()
    except FinwaitError as error:
        return _say(error)
    except KeyboardInterrupt:
        _forget_output()  # whoever reads it may have stopped reading
        return 130
    except OSError as error:
        _forget_output()
        return _say(FinwaitError("the answer could not be written: {reason}", reason=os.strerror(error.errno or 0)))
    return code


def _die_by_sigpipe() -> None:
    from signal import SIG_DFL, SIGPIPE, signal

    signal(SIGPIPE, SIG_DFL)


def _open_streams() -> None:
    """Raises FinwaitError where standard output is closed. What its encoding lacks becomes escapes."""
    if sys.stderr is None:  # it was closed; nobody hears what is said
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        raise FinwaitError("standard output is closed")
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _forget_output() -> None:
    """Let what is still to be written to stdout go nowhere: at its end the interpreter would wait for it, or complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _say(error: FinwaitError) -> int:
    from finwait.cli.output import say_error

    say_error(error)
    return error.exit_code


def _run(words: list[str]) -> int:
    use_language(_language(words))
    command, rest = _choose_command(words)
    if command == "version":
        from finwait.version import __version__

        sys.stdout.write(f"finwait {__version__}\n")
        return 0
    from importlib import import_module

    module = import_module(f"finwait.cli.{_MODULE.get(command, command)}")
    try:
        return int(module.run(rest))
    except SystemExit as ended:  # argparse, after --help
        return int(ended.code or 0)


def _language(words: Sequence[str]) -> str:
    """What ``--lang`` says, looked up before anything is parsed so that every error speaks it; else the environment."""
    for index, word in enumerate(words):
        if word == "--":
            break
        if word.startswith("--lang="):
            return parse_language(word[7:])
        if word == "--lang" and index + 1 < len(words):
            return parse_language(words[index + 1])
    return language_of_environment(os.environ)


def _choose_command(words: list[str]) -> tuple[str, list[str]]:
    """The command and its arguments. A first word that is no command means count."""
    first = words[0] if words else ""
    if first in COMMANDS:
        return first, words[1:]
    if first in {"-h", "--help", "help"}:
        return "help", words[1:]
    if first in {"-V", "--version"}:
        return "version", []
    if first and not first.startswith("-"):
        _check_misspelt_command(first)
        return "count", words
    return _command_behind_options(words)


def _command_behind_options(words: list[str]) -> tuple[str, list[str]]:
    """A command that stands behind options is still the command: ``finwait -N web list``."""
    from finwait.cli.parser import OPTIONS_WITH_VALUE

    before = ""
    for index, word in enumerate(words):
        if word == "--" or (not word.startswith("-") and before not in OPTIONS_WITH_VALUE and word not in COMMANDS):
            break
        if word in COMMANDS and before not in OPTIONS_WITH_VALUE:
            return word, [*words[:index], *words[index + 1 :]]
        before = word
    return "count", words


def _check_misspelt_command(word: str) -> None:
    from finwait.query.words import is_filter_word

    if is_filter_word(word):
        return
    from difflib import get_close_matches

    near = get_close_matches(word, COMMANDS, n=1, cutoff=0.7)
    if near:
        raise UsageError("unknown command '{word}'; did you mean {nearest}?", word=word, nearest=near[0])
