"""Rules about TIME-WAIT and ports. The number of TIME-WAIT alone is never a finding: 40,000 take 18 MiB and harm nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from finwait.diagnosis.budget import RANGE, PortBudget
from finwait.diagnosis.rule import HOST, TWO_LOOKS, Rule, Sign
from finwait.errors import Phrase
from finwait.table.cells import cells_of
from finwait.table.finding import CRITICAL, INFO, WARNING
from finwait.tcp.state import TcpState
from finwait.text.messages import mark

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from finwait.diagnosis.budget import PortGroup
    from finwait.diagnosis.case import Case

    Limits = Mapping[str, float]

_CONNECT = "kernel: net/ipv4/inet_hashtables.c, __inet_hash_connect()"
_IP_SYSCTL = "Documentation/networking/ip-sysctl.rst"


def _evidence(group: PortGroup, budget: PortBudget) -> dict[str, object]:
    return {
        "local_address": group.local_address,
        "peer": group.peer,
        "ports_used": group.used,
        "ports_reusable": group.reusable,
        "ports": group.capacity,
        "share": round(group.share, 4),
        "time_wait": group.by_state.get("time_wait", 0),
        "range": f"{budget.first}-{budget.last}",
        "ports_taken_by_bind": len(budget.taken),
        "opened_per_s": None if group.opened_per_s is None else round(group.opened_per_s, 1),
        "exhausted_in_s": None if group.exhausted_in_s is None else round(group.exhausted_in_s),
    }


def judge_exhaustion(case: Case, limits: Limits) -> Iterator[Sign]:
    """Destinations that take most of the ports."""
    budget = PortBudget(case)
    for group in budget.groups():
        if group.used <= limits["warning_share"] * group.capacity:
            return
        if group.share > limits["warning_share"]:
            severity = CRITICAL if group.share > limits["critical_share"] else WARNING
            title = {"peer": group.peer, "local": group.local_address, "used": group.blocked, "ports": group.capacity}
            yield Sign(severity, _evidence(group, budget), title, group.rows)


def judge_slow_connect(case: Case, limits: Limits) -> Iterator[Sign]:
    """Destinations with so many ports that connect() searches long for a free one."""
    budget = PortBudget(case)
    for group in budget.groups():
        if group.used <= limits["share"] * group.capacity:
            return
        if group.share <= limits["exhausting_share"]:  # above that port-exhaustion speaks
            title = {"peer": group.peer, "used": group.used, "ports": group.capacity}
            yield Sign(INFO, _evidence(group, budget), title, group.rows)


def judge_explicit(case: Case, limits: Limits) -> Iterator[Sign]:
    """bind() takes ports of the ephemeral range from every destination."""
    budget = PortBudget(case)
    taken = len(budget.taken)
    if taken <= limits["share"] * budget.size:
        return
    mask = budget.in_range(case.now) & np.isin(case.values("local_port"), list(budget.taken))
    for pid, rows in case.by_process(mask & ~case.in_state(TcpState.TIME_WAIT)):
        evidence = {"ports_taken": taken, "ports": budget.size, "sockets": len(rows)}
        yield Sign(WARNING, evidence, {"who": case.who(pid), "count": taken, "ports": budget.size}, rows)
        return


def judge_time_wait_overflow(case: Case, limits: Limits) -> Iterator[Sign]:
    """The namespace's table of TIME-WAIT is full, or nearly."""
    limit = case.number("ipv4.tcp_max_tw_buckets")
    now = case.counter("sockstat.TCP.tw")
    overflowed = case.delta("TcpExt.TCPTimeWaitOverflow")
    if not limit or now is None:
        return
    if overflowed > 0 or now > limits["share"] * limit:
        evidence = {
            "time_wait": now,
            "limit": limit,
            "overflowed": overflowed,
            "overflowed_ever": case.counter("TcpExt.TCPTimeWaitOverflow"),
        }
        severity = CRITICAL if overflowed > 0 else WARNING
        yield Sign(severity, evidence, {"count": now, "limit": limit})


