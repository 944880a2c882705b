"""Every network namespace is found once: by name, by process, by an open descriptor, by a mounted file; nothing leaks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

import finwait
from finwait.errors import SourceError
from finwait.sources import namespace_files, namespaces
from finwait.sources.namespace_files import held_namespaces
from finwait.sources.namespaces import find_places
from finwait.table.request import Roots
from tests.kernel.bad_input import open_descriptors, run_bytes
from tests.kernel.finwait_command import COMMAND

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Opens argv[1] listeners in a namespace of its own, which no process lives in afterwards: it keeps the descriptor alone, and
# says which one it is. Or, with a place in argv[2], mounts the namespace's file there and keeps nothing.
KEEPER = """
import ctypes, os, signal, socket, sys
libc = ctypes.CDLL(None)
libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
assert libc.unshare(0x40000000) == 0
os.system("ip link set lo up")
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
there = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
if sys.argv[2:]:
    open(sys.argv[2], "w").close()
    assert libc.mount(f"/proc/self/fd/{there}".encode(), sys.argv[2].encode(), None, 4096, None) == 0  # MS_BIND
inode = os.fstat(there).st_ino
assert libc.setns(home, 0x40000000) == 0
os.close(home)
if sys.argv[2:]:
    os.close(there)
print(there, inode, flush=True)
sys.stdin.read()
"""
LISTENER = """
import os, socket, sys
os.system("ip link set lo up")
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(os.stat("/proc/self/ns/net").st_ino, flush=True)
sys.stdin.read()
"""


@contextmanager
def process(*command: str) -> Iterator[tuple[int, list[str]]]:
    """A process that runs until the block ends: its id and its first line's words."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        yield running.pid, running.stdout.readline().split()
        running.communicate()


class Found:
    """A namespace with so many listeners. name: as it is to be called."""

    def __init__(self, name: str, inode: int, listeners: int) -> None:
        self.name, self.inode, self.listeners = name, inode, listeners


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Found]]:
    """One of each: with a name, of a process, of a descriptor alone, of a mounted file alone."""
    name = f"finwait-{os.getpid()}"
    mounted = str(tmp_path_factory.mktemp("net ns") / "a \\ b")
    with ExitStack() as stack:
        subprocess.run(("ip", "netns", "add", name), check=True)
        stack.callback(subprocess.run, ("ip", "netns", "del", name), check=True)
        inside = ("ip", "netns", "exec", name, sys.executable, "-c", LISTENER, "3")
        _, (inode,) = stack.enter_context(process(*inside))
        found = [Found(name, int(inode), 3)]
        pid, (inode,) = stack.enter_context(process("unshare", "-n", sys.executable, "-c", LISTENER, "5"))
        found.append(Found(f"pid:{pid}", int(inode), 5))
        pid, (fd, inode) = stack.enter_context(process(sys.executable, "-c", KEEPER, "7"))
        found.append(Found(f"/proc/{pid}/fd/{fd}", int(inode), 7))
        stack.callback(lambda: subprocess.run(("umount", mounted), check=True))
        _, (_, inode) = stack.enter_context(process(sys.executable, "-c", KEEPER, "11", mounted))
        found.append(Found(mounted, int(inode), 11))
        yield found


def netns_counts(**options: object) -> dict[object, int]:
    snapshot = finwait.count("state listening", by="netns", all_netns=True, **options)
    return {group.key[0]: group.count for group in snapshot.groups}


@pytest.mark.parametrize("source", ["auto", "bpf", "sock_diag"])
def test_every_kind_of_namespace_is_found_and_called_by_its_name(four: list[Found], source: str) -> None:
    counts = netns_counts(source=source)
    assert {one.name: counts.get(one.name) for one in four} == {one.name: one.listeners for one in four}


@pytest.mark.parametrize("by", ["process", "process,local_port"])
@pytest.mark.parametrize("source", ["auto", "sock_diag"])
def test_every_namespace_is_visited_once(four: list[Found], source: str, by: str) -> None:
    snapshot = finwait.count(by=by, source=source, all_netns=True)
    inodes = [netns.inode for netns in snapshot.provenance.netns]
    assert len(inodes) == len(set(inodes))
    assert {one.inode for one in four} < set(inodes)
    assert inodes[0] == os.stat("/proc/self/ns/net").st_ino
    cookies = [netns.cookie for netns in snapshot.provenance.netns]
    assert len(cookies) == len(set(cookies))


def test_the_named_one_has_a_process_too_and_keeps_its_name(four: list[Found]) -> None:
    places, notices = find_places(Roots())
    assert {notice.code for notice in notices} <= {"netns_not_permitted"}  # of processes that hide
    names = {place.inode: place.name for place in places}
    assert [names[one.inode] for one in four] == [one.name for one in four]
    assert len(places) == len(names)


