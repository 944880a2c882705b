"""What a population of sockets is asked to be, and what its holder tells about each socket."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

from finwait.tcp.state import TcpState

FAMILIES = ("ipv4", "ipv6", "mapped")  # mapped: IPv4 clients of a dual-stack IPv6 socket

_HALF_OPEN = {TcpState.SYN_SENT, TcpState.SYN_RECV}
_UNCONNECTED = {TcpState.LISTEN, TcpState.CLOSE}
_PEER_ACKED_OUR_FIN = {TcpState.FIN_WAIT2, TcpState.TIME_WAIT}


@dataclass(frozen=True)
class Group:
    """So many sockets of one kind."""

    state: str  # a name of TcpState; CLOSE is bound and never connected
    count: int
    family: str = "ipv4"
    opened: str = ""  # active, passive or repair (TCP_REPAIR, ESTABLISHED only); mapped is passive, the others active
    orphan: bool | None = None  # whether close() or shutdown() ended it; only FIN_WAIT2 has an owner unless told
    mini: bool = False  # FIN_WAIT2 as a timewait mini-socket; lasts 60 s
    accepted: bool = True  # False: stays in the accept queue of a LISTEN of the same family (inode 0)
    listener: int | None = None  # which LISTEN of the family gets it, from 0 on; None: each in turn
    unread: int = 0  # bytes in the receive queue
    unacked: int = 0  # bytes written and never acknowledged, with what the congestion window holds back
    unsent: int = 0  # bytes written and held back by the peer's zero window
    mark: int = 0  # SO_MARK
    keepalive: bool = False  # SO_KEEPALIVE
    congestion: str = ""  # TCP_CONGESTION
    device: str = ""  # SO_BINDTODEVICE
    backlog: int = 1 << 16  # of listen(2)
    reuseport: bool = False  # these LISTENs share one port (SO_REUSEPORT)
    reset: bool = False  # by the peer in the end: the descriptor stays, the connection is in no dump (a ghost)
    overflow: bool = False  # TIME_WAIT beyond tcp_max_tw_buckets: nothing is left of it but a count
    peers: int = 200  # distinct addresses of the peer

    def __post_init__(self) -> None:
        for reason, wrong in self._contradictions().items():
            if wrong:
                raise ValueError(f"{reason}: {self}")

    def _contradictions(self) -> dict[str, bool]:
        state = self.tcp_state
        connected = state not in _HALF_OPEN | _UNCONNECTED
        return {
            "unknown family": self.family not in FAMILIES,
            "unknown way to open": self.opened not in {"", "active", "passive", "repair"},
            "a TCP_REPAIR socket has no peer to close it": self.opened == "repair" and state != TcpState.ESTABLISHED,
            "an unaccepted connection has nobody to close it": not self.accepted
            and state not in {TcpState.ESTABLISHED, TcpState.CLOSE_WAIT},
            "no connection, no data": not connected and bool(self.unread or self.unacked or self.unsent),
            "close() with unread data resets": connected and self.unread > 0 and self.is_orphan,
            "FIN comes after the data": state in _PEER_ACKED_OUR_FIN and bool(self.unacked or self.unsent),
            "nobody to write": not self.accepted and bool(self.unacked or self.unsent),
            "the window is either open or zero": bool(self.unacked and self.unsent),
            "only FIN_WAIT2 can be a mini-socket on demand": self.mini and state != TcpState.FIN_WAIT2,
            "only listeners share a port": self.reuseport and state != TcpState.LISTEN,
            "only TIME_WAIT overflows": self.overflow and state != TcpState.TIME_WAIT,
            "no program holds what the peer could reset": self.reset and not self.has_descriptor,
        }

    @property
    def tcp_state(self) -> TcpState:
        """The state as a number."""
        return TcpState[self.state]

    @property
    def is_orphan(self) -> bool:
        """Whether close() ends the connection, so that no descriptor is left."""
        if self.orphan is not None and self.tcp_state != TcpState.TIME_WAIT:
            return self.orphan
        state = self.tcp_state
        return self.mini or state in {TcpState.FIN_WAIT1, TcpState.CLOSING, TcpState.LAST_ACK, TcpState.TIME_WAIT}

    @property
    def has_descriptor(self) -> bool:
        """Whether a program holds a connection with a peer."""
        connected = self.tcp_state not in _HALF_OPEN | _UNCONNECTED
        return connected and self.accepted and not self.is_orphan and self.opened != "repair"

    @property
    def needs_listener(self) -> bool:
        """Whether a LISTEN of the same family must be asked for as well."""
        return self.tcp_state == TcpState.SYN_RECV or not self.accepted

    @property
    def way(self) -> str:
        """How a connection is opened."""
        if not self.accepted:
            return "passive"
        return self.opened or ("passive" if self.family == "mapped" else "active")


@dataclass(frozen=True)
class Traffic:
    """What the peer goes on doing while a population is held. It leaves the population as it is: see `finwait.lab.traffic`."""

    syns: int  # a second, each from an address of its own, to the first listener of the family
    family: str = "ipv4"
    renew: bool = (
        False  # repeat the SYNs of what is half-open: of a queue more than half full the kernel keeps them 7 s
    )


@dataclass(frozen=True)
class Spec:
    """A whole population."""

    groups: tuple[Group, ...]
    shuffle: int | None = None  # seed of the order of creation; None: group by group
    sysctls: dict[str, str | int] = field(default_factory=dict)  # of the namespace, on top of the holder's own
    traffic: Traffic | None = None

    def __post_init__(self) -> None:
        listening = {group.family for group in self.groups if group.state == "LISTEN" and group.count}
        for group in self.groups:
            if group.needs_listener and group.count and group.family not in listening:
                raise ValueError(f"ask for a LISTEN of family {group.family} as well: {group}")

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """The reverse of ``json.dumps(asdict(spec))``."""
        fields = json.loads(text)
        groups = tuple(Group(**group) for group in fields.pop("groups"))
        traffic = fields.pop("traffic", None)
        return cls(groups, traffic=None if traffic is None else Traffic(**traffic), **fields)

    def count_by_state(self, *families: str) -> Counter[TcpState]:
        """How many sockets are to be seen in each state, of all families unless some are named; no ghosts, no overflow."""
        counts: Counter[TcpState] = Counter()
        for group in self.groups:
            if group.family in (families or FAMILIES) and not (group.reset or group.overflow):
                counts[group.tcp_state] += group.count
        return +counts


@dataclass(frozen=True)
class HeldSocket:
    """What the holder knows of one socket without asking sock_diag."""

    state: str
    family: str
    local: tuple[str, int]
    peer: tuple[str, int]
    cookie: int | None  # SO_COOKIE, also of a closed descriptor; None where there never was one
    inode: int  # 0 without an owner
    fd: int | None

    @property
    def key(self) -> tuple[int, bool, tuple[str, int], tuple[str, int]]:
        """State, whether AF_INET6, and the addresses as sock_diag shows them."""
        return (TcpState[self.state], self.family != "ipv4", self.local, self.peer)
