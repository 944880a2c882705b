"""Every spelling of the eleven states that anybody prints is understood."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finwait.errors import UsageError
from finwait.tcp.state import (
    ALL_STATES,
    LIFE_ORDER,
    SPELLINGS,
    STATE_GROUPS,
    TcpState,
    is_state_word,
    nearest_state,
    parse_state,
    parse_states,
    state_words,
)
from finwait.tcp.waits import CLOCK, NOBODY, PEER, PROGRAM, WAITS

NAMES = ["ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK",
         "LISTEN", "CLOSING"]  # fmt: skip


def test_the_numbers_are_the_kernels() -> None:
    """include/net/tcp_states.h"""
    assert [(state.name, int(state)) for state in TcpState] == list(zip(NAMES, range(1, 12), strict=True))


@pytest.mark.parametrize("state", LIFE_ORDER, ids=str)
def test_what_is_printed_is_understood(state: TcpState) -> None:
    for word in (state.rfc, state.ss, state.ss_filter, state.netstat, state.node_exporter, state.token, state.name):
        assert parse_state(word) is state
        assert parse_states(word) == {state}
        assert is_state_word(word)


WORDS = [(word, state) for state, words in SPELLINGS.items() for word in words]


@given(st.sampled_from(WORDS), st.data())
def test_case_dashes_underscores_and_blanks_do_not_matter(pair: tuple[str, TcpState], data: st.DataObject) -> None:
    word, state = pair
    gaps, cases = st.sampled_from(["-", "_", " ", ""]), st.sampled_from([str.lower, str.upper])
    changed = "".join(data.draw(gaps) if letter in "-_" else data.draw(cases)(letter) for letter in word)
    assert parse_state(changed) is state


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("fin wait 1", TcpState.FIN_WAIT1), ("FINWAIT2", TcpState.FIN_WAIT2), ("syn_rcvd", TcpState.SYN_RECV),
        ("sync_received", TcpState.SYN_RECV), ("sync_send", TcpState.SYN_SENT), ("estab", TcpState.ESTABLISHED),
        ("unconnected", TcpState.CLOSE), ("listening", TcpState.LISTEN), ("NEW_SYN_RECV", TcpState.SYN_RECV),
    ],
)  # fmt: skip
def test_other_programs_words_are_understood(word: str, state: TcpState) -> None:
    assert parse_state(word) is state


def test_each_spelling_belongs_to_one_state() -> None:
    folded: dict[str, TcpState] = {}
    for word, state in WORDS:
        assert folded.setdefault(word.lower().replace("-", "").replace("_", ""), state) is state


@pytest.mark.parametrize(
    ("typo", "state"),
    [
        ("ESTABLISED", "ESTABLISHED"), ("estabilshed", "ESTABLISHED"), ("tme-wait", "TIME_WAIT"), ("timewati", "TIME_WAIT"),
        ("clsoe-wait", "CLOSE_WAIT"), ("fin-wait", "FIN_WAIT1"), ("fin-wiat-2", "FIN_WAIT2"), ("lsiten", "LISTEN"),
        ("closeing", "CLOSING"), ("syn-recieved", "SYN_RECV"), ("syn-snet", "SYN_SENT"), ("lastack1", "LAST_ACK"),
        ("closd", "CLOSE"),
    ],
)  # fmt: skip
def test_a_typo_gets_the_state_that_was_meant(typo: str, state: str) -> None:
    nearest = nearest_state(typo)
    if typo == "fin-wait":  # either of the two
        assert parse_state(nearest) in {TcpState.FIN_WAIT1, TcpState.FIN_WAIT2}
    else:
        assert parse_state(nearest).name == state
    with pytest.raises(UsageError) as caught:
        parse_state(typo)
    assert str(caught.value) == f"unknown TCP state '{typo}'; did you mean {nearest}?"


@pytest.mark.parametrize("typo", ["conected", "sinchronized", "buckets", "bigg", "al1", "bound inactiv"])
def test_a_typo_of_a_group_gets_the_group(typo: str) -> None:
    assert nearest_state(typo) in STATE_GROUPS


@given(st.text())
def test_any_word_is_a_state_a_group_or_a_usage_error(word: str) -> None:
    try:
        states = parse_states(word)
    except UsageError as error:
        assert not is_state_word(word)
        assert is_state_word(str(error.arguments["nearest"]))
        return
    assert is_state_word(word)
    assert states <= ALL_STATES


def test_the_groups_are_those_of_ss() -> None:
    """misc/ss.c: SS_CONN, SS_ALL & ~(1 << SS_...) in scan_state()"""
    names = {group: {state.name for state in states} for group, states in STATE_GROUPS.items()}
    connected = set(NAMES) - {"LISTEN", "CLOSE"}
    assert names == {
        "all": set(NAMES),
        "connected": connected,
        "synchronized": connected - {"SYN_SENT"},
        "bucket": {"SYN_RECV", "TIME_WAIT"},
        "big": set(NAMES) - {"SYN_RECV", "TIME_WAIT"},
        "bound-inactive": {"CLOSE"},
    }
    assert all(parse_states(name) == states for name, states in STATE_GROUPS.items())
    assert parse_states("BOUND_INACTIVE") == {TcpState.CLOSE}


def test_a_group_is_no_single_state() -> None:
    for name in STATE_GROUPS:
        with pytest.raises(UsageError):
            parse_state(name)


def test_every_word_of_completions_is_understood() -> None:
    assert all(is_state_word(word) for word in state_words())


def test_life_has_every_state_once_and_every_state_waits_for_somebody() -> None:
    assert sorted(LIFE_ORDER) == list(TcpState)
    assert set(WAITS) == set(TcpState)
    assert {who for who, _ in WAITS.values()} == {NOBODY, PEER, PROGRAM, CLOCK}
