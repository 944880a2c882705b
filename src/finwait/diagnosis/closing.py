"""Rules about connections that are being closed, or should be: CLOSE-WAIT, FIN-WAIT-1 and 2, CLOSING, LAST-ACK, ghosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from finwait.diagnosis.case import filled
from finwait.diagnosis.pairs import tuples
from finwait.diagnosis.rule import GHOSTS, HOST, INFO_OF_TCP, LIMITS, OWNERS, TWO_LOOKS, Rule, Sign
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

    Limits = Mapping[str, float]

PERSIST = TIMER_NAMES.index("persist")
_SHUTDOWN = "RFC 9293, 3.6"


def held(case: Case) -> Mask:
    """Which sockets a program has a descriptor of."""
    found: Mask = case.values("inode") != 0
    return found


def ages_s(case: Case) -> Array:
    """For how many seconds at least each socket is in its state: as long as it was seen there, or, once the peer has closed or
    has acknowledged our FIN, as long as no segment with an ACK came (tcp_info's last_ack_recv; last_data_recv says nothing: a
    connection that was idle for a minute may have been closed a second ago).
    """  # fmt: skip
    silent = case.values("last_ack_recv_ms") / 1000
    counts = case.in_state(TcpState.CLOSE_WAIT, TcpState.FIN_WAIT2)
    return np.where(counts, np.maximum(case.since_s, silent), case.since_s)


def _still_sends(case: Case, ages: Array) -> Mask:
    """Whether the program goes on sending after the peer has closed its direction: a half-close that is meant."""
    sent_s = case.values("last_data_sent_ms") / 1000
    return case.has("last_data_sent_ms") & (case.values("bytes_acked") > 0) & (sent_s < ages - 1)


def judge_close_wait_leak(case: Case, limits: Limits) -> Iterator[Sign]:
    """CLOSE-WAIT that a program holds and does not close, by process."""
    ages = ages_s(case)
    closing = case.in_state(TcpState.CLOSE_WAIT) & held(case)
    leaked = closing & (ages >= limits["warning_age_s"]) & ~_still_sends(case, ages)
    recv_q = case.values("recv_q")
    for pid, rows in case.by_process(leaked):
        oldest = float(ages[rows].max())
        grown = _grown(case, closing & (case.pids == pid))
        critical = oldest >= limits["critical_age_s"] or grown
        unread, eof = int((recv_q[rows] > 1).sum()), int((recv_q[rows] == 1).sum())
        evidence = {
            "connections": len(rows),
            "oldest_s": round(oldest, 1),
            "unread_data": unread,
            "end_of_file_not_read": eof,
            "read_but_not_closed": len(rows) - unread - eof,
            "peers": top_peers(case, rows),
            "growing": grown,
        }
        note = Phrase(_reading_of(unread, eof, len(rows)))
        title = {"who": case.who(pid), "count": len(rows)}
        yield Sign(CRITICAL if critical else WARNING, evidence, title, rows, oldest, guilty=True, note=note)


LEAK_UNREAD = mark(
    "The peer has closed; the kernel waits for the program to call close(), for ever if need be. Most of these have "
    "data that the "
    "program has not even read: it has forgotten them, or the thread that should read is stuck."
)
LEAK_EOF = mark(
    "The peer has closed; the kernel waits for the program to call close(), for ever if need be. Most of these have "
    "the end of the "
    "stream unread: nobody reads from them any more, as in a connection pool that never looks at idle connections."
)
LEAK_READ = mark(
    "The peer has closed; the kernel waits for the program to call close(), for ever if need be. In most of these "
    "the program has "
    "read the end of the stream and did not close: a code path, often of an error, lacks its close()."
)


def _reading_of(unread: int, eof: int, count: int) -> str:
    if unread * 2 > count:
        return LEAK_UNREAD
    return LEAK_EOF if eof * 2 > count else LEAK_READ


def _grown(case: Case, mask: Mask) -> bool:
    """Whether at each of three looks more of the sockets of `mask` were there, and more CLOSE-WAIT at all: where they change
    quickly, those of now are always fewer at the looks before.
    """  # fmt: skip
    if len(case.looks) < 3:
        return False
    cookies = case.values("cookie")[mask]
    own = [int(np.isin(cookies, filled(look, "cookie")).sum()) for look in case.looks[-3:]]
    everyones = [
        int(((filled(look, "state") == TcpState.CLOSE_WAIT) & (filled(look, "inode") != 0)).sum())
        for look in case.looks[-3:]
    ]
    return all(first < second < third for first, second, third in (own, everyones))


def top_peers(case: Case, rows: Array) -> list[dict[str, object]]:
    """The peers with most of the sockets `rows`."""
    mask = np.zeros(case.count, dtype=np.bool_)
    mask[rows] = True
    found: list[dict[str, object]] = []
    for same in case.by_peer(mask, "peer_address", "family"):
        if len(found) == 3:
            break
        address = cells_of(case.now.rows.take(same[:1]), "peer_address")[0]
        found.append({"peer": address, "connections": len(same)})
    return found


def judge_close_wait_churn(case: Case, limits: Limits) -> Iterator[Sign]:
    """CLOSE-WAIT in a steady number whose sockets change."""
    then = np.isin(case.looks[0].rows.column("state").values, int(TcpState.CLOSE_WAIT))
    ages = ages_s(case)
    now = case.in_state(TcpState.CLOSE_WAIT) & held(case)
    count, before = int(now.sum()), int(then.sum())
    if count < limits["least_connections"] or not before / 2 <= count <= before * 2:
        return
    if (ages[now] >= limits["old_s"]).any():
        return  # a matter of close-wait-leak
    stayed = int((now & (case.before >= 0) & (case.values_before("state") == TcpState.CLOSE_WAIT)).sum())
    if stayed == count:
        return  # they do not change, or only grow in number
    share = stayed / count
    evidence = {"connections": count, "stayed": stayed, "seconds": round(case.interval_s, 1)}
    rows = np.flatnonzero(now)
    if share > limits["slow_share"]:
        yield Sign(WARNING, evidence, {"count": count}, rows, guilty=True, note=Phrase(SLOW_CHURN))
    else:
        yield Sign(INFO, evidence, {"count": count}, rows, guilty=True)


SLOW_CHURN = mark(
    "Connections stay in CLOSE-WAIT for seconds before the program closes them: it is starved of processor time, or "
    "blocked in "
    "something slow between reading the end of the stream and close()."
)


def judge_not_accepted(case: Case, limits: Limits) -> Iterator[Sign]:
    """CLOSE-WAIT of a connection that no program has accepted, by listener's port."""
    mask = case.in_state(TcpState.CLOSE_WAIT) & ~held(case)
    for rows in case.by_peer(mask, "local_port"):
        if len(rows) < limits["least_connections"]:
            return
        port = int(case.values("local_port")[rows[0]])
        listening = case.in_state(TcpState.LISTEN) & (case.values("local_port") == port)
        pids = tuple(int(pid) for pid in np.unique(case.pids[listening]) if pid >= 0)
        who = case.who(pids[0] if pids else -1)
        oldest = float(ages_s(case)[rows].max())
        evidence = {"connections": len(rows), "port": port, "oldest_s": round(oldest, 1)}
        yield Sign(
            WARNING, evidence, {"count": len(rows), "port": port, "who": who}, rows, oldest, guilty=True, pids=pids
        )


