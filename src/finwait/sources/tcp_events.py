"""Changes of state of TCP connections as the kernel tells them: bpf/trace_tcp.bpf.c attached to tracepoints, its ring drained.

First the programs are attached, then what is there already is walked over, so that nothing falls between. Whatever is attached
ends with the process, however that ends.
"""

from __future__ import annotations

import os

import numpy as np

from finwait.errors import NotSupported
from finwait.sources.bpf_ring import RingBuffer, ring_bytes
from finwait.sources.choice import allocated_sockets
from finwait.sources.libbpf import BpfObject, drain
from finwait.sources.namespaces import visit_places
from finwait.sources.sock_diag import netns_of, open_beside
from finwait.tcp.state import ALL_STATES
from finwait.wire.bpf_layouts import ENUMS
from finwait.wire.bpf_records import Layout, comm_text, global_value, globals_section, numpy_dtype

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Iterable

    from finwait.table.batch import Array
    from finwait.table.request import Request, Roots
    from finwait.table.snapshot import Netns, Notice

OBJECT = "trace_tcp"
CHANGE = np.dtype(numpy_dtype("finwait_change"))  # type: ignore[call-overload]
TIME_WAIT_NS = 60_000_000_000  # TCP_TIMEWAIT_LEN (include/net/tcp.h)
MOST_NETNS = ENUMS["FINWAIT_MOST_NETNS"]
PORTS = (0, 65535)
RING_BYTES = 8 << 20
STATES = ("on_inet_sock_set_state", "on_tcp_destroy_sock")
# Tracepoints that a kernel may lack, with what is told less without them.
RESETS = ("on_tcp_receive_reset", "on_tcp_send_reset")
TIMERS = ("on_timer_start", "on_timer_cancel", "on_timer_expire_entry", "on_timer_expire_exit")
CALLS = ("on_sock_send_length", "on_sock_recv_length")  # Linux 6.3
LEAST_LIVES = 1 << 16
_NAME = Layout("finwait_name")


class Narrowing:
    """What the kernel is to tell of. family: 2 or 10, None for both. states: mask of those that are left or reached.
    local_ports, peer_ports: first and last. least_ns: time in the state that is left, 0 for any, known or not.
    """  # fmt: skip

    __slots__ = ("family", "least_ns", "local_ports", "peer_ports", "states")

    def __init__(
        self,
        *,
        family: int | None = None,
        states: int = sum(1 << state for state in ALL_STATES),
        local_ports: tuple[int, int] = PORTS,
        peer_ports: tuple[int, int] = PORTS,
        least_ns: int = 0,
    ) -> None:
        self.family = family
        self.states = states
        self.local_ports = local_ports
        self.peer_ports = peer_ports
        self.least_ns = least_ns


class TcpEvents:
    """The programs attached, what is there walked over. netns: the namespaces that are watched. Close it; it is a context
    manager.

    request: which namespaces. owners: whether to learn who has the sockets. ring: bytes for changes that were not read yet.

    Raises NotSupported, NotPermitted, SourceError.
    """  # fmt: skip

    def __init__(
        self,
        request: Request,
        narrowing: Narrowing,
        notices: list[Notice],
        *,
        owners: bool = True,
        ring: int = RING_BYTES,
    ) -> None:
        size = ring_bytes(ring)
        self.netns: list[Netns] = []
        self._missed = 0
        self.programs = (*STATES, *RESETS, *TIMERS, *(CALLS if owners else ()))
        without = () if owners else CALLS
        rooms = {"changes": size, "lives": _room_for_sockets(request.roots)}
        self._object = BpfObject(OBJECT, rooms, without=without)
        self._ring: RingBuffer | None = None
        try:
            self._ring = RingBuffer(self._object.map_descriptor("changes"), size, CHANGE)
            self._begin(request, narrowing, notices, owners=owners)
        except BaseException:
            self.close()
            raise

    def _begin(self, request: Request, narrowing: Narrowing, notices: list[Notice], *, owners: bool) -> None:
        """Attach while the kernel tells of no namespace, then say which, then walk."""

        def enter() -> tuple[int, socket]:
            return open_beside(lambda: self._object.open_iterator("seed_sockets"))

        walks = []
        try:
            for place, (walk, diag) in visit_places(request, enter, notices):
                walks.append(walk)
                self.netns.append(netns_of(diag, place.name, place.inode))
                diag.close()
            cookies = [netns.cookie for netns in self.netns]
            if not request.all_netns and None in cookies:
                raise NotSupported("this kernel does not tell a network namespace's cookie (Linux 5.14 or later)")
            self._object.write_section(".data", _globals(narrowing, request, cookies))
            for program in self.programs:
                self._object.attach(program)
            while walks:
                drain(walks.pop(0))
        finally:
            for walk in walks:
                os.close(walk)
        if owners:
            self.learn_owners()

    def learn_owners(self) -> None:
        """Look once at all descriptors, for sockets whose owner is not known yet."""
        drain(self._object.open_iterator("seed_owners"))

    def drain(self) -> Array:
        """The changes that were told since the last time, as an array of CHANGE."""
        assert self._ring is not None
        return self._ring.drain()

    def names(self, tgids: Iterable[int]) -> dict[int, str]:
        """The names of those of the processes that are known."""
        found = {}
        for tgid in tgids:
            value = self._object.find_element("names", tgid.to_bytes(4, "little"))
            if value is not None:
                found[tgid] = comm_text(next(_NAME.records(value))[0])
        return found

    def lost(self) -> int:
        """How many changes were lost since the programs were attached: the ring was full, there was no memory, or the kernel
        left out a program because it ran already on that processor.
        """  # fmt: skip
        content = self._object.read_section(".bss")
        counted = sum(global_value(OBJECT, content, name) for name in ("lost_changes", "lost_lives", "lost_minis"))
        return counted + sum(self._object.missed_runs(program) for program in (*STATES, *TIMERS))

    def close(self) -> None:
        """Detach everything."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        self._object.close()

    def __enter__(self) -> TcpEvents:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _room_for_sockets(roots: Roots) -> int:
    """Elements for the sockets that there are, and as many again."""
    return max(LEAST_LIVES, 1 << (2 * allocated_sockets(roots.proc)).bit_length())


def _globals(narrowing: Narrowing, request: Request, cookies: list[int | None]) -> bytes:
    chosen = [] if request.all_netns or len(cookies) > MOST_NETNS else [cookie for cookie in cookies if cookie]
    level, inode = _reader_pid_namespace(request.roots)
    return globals_section(
        OBJECT,
        ".data",
        {
            "wanted_netns": chosen,
            "least_ns": narrowing.least_ns,
            "wanted_states": narrowing.states,
            "wanted_family": narrowing.family or 0,
            "local_ports": narrowing.local_ports,
            "peer_ports": narrowing.peer_ports,
            "reader_level": level,
            "reader_pid_ns": inode,
            "time_wait_ns": TIME_WAIT_NS,
            "wants": ENUMS["FINWAIT_WANT_CHANGES"],
            "room": 2,
            "cpus": min(os.cpu_count() or 1, ENUMS["FINWAIT_CPUS"]),
        },
    )


def _reader_pid_namespace(roots: Roots) -> tuple[int, int]:
    """(level, inode) of the pid namespace in which processes are counted: of this process, or level 0 of the host where another
    /proc is read.
    """  # fmt: skip
    if roots.proc != "/proc":
        return 0, 0
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
            line = next((line for line in file if line.startswith("NSpid:")), "NSpid: 0")
        return len(line.split()) - 2, os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0, 0

