"""The library: `finwait.count()` and `finwait.connections()`.

Both read the network namespace of the calling process unless told otherwise, need no privilege for that, change nothing,
and say what they could not see (`complete`, `warnings`).
"""

from __future__ import annotations

from finwait.errors import UsageError
from finwait.table.request import Request, Roots
from finwait.tcp.state import LIFE_ORDER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from finwait.monitor import Question, Stream
    from finwait.query.expression import Filter
    from finwait.sources.archive import Recorder
    from finwait.table.finding import Diagnosis
    from finwait.table.snapshot import Group, Notice, Snapshot
    from finwait.table.table import ConnectionTable
    from finwait.tracing import Changes

DEFAULT_COLUMNS = ("state", "local", "peer", "recv_q", "send_q", "accept_queue_length", "accept_queue_limit")
ATTEMPTS = 3  # readings before an inconsistent one is the answer
SOURCES = ("auto", "bpf", "sock_diag", "proc")
_FAMILY_BY_WORD = {None: None, 4: 2, 6: 10}


def count(
    filter: str | Sequence[str] | None = None,  # noqa: A002 - the command's own word
    *,
    by: str | Sequence[str] = "state",
    top: int | None = None,
    ip: int | None = None,
    netns: str | Sequence[str] = (),
    all_netns: bool = False,
    source: str = "auto",
    read: str | None = None,
    proc: str = "/proc",
    sys: str = "/sys",
    cgroup: str | None = None,
) -> Snapshot:
    """Count TCP connections.

    filter: in the language of ``finwait count`` (docs/filters.md). by: columns, comma-separated or a sequence. top: keep the
    largest groups, fold the rest into ``other``. ip: 4 or 6 for one socket family. netns: names, process ids or paths.
    all_netns: every namespace that can be found. source: auto, bpf, sock_diag or proc. read: a recording instead of this host.
    proc, sys, cgroup: where the host's file systems are mounted (cgroup: the v2 tree; None: look it up).

    Returns a Snapshot; by state alone it has all eleven states in the order of a connection's life. Raises UsageError,
    NotSupported, NotPermitted, SourceError, ParseError (all `finwait.errors.FinwaitError`).
    """
    request = _request(ip, netns, Roots(proc, sys, cgroup), source, all_netns=all_netns)
    if top is not None and top < 1:
        raise UsageError("top is a whole number from 1 on or None, not {top}", top=top)
    return count_for(request, parse(filter), column_names(by), top=top, source=source, read=read)


def connections(
    filter: str | Sequence[str] | None = None,  # noqa: A002 - the command's own word
    *,
    columns: str | Sequence[str] = DEFAULT_COLUMNS,
    ip: int | None = None,
    netns: str | Sequence[str] = (),
    all_netns: bool = False,
    source: str = "auto",
    read: str | None = None,
    ghosts: bool = False,
    proc: str = "/proc",
    sys: str = "/sys",
    cgroup: str | None = None,
) -> ConnectionTable:
    """The TCP connections as a table with `columns` (docs/columns.md); `Connection` rows when iterated.

    Parameters and errors as in `count`. The columns of tcp_info (``rtt_us`` and others) cost a longer message a socket.
    """
    from finwait.table.table import ConnectionTable

    request = _request(ip, netns, Roots(proc, sys, cgroup), source, all_netns=all_netns)
    names = column_names(columns)
    asked = question(request, parse(filter), source=source, read=read, ghosts=ghosts)
    for _ in range(ATTEMPTS):
        stream = open_stream(asked, names)
        batches = list(stream)
        if stream.is_settled:
            break
    return ConnectionTable(batches, names, stream.provenance)


def parse(words: str | Sequence[str] | None) -> Filter | None:
    """The filter that `words` spell, service names looked up on this host; None for no words. Raises UsageError."""
    if not words:
        return None
    from finwait.query.parser import parse_filter
    from finwait.sources.services import port_of_service

    return parse_filter(words, port_of_service)


