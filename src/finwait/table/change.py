"""What following connections yields: changes of state in batches or one by one, and what was lost."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from finwait.table.cells import cells_of
from finwait.tcp.state import TcpState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from finwait.table.batch import Batch
    from finwait.table.snapshot import Netns, Provenance

# The columns that a change has, in the order of docs/schemas/finwait.trace-1.json.
CHANGE_NAMES = (
    "at", "netns", "cookie", "family", "local_address", "local_port", "peer_address", "peer_port", "from", "to", "in_from_us",
    "why", "error", "evidence", "within_us", "pid", "process",
)  # fmt: skip
LIFETIME_NAMES = (
    "at", "netns", "cookie", "family", "local_address", "local_port", "peer_address", "peer_port", "opened_by", "closed_by",
    "began", "lasted_us", "to", "why", "error", "bytes_acked", "bytes_received", "rtt_us", "total_retrans", "pid", "process",
)  # fmt: skip
EVENT, INFERRED, LOOKUP = "event", "inferred", "lookup"  # evidence
EVIDENCE = (EVENT, INFERRED, LOOKUP)  # enum finwait_evidence of bpf/changes.bpf.h


@dataclass(frozen=True, slots=True)
class StateChange:
    """One change of one connection.

    at: RFC 3339, UTC, microseconds. netns: label of its namespace. cookie: None for a half-open connection that nobody has
    asked about. in_from_us: time in the state that is left, None where its begin was not seen. why: event of
    `finwait.tcp.transitions`, None where it cannot be told. error: name of the errno that the program is told. evidence: event,
    inferred or lookup. within_us: for so long before `at` it may have happened, None where that is not known. pid, process:
    who has the socket, None where that is not known. from_state: None where nobody saw the connection before; never equal to
    `to`.
    """

    at: str
    netns: str | None
    cookie: int | None
    family: str
    local_address: str | None
    local_port: int | None
    peer_address: str | None
    peer_port: int | None
    from_state: TcpState | None
    to: TcpState
    in_from_us: int | None
    why: str | None
    error: str | None
    evidence: str
    within_us: int | None
    pid: int | None
    process: str | None


@dataclass(frozen=True, slots=True)
class Ready:
    """Everything is attached and what is there already was walked over: from here on nothing is missed unsaid. source: bpf or
    sock_diag, also of a recording that is told again.
    """  # fmt: skip

    provenance: Provenance
    source: str


@dataclass(frozen=True, slots=True)
class Loss:
    """Changes that happened and are not told. at_ns: when it was noticed, since the epoch. lost: how many since the last
    time.
    """  # fmt: skip

    at_ns: int
    lost: int


def changes_of(batch: Batch) -> Iterator[StateChange]:
    """The rows of a batch of changes."""
    names = [field.name if field.name != "from_state" else "from" for field in fields(StateChange)]
    cells = [
        [TcpState(number) if number else None for number in batch.column(name).values.tolist()]
        if name in {"from", "to"}
        else cells_of(batch, name)
        for name in names
    ]
    return (StateChange(*row) for row in zip(*cells, strict=True))


@dataclass(frozen=True, slots=True)
class Times:
    """How long connections were in a state that they have left. counts: by bucket, four to each power of two of microseconds.
    total_us: the sum. Only those whose begin was seen.
    """  # fmt: skip

    counts: tuple[int, ...]
    total_us: int

    @property
    def count(self) -> int:
        """How many they are."""
        return sum(self.counts)

    @property
    def mean_us(self) -> float | None:
        """Their mean; None of nothing."""
        return self.total_us / self.count if self.count else None

    def percentile_us(self, percent: float) -> int | None:
        """A time that so many percent did not exceed, less than a quarter above the true one; None of nothing."""
        wanted = max(-(-self.count * percent // 100), 1)
        passed = 0
        for bucket, count in enumerate(self.counts):
            passed += count
            if passed >= wanted and self.count:
                return bucket_end_us(bucket)
        return None


def bucket_end_us(bucket: int) -> int:
    """The longest time in whole microseconds that falls into `bucket` (bpf/tell.bpf.h, bucket_of)."""
    if bucket < 4:
        return bucket
    power, quarter = divmod(bucket, 4)
    return ((quarter + 5) << (power - 1)) - 1


@dataclass(frozen=True, slots=True)
class Part:
    """What sums are apart by. by: listener or process. number: the listener's port, or the process id; None for the connections
    that come from no listener, or whose process is not known. name: of the process, where it is known.
    """  # fmt: skip

    by: str
    number: int | None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """What happened in a namespace, or in a part of it. changes: how many by (from, to); from is None where nobody saw the
    connection before. times: by the state that was left. netns: None for those that found no room, together. of: the part, None
    for the whole.
    """  # fmt: skip

    netns: Netns | None
    changes: Mapping[tuple[TcpState | None, TcpState], int]
    times: Mapping[TcpState, Times]
    of: Part | None = None

    @property
    def count(self) -> int:
        """How many changes they are."""
        return sum(self.changes.values())


@dataclass(frozen=True, slots=True)
class Summary:
    """What happened between two moments. from_ns, to_ns: since the epoch. seconds: from one to the other, whatever was done to
    the clock. totals: of each namespace where anything did.
    """  # fmt: skip

    from_ns: int
    to_ns: int
    seconds: float
    totals: tuple[Totals, ...]
