"""Ghosts: descriptors of connections that the peer reset, in no dump and no file of /proc; and what looks like them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

import finwait
from finwait.sources.ghosts import read_ghosts
from finwait.sources.libbpf import BpfObject, drain
from finwait.sources.owners import OwnerIndex
from finwait.sources.proc_fd import hidden_processes
from finwait.table.owners import BY_PROC_FD
from finwait.table.request import Request
from finwait.tcp.state import TcpState
from finwait.wire.bpf_records import Layout
from tests.kernel.finwait_command import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from finwait.table.snapshot import Snapshot

SHUT_BOTH = 3
# Holds sockets in a namespace of its own and says, kind by kind, [cookie, fd, local port, inode] of each; argv: a process name.
HOLDER = """
import ctypes, json, os, select, signal, socket, struct, sys, threading

libc = ctypes.CDLL(None)
libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
libc.prctl(15, sys.argv[1].encode(), 0, 0, 0)  # PR_SET_NAME
os.system("ip link set lo up")
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}

ports = iter(range(5000, 6000))  # those that bind() itself chooses are given back

def reset(family, bind=False):
    "A connection whose peer reset it, which our side has not noticed by any call."
    server = socket.socket(family)
    server.bind((LOOPBACK[family], 0))
    server.listen()
    ours = socket.socket(family)
    if bind:
        ours.bind((LOOPBACK[family], next(ports)))
    ours.connect(server.getsockname())
    local = ours.getsockname()[1]
    peer, _ = server.accept()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    server.close()
    poll = select.poll()
    poll.register(ours, select.POLLHUP)
    assert poll.poll(10000)
    return ours, local

def refused(family):
    closed = socket.socket(family)
    closed.bind((LOOPBACK[family], 0))
    ours = socket.socket(family)
    try:
        ours.connect(closed.getsockname())
    except ConnectionRefusedError:
        pass
    closed.close()
    return ours, 0

def unwaited(family):
    "A refused connect() that did not wait for the answer."
    closed = socket.socket(family)
    closed.bind((LOOPBACK[family], 0))
    ours = socket.socket(family)
    ours.setblocking(False)
    ours.connect_ex(closed.getsockname())
    poll = select.poll()
    poll.register(ours, select.POLLHUP)
    assert poll.poll(10000)
    closed.close()
    return ours, ours.getsockname()[1]

def fresh(family):
    return socket.socket(family), 0

def copied(family):
    "A reset connection with three descriptors, and copies of each in a thread that has descriptors of its own."
    ours, local = reset(family)
    kept.extend([ours.dup(), ours.dup()])
    ready = threading.Event()
    def copy():
        assert libc.unshare(0x400) == 0  # CLONE_FILES
        ready.set()
        threading.Event().wait()
    threading.Thread(target=copy, daemon=True).start()
    ready.wait()
    return ours, local

kept = []

def told(held):
    cookies = [int.from_bytes(one.getsockopt(socket.SOL_SOCKET, 57, 8), "little") for one, _ in held]
    return [[cookie, one.fileno(), local, os.fstat(one.fileno()).st_ino] for cookie, (one, local) in zip(cookies, held)]

