"""Made-up looks for the rules: rows from keywords, counters at each look, settings, who holds what."""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from finwait.diagnosis.case import Case
from finwait.diagnosis.rules import RULE_BY_ID
from finwait.diagnosis.verdict import diagnose
from finwait.errors import Phrase
from finwait.table.columns import TIMER_NAMES
from finwait.table.look import INFO_COLUMNS, LOOK_COLUMNS, PLAIN_COLUMNS, Holders, Host, Look, Process
from finwait.table.snapshot import Netns, Provenance
from finwait.tcp.state import TcpState
from tests.unit.batches import AF_INET, AF_INET6, batch_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from finwait.table.finding import Diagnosis, Finding

    Row = dict[str, Any]
    At = int | tuple[int | None, ...]

PID = 4711
SECONDS = 10.0  # between the first look and the last
# Of a host that nobody has touched.
DEFAULTS = {
    "core.somaxconn": "4096",
    "ipv4.ip_forward": "0",
    "ipv4.ip_local_port_range": "32768 60999",
    "ipv4.ip_local_reserved_ports": "",
    "ipv4.tcp_abort_on_overflow": "0",
    "ipv4.tcp_fin_timeout": "60",
    "ipv4.tcp_keepalive_time": "7200",
    "ipv4.tcp_max_orphans": "1000",
    "ipv4.tcp_max_tw_buckets": "100000",
    "ipv4.tcp_mem": "500 1000 2000",
    "ipv4.tcp_rfc1337": "0",
    "ipv4.tcp_retries2": "15",
    "ipv4.tcp_syncookies": "1",
    "ipv4.tcp_timestamps": "1",
    "ipv4.tcp_tw_reuse": "2",
    "ipv4.tcp_tw_reuse_delay": "1000",
    "netfilter.nf_conntrack_count": "100",
    "netfilter.nf_conntrack_max": "1000",
    "netfilter.nf_conntrack_tcp_timeout_established": "432000",
}
_COUNTERS = (
    *("TcpExt." + name for name in (
        "ListenOverflows", "ListenDrops", "TCPReqQFullDoCookies", "TCPReqQFullDrop", "SyncookiesSent", "SyncookiesRecv",
        "TCPChallengeACK", "TCPTimeWaitOverflow", "TCPSynRetrans", "TCPAbortOnData", "TCPAbortOnClose", "TCPAbortOnTimeout",
        "TCPAbortOnMemory", "PAWSEstab", "PAWSActive", "TSEcrRejected")),
    *("Tcp." + name for name in ("ActiveOpens", "AttemptFails", "OutRsts", "OutSegs", "RetransSegs")),
    *("conntrack." + name for name in ("drop", "early_drop", "insert_failed")),
    *("sockstat.TCP." + name for name in ("tw", "orphan", "mem")),
)  # fmt: skip
QUIET = dict.fromkeys(_COUNTERS, 0)
_MINI = (TcpState.TIME_WAIT, TcpState.SYN_RECV)
_numbers = count(1)


def sock(state: TcpState, local: str = "10.0.0.1:8080", peer: str = "10.9.0.1:40000", **columns: Any) -> Row:
    """A socket; `pid` and `fd` are its owner's, None for nobody; timers by name."""
    local_address, _, local_port = local.rpartition(":")
    peer_address, _, peer_port = peer.rpartition(":")
    number = next(_numbers)
    row: Row = {
        "state": int(state),
        "family": AF_INET6 if ":" in local_address else AF_INET,
        "local_address": local_address,
        "local_port": int(local_port),
        "peer_address": peer_address,
        "peer_port": int(peer_port),
        "cookie": number,
        "retransmits": 0,
        "pid": None if state in _MINI else PID,
        "fd": number % 60_000,
        **columns,
    }
    if isinstance(row.get("timer", "none"), str):
        row["timer"] = TIMER_NAMES.index(row.get("timer", "none"))
    if state != TcpState.LISTEN:
        row = {"recv_q": 0, "send_q": 0, **row}
    if state not in _MINI and state != TcpState.LISTEN:
        row = {**dict.fromkeys(INFO_COLUMNS, 0), **row}
    row.setdefault("inode", None if row["pid"] is None else 100_000 + number)
    return row


