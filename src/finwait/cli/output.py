"""Where answers go: data to stdout, talk to stderr."""

from __future__ import annotations

import sys

from finwait.text.escape import escape_foreign
from finwait.text.messages import localize, mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from finwait.errors import FinwaitError
    from finwait.table.snapshot import Cell, Notice


def write_lines(lines: Iterable[str]) -> None:
    """Write `lines` to stdout, each ended."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def write_chunks(chunks: Iterable[bytes]) -> None:
    """Write pieces of bytes to stdout as they come."""
    sys.stdout.flush()
    binary = sys.stdout.buffer
    for chunk in chunks:
        binary.write(chunk)
    binary.flush()


def write_json(document: object, *, indent: int | None = None) -> None:
    """Write one JSON document and a newline to stdout."""
    from json import dumps

    sys.stdout.write(dumps(document, indent=indent) + "\n")


def write_csv(rows: Iterable[Sequence[Cell]]) -> None:
    """Write `rows` to stdout as RFC 4180 has it, lines ended by a newline alone."""
    from csv import writer

    writer(sys.stdout, lineterminator="\n").writerows(rows)


def say(line: str) -> None:
    """One line of talk on stderr."""
    sys.stderr.write(f"finwait: {line}\n")


def say_notices(notices: Iterable[Notice]) -> None:
    """Tell on stderr what an answer in plain text cannot hold."""
    from finwait.render.documents import message_of

    sys.stdout.flush()  # the answer stands before what is said of it
    for notice in notices:
        line = escape_foreign(message_of(notice), 1000)
        if notice.remedy is not None:
            line = translate(mark("{message} ({remedy})")).format(message=line, remedy=translate(notice.remedy))
        say(line)


def say_error(error: FinwaitError) -> None:
    """The one line of an error, in the user's language, foreign text escaped."""
    say(escape_foreign(localize(error, escape_foreign), 2000))
