"""The real libbpf and damaged objects: a reason, a fallback, nothing on standard error, every descriptor closed."""

from __future__ import annotations

import os
import resource
import shutil
import socket
from collections import Counter
from typing import TYPE_CHECKING

import pytest

import finwait
from finwait.errors import FinwaitError, NotSupported, SourceError
from finwait.lab.population import Population
from finwait.lab.spec import Group, Spec
from finwait.sources import libbpf
from finwait.sources.libbpf import BpfObject, drain, read_object
from tests.kernel.bad_input import open_descriptors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAMS = {
    "count_tcp": ("count_tcp",),
    "list_tcp": ("list_tcp",),
    "count_owners": ("mark_owners", "count_owners"),
    "task_files": ("list_task_files",),
    "ns_files": ("list_ns_files",),
}
OBJECTS = tuple(PROGRAMS)
LISTENERS = 23


@pytest.fixture(scope="module")
def held() -> Iterator[Population]:
    with Population(Spec((Group("LISTEN", LISTENERS),))) as population:
        yield population


@pytest.fixture
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the objects, which finwait takes for its own."""
    place = os.path.join(os.path.dirname(libbpf.__file__), "bpf_objects")
    for name in OBJECTS:
        shutil.copy(f"{place}/{name}.bpf.o", tmp_path)
    whole = libbpf.read_object
    monkeypatch.setattr(libbpf, "read_object", lambda name, _=None: whole(name, str(tmp_path)))
    return tmp_path


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    mark = content.index(b"finwait-sources:")
    if kind == "foreign":
        path.write_bytes(b"not an ELF file" + content[mark : mark + 64])
    elif kind == "stale":
        path.write_bytes(content.replace(b"finwait-sources:", b"finwait-sources:0"))
    elif kind == "truncated":
        path.write_bytes(content[: mark + 64])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "missing":
        path.unlink()
    elif kind == "headless":
        path.write_bytes(content[:16] + bytes(48) + content[64:])


KINDS = ("foreign", "stale", "truncated", "empty", "missing", "headless")


def refusal_of(name: str) -> FinwaitError:
    with pytest.raises((NotSupported, SourceError)) as refused:
        BpfObject(name)
    assert "\n" not in str(refused.value)
    return refused.value


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_object_is_refused_in_words_and_nothing_stays_open(
    objects: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = open_descriptors()
    for name in OBJECTS:
        damage(objects / f"{name}.bpf.o", kind)
        assert refusal_of(name).exit_code in {4, 6}
    assert open_descriptors() == before
    assert capfd.readouterr() == ("", "")


def test_an_object_cut_anywhere_is_refused_or_whole(objects: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = objects / "count_tcp.bpf.o"
    content = path.read_bytes()
    before = open_descriptors()
    for length in range(0, len(content), 251):
        path.write_bytes(content[:length])
        refusal_of("count_tcp")
    assert open_descriptors() == before
    assert capfd.readouterr() == ("", "")


def test_a_count_that_only_the_kernel_could_not_make_is_told(objects: Path, held: Population) -> None:
    damage(objects / "count_owners.bpf.o", KINDS[0])
    snapshot = finwait.count(by="pid", netns=str(held.pid))
    assert [(group.key, group.count, group.matched_by) for group in snapshot.groups] == [
        ((held.pid,), LISTENERS, "task_file")
    ]
    assert [notice.code for notice in snapshot.warnings] == ["bpf_fallback"]


@pytest.mark.parametrize("kind", KINDS)
def test_who_has_damaged_objects_is_answered_by_proc_with_the_reason(
    objects: Path, held: Population, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in OBJECTS:
        damage(objects / f"{name}.bpf.o", kind)
    place = str(held.pid)
    snapshot = finwait.count(by="pid", netns=place)
    assert [(group.key, group.count, group.matched_by) for group in snapshot.groups] == [
        ((held.pid,), LISTENERS, "proc_fd")
    ]
    codes = [notice.code for notice in snapshot.warnings]
    assert codes.count("bpf_fallback") == 1
    assert "ghosts_not_told_apart" in codes
    table = finwait.connections(columns="pid,matched_by", netns=place)
    assert Counter(zip(table.column("pid"), table.column("matched_by"), strict=True)) == {
        (held.pid, "proc_fd"): LISTENERS
    }
    for ask in (finwait.count, finwait.connections):
        with pytest.raises((NotSupported, SourceError)):
            ask(source="bpf", netns=place)
    with pytest.raises((NotSupported, SourceError)):
        finwait.count(by="process", source="bpf", netns=place)
    assert capfd.readouterr() == ("", "")


def test_objects_of_this_installation_load_and_close(held: Population) -> None:
    before = open_descriptors()
    for name in OBJECTS:
        assert read_object(name)
        with BpfObject(name) as walker:
            for program in PROGRAMS[name]:
                drain(walker.open_iterator(program))
            assert len(open_descriptors()) > len(before)
        assert open_descriptors() == before


def test_a_walk_that_fails_on_the_way_leaves_nothing_open(held: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    finwait.count(source="bpf")
    before = open_descriptors()
    real = os.read

    def read(descriptor: int, length: int) -> bytes:
        if length == libbpf.CHUNK_BYTES:
            raise OSError(5, "Input/output error")
        return real(descriptor, length)

    place = str(held.pid)
    with monkeypatch.context() as patched:
        patched.setattr(libbpf.os, "read", read)
        for ask, options in (
            (finwait.count, {}),
            (finwait.count, {"by": "process"}),
            (finwait.count, {"by": "process,local_port"}),
            (finwait.connections, {}),
            (finwait.connections, {"columns": "process"}),
            (finwait.connections, {"ghosts": True}),
        ):
            with pytest.raises(SourceError, match="read of an iterator"):
                ask(source="bpf", netns=place, **options)
            assert open_descriptors() == before
    assert finwait.count(by="process", source="bpf", netns=place).total == LISTENERS


@pytest.mark.parametrize("good", [0, 1])
def test_a_map_that_cannot_be_read_leaves_nothing_open(
    held: Population, monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    """good: how often it can be read before."""
    finwait.count(source="bpf")
    before = open_descriptors()
    real = BpfObject.read_element
    for options in ({}, {"by": "pid,state"}):
        readings = iter(range(good))

        def read(walker: BpfObject, name: str, index: int, readings: Iterator[int] = readings) -> bytes:
            if next(readings, None) is None:
                raise SourceError("BPF failed ({request}: {reason})", request="bpf_map_lookup_elem", reason="EINVAL")
            return real(walker, name, index)

        places = (str(held.pid), str(os.getpid()))  # which has a listener too
        with socket.create_server(("127.0.0.1", 0)), monkeypatch.context() as patched:
            patched.setattr(BpfObject, "read_element", read)
            with pytest.raises(SourceError, match="bpf_map_lookup_elem"):
                finwait.count(source="bpf", netns=places, **options)
        assert open_descriptors() == before


def test_the_first_rows_alone_leave_nothing_open(held: Population) -> None:
    from finwait.api import open_stream, question
    from finwait.table.request import Request

    finwait.connections(source="bpf", columns="process")
    before = open_descriptors()
    stream = open_stream(question(Request(netns=(str(held.pid),)), None, source="bpf"), ("state", "process"))
    rows = iter(stream)
    assert next(rows).length == LISTENERS
    rows.close()
    assert open_descriptors() == before


@pytest.mark.parametrize("by", ["state", "pid", "pid,local_port"])
def test_few_descriptors_are_enough_and_too_few_are_told(held: Population, by: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = open_descriptors()
    in_use = max(int(fd) for fd in os.listdir("/proc/self/fd")) + 1
    try:
        for room in range(12):
            resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + room, hard))
            try:
                snapshot = finwait.count(by=by, source="bpf", netns=str(held.pid))
            except FinwaitError as error:
                assert "Too many open files" in str(error)
            else:
                assert snapshot.total == LISTENERS
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert open_descriptors() == before
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
