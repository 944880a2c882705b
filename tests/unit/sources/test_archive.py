"""X.finwait archives: what a manifest or a zip file may say wrong is a ParseError, and a recorder leaves nothing behind."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import finwait
from finwait.errors import FinwaitError, ParseError, SourceError, UsageError
from finwait.render.documents import count_document
from finwait.sources.archive import END, MANIFEST_BYTES, Recorder
from finwait.sources.namespaces import own_place
from finwait.table.snapshot import Netns, Provenance
from tests.unit.batches import FEW
from tests.unit.wire.diag_messages import done, message

if TYPE_CHECKING:
    from pathlib import Path

DUMP = b"".join(message(cookie) for cookie in range(1, 6)) + done()


def part(**changed: Any) -> dict[str, Any]:
    return {"cookie": 1, "inode": 4026531840, "name": "blue", "file": "0001.diag", "interfaces": {"2": "eth0"}, "counters": {},
            "sysctls": {"ipv4/ip_local_port_range": "32768 60999"}, **changed}  # fmt: skip


def manifest(**changed: Any) -> dict[str, Any]:
    return {"schema": "finwait.recording/1", "host": "h", "taken_from": 1700000000.5, "taken_to": 1700000001.0, "warnings": [],
            "shows_closed": True, "namespaces": [part()], **changed}  # fmt: skip


def archive_of(document: Any, dump: bytes = DUMP, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("0001.diag", dump)
        archive.writestr("manifest.json", document if isinstance(document, str | bytes) else json.dumps(document))
    return file.getvalue()


def read(path: Path, content: bytes) -> finwait.Snapshot:
    path.write_bytes(content)
    return finwait.count(read=str(path))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.finwait"


def test_an_archive_tells_where_and_when_it_was_taken(path: Path) -> None:
    snapshot = read(path, archive_of(manifest()))
    provenance = snapshot.provenance
    assert (snapshot.total, snapshot.complete) == (5, True)
    assert (provenance.host, provenance.taken_from, provenance.taken_to) == ("h", 1700000000.5, 1700000001.0)
    assert [(one.cookie, one.inode, one.name) for one in provenance.netns] == [(1, 4026531840, "blue")]


def test_what_was_unknown_stays_unknown(path: Path) -> None:
    unknown = part(cookie=None, inode=None, name=None, sysctls={}, interfaces={})
    snapshot = read(path, archive_of(manifest(host=None, taken_from=None, taken_to=None, namespaces=[unknown])))
    assert (snapshot.total, snapshot.provenance.host, snapshot.provenance.taken_from) == (5, None, None)


def test_an_incomplete_recording_says_so(path: Path) -> None:
    snapshot = read(path, archive_of(manifest(warnings=[{"code": "walk_interrupted"}])))
    assert not snapshot.complete
    assert "walk_interrupted" in str(snapshot.provenance.notices[0])


WRONG: list[Any] = [
    None,
    0,
    -1,
    1.5,
    "",
    "x",
    [],
    {},
    [1],
    True,
    2**64,
    -(2**70),
    "9" * 5000,
    float("nan"),
    float("inf"),
    1e300,
]
RANGES = [*WRONG, "1 2 3", "x y", "1 99999"]
FILES = ["../../etc/passwd", "/etc/passwd", "manifest.json", "\0", "0002.diag"]
DOCUMENTS = [
    *(manifest(**{name: wrong}) for name in manifest() for wrong in WRONG),
    *(manifest(namespaces=[part(**{name: wrong})]) for name in part() for wrong in WRONG),
    *(manifest(warnings=[wrong]) for wrong in WRONG),
    *(manifest(namespaces=[wrong]) for wrong in WRONG),
    *({name: value for name, value in manifest().items() if name != missing} for missing in manifest()),
    *(manifest(namespaces=[part(sysctls={"ipv4/ip_local_port_range": wrong})]) for wrong in RANGES),
    *(manifest(namespaces=[part(interfaces={wrong: "x"})]) for wrong in ("x", "", "9" * 5000, "-1")),
    *(manifest(namespaces=[part(file=name)]) for name in FILES),
    *WRONG,
]  # fmt: skip


@pytest.mark.parametrize("command", ["count", "connections"])
def test_a_manifest_with_anything_anywhere_is_read_or_refused(path: Path, command: str) -> None:
    for document in DOCUMENTS:
        path.write_bytes(archive_of(document))
        try:
            if command == "count":
                snapshot = finwait.count(
                    "autobound or dev = eth0 or sport = :80", by="state,netns,netns_cookie", read=str(path)
                )
                json.dumps(count_document(snapshot))
            else:
                list(finwait.connections(columns="state,interface,netns,netns_cookie", read=str(path)))
        except ParseError as error:
            assert str(path) in str(error) or "offset" in str(error)
            assert len(str(error)) < 600


def refused(path: Path, content: bytes) -> str:
    with pytest.raises(ParseError) as caught:
        read(path, content)
    return str(caught.value).replace(str(path), "X")


def test_a_refusal_names_what_is_wrong(path: Path) -> None:
    begin = "X is a zip archive but no recording of finwait: "
    assert refused(path, archive_of(manifest(schema="finwait.recording/9"))) == (
        "X has schema finwait.recording/9, finwait reads finwait.recording/1"
    )
    assert refused(path, archive_of({"schema": "finwait.recording/1"})) == f"{begin}host is missing"
    assert refused(path, archive_of(manifest(namespaces=[part(file="/etc/passwd")]))).startswith(begin)
    assert "no item named '/etc/passwd'" in refused(path, archive_of(manifest(namespaces=[part(file="/etc/passwd")])))
    assert refused(path, archive_of(manifest(taken_from=1e300))) == f"{begin}1e+300 is no time"
    assert refused(path, archive_of("[" * 100_000)).startswith(begin)
    assert refused(path, archive_of(b"\xff\xfe")).startswith(begin)
    assert refused(path, b"PK\x03\x04" + bytes(100)).startswith(begin)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(path: Path, method: int) -> None:
    assert refused(path, archive_of(manifest(), compression=method)).endswith("in a way that finwait never uses")


def test_a_manifest_that_would_fill_the_memory_is_not_read(path: Path) -> None:
    bomb = archive_of(b"[" + bytes(MANIFEST_BYTES) + b"]")
    assert len(bomb) < 200_000
    assert "manifest.json is longer than" in refused(path, bomb)


def test_a_dump_of_zeros_is_refused_at_its_first_message(path: Path) -> None:
    assert "at offset 0" in refused(path, archive_of(manifest(), bytes(50 << 20)))


def test_an_encrypted_part_is_refused(path: Path) -> None:
    content = bytearray(archive_of(manifest()))
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flags] |= 1
    assert "encrypted" in refused(path, bytes(content))


def test_an_archive_cut_at_every_length_is_refused(path: Path) -> None:
    content = archive_of(manifest())
    for length in range(4, len(content), 5):
        refused(path, content[:length])


def test_an_archive_with_any_byte_changed_is_read_or_refused(path: Path) -> None:
    """The sums of the members find damage in them; what remains are places that nobody reads."""
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        content = archive_of(manifest(), compression=compression)
        for place in range(4, len(content), 7):
            damaged = content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]
            try:
                assert read(path, damaged).total == 5
            except FinwaitError as error:
                assert str(error)


@FEW
@given(data=st.data())
def test_garbage_in_an_archive_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(archive_of(manifest()))
    for _ in range(data.draw(st.integers(1, 20))):
        place = data.draw(st.integers(4, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    try:
        read(tmp_path_factory.getbasetemp() / "garbage.finwait", bytes(content))
    except FinwaitError as error:
        assert str(error)


def test_a_refused_archive_is_closed(path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    for content in (
        archive_of(manifest(schema="x")),
        archive_of("x"),
        b"PK\x03\x04",
        archive_of(manifest(), b"garbage" * 20),
    ):
        refused(path, content)
    assert set(os.listdir("/proc/self/fd")) == before


# -- the recorder


def record(path: Path, *dumps: bytes) -> Recorder:
    recorder = Recorder(str(path))
    for dump in dumps:
        recorder.begin(own_place(), Netns(1, 2, "blue"))
        recorder.write(memoryview(dump))
        recorder.end()
    return recorder


@pytest.mark.parametrize("name", ["x.diag", "x.finwait"])
def test_what_is_recorded_is_read_back(tmp_path: Path, name: str) -> None:
    recorder = record(tmp_path / name, DUMP)
    assert os.listdir(tmp_path) == [f"{name}.{os.getpid()}.part"]
    recorder.finish(Provenance("sock_diag", host="h"))
    recorder.abandon()
    assert os.listdir(tmp_path) == [name]
    assert finwait.count(read=str(tmp_path / name)).total == 5


def test_a_raw_dump_ends_with_one_end(tmp_path: Path) -> None:
    record(tmp_path / "x.diag", DUMP).finish(Provenance("sock_diag"))
    assert (tmp_path / "x.diag").read_bytes() == DUMP[:-20] + END


@pytest.mark.parametrize("name", ["x.diag", "x.finwait"])
@pytest.mark.parametrize("stage", ["opened", "begun", "written", "ended"])
def test_an_abandoned_recording_leaves_what_was_there(tmp_path: Path, name: str, stage: str) -> None:
    (tmp_path / name).write_text("what was there")
    recorder = Recorder(str(tmp_path / name))
    for step in ("opened", "begun", "written", "ended"):
        if step == "begun":
            recorder.begin(own_place(), Netns())
        elif step == "written":
            recorder.write(memoryview(DUMP * 100))
        elif step == "ended":
            recorder.end()
        if step == stage:
            break
    recorder.abandon()
    recorder.abandon()
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "what was there"


def test_a_full_disk_is_told_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x.diag", "x.finwait"):
        for dump in (DUMP, DUMP * 5000):
            recorder = Recorder(str(tmp_path / name))
            full = os.open("/dev/full", os.O_WRONLY)
            os.dup2(full, recorder.file.fileno())
            os.close(full)
            with pytest.raises(SourceError, match=r"cannot write .*: No space left on device"):
                recorder.begin(own_place(), Netns())
                recorder.write(memoryview(dump))
                recorder.end()
                recorder.finish(Provenance("sock_diag"))
            recorder.abandon()
            assert os.listdir(tmp_path) == []


def test_two_namespaces_need_an_archive(tmp_path: Path) -> None:
    recorder = Recorder(str(tmp_path / "x.diag"))
    recorder.begin(own_place(), Netns())
    with pytest.raises(UsageError, match=r"record several as X\.finwait"):
        recorder.begin(own_place(), Netns())
    recorder.abandon()
    both = record(tmp_path / "x.finwait", DUMP, message(9) + done())
    both.finish(Provenance("sock_diag"))
    assert finwait.count(read=str(tmp_path / "x.finwait")).total == 6


@pytest.mark.parametrize("name", ["x", "x.txt", "", ".diag.gz", "x.DIAG", "x.finwait "])
def test_a_recording_has_one_of_two_endings(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"--record writes X\.diag"):
        Recorder(f"{tmp_path}/{name}")
    assert os.listdir(tmp_path) == []


def test_the_offset_of_damage_in_a_part_is_the_parts(path: Path) -> None:
    dump = DUMP[:-20] + struct.pack("=IHHII", 20, 20, 2, 1, 0) + bytes(100)
    assert "at offset 440" in refused(path, archive_of(manifest(), dump))