def judge_reconnect(case: Case, limits: Limits) -> Iterator[Sign]:
    """SYN-SENT here to a tuple that the other end still holds in CLOSE-WAIT."""
    waiting = np.flatnonzero(case.in_state(TcpState.SYN_SENT) & (case.values("retransmits") >= limits["retransmits"]))
    if not len(waiting):
        return
    held_open: set[bytes] = set()
    for one in (case, *case.others):
        held_open.update(tuples(one, np.flatnonzero(one.in_state(TcpState.CLOSE_WAIT)), seen_from_peer=True))
    rows = waiting[[key in held_open for key in tuples(case, waiting)]]
    if len(rows):
        yield Sign(CRITICAL, {"connections": len(rows)}, {"count": len(rows)}, rows, guilty=False)


def judge_challenged(case: Case, limits: Limits) -> Iterator[Sign]:
    """Challenge ACKs that grow while connections stand in CLOSE-WAIT: clients come again from the port that is still
    held.
    """  # fmt: skip
    held_open = case.in_state(TcpState.CLOSE_WAIT) & held(case)
    rate = case.rate("TcpExt.TCPChallengeACK")
    if rate >= limits["rate_per_s"] and held_open.any():
        evidence = {"challenge_acks_per_s": round(rate, 2), "close_wait": int(held_open.sum())}
        yield Sign(WARNING, evidence, {"count": int(held_open.sum())}, np.flatnonzero(held_open), guilty=True)


