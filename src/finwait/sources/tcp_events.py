"""Changes of state of TCP connections as the kernel tells them: bpf/trace_tcp.bpf.c attached to tracepoints, its rings drained.

First the programs are attached, then what is there already is walked over, so that nothing falls between. Whatever is attached
ends with the process, however that ends.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np

from finwait.errors import NotSupported
from finwait.sources.bpf_ring import LEAST_BYTES, RingBuffer, ring_bytes
from finwait.sources.change_records import (
    CHANGE,
    CHANGES,
    COUNTS,
    LIFETIME,
    LIFETIMES,
    SOCKETS,
    TOTALS,
    take_records,
)
from finwait.sources.choice import allocated_sockets
from finwait.sources.libbpf import BpfObject, drain, open_library
from finwait.sources.namespaces import visit_places
from finwait.sources.sock_diag import netns_of, open_beside
from finwait.sources.tcp_tracepoints import CALLS, RESETS, RUN, STATES, TIMERS, missing_programs, object_name
from finwait.tcp.state import TcpState
from finwait.wire.bpf_layouts import ENUMS
from finwait.wire.bpf_records import Layout, comm_text, global_value, globals_section, numpy_dtype

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Iterable, Mapping
    from mmap import mmap
    from typing import Any

    from finwait.sources.change_narrowing import Narrowing
    from finwait.sources.namespaces import Place
    from finwait.table.batch import Array
    from finwait.table.request import Request
    from finwait.table.snapshot import Netns, Notice

BESIDE = np.dtype(numpy_dtype("finwait_beside"))  # type: ignore[call-overload]
SOCKETS_OF = np.dtype(numpy_dtype("finwait_sockets"))  # type: ignore[call-overload]
TIME_WAIT_NS = 60_000_000_000  # TCP_TIMEWAIT_LEN (include/net/tcp.h)
MOST_NETNS = ENUMS["FINWAIT_MOST_NETNS"]
MOST_PLACES = 256  # of groups (namespaces, and what is counted apart in them)
MOST_TOTALS_BYTES = 64 << 20  # of sums: on a machine of many processors there are fewer places
MOST_NAMESPACES = ENUMS["FINWAIT_MOST_PLACES"]  # of a tally
CHECK_S = 1.0
LOSSES = ("lost_changes", "lost_lives", "lost_minis", "lost_listeners")
LEAST_LIVES = 1 << 16
VISITED = 1 << 12  # listeners, and orphans of a tally: a reading visits as many buckets, 20 ns each
KEYS = ("netns_cookie", "member")
RING_BYTES = 16 << 20
TOGETHER, BY_LISTENER, BY_PROCESS = (ENUMS[f"FINWAIT_{name}"] for name in ("TOGETHER", "BY_LISTENER", "BY_PROCESS"))
_NAME = Layout("finwait_name")


class TcpEvents:
    """The programs attached, what is there walked over. netns: the namespaces that are watched. Close it; it is a context
    manager.

    wants: CHANGES, LIFETIMES, COUNTS, SOCKETS, one or more. request: which namespaces. owners: whether to learn who
    has the sockets. timers: whether to follow mini-sockets by their timers; without, half-open connections are inferred from
    what became of them, and what follows a FIN-WAIT-2 without a program, or TIME-WAIT, is not told. ring: bytes for what was
    not read yet. members: how COUNTS are apart in a namespace, TOGETHER, BY_LISTENER or BY_PROCESS. rooms: elements of
    maps, where a tally needs more than it has by itself.

    Raises NotSupported, NotPermitted, SourceError.
    """  # fmt: skip

    source = "bpf"

    def __init__(
        self,
        wants: int,
        request: Request,
        narrowing: Narrowing,
        notices: list[Notice],
        *,
        owners: bool = True,
        timers: bool = True,
        ring: int = RING_BYTES,
        members: int = TOGETHER,
        rooms: Mapping[str, int] | None = None,
    ) -> None:
        self.wants = wants
        self._least_rooms = rooms or {}
        self._check_s = 0.0
        self.members = members
        self.processors = open_library().processors
        self.timers = timers
        self.netns: list[Netns] = []
        self.places: list[Place] = []
        self._chosen: Array | None = None  # cookies of more namespaces than the kernel chooses by itself
        self._places = self._count_places(request)
        tells = wants & (CHANGES | LIFETIMES) or members == BY_PROCESS
        missing = missing_programs(request.roots.sys)
        chosen = (
            *STATES,
            *(TIMERS if timers else ()),
            *(RESETS if tells else ()),
            *(CALLS if tells and owners else ()),
        )
        self.programs = tuple(name for name in chosen if name not in missing)
        runs = (*(("count_beside",) if wants & SOCKETS else ()), *(("check_minis",) if timers else ()),
                *(("learn_reader",) if tells else ()))  # fmt: skip
        self._runs = runs
        without = tuple(name for name in (*TIMERS, *RESETS, *CALLS, *RUN) if name not in (*self.programs, *runs))
        self._rings: dict[int, RingBuffer] = {}
        self._memory: dict[str, mmap] = {}
        rooms_of = self._rooms(request, ring_bytes(ring))
        self._buckets = rooms_of["lives"]
        self._object = BpfObject(object_name(request.roots.sys), rooms_of, without=without)
        try:
            for want, name, record in (
                (CHANGES, "changes", CHANGE),
                (LIFETIMES, "lifetimes", LIFETIME),
            ):
                if wants & want:
                    self._rings[want] = RingBuffer(self._object.map_descriptor(name), ring_bytes(ring), record)
            for want, name, elements in self._sums():
                if wants & want:
                    self._memory[name] = self._object.map_memory(name, elements)
            self._begin(request, narrowing, notices, owners=bool(tells) and owners)
        except BaseException:
            self.close()
            raise

    def _count_places(self, request: Request) -> int:
        """Of groups that are told apart, and one for all others."""
        if not self.members and not request.all_netns and len(request.netns) <= MOST_NETNS:
            return len(request.netns or (None,)) + 1
        if self.wants & COUNTS:
            return min(MOST_PLACES, max(int(MOST_TOTALS_BYTES // (TOTALS.itemsize * self.processors)), 2))
        return MOST_NAMESPACES

    def _sums(self) -> tuple[tuple[int, str, int], ...]:
        """(want, map, elements) of what is read from memory."""
        own = self._places * self.processors
        return (COUNTS, "totals", own), (SOCKETS, "sockets", own), (SOCKETS, "beside", self._places)

    def _rooms(self, request: Request, ring: int) -> dict[str, int]:
        """Elements of each map, bytes of each ring; next to nothing for what is not wanted."""
        sockets = max(LEAST_LIVES, 1 << (2 * allocated_sockets(request.roots.proc)).bit_length())
        return {
            "changes": ring if self.wants & CHANGES else LEAST_BYTES,
            "lifetimes": ring if self.wants & LIFETIMES else LEAST_BYTES,
            "lives": sockets // 4,  # buckets of five
            "more_lives": sockets,
            "minis": VISITED if self.wants == SOCKETS else sockets,
            "listeners": VISITED,
            "slots": self.processors,
            "paths": sockets if self.wants & LIFETIMES else 1,
            **self._least_rooms,
            **{name: elements if self.wants & want else 1 for want, name, elements in self._sums()},
        }

    def _begin(self, request: Request, narrowing: Narrowing, notices: list[Notice], *, owners: bool) -> None:
        """Open a walk in each namespace, say what is wanted, attach, walk."""

        def enter() -> tuple[int, socket]:
            return open_beside(lambda: self._object.open_iterator("seed_sockets"))

        walks = []
        try:
            for place, (walk, diag) in visit_places(request, enter, notices):
                walks.append(walk)
                self.netns.append(netns_of(diag, place.name, place.inode))
                self.places.append(place)
                diag.close()
            if not request.all_netns and any(netns.cookie is None for netns in self.netns):
                raise NotSupported("this kernel does not tell a network namespace's cookie (Linux 5.14 or later)")
            wanted = self._wanted(narrowing, request)
            self._object.write_section(".data", globals_section(self._object.name, ".data", wanted))
            if "learn_reader" in self._runs and request.roots.proc == "/proc":  # else processes are the host's
                self._object.run("learn_reader")
            for program in self.programs:
                self._object.attach(program)
            while walks:
                drain(walks.pop(0))
        finally:
            for walk in walks:
                os.close(walk)
        if owners:
            self.learn_owners()
        if self.wants == SOCKETS:
            self._object.write_section(".data", globals_section(self._object.name, ".data", wanted | {"steady": 1}))

    def _wanted(self, narrowing: Narrowing, request: Request) -> dict[str, int | bytes]:
        cookies = tuple(netns.cookie for netns in self.netns if netns.cookie)
        if not request.all_netns and len(cookies) > MOST_NETNS:
            self._chosen = np.asarray(cookies, dtype=np.uint64)
        return {
            "wants": self.wants,
            "timers": self.timers,
            "wanted_netns": b""
            if request.all_netns or len(cookies) > MOST_NETNS
            else np.asarray(cookies, np.uint64).tobytes(),
            "least_ns": narrowing.least_ns,
            "wanted_states": narrowing.states,
            "wanted_family": narrowing.family or 0,
            "local_ports": np.asarray(narrowing.local_ports, np.uint32).tobytes(),
            "peer_ports": np.asarray(narrowing.peer_ports, np.uint32).tobytes(),
            "room": self._places,
            "processors": self.processors,
            "bucket_shift": 65 - self._buckets.bit_length(),
            "members": self.members,
            "time_wait_ns": TIME_WAIT_NS,
            "secret": int.from_bytes(os.urandom(8), sys.byteorder),
        }

    def learn_owners(self) -> None:
        """Look once at all descriptors, for sockets whose owner is not known yet."""
        drain(self._object.open_iterator("seed_owners"))

    def drain(self, want: int, *, last: bool = False) -> Array:
        """What was told since the last time: of CHANGES an array of CHANGE, of LIFETIMES one of LIFETIME. last: nothing is left
        to be looked up.
        """  # fmt: skip
        self._check_minis(at_once=last)
        records = self._rings[want].drain()
        return (
            records if self._chosen is None else take_records(records, np.isin(records["netns_cookie"], self._chosen))
        )

    def peek(self, want: int, *, last: bool = False) -> Array:
        """What `drain` gives, but still in its ring, behind headers, until `release`, and of all namespaces."""
        self._check_minis(at_once=last)
        return self._rings[want].peek()

    def release(self, want: int, count: int) -> None:
        """Give the room of the first `count` records of `peek` back to the kernel."""
        self._rings[want].release(count)

    @property
    def is_chosen_by_kernel(self) -> bool:
        """Whether the kernel tells of no other namespaces than those that are wanted."""
        return self._chosen is None

    def _check_minis(self, *, at_once: bool) -> None:
        """Ask now and then for what no tracepoint tells: a FIN-WAIT-2 without a program that has got its FIN."""
        if "check_minis" in self._runs and (at_once or time.monotonic() >= self._check_s):
            began_s = time.monotonic()
            self._object.run("check_minis")
            self._check_s = began_s + max(CHECK_S, 100 * (time.monotonic() - began_s))

    def totals(self) -> Array:
        """An array of TOTALS, an element for each group that something was counted in; of those that found no room together the
        cookie is 0.
        """  # fmt: skip
        self._check_minis(at_once=True)
        elements = self._added("totals", TOTALS)
        found: Array = elements[(elements["netns_cookie"] != 0) | elements["changes"].any(axis=1)]
        if self._chosen is not None:
            found = found[(found["netns_cookie"] == 0) | np.isin(found["netns_cookie"], self._chosen)]
        return found

    def sockets(self) -> tuple[Array, Array]:
        """Of each place: an array of SOCKETS_OF (full sockets; SYN_RECV with the half-open connections of listeners), and how
        many connections are in FIN_WAIT2 without a program. Place 0 is of namespaces that found none.
        """  # fmt: skip
        elements = self._added("sockets", SOCKETS_OF)
        self._object.run("count_beside")
        beside = np.frombuffer(self._memory["beside"], dtype=BESIDE, count=self._places)
        elements["netns_cookie"] = np.maximum(elements["netns_cookie"], beside["netns_cookie"])
        elements["by_state"][:, TcpState.SYN_RECV] += beside["half_open"]
        return elements, beside["orphans"].astype(np.int64)

    def _added(self, name: str, record: np.dtype[Any]) -> Array:
        """The elements of a map of which each processor has its own, added up."""
        count = self._places * self.processors
        by_processor = np.frombuffer(self._memory[name], dtype=record, count=count).reshape(self._places, -1)
        elements = np.zeros(self._places, dtype=record)
        for field in record.names or ():
            values = by_processor[field]
            elements[field] = values.max(axis=1) if field in KEYS else values.sum(axis=1)
        return elements

    def names(self, tgids: Iterable[int]) -> dict[int, str]:
        """The names of those of the processes that are known."""
        found = {}
        for tgid in tgids:
            value = self._object.find_element("names", tgid.to_bytes(4, sys.byteorder))
            if value is not None:
                found[tgid] = comm_text(next(_NAME.records(value))[0])
        return found

    def lost(self) -> int:
        """How many changes were lost since the programs were attached: the ring was full, or there was no memory. One that
        the kernel did not run the program for, because it ran already on that processor, is no loss: the next change tells it
        as inferred.
        """
        content = self._object.read_section(".bss")
        return sum(global_value(self._object.name, content, name) for name in LOSSES)

    def wanted_rooms(self) -> dict[str, int]:
        """Of the maps that a reading visits: elements that would have been enough, where they were not."""
        content = self._object.read_section(".bss")
        lost = {name: global_value(self._object.name, content, f"lost_{name}") for name in ("listeners", "minis")}
        rooms = {name: max(self._least_rooms.get(name, 0), VISITED) for name in lost}
        return {name: 4 * (rooms[name] + count) for name, count in lost.items() if count}

    def missed(self) -> int:
        """How many changes of full sockets the kernel has not run the program for: they are inferred, or not counted."""
        return self._object.missed(STATES[0])

    def close(self) -> None:
        """Detach everything."""
        for ring in self._rings.values():
            ring.close()
        self._rings.clear()
        for memory in self._memory.values():
            memory.close()
        self._memory.clear()
        self._object.close()

    def __enter__(self) -> TcpEvents:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
