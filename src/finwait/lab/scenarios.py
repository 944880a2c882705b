"""What `finwait lab --list` offers: the exchanges of TCP, played segment by segment, and faults that operators meet."""

from __future__ import annotations

from finwait.errors import UsageError
from finwait.lab.spec import Group, Spec, Traffic
from finwait.tcp.exchanges import CLIENT, EXCHANGES, SERVER, Exchange
from finwait.tcp.state import is_state_word
from finwait.text.messages import mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Scenario:
    """title: message id, one line. exchange: to play; groups, sysctls and traffic: of the population, where it is none. `N`
    sockets of a fault are a prime number, so that nothing else explains them.
    """  # fmt: skip

    __slots__ = ("exchange", "groups", "name", "sysctls", "title", "traffic")

    def __init__(
        self,
        name: str,
        title: str,
        *groups: Group,
        sysctls: Mapping[str, str | int] | None = None,
        exchange: Exchange | None = None,
        traffic: Traffic | None = None,
    ) -> None:
        self.name = name
        self.title = title
        self.groups = groups
        self.sysctls = dict(sysctls or {})
        self.exchange = exchange
        self.traffic = traffic

    @property
    def kernel_end(self) -> str:
        """The end of an exchange that is worth looking at, and so the kernel's unless told otherwise."""
        return SERVER if self.name == "half-open" else CLIENT

    def spec(self, family: str) -> Spec:
        """The population, with sockets of `family` (ipv4 or ipv6)."""
        from dataclasses import replace

        traffic = None if self.traffic is None else replace(self.traffic, family=family)
        return Spec(tuple(replace(group, family=family) for group in self.groups), None, self.sysctls, traffic)


