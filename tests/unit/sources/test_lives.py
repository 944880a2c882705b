"""Whole lives as columns, also where not each state was seen."""

from __future__ import annotations

import numpy as np
import pytest

from finwait.sources.change_columns import lifetimes_of
from finwait.sources.change_records import LIFETIME
from finwait.table.cells import cells_of
from finwait.tcp.state import TcpState as S


@pytest.mark.parametrize(
    ("states", "to", "opened_by", "closed_by"),
    [
        ((S.SYN_SENT, S.ESTABLISHED, S.FIN_WAIT1, S.FIN_WAIT2), S.TIME_WAIT, "local", "local"),
        ((S.SYN_RECV, S.ESTABLISHED, S.CLOSE_WAIT, S.LAST_ACK), S.CLOSE, "peer", "peer"),
        ((S.ESTABLISHED, S.FIN_WAIT1, S.CLOSING), S.TIME_WAIT, None, "local"),
        ((S.ESTABLISHED,), S.CLOSE, None, None),
        ((S.ESTABLISHED,), S.TIME_WAIT, None, "local"),
        ((S.FIN_WAIT2,), S.FIN_WAIT2, None, "local"),
        ((S.LAST_ACK,), S.CLOSE, None, "peer"),
        ((), S.CLOSE, None, None),
    ],
    ids=str,
)
def test_who_closed_first_is_told_by_any_state_behind_it(
    states: tuple[S, ...], to: S, opened_by: str | None, closed_by: str | None
) -> None:
    records = np.zeros(1, LIFETIME)
    records["family"], records["to"] = 2, to
    records["states"][0, : len(states)] = states
    batch = lifetimes_of(records, 0, (), lambda _: {})
    assert cells_of(batch, "opened_by") == [opened_by]
    assert cells_of(batch, "closed_by") == [closed_by]
