"""What the doctor looks at: a namespace's sockets at one moment, its counters and settings, who holds the sockets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from finwait.table.batch import Array, Batch
    from finwait.table.snapshot import Netns

# What rules read of a socket; the second row only tcp_info tells.
PLAIN_COLUMNS = (
    "state", "family", "local_address", "local_port", "peer_address", "peer_port", "recv_q", "send_q",
    "accept_queue_length", "accept_queue_limit", "timer", "expires_ms", "retransmits", "uid", "inode", "cookie", "cgroup_id",
)  # fmt: skip
INFO_COLUMNS = (
    "last_data_sent_ms", "last_data_recv_ms", "last_ack_recv_ms", "notsent_bytes", "bytes_received", "bytes_acked",
    "total_retrans", "segs_out", "rtt_us", "backoff",
)  # fmt: skip
LOOK_COLUMNS = PLAIN_COLUMNS + INFO_COLUMNS


@dataclass(slots=True)
class Look:
    """One network namespace at one moment. at_s: seconds of CLOCK_BOOTTIME; wall_s: since the epoch. rows: LOOK_COLUMNS, a row
    for each socket. counters: as the kernel's files name them, ``TcpExt.ListenOverflows``, ``sockstat.TCP.orphan``,
    ``conntrack.drop``. sysctls: of /proc/sys/net, ``ipv4.tcp_tw_reuse``. What the kernel lacks is not in them. explicit:
    cookies of the sockets that bind() gave a port of the ephemeral range; None where nobody asked.
    """  # fmt: skip

    netns: Netns
    at_s: float
    wall_s: float
    rows: Batch
    counters: Mapping[str, int] = field(default_factory=dict)
    sysctls: Mapping[str, str] = field(default_factory=dict)
    explicit: Array | None = None


@dataclass(slots=True)
class Holders:
    """Who holds the sockets of a look: for each descriptor the row of its socket, in order of rows. kinds: for each row why
    nobody holds it, or ``process``; None where that is not known.
    """  # fmt: skip

    rows: Array
    pids: Array
    fds: Array
    kinds: list[str | None]
    matched_by: str | None = None

    def of(self, row: int) -> slice:
        """Which of the descriptors are those of socket `row`."""
        first, last = np.searchsorted(self.rows, (row, row + 1)).tolist()
        return slice(first, last)

    def first_pids(self, count: int) -> Array:
        """For each of `count` sockets the first process that holds it, -1 where none does."""
        found: Array = np.full(count, -1, dtype=np.int64)
        found[self.rows[::-1]] = self.pids[::-1]
        return found


@dataclass(slots=True)
class Process:
    """A process that holds TCP sockets. descriptors: open ones of any kind; limit: its RLIMIT_NOFILE (soft); both None where
    they may not be seen. ghosts: its descriptors of TCP connections that have ended; ghosts_before: at the look before, None
    where there was none.
    """  # fmt: skip  # fmt: skip

    pid: int
    name: str | None
    descriptors: int | None = None
    limit: int | None = None
    ghosts: int = 0
    ghosts_before: int | None = None


@dataclass(slots=True)
class Host:
    """What is the same for all namespaces. processes: by process id. ghosts_seen: whether ghosts were told apart from sockets
    that were never connected. hidden: processes whose descriptors could not be looked at. settings: of the files of
    sysctl.d, (file, line, name, value).
    """  # fmt: skip

    processes: Mapping[int, Process] = field(default_factory=dict)
    ghosts_seen: bool = False
    hidden: int = 0
    settings: tuple[tuple[str, int, str, str], ...] = ()
    page_size: int = 4096