def column_names(columns: str | Sequence[str]) -> tuple[str, ...]:
    """Names of columns from ``a,b`` or a sequence. Raises UsageError with the nearest right word."""
    if columns == "state":
        return ("state",)  # the plain count does without the columns' declarations
    from finwait.table.columns import parse_columns

    text = columns if isinstance(columns, str) else ",".join(columns)
    if not all(word.strip() for word in text.split(",")):
        raise UsageError("columns are COLUMN[,COLUMN], none of them empty, not '{text}'", text=text)
    return tuple(column.name for column in parse_columns(text))


def _request(ip: int | None, netns: str | Sequence[str], roots: Roots, source: str, *, all_netns: bool) -> Request:
    if source not in SOURCES:
        raise UsageError("source is one of {known}, not {source}", known=", ".join(SOURCES), source=source)
    if ip not in _FAMILY_BY_WORD:
        raise UsageError("ip is 4, 6 or None, not {ip}", ip=ip)
    names = (netns,) if isinstance(netns, str) else tuple(netns)
    return Request(family=_FAMILY_BY_WORD[ip], netns=names, all_netns=all_netns, roots=roots)


def question(
    request: Request,
    wanted: Filter | None,
    *,
    source: str = "auto",
    read: str | None = None,
    recorder: Recorder | None = None,
    ghosts: bool = False,
) -> Question:
    """The question that a command or a function asks."""
    from finwait.monitor import Question
    from finwait.query.expression import Filter

    return Question(request, wanted or Filter(), source=source, read=read, recorder=recorder, ghosts=ghosts)


def open_stream(asked: Question, columns: Sequence[str]) -> Stream:
    """Batches of what is asked, as they come."""
    from finwait.monitor import Stream

    return Stream(asked, columns)


def count_for(
    request: Request,
    wanted: Filter | None,
    by: Sequence[str],
    *,
    top: int | None = None,
    source: str = "auto",
    read: str | None = None,
    recorder: Recorder | None = None,
) -> Snapshot:
    """Count as `count` does, from a request and a parsed filter. The plain count by state makes no table."""
    by = tuple(by)
    plain = wanted is None or wanted.expression is None
    if by == ("state",) and plain and read is None and recorder is None and top is None:
        from finwait.sources.census import take_census

        return take_census(request if wanted is None else _narrowed(request, wanted), source)
    notices: list[Notice] = []
    if plain and read is None and recorder is None:
        from finwait.owner_count import count_in_kernel

        found = count_in_kernel(request if wanted is None else _narrowed(request, wanted), by, source, notices)
        if found is not None:
            return _folded(found, top)
    snapshot = _count_table(question(request, wanted, source=source, read=read, recorder=recorder), by, top)
    told = {notice.code for notice in snapshot.provenance.notices}
    snapshot.provenance.notices.extend(notice for notice in notices if notice.code not in told)
    return snapshot


def _narrowed(request: Request, wanted: Filter) -> Request:
    """`request` for the states of a filter that has nothing else."""
    return Request(
        family=request.family,
        states=wanted.state_mask(),
        netns=request.netns,
        all_netns=request.all_netns,
        roots=request.roots,
    )


def _count_table(asked: Question, by: tuple[str, ...], top: int | None) -> Snapshot:
    from finwait.query.grouping import GroupCounter
    from finwait.table.snapshot import Snapshot

    for _ in range(ATTEMPTS):
        counter = GroupCounter(by)
        stream = open_stream(asked, counter.columns)
        for batch in stream:
            counter.add(batch)
        if stream.is_settled:
            break
    groups = counter.groups()
    if by == ("state",) and top is None:
        groups = _all_states(groups)
    snapshot = Snapshot(by, groups, counter.total, stream.provenance, shared=counter.shared)
    snapshot.ghosts = _ghosts(asked, by, stream)
    return _folded(snapshot, top)


def _ghosts(asked: Question, by: tuple[str, ...], stream: Stream) -> list[tuple[str | None, int, int]] | None:
    """Descriptors of ended connections by process, where a count by process asks for all sockets of this host."""
    if not {"process", "pid"} & set(by) or asked.read is not None or asked.wanted.column_names():
        return None
    from finwait.sources.ghosts import count_ghosts

    provenance = stream.provenance
    return count_ghosts(asked.source, asked.request, provenance.netns, provenance.notices, stream.owner_index)


