"""`--record`: a recording beside the answer."""

from __future__ import annotations

from contextlib import contextmanager

from finwait.sources.archive import Recorder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def recording_to(path: str) -> Iterator[Recorder]:
    """A recorder for `path`; whatever ends the block early, even Ctrl-C, leaves no half-written file behind."""
    recorder = Recorder(path)
    try:
        yield recorder
    finally:
        recorder.abandon()
