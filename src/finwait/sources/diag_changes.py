"""What two looks at the sockets of a namespace, and the notices of those that ended between, tell of changes. Opens nothing.

`Connections` is what is known; looks, look-ups and notices are compared with it as arrays, so that sockets that stay as they
are cost no Python each. Each connection's changes are a chain: a change goes from the state that the last one went to.
"""

from __future__ import annotations

import numpy as np

from finwait.sources.change_records import LIFETIME, LOOKED_UP, ONLY_CHANGE
from finwait.tcp.state import TcpState
from finwait.wire.bpf_layouts import ENUMS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from finwait.table.batch import Array, Mask

    class Look(Protocol):
        """A walk. cookies: in order, each once; states, inodes: of them. begun_ns, ended_ns: CLOCK_MONOTONIC."""

        cookies: Array
        states: Array
        inodes: Array
        begun_ns: int
        ended_ns: int

        def details(self, positions: Array) -> Array:
            """An array of SEEN of the sockets at `positions`."""


EVENT, LOOKUP = ENUMS["FINWAIT_EVENT"], ENUMS["FINWAIT_LOOKUP"]
LISTEN, CLOSE, SYN_RECV, FIN_WAIT2, TIME_WAIT, LAST_ACK = (
    int(TcpState[name]) for name in ("LISTEN", "CLOSE", "SYN_RECV", "FIN_WAIT2", "TIME_WAIT", "LAST_ACK")
)
TIME_WAIT_NS = 60_000_000_000  # TCP_TIMEWAIT_LEN (include/net/tcp.h)
LISTENER_LOOKS = 5  # that miss a listener until it is taken to be gone: no look-up tells it from others of its port
ASKED = 2  # looks at all descriptors for the owner of a socket
MOST_ENDED = 1 << 16  # connections that have ended while a program holds the socket; of more, the oldest are forgotten
STEPS = ENUMS["FINWAIT_STEPS"]

# What a look tells of a socket, in the fields that a record has too, and the interface that it is bound to. is_mini: no program
# has it. began_ns, began_within_ns: of TIME_WAIT, by its timer: it began at most so long before; 0 for others.
SEEN = np.dtype([
    ("cookie", "u8"), ("local_address", "u1", 16), ("peer_address", "u1", 16), ("local_port", "u2"), ("peer_port", "u2"),
    ("interface", "u4"), ("inode", "u4"), ("family", "u1"), ("state", "u1"), ("is_mini", "?"), ("began_ns", "u8"),
    ("began_within_ns", "u8"),
])  # fmt: skip
# What is kept of it. since_ns: when `state` began, 0 where that was not seen. seen_ns: then it was in it. missing: looks that
# missed it since. asked: how often its owner was looked for.
KNOWN = np.dtype([
    *SEEN.descr, ("since_ns", "u8"), ("seen_ns", "u8"), ("tgid", "u4"), ("missing", "u1"), ("asked", "u1"), ("gone", "?"),
])  # fmt: skip
FOLLOWED = np.dtype([*KNOWN.descr, ("begins_ns", "u8", STEPS), ("states", "u1", STEPS)])  # with its path, for lifetimes
# A notice of a socket that ended: SEEN without what only living ones have, its arrival, and what was sent and received.
ENDED = np.dtype([
    *SEEN.descr, ("at_ns", "u8"), ("bytes_acked", "u8"), ("bytes_received", "u8"), ("srtt_us", "u4"), ("total_retrans", "u4"),
])  # fmt: skip
ENDS = ("local_address", "peer_address", "local_port", "peer_port", "family")
_LIFE_FIELDS = ("bytes_acked", "bytes_received", "srtt_us", "total_retrans")


def match(known: Array, looked: Array) -> tuple[Array, Array, Mask]:
    """(positions in `known`, positions in `looked`) of the cookies that are in both, and which of `known` are not in `looked`.
    Both are in order, each cookie once.
    """  # fmt: skip
    missing = np.ones(len(known), dtype=np.bool_)
    if not len(known) or not len(looked):
        return np.zeros(0, np.intp), np.zeros(0, np.intp), missing
    at = np.searchsorted(known, looked)
    at[at == len(known)] = 0
    found = known[at] == looked
    missing[at[found]] = False
    return at[found], np.flatnonzero(found), missing