def listener(length: int, limit: int, local: str = "0.0.0.0:80", **columns: Any) -> Row:
    """A listener with so much in its accept queue."""
    wildcard = "[::]:0" if ":" in local.rpartition(":")[0] else "0.0.0.0:0"
    peer = wildcard.replace("[", "").replace("]", "")
    return sock(TcpState.LISTEN, local, peer, accept_queue_length=length, accept_queue_limit=limit, **columns)


def case_of(
    rows: Sequence[Row] = (),
    *,
    before: Sequence[Row] | None = None,
    looks: int = 2,
    counters: Mapping[str, At] | None = None,
    sysctls: Mapping[str, str | None] | None = None,
    seconds: float = SECONDS,
    since_s: float = 0.0,
    info_before: bool = False,
    host: Host | None = None,
    **extra: Any,
) -> Case:
    """rows: of the last look; before: of the looks before it, the same unless told. counters: the value at each look, or the
    last; None is a counter that is not there. sysctls: on top of DEFAULTS, None takes one away.
    """
    settings = {name: text for name, text in {**DEFAULTS, **(sysctls or {})}.items() if text is not None}
    made = []
    for at in range(looks):
        is_last = at == looks - 1
        columns = LOOK_COLUMNS if is_last or info_before else PLAIN_COLUMNS
        of_look = rows if is_last or before is None else before
        values = {**QUIET, **{name: _at(value, at, is_last=is_last) for name, value in (counters or {}).items()}}
        known = {name: value for name, value in values.items() if value is not None}
        at_s = 1000.0 + seconds * at / max(looks - 1, 1)
        made.append(Look(Netns(inode=1), at_s, 1e9 + at_s, batch_of(of_look, columns), known, settings, **extra))
    held = sorted((at, row["pid"], row["fd"]) for at, row in enumerate(rows) if row["pid"] is not None)
    columns_of = np.asarray(held, dtype=np.int64).reshape(-1, 3).T
    kinds = ["process" if row["pid"] is not None else None for row in rows]
    names = {row["pid"]: f"server-{row['pid']}" for row in rows if row["pid"] is not None}
    processes = {pid: Process(pid, name, 10, 1000) for pid, name in names.items()}
    found = host if host is not None else Host(processes, ghosts_seen=True)
    return Case(tuple(made), Holders(*columns_of, kinds, "proc_fd"), found, np.full(len(rows), since_s))


def _at(value: At, at: int, *, is_last: bool) -> int | None:
    if isinstance(value, tuple):
        return value[at]
    return value if is_last else 0


def verdict(case: Case, *rules: str, others: Sequence[Case] = (), **limits: float) -> Diagnosis:
    """What `rules` (all for none) say; limits: thresholds of the first."""
    chosen = [RULE_BY_ID[rule] for rule in rules] or list(RULE_BY_ID.values())
    case.others = tuple(others)
    diagnosis = diagnose([case, *others], chosen, {rules[0]: limits} if rules else {}, Provenance("sock_diag"))
    for finding in diagnosis.findings:  # every place of its texts is filled, and the evidence is JSON
        assert "{" not in f"{finding.title}{finding.meaning}{finding.remedy}{finding.avoid or ''}"
        assert json.loads(json.dumps(_plain(finding.evidence)))
    return diagnosis


def _plain(evidence: object) -> object:
    """As it is written: an evidence may be a phrase, such as how many peers there are."""
    if isinstance(evidence, dict):
        return {name: _plain(value) for name, value in evidence.items()}
    return str(evidence) if isinstance(evidence, Phrase) else evidence


def found(case: Case, rule: str, **limits: float) -> list[Finding]:
    """The findings of one rule, which must be judged."""
    diagnosis = verdict(case, rule, **limits)
    assert (diagnosis.checked, diagnosis.unchecked) == ([rule], [])
    return diagnosis.findings


def severities(case: Case, rule: str, **limits: float) -> list[str]:
    return [finding.severity for finding in found(case, rule, **limits)]


def lacks(case: Case, rule: str) -> list[str]:
    """The codes of why one rule could not be judged."""
    diagnosis = verdict(case, rule)
    return [lack.code for lack in diagnosis.unchecked]
