"""A recording of changes gives back what was written, up to where it was cut, or is a ParseError."""

from __future__ import annotations

import contextlib
import json
import struct
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finwait.errors import ParseError, SourceError
from finwait.sources.change_recording import ChangeRecorder, ChangeRecording
from finwait.sources.change_records import CHANGE, CHANGES, LIFETIME, LIFETIMES, LOOKED_UP
from finwait.table.change import Loss
from finwait.table.snapshot import Netns, Notice, Provenance
from finwait.wire.bpf_layouts import ENUMS
from finwait.wire.change_blocks import FIRST_LINE, FRAME, build_block
from tests.unit.batches import FEW

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from finwait.table.batch import Array

CLOCK_NS = 1_700_000_000_000_000_000
NAMES = {4711: "nginx", 23: "pool\x1b\udc80"}


def names_of(tgids: Iterable[int]) -> dict[int, str]:
    return {tgid: NAMES[tgid] for tgid in tgids if tgid in NAMES}


def records(count: int, dtype: np.dtype[Any] = CHANGE, tgid: int = 4711) -> Array:
    found = np.zeros(count, dtype=dtype)
    found["at_ns"] = np.arange(1, count + 1)
    found["cookie"] = np.arange(count, dtype=np.uint64) + np.uint64(2**63)
    found["family"], found["from"], found["to"], found["tgid"] = 2, 1, 8, tgid
    found["local_address"][:, 0] = 10
    return found


def write(path: Path, dtype: np.dtype[Any] = CHANGE, tells: int = CHANGES) -> Array:
    provenance = Provenance("bpf", host="web-1", netns=(Netns(7, 4026531840, "web"), Netns(None)), taken_from=1.7e9)
    recorder = ChangeRecorder(str(path))
    recorder.begin(provenance, tells, "state time-wait", dtype)
    rows = records(5, dtype)
    recorder.add(rows[:3], CLOCK_NS, names_of)
    recorder.lose(Loss(CLOCK_NS + 3, 23))
    rows["tgid"][3:] = 23
    recorder.add(rows[3:], CLOCK_NS - 1, names_of)
    provenance.taken_to = 1.7e9 + 5
    provenance.add_notice(Notice("netns_not_read", "made up", missing="netns"))
    provenance.add_notice(Notice("bpf_fallback", "made up", incomplete=False))
    recorder.finish(provenance)
    return rows


@pytest.mark.parametrize(
    ("dtype", "tells", "source"),
    [(CHANGE, CHANGES, "bpf"), (LOOKED_UP, CHANGES, "bpf"), (LIFETIME, LIFETIMES, "bpf")],
    ids=["bpf", "sock_diag", "lifetimes"],
)
def test_what_was_written_comes_back(tmp_path: Path, dtype: np.dtype[Any], tells: int, source: str) -> None:
    rows = write(tmp_path / "x", dtype, tells)
    with ChangeRecording(str(tmp_path / "x")) as recording:
        assert (recording.tells, recording.source) == (tells, source)
        assert recording.provenance.host == "web-1"
        assert [one.label for one in recording.provenance.netns] == ["web", "cookie:None"]
        first, loss, last = list(recording)
        assert recording.names == NAMES
        assert recording.provenance.taken_to == 1.7e9 + 5
        assert [(one.code, one.arguments["code"]) for one in recording.provenance.notices] == [
            ("recorded_incomplete", "netns_not_read")
        ]
    assert loss == Loss(CLOCK_NS + 3, 23)
    assert (first[1], last[1]) == (CLOCK_NS, CLOCK_NS - 1)
    back = np.concatenate([first[0], last[0]])
    for name in dtype.names or ():
        assert np.array_equal(back[name], rows[name]), name
    if dtype is CHANGE:
        assert not back["within_ns"].any()


def test_cut_anywhere_it_tells_what_is_whole_and_that_it_was_cut(tmp_path: Path) -> None:
    write(tmp_path / "x")
    whole = (tmp_path / "x").read_bytes()
    (tmp_path / "head").write_bytes(whole)
    with ChangeRecording(str(tmp_path / "head")) as recording:
        head = recording._offset
    counts = []
    for length in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:length])
        if length < head:
            with pytest.raises(ParseError, match="was cut in its head" if length else "no recording of changes"):
                ChangeRecording(str(tmp_path / "cut"))
            continue
        with ChangeRecording(str(tmp_path / "cut")) as recording:
            items = list(recording)
            counts.append(sum(len(item[0]) for item in items if not isinstance(item, Loss)))
            assert [one.code for one in recording.provenance.notices] == ["recording_cut"]
    assert sorted(counts) == counts
    assert set(counts) == {0, 3, 5}


