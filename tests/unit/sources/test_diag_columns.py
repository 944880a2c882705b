"""Buffers to columns, against a reader that takes one message and one attribute at a time."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finwait.errors import ParseError
from finwait.sources.diag_columns import DiagBuffer, decode_buffer
from finwait.table.cells import cells_of
from finwait.table.columns import COLUMNS, ENDPOINT
from finwait.tcp.state import TcpState
from finwait.wire.tcp_info import SK_MEMINFO_FIELDS, TCP_INFO_FIELDS
from tests.unit.batches import FEW
from tests.unit.wire.diag_messages import attribute, done, message

if TYPE_CHECKING:
    from finwait.table.batch import Batch

NAMES = tuple(column.name for column in COLUMNS if column.kind != ENDPOINT)
INTERFACES = {2: "eth0", 3: "网卡"}
CONG, TOS, SKMEMINFO, SHUTDOWN, SKV6ONLY, MARK, CGROUP_ID, INFO = 4, 5, 7, 8, 11, 15, 21, 2


def decoded(buffer: bytes, *, cut: bool = False, names: tuple[str, ...] = NAMES) -> Batch:
    padded = memoryview(bytearray(buffer + bytes(-len(buffer) % 4)))
    return decode_buffer(padded, DiagBuffer(padded, len(buffer), cut=cut), names, INTERFACES)


def table_of(batch: Batch) -> list[dict[str, Any]]:
    columns = [cells_of(batch, name) for name in NAMES]
    return [dict(zip(NAMES, row, strict=True)) for row in zip(*columns, strict=True)]


# -- the plain reader


def attributes_of(one: bytes) -> dict[int, bytes]:
    found, at = {}, 88
    while len(one) - at >= 4:
        length, kind = struct.unpack_from("=HH", one, at)
        found[kind & 0x3FFF] = one[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def number_of(value: bytes | None, code: str, at: int = 0) -> int | None:
    size = struct.calcsize(code)
    return None if value is None or len(value) < at + size else int(struct.unpack_from(f"={code}", value, at)[0])


def plain_row(one: bytes) -> dict[str, Any]:
    """What one message says, in words of the table."""
    family, state, timer, retrans = one[16:20]
    state = 3 if state == 12 else state
    sport, dport = struct.unpack_from("!HH", one, 20)
    interface, low, high, expires, rqueue, wqueue, uid, inode = struct.unpack_from("=8I", one, 56)
    attributes = attributes_of(one)
    listens = state == 10
    size = 4 if family != 10 else 16

    def address(at: int) -> str:
        found = ip_address(one[at : at + size])
        return str(getattr(found, "ipv4_mapped", None) or found)

    mapped = one[24:36] == bytes(10) + b"\xff\xff"
    row: dict[str, Any] = {
        "state": TcpState(state).token, "family": {2: "inet", 10: "inet6"}[family],
        "ip_version": 4 if family == 2 or mapped else 6, "local_address": address(24), "peer_address": address(40),
        "local_port": sport, "peer_port": dport, "cookie": low | high << 32,
        "interface": INTERFACES.get(interface, str(interface)) if interface else None,
        "recv_q": None if listens else rqueue, "send_q": None if listens else wqueue,
        "accept_queue_length": rqueue if listens else None, "accept_queue_limit": wqueue if listens else None,
        "timer": ("none", "on", "keepalive", "time_wait", "persist", "delayed_ack")[timer] if timer < 6 else str(timer),
        "expires_ms": expires if timer else None, "retransmits": retrans, "inode": inode or None,
        "uid": uid if SHUTDOWN in attributes else None, "mark": number_of(attributes.get(MARK), "I"),
        "cgroup_id": number_of(attributes.get(CGROUP_ID), "Q"), "shutdown": number_of(attributes.get(SHUTDOWN), "B"),
    }  # fmt: skip
    v6only = number_of(attributes.get(SKV6ONLY), "B")
    row["v6only"] = None if v6only is None else bool(v6only)
    if CONG in attributes:
        row["congestion"] = attributes[CONG].rstrip(b"\0").decode("utf-8", "surrogateescape")
    _read_fields(row, attributes, listens)
    return row


HALF_OPEN = ("syn_sent", "syn_received")  # nothing was sent or received yet: the kernel counts from the boot
SINCE = ("last_data_sent_ms", "last_data_recv_ms", "last_ack_recv_ms")
CODES = {"u1": "B", "u4": "I", "u8": "Q"}
UNKNOWN = {"ssthresh": 0x7FFFFFFF, "pacing_rate": 2**64 - 1, "min_rtt_us": 2**32 - 1, "rtt_us": 0, "rttvar_us": 0,
           "rcv_rtt_us": 0, "rto_us": 0}  # fmt: skip


def _read_fields(row: dict[str, Any], attributes: dict[int, bytes], listens: bool) -> None:
    for column in COLUMNS:
        where, field = column.origin or ("", "")
        if where not in {"info", "skmem"} or field == "tcpi_wscale":
            continue
        offset, code = (TCP_INFO_FIELDS if where == "info" else SK_MEMINFO_FIELDS)[field]
        value = number_of(attributes.get(INFO if where == "info" else SKMEMINFO), CODES[code], offset)
        hidden = (listens and where == "info") or value == UNKNOWN.get(column.name, -1)
        hidden = hidden or (row["state"] in HALF_OPEN and column.name in SINCE)
        row[column.name] = None if hidden else value
    info = attributes.get(INFO)
    packed, options = number_of(info, "B", 6), number_of(info, "B", 5)
    if packed is not None and options is not None and options & 4 and not listens:
        row["snd_wscale"], row["rcv_wscale"] = packed & 15, packed >> 4


# -- messages of any make

INFO_LENGTHS = st.sampled_from([0, 1, 4, 104, 144, 192, 232, 248, 280, 300])
ATTRIBUTES = st.lists(
    st.one_of(
        INFO_LENGTHS.flatmap(lambda length: st.binary(min_size=length, max_size=length)).map(
            lambda value: (INFO, value)
        ),
        st.sampled_from([b"cubic\0", b"bbr\0", b"\xff\xfe\0", b"", b"x" * 16]).map(lambda value: (CONG, value)),
        st.binary(min_size=36, max_size=36).map(lambda value: (SKMEMINFO, value)),
        st.binary(max_size=2).map(lambda value: (SHUTDOWN, value)),
        st.binary(max_size=1).map(lambda value: (SKV6ONLY, value)),
        st.binary(max_size=5).map(lambda value: (MARK, value)),
        st.binary(min_size=8, max_size=8).map(lambda value: (CGROUP_ID, value)),
        st.tuples(st.integers(22, 0x3FFF), st.binary(max_size=9)),  # unknown ones
    ),
    max_size=4,
    unique_by=lambda pair: pair[0],
).map(lambda pairs: b"".join(attribute(kind, value) for kind, value in pairs))
WORD = st.integers(0, 2**32 - 1)


@st.composite
def any_message(draw: st.DrawFn) -> bytes:
    one = bytearray(
        message(
            draw(st.integers(0, 2**64 - 1)),
            draw(st.integers(1, 12)),
            family=draw(st.sampled_from([2, 10])),
            kind=draw(st.sampled_from([18, 20])),
            sport=draw(st.integers(0, 65535)),
            dport=draw(st.integers(0, 65535)),
            rqueue=draw(WORD),
            wqueue=draw(WORD),
            timer=draw(st.integers(0, 7)),
            expires=draw(WORD),
            attributes=draw(ATTRIBUTES),
        )
    )
    one[19] = draw(st.integers(0, 255))
    one[24:56] = draw(st.binary(min_size=32, max_size=32) | st.just(bytes(10) + b"\xff\xff" + bytes(20)))
    struct.pack_into("=I", one, 56, draw(st.sampled_from([0, 2, 3, 7])))
    struct.pack_into("=II", one, 80, draw(WORD), draw(st.sampled_from([0, 77])))
    return bytes(one)


def absent(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row.get(name) for name in NAMES}


@FEW
@given(st.lists(any_message(), min_size=1, max_size=6), st.data())
def test_every_message_says_what_a_plain_reader_reads(messages: list[bytes], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(messages), min_size=1, max_size=12))  # equal layouts meet
    assert table_of(decoded(b"".join(chosen) + done())) == [absent(plain_row(one)) for one in chosen]


@pytest.mark.parametrize("length", [0, 104, 144, 192, 232, 280])
def test_a_field_that_an_older_kernel_does_not_have_is_null(length: int) -> None:
    info = bytes(range(1, 256)) * 2
    (row,) = table_of(decoded(message(1, attributes=attribute(INFO, info[:length]))))
    for column in COLUMNS:
        where, field = column.origin or ("", "")
        if where == "info":
            offset, code = TCP_INFO_FIELDS[field]
            is_there = offset + int(code[1]) <= length
            assert (row[column.name] is not None) == is_there, column.name


def test_a_listeners_tcp_info_holds_its_queue_and_is_none_of_its_own() -> None:
    (row,) = table_of(decoded(message(1, 10, attributes=attribute(INFO, b"\x05" * 280), rqueue=3, wqueue=128)))
    assert (row["accept_queue_length"], row["accept_queue_limit"], row["recv_q"], row["send_q"]) == (3, 128, None, None)
    assert {row[column.name] for column in COLUMNS if (column.origin or ("",))[0] == "info"} == {None}


def test_a_request_socket_is_in_syn_recv_and_a_mini_socket_has_no_owner() -> None:
    first, second = table_of(decoded(message(1, 12) + message(2, 6, attributes=attribute(SHUTDOWN, b"\0"))))
    assert (first["state"], first["uid"]) == ("syn_received", None)
    assert (second["state"], second["uid"]) == ("time_wait", 33)


def test_only_the_columns_that_are_asked_for_are_made() -> None:
    assert set(decoded(message(1), names=("recv_q",)).columns) == {"recv_q", "cookie", "state"}


@FEW
@given(st.lists(any_message(), max_size=5), st.integers(0, 2**32), st.integers(0, 7), st.booleans())
def test_damaged_messages_are_a_batch_or_a_parse_error(messages: list[bytes], place: int, bit: int, cut: bool) -> None:
    buffer = bytearray(b"".join(messages) + done())
    buffer[place % len(buffer)] ^= 1 << bit
    try:
        batch = decoded(bytes(buffer), cut=cut)
    except ParseError as error:
        assert 0 <= error.offset < len(buffer)
        return
    assert batch.length <= len(messages) + 1
    for name in NAMES:
        assert len(batch.column(name).values) == batch.length


@given(st.binary(max_size=400))
def test_any_bytes_are_a_batch_or_a_parse_error(data: bytes) -> None:
    try:
        decoded(data, cut=True)
    except ParseError as error:
        assert str(error)


def test_a_dump_cut_at_every_length_gives_the_whole_messages_before_the_cut() -> None:
    messages = [message(cookie, attributes=attribute(CONG, b"cubic\0") * (cookie % 2)) for cookie in range(1, 5)]
    whole = b"".join(messages)
    ends = [sum(map(len, messages[:count])) for count in range(len(messages) + 1)]
    for length in range(len(whole) + 1):
        parsed = DiagBuffer(memoryview(bytearray(whole)), length, cut=True)
        count = sum(end <= length for end in ends) - 1
        assert (len(parsed.offsets), parsed.end) == (count, ends[count])
        if length not in ends:
            with pytest.raises(ParseError):
                DiagBuffer(memoryview(bytearray(whole)), length)


@pytest.mark.parametrize("errno", [0, 1, 22])
def test_the_end_of_a_dump_tells_its_errno(errno: int) -> None:
    parsed = DiagBuffer(memoryview(bytearray(message(1) + done(errno))), 88 + 20)
    assert (parsed.done, parsed.errno, parsed.interrupted, len(parsed.offsets)) == (True, errno, False, 1)


@pytest.mark.parametrize("interrupted", [message(1, flags=0x12) + message(2), message(1) + message(2, flags=0x12)])
def test_an_interrupted_walk_is_seen_in_any_message(interrupted: bytes) -> None:
    assert DiagBuffer(memoryview(bytearray(interrupted)), len(interrupted)).interrupted


def test_a_broken_attribute_is_found_where_it_stands() -> None:
    buffer = message(1) * 3 + message(2, attributes=struct.pack("=HH", 200, 2))
    with pytest.raises(ParseError) as caught:
        decoded(buffer)
    assert caught.value.offset == 4 * 88
