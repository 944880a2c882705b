"""The populations are what they say: counted by ss, by netstat and by a dump of the test's own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest

from benchmarks.sockets import MIXES, BusyHost
from finwait.errors import SourceError
from finwait.lab.peer import ACK, Segment, build_packet, internet_checksum, parse_frame
from finwait.lab.spec import FAMILIES, Group, Spec
from finwait.tcp.state import LIFE_ORDER, TcpState
from tests.kernel.finwait_command import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from finwait.lab.population import Population

    Hold = Callable[..., Population]

PRIMES = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
IPV4_IN_LIFE_ORDER = tuple(Group(state.name, prime) for state, prime in zip(LIFE_ORDER, PRIMES, strict=True))
EVERYTHING = tuple(
    Group(state.name, prime + 2 * FAMILIES.index(family), family)
    for family in FAMILIES
    for state, prime in zip(LIFE_ORDER, reversed(PRIMES), strict=True)
)
POPULATIONS = {
    **{family: tuple(Group(g.state, g.count, family) for g in IPV4_IN_LIFE_ORDER) for family in FAMILIES},
    "everything": EVERYTHING,
    **{state.name: (Group("LISTEN", 2), Group(state.name, 1009)) for state in LIFE_ORDER},
}

# Counts by state, message by message, with the mask's bit 13; apart from every other reader in this repository.
SOCK_DIAG_CENSUS = """
import collections, json, socket, struct
counts = collections.Counter()
for family in (socket.AF_INET, socket.AF_INET6):
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)
    request = struct.pack("=BBBxI48x", family, socket.IPPROTO_TCP, 0, 0x3FFF)
    netlink.send(struct.pack("=IHHII", 16 + len(request), 20, 0x301, 1, 0) + request)
    kind = 0
    while kind != 3:
        buffer = netlink.recv(65536)
        while buffer and kind != 3:
            length, kind = struct.unpack_from("=IH", buffer)
            if kind == 20:
                counts[buffer[17]] += 1
            buffer = buffer[(length + 3) & ~3:]
