"""What happened between two moments: transitions and times in states, as text and as JSON."""

from __future__ import annotations

import time

from finwait.render.change_lines import TRACE_SCHEMA
from finwait.render.documents import csv_cell
from finwait.tcp.state import LIFE_ORDER
from finwait.text.escape import escape_foreign
from finwait.text.messages import mark, translate
from finwait.text.timestamp import format_time
from finwait.text.width import pad_left, pad_right

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from finwait.render.style import Style
    from finwait.table.change import Part, Summary, Times, Totals
    from finwait.table.snapshot import Cell
    from finwait.tcp.state import TcpState

PERCENTS = (50, 90, 99)


def render_summary(summary: Summary, style: Style, *, with_netns: bool = False) -> Iterator[str]:
    """Lines. with_netns: name the namespace of each part."""
    clock = [time.strftime("%H:%M:%S", time.localtime(at // 1_000_000_000)) for at in (summary.from_ns, summary.to_ns)]
    line = translate(mark("{begin} to {end}, {seconds:.1f} seconds"))
    yield style.paint(line.format(begin=clock[0], end=clock[1], seconds=summary.seconds), "bold")
    if not summary.totals:
        yield translate(mark("no connection has changed its state"))
    for totals in summary.totals:
        heading = _heading(totals, with_netns=with_netns)
        if heading:
            yield ""
            yield style.paint(heading, "bold")
        yield from _transitions(totals, summary.seconds, style)
        yield from _times(totals, style)


def _heading(totals: Totals, *, with_netns: bool) -> str:
    """Of which namespace the sums are, and of which part of it; nothing where there is only one."""
    if totals.netns is None:
        return translate(mark("other network namespaces, listeners or processes"))
    parts = [escape_foreign(totals.netns.label)] if with_netns else []
    if totals.of is not None:
        parts.append(_part_text(totals.of))
    return ", ".join(parts)


def _part_text(part: Part) -> str:
    if part.by == "listener":
        return (
            translate(mark("from no listener"))
            if part.number is None
            else translate(mark("listener at port {port}")).format(port=part.number)
        )
    if part.number is None:
        return translate(mark("process not known"))
    return translate(mark("{process}, process {pid}")).format(process=escape_foreign(part.name or "?"), pid=part.number)


def _transitions(totals: Totals, seconds: float, style: Style) -> Iterator[str]:
    yield ""
    titles = (translate(mark("FROM")), translate(mark("TO")), translate(mark("CHANGES")), translate(mark("A SECOND")))
    yield style.paint(
        f"{pad_right(titles[0], 14)}{pad_right(titles[1], 14)}{pad_left(titles[2], 12)}  {pad_left(titles[3], 12)}",
        "bold",
    )
    for (left, reached), count in totals.changes.items():
        yield f"{'-' if left is None else left.rfc:<14}{reached.rfc:<14}{count:>12}  {count / max(seconds, 1e-6):>12.1f}"


def _times(totals: Totals, style: Style) -> Iterator[str]:
    rows = [(state, totals.times[state]) for state in LIFE_ORDER if state in totals.times]
    if not rows:
        return
    yield ""
    titles = [
        translate(mark("TIME IN")),
        translate(mark("LEFT")),
        translate(mark("MEAN")),
        *(f"P{percent}" for percent in PERCENTS),
    ]
    yield style.paint(pad_right(titles[0], 14) + "".join(pad_left(title, 12) for title in titles[1:]), "bold")
    for state, times in rows:
        cells = [
            str(times.count),
            duration_text(times.mean_us),
            *(duration_text(times.percentile_us(percent)) for percent in PERCENTS),
        ]
        yield f"{state.rfc:<14}" + "".join(f"{cell:>12}" for cell in cells)


def duration_text(us: float | None) -> str:
    """Microseconds in the unit that people read: us, ms or s."""
    if us is None:
        return "-"
    if us < 1000:
        return f"{us:.0f} us"
    return f"{us / 1000:.3g} ms" if us < 999_500 else f"{us / 1_000_000:.4g} s"


def summary_documents(summary: Summary) -> Iterator[dict[str, object]]:
    """A record for each namespace where anything happened; one that is empty where nothing did."""
    for totals in summary.totals or (None,):
        yield {
            "schema": TRACE_SCHEMA,
            "type": "summary",
            "from": format_time(summary.from_ns),
            "to": format_time(summary.to_ns),
            "netns": None if totals is None or totals.netns is None else totals.netns.label,
            **_part_document(None if totals is None else totals.of),
            "transitions": []
            if totals is None
            else [_transition(*pair, count) for pair, count in totals.changes.items()],
            "times": [] if totals is None else [_time(state, times) for state, times in totals.times.items()],
        }


def _part_document(part: Part | None) -> dict[str, object]:
    """What a summary is apart by; nothing where it is of the whole namespace."""
    if part is None:
        return {}
    return {"local_port": part.number} if part.by == "listener" else {"pid": part.number, "process": part.name}


def _transition(left: TcpState | None, reached: TcpState, count: int) -> dict[str, object]:
    return {"from": None if left is None else left.token, "to": reached.token, "count": count}


def _time(state: TcpState, times: Times) -> dict[str, object]:
    percentiles = {f"p{percent}_us": times.percentile_us(percent) for percent in PERCENTS}
    return {"state": state.token, "count": times.count, "total_us": times.total_us, **percentiles}


def summary_rows(summary: Summary) -> Iterator[tuple[Cell, ...]]:
    """Transitions for a CSV writer, with the cells of SUMMARY_NAMES."""
    for totals in summary.totals:
        netns = None if totals.netns is None else totals.netns.label
        part = _part_document(totals.of)
        for (left, reached), count in totals.changes.items():
            yield (
                format_time(summary.from_ns),
                format_time(summary.to_ns),
                csv_cell(netns),
                *(csv_cell(part.get(name)) for name in ("local_port", "pid", "process")),  # type: ignore[arg-type]
                "" if left is None else left.token,
                reached.token,
                count,
            )


SUMMARY_NAMES = ("begin", "end", "netns", "local_port", "pid", "process", "from", "to", "count")
