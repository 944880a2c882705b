"""Recordings of every kind: whole, cut, damaged; nothing but batches or a FinwaitError comes of them."""

from __future__ import annotations

import io
import os
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import finwait
from finwait.errors import FinwaitError, ParseError, SourceError
from finwait.sources.diag_table import BATCH_BYTES
from finwait.sources.recording import MESSAGE_BYTES, RawDumpReader, open_recording
from finwait.table.request import Request
from finwait.table.snapshot import Netns
from finwait.wire.inet_diag import blank_keys, socket_messages
from tests.unit.batches import FEW
from tests.unit.wire.diag_messages import attribute, done, message

if TYPE_CHECKING:
    from pathlib import Path

    from finwait.table.snapshot import Notice

COLUMNS = ("state", "local", "peer", "recv_q", "interface", "process", "congestion", "rtt_us", "cookie")
SS = b"State Recv-Q Send-Q Local Address:Port Peer Address:Port\nESTAB 0 0 10.0.0.1:80 10.0.0.2:1024\n"
NETSTAT = b"tcp        0      0 10.0.0.1:80  10.0.0.2:1024  TIME_WAIT\n"
PROC = (
    b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    b"   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 4242 1 f 100 0 0 10 0\n"
)


def sockets(count: int, *, first: int = 1, length: int = 0) -> bytes:
    extra = attribute(22, bytes(length)) if length else b""
    return b"".join(message(cookie, attributes=extra) for cookie in range(first, first + count))


def read_dump(content: bytes) -> tuple[int, list[str]]:
    """(sockets, codes of notices) of a raw dump."""
    notices: list[Notice] = []
    with RawDumpReader(io.BytesIO(content), Netns(), {}) as reader:
        count = sum(batch.length for batch in reader.batches(Request(), ("state",), notices))
    return count, [notice.code for notice in notices]


def read_file(path: Path, content: bytes) -> int | FinwaitError:
    """How many sockets finwait counts in a file, or what it says; whatever else is raised fails the test."""
    path.write_bytes(content)
    try:
        counted = finwait.count(by="state,local,process", read=str(path)).total
    except FinwaitError as error:
        assert str(error)
        return error
    assert len(finwait.connections(columns=COLUMNS, read=str(path))) == counted
    return counted


# -- raw dumps


@pytest.mark.parametrize(
    "content", [sockets(5), sockets(5) + done(), sockets(2) + done() + sockets(3, first=3) + done()]
)
def test_a_dump_is_read_past_its_ends(content: bytes) -> None:
    assert read_dump(content) == (5, [])


def test_an_end_alone_is_an_empty_dump() -> None:
    assert read_dump(done()) == read_dump(b"") == (0, [])