def judge_fin_wait_2(case: Case, limits: Limits) -> Iterator[Sign]:
    """FIN-WAIT-2 that a program still holds, by process."""
    ages = ages_s(case)
    mask = case.in_state(TcpState.FIN_WAIT2) & held(case) & (ages >= limits["age_s"])
    for pid, rows in case.by_process(mask):
        oldest = float(ages[rows].max())
        evidence = {"connections": len(rows), "oldest_s": round(oldest, 1), "peers": top_peers(case, rows)}
        yield Sign(WARNING, evidence, {"who": case.who(pid), "count": len(rows)}, rows, oldest, guilty=False)


def judge_peer_leaks(case: Case, limits: Limits) -> Iterator[Sign]:
    """FIN-WAIT-2 without owner, by peer: over there they stand in CLOSE-WAIT."""
    mask = case.in_state(TcpState.FIN_WAIT2) & ~held(case)
    for rows in case.by_peer(mask, "peer_address", "peer_port", "family"):
        if len(rows) < limits["least_connections"]:
            return
        peer = cells_of(case.now.rows.take(rows[:1]), "peer")[0]
        evidence = {"connections": len(rows), "peer": peer}
        yield Sign(WARNING, evidence, {"peer": peer, "count": len(rows)}, rows, guilty=False)


def judge_peer_vanished(case: Case, limits: Limits) -> Iterator[Sign]:
    """FIN-WAIT-1, CLOSING and LAST-ACK whose FIN goes unanswered, or is held back by a window of zero, by peer."""
    closing = case.in_state(TcpState.FIN_WAIT1, TcpState.CLOSING, TcpState.LAST_ACK)
    stuck = (case.values("retransmits") >= limits["retransmits"]) | (case.values("timer") == PERSIST)
    for rows, peers in case.worst_peers(closing & stuck, int(limits["shown"]), "peer_address", "family"):
        peer = case.peer_text(rows, peers)
        evidence = {
            "connections": len(rows),
            "peer_count": peers,
            "peer": peer if peers == 1 else None,
            "zero_window": int((case.values("timer")[rows] == PERSIST).sum()),
            "retransmits_max": int(case.values("retransmits")[rows].max()),
            "unsent_or_unacked_bytes": int(case.values("send_q")[rows].sum()),
        }
        severity = matters(case, rows, peers, limits)
        yield Sign(severity, evidence, {"peer": peer, "count": len(rows)}, rows, guilty=False)


def matters(case: Case, rows: Array, peers: int, limits: Limits) -> str:
    """How bad it is that peers have gone. Clients vanish all the time: at a server a few are a note; what this host connects
    to should be there.
    """  # fmt: skip
    is_client = bool(case.is_incoming[rows].all())
    return INFO if is_client and (peers > 1 or len(rows) < limits["warning_connections"]) else WARNING


def judge_ghosts(case: Case, limits: Limits) -> Iterator[Sign]:
    """Processes with many descriptors of connections that have ended, or ever more of them."""
    for process in case.host.processes.values():
        before = process.ghosts_before
        grows = before is not None and process.ghosts > before and process.ghosts >= limits["growing_descriptors"]
        if process.ghosts > limits["descriptors"] or grows:
            evidence = {"descriptors": process.ghosts, "before": before, "limit": process.limit}
            title = {"who": case.who(process.pid), "count": process.ghosts}
            yield Sign(WARNING, evidence, title, pids=(process.pid,))


def judge_descriptor_limit(case: Case, limits: Limits) -> Iterator[Sign]:
    """Processes that are near the number of descriptors that they may open."""
    for process in case.host.processes.values():
        if process.descriptors is None or not process.limit:
            continue
        share = process.descriptors / process.limit
        if share > limits["warning_share"]:
            severity = CRITICAL if share > limits["critical_share"] else WARNING
            evidence = {"descriptors": process.descriptors, "limit": process.limit, "share": round(share, 3)}
            title = {"who": case.who(process.pid), "count": process.descriptors, "limit": process.limit}
            yield Sign(severity, evidence, title, pids=(process.pid,))


