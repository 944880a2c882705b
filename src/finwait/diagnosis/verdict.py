"""Rules applied to cases: each judged where what it reads is there, else told as unchecked; signs become findings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from finwait.diagnosis.pairs import other_end
from finwait.diagnosis.rule import GHOSTS, HOST, INFO_OF_TCP, LIMITS, OWNERS, TWO_LOOKS
from finwait.errors import Phrase
from finwait.table.cells import cells_of
from finwait.table.finding import SEVERITIES, Diagnosis, Endpoint, Finding, Owner, Unchecked
from finwait.table.owners import NOT_PERMITTED
from finwait.text.messages import mark

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from finwait.diagnosis.case import Case
    from finwait.diagnosis.rule import Rule, Sign
    from finwait.table.batch import Array
    from finwait.table.snapshot import Provenance

SHOWN_CONNECTIONS = 5
PAIRS_TRIED = 40
SHOWN_DESCRIPTORS = 20

ONE_LOOK = mark("it compares two looks, and there was one")
NO_COUNTER = mark("this kernel or namespace has no counter {name}")
NO_SETTING = mark("this kernel or namespace has no setting {name}")
RESET = mark("the counter {name} went back between the looks")
NO_OWNERS = mark("who holds the sockets was not looked for")
HIDDEN_OWNERS = mark("sockets whose owner may not be seen: {count}")
NO_TCP_INFO = mark("the source does not tell tcp_info")
NO_GHOSTS = mark("descriptors of ended connections cannot be told from those of sockets never connected")
NO_LIMITS = mark("the descriptor limits of other users' processes may not be read")
ROOT = mark("root, or CAP_SYS_PTRACE")
BPF = mark("CAP_BPF and CAP_PERFMON, or root")
SOCK_DIAG = mark("sock_diag")
LONGER = mark("--for SECONDS")


def diagnose(
    cases: Sequence[Case], rules: Sequence[Rule], limits: Mapping[str, Mapping[str, float]], provenance: Provenance
) -> Diagnosis:
    """Judge every rule. limits: thresholds by rule, for those that are not as the rule has them."""
    diagnosis = Diagnosis(provenance, looks=max((len(case.looks) for case in cases), default=0))
    diagnosis.over_s = max((case.interval_s for case in cases), default=0.0)
    diagnosis.sockets = sum(case.count for case in cases)
    for rule in rules:
        _judge(rule, cases[:1] if rule.scope == HOST else cases, {**rule.limits, **limits.get(rule.id, {})}, diagnosis)
    worst_first = sorted(diagnosis.findings, key=lambda finding: -SEVERITIES.index(finding.severity))
    diagnosis.findings = worst_first
    return diagnosis


def _judge(rule: Rule, cases: Sequence[Case], limits: Mapping[str, float], diagnosis: Diagnosis) -> None:
    """Judge `rule` in each case; where something that it reads is missing in all of them it is unchecked."""
    lacks: list[Unchecked] = []
    judged = False
    for case in cases:
        lack = _worst(_lacks(rule, case))
        if lack is not None:
            lacks.append(lack)
            if not lack.code.endswith("_partly"):
                continue
        judged = True
        diagnosis.findings.extend(_finding(rule, case, sign) for sign in rule.judge(case, limits))
    if judged:
        diagnosis.checked.append(rule.id)
    diagnosis.unchecked.extend(lacks[:1])


def lack_here(rule: Rule, cases: Sequence[Case]) -> Unchecked | None:
    """Why `rule` cannot be judged on this machine, or only in part, however long one looks."""
    found = [_worst(_lacks_of(rule, case)) for case in (cases[:1] if rule.scope == HOST else cases)]
    return found[0] if found and all(lack is not None for lack in found) else None


def _worst(lacks: Iterator[Unchecked]) -> Unchecked | None:
    """One that keeps the rule from being judged at all, else the first."""
    found = list(lacks)
    return next((lack for lack in found if not lack.code.endswith("_partly")), found[0] if found else None)


def _lacks(rule: Rule, case: Case) -> Iterator[Unchecked]:
    """What `rule` reads and `case` does not have. A code that ends in ``_partly`` does not keep the
    rule from being judged by what can be seen.
    """  # fmt: skip
    if TWO_LOOKS in rule.reads and len(case.looks) < 2:
        yield Unchecked(rule.id, "one_look", Phrase(ONE_LOOK), Phrase(LONGER))
        return
    yield from _lacks_of(rule, case)


def _lacks_of(rule: Rule, case: Case) -> Iterator[Unchecked]:
    for name in rule.reads:
        lack = _lack(rule, name, case)
        if lack is not None:
            yield lack


def _lack(rule: Rule, name: str, case: Case) -> Unchecked | None:
    if name in _SPECIAL:
        return _SPECIAL[name](rule, case)
    if "." not in name:
        return None
    if name.partition(".")[0] in {"ipv4", "core", "netfilter"}:
        known = name in case.now.sysctls
        return None if known else Unchecked(rule.id, "no_setting", Phrase(NO_SETTING, name=name))
    is_gauge = name.startswith("sockstat.")
    if any(name not in look.counters for look in ((case.now,) if is_gauge else (case.looks[0], case.now))):
        return Unchecked(rule.id, "no_counter", Phrase(NO_COUNTER, name=name))
    if is_gauge:  # which may fall
        return None
    return Unchecked(rule.id, "counter_reset", Phrase(RESET, name=name)) if case.was_reset(name) else None


def _owners(rule: Rule, case: Case) -> Unchecked | None:
    if case.holders is None:
        return Unchecked(rule.id, "no_owners", Phrase(NO_OWNERS), Phrase(ROOT))
    rows = np.flatnonzero(case.in_state(*rule.states)).tolist()
    unseen = sum(case.holders.kinds[row] == NOT_PERMITTED for row in rows)
    if unseen:
        return Unchecked(rule.id, "owners_partly", Phrase(HIDDEN_OWNERS, count=unseen), Phrase(ROOT))
    return None


def _tcp_info(rule: Rule, case: Case) -> Unchecked | None:
    if "last_ack_recv_ms" in case.now.rows.columns or not (case.values("inode") != 0).any():
        return None
    return Unchecked(rule.id, "no_tcp_info", Phrase(NO_TCP_INFO), Phrase(SOCK_DIAG))


def _ghosts(rule: Rule, case: Case) -> Unchecked | None:
    return None if case.host.ghosts_seen else Unchecked(rule.id, "no_ghosts", Phrase(NO_GHOSTS), Phrase(BPF))


def _limits(rule: Rule, case: Case) -> Unchecked | None:
    if all(process.descriptors is not None for process in case.host.processes.values()):
        return None
    return Unchecked(rule.id, "limits_partly", Phrase(NO_LIMITS), Phrase(ROOT))


_SPECIAL = {OWNERS: _owners, INFO_OF_TCP: _tcp_info, GHOSTS: _ghosts, LIMITS: _limits}


def _finding(rule: Rule, case: Case, sign: Sign) -> Finding:
    rows = np.zeros(0, np.int64) if sign.rows is None else sign.rows
    owners = _owners_of(case, rows) or tuple(_bare_owner(case, pid) for pid in sign.pids)
    return Finding(
        rule=rule.id,
        severity=sign.severity,
        title=Phrase(rule.title, **sign.title),
        evidence=dict(sign.evidence),
        meaning=Phrase(rule.meaning) if sign.note is None else sign.note,
        remedy=Phrase(rule.remedy),
        avoid=None if rule.avoid is None else Phrase(rule.avoid),
        command=sign.command or rule.command,
        sources=rule.sources,
        owners=owners,
        connections=tuple(_examples(case, rows, sign.guilty)),
        total=len(rows),
        since_s=sign.since_s,
        netns=case.now.netns,
    )


def _bare_owner(case: Case, pid: int) -> Owner:
    process = case.host.processes.get(pid)
    return Owner(pid, None if process is None else process.name, (), 0, None)


def _owners_of(case: Case, rows: Array) -> tuple[Owner, ...]:
    """The processes that hold the sockets `rows`, with their descriptors, those with most of them first."""
    holders = case.holders
    if holders is None or not len(rows):
        return ()
    held = np.isin(holders.rows, rows)
    found = []
    for pid in np.unique(holders.pids[held]).tolist():
        fds = np.unique(holders.fds[held & (holders.pids == pid)])
        process = case.host.processes.get(pid)
        name = None if process is None else process.name
        found.append(Owner(pid, name, tuple(fds[:SHOWN_DESCRIPTORS].tolist()), len(fds), holders.matched_by))
    return tuple(sorted(found, key=lambda owner: (-owner.fd_count, owner.pid)))


def _examples(case: Case, rows: Array, guilty: bool | None) -> Iterator[Endpoint]:
    """Some of the sockets, the oldest; where the other end is on this host too, it follows, and they go before the others."""
    ports = (case.values("peer_port")[rows], case.values("local_port")[rows])
    oldest_first = rows[np.lexsort((*ports, -np.round(case.since_s[rows])))]
    likely = oldest_first[: SHOWN_CONNECTIONS if guilty is None else PAIRS_TRIED].tolist()
    ends = [(row, other_end(case, row) if guilty is not None else None) for row in likely]
    ends.sort(key=lambda pair: pair[1] is None)
    for row, other in ends[:SHOWN_CONNECTIONS]:
        side = None if other is None else ("guilty" if guilty else "waiting")
        yield _endpoint(case, row, side)
        if other is not None:
            yield _endpoint(*other, "waiting" if guilty else "guilty")


def _endpoint(case: Case, row: int, side: str | None) -> Endpoint:
    one = case.now.rows.take(np.asarray([row]))
    state, local, peer = (str(cells_of(one, name)[0]) for name in ("state", "local", "peer"))
    owners = _owners_of(case, np.asarray([row]))
    return Endpoint(state, local, peer, owners[0] if owners else None, case.now.netns.label, side)
