"""A file, a pipe or standard input, to be read from its begin to its end."""

from __future__ import annotations

import errno
import os
import sys
from io import BufferedReader, RawIOBase
from select import POLLIN, poll

from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    Until = Callable[[Callable[[], object]], None]

STANDARD_INPUT = mark("standard input")
_STANDARD_INPUT_PATH = "-"
_LISTEN_MS = 200


def wait(is_ready: Callable[[], object]) -> None:
    """Until `is_ready`, which waits a moment itself, says so."""
    while not is_ready():
        pass


class _Pipe(RawIOBase):
    """A pipe whose reader hears signals at any time.

    CPython looks for them between two bytecodes and where read(2) was interrupted. One that comes while its BufferedReader
    copies what it has is heard after the next read(2), which waits for the writer.
    """

    def __init__(self, file: BinaryIO, until: Until) -> None:
        self._file = file
        self._until = until
        self._incoming = poll()
        self._incoming.register(file.fileno(), POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        while True:
            self._until(lambda: self._incoming.poll(_LISTEN_MS))
            try:
                return os.readv(self._file.fileno(), [buffer])  # type: ignore[list-item]
            except BlockingIOError:  # another reader was faster
                continue

    def close(self) -> None:
        self._file.close()
        super().close()


def open_input(path: str, until: Until = wait) -> BinaryIO:
    """The file at `path` (``-``: standard input), at the byte where it stands. until: waits as `wait` does. Raises OSError, and
    ValueError of a path with a zero byte.
    """  # fmt: skip
    if path == _STANDARD_INPUT_PATH and sys.stdin is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    file: BinaryIO = (
        sys.stdin.buffer if path == _STANDARD_INPUT_PATH else open(path, "rb")  # noqa: SIM115 - the reader closes it
    )
    return file if file.seekable() else BufferedReader(_Pipe(file, until))


def name_of(path: str) -> str:
    """What messages call it."""
    return translate(STANDARD_INPUT) if path == _STANDARD_INPUT_PATH else path
