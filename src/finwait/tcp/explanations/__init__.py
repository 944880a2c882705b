"""What finwait says about states, timers, events, departures and exchanges: a file of text for each language.

Long texts stand here and not among the messages, so that a person can read and mend them as a whole, and a count opens none.
"""

from __future__ import annotations

import os

from finwait.errors import FinwaitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    Section = Mapping[str, list[str]]

_DIRECTORY = os.path.dirname(__file__)


def read_explanations(language: str) -> dict[str, Section]:
    """The sections of `language` (one of text.messages.LANGUAGES) by title: ``state close_wait``, ``timer keepalive``,
    ``exchange open``, ``events``, ``departures``. Raises FinwaitError where the file is not there.
    """  # fmt: skip
    path = os.path.join(_DIRECTORY, f"{language}.txt")
    try:
        with open(path, encoding="utf-8") as file:
            return parse_explanations(file.read())
    except OSError as error:
        raise FinwaitError("cannot read {path}: {reason}", path=path, reason=os.strerror(error.errno or 0)) from error


def parse_explanations(text: str) -> dict[str, Section]:
    """Sections of ``key: text`` lines; a key that comes several times has several texts. Raises ValueError."""
    sections: dict[str, Section] = {}
    section: dict[str, list[str]] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        if line.startswith("[") and line.endswith("]"):
            section = {}
            if sections.setdefault(line[1:-1], section) is not section:
                raise ValueError(f"line {number}: {line} stands twice")
            continue
        key, colon, said = line.partition(": ")
        if section is None or not colon or not said:
            raise ValueError(f"line {number} is no `key: text` in a section: {line!r}")
        section.setdefault(key, []).append(said)
    return sections
