"""Rules about connections that are open: idle, stuck on either side, or lossy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from finwait.diagnosis.case import filled
from finwait.diagnosis.closing import PERSIST, held, matters, top_peers
from finwait.diagnosis.rule import INFO_OF_TCP, OWNERS, TWO_LOOKS, Rule, Sign, graded
from finwait.errors import Phrase
from finwait.table.cells import cells_of
from finwait.table.columns import TIMER_NAMES
from finwait.table.finding import CRITICAL, INFO, WARNING
from finwait.tcp.state import TcpState
from finwait.text.messages import mark

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from finwait.diagnosis.case import Case
    from finwait.table.batch import Array, Mask
    from finwait.table.look import Look

    Limits = Mapping[str, float]

NO_TIMER, RETRANSMIT, KEEPALIVE = (TIMER_NAMES.index(name) for name in ("none", "on", "keepalive"))
LOAD_BALANCERS_S = (240, 350, 600)  # Azure, AWS (network load balancer, NAT gateway), GCP
_SENDING = (TcpState.ESTABLISHED, TcpState.CLOSE_WAIT)  # where a program can still send
_SNMP = "Documentation/networking/snmp_counter.rst"


def _peer(case: Case, rows: Array, name: str = "peer_address") -> str:
    return str(cells_of(case.now.rows.take(rows[:1]), name)[0])


def judge_idle(case: Case, limits: Limits) -> Iterator[Sign]:
    """Connections on which nothing was sent, received or acknowledged for longer than load balancers remember them, by
    process. A keepalive that works would have been acknowledged: so a keepalive timer excuses nothing.
    """  # fmt: skip
    names = ("last_data_sent_ms", "last_data_recv_ms", "last_ack_recv_ms")
    idle_s = np.minimum.reduce([case.values(name) for name in names]) / 1000
    timer = case.values("timer")
    quiet = case.in_state(TcpState.ESTABLISHED) & held(case) & ~case.is_loopback & np.isin(timer, (NO_TIMER, KEEPALIVE))
    for pid, rows in case.by_process(quiet & (idle_s >= limits["idle_s"])):
        if len(rows) < limits["least_connections"]:
            return
        longest = float(idle_s[rows].max())
        evidence = {
            "connections": len(rows),
            "without_keepalive": int((timer[rows] == NO_TIMER).sum()),
            "idle_max_s": round(longest, 1),
            **{f"idle_over_{limit}_s": int((idle_s[rows] > limit).sum()) for limit in LOAD_BALANCERS_S},
            "keepalive_time_s": case.number("ipv4.tcp_keepalive_time"),
        }
        title = {"who": case.who(pid), "count": len(rows), "seconds": int(limits["idle_s"])}
        yield Sign(INFO, evidence, title, rows, longest)


def judge_unreachable(case: Case, limits: Limits) -> Iterator[Sign]:
    """Data that is sent again and again without an answer, by peer."""
    retransmits = case.values("retransmits")
    mask = case.in_state(*_SENDING) & (case.values("timer") == RETRANSMIT) & (case.values("send_q") > 0)
    mask &= retransmits >= limits["retransmits"]
    for rows, peers in case.worst_peers(mask, int(limits["shown"]), "peer_address", "family"):
        peer = case.peer_text(rows, peers)
        silent = case.values("last_ack_recv_ms")[rows].max() / 1000
        evidence = {
            "connections": len(rows),
            "peer_count": peers,
            "peer": peer if peers == 1 else None,
            "retransmits_max": int(retransmits[rows].max()),
            "unsent_or_unacked_bytes": int(case.values("send_q")[rows].sum()),
            "no_ack_for_s": round(float(silent), 1),
            "retries2": case.number("ipv4.tcp_retries2"),
        }
        title = {"peer": peer, "count": len(rows)}
        yield Sign(matters(case, rows, peers, limits), evidence, title, rows, float(silent) or None, guilty=False)


def _held_back(case: Case, limits: Limits) -> Mask:
    """Connections whose peer's window has been zero, and which have not got rid of a byte, since the first look. Of one look:
    whose window has been probed some times (tcp_info's backoff; the first after 200 ms, then twice as long each time).
    """  # fmt: skip
    persist: Mask = case.in_state(*_SENDING) & (case.values("timer") == PERSIST) & (case.values("send_q") > 0)
    if len(case.looks) < 2:
        persist &= case.values("backoff") >= limits["probes"]
    else:
        persist &= (case.before >= 0) & (case.values_before("timer") == PERSIST)
        persist &= case.values("send_q") >= case.values_before("send_q")
    return persist


def _stalled(case: Case, limits: Limits) -> Mask:
    """Connections that have had data waiting to be sent, and nothing acknowledged, since a look that long ago."""
    found: Mask = case.in_state()
    long_ago = [look for look in case.looks if case.now.at_s - look.at_s >= limits["stalled_s"]]
    if not long_ago or "notsent_bytes" not in long_ago[-1].rows.columns:
        return found
    rows, same = _rows_before(case, long_ago[-1])
    for name, alike in (("notsent_bytes", np.greater_equal), ("bytes_acked", np.equal)):
        same &= alike(case.values(name), filled(long_ago[-1], name)[rows])
    same &= (filled(long_ago[-1], "notsent_bytes")[rows] > 0) & (case.values("retransmits") == 0)
    return same & case.in_state(*_SENDING)


def _rows_before(case: Case, look: Look) -> tuple[Array, Mask]:
    """For each socket of the last look a row of `look`, and whether it is the same socket."""
    then, now = filled(look, "cookie"), case.values("cookie")
    if not len(then):
        return np.zeros(case.count, np.int64), np.zeros(case.count, np.bool_)
    order = np.argsort(then, kind="stable")
    rows = order[np.minimum(np.searchsorted(then[order], now), len(then) - 1)]
    return rows, (then[rows] == now) & (now != 0)


def judge_zero_window(case: Case, limits: Limits) -> Iterator[Sign]:
    """Peers that do not take what we want to send, by the process that sends."""
    stuck = (_held_back(case, limits) | _stalled(case, limits)) & held(case)
    open_ones = case.in_state(*_SENDING) & held(case)
    for pid, rows in case.by_process(stuck):
        peers = top_peers(case, rows)
        share = len(rows) / int((open_ones & (case.pids == pid)).sum())
        silent = case.values("last_data_sent_ms")[rows].min() / 1000
        evidence = {
            "connections": len(rows),
            "share": round(share, 4),
            "peers": peers,
            "waiting_bytes": int(case.values("send_q")[rows].sum()),
            "zero_window": int((case.values("timer")[rows] == PERSIST).sum()),
            "no_data_sent_for_s": round(float(silent), 1),
        }
        # Some viewers among many who have paused a film are no trouble; several connections of one peer are its program.
        of_one = max(int(str(peer["connections"])) for peer in peers)
        many = len(rows) >= limits["warning_connections"] and share >= limits["warning_share"]
        severity = WARNING if of_one >= limits["warning_connections"] or many else INFO
        yield Sign(severity, evidence, {"who": case.who(pid), "count": len(rows)}, rows, guilty=False)


def judge_reader(case: Case, limits: Limits) -> Iterator[Sign]:
    """Received data that the program does not read, by process."""
    recv_q = case.values("recv_q")
    waits = case.in_state(TcpState.ESTABLISHED) & held(case) & (recv_q > 0)
    last_s = case.values("last_data_recv_ms") / 1000
    shrank = (case.before >= 0) & (recv_q < case.values_before("recv_q"))
    # What came last came that long ago, and there is still something unread: at the least its last byte has waited as long.
    old = waits & case.has("last_data_recv_ms") & (last_s >= limits["idle_s"]) & ~shrank
    for pid, rows in case.by_process(old | (waits & _nothing_read(case, limits))):
        oldest = float(np.maximum(last_s[rows], np.where(old[rows], 0, case.interval_s)).max())
        evidence = {
            "connections": len(rows),
            "unread_bytes": int(recv_q[rows].sum()),
            "unread_max_bytes": int(recv_q[rows].max()),
            "waits_at_least_s": round(oldest, 1),
        }
        title = {"who": case.who(pid), "count": len(rows)}
        # Who only ever writes leaves a little unread for ever, such as the session tickets of TLS.
        little = bool(((recv_q[rows] < limits["little_bytes"]) & ~case.is_incoming[rows]).all())
        yield Sign(INFO if little else WARNING, evidence, title, rows, oldest, guilty=True)


def _nothing_read(case: Case, limits: Limits) -> Mask:
    """Connections of which not a byte was read since a look long ago that has tcp_info, though data may go on coming."""
    long_ago = [look for look in case.looks if case.now.at_s - look.at_s >= limits["idle_s"]]
    if not long_ago or "bytes_received" not in long_ago[-1].rows.columns:
        return case.in_state()
    then = long_ago[-1]
    rows, same = _rows_before(case, then)
    unread_then = filled(then, "recv_q")[rows]
    read_then = filled(then, "bytes_received")[rows].astype(np.int64) - unread_then
    read_now = case.values("bytes_received").astype(np.int64) - case.values("recv_q")
    same &= (unread_then > 0) & (read_then == read_now)
    return same


def judge_retransmissions(case: Case, limits: Limits) -> Iterator[Sign]:
    """Segments sent again, SYNs and SYN-ACKs left out: those have rules of their own."""
    sent, again = case.delta("Tcp.OutSegs"), case.delta("Tcp.RetransSegs")
    data = max(again - case.growth("TcpExt.TCPSynRetrans"), 0)
    share = data / max(sent, 1)
    severity = graded(share, limits, "share")
    if severity is None or sent + again < limits["least_segments"]:  # OutSegs leaves out what is sent again (RFC 4022)
        return
    worst, owned = _lossy_peers(case, int(limits["shown"]))
    evidence = {
        "retransmitted": data,
        "syn_retransmits": again - data,
        "segments": sent,
        "share": round(share, 4),
        "peers": worst,
    }
    few = owned > limits["few_peers_share"]
    yield Sign(severity, evidence, {"percent": round(share * 100, 1)}, note=Phrase(FEW_PEERS if few else MANY_PEERS))


def _lossy_peers(case: Case, count: int) -> tuple[list[dict[str, object]], float]:
    """The peers of present connections with most retransmissions in their lives, and which share they have together."""
    again = case.values("total_retrans").astype(np.int64)
    total = int(again.sum())
    groups = list(case.by_peer(again > 0, "peer_address", "family"))
    worst = sorted(groups, key=lambda rows: -int(again[rows].sum()))[:count]
    owned = [int(again[rows].sum()) for rows in worst]
    peers: list[dict[str, object]] = [
        {"peer": _peer(case, rows), "retransmitted_ever": number, "share": round(number / total, 3)}
        for rows, number in zip(worst, owned, strict=True)
    ]
    return peers, sum(owned) / max(total, 1)


FEW_PEERS = mark(
    "Segments are lost, or acknowledged too late. Of the connections that are open now a few peers own most of the "
    "retransmissions: look at the path to these."
)
MANY_PEERS = mark(
    "Segments are lost, or acknowledged too late, and no few peers own most of it (as far as their connections are "
    "still open): look at what all paths share, this host's own link first."
)


def judge_aborts(case: Case, limits: Limits) -> Iterator[Sign]:
    """Connections that end by a reset from here, each reason by itself."""
    for name, reason, severity, note in ABORTS:
        rate = case.growth(f"TcpExt.{name}") / case.interval_s
        least = limits["memory_per_s" if name == "TCPAbortOnMemory" else f"{severity}_per_s"]
        if rate > least:
            evidence = {"counter": f"TcpExt{name}", "per_s": round(rate, 2), "ever": case.counter(f"TcpExt.{name}")}
            title = {"rate": round(rate, 1), "counter": f"TcpExt{name}"}
            command = f"nstat -az TcpExt{name}"
            yield Sign(severity, evidence, {**title, "reason": Phrase(reason)}, note=Phrase(note), command=command)


ABORTS = (
    (
        "TCPAbortOnData",
        mark("closed with SO_LINGER 0, or before all data had come"),
        INFO,
        mark(
            "A program closes with SO_LINGER and a time of 0, or data came on a connection that it had closed already. "
            "The peer sees 'connection reset by peer' and may lose what it has not read yet."
        ),
    ),
    (
        "TCPAbortOnClose",
        mark("closed with data unread"),
        INFO,
        mark(
            "A program calls close() while received data is unread; the kernel must then reset (RFC 2525, 2.17), and the "
            "peer may lose the end of what we sent, such as an error message."
        ),
    ),
    (
        "TCPAbortOnTimeout",
        mark("given up after all retries"),
        WARNING,
        mark(
            "Peers vanish without a word: data, keepalives or handshakes went unanswered until the kernel gave up. The "
            "program sees ETIMEDOUT."
        ),
    ),
    (
        "TCPAbortOnMemory",
        mark("killed for want of memory or for too many orphans"),
        CRITICAL,
        mark(
            "The kernel resets connections because TCP's memory, or the number of orphans, is at its limit: see tcp-memory and "
            "orphans."
        ),
    ),
)


def judge_timestamps(case: Case, limits: Limits) -> Iterator[Sign]:
    """Segments that are dropped for their timestamps."""
    names = ("PAWSEstab", "PAWSActive", "TSEcrRejected")
    grown = {name: case.growth(f"TcpExt.{name}") for name in names}
    rate = sum(grown.values()) / case.interval_s
    if rate > limits["per_s"]:
        evidence = {"per_s": round(rate, 2), **{f"TcpExt{name}": count for name, count in grown.items()}}
        yield Sign(WARNING, evidence, {"rate": round(rate, 1)})


RULES = (
    Rule(
        id="idle-beyond-load-balancer",
        summary=mark("connections idle for longer than load balancers and NAT remember them"),
        numbers=(29,),
        title=mark("{who} has {count} connections idle for more than {seconds} s"),
        judge=judge_idle,
        reads=(INFO_OF_TCP, OWNERS),
        states=(TcpState.ESTABLISHED,),
        limits={"idle_s": 350, "least_connections": 10},
        meaning=mark(
            "Nothing was sent, received or acknowledged for longer than usual idle limits (Azure 240 s, AWS 350 s, GCP "
            "600 s). Where a load balancer, NAT or firewall stands in between it may have forgotten them, and the next "
            "request hangs or is reset. Keepalive probes that the peer sends cannot be seen here."
        ),
        remedy=mark(
            "If there is such a box: SO_KEEPALIVE with TCP_KEEPIDLE below its limit, set by the program; or let the pool "
            "close idle connections before. If there is none, idle connections are no trouble."
        ),
        avoid=mark(
            "tcp_keepalive_time (7200 s by default) alone changes nothing for a program that does not set SO_KEEPALIVE."
        ),
        command="finwait list -p -i -o state established",
        sources=(
            "AWS: NAT gateway and Network Load Balancer idle timeout 350 s",
            "Azure Load Balancer: 4 minutes",
            "Google Cloud: VPC firewall, 10 minutes",
        ),
    ),
    Rule(
        id="peer-unreachable",
        summary=mark("data is sent again and again, and the peer does not answer"),
        numbers=(30,),
        title=mark("no answer any more from {peer}: {count} connections wait with data"),
        judge=judge_unreachable,
        reads=(),
        limits={"retransmits": 5, "warning_connections": 10, "shown": 5},
        meaning=mark(
            "The peer is gone, or the path to it broken, without a word. With tcp_retries2=15 the kernel gives up after "
            "about 924 s or later; until then the program sees a write that succeeded or blocks."
        ),
        remedy=mark(
            "Look whether the peer is up and the path open. Let programs that must know sooner set TCP_USER_TIMEOUT, or "
            "a time limit for answers."
        ),
        avoid=mark("Do not lower tcp_retries2 for the whole host: short losses of the path would end connections."),
        command="finwait list -o -p state established",
        sources=("RFC 9293, 3.8", "ip-sysctl: tcp_retries2"),
    ),
    Rule(
        id="zero-window",
        summary=mark("a peer does not read: its window is zero and our data waits"),
        numbers=(31,),
        title=mark("{count} connections of {who} wait for peers that do not read"),
        judge=judge_zero_window,
        reads=(OWNERS,),
        states=_SENDING,
        limits={"warning_connections": 3, "warning_share": 0.5, "probes": 3, "stalled_s": 30},
        meaning=mark(
            "The peer's program does not read, so that its receive buffer is full and its kernel says: send no more. "
            "Network and both kernels are well. The kernel probes as long as the peer's kernel answers, for ever if need "
            "be."
        ),
        remedy=mark(
            "Look at the program at the other end: stuck, or slower than what it is sent (reader-stuck there). Here, give "
            "writes a time limit (TCP_USER_TIMEOUT counts for this too) and a bound to what is queued."
        ),
        avoid=mark("Larger buffers (tcp_wmem, tcp_rmem) only store more of what is not read."),
        command="finwait list -o -p state established",
        sources=("RFC 9293, 3.8.6.1",),
    ),
    Rule(
        id="reader-stuck",
        summary=mark("a program does not read what it has received"),
        numbers=(32,),
        title=mark("{who} does not read: data waits in {count} connections"),
        judge=judge_reader,
        reads=(INFO_OF_TCP, OWNERS),
        states=(TcpState.ESTABLISHED,),
        limits={"idle_s": 10, "little_bytes": 2048},
        meaning=mark(
            "The kernel has received and acknowledged this data, and the program has not taken it for that long. When the "
            "buffer is full the peer's window becomes zero and the peer waits. (A few hundred bytes on connections that the "
            "program opened and only writes to are harmless: TLS session tickets, a banner.)"
        ),
        remedy=mark(
            "See what the program does instead (its threads' stacks, strace -p, py-spy, jstack): blocked on something "
            "else, a lock, a full pool, or a connection that it has forgotten."
        ),
        avoid=mark("Neither tcp_rmem nor anything else of the network makes a program read."),
        command="finwait list -p -i state established",
        sources=("man 7 tcp",),
    ),
    Rule(
        id="retransmissions",
        summary=mark("a large share of segments must be sent again"),
        numbers=(33,),
        title=mark("{percent} % of all segments are sent again"),
        judge=judge_retransmissions,
        reads=(TWO_LOOKS, "Tcp.RetransSegs", "Tcp.OutSegs"),
        limits={
            "warning_share": 0.01,
            "critical_share": 0.05,
            "least_segments": 1000,
            "few_peers_share": 0.8,
            "shown": 3,
        },
        meaning=MANY_PEERS,
        remedy=mark(
            "Look at drops and errors of the interfaces (ip -s link), at queues (tc -s qdisc), at the limits of the "
            "instance's network, then at the path to the peers named here (mtr --tcp)."
        ),
        avoid=mark("No tcp_* setting mends a lossy path; larger buffers make it worse."),
        command="nstat -az TcpRetransSegs TcpOutSegs TcpExtTCPSynRetrans",
        sources=(_SNMP, "RFC 4022: tcpRetransSegs"),
    ),
    Rule(
        id="aborts",
        summary=mark("connections end by a reset from this host"),
        numbers=(34,),
        title=mark("{rate} connections a second are aborted: {reason} ({counter})"),
        judge=judge_aborts,
        reads=(
            TWO_LOOKS,
            *(f"TcpExt.{name}" for name in ("TCPAbortOnData", "TCPAbortOnClose", "TCPAbortOnTimeout")),
            "TcpExt.TCPAbortOnMemory",
        ),
        limits={"info_per_s": 1, "warning_per_s": 1, "memory_per_s": 0},
        meaning=ABORTS[0][3],
        remedy=mark(
            "Find the program: it should read to the end, or shutdown() and wait for the peer, before close(). For "
            "time-outs see peer-unreachable, for memory tcp-memory and orphans."
        ),
        avoid=mark("SO_LINGER 0 'against TIME-WAIT' causes what is counted here."),
        command="nstat -az 'TcpExtTCPAbort*'",
        sources=(_SNMP, "RFC 2525, 2.17"),
    ),
    Rule(
        id="timestamps-rejected",
        summary=mark("segments are dropped because their timestamps do not fit"),
        numbers=(37,),
        title=mark("{rate} segments a second are dropped for their timestamps"),
        judge=judge_timestamps,
        reads=(TWO_LOOKS, "TcpExt.PAWSEstab", "TcpExt.PAWSActive"),
        limits={"per_s": 1},
        meaning=mark(
            "A segment's timestamp is older than the last one seen of that connection (PAWS, RFC 7323), or echoes what "
            "we never sent. Often a NAT or proxy that mixes the clocks of several hosts, sometimes segments that come "
            "very late."
        ),
        remedy=mark("Find the peers (tcpdump, the option TS) and the box between that rewrites or mixes timestamps."),
        avoid=mark(
            "Turning tcp_timestamps off on this host hides it, and gives up protection against old segments and "
            "tcp_tw_reuse."
        ),
        command="nstat -az TcpExtPAWSEstab TcpExtPAWSActive TcpExtTSEcrRejected",
        sources=("RFC 7323, 5", _SNMP),
    ),
)