def test_what_follows_the_end_is_no_part_of_it(tmp_path: Path) -> None:
    write(tmp_path / "x")
    whole = (tmp_path / "x").read_bytes()
    (tmp_path / "both").write_bytes(whole + whole)
    with ChangeRecording(str(tmp_path / "both")) as recording:
        items = iter(recording)
        assert [len(item[0]) for item in (next(items), next(items), next(items)) if not isinstance(item, Loss)] == [
            3,
            2,
        ]
        with pytest.raises(
            ParseError, match=f"{tmp_path}/both is damaged at offset {len(whole)}: something follows its end"
        ):
            next(items)


def test_a_damaged_byte_is_found_where_it_stands(tmp_path: Path) -> None:
    """In a block's kind it may make another kind, which is passed over; nowhere is a wrong row told."""
    rows = write(tmp_path / "x")
    whole = (tmp_path / "x").read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x04
        (tmp_path / "y").write_bytes(damaged)
        told: list[int] = []
        with contextlib.suppress(ParseError), ChangeRecording(str(tmp_path / "y")) as recording:
            for item in recording:
                told += [] if isinstance(item, Loss) else item[0]["cookie"].tolist()
        assert set(told) <= set(rows["cookie"].tolist())


@given(
    st.lists(
        st.tuples(st.sampled_from([b"HEAD", b"NAME", b"ROWS", b"LOSS", b"DONE", b"NEXT"]), st.binary(max_size=300))
    )
)
@FEW
def test_any_blocks_are_changes_or_a_parse_error(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[tuple[bytes, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("blocks") / "x"
    write(path)
    whole = path.read_bytes()
    length = len(FIRST_LINE) + FRAME.size + FRAME.unpack_from(whole, len(FIRST_LINE))[2]
    path.write_bytes(whole[:length] + b"".join(build_block(*block) for block in blocks))
    with contextlib.suppress(ParseError), ChangeRecording(str(path)) as recording:
        for item in recording:
            assert isinstance(item, Loss) or (item[0]["to"] <= 11).all()


def with_head(path: Path, **changes: Any) -> None:
    write(path)
    whole = path.read_bytes()
    at = len(FIRST_LINE)
    _, _, length = FRAME.unpack_from(whole, at)
    head = json.loads(whole[at + FRAME.size : at + FRAME.size + length]) | changes
    path.write_bytes(FIRST_LINE + build_block(b"HEAD", json.dumps(head).encode()) + whole[at + FRAME.size + length :])


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "finwait.changes/9"}, {"tells": "nothing"}, {"byte_order": "middle"}, {"bytes": 0}, {"bytes": -88},
        {"bytes": 1 << 40}, {"fields": []}, {"fields": [["at_ns", 0, "u4"]]}, {"fields": [["at_ns", 1 << 70, "u8"]]},
        {"fields": [["at_ns", 84, "u8"]]}, {"bytes": 10, "fields": [["at_ns", 0, "u8"], ["cookie", 2, "u8"]]},
        {"fields": 7}, {"namespaces": [{}]}, {"taken_from": 1e300}, {"host": 7},
        {"namespaces": [{"cookie": -1, "inode": 1, "name": None}]},
    ],
    ids=str,
)  # fmt: skip
def test_a_head_that_finwait_never_wrote_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with_head(tmp_path / "x", **changes)
    with pytest.raises(ParseError), ChangeRecording(str(tmp_path / "x")) as recording:
        list(recording)


def test_a_record_of_a_later_version_is_read_as_far_as_it_is_known(tmp_path: Path) -> None:
    """Its fields stand elsewhere, and there is one more."""
    with_head(tmp_path / "x", bytes=16, fields=[
        ["family", 8, "u1"], ["color", 9, "u4"], ["at_ns", 0, "u8"], ["to", 13, "u1"], ["from", 14, "u1"],
    ])  # fmt: skip
    whole = (tmp_path / "x").read_bytes()
    at = len(FIRST_LINE)
    head = whole[: at + FRAME.size + FRAME.unpack_from(whole, at)[2]]
    row = struct.pack("=QBIBBx", 17, 10, 99, 8, 1)
    (tmp_path / "x").write_bytes(head + build_block(b"ROWS", CLOCK_NS.to_bytes(8, "little") + row))
    with ChangeRecording(str(tmp_path / "x")) as recording:
        [(rows, clock_ns)] = list(recording)
    assert (rows["at_ns"].tolist(), rows["family"].tolist(), rows["from"].tolist(), rows["to"].tolist()) == (
        [17],
        [10],
        [1],
        [8],
    )
    assert clock_ns == CLOCK_NS


