"""How long TCP's timers take is what the kernel's documentation says."""

from __future__ import annotations

import pytest

from finwait.table.columns import TIMER_NAMES
from finwait.tcp.state import TcpState
from finwait.tcp.timers import SETTINGS, SYSCTLS, TIMERS, Timer, seconds_of, timers_in
from finwait.tcp.transitions import STATES, find_transition

DEFAULTS = {name: default for name, (default, _) in SYSCTLS.items()}


@pytest.mark.parametrize(
    ("timer", "seconds"),
    [
        ("syn_retries", 131.0),  # ip-sysctl.rst, tcp_syn_retries
        ("synack_retries", 63.0),  # tcp_synack_retries
        ("retransmit", 924.6),  # tcp_retries2
        ("orphan_retries", 102.2),  # tcp_orphan_retries(): "8 corresponds to >100 seconds"
        ("keepalive", 7875.0),
        ("fin_wait_2", 60.0),
        ("time_wait", 60),
        ("user_timeout", None),
        ("persist", None),
        ("delayed_ack", None),
        ("defer_accept", None),
    ],
)
def test_a_timer_takes_its_time_by_default(timer: str, seconds: float | None) -> None:
    assert seconds_of(timer, DEFAULTS) == seconds


@pytest.mark.parametrize(
    ("timer", "changed", "seconds"),
    [
        ("syn_retries", {"ipv4.tcp_syn_linear_timeouts": None}, 127.0),  # before Linux 6.5
        ("syn_retries", {"ipv4.tcp_syn_linear_timeouts": None, "ipv4.tcp_rto_max_ms": None}, 127.0),
        ("syn_retries", {"ipv4.tcp_syn_retries": "0", "ipv4.tcp_syn_linear_timeouts": "0"}, 1.0),
        ("syn_retries", {"ipv4.tcp_syn_retries": "6", "ipv4.tcp_rto_max_ms": "8000"}, 4 + 1 + 2 + 4 + 8 + 8 + 8 + 8.0),
        ("syn_retries", {"ipv4.tcp_syn_retries": "1", "ipv4.tcp_syn_linear_timeouts": "0"}, 3.0),  # measured on 6.18
        ("syn_retries", {"ipv4.tcp_syn_retries": "1", "ipv4.tcp_syn_linear_timeouts": "2"}, 3.0),  # measured
        ("syn_retries", {"ipv4.tcp_syn_retries": "2", "ipv4.tcp_syn_linear_timeouts": "1"}, 8.0),  # measured
        ("syn_retries", {"ipv4.tcp_syn_retries": "5"}, 67.0),
        ("syn_retries", {"ipv4.tcp_syn_retries": None}, None),
        ("orphan_retries", {"ipv4.tcp_orphan_retries": "3"}, 3.0),
        ("retransmit", {"ipv4.tcp_retries2": "8"}, 102.2),  # "at least 100 s, which corresponds to 8"
        ("keepalive", {"ipv4.tcp_keepalive_time": "23"}, 698.0),
        ("keepalive", {"ipv4.tcp_keepalive_probes": None}, None),
        ("fin_wait_2", {"ipv4.tcp_fin_timeout": "17"}, 17.0),
        ("fin_wait_2", {"ipv4.tcp_fin_timeout": "63"}, 6.0),  # measured on 6.18
        ("fin_wait_2", {"ipv4.tcp_fin_timeout": "65"}, 10.0),  # measured
        ("time_wait", {"ipv4.tcp_fin_timeout": "17"}, 60),
    ],
)
def test_a_sysctl_changes_the_time(timer: str, changed: dict[str, str | None], seconds: float | None) -> None:
    assert seconds_of(timer, DEFAULTS | changed) == seconds


@pytest.mark.parametrize("timer", TIMERS.values(), ids=lambda timer: timer.name)
def test_a_timer_is_made_of_known_words(timer: Timer) -> None:
    assert set(timer.sysctls) <= set(SYSCTLS)
    assert timer.shown in TIMER_NAMES
    assert timer.states
    if timer.ends_in is not None:
        for state in timer.states:
            assert [t for t in find_transition(state, timer.ends_in) if t.who in {"clock", "peer"}]


def test_every_state_that_waits_on_the_network_has_a_timer() -> None:
    without = [state for state in STATES if not timers_in(state)]
    assert without == [TcpState.LISTEN, TcpState.CLOSE]


def test_every_sysctl_is_used_and_settings_name_every_state() -> None:
    used = {name for timer in TIMERS.values() for name in timer.sysctls} | {n for row in SETTINGS.values() for n in row}
    assert used == set(SYSCTLS)
    assert tuple(SETTINGS) == STATES