def judge_proxy(case: Case, limits: Limits) -> Iterator[Sign]:
    """One client address that has very many TIME-WAIT at one of our listeners: its ports are running out, not
    ours.
    """  # fmt: skip
    listening = np.unique(case.values("local_port")[case.in_state(TcpState.LISTEN)])
    mask = case.in_state(TcpState.TIME_WAIT) & np.isin(case.values("local_port"), listening)
    for rows in case.by_peer(mask, "peer_address", "local_address", "local_port", "family"):
        if len(rows) <= limits["time_wait"]:
            return
        one = case.now.rows.take(rows[:1])
        peer, local = cells_of(one, "peer_address")[0], cells_of(one, "local")[0]
        yield Sign(
            WARNING,
            {"time_wait": len(rows), "peer": peer, "local": local},
            {"peer": peer, "local": local, "count": len(rows)},
            rows,
        )


def judge_listener(case: Case, limits: Limits) -> Iterator[Sign]:
    """Listeners on fixed ports inside the ephemeral range."""
    budget = PortBudget(case)
    mask = case.in_state(TcpState.LISTEN) & budget.in_range(case.now)
    if case.now.explicit is not None:  # a listener that let the kernel choose finds another port tomorrow
        mask &= np.isin(case.values("cookie"), case.now.explicit)
    for pid, rows in case.by_process(mask):
        ports = np.unique(case.values("local_port")[rows]).tolist()
        evidence = {
            "ports": ports[: int(limits["shown"])],
            "count": len(ports),
            "range": f"{budget.first}-{budget.last}",
        }
        shown = ", ".join(map(str, ports[:5]))
        yield Sign(WARNING, evidence, {"who": case.who(pid), "ports": shown}, rows)


def judge_myths(case: Case, limits: Limits) -> Iterator[Sign]:
    """Settings, present or in the files of sysctl.d, that harm or do not do what people believe."""
    files = {name: f"{path}:{line}" for path, line, name, _ in case.host.settings}  # the last one counts
    told = set()
    for myth in MYTHS:
        value, name = case.number(myth.sysctl), f"net.{myth.sysctl}"
        if value is not None and myth.is_set(value):
            told.add(name)
            evidence: dict[str, object] = {"sysctl": name, "value": value, "default": myth.default}
            if name in files:
                evidence["file"] = files[name]
            yield Sign(myth.severity, evidence, {"name": name, "value": value}, note=Phrase(myth.truth))
    for path, line, name, text in case.host.settings:
        truth = GONE.get(name.removeprefix("net."))
        if truth is not None and name not in told:
            evidence = {"file": f"{path}:{line}", "sysctl": name, "value": text}
            yield Sign(INFO, evidence, {"name": name, "value": f"{text} ({path}:{line})"}, note=Phrase(truth))


class Myth:
    """A setting that people copy. is_set: whether a value is what the advice says. truth: message id."""

    def __init__(self, sysctl: str, default: str, severity: str, least: int, most: int, truth: str) -> None:
        self.sysctl, self.default, self.severity = sysctl, default, severity
        self._least, self._most, self.truth = least, most, truth

    def is_set(self, value: int) -> bool:
        """Whether `value` is what the advice says."""
        return self._least <= value <= self._most


