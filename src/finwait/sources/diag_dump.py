"""A dump of sock_diag kept as it came, so that only what is asked of it is decoded, and exact look-ups of many sockets at once
(man 7 sock_diag; net/ipv4/inet_diag.c).
"""  # fmt: skip

from __future__ import annotations

import copy
import time

import numpy as np

from finwait.errors import SourceError
from finwait.sources.diag_changes import SEEN, TIME_WAIT, TIME_WAIT_NS
from finwait.sources.diag_columns import DiagBuffer, decode_buffer
from finwait.sources.sock_diag import BUFFER_BYTES, END_MISSING, raise_for_errno, receive_into, send_request
from finwait.text.messages import mark
from finwait.wire import diag_filter
from finwait.wire.diag_filter import Branch, Condition, assemble, port_condition
from finwait.wire.inet_diag import ALL_STATES_MASK, IPPROTO_TCP, SOCK_DIAG_BY_FAMILY, build_tcp_dump
from finwait.wire.netlink import NLM_F_REQUEST, align

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

    from finwait.table.batch import Array, Batch

CLOCK_MONOTONIC_COARSE = 6  # its resolution is the kernel's tick (linux/time.h)
TICK_NS = round(time.clock_getres(CLOCK_MONOTONIC_COARSE) * 1e9)
FIRST_BYTES, LATER_BYTES = 1 << 18, 1 << 21  # of buffers
CONNECTIONS_MASK = ALL_STATES_MASK & 0x1FFF  # without sockets that are bound and no more
ENDS_COLUMNS = ("family", "local_address", "local_port", "peer_address", "peer_port", "interface")
COLUMNS = (*ENDS_COLUMNS, "inode", "expires_ms", "shutdown")
TOGETHER = 64  # look-ups: their answers find room in any receive buffer
SEQUENCE_WORD = 2  # of struct nlmsghdr
NO_COOKIE = np.uint64(0xFFFFFFFFFFFFFFFF)  # INET_DIAG_NOCOOKIE, twice
ENOENT = 2
NOT_ANSWERED = mark("sock_diag gave no answer to the look-up of a socket")
ALL_PORTS = (0, 65535)
_REQUEST = np.dtype([  # nlmsghdr, inet_diag_req_v2
    ("length", "u4"), ("type", "u2"), ("flags", "u2"), ("sequence", "u4"), ("port_id", "u4"), ("family", "u1"),
    ("protocol", "u1"), ("extensions", "u1"), ("zero", "u1"), ("states", "u4"), ("local_port", ">u2"), ("peer_port", ">u2"),
    ("local_address", "u1", 16), ("peer_address", "u1", 16), ("interface", "u4"), ("cookie", "u4", 2),
])  # fmt: skip


def build_port_dump(family: int | None, local_ports: tuple[int, int], peer_ports: tuple[int, int]) -> bytes:
    """A request for the connections and listeners of these ports (first and last) in every state."""
    leaves = [
        Branch("leaf", condition=condition)
        for ports, least, most in (
            (local_ports, diag_filter.S_GE, diag_filter.S_LE),
            (peer_ports, diag_filter.D_GE, diag_filter.D_LE),
        )
        for condition in _conditions(ports, least, most)
    ]
    bytecode = assemble(Branch("and", leaves)) if leaves else b""
    return build_tcp_dump(family, CONNECTIONS_MASK, 0, bytecode or b"")


def _conditions(ports: tuple[int, int], least: int, most: int) -> list[Condition]:
    if ports == ALL_PORTS:
        return []
    return [port_condition(least, ports[0]), port_condition(most, ports[1])]


class Dump:
    """One walk. cookies: in order, each once; states, inodes: of them. begun_ns, ended_ns: CLOCK_MONOTONIC. is_whole: whether
    it fitted into one receive, so that the kernel has not let go of its place in between. It uses the buffers that it was
    given: `details` answers until the next walk.

    Raises SourceError and its kin.
    """

    def __init__(self, diag: socket, request: bytes, buffers: list[memoryview]) -> None:
        self._parts: list[tuple[memoryview, DiagBuffer, int, int]] = []  # buffer, its messages, walked from and to
        self._receives = 0
        self.begun_ns = self._before_ns = time.monotonic_ns()
        send_request(diag, request)
        self._receive(diag, buffers)
        self.ended_ns = time.monotonic_ns()
        self.is_whole = self._receives <= 2  # the end has one of its own
        batches = [decode_buffer(buffer, part, ("inode",), {}) for buffer, part, _, _ in self._parts]
        cookies, states, inodes = (
            np.concatenate([np.zeros(0, dtype), *(batch.column(name).values for batch in batches)])
            for name, dtype in (("cookie", "u8"), ("state", "u1"), ("inode", "u4"))
        )
        self.cookies, self._places = np.unique(cookies, return_index=True)
        self.states, self.inodes = states[self._places], inodes[self._places]

    def _receive(self, diag: socket, buffers: list[memoryview]) -> None:
        """A part is walked over while the one before it is received (netlink_recvmsg)."""
        done, number = False, 0
        while not done:
            if number == len(buffers):
                buffers.append(memoryview(bytearray(LATER_BYTES if number else FIRST_BYTES)))
            buffer, length, walked_ns = buffers[number], 0, self._before_ns
            received = 1
            while received and length + BUFFER_BYTES <= len(buffer):
                self._before_ns = time.monotonic_ns()
                received = receive_into(diag, buffer[length:])
                self._receives += bool(received)
                length += received
            received_ns = time.monotonic_ns()
            part = DiagBuffer(buffer, length)
            raise_for_errno(part.errno)
            done = part.done
            if not received and not done:
                raise SourceError(END_MISSING)
            if len(part.offsets):
                self._parts.append((buffer[:length], part, walked_ns, received_ns))
            number += 1

    def details(self, positions: Array) -> Array:
        """An array of SEEN of the sockets at `positions`, in that order."""
        found = np.zeros(len(positions), dtype=SEEN)
        places = self._places[positions]
        first = 0
        for buffer, part, from_ns, to_ns in self._parts:
            count = len(part.offsets)
            here = np.flatnonzero((places >= first) & (places < first + count))
            if len(here):
                here = here[np.argsort(places[here])]  # in the buffer's order
                chosen = copy.copy(part)
                rows = places[here] - first
                chosen.offsets, chosen.lengths = part.offsets[rows], part.lengths[rows]
                found[here] = seen_of(decode_buffer(buffer, chosen, COLUMNS, {}), from_ns, to_ns)
            first += count
        return found