def advance(rows: Array, to: Array, at_ns: Array, within_ns: Array, evidence: Array) -> Array:
    """Let `rows` (KNOWN, changed in place) go to the states `to`; returns the records (LOOKED_UP) of it. None before its
    `since_ns`: a later time is later by as much as it may be.
    """  # fmt: skip
    records = np.zeros(len(rows), dtype=LOOKED_UP)
    for name in ("cookie", "since_ns", "tgid", *ENDS):
        records[name] = rows[name]
    records["at_ns"] = np.maximum(at_ns, rows["since_ns"])
    records["within_ns"] = np.where(evidence == EVENT, 0, within_ns + (records["at_ns"] - at_ns))
    records["from"], records["to"], records["evidence"], records["hints"] = rows["state"], to, evidence, ONLY_CHANGE
    records["tgid"][rows["state"] == TIME_WAIT] = 0  # no program has it any more
    rows["state"], rows["since_ns"] = to, records["at_ns"]
    _step(rows)
    return records


def _step(rows: Array) -> None:
    """Add the states that `rows` are in now to their paths; what was CLOSED before begins anew."""
    if "states" not in (rows.dtype.names or ()):
        return
    anew = (rows["states"] == CLOSE).any(axis=1)
    rows["states"][anew], rows["begins_ns"][anew] = 0, 0
    steps = (rows["states"] != 0).sum(axis=1)
    has_room = np.flatnonzero(steps < STEPS)
    rows["states"][has_room, steps[has_room]] = rows["state"][has_room]
    rows["begins_ns"][has_room, steps[has_room]] = rows["since_ns"][has_room]