MYTHS = (
    Myth(
        "ipv4.tcp_fin_timeout",
        "60",
        INFO,
        0,
        59,
        mark(
            "tcp_fin_timeout does not shorten TIME-WAIT, which lasts 60 s whatever is set. It is for orphans in "
            "FIN-WAIT-2, and a short one cuts off peers that are slow to close."
        ),
    ),
    Myth(
        "ipv4.tcp_max_tw_buckets",
        "4,096 to 262,144 by memory",
        WARNING,
        0,
        4095,
        mark(
            "A low tcp_max_tw_buckets removes TIME-WAIT before its time: late segments of an old connection can "
            "then enter a new one, or reset it. It saves 250 bytes a connection."
        ),
    ),
    Myth(
        "ipv4.tcp_syncookies",
        "1",
        WARNING,
        0,
        0,
        mark(
            "Without SYN cookies a full SYN queue drops the SYNs of real clients. Cookies are only sent when the "
            "queue is full; in calm times they cost nothing."
        ),
    ),
    Myth(
        "ipv4.tcp_syncookies",
        "1",
        WARNING,
        2,
        2,
        mark(
            "2 sends a cookie for every connection: made for tests. Window scaling and SACK are then lost where the "
            "client has no timestamps."
        ),
    ),
    Myth(
        "ipv4.tcp_timestamps",
        "1",
        INFO,
        0,
        0,
        mark(
            "Without timestamps tcp_tw_reuse does nothing, old segments are not told from new ones at high rates "
            "(PAWS), and round trips are measured more coarsely."
        ),
    ),
    Myth(
        "ipv4.tcp_tw_reuse",
        "2",
        INFO,
        1,
        1,
        mark(
            "tcp_tw_reuse=1 is for outgoing connections only and does nothing for a server's TIME-WAIT. It is safe "
            "where the peers use timestamps; 2, the default, is for loopback only."
        ),
    ),
    Myth(
        "ipv4.tcp_retries2",
        "15",
        INFO,
        0,
        7,
        mark(
            "So few retries give connections up after seconds of a bad path (RFC 1122 asks for 100 s at least). "
            "TCP_USER_TIMEOUT does that for one program."
        ),
    ),
    Myth(
        "ipv4.tcp_rfc1337",
        "0",
        INFO,
        1,
        1,
        mark("tcp_rfc1337=1 makes TIME-WAIT ignore RST. It protects against a rare accident and frees nothing."),
    ),
)
GONE = {
    "ipv4.tcp_tw_recycle": mark(
        "tcp_tw_recycle is gone since Linux 4.12, and before that it broke clients behind NAT: the file does "
        "nothing but fail to apply."
    ),
    "ipv4.tcp_fin_timeout": mark("tcp_fin_timeout does not shorten TIME-WAIT; it is for orphans in FIN-WAIT-2."),
    "ipv4.tcp_low_latency": mark("tcp_low_latency does nothing since Linux 4.14."),
    "ipv4.tcp_fack": mark("tcp_fack does nothing since Linux 4.15."),
    "netfilter.nf_conntrack_tcp_timeout_time_wait": mark(
        "This is the table of connection tracking: it changes no socket and no port, and a short one forgets "
        "connections that are alive."
    ),
}


