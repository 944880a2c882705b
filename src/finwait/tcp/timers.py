"""TCP's timers as data: in which states each runs, what it ends in, what sets it, and how long that makes it (Linux).

Sysctls are named without ``net.``, as they stand in /proc/sys/net: ``ipv4.tcp_syn_retries``. Defaults are those of
Documentation/networking/ip-sysctl.rst; net/ipv4/tcp_timer.c does the arithmetic that `seconds_of` does.
"""

from __future__ import annotations

from finwait.tcp.state import TcpState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FIRST_RTO = 1.0  # TCP_TIMEOUT_INIT: of a SYN, before any round trip was measured (RFC 6298)
LEAST_RTO = 0.2  # TCP_RTO_MIN, with which the kernel reckons how long N retransmissions would take
TIME_WAIT_SECONDS = 60  # TCP_TIMEWAIT_LEN, a constant
ORPHAN_RETRIES = 8  # what tcp_orphan_retries = 0 means

TIMES, SECONDS, MILLISECONDS, SOCKETS, SWITCH, PORTS = "times", "seconds", "milliseconds", "sockets", "switch", "ports"
# default: None where the kernel takes it from the memory of the machine.
SYSCTLS: dict[str, tuple[str | None, str]] = {
    "ipv4.tcp_syn_retries": ("6", TIMES),
    "ipv4.tcp_syn_linear_timeouts": ("4", TIMES),  # Linux 6.5
    "ipv4.tcp_synack_retries": ("5", TIMES),
    "ipv4.tcp_retries2": ("15", TIMES),
    "ipv4.tcp_orphan_retries": ("0", TIMES),
    "ipv4.tcp_rto_max_ms": ("120000", MILLISECONDS),  # Linux 6.15
    "ipv4.tcp_keepalive_time": ("7200", SECONDS),
    "ipv4.tcp_keepalive_intvl": ("75", SECONDS),
    "ipv4.tcp_keepalive_probes": ("9", TIMES),
    "ipv4.tcp_fin_timeout": ("60", SECONDS),
    "ipv4.tcp_max_orphans": (None, SOCKETS),
    "ipv4.tcp_max_tw_buckets": (None, SOCKETS),
    "ipv4.tcp_tw_reuse": ("2", SWITCH),
    "ipv4.tcp_tw_reuse_delay": ("1000", MILLISECONDS),  # Linux 6.14
    "ipv4.tcp_rfc1337": ("0", SWITCH),
    "ipv4.ip_local_port_range": ("32768 60999", PORTS),
    "ipv4.tcp_syncookies": ("1", SWITCH),
    "ipv4.tcp_max_syn_backlog": (None, SOCKETS),
    "ipv4.tcp_abort_on_overflow": ("0", SWITCH),
    "core.somaxconn": ("4096", SOCKETS),
}


class Timer:
    """states: in which it runs. ends_in: the state that its last expiry leads to, None where it ends nothing. sysctls: that set
    it. option: of the socket, that sets it for one. shown: the name of finwait's column ``timer`` while it runs, None for none.
    """  # fmt: skip

    __slots__ = ("ends_in", "name", "option", "rfc", "shown", "states", "sysctls")

    def __init__(
        self,
        name: str,
        states: tuple[TcpState, ...],
        ends_in: TcpState | None,
        sysctls: tuple[str, ...],
        option: str | None,
        shown: str | None,
        rfc: str,
    ) -> None:
        self.name = name
        self.states = states
        self.ends_in = ends_in
        self.sysctls = sysctls
        self.option = option
        self.shown = shown
        self.rfc = rfc


_SYN_SENT, _SYN_RECV, _ESTABLISHED, _FIN_WAIT1, _FIN_WAIT2 = (
    TcpState.SYN_SENT, TcpState.SYN_RECV, TcpState.ESTABLISHED, TcpState.FIN_WAIT1, TcpState.FIN_WAIT2,
)  # fmt: skip
_CLOSE_WAIT, _CLOSING, _LAST_ACK, _TIME_WAIT, _CLOSED = (
    TcpState.CLOSE_WAIT, TcpState.CLOSING, TcpState.LAST_ACK, TcpState.TIME_WAIT, TcpState.CLOSE,
)  # fmt: skip
_RTO_MAX = "ipv4.tcp_rto_max_ms"
_SENDING = (_ESTABLISHED, _FIN_WAIT1, _CLOSE_WAIT, _CLOSING, _LAST_ACK)