print(json.dumps(counts))
"""


def count_by_ss(held: Population) -> Counter[TcpState]:
    by_word = {state.ss: state for state in TcpState}
    return Counter(by_word[line.split()[0]] for line in held.run("ss", "-tanH").splitlines())


def count_by_netstat(held: Population) -> Counter[TcpState]:
    by_word = {state.netstat: state for state in TcpState}
    lines = [line.split() for line in held.run("netstat", "-ant").splitlines()]
    return Counter(by_word[words[5]] for words in lines if words[0].startswith("tcp"))


def count_by_sock_diag(held: Population) -> Counter[TcpState]:
    counts = json.loads(held.run(sys.executable, "-c", SOCK_DIAG_CENSUS))
    return Counter({TcpState(int(state)): count for state, count in counts.items()})


def read_ss_details(held: Population, *options: str) -> dict[int, str]:
    """The lines of ``ss -tane`` by cookie."""
    text = held.run("ss", "-tanieoHO", *options)
    return {int(re.search(r" sk:([0-9a-f]+)", line)[1], 16): line for line in text.splitlines()}


def without_bound(counts: Counter[TcpState]) -> Counter[TcpState]:
    """ss and netstat never see a bound, unconnected socket."""
    return Counter({state: count for state, count in counts.items() if state != TcpState.CLOSE})


@pytest.mark.parametrize("shuffle", [None, 7], ids=["in-order", "mixed"])
@pytest.mark.parametrize("name", POPULATIONS)
def test_every_source_counts_exactly_what_was_asked(population: Hold, name: str, shuffle: int | None) -> None:
    held = population(*POPULATIONS[name], shuffle=shuffle)
    asked = held.spec.count_by_state()
    assert count_by_sock_diag(held) == asked
    assert count_by_ss(held) == without_bound(asked)
    assert count_by_netstat(held) == without_bound(asked)


def test_an_empty_population_is_an_empty_namespace(population: Hold) -> None:
    held = population()
    assert not held.sockets
    assert not count_by_sock_diag(held)


def test_the_facts_are_those_of_ss(population: Hold) -> None:
    held = population(*EVERYTHING, shuffle=11)
    details = read_ss_details(held)
    for one in held.sockets:
        if one.state != "CLOSE" and one.cookie is not None:
            assert f"ino:{one.inode} " in details[one.cookie] or (one.inode == 0 and " ino:" not in details[one.cookie])
            assert f"]:{one.local[1]} " in details[one.cookie] or f":{one.local[1]} " in details[one.cookie]
    shown = {cookie for cookie, line in details.items() if not line.startswith("SYN-RECV")}
    assert shown == held.cookies - {one.cookie for one in held.sockets if one.state == "CLOSE"}


def test_the_holder_owns_every_inode(population: Hold) -> None:
    held = population(*EVERYTHING)
    owned = {one.fd: one.inode for one in held.sockets if one.fd is not None}
    assert owned == {fd: os.stat(f"/proc/{held.pid}/fd/{fd}").st_ino for fd in owned}
    assert all(one.inode == 0 for one in held.sockets if one.fd is None)


def test_nothing_but_timers_changes(population: Hold) -> None:
    held = population(*EVERYTHING, shuffle=13)

    def read_frozen() -> list[tuple[str, ...]]:
        return sorted(tuple(line.split()[:5]) for line in held.run("ss", "-tanH").splitlines())

    def retransmitted() -> bool:
        return ",3)" in held.run("ss", "-tanoH", "state", "fin-wait-1")

    first = read_frozen()
    await_condition(retransmitted)
    assert read_frozen() == first


def test_listen_shows_the_accept_queue_and_its_limit(population: Hold) -> None:
    held = population(
        Group("LISTEN", 1, backlog=17),
        Group("ESTABLISHED", 7, accepted=False),
        Group("CLOSE_WAIT", 5, accepted=False),
        Group("ESTABLISHED", 3, opened="passive"),
        shuffle=5,
    )
    assert held.run("ss", "-tlnH").split()[:3] == ["LISTEN", "12", "17"]
    lines = held.run("ss", "-taneH", "state", "connected").splitlines()
    assert sum(" ino:0 " in line for line in lines) == 12


def test_established_holds_unread_unacked_and_unsent_bytes(population: Hold) -> None:
    held = population(
        Group("ESTABLISHED", 3, unread=20011),
        Group("ESTABLISHED", 5, "ipv6", unacked=100003),
        Group("ESTABLISHED", 7, "mapped", unsent=4001),
        shuffle=3,
    )
    lines = held.run("ss", "-taniHO").splitlines()
    queues = Counter(tuple(line.split()[1:3]) for line in lines)
    assert queues == {("20011", "0"): 3, ("0", "100003"): 5, ("0", "4001"): 7}
    assert sum("notsent:4001 " in line for line in lines) == 7
    assert sum("unacked:10 " in line for line in lines) == 5


def test_fin_wait_2_is_owned_or_an_orphan_or_a_mini_socket(population: Hold) -> None:
    held = population(
        Group("FIN_WAIT2", 3), Group("FIN_WAIT2", 5, orphan=True), Group("FIN_WAIT2", 7, mini=True), shuffle=2
    )
    assert count_by_sock_diag(held) == {TcpState.FIN_WAIT2: 15}
    lines = held.run("ss", "-taneoH").splitlines()
    assert sum(" ino:0 " not in line for line in lines) == 3
    assert sum("timer:(keepalive,1" in line and " ino:0 " in line for line in lines) == 5
    assert sum("timer:(timewait," in line for line in lines) == 7


@pytest.mark.parametrize("state", ["FIN_WAIT1", "CLOSING", "LAST_ACK"])
def test_a_shut_down_socket_keeps_its_owner(population: Hold, state: str) -> None:
    held = population(Group(state, 3), Group(state, 5, "ipv6", orphan=False), shuffle=1)
    lines = held.run("ss", "-taneH").splitlines()
    assert sum(" ino:0 " not in line for line in lines) == 5
    assert {line.split()[0] for line in lines} == {TcpState[state].ss}


def test_options_are_visible(population: Hold) -> None:
    held = population(
        Group("ESTABLISHED", 3, mark=0x2A),
        Group("ESTABLISHED", 5, keepalive=True),
        Group("ESTABLISHED", 7, "mapped", congestion="reno"),
        Group("ESTABLISHED", 11, "ipv6", device="near"),
        Group("ESTABLISHED", 13, opened="repair"),
    )
    lines = held.run("ss", "-taniemoHO").splitlines()
    assert sum(" fwmark:0x2a " in line for line in lines) == 3
    assert sum("timer:(keepalive,119min" in line for line in lines) == 5
    assert sum(" reno " in line for line in lines) == 7
    assert sum("%near" in line for line in lines) == 11
    assert len(lines) == 39


def test_the_order_of_creation_depends_on_the_seed_only(population: Hold) -> None:
    def read_order(seed: int) -> list[str]:
        return [one.state for one in population(*EVERYTHING, shuffle=seed).sockets]

    first = read_order(7)
    assert read_order(7) == first
    assert read_order(8) != first


def test_the_holder_dies_with_its_parent() -> None:
    code = (
        "import sys; from finwait.lab.population import *\n"
        "with Population(Spec((Group('FIN_WAIT1', 1009),))) as held: print(held.pid, flush=True); sys.stdin.read()\n"
    )
    before = count_orphans()
    with subprocess.Popen(
        (sys.executable, "-c", code), cwd=REPOSITORY, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        await_condition(lambda: count_orphans() >= before + 1009)
        parent.send_signal(signal.SIGKILL)
    await_condition(lambda: not os.path.exists(f"/proc/{pid}/ns/net"))
    await_condition(lambda: count_orphans() < before + 1009)


def test_a_skip_is_a_failure_where_the_kernel_can_run_the_test(tmp_path: Path) -> None:
    shutil.copy(f"{REPOSITORY}/tests/kernel/conftest.py", tmp_path)
    (tmp_path / "test_skips.py").write_text(
        "import pytest\n\ndef test_skips():\n    pytest.skip('no')\n\ndef test_runs():\n    pass\n"
    )
    (tmp_path / "test_module.py").write_text("import pytest\n\npytest.skip('no', allow_module_level=True)\n")
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {REPOSITORY}\n")
    command = (
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
        str(tmp_path),
    )
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert outcome.returncode != 0
    assert "1 failed, 1 passed, 1 error" in outcome.stdout


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("mix", MIXES)
def test_a_busy_host_holds_exactly_the_asked_sockets(mix: str, family: int) -> None:
    with BusyHost(20011, mix, family=family) as host:
        words = Counter(line.split()[0] for line in read_output(*host.enter_command("ss", "-tanH")).splitlines())
        closed = 20011 // 2 if mix == "half-time-wait" else 0
        assert words == Counter({"ESTAB": 20011 - closed, "TIME-WAIT": closed})
        assert host.rearm() >= 0
        assert len(host.workers) == (1 if closed else 2)


def test_segments_have_the_checksums_of_rfc_1071() -> None:
    segment = Segment(IPv4Address("10.0.0.1"), 1, IPv4Address("10.0.0.2"), 2, 3, 4, ACK, payload=b"odd")
    packet = build_packet(segment)
    assert internet_checksum(packet[:20]) == 0
    assert internet_checksum(packet[12:20] + bytes((0, 6, 0, 23)) + packet[20:]) == 0
    assert parse_frame(bytes(12) + b"\x08\x00" + packet) == segment


def test_a_spec_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="ask for a LISTEN of family ipv6"):
        Spec((Group("LISTEN", 1), Group("SYN_RECV", 3, "ipv6")))
    with pytest.raises(ValueError, match="close\\(\\) with unread data resets"):
        Group("FIN_WAIT1", 1, unread=1)
    with pytest.raises(ValueError, match="TCP_REPAIR"):
        Group("CLOSE_WAIT", 1, opened="repair")


def test_a_failed_holder_tells_why(population: Hold) -> None:
    with pytest.raises(SourceError, match="No such file or directory"):
        population(sysctls={"net.ipv4.no_such_variable": 1})


def read_output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def count_orphans() -> int:
    """FIN_WAIT1 and the like of the whole machine, whichever namespace they hold alive."""
    with open("/proc/net/sockstat", encoding="ascii") as sockstat:
        return int(re.search(r"orphan (\d+)", sockstat.read())[1])


def await_condition(holds: Callable[[], bool], patience_s: float = 20.0) -> None:
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)
