"""Rules about what stands beside the sockets: connection tracking on this host, and the NAT gateway behind it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from finwait.diagnosis.pairs import plain_addresses
from finwait.diagnosis.rule import HOST, TWO_LOOKS, Rule, Sign, graded
from finwait.errors import Phrase
from finwait.table.cells import format_address
from finwait.table.finding import CRITICAL, INFO, WARNING
from finwait.tcp.state import TcpState
from finwait.text.messages import mark

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from finwait.diagnosis.case import Case
    from finwait.table.batch import Array

    Limits = Mapping[str, float]

_COUNT, _MAX = "netfilter.nf_conntrack_count", "netfilter.nf_conntrack_max"
_ESTABLISHED_S = "netfilter.nf_conntrack_tcp_timeout_established"
_SYSCTLS = "Documentation/networking/nf_conntrack-sysctl.rst"
_AF_INET6 = 10  # IPv4 stands mapped in it


def judge_conntrack(case: Case, limits: Limits) -> Iterator[Sign]:
    """The table of connection tracking is full, or nearly."""
    count, most = case.number(_COUNT), case.number(_MAX)
    if count is None or not most:
        return
    dropped = case.growth("conntrack.drop") + case.growth("conntrack.early_drop")
    severity = graded(count / most, limits, "share")
    note = None
    if dropped > 0:
        severity, note = (WARNING, Phrase(NOT_FULL)) if severity is None else (CRITICAL, None)
    if severity is not None:
        evidence = {
            "entries": count,
            "limit": most,
            "share": round(count / most, 4),
            "dropped": case.growth("conntrack.drop"),
            "evicted": case.growth("conntrack.early_drop"),
        }
        yield Sign(severity, evidence, {"count": count, "limit": most}, note=note)


NOT_FULL = mark(
    "Connection tracking has dropped packets although its table is far from full: a flow that a helper refused, want of "
    "memory, or a peak that is over already."
)


def judge_insert_failed(case: Case, limits: Limits) -> Iterator[Sign]:
    """Entries that could not be put into the table."""
    rate = case.rate("conntrack.insert_failed")
    if rate > limits["per_s"]:
        evidence = {
            "insert_failed_per_s": round(rate, 2),
            "insert_failed_ever": case.counter("conntrack.insert_failed"),
        }
        yield Sign(WARNING, evidence, {"rate": round(rate, 1)})


def judge_stale(case: Case, limits: Limits) -> Iterator[Sign]:
    """Far more entries than sockets, on a host that forwards for nobody and keeps entries for days. The entries are of all
    protocols: it is a reason to look, no proof.
    """  # fmt: skip
    count, keeps_s = case.number(_COUNT), case.number(_ESTABLISHED_S)
    if count is None or keeps_s is None or case.number("ipv4.ip_forward") != 0:
        return
    far_above = count > max(limits["factor"] * case.count, limits["least_entries"])
    if far_above and keeps_s > limits["keeps_s"]:
        evidence = {"entries": count, "sockets": case.count, "established_timeout_s": keeps_s}
        yield Sign(INFO, evidence, {"count": count, "sockets": case.count})


def judge_gateway(case: Case, limits: Limits) -> Iterator[Sign]:
    """Connections from all namespaces to one destination, near what a NAT gateway can carry to it."""
    most = limits["share"] * limits["flows"]
    if sum(one.count for one in (case, *case.others)) <= most:
        return
    found = [_destinations(one) for one in (case, *case.others)]
    # whatever is above the limit in all of them is above its part of it in one; seldom is anything
    likely = {key.tobytes() for keys, counts in found for key in keys[counts * len(found) > most]}
    totals: Counter[bytes] = Counter()
    for keys, counts in found if likely else ():
        for name, count in zip(map(bytes, keys), counts.tolist(), strict=True):
            if name in likely:
                totals[name] += count
    for key, count in totals.most_common():
        if count <= most:
            return
        address, port = format_address(key[:16], _AF_INET6), int.from_bytes(key[16:], "big")
        peer = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        evidence = {"flows": count, "peer": peer, "gateway_limit": int(limits["flows"])}
        yield Sign(INFO, evidence, {"peer": peer, "count": count})


def _destinations(case: Case) -> tuple[Array, Array]:
    """(address and port of a peer, connections that lead there from this host), TIME-WAIT left out."""
    away = ~case.in_state(TcpState.LISTEN, TcpState.CLOSE, TcpState.SYN_RECV, TcpState.TIME_WAIT)
    rows = np.flatnonzero(away & ~case.is_loopback & ~case.is_incoming)
    ports = case.values("peer_port")[rows].astype(">u2").view(np.uint8).reshape(-1, 2)
    joined = np.ascontiguousarray(np.concatenate([plain_addresses(case, "peer_address", rows), ports], axis=1))
    keys, counts = np.unique(joined.view("V18")[:, 0], return_counts=True)
    return keys, counts


RULES = (
    Rule(
        id="conntrack-full",
        summary=mark("the table of connection tracking is full, or nearly"),
        numbers=(38,),
        title=mark("connection tracking has {count} of at most {limit} entries"),
        judge=judge_conntrack,
        reads=(_COUNT, _MAX),
        limits={"warning_share": 0.75, "critical_share": 0.9},
        meaning=mark(
            "When nf_conntrack's table is full the kernel first evicts entries that were never answered or are closing, then "
            "drops packets of every new one: SYNs vanish, and the sockets show nothing but SYN-SENT. The kernel's log "
            "says 'nf_conntrack: table full, dropping packet'."
        ),
        remedy=mark(
            "Raise net.netfilter.nf_conntrack_max (and nf_conntrack_buckets with it: a quarter to the same number); an "
            "entry takes some 300 bytes. Exempt traffic that needs no tracking (notrack). Find out what fills it: "
            "conntrack -L, or conntrack -S."
        ),
        avoid=mark(
            "Do not unload nf_conntrack or flush the table of a NAT host: every translated connection breaks. Do not cut "
            "nf_conntrack_tcp_timeout_established to minutes: idle connections lose their entry."
        ),
        command="sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max; conntrack -S",
        sources=(_SYSCTLS, "kernel: net/netfilter/nf_conntrack_core.c, __nf_conntrack_alloc()"),
    ),
    Rule(
        id="conntrack-insert-failed",
        summary=mark("connection tracking cannot enter new flows"),
        numbers=(38,),
        title=mark("connection tracking fails to enter {rate} flows a second"),
        judge=judge_insert_failed,
        reads=(TWO_LOOKS, "conntrack.insert_failed"),
        limits={"per_s": 1},
        meaning=mark(
            "Each is a first packet that is dropped, because an entry like it was there already. Mostly two packets at "
            "once of one UDP socket (DNS queries for A and AAAA), or SNAT that gives two flows the same port."
        ),
        remedy=mark(
            "With SNAT: more source addresses, or --random-fully. With DNS: a cache on the node, or the resolver's "
            "option single-request-reopen."
        ),
        avoid=mark("A larger nf_conntrack_max does nothing here: the table is not full."),
        command="conntrack -S",
        sources=("man 8 conntrack", "kernel: net/netfilter/nf_conntrack_core.c, __nf_conntrack_confirm()"),
    ),
    Rule(
        id="conntrack-stale",
        summary=mark("connection tracking has far more entries than there are sockets"),
        numbers=(39,),
        title=mark("connection tracking has {count} entries, and there are {sockets} TCP sockets"),
        judge=judge_stale,
        reads=(_COUNT, _ESTABLISHED_S, "ipv4.ip_forward"),
        limits={"factor": 10, "least_entries": 20_000, "keeps_s": 86_400},
        meaning=mark(
            "This namespace forwards nothing for others, so that most entries should have a socket. Entries of UDP and of "
            "closed connections are among them; but a connection that ended without its last segments passing here stays for "
            "nf_conntrack_tcp_timeout_established, five days by default."
        ),
        remedy=mark(
            "Look with conntrack -L -p tcp --state ESTABLISHED. If they are stale, set "
            "nf_conntrack_tcp_timeout_established to some hours, above the keepalive of what runs here."
        ),
        avoid=mark("This changes no socket and no port: it is neither TIME-WAIT nor a leak of the program."),
        command="sysctl net.netfilter.nf_conntrack_count; finwait",
        sources=(_SYSCTLS,),
    ),
    Rule(
        id="flows-beyond-gateway",
        summary=mark(
            "connections to one destination near what a NAT gateway carries; counters of the cloud's network (ENA "
            "allowances) are not read"
        ),
        numbers=(40,),
        title=mark("{count} connections to {peer}: near the limit of a NAT gateway, if one is in between"),
        judge=judge_gateway,
        reads=(),
        limits={"flows": 55_000, "share": 0.8},
        meaning=mark(
            "A NAT gateway translates all of them to few addresses and has, like a host, a port for each: AWS allows "
            "55,000 at once to a destination for each address. Beyond, connections fail there, and nothing on this host tells."
        ),
        remedy=mark(
            "If they leave through a gateway: reuse connections, give the gateway more addresses, or reach the "
            "destination without it (a VPC endpoint). On AWS look at ErrorPortAllocation of the gateway, and at the "
            "*_allowance_exceeded counters of ethtool -S."
        ),
        avoid=mark("A wider ip_local_port_range here makes it worse there."),
        command="finwait --by peer state connected",
        sources=("AWS: NAT gateway basics", "AWS: ENA network performance metrics"),
        scope=HOST,
    ),
)
