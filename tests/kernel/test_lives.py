"""What the kernel keeps of each socket: with buckets that are full as with empty ones, and where structs are read by calls."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import bpf_build
from finwait.lab.population import Group
from finwait.sources import libbpf
from tests.kernel.finwait_command import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from finwait.lab.population import Population

ROOT = Path(bpf_build.__file__).resolve().parent
COUNT = 211

# Runs inside a namespace: COUNT connections at once, then half of them closed, then all; how many of their sockets are in the
# buckets and how many beside them; and how many changes told their begin.
COMPARE = f"""
import json, socket, struct, sys
from finwait.sources import libbpf
directory, buckets = sys.argv[1], int(sys.argv[2])
if directory:
    read = libbpf.read_object
    libbpf.read_object = lambda name, _: read(name, directory)
from finwait.sources.change_narrowing import Narrowing
from finwait.sources.change_records import CHANGES
from finwait.sources.tcp_events import TcpEvents
from finwait.table.request import Request
from finwait.tcp.state import TcpState
def kept():
    elements = [struct.unpack_from("6Q", events._object.read_element("lives", number)) for number in range(events._buckets)]
    beside = sum(1 for _ in events._object.read_map("more_lives"))
    assert sum(words[5] for words in elements) == beside
    return sum(word != 0 for words in elements for word in words[:5]), beside
server = socket.create_server(("127.0.0.1", 3000), backlog=4096)
told = []
with TcpEvents(CHANGES, Request(), Narrowing(), [], rooms={{"lives": buckets}} if buckets else None) as events:
    none = kept()
    clients = [socket.create_connection(("127.0.0.1", 3000)) for _ in range({COUNT})]
    accepted = [server.accept()[0] for _ in clients]
    all_open = kept()
    for pair in zip(clients[::2], accepted[::2]):
        [one.close() for one in pair]
    half_open = kept()
    [one.close() for one in clients + accepted]
    records = events.drain(CHANGES)
    known = records[(records["from"] == TcpState.ESTABLISHED) & (records["since_ns"] > 0)]
    print(json.dumps([none, all_open, half_open, kept(), len(known), events.lost()]))
"""


def compare(held: Population, buckets: int = 0, directory: str = "") -> list[list[int]]:
    command = held.enter_command(sys.executable, "-c", COMPARE, directory, str(buckets))
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    found: list[list[int]] = json.loads(done.stdout)
    return found


def test_every_socket_is_in_a_bucket_until_it_is_closed(population: Callable[..., Population]) -> None:
    none, all_open, half_open, closed, known, lost = compare(population(Group("ESTABLISHED", 23)))
    assert none == [24, 0], "23 and the listener"
    assert all_open == [24 + 2 * COUNT, 0]
    assert half_open == [24 + COUNT - 1, 0]
    assert (closed, known, lost) == ([24, 0], 2 * COUNT, 0)


def test_what_finds_no_room_in_its_bucket_is_kept_beside_it(population: Callable[..., Population]) -> None:
    none, all_open, half_open, closed, known, lost = compare(population(Group("ESTABLISHED", 23)), buckets=2)
    assert (sum(none), none[0]) == (24, 10)
    assert (sum(all_open), all_open[0]) == (24 + 2 * COUNT, 10)
    assert sum(half_open) == 24 + COUNT - 1
    assert (sum(closed), known, lost) == (24, 2 * COUNT, 0)


def test_kernels_that_do_not_know_the_cast_leave_its_calls_out(
    population: Callable[..., Population], tmp_path: Path
) -> None:
    """Linux 5.16 to 6.1: the object itself, where this kernel finds neither the function nor the sign of it."""
    content = Path(libbpf.__file__).with_name("bpf_objects").joinpath("trace_tcp.bpf.o").read_bytes()
    for name in (b"\0MEM_RCU\0", b"\0bpf_rdonly_cast\0"):
        assert name in content
        content = content.replace(name, name[:-2] + b"X\0")
    (tmp_path / "trace_tcp.bpf.o").write_bytes(content)
    none, all_open, half_open, closed, known, lost = compare(population(), directory=str(tmp_path))
    assert (none, all_open, half_open, closed, known, lost) == (
        [1, 0], [1 + 2 * COUNT, 0], [1 + COUNT - 1, 0], [1, 0], 2 * COUNT, 0,
    )  # fmt: skip


def test_kernels_that_cannot_cast_read_by_calls(
    population: Callable[..., Population], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects compiled as if no kernel had the cast."""
    monkeypatch.setattr(bpf_build, "_FLAGS", (*bpf_build._FLAGS, "-DCAN_CAST=0"))
    compiler = bpf_build.choose_compiler()
    for name, content in bpf_build.compile_files(ROOT, compiler, {"trace_tcp": "bpf/trace_tcp.bpf.c"}).items():
        assert b"bpf_rdonly_cast" not in content
        (tmp_path / f"{name}.bpf.o").write_bytes(content)
    none, all_open, half_open, closed, known, lost = compare(population(), directory=str(tmp_path))
    assert (none, all_open, half_open, closed, known, lost) == (
        [1, 0], [1 + 2 * COUNT, 0], [1 + COUNT - 1, 0], [1, 0], 2 * COUNT, 0,
    )  # fmt: skip
