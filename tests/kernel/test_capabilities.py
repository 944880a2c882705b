"""Both ways to find out whether CLOSED can be seen agree on this kernel."""

from __future__ import annotations

from finwait.sources.capabilities import _try_bound_socket, probe_closed_visible, probe_type_name


def test_the_type_information_and_a_bound_socket_say_the_same() -> None:
    tried = _try_bound_socket()
    assert tried is not None
    assert probe_type_name(b"TCP_BOUND_INACTIVE") in {tried, None}
    assert probe_closed_visible() is tried is probe_closed_visible(10**6)
