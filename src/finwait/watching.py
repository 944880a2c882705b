"""Counts again and again: from the kernel's own tally where it can keep one, which costs no walk, else by counting anew."""

from __future__ import annotations

import time

from finwait.errors import NotPermitted, NotSupported, SourceError
from finwait.sources.census import take_census
from finwait.sources.choice import bpf_fallback, may_load_bpf
from finwait.table.snapshot import Notice
from finwait.text.messages import mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from finwait.sources.tcp_tally import Tally
    from finwait.table.request import Request
    from finwait.table.snapshot import Snapshot

CHECK_S = 60.0  # between two walks that the tally is compared with
DRIFT = mark("the running count differs from a walk over the sockets: {differences}")


def watch_counts(
    request: Request,
    every_s: float,
    *,
    count: Callable[[], Snapshot],
    source: str = "auto",
    by: tuple[str, ...] | None = ("state",),
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[Snapshot]:
    """A count every `every_s` seconds, the first at once, for ever.

    count: how to count anew. by: columns, where all states of whole namespaces are asked for, which the kernel's tally may
    answer; else None. source: bpf (where it may tally, nothing else will do), auto, or another (always anew).
    """
    tally, notice = _open(request, source, by)
    if tally is not None:
        with tally:
            notice = yield from _read(tally, request, every_s, sleep, insists=source == "bpf")
    yield from _count_anew(count, every_s, sleep, notice)


def _open(request: Request, source: str, by: tuple[str, ...] | None) -> tuple[Tally | None, Notice | None]:
    if source not in {"auto", "bpf"} or (source == "auto" and not may_load_bpf()):
        return None, None
    from finwait.sources.tcp_tally import BY, Tally

    if by not in BY:
        return None, None
    try:
        return Tally(request, by), None
    except (NotSupported, NotPermitted, SourceError) as error:
        if source == "bpf":
            raise
        return None, bpf_fallback(error)


def _count_anew(
    count: Callable[[], Snapshot], every_s: float, sleep: Callable[[float], object], notice: Notice | None
) -> Iterator[Snapshot]:
    for _ in _beats(every_s, sleep):
        snapshot = count()
        if notice is not None:
            snapshot.provenance.add_notice(notice)
        yield snapshot


def _read(
    tally: Tally, request: Request, every_s: float, sleep: Callable[[float], object], *, insists: bool
) -> Generator[Snapshot, None, Notice]:
    """Its counts until it cannot be had any more; returns why. insists: that is raised."""
    checked = time.monotonic()
    drift: Notice | None = None
    for _ in _beats(every_s, sleep):
        try:
            snapshot = tally.read()
        except (NotSupported, NotPermitted, SourceError) as error:
            if insists:
                raise
            return bpf_fallback(error)
        if time.monotonic() - checked >= CHECK_S:
            checked, drift = time.monotonic(), check(tally, request)
        if drift is not None:
            snapshot.provenance.add_notice(drift)
        yield snapshot
    raise AssertionError("beats never end")


def check(tally: Tally, request: Request) -> Notice | None:
    """What to tell where a walk finds another number than the tally has before it and after it; else None."""
    before = _by_state(tally.read(("state",)))
    walked = _by_state(take_census(request))
    after = _by_state(tally.read(("state",)))
    wrong = {
        state: walked[state]
        for state in walked
        if state != "closed"
        and not min(before[state], after[state]) <= walked[state] <= max(before[state], after[state])
    }
    if not wrong:
        return None
    text = ", ".join(f"{state} {after[state]}, {found}" for state, found in wrong.items())
    return Notice("tally_drift", DRIFT, missing=",".join(wrong), arguments={"differences": text})


def _by_state(snapshot: Snapshot) -> dict[str, int]:
    return {str(group.key[0]): group.count for group in snapshot.groups}


def _beats(every_s: float, sleep: Callable[[float], object]) -> Iterator[None]:
    """At once, and then each time that many seconds have passed; one that comes late is not made up for."""
    due = time.monotonic()
    while True:
        yield
        due = max(due + every_s, time.monotonic())
        sleep(due - time.monotonic())