RULES = (
    Rule(
        id="close-wait-leak",
        summary=mark("a program does not close what its peers have closed"),
        numbers=(10, 13),
        title=mark("{who} does not close: {count} connections in CLOSE-WAIT"),
        judge=judge_close_wait_leak,
        reads=(INFO_OF_TCP, OWNERS),
        states=(TcpState.CLOSE_WAIT,),
        limits={"warning_age_s": 60, "critical_age_s": 600},
        meaning=LEAK_READ,
        remedy=mark(
            "Mend the program: close() on every path, errors and time-outs included. Restarting it gives the "
            "descriptors back and is a stopgap."
        ),
        avoid=mark(
            "No sysctl gives the descriptor back. tcp_fin_timeout is for FIN-WAIT-2; keepalive may end the connection "
            "once the peer's end is gone, and the program then holds a ghost."
        ),
        command="finwait list -p -i state close-wait",
        sources=(_SHUTDOWN,),
    ),
    Rule(
        id="close-wait-churn",
        summary=mark("CLOSE-WAIT in a steady number, of connections that change"),
        numbers=(11,),
        title=mark("{count} connections in CLOSE-WAIT, which change"),
        judge=judge_close_wait_churn,
        reads=(TWO_LOOKS, INFO_OF_TCP),
        limits={"least_connections": 20, "slow_share": 0.5, "old_s": 60},
        meaning=mark(
            "The program closes what its peers have closed, a little later: normal turnover of a busy server."
        ),
        remedy=mark(
            "Nothing to do while it is quick. Where it is slow, look at what the program does between the end of "
            "the stream and close()."
        ),
        command="finwait list -p state close-wait",
        sources=(_SHUTDOWN,),
    ),
    Rule(
        id="close-wait-not-accepted",
        summary=mark("peers gave up while they waited in an accept queue"),
        numbers=(12,),
        title=mark("{count} connections to port {port} were closed by their peers before {who} accepted them"),
        judge=judge_not_accepted,
        reads=(INFO_OF_TCP,),
        limits={"least_connections": 3},
        meaning=mark(
            "They stand in the listener's accept queue: the handshake is done, the program has not called accept(), "
            "and the client has "
            "lost patience. They count against the queue's limit."
        ),
        remedy=mark(
            "Let the program accept faster: more workers, nothing slow in the loop that accepts; see accept-queue-full."
        ),
        avoid=mark("A longer backlog alone makes clients wait longer before they give up."),
        command="finwait list state close-wait",
        sources=("man 2 listen",),
    ),
    Rule(
        id="connect-meets-close-wait",
        summary=mark("connect() from a port whose old connection the server still holds in CLOSE-WAIT"),
        numbers=(14,),
        title=mark(
            "{count} connections cannot be opened: the server still holds the old ones from the same ports in "
            "CLOSE-WAIT"
        ),
        judge=judge_reconnect,
        reads=(),
        limits={"retransmits": 1},
        meaning=mark(
            "The server answers each SYN with an ACK of the old connection (a challenge ACK, RFC 5961). The client "
            "has nothing to reset it "
            "with where a filter drops its RST, and connect() times out although the server is up."
        ),
        remedy=mark("Mend the server, which does not close (see close-wait-leak there)."),
        command="finwait list -p state syn-sent",
        sources=("RFC 5961, 4.2",),
    ),
    Rule(
        id="close-wait-challenged",
        summary=mark("clients come again from ports whose old connection is still in CLOSE-WAIT"),
        numbers=(14,),
        title=mark("clients connect again from ports that are still held here: {count} connections in CLOSE-WAIT"),
        judge=judge_challenged,
        reads=(TWO_LOOKS, "TcpExt.TCPChallengeACK"),
        limits={"rate_per_s": 1},
        meaning=mark(
            "The kernel answers SYNs that meet an old connection with challenge ACKs (RFC 5961), and their number "
            "grows. Such a client waits "
            "although this server is up."
        ),
        remedy=mark("Mend the program that does not close (see close-wait-leak)."),
        command="nstat -az TcpExtTCPChallengeACK",
        sources=("RFC 5961, 4.2",),
    ),
    Rule(
        id="fin-wait-2-forever",
        summary=mark("a program has half-closed and waits for a peer that does not close"),
        numbers=(15,),
        title=mark("{who} waits in FIN-WAIT-2 for {count} peers to close"),
        judge=judge_fin_wait_2,
        reads=(INFO_OF_TCP, OWNERS),
        states=(TcpState.FIN_WAIT2,),
        limits={"age_s": 60},
        meaning=mark(
            "The program has called shutdown() and still holds the descriptor. No timer ends that: tcp_fin_timeout "
            "is for connections "
            "whose descriptor is closed."
        ),
        remedy=mark(
            "Give the program a time limit after shutdown(), then close(). Where the peer is yours, let it close."
        ),
        avoid=mark("tcp_fin_timeout does nothing for a connection whose program still holds it."),
        command="finwait list -p -i state fin-wait-2",
        sources=("RFC 9293, 3.6", "man 7 tcp"),
    ),
    Rule(
        id="peer-leaks-close-wait",
        summary=mark("many orphans in FIN-WAIT-2 towards one peer"),
        numbers=(15,),
        title=mark("{peer} does not close: {count} connections wait for it in FIN-WAIT-2"),
        judge=judge_peer_leaks,
        reads=(),
        limits={"least_connections": 100},
        meaning=mark(
            "Here the program has closed and the kernel waits for the peer's FIN, for tcp_fin_timeout at most. Over "
            "there these "
            "connections stand in CLOSE-WAIT: it is the peer's program that does not close."
        ),
        remedy=mark("Look at the peer: finwait doctor there, or finwait list -p state close-wait."),
        avoid=mark("A shorter tcp_fin_timeout hides it here and leaves the peer's descriptors leaking."),
        command="finwait list state fin-wait-2",
        sources=("RFC 9293, 3.6",),
    ),
    Rule(
        id="peer-vanished",
        summary=mark("our FIN is sent again and again, or held back by a window of zero"),
        numbers=(16,),
        title=mark("no answer from {peer}: {count} connections cannot be closed"),
        judge=judge_peer_vanished,
        reads=(),
        limits={"retransmits": 3, "warning_connections": 10, "shown": 5},
        meaning=mark(
            "The FIN, or the data before it, is not acknowledged: the peer is gone, a filter drops the segments, or "
            "the peer's window "
            "is zero because its program does not read."
        ),
        remedy=mark(
            "Look whether the peer is up and the path is open. The kernel gives up by itself (tcp_orphan_retries, "
            "tcp_retries2)."
        ),
        avoid=mark("Killing the program does not help: its part is done, the kernel waits."),
        command="finwait list -o state fin-wait-1 state last-ack state closing",
        sources=("RFC 9293, 3.8", "ip-sysctl: tcp_orphan_retries"),
    ),
    Rule(
        id="ghost-sockets",
        summary=mark("descriptors of connections that have ended"),
        numbers=(17,),
        title=mark("{who} holds {count} descriptors of connections that have ended"),
        judge=judge_ghosts,
        reads=(GHOSTS,),
        limits={"descriptors": 100, "growing_descriptors": 10},
        meaning=mark(
            "The peer reset these connections and the program did not close the descriptors. They are in no list of "
            "sockets, of ss, "
            "netstat or /proc/net/tcp, and count against the limit of open files."
        ),
        remedy=mark("Mend the program: close() after ECONNRESET and EPIPE too."),
        command="finwait list --ghosts",
        sources=("kernel: net/ipv4/tcp.c, tcp_reset()",),
        scope=HOST,
    ),
    Rule(
        id="descriptor-limit",
        summary=mark("a process is near its limit of open files"),
        numbers=(18,),
        title=mark("{who} has {count} of {limit} descriptors open"),
        judge=judge_descriptor_limit,
        reads=(LIMITS,),
        limits={"warning_share": 0.8, "critical_share": 0.95},
        meaning=mark(
            "At the limit accept(), connect() and open() fail with EMFILE; connections then wait in the accept "
            "queue until it is full."
        ),
        remedy=mark(
            "Find out whether they leak (close-wait-leak, ghost-sockets, idle connections); if not, raise "
            "LimitNOFILE or ulimit -n."
        ),
        avoid=mark("Raising the limit of a process that leaks only puts the day off."),
        command="finwait --by process,pid",
        sources=("man 2 getrlimit",),
        scope=HOST,
    ),
)