def _folded(snapshot: Snapshot, top: int | None) -> Snapshot:
    """`snapshot` with its `top` largest groups and the rest in ``other``."""
    if top is not None:
        from finwait.query.groups import fold_small_groups

        snapshot.groups, snapshot.other, snapshot.other_groups = fold_small_groups(list(snapshot.groups), top)
    return snapshot


def _all_states(groups: Iterable[Group]) -> list[Group]:
    from finwait.table.snapshot import Group

    found = {group.key[0]: group.count for group in groups}
    return [Group((state.token,), found.get(state.token, 0)) for state in LIFE_ORDER]


def trace(
    filter: str | Sequence[str] | None = None,  # noqa: A002 - the command's own word
    *,
    seconds: float | None = None,
    least_us: int = 0,
    owners: bool = True,
    ip: int | None = None,
    netns: str | Sequence[str] = (),
    all_netns: bool = False,
    buffer_bytes: int | None = None,
    source: str = "auto",
    record: str | None = None,
    read: str | None = None,
    proc: str = "/proc",
) -> Changes:
    """Follow TCP connections through their states, as ``finwait trace`` does.

    filter: a change is of a filter's states where the one that is left or the one that is reached is. seconds: end after so
    long; None: until it is closed. least_us: only changes of connections that were so long in the state that they leave.
    owners: whether to learn which processes have the sockets. buffer_bytes: memory for changes that were not read yet (16
    MiB). source: auto, bpf or sock_diag. record: a file that keeps them too. read: such a file instead of this host. The others
    are those of `count`.

    Returns an iterator, and asynchronous iterator, of StateChange (and Loss); close it, or use it as a context manager. Raises
    UsageError, NotSupported, NotPermitted, SourceError.
    """
    from finwait.tracing import Changes, Trace, TraceQuestion

    if source == "proc":
        raise UsageError("changes of state are told by bpf or sock_diag, not by --source {source}", source=source)
    request = _request(ip, netns, Roots(proc), source, all_netns=all_netns)
    question = TraceQuestion(
        request, parse(filter), least_us=least_us, owners=owners, ring_bytes=buffer_bytes, source=source
    )
    if read is not None:
        from finwait.replaying import Replay

        return Changes(Replay(question, read))
    recorder = None
    if record is not None:
        from finwait.sources.change_recording import ChangeRecorder

        recorder = ChangeRecorder(record)
    return Changes(Trace(question, for_s=seconds, recorder=recorder))


def diagnose(
    *,
    rules: Sequence[str] = (),
    seconds: float = 5.0,
    limits: Mapping[str, Mapping[str, float]] | None = None,
    ip: int | None = None,
    netns: str | Sequence[str] = (),
    all_netns: bool = False,
    source: str = "auto",
    read: str | None = None,
    proc: str = "/proc",
) -> Diagnosis:
    """Judge TCP as ``finwait doctor`` does.

    rules: ids, all for none. seconds: between the two looks; 0 for one look, without rates. limits: thresholds by rule, as in
    its configuration file. read: a bundle to judge instead of this host. The other parameters are those of `count`.

    Raises UsageError, ParseError, NotSupported, NotPermitted, SourceError.
    """
    from finwait.diagnosis.rules import find_rules, unknown_rule
    from finwait.diagnosis.verdict import diagnose as judge

    asked = find_rules(rules)
    unknown = next((rule for rule in limits or {} if not find_rules([rule])), None)
    if unknown is not None:
        raise unknown_rule(unknown)
    if read is not None:
        from finwait.bundle import read_bundle

        cases, provenance = read_bundle(read)
        return judge(cases, asked, limits or {}, provenance)
    from finwait.examination import examine

    request = _request(ip, netns, Roots(proc), source, all_netns=all_netns)
    examiner = examine(request, source=source, for_s=seconds)
    return judge(examiner.cases(), asked, limits or {}, examiner.provenance)


__all__ = ["DEFAULT_COLUMNS", "connections", "count", "diagnose", "trace"]
