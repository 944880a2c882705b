"""What `finwait lab --list` offers: the exchanges of TCP, played segment by segment, and faults that operators meet."""

from __future__ import annotations

from finwait.errors import UsageError
from finwait.lab.spec import Group, Spec
from finwait.tcp.exchanges import CLIENT, EXCHANGES, SERVER, Exchange
from finwait.tcp.state import is_state_word
from finwait.text.messages import mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Scenario:
    """title: message id, one line. exchange: to play; groups and sysctls: of the population, where it is none. `N` sockets of
    a fault are a prime number, so that nothing else explains them.
    """  # fmt: skip

    __slots__ = ("exchange", "groups", "name", "sysctls", "title")

    def __init__(
        self,
        name: str,
        title: str,
        *groups: Group,
        sysctls: Mapping[str, str | int] | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        self.name = name
        self.title = title
        self.groups = groups
        self.sysctls = dict(sysctls or {})
        self.exchange = exchange

    @property
    def kernel_end(self) -> str:
        """The end of an exchange that is worth looking at, and so the kernel's unless told otherwise."""
        return SERVER if self.name == "half-open" else CLIENT

    def spec(self, family: str) -> Spec:
        """The population, with sockets of `family` (ipv4 or ipv6)."""
        from dataclasses import replace

        return Spec(tuple(replace(group, family=family) for group in self.groups), None, self.sysctls)


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
_FAULTS = (
    Scenario(
        "syn-flood",
        mark("499 half-open connections from addresses that never answer"),
        Group("LISTEN", 1),
        Group("SYN_RECV", 499, peers=499),
    ),
    Scenario(
        "accept-queue-full",
        mark("a program that does not accept: the accept queue of its listener is full"),
        Group("LISTEN", 1, backlog=4),
        Group("ESTABLISHED", 5, accepted=False),
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
