"""A real control group: what /proc says of a process in it, what sock_diag says of its socket, and the way from one to the
other.
"""  # fmt: skip

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

import finwait
from finwait.sources.bindings import find_cgroup2_mounts
from finwait.sources.cgroups import CgroupPaths, read_process_cgroup
from finwait.table.request import Roots
from finwait.wire.cgroup_path import parse_cgroup_path

if TYPE_CHECKING:
    from collections.abc import Iterator

LISTENERS = 3
# A process that joins the control group in argv, listens there, says on which ports, and holds until its input closes.
HOLDER = f"""
import os, socket, sys
with open(sys.argv[1] + "/cgroup.procs", "w") as file:
    file.write(str(os.getpid()))
listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range({LISTENERS})]
print(*[listener.getsockname()[1] for listener in listeners], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where cgroup v2 is mounted whole; where it is not, for the time of these tests."""
    for found in find_cgroup2_mounts(Roots()):
        if os.stat(found).st_ino == 1 and os.access(found, os.W_OK):  # the root directory, not a part of the tree
            yield found
            return
    made = str(tmp_path_factory.mktemp("cgroup2"))
    subprocess.run(["mount", "-t", "cgroup2", "none", made], check=True)
    try:
        yield made
    finally:
        subprocess.run(["umount", made], check=True)


@contextmanager
def cgroup(path: str) -> Iterator[str]:
    os.mkdir(path)
    try:
        yield path
    finally:
        os.rmdir(path)


@contextmanager
def holder(path: str) -> Iterator[tuple[int, set[int]]]:
    """A process in the control group at `path`: its id and its listeners' ports."""
    command = [sys.executable, "-c", HOLDER, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.pid, set(map(int, process.stdout.readline().split()))
        finally:
            process.stdin.close()
            process.wait()


class Held:
    """A container's control group with one below it, and a process in each."""

    def __init__(self, mount: str, stack: ExitStack) -> None:
        self.mount = mount
        self.container = f"{os.getpid():064x}"
        self.outer = f"/docker-{self.container}.scope"
        self.inner = f"{self.outer}/nginx\\x2d1.service"
        self.pid_by_path: dict[str, int] = {}
        self.ports_by_path: dict[str, set[int]] = {}
        for path in (self.outer, self.inner):
            stack.enter_context(cgroup(mount + path))
        for path in (self.outer, self.inner):
            self.pid_by_path[path], self.ports_by_path[path] = stack.enter_context(holder(mount + path))
            assert len(self.ports_by_path[path]) == LISTENERS


@pytest.fixture
def held(mount: str) -> Iterator[Held]:
    with ExitStack() as stack:
        yield Held(mount, stack)


def ids_of(ports: set[int]) -> list[int | None]:
    """The cgroup ids of the listeners at `ports`, as the kernel tells them."""
    words = " or ".join(f"sport = :{port}" for port in ports)
    return [
        row.cgroup_id for row in finwait.connections(f"state listening ( {words} )", columns="cgroup_id,local_port")
    ]


def test_the_path_of_a_process_is_that_of_its_directory(held: Held) -> None:
    for path, pid in held.pid_by_path.items():
        found = read_process_cgroup(pid)
        assert found is not None
        assert found.rpartition(held.outer)[1:] == path.rpartition(held.outer)[1:]


def test_the_path_of_an_id_is_that_of_its_directory(held: Held) -> None:
    paths = CgroupPaths(Roots(cgroup=held.mount))
    for path in held.pid_by_path:
        assert paths.path_of(os.stat(held.mount + path).st_ino) == path
    assert paths.path_of(os.stat(held.mount).st_ino) == "/"


def test_the_ids_of_sockets_lead_to_the_control_groups_of_their_processes(held: Held) -> None:
    paths = CgroupPaths(Roots(cgroup=held.mount))
    for path, ports in held.ports_by_path.items():
        assert [paths.path_of(found or 0) for found in ids_of(ports)] == [path] * LISTENERS


def test_the_container_and_unit_of_a_socket_are_found(held: Held) -> None:
    paths = CgroupPaths(Roots(cgroup=held.mount))
    (found,) = {paths.path_of(number or 0) for number in ids_of(held.ports_by_path[held.inner])}
    identity = parse_cgroup_path(found or "")
    assert (identity.container, identity.runtime) == (held.container, "docker")
    assert identity.unit == "nginx\\x2d1.service"


def test_the_path_of_a_socket_outlives_its_control_group(mount: str) -> None:
    paths = CgroupPaths(Roots(cgroup=mount))
    with ExitStack() as stack:
        held = Held(mount, stack)
        number = os.stat(mount + held.inner).st_ino
        assert paths.path_of(number) == held.inner
    assert paths.path_of(number) == held.inner
    assert CgroupPaths(Roots(cgroup=mount)).path_of(number) is None


def test_a_process_that_was_reaped_has_no_path() -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    assert read_process_cgroup(process.pid) is None


def test_a_control_group_made_after_the_first_look_up_is_found(mount: str) -> None:
    paths = CgroupPaths(Roots(cgroup=mount))
    paths.path_of(os.stat(mount).st_ino)
    with cgroup(f"{mount}/libpod-{os.getpid():064x}.scope") as late:
        assert paths.path_of(os.stat(late).st_ino) == late.removeprefix(mount)


@pytest.mark.parametrize("source", ["bpf", "auto", "sock_diag"])
@pytest.mark.parametrize(
    "words", ["state listening", "state listening sport >= :0"], ids=["by-the-kernel", "by-the-table"]
)
def test_containers_and_units_are_counted_by_their_processes(held: Held, source: str, words: str) -> None:
    def counts(by: str) -> dict[tuple[object, ...], int]:
        snapshot = finwait.count(words, by=by, source=source)
        assert all(group.matched_by is None or "pid" in by for group in snapshot.groups)
        return {(*group.key, group.owner_kind): group.count for group in snapshot.groups}

    short = held.container[:12]
    outer, inner = held.pid_by_path[held.outer], held.pid_by_path[held.inner]
    assert counts("container")[short, "process"] == 2 * LISTENERS
    assert counts("unit")["nginx\\x2d1.service", "process"] == LISTENERS
    both = counts("container,pid")
    assert (both[short, outer, "process"], both[short, inner, "process"]) == (LISTENERS, LISTENERS)


@pytest.mark.parametrize("source", ["bpf", "auto", "sock_diag"])
def test_a_filter_by_container_or_unit_takes_its_sockets(held: Held, source: str) -> None:
    def ports(words: str) -> set[object]:
        table = finwait.connections(words, columns="local_port,container", source=source)
        assert set(table.column("container")) <= {held.container[:12]}
        return set(table.column("local_port"))

    both = held.ports_by_path[held.outer] | held.ports_by_path[held.inner]
    assert ports(f"container = {held.container[:12]}") == both
    assert ports(r"unit = nginx\\x2d1.service") == held.ports_by_path[held.inner]
    assert (
        ports(f"container = {held.container[:12]} pid = {held.pid_by_path[held.outer]}")
        == held.ports_by_path[held.outer]
    )


def test_a_namespace_of_a_container_is_called_by_its_short_id(mount: str) -> None:
    container = f"{os.getpid():064x}"
    code = f"import os\nos.system('ip link set lo up')\n{HOLDER}"
    with cgroup(f"{mount}/docker-{container}.scope") as path:
        command = ["unshare", "-n", sys.executable, "-c", code, path]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            snapshot = finwait.count("state listening", by="netns", all_netns=True)
            process.communicate()
    assert {group.key[0]: group.count for group in snapshot.groups}[container[:12]] == LISTENERS
