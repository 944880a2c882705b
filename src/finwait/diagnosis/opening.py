"""Rules about connections that are being opened: SYNs that nobody answers, and those that are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from finwait.diagnosis.case import growth_between
from finwait.diagnosis.rule import OWNERS, TWO_LOOKS, Rule, Sign
from finwait.errors import Phrase
from finwait.table.finding import INFO, WARNING
from finwait.tcp.state import TcpState
from finwait.text.messages import mark

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from finwait.diagnosis.case import Case

    Limits = Mapping[str, float]

_IP_SYSCTL = "Documentation/networking/ip-sysctl.rst"
_FAILS = "Tcp.AttemptFails"
_RESETS = "Tcp.OutRsts"
# Resets that the kernel sends for a connection of its own, not in answer to a stranger's segment.
_OWN_RESETS = ("TcpExt.TCPAbortOnData", "TcpExt.TCPAbortOnClose", "TcpExt.TCPAbortOnTimeout", "TcpExt.TCPAbortOnMemory")


def judge_unanswered(case: Case, limits: Limits) -> Iterator[Sign]:
    """SYN-SENT whose SYN was sent again and again, by destination."""
    retransmits = case.values("retransmits")
    mask = case.in_state(TcpState.SYN_SENT) & (retransmits >= limits["retransmits"])
    for rows, peers in case.worst_peers(mask, int(limits["shown"]), "peer_address", "peer_port", "family"):
        peer = case.peer_text(rows, peers, "peer")
        pids, counts = np.unique(case.pids[rows], return_counts=True)
        who = case.who(int(pids[np.argmax(counts)]))
        evidence = {
            "connections": len(rows),
            "peer_count": peers,
            "peer": peer if peers == 1 else None,
            "retransmits_max": int(retransmits[rows].max()),
            "syn_retries": case.number("ipv4.tcp_syn_retries"),
        }
        yield Sign(WARNING, evidence, {"peer": peer, "count": len(rows), "who": who}, rows, guilty=False)


def judge_syn_share(case: Case, limits: Limits) -> Iterator[Sign]:
    """SYNs that had to be sent again, of all connections opened. The counter has SYN-ACKs sent again in it too
    (net/ipv4/tcp_output.c, tcp_rtx_synack()): while half-open connections have any it tells nothing of ours.
    """  # fmt: skip
    if (case.in_state(TcpState.SYN_RECV) & (case.values("retransmits") > 0)).any():
        return
    again, opened = case.delta("TcpExt.TCPSynRetrans"), case.delta("Tcp.ActiveOpens")
    share = again / max(opened, 1)
    if opened >= limits["least_opens"] and share > limits["share"]:
        evidence = {"syn_retransmits": again, "active_opens": opened, "share": round(share, 4)}
        yield Sign(WARNING, evidence, {"percent": round(share * 100, 1)})


def judge_refused(case: Case, limits: Limits) -> Iterator[Sign]:
    """Attempts that fail, and resets in answer to strangers, far more often than before."""
    jumped, rate, usual = _jump(case, limits, _FAILS)
    severity = WARNING if jumped else None
    if severity is None:
        jumped, resets, usual_resets = _jump(case, limits, _RESETS, _OWN_RESETS)
        if not jumped:
            return
        # Without a look before there is no telling what is usual, and resets are usual at a busy server.
        severity = INFO if usual_resets is None else WARNING
        evidence = {"resets_per_s": resets, "usual_per_s": usual_resets, "attempt_fails_per_s": rate}
        yield Sign(severity, evidence, {"rate": resets}, note=Phrase(ANSWERED_BY_RESET))
        return
    evidence = {"attempt_fails_per_s": rate, "usual_per_s": usual, "failed_ever": case.counter(_FAILS)}
    yield Sign(severity, evidence, {"rate": rate})


def _jump(case: Case, limits: Limits, name: str, less: tuple[str, ...] = ()) -> tuple[bool, float, float | None]:
    """Whether counter `name` (less the counters `less`) grows too fast, its rate over the last interval, and the rate before;
    None where there were but two looks.
    """  # fmt: skip
    rates: list[float] = []
    for first, last in ((case.looks[-2], case.now), (case.looks[0], case.looks[-2])):
        seconds = last.at_s - first.at_s
        if seconds > 0:
            grown = growth_between(first, last, name) - sum(growth_between(first, last, other) for other in less)
            rates.append(round(max(grown, 0) / seconds, 2))
    rate, usual = rates[0], rates[1] if len(rates) > 1 else None
    if usual is None:
        return rate > limits["alone_per_s"], rate, usual
    return rate >= limits["least_per_s"] and rate > limits["factor"] * usual, rate, usual


ANSWERED_BY_RESET = mark(
    "This host answers many segments with a reset that no own connection explains: somebody connects to ports where "
    "nobody listens (a service that is down, a scan), or goes on sending on connections that are closed here."
)

RULES = (
    Rule(
        id="connect-unanswered",
        summary=mark("connect() to a peer that does not answer"),
        numbers=(27,),
        title=mark("no answer from {peer}: {count} connections in SYN-SENT, most of {who}"),
        judge=judge_unanswered,
        reads=(OWNERS,),
        states=(TcpState.SYN_SENT,),
        limits={"retransmits": 2, "shown": 5},
        meaning=mark(
            "The SYN was sent again and nothing came back, not even a refusal: a firewall drops it, the host is down or "
            "the way to it broken, or the peer's accept queue is full. With tcp_syn_retries=6 connect() gives up with "
            "ETIMEDOUT after 131 to 135 s (before Linux 6.5: 127 s)."
        ),
        remedy=mark(
            "Try from here: is the address right, does the peer get the SYN (tcpdump there), what do firewalls and "
            "security groups on the way say? If other ports of it answer, look at the peer's accept queue: finwait "
            "doctor there. Give the program a time-out of its own for connect()."
        ),
        avoid=mark("Fewer tcp_syn_retries only fails sooner, for every program of this host."),
        command="finwait list -o -p state syn-sent",
        sources=(_IP_SYSCTL + ": tcp_syn_retries, tcp_syn_linear_timeouts",),
    ),
    Rule(
        id="syn-retransmits",
        summary=mark("many SYNs must be sent again"),
        numbers=(27,),
        title=mark("{percent} % of outgoing connections need their SYN sent again"),
        judge=judge_syn_share,
        reads=(TWO_LOOKS, "TcpExt.TCPSynRetrans", "Tcp.ActiveOpens"),
        limits={"share": 0.02, "least_opens": 50},
        meaning=mark(
            "Each costs its connection a second or more. Segments are lost on the way, or a peer's accept queue "
            "overflows."
        ),
        remedy=mark(
            "Look which destination it is (connect-unanswered; finwait list -o state syn-sent), then at its listener, "
            "and at losses of established connections (retransmissions): both together mean the path."
        ),
        avoid=mark("No setting of this host mends it."),
        command="nstat -az TcpExtTCPSynRetrans TcpActiveOpens",
        sources=("Documentation/networking/snmp_counter.rst", "kernel: net/ipv4/tcp_output.c, tcp_rtx_synack()"),
    ),
    Rule(
        id="connect-refused",
        summary=mark("many attempts to connect fail, or are answered by a reset"),
        numbers=(28,),
        title=mark("{rate} attempts a second to open a connection fail or are answered by a reset"),
        judge=judge_refused,
        reads=(TWO_LOOKS, _FAILS, _RESETS),
        limits={"least_per_s": 5, "factor": 10, "alone_per_s": 50},
        meaning=mark(
            "Connections end before they are established: the peer refuses (nobody listens there), nobody answers, or "
            "clients reset handshakes that they began here, as scanners do."
        ),
        remedy=mark(
            "Look in the programs' logs who gets ECONNREFUSED, and whether the service that they want runs. No socket "
            "is left to see; tcpdump 'tcp[tcpflags] & tcp-rst != 0' shows the peers."
        ),
        avoid=mark("Dropping instead of refusing makes callers wait for minutes."),
        command="nstat -az TcpAttemptFails TcpOutRsts",
        sources=("RFC 4022: tcpAttemptFails, tcpOutRsts",),
    ),
)
