"""What `finwait lab` is asked for: ``STATE=N`` words to a population."""

from __future__ import annotations

import resource

from finwait.errors import UsageError
from finwait.lab.spec import Group, Spec
from finwait.tcp.state import TcpState, parse_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

FAMILIES = {2: "ipv4", 10: "ipv6"}
SPARE_DESCRIPTORS = 50  # of the holder's limit, for what is not a socket of the population
MOST = 1_000_000  # TIME-WAIT and half-open connections need no descriptor


def parse_population(words: Sequence[str], family: int | None) -> Spec:
    """The population that ``TIME_WAIT=150 SYN_RECV=21`` asks for; a listener is added where half-open connections need one.

    family: 2 or 10 for sockets of that family only; None: IPv4. Raises UsageError for what it cannot be.
    """
    counts: dict[TcpState, int] = {}
    for word in words:
        state, count = _parse_word(word)
        if state in counts:
            raise UsageError("{state} is asked for twice", state=state.rfc)
        counts[state] = count
    if not any(counts.values()):
        raise UsageError("the lab is asked for no socket; say STATE=N, for example TIME_WAIT=150")
    name = FAMILIES[family or 2]
    if counts.get(TcpState.SYN_RECV) and not counts.get(TcpState.LISTEN):
        counts[TcpState.LISTEN] = 1
    # Of a queue more than half full the kernel keeps half-open connections for 7 s only (reqsk_timer_handler).
    backlog = max(Group.backlog, 2 * counts.get(TcpState.SYN_RECV, 0))
    groups = tuple(Group(state.name, count, name, backlog=backlog) for state, count in counts.items() if count)
    _check_room(groups)
    return Spec(groups)


def _parse_word(word: str) -> tuple[TcpState, int]:
    name, equals, number = word.partition("=")
    if not equals:
        raise UsageError("'{word}' is no population; say STATE=N, for example TIME_WAIT=150", word=word)
    state = parse_state(name)
    if not (number.isascii() and number.isdigit()) or len(number) > len(str(MOST)) or int(number) > MOST:
        raise UsageError("'{word}': a population is a whole number up to {most}", word=word, most=MOST)
    return state, int(number)


def _check_room(groups: Sequence[Group]) -> None:
    """Whether the holder may have so many descriptors. Raises UsageError."""
    held = {
        TcpState.LISTEN,
        TcpState.CLOSE,
        TcpState.SYN_SENT,
        TcpState.ESTABLISHED,
        TcpState.FIN_WAIT2,
        TcpState.CLOSE_WAIT,
    }
    wanted = sum(group.count for group in groups if group.tcp_state in held)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    room = hard - SPARE_DESCRIPTORS
    if hard != resource.RLIM_INFINITY and wanted > room:
        raise UsageError(
            "{wanted} sockets with a descriptor are more than this process may have ({room}; ulimit -Hn)",
            wanted=wanted,
            room=room,
        )