RULES = (
    Rule(
        id="port-exhaustion",
        summary=mark("one destination takes most of the ephemeral ports"),
        numbers=(20,),
        title=mark("{used} of {ports} ports from {local} to {peer} are in use"),
        judge=judge_exhaustion,
        reads=(RANGE,),
        limits={"warning_share": 0.7, "critical_share": 0.9},
        meaning=mark(
            "A connection needs a local port that no other connection between the same addresses and the same peer "
            "port has. When all are taken, "
            "connect() fails with EADDRNOTAVAIL, and no counter of the kernel tells."
        ),
        remedy=mark(
            "Reuse connections (keep-alive, a pool); then tcp_tw_reuse=1 for outgoing connections, more addresses "
            "or ports of the peer, or a "
            "wider ip_local_port_range."
        ),
        avoid=mark(
            "tcp_fin_timeout and tcp_max_tw_buckets do not help: the first is not for TIME-WAIT, the second only "
            "breaks its protection."
        ),
        command="finwait ports",
        sources=(_CONNECT, "V. Bernat, Coping with the TCP TIME-WAIT state on busy Linux servers"),
    ),
    Rule(
        id="connect-slow",
        summary=mark("so many ports to one destination that connect() itself slows down"),
        numbers=(21,),
        title=mark("connect() to {peer} searches among {used} used ports of {ports}"),
        judge=judge_slow_connect,
        reads=(RANGE,),
        limits={"share": 0.5, "exhausting_share": 0.7},
        meaning=mark(
            "The kernel tries the ports of one parity first, and half of the range is the point from which on it "
            "must often try them all: 13 "
            "to 433 us a call were measured."
        ),
        remedy=mark("Reuse connections; or give each worker a range of its own (IP_LOCAL_PORT_RANGE, Linux 6.3)."),
        command="finwait ports",
        sources=(_CONNECT,),
    ),
    Rule(
        id="ports-taken-by-bind",
        summary=mark("bind() takes ports of the ephemeral range from all destinations"),
        numbers=(22,),
        title=mark("bind() has taken {count} of {ports} ephemeral ports from every destination, most of them {who}"),
        judge=judge_explicit,
        reads=(RANGE,),
        limits={"share": 0.2},
        meaning=mark(
            "A port that a socket was bound to is no longer considered by connect(), whatever the destination. "
            "Binding to a source address "
            "before connect() chooses a port at once, and the limit is then one for all peers."
        ),
        remedy=mark(
            "Set IP_BIND_ADDRESS_NO_PORT before bind() to a source address: the port is then chosen by connect()."
        ),
        command="finwait list -p not autobound",
        sources=("man 7 ip, IP_BIND_ADDRESS_NO_PORT", _CONNECT),
    ),
    Rule(
        id="time-wait-overflow",
        summary=mark("the table of TIME-WAIT is full"),
        numbers=(23,),
        title=mark("{count} of at most {limit} TIME-WAIT"),
        judge=judge_time_wait_overflow,
        reads=(TWO_LOOKS, "TcpExt.TCPTimeWaitOverflow", "ipv4.tcp_max_tw_buckets", "sockstat.TCP.tw"),
        limits={"share": 0.8},
        meaning=mark(
            "Above tcp_max_tw_buckets connections are closed without TIME-WAIT: what is late of them meets the next "
            "connection of the same ports."
        ),
        remedy=mark("Raise tcp_max_tw_buckets: a TIME-WAIT takes some 250 bytes."),
        avoid=mark("Never lower it to get rid of TIME-WAIT."),
        command="nstat -az TcpExtTCPTimeWaitOverflow",
        sources=(_IP_SYSCTL, "RFC 9293, 3.6.1"),
    ),
    Rule(
        id="client-near-port-limit",
        summary=mark("a proxy in front of us nears the end of its ports"),
        numbers=(24,),
        title=mark("{peer} has {count} TIME-WAIT at {local}: its own ports run out, not ours"),
        judge=judge_proxy,
        reads=(),
        limits={"time_wait": 20_000},
        meaning=mark(
            "Each of these is a port of that client that it may not use towards this listener. A proxy has 28,232 "
            "of them by default, and when they "
            "are gone its connect() fails."
        ),
        remedy=mark(
            "Let the proxy keep connections open; or give it more source addresses, or this server more ports."
        ),
        avoid=mark("Nothing need be done on this side: TIME-WAIT at a listener takes no port of ours."),
        command="finwait --by peer_address state time-wait",
        sources=(_CONNECT,),
    ),
    Rule(
        id="sysctl-myth",
        summary=mark("settings that harm, or do not do what people believe"),
        numbers=(25,),
        title=mark("{name} is {value}"),
        judge=judge_myths,
        reads=(),
        limits={},
        meaning=mark("This setting is copied from page to page and does not do what is said of it."),
        remedy=mark("Take it out, unless you know why it is there: the defaults are right for most."),
        command="sysctl -a --pattern '^net.ipv4.tcp_'",
        sources=(_IP_SYSCTL,),
        scope=HOST,
    ),
    Rule(
        id="listener-in-ephemeral-range",
        summary=mark("a fixed listening port that an outgoing connection may take"),
        numbers=(26,),
        title=mark("{who} listens on {ports}, inside the range of ephemeral ports"),
        judge=judge_listener,
        reads=(RANGE,),
        limits={"shown": 20},
        meaning=mark(
            "While it does not run, an outgoing connection may be given that port; the program then fails to start "
            "with EADDRINUSE, seldom and "
            "seemingly without reason."
        ),
        remedy=mark("Reserve the port: sysctl net.ipv4.ip_local_reserved_ports; or choose one below the range."),
        command="finwait list -l -p",
        sources=(_IP_SYSCTL,),
    ),
)