def test_many_open_files_are_looked_at_by_bpf_with_the_same_answer(
    four: list[Found], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = four[2]
    by_proc = dict(held_namespaces())
    monkeypatch.setattr(namespace_files, "MANY_FILES", 0)
    by_bpf = dict(held_namespaces())
    assert by_bpf[kept.inode] == by_proc[kept.inode] == kept.name
    assert by_bpf == by_proc
    assert netns_counts()[kept.name] == kept.listeners


def test_each_name_opens_its_namespace_again(four: list[Found]) -> None:
    for one in four:
        for source in ("bpf", "sock_diag", "proc"):
            snapshot = finwait.count("state listening", netns=one.name, source=source)
            assert (snapshot.total, snapshot.provenance.netns[0].inode) == (one.listeners, one.inode)
    together = finwait.count("state listening", by="netns", netns=[one.name for one in four])
    assert {group.key[0]: group.count for group in together.groups} == {one.name: one.listeners for one in four}


def test_a_namespace_named_twice_is_counted_once(four: list[Found]) -> None:
    pid = four[1].name.removeprefix("pid:")
    names = [f"pid:{pid}", pid, f"/proc/{pid}/ns/net"]
    assert finwait.count("state listening", netns=names).total == four[1].listeners


def test_a_prefix_without_a_process_is_told() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    with pytest.raises(SourceError, match=f"there is no network namespace 'pid:{gone.pid}'"):
        finwait.count(netns=f"pid:{gone.pid}")


def test_the_command_tells_them_in_json(four: list[Found]) -> None:
    done = run_bytes([*COMMAND, "state", "listening", "--all-netns", "--by", "netns", "--json"])
    document = json.loads(done.stdout)
    counts = {row["netns"]: row["count"] for row in document["rows"]}
    assert {one.name: counts[one.name] for one in four} == {one.name: one.listeners for one in four}
    names = {netns["inode"]: netns["name"] for netns in document["netns"]}
    assert [names[one.inode] for one in four] == [one.name for one in four]


@pytest.mark.parametrize("source", ["auto", "bpf", "sock_diag", "proc"])
def test_no_descriptor_of_a_namespace_stays_open(four: list[Found], source: str) -> None:
    finwait.count(source="bpf", all_netns=True)  # ctypes and libbpf stay loaded
    before, home = open_descriptors(), os.readlink("/proc/thread-self/ns/net")
    finwait.count(all_netns=True, source=source)
    finwait.count(all_netns=True, source=source, by="process")
    finwait.connections(all_netns=True, source=source, columns="netns,process")
    finwait.connections(all_netns=True, source=source, ghosts=True)
    for one in four:
        finwait.count(netns=one.name, source=source)
    assert open_descriptors() == before
    assert os.readlink("/proc/thread-self/ns/net") == home


@pytest.mark.parametrize("source", ["auto", "bpf", "sock_diag", "proc"])
def test_a_namespace_that_ends_during_the_walk_does_no_harm(
    four: list[Found], source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found, and has gone when it is to be entered."""
    ending = subprocess.Popen(
        ("unshare", "-n", sys.executable, "-c", LISTENER, "13"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with ending:
        assert ending.stdout is not None
        inode = int(ending.stdout.readline())
        found: list[int | None] = []

        def find_and_end(roots: Roots) -> object:
            places, notices = find_places(roots)
            found.extend(place.inode for place in places)
            ending.send_signal(signal.SIGKILL)
            ending.wait()
            return places, notices

        monkeypatch.setattr(namespaces, "find_places", find_and_end)
        snapshot = finwait.count("state listening", by="netns", all_netns=True, source=source)
        assert ending.stdin is not None
        ending.stdin.close()
    assert inode in found
    assert inode not in [netns.inode for netns in snapshot.provenance.netns]
    counts = {group.key[0]: group.count for group in snapshot.groups}
    assert {one.name: counts[one.name] for one in four} == {one.name: one.listeners for one in four}


def test_a_namespace_without_sockets_is_told_too() -> None:
    with process("unshare", "-n", sys.executable, "-c", LISTENER, "0") as (pid, (inode,)):
        snapshot = finwait.count(all_netns=True, by="process")
        assert (f"pid:{pid}", int(inode)) in [(netns.name, netns.inode) for netns in snapshot.provenance.netns]


def test_a_container_is_called_by_its_short_id(tmp_path: Path) -> None:
    """By a made-up /proc: its processes' namespaces are links to this one's, their control groups files."""
    container = f"{os.getpid():064x}"
    with process("unshare", "-n", sys.executable, "-c", LISTENER, "2") as (pid, (inode,)):
        (tmp_path / str(pid) / "ns").mkdir(parents=True)
        (tmp_path / str(pid) / "ns" / "net").symlink_to(f"/proc/{pid}/ns/net")
        (tmp_path / str(pid) / "cgroup").write_text(f"0::/system.slice/docker-{container}.scope\n")
        places, _ = find_places(Roots(proc=str(tmp_path)))
        assert (int(inode), container[:12]) in [(place.inode, place.name) for place in places]
