"""What `finwait explain` says of a namespace is what stands there: its settings and its sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finwait.lab.spec import Group
from finwait.tcp.timers import SYSCTLS
from tests.kernel.finwait_command import document_of, output_of, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from finwait.lab.population import Population


def timer_of(name: str, held: Population) -> dict[str, Any]:
    return document_of("explain", "timer", name, held=held)["timers"][0]


def write(held: Population, name: str, value: str) -> None:
    import subprocess

    command = held.enter_command("sh", "-c", f"echo {value} > /proc/sys/net/ipv4/{name}")
    subprocess.run(command, check=True, capture_output=True)


def test_a_setting_is_that_of_the_namespace_and_changes_the_time(population: Callable[..., Population]) -> None:
    held = population(Group("LISTEN", 1))
    write(held, "tcp_fin_timeout", "17")
    timer = timer_of("fin_wait_2", held)
    assert (timer["sysctls"][0]["value"], timer["seconds"], timer["default_seconds"]) == ("17", 17, 60)
    assert "net.ipv4.tcp_fin_timeout = 17 s (default: 60 s)" in output_of("explain", "fin-wait-2", held=held)
    write(held, "tcp_orphan_retries", "3")
    assert timer_of("orphan_retries", held)["seconds"] == 0.2 * (1 + 2 + 4 + 8)


def test_what_the_namespace_does_not_have_is_null(population: Callable[..., Population]) -> None:
    held = population(Group("LISTEN", 1))
    for name in SYSCTLS:
        there = run("explain", held=held).returncode == 0 and _is_there(name, held)
        values = {
            sysctl["name"]: sysctl["value"]
            for state in document_of("explain", "all", "--no-counts", held=held)["states"]
            for sysctl in [*state["settings"], *(s for timer in state["timers"] for s in timer["sysctls"])]
        }
        assert (values[f"net.{name}"] is not None) == there, name


def _is_there(name: str, held: Population) -> bool:
    import subprocess

    command = held.enter_command("test", "-e", f"/proc/sys/net/{name.replace('.', '/')}")
    return subprocess.run(command, check=False).returncode == 0


def test_each_state_is_counted_as_it_stands(population: Callable[..., Population]) -> None:
    held = population(Group("LISTEN", 3), Group("CLOSE_WAIT", 23), Group("TIME_WAIT", 11))
    states = document_of("explain", held=held)["states"]
    counted = {state["state"]: state["count"] for state in states}
    assert {state: count for state, count in counted.items() if count} == {
        state: count
        for state, count in ((row["state"], row["count"]) for row in document_of("count", held=held)["rows"])
        if count
    }
    assert (counted["close_wait"], counted["time_wait"]) == (23, 11)
    assert "here now: 23" in output_of("explain", "close-wait", held=held)
