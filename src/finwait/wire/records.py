"""The record that every row-by-row format yields (/proc/net/tcp, text of netstat and ss).

Fields have the kernel's names (struct inet_diag_msg in include/uapi/linux/inet_diag.h). None means "the format does not
say". Netlink buffers do not become records: they are read as columns (`finwait.sources.diag_columns`).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class SocketRecord:
    """One TCP socket as a text format tells it.

    family: AF_INET 2 or AF_INET6 10, or None where the text does not tell. state: kernel number 1..11.
    src, dst: 16 bytes, IPv4 in the first four and zeros behind it (as in struct inet_diag_sockid), or None where unknown
    (cut short by netstat, or a name). sport, dport: 0 for `*`, None where unknown.
    interface: name of the bound or scope device, or None. rqueue, wqueue: bytes, for LISTEN the accept queue's length
    and limit; wqueue is None where a format does not show the limit. timer: idiag_timer 0..5, expires_ms in milliseconds.
    owners: (process name, pid or None, descriptor or None) each. info: tcp_info and other values by column name,
    in the column's unit (rtt_us is microseconds).
    """

    __slots__ = (
        "cgroup", "cookie", "dport", "dst", "expires_ms", "family", "info", "inode", "interface", "mark", "owners",
        "retrans", "rqueue", "sport", "src", "state", "timer", "uid", "v6only", "wqueue",
    )  # fmt: skip

    def __init__(
        self,
        *,
        state: int,
        family: int | None = None,
        src: bytes | None = None,
        sport: int | None = None,
        dst: bytes | None = None,
        dport: int | None = None,
        interface: str | None = None,
        rqueue: int | None = None,
        wqueue: int | None = None,
        timer: int | None = None,
        retrans: int | None = None,
        expires_ms: int | None = None,
        uid: int | None = None,
        inode: int | None = None,
        cookie: int | None = None,
        mark: int | None = None,
        cgroup: str | None = None,
        v6only: bool | None = None,
        owners: tuple[tuple[str, int | None, int | None], ...] | None = None,
        info: Mapping[str, int | float | str] | None = None,
    ) -> None:
        self.state = state
        self.family = family
        self.src = src
        self.sport = sport
        self.dst = dst
        self.dport = dport
        self.interface = interface
        self.rqueue = rqueue
        self.wqueue = wqueue
        self.timer = timer
        self.retrans = retrans
        self.expires_ms = expires_ms
        self.uid = uid
        self.inode = inode
        self.cookie = cookie
        self.mark = mark
        self.cgroup = cgroup
        self.v6only = v6only
        self.owners = owners
        self.info = info

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SocketRecord):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ((name, getattr(self, name)) for name in self.__slots__)
        return f"SocketRecord({', '.join(f'{name}={value!r}' for name, value in shown if value is not None)})"
