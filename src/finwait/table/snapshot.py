"""What an answer consists of: the counts or the table, when and where they were taken, and what could not be seen.

Plain classes on purpose: this module is on the path of the plain count, where dataclasses would cost a third of the budget.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Cell = int | float | str | bool | None


class Notice:
    """Something the user must know about an answer: a warning of the JSON contract.

    code: machine word, never translated. message_id and arguments: as in `finwait.errors.FinwaitError`.
    missing: what the answer lacks, a machine word or None. remedy: message id of what would give it, or None.
    incomplete: whether it makes the answer incomplete.
    """

    __slots__ = ("arguments", "code", "incomplete", "message_id", "missing", "remedy")

    def __init__(
        self,
        code: str,
        message_id: str,
        *,
        missing: str | None = None,
        remedy: str | None = None,
        incomplete: bool = True,
        arguments: Mapping[str, object] | None = None,
    ) -> None:
        self.code = code
        self.message_id = message_id
        self.missing = missing
        self.remedy = remedy
        self.incomplete = incomplete
        self.arguments = dict(arguments or {})

    def __str__(self) -> str:
        return self.message_id.format(**self.arguments)

    def __repr__(self) -> str:
        return f"Notice({self.code!r}, {str(self)!r})"


class Netns:
    """A network namespace that was read. cookie: SO_NETNS_COOKIE, its identity until reboot (None before Linux 5.14 or
    from a recording that does not tell). inode: of its nsfs file, a label that is used again. name: ``ip netns`` name,
    or what the user called it, or None.
    """  # fmt: skip

    __slots__ = ("cookie", "inode", "name")

    def __init__(self, cookie: int | None = None, inode: int | None = None, name: str | None = None) -> None:
        self.cookie = cookie
        self.inode = inode
        self.name = name

    @property
    def label(self) -> str:
        """How people call it: its name, else ``net:[inode]`` as in /proc, else its cookie."""
        if self.name is not None:
            return self.name
        return f"net:[{self.inode}]" if self.inode is not None else f"cookie:{self.cookie}"

    def __repr__(self) -> str:
        return f"Netns(cookie={self.cookie}, inode={self.inode}, name={self.name!r})"


class Provenance:
    """How an answer came about. taken_from, taken_to: seconds since the epoch, the walk's begin and end (None where a
    recording does not tell). source: machine word (sock_diag, proc, recording). host: name of the host it speaks of.
    """  # fmt: skip

    __slots__ = ("host", "netns", "notices", "source", "taken_from", "taken_to")

    def __init__(
        self,
        source: str,
        *,
        host: str | None = None,
        taken_from: float | None = None,
        taken_to: float | None = None,
        netns: tuple[Netns, ...] = (),
        notices: tuple[Notice, ...] = (),
    ) -> None:
        self.source = source
        self.host = host
        self.taken_from = taken_from
        self.taken_to = taken_to
        self.netns = list(netns)
        self.notices = list(notices)

    @property
    def complete(self) -> bool:
        """Whether nothing that was asked for stayed unseen."""
        return not any(notice.incomplete for notice in self.notices)

    def add_notice(self, notice: Notice) -> None:
        """Add `notice` unless the same one is there."""
        if not any(known.code == notice.code and str(known) == str(notice) for known in self.notices):
            self.notices.append(notice)


class Group:
    """One row of a count: `key` has one cell for each column of ``Snapshot.by``, `count` the connections in it.

    owner_kind, matched_by: as the columns of these names, where the count is by owner: why the group has none, or how the
    owner was found.
    """

    __slots__ = ("count", "key", "matched_by", "owner_kind")

    def __init__(
        self, key: tuple[Cell, ...], count: int, owner_kind: str | None = None, matched_by: str | None = None
    ) -> None:
        self.key = key
        self.count = count
        self.owner_kind = owner_kind
        self.matched_by = matched_by

    def __repr__(self) -> str:
        return f"Group({self.key!r}, {self.count})"


class Snapshot:
    """A count of connections, grouped.

    by: column names of the groups' keys. groups: in order of print. total: sockets, each once. other: sockets in groups
    that ``--top`` folded away, None where nothing was asked to be folded; other_groups: how many groups those were.
    shared: sockets that stand in several groups. ghosts: descriptors of connections that have ended, in no group and not
    in the total, by process name and id; None where nobody looked.
    Invariant without shared sockets: sum of the groups' counts + (other or 0) == total.
    """

    __slots__ = ("by", "ghosts", "groups", "other", "other_groups", "provenance", "shared", "total")

    def __init__(
        self,
        by: tuple[str, ...],
        groups: Sequence[Group],
        total: int,
        provenance: Provenance,
        *,
        other: int | None = None,
        other_groups: int | None = None,
        shared: int = 0,
        ghosts: Sequence[tuple[str | None, int, int]] | None = None,
    ) -> None:
        self.by = by
        self.ghosts = ghosts
        self.groups = groups
        self.total = total
        self.provenance = provenance
        self.other = other
        self.other_groups = other_groups
        self.shared = shared

    @property
    def complete(self) -> bool:
        """Whether nothing that was asked for stayed unseen; the reasons are in `warnings`."""
        return self.provenance.complete

    @property
    def warnings(self) -> tuple[Notice, ...]:
        """What could not be seen, or should be known about the answer."""
        return tuple(self.provenance.notices)

    def __repr__(self) -> str:
        return f"Snapshot(by={self.by}, total={self.total}, groups={list(self.groups)!r}, complete={self.complete})"
