"""What the doctor found: a Finding a trouble, an Unchecked for each rule that could not be judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from finwait.errors import Phrase
    from finwait.table.snapshot import Netns, Provenance

INFO, WARNING, CRITICAL = "info", "warning", "critical"
SEVERITIES = (INFO, WARNING, CRITICAL)  # in rising order


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that a finding names. fds: its descriptors of the sockets in question, in rising order; fd_count: how many
    they are, where `fds` does not tell all.
    """  # fmt: skip

    pid: int
    process: str | None
    fds: tuple[int, ...]
    fd_count: int
    matched_by: str | None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A socket that a finding shows as an example. side: ``guilty`` or ``waiting`` where both ends are on this host."""

    state: str
    local: str
    peer: str
    owner: Owner | None = None
    netns: str | None = None
    side: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """evidence: the numbers, JSON values by machine word, units in the last word of a name. since_s: for how long at least;
    None where nothing is known. connections: examples, of `total`. avoid: what not to do; None where nothing tempts.
    """  # fmt: skip

    rule: str
    severity: str
    title: Phrase
    evidence: Mapping[str, object]
    meaning: Phrase
    remedy: Phrase
    avoid: Phrase | None
    command: str
    sources: tuple[str, ...]
    owners: tuple[Owner, ...] = ()
    connections: tuple[Endpoint, ...] = ()
    total: int = 0
    since_s: float | None = None
    netns: Netns | None = None


@dataclass(frozen=True, slots=True)
class Unchecked:
    """A rule that could not be judged. reason: for people; code: machine word. remedy: what would help."""

    rule: str
    code: str
    reason: Phrase
    remedy: Phrase | None = None


@dataclass(slots=True)
class Diagnosis:
    """All of it. findings: the worst first. checked: ids of the rules that were judged. looks: how many. over_s: seconds from
    the first to the last. left_out: findings that were less severe than what was asked for.
    """  # fmt: skip

    provenance: Provenance
    findings: list[Finding] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    unchecked: list[Unchecked] = field(default_factory=list)
    looks: int = 0
    over_s: float = 0.0
    sockets: int = 0
    left_out: int = 0

    @property
    def severity(self) -> str | None:
        """The worst; None where all is well."""
        return max((finding.severity for finding in self.findings), key=SEVERITIES.index, default=None)
