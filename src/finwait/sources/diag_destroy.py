"""What the kernel tells of a TCP socket that it frees: the destroy groups of NETLINK_SOCK_DIAG (Linux 4.2).

Whoever may open the socket may join them (net/core/sock_diag.c, sock_diag_broadcast_destroy). A notice has the socket's ends,
its cookie and its last struct tcp_info; its state is CLOSED, and of what remains of it as a timewait socket it says nothing.
"""

from __future__ import annotations

import os
import select
import time
from _socket import SO_RCVBUF, SOL_SOCKET, socket
from struct import Struct
from threading import Event, Lock, Thread

import numpy as np

from finwait.errors import NotSupported, SourceError
from finwait.sources.diag_changes import ENDED, SEEN
from finwait.sources.diag_columns import DiagBuffer, decode_buffer
from finwait.sources.diag_dump import ENDS_COLUMNS, ends_of
from finwait.sources.sock_diag import open_diag_socket
from finwait.wire.inet_diag import AF_INET, AF_INET6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from finwait.table.batch import Array

SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1
SO_RCVBUFFORCE, SO_MEMINFO = 33, 55
GROUPS = {AF_INET: 1, AF_INET6: 3}  # SKNLGRP_INET_TCP_DESTROY, SKNLGRP_INET6_TCP_DESTROY
ROOM_BYTES = 16 << 20  # a notice takes 1280 of them
PAUSE_S = 0.002  # between two readings, so that many notices wake the reader once
TOGETHER = 256  # notices of one time
NOTICE_BYTES = 4096
ENOBUFS = 105
_NONE = np.zeros(0, dtype=ENDED)
_MEMINFO = Struct("=9I")  # SK_MEMINFO_*; the last is how many datagrams found no room
_LIFE = {
    "bytes_acked": "bytes_acked",
    "bytes_received": "bytes_received",
    "srtt_us": "rtt_us",
    "total_retrans": "total_retrans",
}


def open_group_socket(family: int | None) -> socket:
    """A socket that receives the notices of the calling thread's network namespace, of one family or both.

    Raises NotSupported, NotPermitted, SourceError.
    """
    group = open_diag_socket()
    try:
        group.bind((0, 0))  # the kernel's own address is 0 too, and nobody hears himself
        for one in GROUPS.values() if family is None else (GROUPS[family],):
            group.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, one)
        _make_room(group)
        group.setblocking(False)
    except OSError as error:
        group.close()
        reason = os.strerror(error.errno or 0)
        raise NotSupported(
            "this kernel does not tell the ends of sockets (Linux 4.2): {reason}", reason=reason
        ) from error
    return group


def _make_room(group: socket) -> None:
    """As much as the administrator lets everybody have (net.core.rmem_max), or as CAP_NET_ADMIN may."""
    for option in (SO_RCVBUFFORCE, SO_RCVBUF):
        try:
            group.setsockopt(SOL_SOCKET, option, ROOM_BYTES)
        except OSError:
            continue
        return


class DestroyNotices:
    """Reads `groups` by a thread, so that notices find room and have the time at which they came. Whoever opened the groups
    closes them after it.
    """  # fmt: skip

    def __init__(self, groups: Sequence[socket]) -> None:
        self.lost = 0  # at least
        self._groups = list(groups)
        self._drops = [_drops_of(group) for group in self._groups]
        self._read: list[list[tuple[int, int, bytes]]] = [[] for _ in self._groups]  # time, length, notices
        self._lock = Lock()
        self._error: BaseException | None = None
        self._ended = Event()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = Thread(target=self._work, name="finwait-ends", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        poll = select.poll()
        for descriptor in (self._wake, *(group.fileno() for group in self._groups)):
            poll.register(descriptor, select.POLLIN)
        try:
            while not self._ended.is_set():
                poll.poll()
                with self._lock:
                    self._drain()
                self._ended.wait(PAUSE_S)
        except BaseException as error:  # noqa: BLE001 - carried to the reader's thread
            self._error = error

    def _drain(self) -> None:
        for at, group in enumerate(self._groups):
            more = True
            while more:
                found, more = self._receive(at, group)
                if found:
                    content = b"".join(found)
                    self._read[at].append((time.monotonic_ns(), len(content), content))

    def _receive(self, at: int, group: socket) -> tuple[list[bytes], bool]:
        """(notices, whether there may be more)."""
        found: list[bytes] = []
        while len(found) < TOGETHER:
            try:
                found.append(group.recv(NOTICE_BYTES))
            except BlockingIOError:
                return found, False
            except OSError as error:
                if error.errno != ENOBUFS:
                    raise SourceError(
                        "{request} failed: {reason}",
                        request="recv from sock_diag",
                        reason=os.strerror(error.errno or 0),
                    ) from error
                drops = _drops_of(group)
                self.lost += max(drops - self._drops[at], 1)
                self._drops[at] = drops
        return found, True

    def take(self) -> list[Array]:
        """What came since the last time: for each group an array of ENDED, each cookie once, in order of cookies. Raises
        ParseError, SourceError.
        """  # fmt: skip
        with self._lock:
            if self._error is not None:
                raise self._error
            self._drain()
            read, self._read = self._read, [[] for _ in self._groups]
        return [ends_told(one) for one in read]

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)


def _drops_of(group: socket) -> int:
    try:
        return int(_MEMINFO.unpack(group.getsockopt(SOL_SOCKET, SO_MEMINFO, _MEMINFO.size))[-1])
    except OSError:  # before Linux 4.12
        return 0


def ends_told(read: Sequence[tuple[int, int, bytes]]) -> Array:
    """Notices as an array of ENDED, of each cookie the last, in order of cookies. read: (time of arrival, length, notices)."""
    content = b"".join(one for _, _, one in read)
    if not content:
        return _NONE
    buffer = memoryview(content)
    part = DiagBuffer(buffer, len(content))
    batch = decode_buffer(buffer, part, (*ENDS_COLUMNS, *_LIFE.values()), {})
    found = np.zeros(batch.length, dtype=ENDED)
    ends = ends_of(batch)
    for name in SEEN.names or ():
        found[name] = ends[name]
    for field, name in _LIFE.items():
        column = batch.column(name)
        found[field] = np.where(column.valid_mask(), column.values, 0)
    arrived_ns = np.asarray([at_ns for at_ns, _, _ in read], dtype=np.uint64)
    stops = np.cumsum([length for _, length, _ in read])
    found["at_ns"] = arrived_ns[np.searchsorted(stops, part.offsets, side="right")]
    backwards = found[::-1]
    return backwards[np.unique(backwards["cookie"], return_index=True)[1]]
