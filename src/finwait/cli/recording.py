"""`--record`: a recording beside the answer."""

from __future__ import annotations

from contextlib import contextmanager
from signal import SIG_IGN, SIGHUP, SIGPIPE, SIGTERM, raise_signal, signal

from finwait.sources.archive import Recorder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class _Ended(BaseException):
    """A signal that ends the process has come."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def recording_to(path: str) -> Iterator[Recorder]:
    """A recorder for `path`; whatever ends the block early leaves no half-written file behind: an error, Ctrl-C, a closed
    pipe, SIGTERM. The last two end the process by their signal after that.
    """  # fmt: skip
    recorder = Recorder(path)
    before = {number: signal(number, _raise_ended) for number in (SIGTERM, SIGHUP)}
    before[SIGPIPE] = signal(SIGPIPE, SIG_IGN)  # a write to the closed pipe then raises BrokenPipeError
    if before[SIGHUP] is SIG_IGN:  # nohup
        signal(SIGHUP, SIG_IGN)
    ended_by: int | None = None
    try:
        yield recorder
    except BrokenPipeError:
        ended_by = SIGPIPE
    except _Ended as ended:
        ended_by = ended.number
    finally:
        for number in before:
            signal(number, SIG_IGN)
        recorder.abandon()
        for number, handler in before.items():
            signal(number, handler)
    if ended_by is not None:
        raise_signal(ended_by)


def _raise_ended(number: int, _: object) -> None:
    raise _Ended(number)