V4, V6 = socket.AF_INET, socket.AF_INET6
held = {
    "reset4": [reset(V4) for _ in range(7)], "reset6": [reset(V6) for _ in range(3)],
    "bound4": [reset(V4, True) for _ in range(2)], "bound6": [reset(V6, True) for _ in range(2)],
    "fresh": [fresh(V4) for _ in range(5)], "unwaited": [unwaited(V4) for _ in range(2)],
    "refused4": [refused(V4) for _ in range(3)], "refused6": [refused(V6) for _ in range(2)],
    "thrice4": [copied(V4)],
    "live": [(socket.create_server(("127.0.0.1", 0)), 0) for _ in range(11)],
}
kinds = {kind: told(sockets) for kind, sockets in held.items()}
((cookie, _, local, inode),) = kinds["thrice4"]
kinds["thrice4"] += [[cookie, one.fileno(), local, inode] for one in kept]
print(json.dumps(kinds), flush=True)
sys.stdin.read()
"""
GHOSTS = {"reset4": 7, "reset6": 3, "bound4": 2, "bound6": 2, "unwaited": 2, "thrice4": 3}
BOUND = {"bound4": 2, "bound6": 2}  # bound by the program: a dump with bit 13 shows them as CLOSED
NEVER = {"fresh": 5, "refused4": 3, "refused6": 2}
LIVE = 11


class Haunted(NamedTuple):
    """A holder and its sockets by kind: [cookie, fd, local port, inode] each."""

    pid: int
    name: str
    kinds: dict[str, list[list[int]]]

    def cookies(self, *kinds: str) -> set[int]:
        return {cookie for kind in kinds for cookie, *_ in self.kinds[kind]}

    def descriptors(self, *kinds: str) -> set[int]:
        return {fd for kind in kinds for _, fd, *_ in self.kinds[kind]}


@pytest.fixture(scope="module", name="held")
def _held() -> Iterator[list[Haunted]]:
    """Two of them, in two namespaces."""
    holders = [
        subprocess.Popen(
            ("unshare", "-n", sys.executable, "-c", HOLDER, name), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in ("haunted", "house")
    ]
    try:
        found = []
        for holder, name in zip(holders, ("haunted", "house"), strict=True):
            assert holder.stdout is not None
            found.append(Haunted(holder.pid, name, json.loads(holder.stdout.readline())))
        yield found
    finally:
        for holder in holders:
            holder.communicate()


@pytest.fixture(name="haunted")
def _haunted(held: list[Haunted]) -> Haunted:
    return held[0]


def test_the_population_is_what_it_says(haunted: Haunted) -> None:
    assert {kind: len(sockets) for kind, sockets in haunted.kinds.items()} == {**GHOSTS, **NEVER, "live": LIVE}


# -- by BPF


@pytest.mark.parametrize("source", ["auto", "bpf"])
def test_bpf_lists_every_descriptor_of_a_reset_connection_and_none_else(haunted: Haunted, source: str) -> None:
    columns = "state,cookie,fd,pid,process,local,family,shutdown,owner_kind,matched_by,inode,netns"
    table = finwait.connections(columns=columns, ghosts=True, source=source, netns=str(haunted.pid))
    assert (table.complete, table.warnings) == (True, ())
    wanted = {
        (cookie, fd, inode, f"{'[::1]' if kind.endswith('6') else '127.0.0.1'}:{port}")
        for kind in GHOSTS
        for cookie, fd, port, inode in haunted.kinds[kind]
    }
    rows = [row.as_dict() for row in table]
    assert len(rows) == len(wanted) == sum(GHOSTS.values())
    assert {(row["cookie"], row["fd"], row["inode"], row["local"]) for row in rows} == wanted
    same = {"state": "closed", "pid": haunted.pid, "process": "haunted", "shutdown": SHUT_BOTH,
            "owner_kind": "process", "matched_by": "task_file", "netns": str(haunted.pid)}  # fmt: skip
    assert {name: {row[name] for row in rows} for name in same} == {name: {value} for name, value in same.items()}
    assert Counter(row["family"] for row in rows) == {"inet": 14, "inet6": 5}


def test_a_connect_that_waited_and_was_refused_is_no_ghost_and_one_that_did_not_wait_is_one(haunted: Haunted) -> None:
    """tcp_reset() shuts the socket down both ways; connect(), which learns of it, then disconnects the socket so that it may
    connect again (net/ipv4/af_inet.c, __inet_stream_connect). Without that it stays as it is, dead.
    """  # fmt: skip
    assert shutdown_by_cookie(haunted) == {
        **dict.fromkeys(haunted.cookies("fresh", "refused4", "refused6"), 0),
        **dict.fromkeys(haunted.cookies("reset4", "reset6", "bound4", "bound6", "unwaited", "thrice4"), SHUT_BOTH),
    }


def shutdown_by_cookie(haunted: Haunted) -> dict[int, int]:
    """sk_shutdown of every socket in state CLOSE that the process has a descriptor of."""
    with BpfObject("task_files") as walker:
        rows = list(Layout("finwait_descriptor").named(drain(walker.open_iterator("list_task_files"))))
    held = [row for row in rows if row["tgid"] == haunted.pid and row["state"] == TcpState.CLOSE]
    return {row["cookie"]: row["shutdown"] for row in held}


def ghosts_of(snapshot: Snapshot) -> list[tuple[str | None, int, int]]:
    assert snapshot.ghosts is not None
    return sorted(snapshot.ghosts)


@pytest.mark.parametrize("by", ["process", "pid", "process,local_port", "state,pid"])
@pytest.mark.parametrize("source", ["auto", "bpf"])
def test_a_count_by_process_tells_ghosts_beside_the_total(haunted: Haunted, source: str, by: str) -> None:
    snapshot = finwait.count(by=by, source=source, netns=str(haunted.pid))
    assert snapshot.ghosts == [("haunted", haunted.pid, sum(GHOSTS.values()))]
    bound = sum(BOUND.values())
    assert snapshot.total == LIVE + bound == sum(group.count for group in snapshot.groups)
    assert snapshot.complete


def test_a_count_not_by_process_does_not_look_for_ghosts(haunted: Haunted) -> None:
    for by in ("state", "user", "container", "netns"):
        assert finwait.count(by=by, netns=str(haunted.pid)).ghosts is None


@pytest.mark.parametrize("source", ["auto", "bpf", "sock_diag"])
@pytest.mark.parametrize(("ip", "families"), [(4, "4d"), (6, "6")])
def test_one_family_has_its_own_ghosts(haunted: Haunted, source: str, ip: int, families: str) -> None:
    """`unwaited` is IPv4."""
    counts = GHOSTS if source != "sock_diag" else {**GHOSTS, **NEVER}
    wanted = sum(
        count for kind, count in counts.items() if kind.endswith(tuple(families)) or (kind == "fresh" and ip == 4)
    )
    wanted -= sum(BOUND.values()) // 2 if source == "sock_diag" else 0
    place = str(haunted.pid)
    table = finwait.connections(columns="cookie,family", ghosts=True, ip=ip, source=source, netns=place)
    assert (len(table), set(table.column("family"))) == (wanted, {"inet" if ip == 4 else "inet6"})
    for by in ("process", "process,local_port"):
        snapshot = finwait.count(by=by, ip=ip, source=source, netns=place)
        assert snapshot.ghosts == [("haunted", haunted.pid, wanted)]


@pytest.mark.parametrize("source", ["auto", "bpf", "sock_diag"])
def test_a_filter_by_state_makes_no_ghosts_of_live_sockets(haunted: Haunted, source: str) -> None:
    every = ghosts_of(finwait.count(by="process", source=source, netns=str(haunted.pid)))
    for words in ("state listening", "state established"):
        for by in ("process", "process,local_port"):
            snapshot = finwait.count(words, by=by, source=source, netns=str(haunted.pid))
            assert snapshot.ghosts in (every, None), (words, by)


def test_a_filter_narrows_the_list_of_ghosts(haunted: Haunted) -> None:
    place = str(haunted.pid)

    def cookies(words: str) -> set[object]:
        return set(finwait.connections(words, columns="cookie", ghosts=True, netns=place).column("cookie"))

    ports = [port for _, _, port, _ in haunted.kinds["reset4"]]
    assert cookies(f"sport = :{ports[0]} or sport = :{ports[1]}") == {one[0] for one in haunted.kinds["reset4"][:2]}
    assert cookies("process = haunted") == cookies(f"pid = {haunted.pid}") == haunted.cookies(*GHOSTS)
    assert cookies("src ::1") == haunted.cookies("reset6", "bound6")
    assert cookies("process = house") == set()
    assert cookies(f"fd = {haunted.kinds['bound4'][0][1]}") == {haunted.kinds["bound4"][0][0]}


@pytest.mark.parametrize("source", ["auto", "bpf"])
def test_two_namespaces_have_their_ghosts_by_name(held: list[Haunted], source: str) -> None:
    places = [str(one.pid) for one in held]
    table = finwait.connections(columns="cookie,netns,process", ghosts=True, source=source, netns=places)
    found = {(row.cookie, row.netns, row.process) for row in table}
    assert found == {(cookie, str(one.pid), one.name) for one in held for cookie in one.cookies(*GHOSTS)}
    for by in ("process", "process,local_port"):
        snapshot = finwait.count(by=by, source=source, netns=places)
        assert ghosts_of(snapshot) == sorted((one.name, one.pid, sum(GHOSTS.values())) for one in held)


def test_bound_ghosts_are_also_closed_sockets_of_the_dump(haunted: Haunted) -> None:
    for source in ("auto", "bpf", "sock_diag"):
        table = finwait.connections("state closed", columns="cookie,pid", source=source, netns=str(haunted.pid))
        assert set(table.column("cookie")) == haunted.cookies(*BOUND)
        assert set(table.column("pid")) == {haunted.pid}


# -- by /proc


def test_proc_lists_also_what_was_never_connected_and_says_so(haunted: Haunted) -> None:
    """A socket that the program bound is in the dump, ghost or not."""
    columns = "state,fd,pid,process,family,inode,matched_by"
    table = finwait.connections(columns=columns, ghosts=True, source="sock_diag", netns=str(haunted.pid))
    hidden = ["owners_not_permitted"] if hidden_processes() else []  # process 1 of some machines hides even from root
    assert [notice.code for notice in table.warnings] == ["ghosts_not_told_apart", *hidden]
    assert not table.complete
    unbound = [kind for kind in (*GHOSTS, *NEVER) if kind not in BOUND]
    assert sorted(table.column("fd")) == sorted(haunted.descriptors(*unbound))
    rows = [row.as_dict() for row in table]
    assert {(row["state"], row["pid"], row["process"], row["matched_by"]) for row in rows} == {
        ("closed", haunted.pid, "haunted", "proc_fd")
    }
    assert {row["inode"] for row in rows} == {inode for kind in unbound for *_, inode in haunted.kinds[kind]}


@pytest.mark.parametrize("by", ["process", "process,local_port"])
def test_proc_counts_what_it_lists(haunted: Haunted, by: str) -> None:
    snapshot = finwait.count(by=by, source="sock_diag", netns=str(haunted.pid))
    wanted = sum(count for kind, count in {**GHOSTS, **NEVER}.items() if kind not in BOUND)
    assert snapshot.ghosts == [("haunted", haunted.pid, wanted)]
    assert snapshot.total == LIVE + sum(BOUND.values())
    assert "ghosts_not_told_apart" in [notice.code for notice in snapshot.warnings]


@pytest.mark.parametrize("matched", [True, False])
def test_a_socket_that_came_after_the_walk_and_one_that_has_gone_since_are_no_ghosts(
    haunted: Haunted, matched: bool
) -> None:
    """Descriptors that no row was found for: live sockets, and inodes that their descriptors have no more."""
    live, fresh = haunted.kinds["live"], haunted.kinds["fresh"]
    inodes = [inode for *_, inode in live] + [1 for _ in fresh]
    fds = [fd for _, fd, *_ in (*live, *fresh)]
    columns = (np.asarray(inodes, np.uint64), np.full(len(fds), haunted.pid, np.uint32), np.asarray(fds, np.uint32))
    index = OwnerIndex(*columns, BY_PROC_FD)
    index.matched[:] = matched
    request = Request(netns=(str(haunted.pid),))
    netns = finwait.count(netns=str(haunted.pid)).provenance.netns
    assert list(read_ghosts("sock_diag", request, netns, [], index)) == []


# -- what is printed


def test_the_list_of_ghosts_is_printed_with_its_addresses(haunted: Haunted) -> None:
    done = run("list", "--ghosts", "-N", str(haunted.pid), "-H")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert Counter((words[0], *words[-3:-1]) for words in lines) == {
        ("CLOSED", "haunted", str(haunted.pid)): sum(GHOSTS.values())
    }
    ports = {str(port) for kind in GHOSTS for _, _, port, _ in haunted.kinds[kind] if port}
    assert ports <= {words[1].rpartition(":")[2] for words in lines}


def test_json_of_the_list_and_of_the_count_tell_ghosts(haunted: Haunted) -> None:
    listed = json.loads(run("list", "--ghosts", "--json", "-N", str(haunted.pid)).stdout)
    assert (listed["total"], listed["complete"]) == (sum(GHOSTS.values()), True)
    assert {(row["process"], row["pid"]) for row in listed["rows"]} == {("haunted", haunted.pid)}
    assert {row["fd"] for row in listed["rows"]} == haunted.descriptors(*GHOSTS)
    counted = json.loads(run("count", "--by", "process", "--json", "-N", str(haunted.pid)).stdout)
    assert counted["ghosts"] == [{"process": "haunted", "pid": haunted.pid, "count": sum(GHOSTS.values())}]
    assert counted["total"] == LIVE + sum(BOUND.values())
    assert "ghosts" not in json.loads(run("count", "--json", "-N", str(haunted.pid)).stdout)


def test_the_count_by_process_has_a_line_for_ghosts_behind_the_total(haunted: Haunted) -> None:
    lines = run("count", "--by", "process", "-N", str(haunted.pid)).stdout.splitlines()
    assert lines[-2].split() == ["total", str(LIVE + sum(BOUND.values()))]
    assert lines[-1].split(maxsplit=2)[:2] == ["haunted", str(sum(GHOSTS.values()))]
    assert lines[-1].endswith("descriptors of connections that have ended: finwait list --ghosts")


def test_a_namespace_without_ghosts_has_none(haunted: Haunted) -> None:
    with subprocess.Popen(("unshare", "-n", "cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as empty:
        assert empty.stdin is not None
        assert empty.stdout is not None
        empty.stdin.write(b".\n")
        empty.stdin.flush()
        assert empty.stdout.readline() == b".\n"  # it is in its namespace
        for source in ("bpf", "sock_diag"):
            assert len(finwait.connections(ghosts=True, source=source, netns=str(empty.pid))) == 0
            assert finwait.count(by="process", source=source, netns=str(empty.pid)).ghosts == []
        empty.stdin.close()
