"""Every exception that finwait raises on purpose.

An exception carries a message id (the English text, with ``{name}`` places) and the arguments for those places, never
translated text: the command line translates it, a library user can match on it. The class carries the exit code of
docs/exit-codes.md. Arguments may be foreign strings; whoever shows them on a terminal escapes them first
(`finwait.text.escape`).
"""

from __future__ import annotations


class Phrase:
    """A part of a message: itself a message id with arguments, translated where the whole is."""

    __slots__ = ("arguments", "message_id")

    def __init__(self, message_id: str, **arguments: object) -> None:
        self.message_id = message_id
        self.arguments = arguments

    def __str__(self) -> str:
        return self.message_id.format(**self.arguments)


class FinwaitError(Exception):
    """Base of all. `message_id` is a gettext message id, `arguments` fill its ``{}`` places; a Phrase may be among them."""

    exit_code = 1

    def __init__(self, message_id: str, **arguments: object) -> None:
        super().__init__(message_id, arguments)
        self.message_id = message_id
        self.arguments = arguments

    def __str__(self) -> str:
        return self.message_id.format(**self.arguments)


class UsageError(FinwaitError):
    """A flag, a word or a filter that does not mean anything; names the nearest right word and points at the place."""

    exit_code = 2


class ParseError(FinwaitError):
    """Input is not what its format says. `offset` is in bytes (or characters of text), `excerpt` is what stands there."""

    exit_code = 3

    def __init__(self, message_id: str, *, offset: int = 0, excerpt: str = "", **arguments: object) -> None:
        super().__init__(message_id, offset=offset, excerpt=excerpt, **arguments)
        self.offset = offset
        self.excerpt = excerpt


class NotSupported(FinwaitError):
    """A probe said no; names the feature and the least kernel that has it."""

    exit_code = 4


class NotPermitted(FinwaitError):
    """EACCES or EPERM; names the capability that would help."""

    exit_code = 5


class SourceError(FinwaitError):
    """The kernel refused, or a file or a namespace is not there; names errno and request."""

    exit_code = 6
