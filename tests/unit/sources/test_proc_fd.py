"""Descriptors by a made-up /proc: processes and descriptors that vanish while one looks, and those that hide."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest

from finwait.errors import SourceError
from finwait.sources import proc_fd
from finwait.sources.namespace_files import held_namespaces
from finwait.sources.proc_fd import (
    hidden_processes,
    process_ids,
    read_comm,
    read_inode,
    read_protocol,
    read_socket_descriptors,
    visit_descriptors,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[list[str]]:
    """Paths of three sockets, whose inodes are those that a descriptor's link would lead to."""
    paths, held = [], []
    for at in range(3):
        one = socket.socket(socket.AF_UNIX)
        paths.append(str(tmp_path / f"socket{at}"))
        one.bind(paths[-1])
        held.append(one)
    yield paths
    for one in held:
        one.close()


@pytest.fixture
def proc(tmp_path: Path, sockets: list[str]) -> Path:
    """Process 3 has two sockets and a file, process 11 one of the same sockets, process 7 none; there are other names too."""
    root = tmp_path / "proc"
    held = {3: {5: sockets[0], 6: os.devnull, 7: sockets[1]}, 7: {}, 11: {0: sockets[1]}}
    for pid, targets in held.items():
        (root / str(pid) / "fd").mkdir(parents=True)
        for fd, target in targets.items():
            (root / str(pid) / "fd" / str(fd)).symlink_to(target)
    for other in ("self", "net", "1x", "\u0663"):
        (root / other).mkdir()
    return root


def found_in(proc: Path) -> list[tuple[int, int, int]]:
    found = read_socket_descriptors(str(proc))
    assert found.hidden == []
    return sorted(zip(found.pids, found.fds, found.inodes, strict=True))


def rows_of(sockets: list[str]) -> list[tuple[int, int, int]]:
    first, second = (os.stat(path).st_ino for path in sockets[:2])
    return [(3, 5, first), (3, 7, second), (11, 0, second)]


def test_sockets_of_every_process_are_found(proc: Path, sockets: list[str]) -> None:
    assert process_ids(str(proc)) == [3, 7, 11]
    assert found_in(proc) == rows_of(sockets)


def test_a_descriptor_that_closes_while_one_looks_is_no_error(proc: Path, sockets: list[str]) -> None:
    (proc / "3" / "fd" / "4").symlink_to("/nosuch")
    (proc / "7" / "fd" / "1").symlink_to("/nosuch")
    assert found_in(proc) == rows_of(sockets)


@pytest.mark.parametrize("number", [errno.ENOTCONN, errno.ESTALE, errno.EIO])
def test_a_file_that_does_not_answer_hides_no_other_descriptor(
    proc: Path, sockets: list[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Descriptor 4 is of a file on a network file system whose server has gone."""
    (proc / "3" / "fd" / "4").symlink_to(os.devnull)
    real = os.stat

    def stat(path: object, **options: object) -> object:
        if path == "4":
            raise OSError(number, os.strerror(number))
        return real(path, **options)

    monkeypatch.setattr(proc_fd.os, "stat", stat)
    monkeypatch.setattr(proc_fd.os, "listdir", lambda place, listed=os.listdir: sorted(listed(place)))
    assert found_in(proc) == rows_of(sockets)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESRCH, errno.ENOTDIR])
@pytest.mark.parametrize("call", ["open", "listdir"])
def test_a_process_that_ends_while_one_looks_is_no_error(
    proc: Path, sockets: list[str], monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    monkeypatch.setattr(proc_fd.os, call, failing(proc, call, number))
    before = len(os.listdir("/proc/self/fd"))
    assert found_in(proc) == [row for row in rows_of(sockets) if row[0] != 3]
    assert visit_descriptors(str(proc), 3, lambda *_: None)
    assert len(os.listdir("/proc/self/fd")) == before


def failing(proc: Path, call: str, number: int) -> Callable[..., object]:
    """`call` of os, which fails for the descriptors of process 3."""
    real = getattr(os, call)
    place = os.path.realpath(proc / "3" / "fd")

    def fail(path: object, *arguments: object) -> object:
        there = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else path
        if there == place:
            raise OSError(number, os.strerror(number))
        return real(path, *arguments)

    return fail


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
@pytest.mark.parametrize("call", ["open", "listdir"])
def test_a_process_that_hides_is_told(
    proc: Path, sockets: list[str], monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    monkeypatch.setattr(proc_fd.os, call, failing(proc, call, number))
    before = len(os.listdir("/proc/self/fd"))
    found = read_socket_descriptors(str(proc))
    assert found.hidden == [3]
    assert sorted(found.pids) == [11]
    assert not visit_descriptors(str(proc), 3, lambda *_: None)
    assert len(os.listdir("/proc/self/fd")) == before


def test_descriptors_that_may_be_named_and_not_looked_at_hide_their_process(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.stat

    def stat(path: object, **options: object) -> object:
        if path in {"5", "6", "7"} or str(path).startswith(f"{proc}/3/fd/"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, **options)

    def readlink(path: object, **options: object) -> object:
        if path in {"5", "6", "7"} or str(path).startswith(f"{proc}/3/fd/"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return link(path, **options)

    link = os.readlink
    monkeypatch.setattr(proc_fd.os, "stat", stat)
    assert read_socket_descriptors(str(proc)).hidden == []  # a file system of its own may refuse a file, even to root
    monkeypatch.setattr(proc_fd.os, "readlink", readlink)
    assert read_socket_descriptors(str(proc)).hidden == [3]
    assert hidden_processes(str(proc)) == [3]


def test_nobody_hides_in_a_proc_that_may_be_read(proc: Path) -> None:
    (proc / "13").mkdir()  # it has ended, or never had descriptors
    assert hidden_processes(str(proc)) == []


def test_a_proc_that_is_none_is_told(tmp_path: Path) -> None:
    for read in (process_ids, read_socket_descriptors, hidden_processes):
        with pytest.raises(SourceError, match=r"cannot read .*/nosuch: No such file or directory"):
            read(str(tmp_path / "nosuch"))


def test_what_is_asked_of_one_that_has_gone_is_unknown(proc: Path, sockets: list[str]) -> None:
    assert read_comm(3, str(proc)) is None
    assert read_protocol(str(proc), 3, 99) is None
    assert read_inode(str(proc), 3, 99) is None
    assert read_inode(str(proc), 3, 5) == os.stat(sockets[0]).st_ino


@pytest.mark.parametrize(
    ("comm", "name"),
    [
        (b"nginx\n", "nginx"),
        (b"a\nb\n", "a\nb"),
        (b"\x1b]52;c;x\x07\n", "\x1b]52;c;x\x07"),
        (b"\xff\xfe\n", "\udcff\udcfe"),
        (b"\n", ""),
    ],
)
def test_a_name_of_any_bytes_is_read(proc: Path, comm: bytes, name: str) -> None:
    (proc / "3" / "comm").write_bytes(comm)
    assert read_comm(3, str(proc)) == name


def test_a_namespaces_descriptor_that_closes_while_one_looks_is_no_error(proc: Path) -> None:
    (proc / "7" / "fd" / "1").symlink_to("/proc/self/ns/net")  # whose own link leads nowhere near net:[...]
    assert list(held_namespaces(str(proc))) == []
