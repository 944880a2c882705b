"""What the kernel keeps of each socket: with buckets that are full as with empty ones, and where structs are read by calls."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finwait.lab.population import Group
from finwait.sources import libbpf
from tests.kernel.finwait_command import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from finwait.lab.population import Population

COUNT = 211

# Runs inside a namespace: COUNT connections at once, then half of them closed, then all; how many of their sockets are in the
# buckets and how many beside them; and how many changes told their begin.
COMPARE = f"""
import json, socket, struct, sys
sys_root, buckets = sys.argv[1], int(sys.argv[2])
from finwait.sources.change_narrowing import Narrowing
from finwait.sources.change_records import CHANGES
from finwait.sources.tcp_events import TcpEvents
from finwait.table.request import Request, Roots
from finwait.tcp.state import TcpState
def kept():
    elements = [struct.unpack_from("6Q", events._object.read_element("lives", number)) for number in range(events._buckets)]
    beside = sum(1 for _ in events._object.read_map("more_lives"))
    assert sum(words[5] for words in elements) == beside
    return sum(word != 0 for words in elements for word in words[:5]), beside
server = socket.create_server(("127.0.0.1", 3000), backlog=4096)
told = []
request, rooms = Request(roots=Roots(sys=sys_root)), {{"lives": buckets}} if buckets else None
with TcpEvents(CHANGES, request, Narrowing(), [], rooms=rooms) as events:
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
    print(json.dumps([events._object.name, none, all_open, half_open, kept(), len(known), events.lost()]))
"""


def compare(held: Population, buckets: int = 0, sys_root: str = "/sys") -> list[Any]:
    command = held.enter_command(sys.executable, "-c", COMPARE, sys_root, str(buckets))
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


def test_every_socket_is_in_a_bucket_until_it_is_closed(population: Callable[..., Population]) -> None:
    _, none, all_open, half_open, closed, known, lost = compare(population(Group("ESTABLISHED", 23)))
    assert none == [24, 0], "23 and the listener"
    assert all_open == [24 + 2 * COUNT, 0]
    assert half_open == [24 + COUNT - 1, 0]
    assert (closed, known, lost) == ([24, 0], 2 * COUNT, 0)


def test_what_finds_no_room_in_its_bucket_is_kept_beside_it(population: Callable[..., Population]) -> None:
    _, none, all_open, half_open, closed, known, lost = compare(population(Group("ESTABLISHED", 23)), buckets=2)
    assert (sum(none), none[0]) == (24, 10)
    assert (sum(all_open), all_open[0]) == (24 + 2 * COUNT, 10)
    assert sum(half_open) == 24 + COUNT - 1
    assert (sum(closed), known, lost) == (24, 2 * COUNT, 0)


def test_kernels_before_6_2_read_by_calls(population: Callable[..., Population], tmp_path: Path) -> None:
    """Where the kernel's types lack the sign of bpf_rdonly_cast there is an object that does not name it."""
    types = Path("/sys/kernel/btf/vmlinux").read_bytes()
    assert types.count(b"\0MEM_RCU\0") == 1
    (tmp_path / "kernel/btf").mkdir(parents=True)
    (tmp_path / "kernel/btf/vmlinux").write_bytes(types.replace(b"\0MEM_RCU\0", b"\0MEM_RCX\0"))
    assert b"bpf_rdonly_cast" not in libbpf.read_object("trace_tcp_calls")
    name, none, all_open, half_open, closed, known, lost = compare(population(), sys_root=str(tmp_path))
    assert (name, none, all_open, half_open, closed, known, lost) == (
        "trace_tcp_calls", [1, 0], [1 + 2 * COUNT, 0], [1 + COUNT - 1, 0], [1, 0], 2 * COUNT, 0,
    )  # fmt: skip


# Runs inside a namespace: COUNT connections, of which the program is not run any more once they are established.
MISSED = f"""
import json, socket
from collections import Counter
from finwait.sources.change_narrowing import Narrowing
from finwait.sources.change_records import CHANGES
from finwait.sources.tcp_events import TcpEvents
from finwait.table.change import EVIDENCE
from finwait.table.request import Request
from finwait.tcp.state import TcpState
server = socket.create_server(("127.0.0.1", 3000), backlog=4096)
with TcpEvents(CHANGES, Request(), Narrowing(), []) as events:
    clients = [socket.create_connection(("127.0.0.1", 3000)) for _ in range({COUNT})]
    accepted = [server.accept()[0] for _ in clients]
    events.drain(CHANGES)
    events._object._library.call("bpf_link__destroy", events._object._links.pop("on_inet_sock_set_state"))
    for client, other in zip(clients, accepted):
        client.close()
        assert not other.recv(1)
        other.close()
    records = events.drain(CHANGES, last=True)
    names = [[TcpState(one[name]).name for name in ("from", "to")] for one in records]
    steps = Counter((*two, EVIDENCE[one["evidence"]], bool(one["since_ns"])) for two, one in zip(names, records))
    print(json.dumps(sorted([*step, count] for step, count in steps.items())))
"""


def test_what_was_missed_is_told_when_the_socket_goes_with_what_remains(population: Callable[..., Population]) -> None:
    """As where timers of many sockets run in the midst of the program, so that it is not run for them."""
    done = subprocess.run(
        population().enter_command(sys.executable, "-c", MISSED),
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    steps = json.loads(done.stdout)
    assert [step for step in steps if step[2] == "inferred" and step[1] == "CLOSE"] == [
        ["ESTABLISHED", "CLOSE", "inferred", True, COUNT]
    ]
    remains = [step for step in steps if step[1] in {"TIME_WAIT", "FIN_WAIT2"} and step[0] == "ESTABLISHED"]
    assert sum(step[-1] for step in remains) == COUNT
    orphans = sum(step[-1] for step in steps if step[1] == "FIN_WAIT2")
    assert sum(step[-1] for step in steps if step[:2] == ["FIN_WAIT2", "TIME_WAIT"]) == orphans