def test_a_dump_cut_at_every_length_gives_what_stands_before_and_says_so() -> None:
    content = sockets(3) + done()
    for length in range(1, len(content)):
        ends = [0, 88, 176, 264]
        is_whole = length in ends
        assert read_dump(content[:length]) == (length // 88, [] if is_whole else ["recording_cut"]), length


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_padding_behind_the_last_message_may_be_missing(missing: int) -> None:
    odd = message(2, attributes=struct.pack("=HH", 8 - missing, 4) + b"cubi"[: 4 - missing])
    odd = struct.pack("=I", 96 - missing) + odd[4 : 96 - missing]
    assert read_dump(sockets(1) + odd) == (2, [])


def test_a_socket_that_comes_twice_is_counted_once_and_told() -> None:
    assert read_dump(sockets(3) + sockets(1) + done()) == (3, ["inconsistent_walk"])


@pytest.mark.parametrize("errno", [1, 22, 4095, 4096, -1, 2**31 - 1, -(2**31) + 1])
def test_the_kernels_error_is_told_whatever_its_number(errno: int) -> None:
    assert read_dump(sockets(2) + done(errno)) == (2, ["recorded_error"])


def test_the_least_number_there_is_is_an_error_too() -> None:
    assert read_dump(sockets(1) + done()[:16] + struct.pack("=i", -(2**31))) == (1, ["recorded_error"])


def test_a_dump_longer_than_the_buffer_is_read_whole() -> None:
    count = BATCH_BYTES // 88 * 2 + 7
    assert read_dump(sockets(count) + done()) == (count, [])
    odd = BATCH_BYTES // 1100 * 3  # messages of 1,092 bytes lie across the buffer's end
    assert read_dump(sockets(odd, length=1000) + done()) == (odd, [])


BEHIND = BATCH_BYTES + 88 * 1000
LEAD = sockets(BEHIND // 88)
BROKEN = {
    "short": struct.pack("=IHHII", 5, 20, 2, 1, 0) + bytes(72),
    "shorter than a socket": struct.pack("=IHHII", 40, 20, 2, 1, 0) + bytes(72),
    "longer than any": struct.pack("=IHHII", MESSAGE_BYTES + 4, 20, 2, 1, 0) + bytes(72),
    "longer than all": struct.pack("=IHHII", 0xFFFFFFFF, 20, 2, 1, 0) + bytes(72),
    "state 0": message(1, 0),
    "state 13": message(1, 13),
    "state 255": message(1, 255),
    "broken attribute": message(1, attributes=struct.pack("=HHI", 200, 4, 0)),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("lead", [0, 88 * 3, len(LEAD)])
def test_damage_is_found_where_it_stands(kind: str, lead: int) -> None:
    with pytest.raises(ParseError) as caught:
        read_dump(LEAD[:lead] + BROKEN[kind] + sockets(3, first=10**6) + done())
    assert caught.value.offset == caught.value.arguments["offset"] == lead + (88 if kind == "broken attribute" else 0)
    assert str(lead + (88 if kind == "broken attribute" else 0)) in str(caught.value)


def test_other_messages_of_netlink_are_passed_over() -> None:
    noise = struct.pack("=IHHII", 20, 1, 2, 1, 0) + bytes(4)
    assert read_dump(noise + sockets(2) + noise + done()) == (2, [])


@FEW
@given(st.binary(max_size=600), st.integers(0, 3))
def test_any_bytes_behind_some_sockets_are_read_or_refused(tail: bytes, count: int) -> None:
    try:
        read, codes = read_dump(sockets(count) + tail)
    except ParseError as error:
        assert 0 <= error.offset <= count * 88 + len(tail)
        return
    assert read >= count or "inconsistent_walk" in codes


@FEW
@given(st.integers(0, 88 * 4 - 1), st.integers(0, 7))
def test_a_flipped_bit_is_read_or_refused(place: int, bit: int) -> None:
    content = bytearray(sockets(2) + message(3, attributes=attribute(4, b"cubic\0")) + done())
    content[place % len(content)] ^= 1 << bit
    try:
        assert read_dump(bytes(content))[0] <= 4
    except ParseError as error:
        assert 0 <= error.offset < len(content)


def test_what_the_kernel_says_besides_sockets_is_stripped() -> None:
    for before, kept in ((sockets(2), sockets(2)), (sockets(2) + done(), sockets(2)), (done(), b""), (b"", b"")):
        assert bytes(socket_messages(memoryview(before))) == kept


@FEW
@given(st.integers(1, 5), st.sampled_from([2, 10]), st.binary(min_size=96, max_size=96))
def test_keys_of_tcp_md5_are_not_recorded(keys: int, family: int, secret: bytes) -> None:
    one = struct.pack("=BBH", family, 32, 80) + secret.replace(b"\0", b"x")  # struct tcp_diag_md5sig
    behind, before = attribute(4, b"cubic\0"), attribute(8, b"\0")
    dump = sockets(1) + message(2, attributes=before + attribute(18, one * keys) + behind) + sockets(1, first=3)
    kept = message(2, attributes=before + attribute(14, bytes(100 * keys)) + behind)
    assert blank_keys(dump) == sockets(1) + kept + sockets(1, first=3)
    assert read_dump(blank_keys(dump)) == read_dump(dump)


def test_what_only_looks_like_a_key_stays() -> None:
    dump = sockets(1) + message(2, attributes=attribute(2, struct.pack("=HBB", 18, 2, 0) * 20))
    assert blank_keys(dump) == dump


# -- whatever a file holds


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recording"


@pytest.mark.parametrize(
    ("content", "count"), [(sockets(3) + done(), 3), (SS, 1), (NETSTAT, 1), (PROC, 1), (done(), 0)]
)
def test_the_kind_of_a_recording_is_found(path: Path, content: bytes, count: int) -> None:
    assert read_file(path, content) == count


@pytest.mark.parametrize(
    "content", [SS, NETSTAT, PROC, SS.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + SS, b"> " + SS.replace(b"\n", b"\n> ")]
)
def test_text_cut_or_with_bits_flipped_is_read_or_refused(path: Path, content: bytes) -> None:
    for length in range(0, len(content), 7):
        read_file(path, content[:length])
    for place in range(0, len(content), 5):
        read_file(path, content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])


@FEW
@given(data=st.data())
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    start = data.draw(
        st.sampled_from([b"", SS, NETSTAT, PROC, sockets(1), done(), b"PK\x03\x04", b"\x89PNG\r\n\x1a\n", b"\xff\xfe"])
    )
    path = tmp_path_factory.getbasetemp() / "any"
    result = read_file(path, start + data.draw(st.binary(max_size=300)))
    assert isinstance(result, int | ParseError)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "{path} is empty"),
        (b" \n\t\r\n", "{path} is empty"),
        (b"hello", "is no recording that finwait reads"),
        (SS.decode().encode("utf-16"), "is no recording that finwait reads"),
        (bytes(1 << 17), "is no recording that finwait reads"),
        (b"PK\x03\x04", "is a zip archive but no recording"),
        (b"\0" * 15, "is no recording that finwait reads"),
    ],
)
def test_what_is_no_recording_is_refused(path: Path, content: bytes, message: str) -> None:
    result = read_file(path, content)
    assert isinstance(result, ParseError)
    assert message.replace("{path}", str(path)) in str(result)