@pytest.mark.parametrize(("name", "value"), [
    ("to", 0), ("to", 12), ("from", 13), ("family", 3), ("evidence", 3), ("at_ns", 2**63), ("since_ns", 2**64 - 1),
])  # fmt: skip
def test_a_value_that_no_change_has_is_refused(tmp_path: Path, name: str, value: int) -> None:
    recorder = ChangeRecorder(str(tmp_path / "x"))
    recorder.begin(Provenance("bpf"), CHANGES, "", CHANGE)
    rows = records(3)
    rows[name][1] = value
    recorder.add(rows, CLOCK_NS, names_of)
    recorder.close()
    with pytest.raises(ParseError, match="damaged"), ChangeRecording(str(tmp_path / "x")) as recording:
        list(recording)


def test_a_path_with_a_gap_is_refused(tmp_path: Path) -> None:
    recorder = ChangeRecorder(str(tmp_path / "x"))
    recorder.begin(Provenance("bpf"), LIFETIMES, "", LIFETIME)
    rows = records(3, LIFETIME)
    rows["states"][1] = [0, 5, 0, 0, 0, 0, 0, 0]
    recorder.add(rows, CLOCK_NS, names_of)
    recorder.close()
    with pytest.raises(ParseError, match="damaged"), ChangeRecording(str(tmp_path / "x")) as recording:
        list(recording)


def test_no_memory_is_taken_for_a_block_that_only_says_that_it_is_large(tmp_path: Path) -> None:
    write(tmp_path / "x")
    with (tmp_path / "x").open("ab") as file:
        file.write(FRAME.pack(b"ROWS", 0, 1 << 30))
    whole = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(whole.replace(b"DONE", b"NEXT"))
    with pytest.raises(ParseError, match="no block"), ChangeRecording(str(tmp_path / "x")) as recording:
        list(recording)


def test_what_was_there_stays_until_something_takes_its_place(tmp_path: Path) -> None:
    write(tmp_path / "x")
    before = (tmp_path / "x").read_bytes()
    recorder = ChangeRecorder(str(tmp_path / "x"))
    assert (tmp_path / "x").read_bytes() == before
    recorder.begin(Provenance("bpf"), CHANGES, "", CHANGE)
    recorder.finish(Provenance("bpf"))
    with ChangeRecording(str(tmp_path / "x")) as recording:
        assert list(recording) == []


def test_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "x", tmp_path):
        with pytest.raises(SourceError, match="cannot write"):
            ChangeRecorder(str(path))
        with pytest.raises(SourceError, match="cannot read"):
            ChangeRecording(str(path))
    with pytest.raises(SourceError, match="cannot read"):
        ChangeRecording("a\0b")


def test_a_full_disk_is_said_at_once_and_only_once() -> None:
    recorder = ChangeRecorder("/dev/full")
    with pytest.raises(SourceError, match="No space left"):
        recorder.begin(Provenance("bpf"), CHANGES, "", CHANGE)
    recorder.finish(Provenance("bpf"))


def test_a_checksum_is_of_the_content() -> None:
    assert build_block(b"LOSS", b"abc") == FRAME.pack(b"LOSS", crc32(b"abc"), 3) + b"abc"


def test_what_bpf_looked_up_is_known_to_the_tick(tmp_path: Path) -> None:
    rows = records(2)
    rows["evidence"][1] = ENUMS["FINWAIT_LOOKUP"]
    recorder = ChangeRecorder(str(tmp_path / "x"))
    recorder.begin(Provenance("bpf"), CHANGES, "", CHANGE)
    recorder.add(rows, CLOCK_NS, names_of)
    recorder.finish(Provenance("bpf"))
    with ChangeRecording(str(tmp_path / "x")) as recording:
        ((back, _),) = list(recording)
    assert list(back["within_ns"]) == [0, 10_000_000]