class Connections:
    """What is known of the sockets of a namespace. rows: KNOWN (FOLLOWED where `with_paths`), in order of cookies; those that
    are `gone` go when the next look comes. keeps_ended: whether a notice will come of each full socket, so that one that
    is CLOSED is kept until its program closes it.

    Every method that returns records tells a change once.
    """

    def __init__(self, *, with_paths: bool = False, keeps_ended: bool = True) -> None:
        self.rows: Array = np.zeros(0, dtype=FOLLOWED if with_paths else KNOWN)
        self.keeps_ended = keeps_ended
        self._begun_ns = 0  # of the first look
        self._looked_ns = 0  # when the last one began
        self._added: list[Array] = []  # rows that are put in order when the next look comes
        self._has_gone = False

    def begin(self, look: Look) -> None:
        """What was there before. A second look finds what the first has missed; none of it is a change."""
        self._put_in_order()
        _, found, _ = match(self.rows["cookie"], look.cookies)
        rows = self._rows_of(look.details(np.delete(np.arange(len(look.cookies)), found)), look.begun_ns)
        rows["since_ns"] = rows["began_ns"]
        _step(rows)
        self._added.append(rows)
        self._put_in_order()
        self._begun_ns = self._begun_ns or look.begun_ns
        self._looked_ns = look.begun_ns

    def _rows_of(self, seen: Array, seen_ns: int) -> Array:
        rows = np.zeros(len(seen), dtype=self.rows.dtype)
        for name in SEEN.names or ():
            rows[name] = seen[name]
        rows["seen_ns"] = seen_ns
        return rows

    def _put_in_order(self) -> None:
        if self._has_gone:
            self.rows, self._has_gone = self.rows[~self.rows["gone"]], False
        if self._added:
            added = np.concatenate(self._added)
            added = added[np.argsort(added["cookie"], kind="stable")]
            self.rows = np.insert(self.rows, np.searchsorted(self.rows["cookie"], added["cookie"]), added)
            self._added.clear()
        ended = np.flatnonzero(self.rows["state"] == CLOSE) if len(self.rows) > MOST_ENDED else ()
        if len(ended) > MOST_ENDED:
            oldest = ended[np.argsort(self.rows["since_ns"][ended], kind="stable")][:-MOST_ENDED]
            self.rows = np.delete(self.rows, oldest)

    # -- looks

    def take_look(self, look: Look) -> Array:
        """What has changed by `look`; those that it missed are `missing` from now on."""
        self._put_in_order()
        rows = self.rows
        at, found, missed = match(rows["cookie"], look.cookies)
        same = rows["state"][at] == look.states[found]
        rows["seen_ns"][at[same]] = look.begun_ns
        rows["missing"][at] = 0
        inodes = look.inodes[found]
        rows["inode"][at] = np.where(inodes != 0, inodes, rows["inode"][at])
        if missed.any():
            is_closed = rows["state"] == CLOSE
            rows["seen_ns"][missed & is_closed] = look.begun_ns
            missed &= ~is_closed
            rows["missing"][missed] = np.minimum(rows["missing"][missed], 254) + 1
        records = [np.zeros(0, dtype=LOOKED_UP)]
        if not same.all():
            records.append(self._change(at[~same], look.details(found[~same]), look.begun_ns, look.ended_ns))
        if len(found) < len(look.cookies):
            records.append(self._begin_new(look.details(np.delete(np.arange(len(look.cookies)), found)), look))
        self._looked_ns = look.begun_ns
        return np.concatenate(records)

    def _change(self, at: Array, seen: Array, begun_ns: int, ended_ns: int) -> Array:
        """The rows `at` were found in other states, as `seen`, some time between the two."""
        rows = self.rows[at]
        for name in (*ENDS, "interface", "is_mini", "began_ns", "began_within_ns"):
            if name != "local_port":
                rows[name] = seen[name]
        for name in ("inode", "local_port"):  # a socket that is just CLOSED has given its port back
            rows[name] = np.where(seen[name] != 0, seen[name], rows[name])
        records = advance(rows, seen["state"], *_times_of(seen, rows["seen_ns"], ended_ns))
        rows["seen_ns"], rows["missing"] = begun_ns, 0
        self.rows[at] = rows
        return records

    def _begin_new(self, seen: Array, look: Look) -> Array:
        """Sockets that were not there at the look before."""
        rows = self._rows_of(seen, self._looked_ns)
        rows["state"] = np.where(seen["state"] == SYN_RECV, LISTEN, CLOSE)
        records = advance(rows, seen["state"], *_times_of(seen, rows["seen_ns"], look.ended_ns))
        rows["seen_ns"] = look.begun_ns
        self._added.append(rows)
        self._put_in_order()
        return records[records["at_ns"] >= self._begun_ns]  # a TIME_WAIT that the first look has missed

    # -- what was missed

    def doubtful(self) -> Array:
        """Positions of connections that the last look missed, which may be there all the same."""
        at: Array = np.flatnonzero(self.rows["missing"])
        return at[~self.rows["gone"][at] & ~np.isin(self.rows["state"][at], (LISTEN, CLOSE))] if len(at) else at

    def take_answers(self, at: Array, asked: Array, seen: Array, begun_ns: int, ended_ns: int) -> Array:
        """`seen`: those of the connections `at` that exact look-ups between the two times found, and `asked` which of them each
        is; the others are gone.
        """  # fmt: skip
        same = self.rows["state"][at[asked]] == seen["state"]
        self.rows["missing"][at[asked]], self.rows["seen_ns"][at[asked[same]]] = 0, begun_ns
        changed = self._change(at[asked[~same]], seen[~same], begun_ns, ended_ns)
        return np.concatenate([changed, self._end(np.delete(at, asked), ended_ns)])

    def end_listeners(self, ended_ns: int) -> Array:
        """Those that were missing too often are gone."""
        at = np.flatnonzero(self.rows["missing"] >= LISTENER_LOOKS)
        at = at[self.rows["state"][at] == LISTEN]
        return self._end(at, ended_ns) if len(at) else np.zeros(0, dtype=LOOKED_UP)

    def _end(self, at: Array, ended_ns: int) -> Array:
        """The rows `at` have ended since they were seen; a TIME_WAIT that had the time to, not before its timer."""
        rows = self.rows[at]
        timer_ns = np.where(rows["began_ns"] != 0, rows["began_ns"] - rows["began_within_ns"] + TIME_WAIT_NS, 0)
        earliest_ns = np.where(timer_ns <= ended_ns, np.maximum(rows["seen_ns"], timer_ns), rows["seen_ns"])
        within_ns = ended_ns - np.minimum(earliest_ns, ended_ns)
        count, was_timewait = (
            len(rows),
            rows["is_mini"] & (rows["state"] != SYN_RECV),
        )  # of half-open ones one cannot know
        records = advance(
            rows, _full(count, CLOSE, "u1"), _full(count, ended_ns), within_ns, _full(count, LOOKUP, "u1")
        )
        rows["gone"] = was_timewait | (not self.keeps_ended)
        self.rows[at] = rows
        self._has_gone |= bool(rows["gone"].any())
        return records

    # -- notices

    def questions(self, ends: Array) -> tuple[Array, Array]:
        """(positions in `ends` (ENDED) of those of which something may be left, so that they are to be looked up, the same as
        SEEN). Of one that no look saw the cookie is 0: what is left of it has another one than its notice, for nobody had asked
        for its cookie before.
        """  # fmt: skip
        at, is_known = self._find(ends["cookie"])
        states = np.where(is_known, self.rows["state"][at] if len(self.rows) else 0, 0)
        asked = np.flatnonzero(~np.isin(states, (LISTEN, LAST_ACK, CLOSE)) & (ends["peer_port"] != 0))
        wanted = ends[list(SEEN.names or ())][asked].astype(SEEN)
        wanted["cookie"][~is_known[asked]] = 0
        return asked, wanted

    def _find(self, cookies: Array) -> tuple[Array, Mask]:
        """(a position for each cookie, whether it is that of its row)."""
        if self._added and np.isin(cookies, np.concatenate([rows["cookie"] for rows in self._added])).any():
            self._put_in_order()
        if not len(self.rows):
            return np.zeros(len(cookies), np.intp), np.zeros(len(cookies), np.bool_)
        known = self.rows["cookie"]
        at = np.minimum(np.searchsorted(known, cookies), len(known) - 1)
        return at, (known[at] == cookies) & ~self.rows["gone"][at]

    def take_ends(self, ends: Array, asked: Array, seen: Array, begun_ns: int, ended_ns: int) -> tuple[Array, Array]:
        """(changes, lifetimes) by notices of full sockets that ended, one for each cookie. seen: what look-ups between the two
        times found, and `asked` which of `ends` each was asked about. One that no look saw is told from state 0; one that
        was never connected, not at all.
        """  # fmt: skip
        cookies, left, has_left = self._what_is_left(ends, asked, seen)
        at, is_known = self._find(cookies)
        told = is_known | (ends["peer_port"] != 0)
        ends, cookies, left, has_left, at, is_known = (
            one[told] for one in (ends, cookies, left, has_left, at, is_known)
        )
        rows = self._rows_of(ends, self._looked_ns)  # of those that no look saw: state 0
        rows["state"], rows["cookie"] = 0, cookies
        rows[is_known] = self.rows[at[is_known]]
        times = (ends["at_ns"].copy(), _full(len(ends), 0), _full(len(ends), EVENT, "u1"))
        for column, value in zip(times, _times_of(left, rows["seen_ns"], ended_ns), strict=True):
            column[has_left] = value[has_left]
        to = np.where(has_left, left["state"], CLOSE).astype(np.uint8)
        for name in ("is_mini", "began_ns", "began_within_ns"):
            rows[name] = np.where(has_left, left[name], rows[name])
        changes = (rows["state"] != to) & (rows["state"] != CLOSE)
        moved = rows[changes]
        records = advance(moved, to[changes], *(one[changes] for one in times))
        rows[changes] = moved
        rows["seen_ns"][has_left] = begun_ns
        evidence = np.where(changes, times[2], LOOKUP)
        lifetimes = self._lifetimes(rows, ends, to, evidence)
        rows["gone"] = to == CLOSE
        self.rows[at[is_known]] = rows[is_known]
        self._has_gone |= bool(rows["gone"][is_known].any())
        self._added += [new for new in (rows[~is_known & ~rows["gone"]],) if len(new)]
        return records, lifetimes

    def _what_is_left(self, ends: Array, asked: Array, seen: Array) -> tuple[Array, Array, Mask]:
        """(cookies, SEEN of what goes on, whether something does) of each of `ends`. A timewait socket with the ends of one
        that no look saw is what is left of it, of the last of several; anything else with its ends is another connection.
        """  # fmt: skip
        _, is_known = self._find(ends["cookie"])
        is_of = is_known[asked] | (seen["is_mini"] & np.isin(seen["state"], (FIN_WAIT2, TIME_WAIT)))
        asked, seen = asked[is_of], seen[is_of]
        latest = np.argsort(ends["at_ns"][asked], kind="stable")[::-1]
        latest = latest[np.unique(seen["cookie"][latest], return_index=True)[1]]
        asked, seen = asked[latest], seen[latest]
        cookies, left, has_left = ends["cookie"].copy(), np.zeros(len(ends), SEEN), np.zeros(len(ends), np.bool_)
        cookies[asked], left[asked], has_left[asked] = seen["cookie"], seen, True
        return cookies, left, has_left

    def _lifetimes(self, rows: Array, ends: Array, to: Array, evidence: Array) -> Array:
        """Of the sockets that have ended by `ends`; `rows` as they are now. Listeners have none."""
        if "states" not in (rows.dtype.names or ()):
            return np.zeros(0, dtype=LIFETIME)
        ended = (ends["peer_port"] != 0) & ((to == CLOSE) | (rows["is_mini"] & (to != SYN_RECV)))
        rows, ends = rows[ended], ends[ended]
        found = np.zeros(len(rows), dtype=LIFETIME)
        for name in ("cookie", "tgid", *ENDS, "begins_ns", "states"):
            found[name] = rows[name]
        for name in _LIFE_FIELDS:
            found[name] = ends[name]
        goes_on = rows["state"] == FIN_WAIT2  # as it was, without its program
        found["at_ns"] = np.where(goes_on, np.maximum(ends["at_ns"], rows["since_ns"]), rows["since_ns"])
        found["to"], found["evidence"], found["hints"] = rows["state"], evidence[ended], ONLY_CHANGE
        last = np.maximum((rows["states"] != 0).sum(axis=1) - 1, 0)
        each = np.arange(len(rows))
        is_told = rows["states"][each, last] == rows["state"]  # the path holds what came last, too: `to`
        found["states"][each[is_told], last[is_told]], found["begins_ns"][each[is_told], last[is_told]] = 0, 0
        before = np.maximum(last - is_told, 0)
        found["from"], found["since_ns"] = found["states"][each, before], found["begins_ns"][each, before]
        return found

    # -- owners

    def without_owner(self) -> Array:
        """Inodes of the sockets whose owner is worth looking for."""
        rows = self.rows
        wanted = (rows["inode"] != 0) & (rows["tgid"] == 0) & (rows["asked"] < ASKED) & (rows["state"] != CLOSE)
        found: Array = rows["inode"][wanted].astype(np.uint64)
        return found

    def has_nobodys(self) -> bool:
        """Whether some socket's owner was looked for in vain."""
        rows = self.rows
        return bool(((rows["inode"] != 0) & (rows["tgid"] == 0) & (rows["asked"] != 0)).any())

    def learn_owners(self, inodes: Array, tgids: Array) -> None:
        """Who has the sockets with `inodes` (in order, each once), after a look at all descriptors."""
        rows = self.rows
        at = np.flatnonzero((rows["inode"] != 0) & (rows["tgid"] == 0) & ~rows["is_mini"])
        rows["asked"][at] = np.minimum(rows["asked"][at] + 1, ASKED)
        own = rows["inode"][at].astype(np.uint64)
        place = np.searchsorted(inodes, own)
        place[place == len(inodes)] = 0
        has = (inodes[place] == own) if len(inodes) else np.zeros(len(own), np.bool_)
        rows["tgid"][at[has]] = tgids[place[has]]

    def name_owners(self, records: Array) -> None:
        """Fill in the owners that were learned after `records` were made."""
        nameless = np.flatnonzero((records["tgid"] == 0) & (records["from"] != TIME_WAIT))
        if len(nameless) and len(self.rows):
            at = np.minimum(np.searchsorted(self.rows["cookie"], records["cookie"][nameless]), len(self.rows) - 1)
            has = self.rows["cookie"][at] == records["cookie"][nameless]
            records["tgid"][nameless[has]] = self.rows["tgid"][at[has]]


def _times_of(seen: Array, before_ns: Array, ended_ns: int) -> tuple[Array, Array, Array]:
    """(at_ns, within_ns, evidence) of sockets that were not yet so at `before_ns`, and were so at `ended_ns` at the latest. The
    timer of a TIME_WAIT tells its begin.
    """  # fmt: skip
    timed = seen["began_ns"] != 0
    at_ns = np.where(timed, seen["began_ns"], ended_ns)
    within_ns = np.where(timed, seen["began_within_ns"], ended_ns - np.minimum(before_ns, ended_ns))
    return at_ns, within_ns, _full(len(seen), LOOKUP, "u1")


def _full(count: int, value: int, dtype: Any = "u8") -> Array:
    return np.full(count, value, dtype=dtype)
