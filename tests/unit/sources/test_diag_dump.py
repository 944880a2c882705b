"""Requests of looks and look-ups, what a timer tells of a TIME_WAIT, notices cut from bytes."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finwait.errors import ParseError
from finwait.sources.diag_changes import SEEN, TIME_WAIT_NS
from finwait.sources.diag_columns import DiagBuffer, decode_buffer
from finwait.sources.diag_destroy import ends_told
from finwait.sources.diag_dump import (
    ALL_PORTS,
    COLUMNS,
    CONNECTIONS_MASK,
    TICK_NS,
    _build_lookups,
    build_port_dump,
    seen_of,
)
from finwait.tcp.state import TcpState
from finwait.wire.inet_diag import COOKIE, INET_DIAG_INFO, SOCK_DIAG_BY_FAMILY, build_tcp_dump, build_tcp_lookup
from finwait.wire.netlink import build_attribute, build_message

if TYPE_CHECKING:
    from finwait.table.batch import Array

V4, V6 = (2, 4), (10, 16)


@pytest.mark.parametrize("family", [None, 2, 10])
def test_without_ports_a_look_is_a_plain_dump_of_all_but_bound_sockets(family: int | None) -> None:
    assert build_port_dump(family, ALL_PORTS, ALL_PORTS) == build_tcp_dump(family, CONNECTIONS_MASK)
    assert CONNECTIONS_MASK >> 13 == 0


def test_ports_make_a_program() -> None:
    plain = build_port_dump(None, ALL_PORTS, ALL_PORTS)
    one, both = build_port_dump(None, (80, 80), ALL_PORTS), build_port_dump(None, (80, 80), (1, 5))
    assert len(plain) < len(one) < len(both)


@given(
    st.sampled_from([V4, V6]), st.binary(min_size=32, max_size=32), st.integers(0, 65535), st.integers(1, 1 << 64 - 1)
)
def test_a_look_up_is_that_of_the_wire_with_its_number_and_its_cookie(
    kind: tuple[int, int], addresses: bytes, port: int, cookie: int
) -> None:
    family, length = kind
    local, peer = addresses[:length], addresses[16 : 16 + length]
    rows = np.zeros(3, dtype=SEEN)
    rows["family"], rows["local_port"], rows["peer_port"], rows["cookie"] = family, port, 65535 - port, (0, cookie, 0)
    rows["local_address"][:, :length] = np.frombuffer(local, dtype=np.uint8)
    rows["peer_address"][:, :length] = np.frombuffer(peer, dtype=np.uint8)
    found = _build_lookups(rows)
    wanted = build_tcp_lookup(family, (local, port), (peer, 65535 - port), sequence=2)
    assert found[2].tobytes() == wanted
    assert struct.unpack("=II", found[1].tobytes()[-8:]) == (cookie & 0xFFFFFFFF, cookie >> 32)
    assert found[1].tobytes()[16:-8] == wanted[16:-8]


def message(state: TcpState = TcpState.CLOSE, *, expires_ms: int = 0, cookie: int = 7, info: bytes = b"") -> bytes:
    """struct inet_diag_msg of an IPv4 socket, with its tcp_info."""
    payload = struct.pack("=BBBB", 2, state, 3 if expires_ms else 0, 0) + struct.pack("!HH", 80, 4000)
    payload += bytes([10] * 4 + [0] * 12) + bytes([11] * 4 + [0] * 12) + struct.pack("=III", 5, cookie, 0)
    payload += struct.pack("=IIIII", expires_ms, 0, 0, 0, 0)
    attributes = build_attribute(INET_DIAG_INFO, info) if info else b""
    return build_message(SOCK_DIAG_BY_FAMILY, 0, payload + attributes)


def seen(content: bytes, from_ns: int, to_ns: int) -> Array:
    buffer = memoryview(content)
    return seen_of(decode_buffer(buffer, DiagBuffer(buffer, len(buffer)), COLUMNS, {}), from_ns, to_ns)


def test_a_time_wait_began_when_its_timer_was_set() -> None:
    now_ns = TIME_WAIT_NS * 7
    [row] = seen(message(TcpState.TIME_WAIT, expires_ms=45_000), now_ns, now_ns + 5)
    assert row["began_ns"] == now_ns + 5 - 15_000_000_000 + TICK_NS
    assert row["began_within_ns"] == 2 * TICK_NS + 5
    assert (row["cookie"], row["local_port"], row["peer_port"], row["interface"]) == (7, 80, 4000, 5)
    assert row["is_mini"]


def test_a_time_wait_did_not_begin_after_it_was_seen() -> None:
    [row] = seen(message(TcpState.TIME_WAIT, expires_ms=60_000), TIME_WAIT_NS * 7, TIME_WAIT_NS * 7)
    assert (row["began_ns"], row["began_within_ns"]) == (TIME_WAIT_NS * 7, TICK_NS)


@pytest.mark.parametrize("state", [TcpState.FIN_WAIT2, TcpState.SYN_RECV, TcpState.ESTABLISHED])
def test_no_other_timer_tells_when_its_state_began(state: TcpState) -> None:
    [row] = seen(message(state, expires_ms=1000), TIME_WAIT_NS, TIME_WAIT_NS)
    assert row["began_ns"] == 0


def info_of(**fields: int) -> bytes:
    info = bytearray(280)
    offsets = {"rtt": (68, "=I"), "total_retrans": (100, "=I"), "acked": (120, "=Q"), "received": (128, "=Q")}
    for name, value in fields.items():
        struct.pack_into(offsets[name][1], info, offsets[name][0], value)
    return bytes(info)


def test_notices_have_what_was_sent_and_the_time_at_which_they_came() -> None:
    first = message(cookie=9, info=info_of(rtt=40, total_retrans=3, acked=1001, received=17))
    second = message(cookie=8, info=info_of(acked=1)) + message(cookie=10, info=info_of(acked=2))
    ends = ends_told([(100, len(first), first), (200, len(second), second)])
    assert ends["cookie"].tolist() == [8, 9, 10]
    assert ends["at_ns"].tolist() == [200, 100, 200]
    assert [ends[1][name] for name in ("bytes_acked", "bytes_received", "srtt_us", "total_retrans")] == [
        1001,
        17,
        40,
        3,
    ]


def test_of_two_notices_of_a_socket_the_last_counts() -> None:
    parts = [message(cookie=9, info=info_of(acked=number)) for number in (1, 2)]
    ends = ends_told([(at, len(part), part) for at, part in enumerate(parts)])
    assert (ends["bytes_acked"].tolist(), ends["at_ns"].tolist()) == ([2], [1])


def test_an_older_kernel_sends_a_shorter_tcp_info() -> None:
    short = message(info=info_of(acked=7)[:104])
    assert ends_told([(1, len(short), short)])["bytes_acked"].tolist() == [0]
    assert len(ends_told([])) == 0


@given(
    st.one_of(
        st.binary(max_size=200), st.tuples(st.integers(0, 300), st.binary(max_size=9)).map(lambda cut: damaged(*cut))
    )
)
def test_any_bytes_are_notices_or_a_parse_error(content: bytes) -> None:
    try:
        ends_told([(1, len(content), content)])
    except ParseError:
        pass


def damaged(at: int, patch: bytes) -> bytes:
    whole = bytearray(message(info=info_of(acked=1)))
    at %= len(whole)
    whole[at : at + len(patch)] = patch
    return bytes(whole)


def test_the_message_of_these_tests_is_laid_out_as_the_kernels() -> None:
    content: Any = message(cookie=0x1234)
    assert struct.unpack_from("=I", content, COOKIE) == (0x1234,)
