"""The list of columns, and the words that name them."""

import re

import numpy as np
import pytest

from finwait.errors import UsageError
from finwait.table import columns
from finwait.table.columns import (
    ALIASES,
    COLUMN_BY_NAME,
    COLUMNS,
    ENDPOINT_PARTS,
    TIMER_NAMES,
    extensions_for,
    fold_name,
    parse_column,
    parse_columns,
    parse_timer,
    timer_name,
)
from finwait.wire.inet_diag import INET_DIAG_CONG, INET_DIAG_INFO, INET_DIAG_SKMEMINFO
from finwait.wire.tcp_info import SK_MEMINFO_FIELDS, TCP_INFO_FIELDS

KINDS = {
    columns.NUMBER,
    columns.STATE,
    columns.FAMILY,
    columns.TIMER,
    columns.BOOL,
    columns.ADDRESS,
    columns.PORT,
    columns.TEXT,
    columns.ENDPOINT,
}
every_column = pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)


def test_names_are_unique_and_spelled_as_they_fold():
    assert len(COLUMN_BY_NAME) == len(COLUMNS)
    for name in COLUMN_BY_NAME:
        assert fold_name(name) == name


@every_column
def test_every_column_has_a_known_kind_an_unsigned_type_and_a_description(column):
    assert column.kind in KINDS
    assert np.dtype(column.dtype).kind == "u"
    assert re.search(r"[a-z]", column.description)
    assert not column.description.endswith(".")


@every_column
def test_a_name_ends_in_us_or_ms_exactly_where_that_is_the_unit(column):
    suffix = column.name.rpartition("_")[2]
    assert (suffix if suffix in {"us", "ms"} else None) == (column.unit if column.unit in {"us", "ms"} else None)


@every_column
def test_a_column_of_tcp_info_or_skmeminfo_names_a_field_that_is_there(column):
    kind, field = column.origin or (None, None)
    fields = {"info": TCP_INFO_FIELDS, "skmem": SK_MEMINFO_FIELDS}.get(kind)
    if fields is not None:
        assert field in fields
        assert column.nullable  # older kernels send less


@every_column
def test_a_title_is_in_capitals_and_has_no_space(column):
    assert re.fullmatch(r"[A-Z0-9-]+", column.title)


def test_numbers_and_ports_are_right_aligned():
    assert [COLUMN_BY_NAME[name].right_aligned for name in ("recv_q", "local_port")] == [True, True]
    assert [COLUMN_BY_NAME[name].right_aligned for name in ("state", "local", "process")] == [False, False, False]


def test_aliases_lead_to_columns_and_hide_none():
    assert set(ALIASES.values()) <= set(COLUMN_BY_NAME)
    assert not set(ALIASES) & set(COLUMN_BY_NAME)


def test_the_parts_of_an_endpoint_are_columns():
    assert set(ENDPOINT_PARTS) == {column.name for column in COLUMNS if column.kind == columns.ENDPOINT}
    for address, port in ENDPOINT_PARTS.values():
        assert (COLUMN_BY_NAME[address].kind, COLUMN_BY_NAME[port].kind) == (columns.ADDRESS, columns.PORT)


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("recv_q", "recv_q"),
        ("RECV-Q", "recv_q"),
        ("Recv_Q", "recv_q"),
        ("recvq", "recv_q"),
        ("RTT", "rtt_us"),
        ("rport", "peer_port"),
        ("no-such", "no_such"),
        ("", ""),
    ],
)
def test_case_and_dashes_of_a_name_do_not_matter(word, name):
    assert fold_name(word) == name


@pytest.mark.parametrize(
    ("word", "nearest"), [("stat", "state"), ("rtt_ms", "rtt_us"), ("local-prot", "local_port"), ("cookies", "cookie")]
)
def test_an_unknown_column_names_the_nearest_right_word(word, nearest):
    with pytest.raises(UsageError) as error:
        parse_column(word)
    assert error.value.arguments == {"word": word, "nearest": nearest}
    assert error.value.exit_code == 2


@pytest.mark.parametrize("word", ["", "-", "\udcff", "列", "x" * 1000])
def test_any_word_that_is_no_column_is_a_usage_error(word):
    with pytest.raises(UsageError):
        parse_column(word)


def test_a_list_of_columns_keeps_its_order_and_has_each_once():
    assert [column.name for column in parse_columns("peer, STATE,recvq,recv-q ,peer")] == ["peer", "state", "recv_q"]


@pytest.mark.parametrize("words", ["", "state,", ",state", "state,,peer"])
def test_an_empty_place_in_a_list_of_columns_is_a_usage_error(words):
    with pytest.raises(UsageError):
        parse_columns(words)


@pytest.mark.parametrize("number", range(256))
def test_the_name_of_a_timer_leads_back_to_its_number(number):
    assert parse_timer(timer_name(number)) == number


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("off", 0),
        ("ON", 1),
        ("retransmit", 1),
        ("Keepalive", 2),
        ("timewait", 3),
        ("time-wait", 3),
        ("probe", 4),
        ("unknown", 5),
        ("delayed-ack", 5),
        ("007", 7),
    ],
)
def test_a_timer_has_the_names_that_ss_and_netstat_give_it(word, number):
    assert parse_timer(word) == number


@pytest.mark.parametrize("word", ["", "256", "-1", "1.0", "²", "٣", "time wait", "9" * 5000])
def test_a_word_that_is_no_timer_has_no_number(word):
    assert parse_timer(word) is None


def test_a_timer_that_is_not_known_yet_stays_a_number():
    assert timer_name(len(TIMER_NAMES)) == "6"


def test_the_kernel_is_asked_for_the_extensions_that_the_columns_need():
    info, skmem, congestion = (1 << (bit - 1) for bit in (INET_DIAG_INFO, INET_DIAG_SKMEMINFO, INET_DIAG_CONG))
    assert extensions_for(()) == extensions_for(("state", "cookie", "local", "mark", "process")) == 0
    assert extensions_for(("rtt_us", "rtt_us", "snd_wscale")) == info
    assert extensions_for(frozenset({"drops"})) == skmem
    assert extensions_for({"congestion"}) == congestion
    assert extensions_for(("state", "rtt_us", "rcvbuf", "congestion")) == info | skmem | congestion
