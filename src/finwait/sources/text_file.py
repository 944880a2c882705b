"""A text file that the user names."""

from __future__ import annotations

import os

from finwait.errors import ParseError, SourceError

MOST_BYTES = 1 << 20


def read_text_file(path: str) -> str:
    """What is in it, a megabyte at most. Raises SourceError where it cannot be read, ParseError where it is no UTF-8."""
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES)
    except OSError as error:
        raise SourceError("cannot read {path}: {reason}", path=path, reason=os.strerror(error.errno or 0)) from error
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ParseError("{path} is no text in UTF-8", path=path, offset=error.start) from error
