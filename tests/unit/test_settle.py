"""What a deleted timer of a mini-socket means: the socket's end, unless the timer is set anew at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from finwait.sources.change_order import AT_ONCE_NS, settle
from finwait.sources.change_records import CHANGE
from finwait.tcp.state import TcpState
from finwait.wire.bpf_layouts import ENUMS

if TYPE_CHECKING:
    from finwait.table.batch import Array

GONE, BACK, REUSED = (ENUMS[f"FINWAIT_{name}"] for name in ("GONE", "BACK", "REUSED"))
S = TcpState


def records(*rows: dict[str, Any]) -> Array:
    """Records whose place is their time; `name` is kept in the cookie."""
    found = np.zeros(len(rows), dtype=CHANGE)
    for at, row in enumerate(rows):
        found[at]["at_ns"] = at + 1
        for name, value in row.items():
            found[at][name] = value
    return found


def change(number: int, **more: Any) -> dict[str, Any]:
    return {"cookie": number, "from": S.ESTABLISHED, "to": S.CLOSE_WAIT, **more}


def gone(number: int, at: int, state: TcpState = S.SYN_RECV, **more: Any) -> dict[str, Any]:
    return {"cookie": number, "object": at, "hints": GONE, "from": state, "to": S.CLOSE, **more}


def back(at: int, state: TcpState = S.SYN_RECV, **more: Any) -> dict[str, Any]:
    return {"cookie": 99, "object": at, "hints": GONE | BACK, "from": state, "to": S.CLOSE, **more}


def numbers(found: Array) -> list[int]:
    return [int(number) for number in found["cookie"]]


def settled(found: Array, before_ns: int | None = None) -> tuple[list[int], list[int]]:
    told, held = settle(found, before_ns)
    return numbers(told), numbers(held)


@pytest.mark.parametrize(("before_ns", "told"), [(None, 3), (0, 0), (2, 2), (100, 3)])
def test_what_is_younger_is_held_so_that_all_is_told_in_order(before_ns: int | None, told: int) -> None:
    assert settled(records(change(1), change(2), change(3)), before_ns) == ([1, 2, 3][:told], [1, 2, 3][told:])


def test_nothing_is_nothing() -> None:
    assert settled(records()) == ([], [])


@pytest.mark.parametrize("before_ns", [None, 0, 100])
def test_a_timer_that_is_set_anew_ended_nothing(before_ns: int | None) -> None:
    told, held = settled(records(change(1), gone(2, 7), change(3), back(7), change(4)), before_ns)
    assert [*told, *held] == [1, 3, 4]


@pytest.mark.parametrize("hints", [BACK, BACK | GONE])
def test_a_timer_comes_back_with_or_without_the_mark_of_its_end(hints: int) -> None:
    assert settled(records(gone(1, 7), back(7, hints=hints))) == ([], [])


def test_a_timer_of_another_socket_takes_nothing_back() -> None:
    assert settled(records(gone(1, 7), gone(2, 8), back(8))) == ([1], [])


def test_an_end_is_held_until_it_is_old_enough() -> None:
    found = records(gone(1, 7), change(2), gone(3, 8))  # at 1, 2, 3
    assert settled(found, 0) == ([], [1, 2, 3])
    assert settled(found, 1) == ([1], [2, 3])
    assert settled(found, 2) == ([1, 2], [3])
    assert settled(found, 3) == ([1, 2, 3], [])
    assert settled(found, None) == ([1, 2, 3], [])


def test_what_was_held_is_taken_back_by_the_next_reading_or_told() -> None:
    _, held = settle(records(gone(1, 7), gone(2, 8)), 0)
    later = records(back(7), change(3))
    later["at_ns"] += 10
    assert settled(np.concatenate([held, later]), 5) == ([2], [3])


def test_only_the_last_end_at_an_address_is_taken_back() -> None:
    assert settled(records(gone(1, 7), gone(2, 7), back(7))) == ([1], [])
    assert settled(records(gone(1, 7), back(7), gone(2, 7), back(7), gone(3, 7))) == ([3], [])
    assert settled(records(gone(1, 7), back(7), back(7), change(2))) == ([2], [])


def test_a_timer_that_comes_back_alone_is_no_change() -> None:
    assert settled(records(back(7), change(1))) == ([1], [])


ENDS = {"netns_cookie": 5, "local_port": 80, "peer_port": 4000, "local_address": [10] * 16, "peer_address": [11] * 16}


def is_reused(*rows: dict[str, Any]) -> bool:
    told, _ = settle(records(*rows), None)
    return bool(told[0]["hints"] & REUSED)


def test_a_time_wait_whose_ends_a_new_connection_takes_is_reused() -> None:
    received = {"from": S.LISTEN, "to": S.SYN_RECV, **ENDS}
    assert is_reused(gone(1, 7, S.TIME_WAIT, **ENDS), received)
    assert is_reused(gone(1, 7, S.TIME_WAIT, **ENDS), *[change(2)] * 100, received)
    assert not is_reused(gone(1, 7, S.TIME_WAIT, **ENDS), {**received, "at_ns": AT_ONCE_NS + 2})


def test_connect_has_begun_when_it_takes_the_place() -> None:
    called = {"from": S.CLOSE, "to": S.SYN_SENT, **ENDS}
    told, _ = settle(records(called, gone(1, 7, S.TIME_WAIT, **ENDS)), None)
    assert told[1]["hints"] & REUSED
    assert not is_reused(gone(1, 7, S.TIME_WAIT, **ENDS), called)


@pytest.mark.parametrize(
    "other",
    [{"netns_cookie": 6}, {"local_port": 81}, {"peer_port": 4001}, {"local_address": [12] * 16}, {"peer_address": [12] * 16},
     {"to": S.ESTABLISHED}],
    ids=str,
)  # fmt: skip
def test_another_connection_is_no_reuse(other: dict[str, Any]) -> None:
    new = {"from": S.LISTEN, "to": S.SYN_RECV, **ENDS, **other}
    assert not is_reused(gone(1, 7, S.TIME_WAIT, **ENDS), new)


def test_only_a_time_wait_is_reused_and_only_by_what_comes_later() -> None:
    new = {"from": S.LISTEN, "to": S.SYN_RECV, **ENDS}
    assert not is_reused(gone(1, 7, S.FIN_WAIT2, **ENDS), new)
    told, _ = settle(records(new, gone(1, 7, S.TIME_WAIT, **ENDS)), None)
    assert not any(told["hints"] & REUSED)
