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


def read_line(path: str) -> str | None:
    """The text of a file of one line, as those of /proc/sys; None where it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return None


def cannot_write(path: str, error: OSError | ValueError) -> SourceError:
    """What to raise; a ValueError is of a path with a zero byte."""
    return _failure("cannot write {path}: {reason}", path, error)


def cannot_read(path: str, error: OSError | ValueError) -> SourceError:
    """What to raise."""
    return _failure("cannot read {path}: {reason}", path, error)


def reason_of(error: OSError | ValueError) -> str:
    """What the system says of `error`; some errors of Python's own have no number."""
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number else str(error)


def _failure(message_id: str, path: str, error: OSError | ValueError) -> SourceError:
    return SourceError(message_id, path=path, reason=reason_of(error))
