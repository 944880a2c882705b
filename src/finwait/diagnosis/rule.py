"""A rule: what it reads, from where on it speaks, what it says; and the signs that its function returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from finwait.table.finding import CRITICAL, WARNING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from finwait.diagnosis.case import Case
    from finwait.errors import Phrase
    from finwait.table.batch import Array
    from finwait.tcp.state import TcpState

    Judge = Callable[[Case, Mapping[str, float]], Iterable["Sign"]]

NAMESPACE, HOST = "namespace", "host"  # what a rule is judged for
# What a rule may read besides counters (``TcpExt.ListenDrops``) and sysctls (``ipv4.tcp_tw_reuse``)
TWO_LOOKS = "two looks"
OWNERS = "owners"
INFO_OF_TCP = "tcp_info"
GHOSTS = "ghosts"
LIMITS = "descriptor limits"


@dataclass(frozen=True, slots=True)
class Sign:
    """One thing that a rule saw. title: arguments for the rule's title. rows: of the last look, the sockets that are meant.
    guilty: whether they are to blame, where both ends of a connection are on this host; None: nobody is. note: what it means in
    this case, instead of the rule's meaning. pids: the processes, where no sockets tell them. command: instead of the rule's.
    """  # fmt: skip

    severity: str
    evidence: Mapping[str, object]
    title: Mapping[str, object] = field(default_factory=dict)
    rows: Array | None = None
    since_s: float | None = None
    guilty: bool | None = None
    note: Phrase | None = None
    pids: tuple[int, ...] = ()
    command: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """id: machine word. numbers: in the list of rules that finwait was planned from. title, meaning, remedy, avoid: message
    ids; the title has places that a sign's `title` fills. reads: what must be there for the rule to be judged. limits:
    thresholds by name, units in the last word. command: shows it again. sources: where it is from. states: of the sockets
    whose owners it reads.
    """  # fmt: skip

    id: str
    summary: str  # message id: what it looks for, a line of --rules
    numbers: tuple[int, ...]
    title: str
    judge: Judge
    reads: tuple[str, ...]
    limits: Mapping[str, float]
    meaning: str
    remedy: str
    command: str
    sources: tuple[str, ...]
    avoid: str | None = None
    scope: str = NAMESPACE
    states: tuple[TcpState, ...] = ()


def graded(value: float, limits: Mapping[str, float], unit: str) -> str | None:
    """The severity of `value`: above the limits ``critical_UNIT`` and ``warning_UNIT``; None where it is not above."""
    if value > limits[f"critical_{unit}"]:
        return CRITICAL
    return WARNING if value > limits[f"warning_{unit}"] else None
