"""Ctrl-C that comes only where nothing is half done."""

from __future__ import annotations

import time
from signal import SIGINT, default_int_handler, getsignal, signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


class WhileAsleep:
    """Within the block the first Ctrl-C is a KeyboardInterrupt of `sleep`, now or at its next call, so that what was read is
    written too; a second one interrupts whatever runs. Where Ctrl-C is ignored it stays so.
    """  # fmt: skip

    def __init__(self) -> None:
        self._asleep = False
        self._came = False

    def __enter__(self) -> WhileAsleep:
        self._replaced = getsignal(SIGINT) is default_int_handler
        if self._replaced:
            signal(SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._replaced:
            signal(SIGINT, default_int_handler)

    def _note(self, *_: object) -> None:
        if self._asleep or self._came:
            self._interrupt()
        self._came = True

    def _interrupt(self) -> NoReturn:
        self._asleep = False
        raise KeyboardInterrupt

    def sleep(self, seconds: float) -> None:
        """Sleep so long."""
        self._asleep = True
        if self._came:
            self._interrupt()
        time.sleep(seconds)
        self._asleep = False
