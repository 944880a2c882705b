"""The netlink codec: requests, messages, attributes, errors."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finwait.errors import ParseError
from finwait.wire.inet_diag import ALL_STATES_MASK, build_tcp_dump
from finwait.wire.netlink import (
    build_attribute,
    build_dump_request,
    build_message,
    parse_attributes,
    parse_errno,
    parse_messages,
)
from tests.unit.wire.diag_messages import attribute, done, message


def test_a_request_of_one_family_is_inet_diag_req_v2() -> None:
    request = build_tcp_dump(10, 0x2AA, 0x2, sequence=9)
    assert request == struct.pack("=IHHII", 72, 20, 0x301, 9, 0) + struct.pack("=BBBBI", 10, 6, 2, 0, 0x2AA) + bytes(48)


def test_a_request_of_both_families_is_the_older_one() -> None:
    request = build_tcp_dump(None)
    assert request == struct.pack("=IHHII", 76, 18, 0x301, 1, 0) + bytes(52) + struct.pack("=II", ALL_STATES_MASK, 0)


def test_bytecode_rides_as_attribute_one() -> None:
    request = build_tcp_dump(2, bytecode=b"12345678")
    assert request[72:] == struct.pack("=HH", 12, 1) + b"12345678"
    assert struct.unpack_from("=I", request)[0] == len(request) == 84


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40)), max_size=8))
def test_attributes_are_parsed_as_they_were_built(attributes: list[tuple[int, bytes]]) -> None:
    built = b"".join(build_attribute(number, value) for number, value in attributes)
    assert [(number, built[start:end]) for number, start, end in parse_attributes(built, 0, len(built))] == attributes


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.binary(max_size=40)), max_size=8))
def test_messages_are_parsed_as_they_were_built(messages: list[tuple[int, int, bytes]]) -> None:
    built = b"".join(build_message(*one) for one in messages)
    assert [(kind, flags, built[start:end]) for kind, flags, start, end in parse_messages(built)] == messages


@given(st.binary(max_size=120))
def test_any_bytes_are_messages_or_a_parse_error(data: bytes) -> None:
    for parse in (parse_messages, lambda raw: parse_attributes(raw, 0, len(raw))):
        try:
            list(parse(data))  # type: ignore[operator]
        except ParseError as error:
            assert 0 <= error.offset <= len(data)


def test_a_dump_cut_at_every_length_gives_whole_messages_or_a_parse_error() -> None:
    whole = message(1) + message(2, attributes=attribute(8, b"\0")) + done()
    ends = {0, 88, 88 + 96, len(whole)}
    for length in range(len(whole) + 1):
        if length in ends:
            assert list(parse_messages(whole[:length])) == [one for one in parse_messages(whole) if one[3] <= length]
        else:
            with pytest.raises(ParseError):
                list(parse_messages(whole[:length]))


def test_done_and_error_carry_an_errno() -> None:
    assert parse_errno(done(errno=22), 16, 20) == 22
    assert parse_errno(done(), 16, 16) == 0  # old kernels


def test_a_dump_request_has_the_dump_flags() -> None:
    assert struct.unpack_from("=IHH", build_dump_request(20, b"")) == (16, 20, 0x301)