def seen_of(batch: Batch, from_ns: int, to_ns: int) -> Array:
    """The rows of `batch` (with COLUMNS, cookie and state), which was made between the two times, as SEEN.

    A TIME_WAIT began 60 s before its timer runs out; the kernel tells what is left in its ticks, so that it may be one more or
    less.
    """
    found = ends_of(batch)
    found["state"], found["inode"] = batch.column("state").values, batch.column("inode").values
    found["is_mini"] = ~batch.column("shutdown").valid_mask()
    timed = (found["state"] == TIME_WAIT) & batch.column("expires_ms").valid_mask()
    left_ns = batch.column("expires_ms").values[timed].astype(np.int64) * 1_000_000
    latest = np.minimum(to_ns - TIME_WAIT_NS + left_ns + TICK_NS, to_ns)
    earliest = np.minimum(from_ns - TIME_WAIT_NS + left_ns - TICK_NS, latest)
    found["began_ns"][timed] = np.maximum(latest, 1)
    found["began_within_ns"][timed] = np.maximum(latest, 1) - np.maximum(earliest, 1)
    return found


def ends_of(batch: Batch) -> Array:
    """The cookies and ends of `batch` (with ENDS_COLUMNS) as SEEN."""
    found = np.zeros(batch.length, dtype=SEEN)
    for name in ("cookie", "family", "local_address", "local_port", "peer_address", "peer_port"):
        found[name] = batch.column(name).values
    interface = batch.column("interface")
    numbers = np.asarray([int(text) for text in interface.dictionary or ("0",)], dtype=np.uint32)
    found["interface"] = np.where(interface.valid_mask(), numbers[interface.values], 0)
    return found


def look_up(diag: socket, rows: Array) -> tuple[Array, Array]:
    """(which of them, an array of SEEN) of the sockets `rows` (cookie and ends as in SEEN) that there still are; where a cookie
    is 0, of whatever has its ends now, or of the listener that would. No walk, one call for many.

    Raises SourceError where the kernel gave no answer to one.
    """  # fmt: skip
    places, found = [np.zeros(0, dtype=np.intp)], [np.zeros(0, dtype=SEEN)]
    requests = _build_lookups(rows)
    for first in range(0, len(rows), TOGETHER):
        asked = requests[first : first + TOGETHER]
        buffer = memoryview(bytearray(BUFFER_BYTES + (len(asked) << 9)))
        from_ns = time.monotonic_ns()
        send_request(diag, asked.tobytes())
        length, answers = 0, 0
        while answers < len(asked) and (received := receive_into(diag, buffer[length:])):
            length += align(received)
            answers += 1
        to_ns = time.monotonic_ns()
        if answers < len(asked):
            raise SourceError(NOT_ANSWERED)
        part = DiagBuffer(buffer, length)
        if part.errno != ENOENT:
            raise_for_errno(part.errno)
        if len(part.offsets):
            places.append(np.frombuffer(buffer[:length], dtype=np.uint32)[part.offsets // 4 + SEQUENCE_WORD])
            found.append(seen_of(decode_buffer(buffer[:length], part, COLUMNS, {}), from_ns, to_ns))
    return np.concatenate(places).astype(np.intp), np.concatenate(found)


def _build_lookups(rows: Array) -> Array:
    """A request for each of `rows`, numbered by its sequence, and answered with ENOENT where another socket is there now."""
    requests = np.zeros(len(rows), dtype=_REQUEST)
    requests["length"], requests["type"], requests["flags"] = _REQUEST.itemsize, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST
    requests["sequence"] = np.arange(len(rows))
    requests["protocol"], requests["states"] = IPPROTO_TCP, ALL_STATES_MASK
    for name in ("family", "local_port", "peer_port", "local_address", "peer_address", "interface"):
        requests[name] = rows[name]
    cookies = np.where(rows["cookie"] == 0, NO_COOKIE, rows["cookie"])
    requests["cookie"][:, 0], requests["cookie"][:, 1] = cookies & np.uint64(0xFFFFFFFF), cookies >> np.uint64(32)
    return requests
