"""Every column that a connection can have, declared once: name, kind, unit, where the kernel keeps it, how it is titled.

Tables, the filter language, text, JSON, CSV, Arrow and the documentation are all made from this list. No NumPy here: the
filter parser needs it on the path of the plain count.
"""

from __future__ import annotations

from finwait.errors import UsageError
from finwait.text.messages import mark
from finwait.wire.inet_diag import INET_DIAG_CONG, INET_DIAG_INFO, INET_DIAG_SKMEMINFO

# Kinds: how a column's values are stored, compared and written.
NUMBER = "number"  # integer of `dtype`
STATE = "state"  # TcpState's number
FAMILY = "family"  # AF_INET 2 or AF_INET6 10
TIMER = "timer"  # idiag_timer
BOOL = "bool"
ADDRESS = "address"  # (n, 16) bytes, IPv4 in the first four
PORT = "port"
TEXT = "text"  # codes into the batch's dictionary
TIME = "time"  # nanoseconds since the epoch
DURATION = "duration"  # microseconds
ENDPOINT = "endpoint"  # address:port, made of two columns when shown


class Column:
    """One column. unit: as in ss and tcp_info, None for plain numbers. nullable: whether rows may not have it.

    origin: where sock_diag has it: ("msg", field), ("info", field), ("skmem", field), or None where it is derived. title:
    the heading in a text table.
    """

    __slots__ = ("description", "dtype", "kind", "name", "nullable", "origin", "title", "unit")

    def __init__(
        self,
        name: str,
        kind: str,
        description: str,
        *,
        dtype: str = "u4",
        unit: str | None = None,
        nullable: bool = False,
        origin: tuple[str, str] | None = None,
        title: str | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.description = description
        self.dtype = dtype
        self.unit = unit
        self.nullable = nullable
        self.origin = origin
        self.title = title or name.replace("_", "-").upper()

    @property
    def right_aligned(self) -> bool:
        """Whether text tables align it to the right."""
        return self.kind in {NUMBER, PORT, DURATION}

    def __repr__(self) -> str:
        return f"Column({self.name!r}, {self.kind!r})"


def _info(name: str, field: str, description: str, dtype: str = "u4", unit: str | None = None) -> Column:
    return Column(name, NUMBER, description, dtype=dtype, unit=unit, nullable=True, origin=("info", field))


def _memory(name: str, field: str, description: str) -> Column:
    return Column(name, NUMBER, description, unit="bytes", nullable=True, origin=("skmem", field))


COLUMNS: tuple[Column, ...] = (
    Column("state", STATE, mark("state of the connection"), dtype="u1", origin=("msg", "STATE")),
    Column("family", FAMILY, mark("family of the socket: inet or inet6"), dtype="u1", nullable=True, origin=("msg", "FAMILY")),
    Column("ip_version", NUMBER, mark("version of IP that is spoken: 4 also for mapped addresses"), dtype="u1", nullable=True),
    Column("local", ENDPOINT, mark("local address and port")),
    Column("peer", ENDPOINT, mark("address and port of the peer")),
    Column("local_address", ADDRESS, mark("local address"), nullable=True, origin=("msg", "SRC")),
    Column("local_port", PORT, mark("local port"), dtype="u2", nullable=True, origin=("msg", "SPORT")),
    Column("peer_address", ADDRESS, mark("address of the peer"), nullable=True, origin=("msg", "DST")),
    Column("peer_port", PORT, mark("port of the peer; 0 for a listener"), dtype="u2", nullable=True, origin=("msg", "DPORT")),
    Column("interface", TEXT, mark("device that the socket is bound to, or scope of its address"), nullable=True, origin=("msg", "IF")),
    Column("recv_q", NUMBER, mark("bytes that the program has not read yet; null for a listener"), unit="bytes", nullable=True, origin=("msg", "RQUEUE")),
    Column("send_q", NUMBER, mark("bytes that the peer has not acknowledged yet; null for a listener"), unit="bytes", nullable=True, origin=("msg", "WQUEUE")),
    Column("accept_queue_length", NUMBER, mark("connections that wait for accept(); listeners only"), unit="connections", nullable=True, origin=("msg", "RQUEUE"), title="ACCEPT-Q"),
    Column("accept_queue_limit", NUMBER, mark("the accept queue is full when its length exceeds this; listeners only"), unit="connections", nullable=True, origin=("msg", "WQUEUE"), title="ACCEPT-LIMIT"),
    Column("timer", TIMER, mark("timer that runs: on (retransmit), keepalive, time_wait, persist, delayed_ack, none"), dtype="u1", nullable=True, origin=("msg", "TIMER")),
    Column("expires_ms", NUMBER, mark("time until the timer fires"), unit="ms", nullable=True, origin=("msg", "EXPIRES")),
    Column("retransmits", NUMBER, mark("times that the timer's segment was sent again without an answer"), dtype="u1", nullable=True, origin=("msg", "RETRANS")),
    Column("uid", NUMBER, mark("user id of the socket's owner; null for TIME-WAIT and half-open ones"), nullable=True, origin=("msg", "UID")),
    Column("inode", NUMBER, mark("inode of the descriptor; null where no program holds one"), nullable=True, origin=("msg", "INODE")),
    Column("cookie", NUMBER, mark("the kernel's identity of the socket (SO_COOKIE), never used again until reboot"), dtype="u8", nullable=True, origin=("msg", "COOKIE")),
    Column("mark", NUMBER, mark("fwmark (SO_MARK); seen with CAP_NET_ADMIN only"), nullable=True, origin=("attribute", "MARK")),
    Column("cgroup_id", NUMBER, mark("cgroup of the socket's creator: inode of its cgroup v2 directory"), dtype="u8", nullable=True, origin=("attribute", "CGROUP_ID")),
    Column("cgroup", TEXT, mark("path of that cgroup below its mount point"), nullable=True),
    Column("shutdown", NUMBER, mark("directions shut down: bit 1 receiving, bit 2 sending"), dtype="u1", nullable=True, origin=("attribute", "SHUTDOWN")),
    Column("v6only", BOOL, mark("whether an IPv6 listener refuses IPv4 (IPV6_V6ONLY)"), dtype="u1", nullable=True, origin=("attribute", "SKV6ONLY")),
    Column("process", TEXT, mark("name of the process that holds the socket"), nullable=True),
    Column("pid", NUMBER, mark("id of the process that holds the socket"), nullable=True),
    Column("fd", NUMBER, mark("descriptor of the socket in that process"), nullable=True),
    Column("owner_kind", TEXT, mark("process, or why there is none: not_accepted, time_wait, half_open, orphan, no_descriptor, not_permitted"), nullable=True),
    Column("matched_by", TEXT, mark("how the owner was found: task_file (BPF), proc_fd (/proc), cgroup_id (container and unit only), recording"), nullable=True),
    Column("user", TEXT, mark("name of the uid, or its number"), nullable=True),
    Column("container", TEXT, mark("container of the owner: its id's first 12 digits, or its name"), nullable=True),
    Column("unit", TEXT, mark("systemd unit of the owner"), nullable=True),
    Column("netns", TEXT, mark("network namespace by name, else net:[inode]"), nullable=True),
    Column("netns_cookie", NUMBER, mark("the kernel's identity of the network namespace (SO_NETNS_COOKIE)"), dtype="u8", nullable=True),
    Column("congestion", TEXT, mark("congestion control algorithm"), nullable=True, origin=("attribute", "CONG")),
    _info("rtt_us", "tcpi_rtt", mark("smoothed round-trip time"), unit="us"),
    _info("rttvar_us", "tcpi_rttvar", mark("mean deviation of the round-trip time"), unit="us"),
    _info("min_rtt_us", "tcpi_min_rtt", mark("least round-trip time"), unit="us"),
    _info("rcv_rtt_us", "tcpi_rcv_rtt", mark("round-trip time as the receiver sees it"), unit="us"),
    _info("rto_us", "tcpi_rto", mark("retransmission timeout"), unit="us"),
    _info("ato_us", "tcpi_ato", mark("delayed ACK timeout"), unit="us"),
    _info("backoff", "tcpi_backoff", mark("exponent by which the timeout has grown"), dtype="u1"),
    _info("mss", "tcpi_snd_mss", mark("segment size for sending"), unit="bytes"),
    _info("rcvmss", "tcpi_rcv_mss", mark("estimated segment size of the peer"), unit="bytes"),
    _info("advmss", "tcpi_advmss", mark("segment size that was advertised"), unit="bytes"),
    _info("pmtu", "tcpi_pmtu", mark("path MTU"), unit="bytes"),
    _info("snd_cwnd", "tcpi_snd_cwnd", mark("congestion window"), unit="segments"),
    _info("ssthresh", "tcpi_snd_ssthresh", mark("slow start threshold"), unit="segments"),
    _info("snd_wnd", "tcpi_snd_wnd", mark("window that the peer advertises"), unit="bytes"),
    _info("rcv_space", "tcpi_rcv_space", mark("receive buffer tuning target"), unit="bytes"),
    _info("rcv_ssthresh", "tcpi_rcv_ssthresh", mark("receive window clamp"), unit="bytes"),
    _info("unacked", "tcpi_unacked", mark("segments in flight"), unit="segments"),
    _info("sacked", "tcpi_sacked", mark("segments selectively acknowledged"), unit="segments"),
    _info("lost", "tcpi_lost", mark("segments thought lost"), unit="segments"),
    _info("retrans", "tcpi_retrans", mark("retransmitted segments in flight"), unit="segments"),
    _info("total_retrans", "tcpi_total_retrans", mark("segments retransmitted in the connection's life"), unit="segments"),
    _info("reordering", "tcpi_reordering", mark("reordering distance"), unit="segments"),
    _info("rcv_ooopack", "tcpi_rcv_ooopack", mark("segments received out of order"), unit="segments"),
    _info("last_data_sent_ms", "tcpi_last_data_sent", mark("time since data was sent"), unit="ms"),
    _info("last_data_recv_ms", "tcpi_last_data_recv", mark("time since data was received"), unit="ms"),
    _info("last_ack_recv_ms", "tcpi_last_ack_recv", mark("time since an ACK was received"), unit="ms"),
    _info("bytes_sent", "tcpi_bytes_sent", mark("bytes sent, retransmissions included"), dtype="u8", unit="bytes"),
    _info("bytes_retrans", "tcpi_bytes_retrans", mark("bytes retransmitted"), dtype="u8", unit="bytes"),
    _info("bytes_acked", "tcpi_bytes_acked", mark("bytes that the peer acknowledged"), dtype="u8", unit="bytes"),
    _info("bytes_received", "tcpi_bytes_received", mark("bytes received and acknowledged"), dtype="u8", unit="bytes"),
    _info("segs_out", "tcpi_segs_out", mark("segments sent"), unit="segments"),
    _info("segs_in", "tcpi_segs_in", mark("segments received"), unit="segments"),
    _info("data_segs_out", "tcpi_data_segs_out", mark("segments with data sent"), unit="segments"),
    _info("data_segs_in", "tcpi_data_segs_in", mark("segments with data received"), unit="segments"),
    _info("delivered", "tcpi_delivered", mark("segments delivered"), unit="segments"),
    _info("notsent_bytes", "tcpi_notsent_bytes", mark("bytes written by the program and not sent yet"), unit="bytes"),
    _info("pacing_rate", "tcpi_pacing_rate", mark("pacing rate"), dtype="u8", unit="bytes/s"),
    _info("delivery_rate", "tcpi_delivery_rate", mark("latest goodput"), dtype="u8", unit="bytes/s"),
    _info("busy_time_us", "tcpi_busy_time", mark("time with data in flight"), dtype="u8", unit="us"),
    _info("rwnd_limited_us", "tcpi_rwnd_limited", mark("time held up by the peer's window"), dtype="u8", unit="us"),
    _info("sndbuf_limited_us", "tcpi_sndbuf_limited", mark("time held up by the own send buffer"), dtype="u8", unit="us"),
    Column("snd_wscale", NUMBER, mark("window scale of the peer"), dtype="u1", nullable=True, origin=("info", "tcpi_wscale")),
    Column("rcv_wscale", NUMBER, mark("own window scale"), dtype="u1", nullable=True, origin=("info", "tcpi_wscale")),
    _memory("rmem_alloc", "SK_MEMINFO_RMEM_ALLOC", mark("memory of received data")),
    _memory("rcvbuf", "SK_MEMINFO_RCVBUF", mark("limit of memory for received data")),
    _memory("wmem_alloc", "SK_MEMINFO_WMEM_ALLOC", mark("memory of data handed to the device")),
    _memory("sndbuf", "SK_MEMINFO_SNDBUF", mark("limit of memory for data to send")),
    _memory("fwd_alloc", "SK_MEMINFO_FWD_ALLOC", mark("memory reserved for later use")),
    _memory("wmem_queued", "SK_MEMINFO_WMEM_QUEUED", mark("memory of data to send")),
    _memory("optmem", "SK_MEMINFO_OPTMEM", mark("memory of socket options")),
    _memory("backlog", "SK_MEMINFO_BACKLOG", mark("memory of segments not processed yet")),
    Column("drops", NUMBER, mark("segments dropped by the socket"), unit="segments", nullable=True, origin=("skmem", "SK_MEMINFO_DROPS")),
)  # fmt: skip

COLUMN_BY_NAME: dict[str, Column] = {column.name: column for column in COLUMNS}

# What a change of state has besides the columns of its connection. They are of no filter and no list.
CHANGE_COLUMNS: tuple[Column, ...] = (
    Column("at", TIME, mark("when the state changed"), dtype="i8", unit="ns"),
    Column(
        "from",
        STATE,
        mark("state that is left; null where nobody saw the connection before"),
        dtype="u1",
        nullable=True,
    ),
    Column("to", STATE, mark("state that is reached"), dtype="u1"),
    Column(
        "in_from_us",
        DURATION,
        mark("time in the state that is left; null where its begin was not seen"),
        dtype="i8",
        unit="us",
        nullable=True,
        title="TIME-IN-FROM",
    ),
    Column(
        "why",
        TEXT,
        mark("what made it change: an event of finwait explain; null where it cannot be told"),
        nullable=True,
    ),
    Column("error", TEXT, mark("error that the program is told"), nullable=True),
    Column(
        "evidence",
        TEXT,
        mark("how finwait knows: event (the kernel told it), inferred from the next one, or lookup (two looks differ)"),
    ),
    Column(
        "within_us",
        DURATION,
        mark("for so long before its time it may have happened; null where that is not known"),
        dtype="i8",
        unit="us",
        nullable=True,
        title="WITHIN",
    ),
)
# What a connection has at its end.
LIFETIME_COLUMNS: tuple[Column, ...] = (
    Column(
        "began",
        TIME,
        mark("when its first state began; null where that was not seen"),
        dtype="i8",
        unit="ns",
        nullable=True,
    ),
    Column("lasted_us", DURATION, mark("from then to its end"), dtype="i8", unit="us", nullable=True, title="LASTED"),
    Column("path", TEXT, mark("its states in order, and how long it was in each")),
    Column(
        "opened_by", TEXT, mark("local: connect() here; peer: a listener here got it; null: not seen"), nullable=True
    ),
    Column("closed_by", TEXT, mark("who closed first: local or peer; null: neither, or not seen"), nullable=True),
)
DECLARATION_BY_NAME: dict[str, Column] = {
    column.name: column for column in (*COLUMNS, *CHANGE_COLUMNS, *LIFETIME_COLUMNS)
}
ENDPOINT_PARTS: dict[str, tuple[str, str]] = {
    "local": ("local_address", "local_port"),
    "peer": ("peer_address", "peer_port"),
}
# other names of the same thing, as ss, netstat and people write them
ALIASES = {"recvq": "recv_q", "sendq": "send_q", "retrans_timer": "retransmits", "rtt": "rtt_us", "cwnd": "snd_cwnd",
           "lport": "local_port", "rport": "peer_port", "laddr": "local_address", "raddr": "peer_address",
           "ino": "inode", "user_id": "uid", "accept_q": "accept_queue_length", "accept_limit": "accept_queue_limit"}  # fmt: skip

TIMER_NAMES = ("none", "on", "keepalive", "time_wait", "persist", "delayed_ack")  # idiag_timer 0..5; the last is new
_TIMER_ALIASES = {"off": 0, "timewait": 3, "probe": 4, "unknown": 5, "retransmit": 1}
FAMILY_NAMES = {2: "inet", 10: "inet6"}

_EXTENSION_OF = {"info": 1 << (INET_DIAG_INFO - 1), "skmem": 1 << (INET_DIAG_SKMEMINFO - 1)}


def fold_name(word: str) -> str:
    """The column name that `word` spells, known or not: case and ``-`` do not matter."""
    folded = word.lower().replace("-", "_")
    return ALIASES.get(folded, folded)


def parse_column(word: str) -> Column:
    """The column that `word` names. Raises UsageError with the nearest right word."""
    column = COLUMN_BY_NAME.get(fold_name(word))
    if column is None:
        from difflib import get_close_matches

        near = get_close_matches(fold_name(word), list(COLUMN_BY_NAME), n=1, cutoff=0.5)
        if not near:
            raise UsageError("unknown column '{word}'; 'finwait list --help' names them all", word=word)
        raise UsageError("unknown column '{word}'; did you mean {nearest}?", word=word, nearest=near[0])
    return column


def parse_columns(words: str) -> tuple[Column, ...]:
    """The columns of a comma-separated list, each once. Raises UsageError for an unknown or empty one."""
    return tuple(dict.fromkeys(parse_column(word.strip()) for word in words.split(",")))


def parse_timer(word: str) -> int | None:
    """The kernel's number of the timer that `word` names (or is); None where it names none."""
    folded = word.lower().replace("-", "_")
    if folded in TIMER_NAMES:
        return TIMER_NAMES.index(folded)
    if folded.isascii() and folded.isdigit() and len(folded) <= 3 and int(folded) < 256:
        return int(folded)
    return _TIMER_ALIASES.get(folded)


def timer_name(number: int) -> str:
    """The machine word of timer `number`; a number that is not known yet stays a number."""
    return TIMER_NAMES[number] if number < len(TIMER_NAMES) else str(number)


def extensions_for(names: tuple[str, ...] | frozenset[str] | set[str]) -> int:
    """The mask of inet_diag extensions that the columns `names` need."""
    mask = 0
    for name in names:
        origin = COLUMN_BY_NAME[name].origin
        if origin is not None:
            mask |= _EXTENSION_OF.get(origin[0], 0)
        if name == "congestion":
            mask |= 1 << (INET_DIAG_CONG - 1)
    return mask