# In the order of a connection's life. LISTEN and CLOSED have none. Keepalive runs only where the program asked for it.
_ALL: tuple[Timer, ...] = (
    Timer("syn_retries", (_SYN_SENT,), _CLOSED, ("ipv4.tcp_syn_retries", "ipv4.tcp_syn_linear_timeouts", _RTO_MAX),
          "TCP_SYNCNT", "on", "3.8.3"),
    Timer("synack_retries", (_SYN_RECV,), _CLOSED, ("ipv4.tcp_synack_retries", _RTO_MAX), "TCP_SYNCNT", "on", "3.8.3"),
    Timer("defer_accept", (_SYN_RECV,), _ESTABLISHED, (), "TCP_DEFER_ACCEPT", "on", "3.10.7.4"),
    Timer("retransmit", _SENDING, _CLOSED, ("ipv4.tcp_retries2", _RTO_MAX), "TCP_USER_TIMEOUT", "on", "3.8.3"),
    Timer("user_timeout", _SENDING, _CLOSED, (), "TCP_USER_TIMEOUT", "on", "3.8.3"),
    Timer("persist", _SENDING, _CLOSED, ("ipv4.tcp_retries2", _RTO_MAX), "TCP_USER_TIMEOUT", "persist", "3.8.6.1"),
    Timer("keepalive", (_ESTABLISHED, _FIN_WAIT2, _CLOSE_WAIT), _CLOSED,
          ("ipv4.tcp_keepalive_time", "ipv4.tcp_keepalive_intvl", "ipv4.tcp_keepalive_probes"),
          "SO_KEEPALIVE", "keepalive", "3.8.4"),
    Timer("delayed_ack", (_ESTABLISHED, _FIN_WAIT1, _FIN_WAIT2), None, (), "TCP_QUICKACK", "delayed_ack", "3.8.6.3"),
    Timer("orphan_retries", (_FIN_WAIT1, _CLOSING, _LAST_ACK), _CLOSED, ("ipv4.tcp_orphan_retries", _RTO_MAX), None, "on",
          "3.8.3"),
    Timer("fin_wait_2", (_FIN_WAIT2,), _CLOSED, ("ipv4.tcp_fin_timeout",), "TCP_LINGER2", "time_wait", "3.3.2"),
    Timer("time_wait", (_TIME_WAIT,), _CLOSED, (), None, "time_wait", "3.6.1"),
)  # fmt: skip
TIMERS: dict[str, Timer] = {timer.name: timer for timer in _ALL}
# Timers whose time is the least that is allowed: the real one follows the round trips.
AT_LEAST = frozenset({"retransmit", "orphan_retries"})

# Settings that are no timers and bear on a state.
SETTINGS: dict[TcpState, tuple[str, ...]] = {
    TcpState.LISTEN: ("core.somaxconn", "ipv4.tcp_abort_on_overflow", "ipv4.tcp_syncookies"),
    TcpState.SYN_SENT: ("ipv4.ip_local_port_range",),
    TcpState.SYN_RECV: ("ipv4.tcp_max_syn_backlog", "ipv4.tcp_syncookies", "core.somaxconn", "ipv4.tcp_abort_on_overflow"),
    TcpState.ESTABLISHED: (),
    TcpState.FIN_WAIT1: ("ipv4.tcp_max_orphans",),
    TcpState.FIN_WAIT2: ("ipv4.tcp_max_tw_buckets",),
    TcpState.CLOSE_WAIT: (),
    TcpState.CLOSING: ("ipv4.tcp_max_orphans",),
    TcpState.LAST_ACK: ("ipv4.tcp_max_orphans",),
    TcpState.TIME_WAIT: (
        "ipv4.tcp_tw_reuse", "ipv4.tcp_tw_reuse_delay", "ipv4.tcp_max_tw_buckets", "ipv4.tcp_rfc1337",
        "ipv4.ip_local_port_range",
    ),
    TcpState.CLOSE: (),
}  # fmt: skip


def timers_in(state: TcpState) -> tuple[Timer, ...]:
    """The timers that may run in `state`."""
    return tuple(timer for timer in TIMERS.values() if state in timer.states)


def seconds_of(timer: str, value_by_sysctl: Mapping[str, str | None]) -> float | None:
    """How long `timer` takes from beginning to end with these values; None where values do not tell.

    What the kernel does not have counts as the kernel before it: no linear time-outs, 120 s at most.
    """
    if timer == "time_wait":
        return TIME_WAIT_SECONDS
    if timer not in _SECONDS:
        return None
    numbers = {name: _number(value_by_sysctl.get(name)) for name in TIMERS[timer].sysctls}
    most = numbers.get(_RTO_MAX)
    limit = 120.0 if most is None else most / 1000
    optional = {"ipv4.tcp_syn_linear_timeouts": 0, _RTO_MAX: 0}
    values = [optional.get(name) if number is None else number for name, number in numbers.items()]
    known = [value for value in values if value is not None]
    return None if len(known) < len(values) else round(_SECONDS[timer](known, limit), 1)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _of_syn(values: list[int], limit: float) -> float:
    """tcp_write_timeout: it ends with the last of so many retransmissions, or when the time for those that double is over."""
    retries, linear = values[0], values[1]
    elapsed, sent = FIRST_RTO, 0
    while sent < retries + linear and (not sent or elapsed < _doubling(retries, limit)):
        sent += 1
        elapsed += FIRST_RTO if sent <= linear else min(FIRST_RTO * (1 << (sent - linear)), limit)
    return elapsed


def _doubling(retries: int, limit: float) -> float:
    """One time-out behind the first segment and one behind each retransmission, each twice as long as the one before."""
    return sum(min(FIRST_RTO * (1 << at), limit) for at in range(retries + 1))


def _model(retries: int, limit: float) -> float:
    """tcp_model_timeout: what a connection is allowed whose RTO began at the least one. It ends with the first RTO behind that,
    counted from the first retransmission.
    """  # fmt: skip
    return sum(min(LEAST_RTO * (1 << at), limit) for at in range(retries + 1))


def _of_fin_wait_2(timeout: float) -> float:
    """__tcp_close, tcp_keepalive_timer: beyond TCP_TIMEWAIT_LEN both the full socket and then the mini-socket wait for what is
    above it.
    """  # fmt: skip
    return timeout if timeout <= TIME_WAIT_SECONDS else 2 * (timeout - TIME_WAIT_SECONDS)


_SECONDS: dict[str, Callable[[list[int], float], float]] = {
    "syn_retries": _of_syn,
    "synack_retries": lambda values, limit: _doubling(values[0], limit),
    "retransmit": lambda values, limit: _model(values[0], limit),
    "orphan_retries": lambda values, limit: _model(values[0] or ORPHAN_RETRIES, limit),
    "keepalive": lambda values, _: float(values[0] + values[1] * values[2]),
    "fin_wait_2": lambda values, _: _of_fin_wait_2(float(values[0])),
}
