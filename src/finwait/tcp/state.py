"""The eleven states of TCP (RFC 9293, section 3.3.2) with the kernel's numbers and everybody's spellings.

Numbers are those of include/net/tcp_states.h. Past the parser a state is never a string.
"""

from __future__ import annotations

from enum import IntEnum

from finwait.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class TcpState(IntEnum):
    """A state of TCP; the value is the kernel's number."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11

    @property
    def rfc(self) -> str:
        """RFC 9293's spelling, for people: ``FIN-WAIT-1``."""
        return SPELLINGS[self][0]

    @property
    def ss(self) -> str:
        """What ss prints: ``ESTAB``, ``UNCONN``."""
        return SPELLINGS[self][1]

    @property
    def ss_filter(self) -> str:
        """The word of ss's filter: ``syn-recv``, ``listening``."""
        return SPELLINGS[self][2]

    @property
    def netstat(self) -> str:
        """What netstat and psutil print: ``FIN_WAIT1``."""
        return SPELLINGS[self][3]

    @property
    def node_exporter(self) -> str:
        """node_exporter's label: ``fin_wait1``."""
        return SPELLINGS[self][4]

    @property
    def token(self) -> str:
        """The machine word of JSON, CSV and metrics, OpenTelemetry's network.connection.state: ``fin_wait_1``."""
        return SPELLINGS[self][5]


# rfc, ss prints, ss filter, netstat, node_exporter, token, further words that are understood
SPELLINGS: dict[TcpState, tuple[str, ...]] = {
    TcpState.ESTABLISHED: ("ESTABLISHED", "ESTAB", "established", "ESTABLISHED", "established", "established"),
    TcpState.SYN_SENT: ("SYN-SENT", "SYN-SENT", "syn-sent", "SYN_SENT", "syn_sent", "syn_sent", "sync_send", "sync_sent"),
    TcpState.SYN_RECV: (
        "SYN-RECEIVED", "SYN-RECV", "syn-recv", "SYN_RECV", "syn_recv", "syn_received",
        "syn_rcvd", "sync_received", "sync_recv", "new_syn_recv",
    ),
    TcpState.FIN_WAIT1: ("FIN-WAIT-1", "FIN-WAIT-1", "fin-wait-1", "FIN_WAIT1", "fin_wait1", "fin_wait_1"),
    TcpState.FIN_WAIT2: ("FIN-WAIT-2", "FIN-WAIT-2", "fin-wait-2", "FIN_WAIT2", "fin_wait2", "fin_wait_2"),
    TcpState.TIME_WAIT: ("TIME-WAIT", "TIME-WAIT", "time-wait", "TIME_WAIT", "time_wait", "time_wait"),
    TcpState.CLOSE: ("CLOSED", "UNCONN", "closed", "CLOSE", "close", "closed", "unconnected"),
    TcpState.CLOSE_WAIT: ("CLOSE-WAIT", "CLOSE-WAIT", "close-wait", "CLOSE_WAIT", "close_wait", "close_wait"),
    TcpState.LAST_ACK: ("LAST-ACK", "LAST-ACK", "last-ack", "LAST_ACK", "last_ack", "last_ack"),
    TcpState.LISTEN: ("LISTEN", "LISTEN", "listening", "LISTEN", "listen", "listen"),
    TcpState.CLOSING: ("CLOSING", "CLOSING", "closing", "CLOSING", "closing", "closing"),
}  # fmt: skip

# The order of a connection's life, as RFC 9293, 3.3.2 tells it: opening, open, closing (the side that closes first, then
# the other), the fictional CLOSED last.
LIFE_ORDER: tuple[TcpState, ...] = (
    TcpState.LISTEN,
    TcpState.SYN_SENT,
    TcpState.SYN_RECV,
    TcpState.ESTABLISHED,
    TcpState.FIN_WAIT1,
    TcpState.FIN_WAIT2,
    TcpState.CLOSE_WAIT,
    TcpState.CLOSING,
    TcpState.LAST_ACK,
    TcpState.TIME_WAIT,
    TcpState.CLOSE,
)

NEW_SYN_RECV = 12  # request sockets, inside the kernel only; every interface reports them as SYN_RECV
BOUND_INACTIVE = 13  # a bit of the query mask (Linux 6.8); its sockets come back as CLOSE

ALL_STATES = frozenset(TcpState)
_CONNECTED = ALL_STATES - {TcpState.LISTEN, TcpState.CLOSE}
_BUCKET = frozenset({TcpState.TIME_WAIT, TcpState.SYN_RECV})
# ss's groups. `big` is what is not a bucket. bound-inactive is told apart from CLOSE only in the query mask.
STATE_GROUPS: dict[str, frozenset[TcpState]] = {
    "all": ALL_STATES,
    "connected": _CONNECTED,
    "synchronized": _CONNECTED - {TcpState.SYN_SENT},
    "bucket": _BUCKET,
    "big": ALL_STATES - _BUCKET,
    "bound-inactive": frozenset({TcpState.CLOSE}),
}


def _fold(word: str) -> str:
    """Case, ``-``, ``_`` and space do not matter."""
    return "".join(character for character in word.lower() if character not in "-_ ")


_STATE_BY_FOLDED: dict[str, TcpState] = {
    _fold(word): state for state, words in SPELLINGS.items() for word in (*words, state.name)
}
_GROUP_BY_FOLDED: dict[str, str] = {_fold(name): name for name in STATE_GROUPS}


def state_words() -> Iterable[str]:
    """Every word that `parse_states` understands, as it is printed somewhere, for completions and suggestions."""
    yield from dict.fromkeys(word for words in SPELLINGS.values() for word in words)
    yield from STATE_GROUPS


def parse_state(word: str) -> TcpState:
    """The state that `word` spells. Raises UsageError that names the nearest right word."""
    state = _STATE_BY_FOLDED.get(_fold(word))
    if state is None:
        raise UsageError("unknown TCP state '{word}'; did you mean {nearest}?", word=word, nearest=nearest_state(word))
    return state


def parse_states(word: str) -> frozenset[TcpState]:
    """The states that `word` names: one state or one of ss's groups. Raises UsageError with the nearest right word."""
    group = _GROUP_BY_FOLDED.get(_fold(word))
    return STATE_GROUPS[group] if group is not None else frozenset({parse_state(word)})


def is_state_word(word: str) -> bool:
    """Whether `parse_states` would understand `word`."""
    return _fold(word) in _STATE_BY_FOLDED or _fold(word) in _GROUP_BY_FOLDED


def nearest_state(word: str) -> str:
    """The known word nearest to `word`."""
    import difflib

    known = {_fold(name): name for name in state_words()}
    return known[difflib.get_close_matches(_fold(word), list(known), n=1, cutoff=0.0)[0]]
