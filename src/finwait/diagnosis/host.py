"""Rules about what all TCP of the host shares: memory, and connections that no program holds any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finwait.diagnosis.rule import HOST, Rule, Sign, graded
from finwait.table.finding import CRITICAL, WARNING
from finwait.text.messages import mark

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from finwait.diagnosis.case import Case

    Limits = Mapping[str, float]

_MEM, _ORPHAN = "sockstat.TCP.mem", "sockstat.TCP.orphan"
TCP_MEM, MAX_ORPHANS = "ipv4.tcp_mem", "ipv4.tcp_max_orphans"


def judge_memory(case: Case, limits: Limits) -> Iterator[Sign]:
    """TCP's memory against the limits of tcp_mem, both in pages."""
    pages, bounds = case.counter(_MEM), case.numbers(TCP_MEM)
    if pages is None or len(bounds) != 3:
        return
    _, pressure, most = bounds
    critical = pages > limits["critical_share"] * most
    if critical or pages > limits["pressure_share"] * pressure:
        size = case.host.page_size
        evidence = {
            "pages": pages,
            "pressure_pages": pressure,
            "limit_pages": most,
            "bytes": pages * size,
            "limit_bytes": most * size,
            "share": round(pages / most, 4) if most else None,
        }
        title = {"used": pages * size >> 20, "limit": most * size >> 20}
        yield Sign(CRITICAL if critical else WARNING, evidence, title)


def judge_orphans(case: Case, limits: Limits) -> Iterator[Sign]:
    """Connections without owner against tcp_max_orphans."""
    orphans, most = case.counter(_ORPHAN), case.number(MAX_ORPHANS)
    if orphans is None or not most:
        return
    severity = graded(orphans / most, limits, "share")
    if severity is not None:
        evidence = {"orphans": orphans, "limit": most, "share": round(orphans / most, 4)}
        yield Sign(severity, evidence, {"count": orphans, "limit": most})


RULES = (
    Rule(
        id="tcp-memory",
        summary=mark("TCP's memory, of the whole host, is near its limit"),
        numbers=(35,),
        title=mark("TCP uses {used} of {limit} MiB of its memory"),
        judge=judge_memory,
        reads=(_MEM, TCP_MEM),
        limits={"pressure_share": 1.0, "critical_share": 0.9},
        meaning=mark(
            "Above the second number of tcp_mem the kernel shrinks windows and buffers: everything becomes slower. At the "
            "third it drops received data and resets connections. It is one limit for all namespaces."
        ),
        remedy=mark(
            "Find the connections that hold data: finwait list --sort recv_q and --sort send_q, with -p. Most often a "
            "program does not read (reader-stuck) or a peer does not (zero-window). Raise tcp_mem only if it is honest load."
        ),
        avoid=mark("Do not raise tcp_rmem or tcp_wmem: larger buffers for each connection reach the limit sooner."),
        command="cat /proc/net/sockstat; sysctl net.ipv4.tcp_mem",
        sources=("ip-sysctl: tcp_mem", "man 7 tcp"),
        scope=HOST,
    ),
    Rule(
        id="orphans",
        summary=mark("connections that no program holds, of the whole host, are near their limit"),
        numbers=(36,),
        title=mark("{count} orphaned connections, the limit is {limit}"),
        judge=judge_orphans,
        reads=(_ORPHAN, MAX_ORPHANS),
        limits={"warning_share": 0.25, "critical_share": 0.5},
        meaning=mark(
            "Programs have closed them and the kernel still has data or a FIN to deliver. From a quarter of "
            "tcp_max_orphans on the kernel resets some that wait for long, above it all: the peer then loses the end of the "
            "data."
        ),
        remedy=mark(
            "Look which peers do not answer (peer-vanished): clients that disappear, a path that is broken, a peer "
            "whose window is zero."
        ),
        avoid=mark("Raising tcp_max_orphans first: each orphan may hold 64 KiB that cannot be swapped."),
        command="finwait list -o state fin-wait-1 state last-ack state closing",
        sources=("ip-sysctl: tcp_max_orphans", "kernel: net/ipv4/tcp_timer.c, tcp_out_of_resources()"),
        scope=HOST,
    ),
)