def test_what_cannot_be_opened_is_a_source_error(tmp_path: Path) -> None:
    for name in (str(tmp_path), f"{tmp_path}/no", "a\0b", "/proc/self/mem"):
        with pytest.raises(SourceError, match="cannot read"):
            open_recording(name)


def test_a_pipe_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content, count in ((sockets(300) + done(), 300), (SS, 1), (b"", None)):
        for by_name in (False, True):
            reading, writing = os.pipe()
            os.write(writing, content)
            os.close(writing)
            pipe = open(reading, "rb", closefd=not by_name)  # noqa: SIM115 - whoever reads it closes it
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(pipe))
            name = f"/dev/fd/{reading}" if by_name else "-"
            if count is None:
                with pytest.raises(ParseError, match="is empty"):
                    finwait.count(read=name)
            else:
                assert finwait.count(read=name).total == count
            if by_name:
                os.close(reading)


def test_without_standard_input_there_is_nothing_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(SourceError, match="cannot read standard input: Bad file descriptor"):
        open_recording("-")


def test_lines_that_are_not_understood_are_told_at_the_end(path: Path) -> None:
    path.write_bytes(SS + b"ESTAB 0 0 \x1b[31m!! ??\nESTAB 9 x\n" + SS)
    snapshot = finwait.count(read=str(path))
    (notice,) = [one for one in snapshot.provenance.notices if one.code == "lines_not_read"]
    assert snapshot.total == 2
    assert notice.arguments["line"] == 3
    assert not snapshot.complete


@pytest.mark.parametrize("content", [SS, sockets(2) + done(), NETSTAT])
def test_every_file_is_closed(path: Path, content: bytes) -> None:
    """An open one would be a ResourceWarning, which is an error here."""
    path.write_bytes(content)
    before = set(os.listdir("/proc/self/fd"))
    finwait.count(read=str(path))
    with open_recording(str(path)) as recording:
        batches: Any = recording.readers[0].batches(Request(), ("state",), [])
        next(batches)
    assert set(os.listdir("/proc/self/fd")) == before