_EXCHANGE_TITLES = {
    "open": mark("the three-way handshake"),
    "close": mark("the close in four segments"),
    "close_three": mark("the close in three segments: FIN and ACK in one"),
    "simultaneous_open": mark("both ends connect to each other at once"),
    "simultaneous_close": mark("both ends close at once"),
    "reset": mark("one end resets the connection"),
    "refused": mark("nobody listens"),
    "half_open": mark("the last ACK of the handshake never comes"),
    "no_answer": mark("nobody answers the SYN"),
    "half_close": mark("one end closes, the other goes on sending"),
    "time_wait": mark("why TIME-WAIT: the last ACK is lost and the FIN comes again"),
}
_FLOOD = Traffic(200, renew=True)
# A queue is full where it is longer than the backlog.
_FLOODED = (Group("LISTEN", 1, backlog=498), Group("SYN_RECV", 499, peers=499))
_RENEWABLE: dict[str, str | int] = {"net.ipv4.tcp_invalid_ratelimit": 0}  # ms between two answers to the same SYN
_FAULTS = (
    Scenario(
        "syn-flood",
        mark("499 half-open connections fill a listener's queue; 200 SYNs a second go on and get cookies"),
        *_FLOODED,
        sysctls={**_RENEWABLE, "net.ipv4.tcp_syncookies": 1},
        traffic=_FLOOD,
    ),
    Scenario(
        "syn-flood-without-cookies",
        mark("the same with tcp_syncookies=0: the SYNs are dropped, and nobody else gets in"),
        *_FLOODED,
        sysctls={**_RENEWABLE, "net.ipv4.tcp_syncookies": 0},
        traffic=_FLOOD,
    ),
    Scenario(
        "accept-queue-full",
        mark("a program that does not accept: the accept queue of its listener is full, 11 SYNs a second are dropped"),
        Group("LISTEN", 1, backlog=4),
        Group("ESTABLISHED", 5, accepted=False),
        traffic=Traffic(11),
    ),
    Scenario(
        "reuseport-imbalance",
        mark("four workers listen on one port (SO_REUSEPORT): one is stuck, its accept queue is full"),
        Group("LISTEN", 4, backlog=16, reuseport=True),
        Group("ESTABLISHED", 41, opened="passive"),
        Group("ESTABLISHED", 17, accepted=False, listener=2),
    ),
    Scenario(
        "close-wait-not-accepted",
        mark("peers that gave up while they waited for accept(): CLOSE-WAIT that nobody owns"),
        Group("LISTEN", 1, backlog=64),
        Group("CLOSE_WAIT", 13, accepted=False),
    ),
    Scenario(
        "close-wait-leak",
        mark("a program that does not close: 97 connections wait for it in CLOSE-WAIT"),
        Group("LISTEN", 1),
        Group("ESTABLISHED", 11, opened="passive"),
        Group("CLOSE_WAIT", 97, opened="passive"),
    ),
    Scenario(
        "port-exhaustion",
        mark("every port to one peer is taken by TIME-WAIT: no further connection to it"),
        Group("TIME_WAIT", 101, peers=1),
        # __inet_hash_connect searches an even number of ports: of an odd range it may miss the last free one.
        sysctls={
            "net.ipv4.ip_local_port_range": "10000 10101",
            "net.ipv4.ip_local_reserved_ports": 10101,
            "net.ipv4.tcp_tw_reuse": 0,
        },
    ),
    Scenario(
        "time-wait-overflow",
        mark("more TIME-WAIT than tcp_max_tw_buckets: 101 stand, 13 were cut short"),
        Group("TIME_WAIT", 101),
        Group("TIME_WAIT", 13, overflow=True),
        sysctls={"net.ipv4.tcp_max_tw_buckets": 101},
    ),
    Scenario(
        "connect-unanswered",
        mark("connections to a peer that never answers: 41 in SYN-SENT"),
        Group("SYN_SENT", 41, peers=1),
    ),
    Scenario(
        "ghost-sockets",
        mark("a program keeps the descriptors of 19 connections that the peer has reset: no state counts them"),
        Group("LISTEN", 1),
        Group("ESTABLISHED", 23, opened="passive"),
        Group("ESTABLISHED", 19, opened="passive", reset=True),
    ),
    Scenario(
        "idle",
        mark("connections on which nobody says anything, without keepalive"),
        Group("ESTABLISHED", 43),
    ),
    Scenario(
        "peer-vanished",
        mark("the peer is gone without a word: data is sent again and again"),
        Group("ESTABLISHED", 7, unacked=1000),
    ),
    Scenario(
        "zero-window",
        mark("the peer does not read: its window is zero and our data waits"),
        Group("ESTABLISHED", 5, unsent=2000),
    ),
    Scenario(
        "half-close-for-ever",
        mark("we have closed our direction, the peer never closes its own; our program still holds on"),
        Group("FIN_WAIT2", 13),
    ),
    Scenario(
        "fin-wait-2-orphans",
        mark("closed connections whose peers never close: 59 in FIN-WAIT-2 without an owner"),
        Group("FIN_WAIT2", 59, orphan=True),
    ),
    Scenario(
        "fin-unanswered",
        mark("the peer is gone while connections close: FIN is sent again and again"),
        Group("FIN_WAIT1", 17),
        Group("CLOSING", 3),
        Group("LAST_ACK", 13),
    ),
    Scenario(
        "reader-stuck",
        mark("the program does not read what it has received"),
        Group("ESTABLISHED", 3, unread=30_000),
    ),
)
SCENARIOS: dict[str, Scenario] = {
    **{
        name.replace("_", "-"): Scenario(name.replace("_", "-"), title, exchange=EXCHANGES[name])
        for name, title in _EXCHANGE_TITLES.items()
    },
    **{scenario.name: scenario for scenario in _FAULTS},
}


def find_scenario(word: str) -> Scenario | None:
    """The scenario that `word` names; None for ``STATE=N``. Raises UsageError with the nearest, and for a state without N."""
    if "=" in word:
        return None
    found = SCENARIOS.get(word)
    if found is None and is_state_word(word):
        raise UsageError("'{word}' is no population; say STATE=N, for example TIME_WAIT=150", word=word)
    if found is None:
        from difflib import get_close_matches

        near = get_close_matches(word.lower().replace("_", "-"), list(SCENARIOS), n=1, cutoff=0.4)
        if not near:
            raise UsageError("unknown scenario '{word}'; 'finwait lab --list' names them, or say STATE=N", word=word)
        raise UsageError("unknown scenario '{word}'; did you mean {nearest}?", word=word, nearest=near[0])
    return found
