"""Signals that end a command only where nothing is half done."""

from __future__ import annotations

import time
from signal import SIG_DFL, SIGHUP, SIGINT, SIGTERM, default_int_handler, getsignal, raise_signal, signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn


class WhileAsleep:
    """Within the block the first Ctrl-C, SIGTERM or SIGHUP is a KeyboardInterrupt of `sleep` or `until`, now or at the next call,
    so that what was read is written too; a second one interrupts whatever runs. SIGTERM and SIGHUP end the process behind the block.
    What is ignored stays so.
    """  # fmt: skip

    def __init__(self) -> None:
        self._asleep = False
        self._came: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> WhileAsleep:
        for number, handler in ((SIGINT, default_int_handler), (SIGTERM, SIG_DFL), (SIGHUP, SIG_DFL)):
            if getsignal(number) is handler:
                self._before[number] = signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal(number, handler)  # type: ignore[arg-type]
        if self._came in {SIGTERM, SIGHUP}:
            raise_signal(self._came)

    def _note(self, number: int, _: object) -> None:
        again = self._came is not None
        self._came = self._came or number
        if self._asleep or again:
            self._interrupt()

    def _interrupt(self) -> NoReturn:
        self._asleep = False
        raise KeyboardInterrupt

    def _fall_asleep(self) -> None:
        self._asleep = True
        if self._came is not None:
            self._interrupt()

    def sleep(self, seconds: float) -> None:
        """Sleep so long."""
        self._fall_asleep()
        time.sleep(seconds)
        self._asleep = False

    def until(self, is_ready: Callable[[], object]) -> None:
        """Until `is_ready`, which waits a moment itself, says so."""
        self._fall_asleep()
        while not is_ready():
            pass
        self._asleep = False
