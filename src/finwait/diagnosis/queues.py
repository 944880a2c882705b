"""Rules about a listener's two queues: half-open connections (SYN queue), and those that wait for accept() (accept queue).

The accept queue is full when it is longer than its limit, the lesser of listen()'s backlog and net.core.somaxconn. Half-open
connections count against the same limit of the same listener (net/core/sock.h, inet_csk_reqsk_queue_is_full()).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from finwait.diagnosis.case import filled
from finwait.diagnosis.rule import OWNERS, TWO_LOOKS, Rule, Sign, graded
from finwait.errors import Phrase
from finwait.table.cells import cells_of
from finwait.table.finding import CRITICAL, INFO, WARNING
from finwait.tcp.state import TcpState
from finwait.text.messages import mark

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from finwait.diagnosis.case import Case
    from finwait.table.batch import Array, Mask

    Limits = Mapping[str, float]

SOMAXCONN = "core.somaxconn"
ALWAYS_COOKIES = 2  # tcp_syncookies: a cookie for every SYN, so that the counters tell nothing of a full queue
_LISTEN_QUEUE = "man 2 listen"
_CONN_REQUEST = "kernel: net/ipv4/tcp_input.c, tcp_conn_request()"
_SNMP = "Documentation/networking/snmp_counter.rst"


def fullness(case: Case) -> Array:
    """For each socket of the last look how full its accept queue is: above 1 it is full; 0 for what is no listener."""
    length = case.values("accept_queue_length").astype(np.float64)
    limit = case.values("accept_queue_limit").astype(np.float64)
    # A queue takes one more than its limit; where that is 0 one connection fills it.
    share = np.where(limit > 0, length / np.maximum(limit, 1), length * 2)
    return np.where(case.in_state(TcpState.LISTEN), share, 0.0)


def stays_above(case: Case, share: float) -> Mask:
    """Listeners whose accept queue was that full at all looks, of which there must be two, and is not empty."""
    now = fullness(case)
    found: Mask = (now >= share) & (case.values("accept_queue_length") > 0)
    if len(case.looks) < 2:
        return np.zeros(case.count, dtype=np.bool_)
    cookies = case.values("cookie")
    for look in case.looks[:-1]:
        length, limit = filled(look, "accept_queue_length"), filled(look, "accept_queue_limit")
        above = (filled(look, "state") == TcpState.LISTEN) & (length > 0) & (length >= share * limit)
        found &= np.isin(cookies, filled(look, "cookie")[above])
    return found


def _endpoint(case: Case, row: int) -> str:
    return str(cells_of(case.now.rows.take(np.asarray([row])), "local")[0])


def _queue(case: Case, row: int) -> dict[str, object]:
    """What a finding tells of one listener."""
    return {
        "local": _endpoint(case, row),
        "length": int(case.values("accept_queue_length")[row]),
        "limit": int(case.values("accept_queue_limit")[row]),
    }


def _fullest(case: Case, count: int) -> list[int]:
    """Listeners with most in their accept queue, those that are empty left out."""
    share = fullness(case)
    return [row for row in np.argsort(-share, kind="stable")[:count].tolist() if share[row] > 0]


def judge_accept_queue(case: Case, limits: Limits) -> Iterator[Sign]:
    """Accept queues that are full now, or have been nearly so all the time; each member of an SO_REUSEPORT group by itself."""
    share = fullness(case)
    full = share > limits["full_share"]
    near = stays_above(case, limits["warning_share"])
    for row in np.flatnonzero(full | near).tolist():
        queue = _queue(case, row)
        evidence = {
            **queue,
            "port": int(case.values("local_port")[row]),
            "share": round(float(share[row]), 3),
            "somaxconn": case.number(SOMAXCONN),
        }
        title = {"who": case.who(int(case.pids[row])), **queue}
        yield Sign(CRITICAL if full[row] else WARNING, evidence, title, np.asarray([row]))


def judge_overflow(case: Case, limits: Limits) -> Iterator[Sign]:
    """Handshakes dropped because an accept queue is full."""
    rate = case.rate("TcpExt.ListenOverflows")
    severity = graded(rate, limits, "per_s")
    if severity is None:
        return
    rows = _fullest(case, int(limits["shown"]))
    evidence = {
        "overflows_per_s": round(rate, 2),
        "overflows": case.delta("TcpExt.ListenOverflows"),
        "fullest": [_queue(case, row) for row in rows],
        "abort_on_overflow": case.number("ipv4.tcp_abort_on_overflow"),
    }
    yield Sign(severity, evidence, {"rate": round(rate, 1)}, np.asarray(rows, np.int64))


def judge_other_drops(case: Case, limits: Limits) -> Iterator[Sign]:
    """SYNs and last ACKs that a listener dropped, less what a full accept or SYN queue explains."""
    full = case.delta("TcpExt.ListenOverflows") + case.growth("TcpExt.TCPReqQFullDrop")
    others = case.delta("TcpExt.ListenDrops") - full
    rate = others / case.interval_s
    if rate > limits["per_s"]:
        evidence = {
            "drops_per_s": round(rate, 2),
            "drops": others,
            "listen_drops": case.delta("TcpExt.ListenDrops"),
            "listen_overflows": case.delta("TcpExt.ListenOverflows"),
            "syn_queue_drops": case.growth("TcpExt.TCPReqQFullDrop"),
            "syncookies": case.number("ipv4.tcp_syncookies"),
        }
        yield Sign(WARNING, evidence, {"rate": round(rate, 1)})


def judge_backlog_cut(case: Case, limits: Limits) -> Iterator[Sign]:
    """Listeners whose limit is that of a low somaxconn, and that have used a good part of it."""
    somaxconn = case.number(SOMAXCONN)
    if somaxconn is None or somaxconn >= limits["somaxconn"]:
        return
    used = fullness(case) >= limits["used_share"]
    for row in np.flatnonzero(used & (case.values("accept_queue_limit") == somaxconn)).tolist():
        queue = _queue(case, row)
        title = {"who": case.who(int(case.pids[row])), **queue}
        yield Sign(INFO, {**queue, "somaxconn": somaxconn}, title, np.asarray([row]))


def _cookies(case: Case) -> tuple[float, float | None]:
    """SYN cookies sent a second for want of room, and which share of them was answered; None where none was sent."""
    if case.number("ipv4.tcp_syncookies") == ALWAYS_COOKIES:
        return 0.0, None
    sent = case.delta("TcpExt.SyncookiesSent")
    rate = max(case.rate("TcpExt.TCPReqQFullDoCookies"), case.rate("TcpExt.SyncookiesSent"))
    return rate, case.delta("TcpExt.SyncookiesRecv") / sent if sent else None


def _cookie_sign(case: Case, limits: Limits, severity: str, rate: float, answered: float | None) -> Sign:
    limit = case.values("accept_queue_limit")
    flooded = [
        rows
        for rows, half_open in half_open_by_listener(case)
        if len(half_open) >= limits["queue_share"] * limit[rows].sum()
    ]
    listeners = np.concatenate(flooded) if flooded else np.zeros(0, np.int64)
    evidence = {
        "cookies_per_s": round(rate, 2),
        "cookies_sent": case.delta("TcpExt.SyncookiesSent"),
        "cookies_answered": case.delta("TcpExt.SyncookiesRecv"),
        "answered_share": None if answered is None else round(answered, 4),
        "half_open": int(case.in_state(TcpState.SYN_RECV).sum()),
        "listeners": [_endpoint(case, row) for row in listeners[:5].tolist()],
    }
    return Sign(severity, evidence, {"rate": round(rate, 1)}, listeners)


def judge_flood(case: Case, limits: Limits) -> Iterator[Sign]:
    """A full SYN queue whose cookies nobody answers: the addresses are spoofed."""
    rate, answered = _cookies(case)
    severity = graded(rate, limits, "per_s")
    if severity is not None and (answered is None or answered < limits["answered_share"]):
        yield _cookie_sign(case, limits, severity, rate, answered)


def judge_burst(case: Case, limits: Limits) -> Iterator[Sign]:
    """A full SYN queue whose cookies are answered: real clients, more than fit."""
    rate, answered = _cookies(case)
    if rate > limits["per_s"] and answered is not None and answered >= limits["answered_share"]:
        yield _cookie_sign(case, limits, WARNING, rate, answered)


def judge_syn_drop(case: Case, limits: Limits) -> Iterator[Sign]:
    """SYNs dropped because the SYN queue is full and cookies are off."""
    dropped = case.delta("TcpExt.TCPReqQFullDrop")
    rate = case.rate("TcpExt.TCPReqQFullDrop")
    severity = graded(rate, limits, "per_s")
    if severity is not None:
        evidence = {
            "drops_per_s": round(rate, 2),
            "drops": dropped,
            "syncookies": case.number("ipv4.tcp_syncookies"),
            "half_open": int(case.in_state(TcpState.SYN_RECV).sum()),
        }
        rows = [rows for rows, _ in half_open_by_listener(case)][:1]
        yield Sign(severity, evidence, {"rate": round(rate, 1)}, rows[0] if rows else None)


def half_open_by_listener(case: Case) -> list[tuple[Array, Array]]:
    """Listeners and their half-open connections, rows of both, the most first. The members of an SO_REUSEPORT group stand
    together: the kernel does not tell which of them a half-open connection belongs to.
    """  # fmt: skip
    found: dict[tuple[int, ...], list[Array]] = {}
    address, port, family = (case.values(name) for name in ("local_address", "local_port", "family"))
    listening = case.in_state(TcpState.LISTEN)
    wildcard = (address == 0).all(axis=1)
    for rows in case.by_peer(case.in_state(TcpState.SYN_RECV), "local_address", "local_port", "family"):
        near = listening & (port == port[rows[0]]) & (family == family[rows[0]])
        own = near & (address == address[rows[0]]).all(axis=1)
        listeners = np.flatnonzero(own if own.any() else near & wildcard)
        found.setdefault(tuple(listeners.tolist()), []).append(rows)
    pairs = [(np.asarray(key, np.int64), np.concatenate(parts)) for key, parts in found.items() if key]
    return sorted(pairs, key=lambda pair: -len(pair[1]))


def judge_half_open(case: Case, limits: Limits) -> Iterator[Sign]:
    """Listeners whose SYN queue is nearly full of clients that do not answer the SYN-ACK."""
    retransmits = case.values("retransmits")
    for listeners, rows in half_open_by_listener(case):
        limit = int(case.values("accept_queue_limit")[listeners].sum())
        unanswered = int((retransmits[rows] > 0).sum())
        if len(rows) < max(limits["least_connections"], limits["share"] * limit):
            continue
        if unanswered > limits["unanswered_share"] * len(rows):
            local = _endpoint(case, int(listeners[0]))
            evidence = {"half_open": len(rows), "unanswered": unanswered, "limit": limit, "local": local}
            title = {"local": local, "count": len(rows), "limit": limit}
            pids = _pids(case, listeners.tolist())
            yield Sign(WARNING, evidence, title, rows, pids=pids)


def _pids(case: Case, rows: Sequence[int]) -> tuple[int, ...]:
    return tuple(pid for pid in np.unique(case.pids[rows]).tolist() if pid >= 0)


def judge_reuseport(case: Case, limits: Limits) -> Iterator[Sign]:
    """Of listeners that share a port one is full while another has nothing to do."""
    share = fullness(case)
    length = case.values("accept_queue_length")
    busy = (share > limits["full_share"]) | stays_above(case, limits["warning_share"])
    for rows in case.by_peer(case.in_state(TcpState.LISTEN), "local_address", "local_port", "family"):
        if len(rows) < 2:
            return
        stuck, empty = rows[busy[rows]], rows[length[rows] == 0]
        if len(stuck) and len(empty):
            local = _endpoint(case, int(rows[0]))
            evidence = {
                "local": local,
                "listeners": len(rows),
                "full": len(stuck),
                "empty": len(empty),
                "lengths": length[rows].tolist()[:64],
                "limit": int(case.values("accept_queue_limit")[rows].max()),
            }
            title = {"local": local, "full": len(stuck), "count": len(rows), "who": case.who(int(case.pids[stuck[0]]))}
            yield Sign(WARNING, evidence, title, stuck)


def judge_abort_on_overflow(case: Case, limits: Limits) -> Iterator[Sign]:
    """tcp_abort_on_overflow is set; it matters most while accept queues overflow."""
    if case.number("ipv4.tcp_abort_on_overflow") != 1:
        return
    overflows = case.growth("TcpExt.ListenOverflows")
    evidence = {"abort_on_overflow": 1, "default": 0, "overflows": overflows}
    if overflows > limits["overflows"]:
        yield Sign(WARNING, evidence, note=Phrase(ABORTS_NOW))
    else:
        yield Sign(INFO, evidence)


ABORTS_NOW = mark(
    "An accept queue overflows right now, and each client whose handshake meets the full queue is reset: it sees "
    "'connection reset by peer' where it would otherwise have got in at the next try."
)

RULES = (
    Rule(
        id="accept-queue-full",
        summary=mark("a program does not accept its connections: its accept queue is full, or nearly"),
        numbers=(1,),
        title=mark("{who} does not accept: {length} connections wait at {local}, the limit is {limit}"),
        judge=judge_accept_queue,
        reads=(OWNERS,),
        states=(TcpState.LISTEN,),
        limits={"full_share": 1.0, "warning_share": 0.8},
        meaning=mark(
            "The kernel has finished these handshakes and waits for the program to call accept(). When the queue is "
            "longer than its limit, "
            "new SYNs are dropped and clients send them again after 1 s; to them the service hangs."
        ),
        remedy=mark(
            "Find out why the program does not accept: is it stuck, out of descriptors, or has it too few workers? Let "
            "it accept faster first. Only then, for bursts, a longer backlog in listen() and net.core.somaxconn; the "
            "program must listen() anew."
        ),
        avoid=mark(
            "Do not begin with somaxconn: a longer queue before a program that does not accept makes clients wait "
            "longer, not be served."
        ),
        command="finwait list -l -p",
        sources=(_LISTEN_QUEUE,),
    ),
    Rule(
        id="listen-overflow",
        summary=mark("connections are dropped because an accept queue is full"),
        numbers=(2,),
        title=mark("accept queues overflow: {rate} SYNs or last ACKs of handshakes a second are dropped"),
        judge=judge_overflow,
        reads=(TWO_LOOKS, "TcpExt.ListenOverflows"),
        limits={"warning_per_s": 1, "critical_per_s": 5, "shown": 3},
        meaning=mark(
            "A listener's accept queue is full, so the kernel drops handshakes. Clients send their SYN again after 1, 2, "
            "3, 4, 5, 7 and 11 s (before Linux 6.5: 1, 3, 7 s): users see connections that take whole seconds."
        ),
        remedy=mark(
            "See accept-queue-full: the listener named here is the fullest now; the counter is one for all listeners of "
            "the namespace. Let its program accept faster, then lengthen its backlog."
        ),
        avoid=mark("Do not set tcp_abort_on_overflow: it turns each delay into an error."),
        command="nstat -az TcpExtListenOverflows",
        sources=(_SNMP, _LISTEN_QUEUE),
    ),
    Rule(
        id="listen-drops-other",
        summary=mark("listeners drop connections although neither queue is full"),
        numbers=(3,),
        title=mark("listeners drop {rate} SYNs or last ACKs a second although neither queue is full"),
        judge=judge_other_drops,
        reads=(TWO_LOOKS, "TcpExt.ListenDrops", "TcpExt.ListenOverflows"),
        limits={"per_s": 1},
        meaning=mark(
            "ListenDrops grows faster than what full queues explain. What is left: no memory for the socket, no route "
            "back, a refusal by a security module, SYNs to a broadcast address; and, with tcp_syncookies=0, SYNs of "
            "unknown clients once three quarters of tcp_max_syn_backlog are in use."
        ),
        remedy=mark(
            "Look at memory (tcp-memory), at ip route get CLIENT, and at the kernel's log; turn tcp_syncookies on if it "
            "is off."
        ),
        avoid=mark("A longer backlog changes nothing here: the queues are not full."),
        command="nstat -az TcpExtListenDrops TcpExtListenOverflows",
        sources=(_SNMP, _CONN_REQUEST),
    ),
    Rule(
        id="backlog-cut",
        summary=mark("net.core.somaxconn is low and may have cut a listener's backlog"),
        numbers=(4,),
        title=mark("the accept queue of {who} at {local} ends at net.core.somaxconn = {limit}"),
        judge=judge_backlog_cut,
        reads=("core.somaxconn",),
        limits={"somaxconn": 4096, "used_share": 0.5},
        meaning=mark(
            "listen() silently takes the lesser of its argument and net.core.somaxconn of the network namespace. This "
            "listener's limit is exactly that, which is below the kernel's default of 4096, and its queue is half full "
            "or more. A new namespace gets the kernel's default, not the host's value."
        ),
        remedy=mark(
            "Raise net.core.somaxconn in this network namespace (in a container: with the container's settings) and let "
            "the program listen() again."
        ),
        avoid=mark("It does not help a program that is too slow on average; see accept-queue-full."),
        command="finwait list -l",
        sources=(_LISTEN_QUEUE, "Documentation/admin-guide/sysctl/net.rst: somaxconn"),
    ),
    Rule(
        id="syn-flood",
        summary=mark("a full SYN queue, and SYN cookies that nobody answers"),
        numbers=(5,),
        title=mark("SYN flood: {rate} SYN cookies a second, and next to none is answered"),
        judge=judge_flood,
        reads=(TWO_LOOKS, "TcpExt.TCPReqQFullDoCookies", "TcpExt.SyncookiesSent", "TcpExt.SyncookiesRecv"),
        limits={"warning_per_s": 1, "critical_per_s": 5, "answered_share": 0.1, "queue_share": 0.75},
        meaning=mark(
            "A listener's SYN queue is full, so the kernel answers SYNs with cookies and keeps nothing. Hardly any is "
            "answered: the source addresses are spoofed, or the way back to the clients is broken. Real clients still "
            "get in through cookies."
        ),
        remedy=mark(
            "Leave tcp_syncookies=1 at work: it is doing its task. Look at the sources (finwait list state syn-recv); if "
            "they are real clients' networks, look for asymmetric routing or a firewall that drops the SYN-ACK. Have a "
            "flood filtered before it reaches the host."
        ),
        avoid=mark(
            "Do not turn SYN cookies off, and do not set tcp_synack_retries or tcp_max_syn_backlog in a hurry: the first "
            "gives up on slow clients, the second does nothing while cookies are on."
        ),
        command="nstat -az TcpExtTCPReqQFullDoCookies TcpExtSyncookiesSent TcpExtSyncookiesRecv",
        sources=(_CONN_REQUEST, _SNMP, "RFC 4987"),
    ),
    Rule(
        id="syn-backlog-burst",
        summary=mark("a full SYN queue, and SYN cookies that real clients answer"),
        numbers=(5,),
        title=mark("more clients at once than the SYN queue holds: {rate} SYN cookies a second, which are answered"),
        judge=judge_burst,
        reads=(TWO_LOOKS, "TcpExt.TCPReqQFullDoCookies", "TcpExt.SyncookiesSent", "TcpExt.SyncookiesRecv"),
        limits={"per_s": 1, "answered_share": 0.1, "queue_share": 0.75},
        meaning=mark(
            "Clients answer the cookies, so they are real: more of them are in the handshake at once than the listener's "
            "backlog. They get in, but those without timestamps lose window scaling and SACK and are slower."
        ),
        remedy=mark("Raise the program's backlog in listen(), and net.core.somaxconn if that is less."),
        avoid=mark("Do not turn SYN cookies off: these clients would then be dropped."),
        command="nstat -az TcpExtTCPReqQFullDoCookies TcpExtSyncookiesSent TcpExtSyncookiesRecv",
        sources=(_CONN_REQUEST, _SNMP, "RFC 4987"),
    ),
    Rule(
        id="syn-queue-drop",
        summary=mark("SYNs are dropped because the SYN queue is full and SYN cookies are off"),
        numbers=(6,),
        title=mark("{rate} SYNs a second are dropped: the SYN queue is full and SYN cookies are off"),
        judge=judge_syn_drop,
        reads=(TWO_LOOKS, "TcpExt.TCPReqQFullDrop"),
        limits={"warning_per_s": 0, "critical_per_s": 5},
        meaning=mark(
            "While the queue is full nobody gets in, real clients no more than a flood: a few hundred SYNs a second are "
            "enough to keep it full."
        ),
        remedy=mark("Set net.ipv4.tcp_syncookies=1, the default. It takes effect at once."),
        avoid=mark("A longer backlog alone is filled by the same flood a little later."),
        command="nstat -az TcpExtTCPReqQFullDrop; sysctl net.ipv4.tcp_syncookies",
        sources=(_CONN_REQUEST, _SNMP),
    ),
    Rule(
        id="half-open-unanswered",
        summary=mark("a listener's SYN queue is nearly full of clients that do not answer"),
        numbers=(7,),
        title=mark(
            "{count} half-open connections at {local}, whose queue takes {limit}: most do not answer the SYN-ACK"
        ),
        judge=judge_half_open,
        reads=(),
        limits={"share": 0.75, "unanswered_share": 0.5, "least_connections": 10},
        meaning=mark(
            "The kernel has sent the SYN-ACK again and no ACK came: spoofed addresses, or a broken way back to the "
            "clients. (Half-open connections whose SYN-ACK was not sent again are harmless: with TCP_DEFER_ACCEPT they "
            "wait for the client's first data.)"
        ),
        remedy=mark(
            "See whether the sources are your clients. If so, follow the SYN-ACK (routing, firewall); if not, it is a "
            "flood, and SYN cookies take over when the queue is full."
        ),
        avoid=mark("Do not lower tcp_synack_retries for it: clients on slow paths lose their connections first."),
        command="finwait list -o state syn-recv",
        sources=("RFC 4987", _CONN_REQUEST),
    ),
    Rule(
        id="reuseport-imbalance",
        summary=mark("of listeners that share a port one is full, another empty"),
        numbers=(8,),
        title=mark("{full} of {count} listeners at {local} are full while others are empty: {who}"),
        judge=judge_reuseport,
        reads=(OWNERS,),
        states=(TcpState.LISTEN,),
        limits={"full_share": 1.0, "warning_share": 0.8},
        meaning=mark(
            "With SO_REUSEPORT the kernel chooses a listener by a hash of the addresses and ports, whether it accepts or "
            "not. Connections that fall to the full one wait or are dropped while the other workers idle; the same "
            "client may get in when it tries from another port."
        ),
        remedy=mark(
            "Look what that worker does (stuck, blocked, a listener that nobody reads any more since a reload) and "
            "restart it: when its listener is closed, what waits there is reset unless tcp_migrate_req is 1."
        ),
        avoid=mark("More workers do not help: the hash still gives the stuck one its share."),
        command="finwait list -l -p",
        sources=("man 7 socket, SO_REUSEPORT", "ip-sysctl: tcp_migrate_req"),
    ),
    Rule(
        id="abort-on-overflow",
        summary=mark("tcp_abort_on_overflow resets clients that meet a full accept queue"),
        numbers=(9,),
        title=mark("net.ipv4.tcp_abort_on_overflow is 1"),
        judge=judge_abort_on_overflow,
        reads=("ipv4.tcp_abort_on_overflow",),
        limits={"overflows": 0},
        meaning=mark(
            "When an accept queue is full at the end of a handshake, the client is reset. With 0, the default, the "
            "kernel waits: the client's next segment tries again, and a short burst harms nobody."
        ),
        remedy=mark("Set it to 0, unless clients must fail at once so that they go to another server."),
        avoid=mark("It does not make the program accept faster."),
        command="sysctl net.ipv4.tcp_abort_on_overflow",
        sources=("ip-sysctl: tcp_abort_on_overflow",),
    ),
)
