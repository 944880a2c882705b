"""Text of `ss -tan` and its many flags, as iproute2 prints it (misc/ss.c: inet_show_sock, tcp_stats_print).

A row is `[Netid] State Recv-Q Send-Q Local:Port Peer:Port`, then details, on the same line or on lines that follow it.
"""

from __future__ import annotations

import re

from finwait.tcp.state import TcpState, parse_state
from finwait.wire.inet_diag import AF_INET, AF_INET6
from finwait.wire.records import SocketRecord
from finwait.wire.text_kind import (
    ANY_ADDRESS,
    SS_STATE_PATTERN,
    TextSurvey,
    in_family,
    ipv4_bytes,
    ipv6_bytes,
    is_name,
    is_other_protocol,
    read_lines,
    read_port,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Info = dict[str, int | float | str]

_LIKE_A_ROW = re.compile(
    rf"(?:(?:(?P<netid>[a-z][a-z0-9_]*)\s+)?(?:{SS_STATE_PATTERN})\s+[0-9]+\s+[0-9]+(?:\s|$)"
    rf"|tcp\s+(?:{SS_STATE_PATTERN})\s+[0-9])"
)
# `ss state X` leaves the state out
_WITHOUT_STATE = re.compile(r"(?:tcp\s+)?[0-9]+\s+[0-9]+\s+\S+:[^\s:]+\s+\S+:[^\s:]+(?:\s+(\S.*))?")
_ROW = re.compile(
    rf"(?:tcp\s+)?({SS_STATE_PATTERN})\s+([0-9]{{1,10}}\s+)([0-9]{{1,10}})\s+(\S+):([^\s:]+)\s+(\S+):([^\s:]+)(?:\s+(\S.*))?"
)
_BRACKETED = re.compile(r"\[([^][%]*:[^][%]*)(?:%([^][%]+))?\](?:%([^][%]+))?")
_STATE_BY_WORD = {state.ss: int(parse_state(state.ss)) for state in TcpState}

# Details, words of a row behind its addresses. Keys of tcp_info by ss's word: column, for a plain integer;
_COLUMN_BY_KEY = {
    "mss": "mss", "pmtu": "pmtu", "rcvmss": "rcvmss", "advmss": "advmss", "cwnd": "snd_cwnd", "ssthresh": "ssthresh",
    "bytes_sent": "bytes_sent", "bytes_retrans": "bytes_retrans", "bytes_acked": "bytes_acked",
    "bytes_received": "bytes_received", "segs_out": "segs_out", "segs_in": "segs_in", "data_segs_out": "data_segs_out",
    "data_segs_in": "data_segs_in", "lastsnd": "last_data_sent_ms", "lastrcv": "last_data_recv_ms",
    "lastack": "last_ack_recv_ms", "delivered": "delivered", "unacked": "unacked", "lost": "lost", "sacked": "sacked",
    "reordering": "reordering", "rcv_space": "rcv_space", "rcv_ssthresh": "rcv_ssthresh", "notsent": "notsent_bytes",
    "snd_wnd": "snd_wnd",
}  # fmt: skip
# for milliseconds (%g) that the column holds as microseconds;
_US_COLUMN_BY_KEY = {"rto": "rto_us", "ato": "ato_us", "rcv_rtt": "rcv_rtt_us", "minrtt": "min_rtt_us"}
# the same with `ms` and perhaps a percentage behind;
_TIME_COLUMN_BY_KEY = {
    "busy": "busy_time_us", "rwnd_limited": "rwnd_limited_us", "sndbuf_limited": "sndbuf_limited_us",
}  # fmt: skip
# for two integers; for bits a second in the following word.
_PAIR_COLUMNS_BY_KEY = {"wscale": (",", "snd_wscale", "rcv_wscale"), "retrans": ("/", "retrans", "total_retrans")}
_RATE_WORDS = ("pacing_rate", "delivery_rate")
_MEMORY_COLUMN_BY_LETTERS = {
    "skmem": {
        "r": "rmem_alloc", "rb": "rcvbuf", "t": "wmem_alloc", "tb": "sndbuf", "f": "fwd_alloc", "w": "wmem_queued",
        "o": "optmem", "bl": "backlog", "d": "drops",
    },
    "mem": {"r": "rmem_alloc", "w": "wmem_queued", "f": "fwd_alloc", "t": "wmem_alloc"},
}  # fmt: skip
# In LISTEN the kernel puts the accept queue's length and limit into these (tcp_get_info): they are rqueue and wqueue.
_NOT_IN_LISTEN = ("unacked", "sacked")

_OPTION_WORDS = ("ts", "sack", "ecn", "ecnseen", "fastopen")
_BEHIND_CONGESTION = "wscale|rto|backoff|rtt|ato|qack|mss|pmtu|cwnd"
_CONGESTION = re.compile(
    rf"(?:^|\s)(?:(?:{'|'.join(_OPTION_WORDS)})\s+){{0,5}}(?!(?:{'|'.join(_OPTION_WORDS)}|bidir)\s)([a-z][a-z0-9_-]{{0,14}})\s+(?:{_BEHIND_CONGESTION}):[0-9]"
)
_SOCKET_KEYS = "timer|uid|ino|sk|fwmark|cgroup|v6only|tos|tclass|class_id|skmem|mem"
_INFO_KEYS = "|".join(
    [*_COLUMN_BY_KEY, *_US_COLUMN_BY_KEY, *_TIME_COLUMN_BY_KEY, *_PAIR_COLUMNS_BY_KEY, "rtt", "backoff"]
)
_DETAILS = re.compile(
    rf"users:\(\(|inet-sockopt: \(|(?:{_SOCKET_KEYS}):[0-9a-f(/]|[<-]-[>-](?:\s|$)"
    rf"|(?:(?:{'|'.join(_OPTION_WORDS)})\s+){{0,5}}(?:[a-z][a-z0-9_-]*\s+)?(?:{_INFO_KEYS}):[0-9]"
)
_OWNER_END = re.compile(
    r'",(?:pid=)?([0-9]{1,7}),(?:tid=[0-9]{1,10},)?(?:proc_ctx=[^"()]*,)?(?:fd=)?([0-9]{1,9})(?:,sock_ctx=[^"()]*)?\)'
    r'(?:(,\(")|\)(?=\s|$))'
)
_CGROUP = re.compile(r"(?:^|\s)cgroup:")
_CGROUP_END = re.compile(r"\s(?=(?:v6only:[01]|[<-]-[>-])(?:\s|$))")
_TIMER = re.compile(r"\(([a-z]+|[0-9]{1,3}),([^,()]*),([0-9]{1,9})\)")
_TIME = re.compile(r"(?:([0-9]{1,7})min)?(?:([0-9]{1,7})sec|(?:([0-9]{1,7})\.)?([0-9]{1,7})ms)?")
_RATE = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,9})?(?:e\+0[0-9])?)([kKMGT]?)bps(?:/\S*)?")
_MILLISECONDS = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?(?:e[+-]0[0-9])?)")
_LIMITED = re.compile(r"([0-9]{1,18})ms(?:\([0-9.]{1,8}%\))?")
_INTEGER = re.compile(r"[0-9]{1,19}")
_MEMORY = re.compile(r"\(((?:[a-z]{1,2}[0-9]{1,10},?)+)\)")
_MEMORY_PART = re.compile(r"([a-z]+)([0-9]+)")

# `unknown` is what ss prints for every code above 4, and the kernel has one: 5, delayed ACK.
_TIMER_BY_WORD = {"off": 0, "on": 1, "keepalive": 2, "timewait": 3, "persist": 4, "unknown": 5, "delack": 5}
_TIMER_TIME_WAIT = 3
_MULTIPLE = {"": 1, "k": 1000, "K": 1000, "M": 1000_000, "G": 1000_000_000, "T": 1000_000_000_000}


def parse_ss(
    lines: Iterable[str], on_unread: Callable[[int, str], None], survey: TextSurvey | None = None
) -> Iterator[SocketRecord]:
    """Yield a record for each TCP row of ss's text, in order, in one pass and constant memory.

    Understood: every mixture of -a -n -H -o -p -e -m -i -O and --cgroup, rows with and without Netid, headers, quoting
    marks, fences, prose and rows of other protocols in between. `on_unread(line number from 1, line)` is called for a
    row of TCP that cannot be understood, also one of netstat or /proc/net/tcp; nothing is raised. Without Netid a row is
    taken for TCP, and `survey` counts those that may be UDP's: the text of `ss -uan` cannot be told from it. With one
    state asked for, ss prints no State column: such rows are unread, and counted.

    rqueue and wqueue are bytes, for LISTEN the accept queue's length and limit. An address is None where a name stands,
    a port where a service's name stands; family is None where two names leave it open. ``*`` is the any-address of an
    IPv6 socket (inet_addr_print), but of an IPv4 socket in iproute2 before 4.15; where the columns leave open which
    one printed it, address and family are None. expires_ms is as coarse as ss prints it (whole minutes from ten minutes
    on). timer is None where no timer is shown: ss shows none without -o. With -e, no `uid` means uid 0, except for
    mini-sockets, which have no owner. cookie is `sk`, or None. info: the columns of tcp_info and skmem in their units;
    ss leaves out what is zero.
    """
    survey = survey or TextSurvey("ss")
    style = _Style()
    record: SocketRecord | None = None
    for number, text, body, cut in read_lines(lines):
        like = _LIKE_A_ROW.match(body)
        if like is None and (not body or (record is not None and is_details(body))):
            if record is not None:
                read_details(record, body, cut)
            continue
        if record is not None:
            yield record
            record = None
        if like is None:
            style.read_header(body)
            if _is_lost(number, body, survey):
                on_unread(number, text)
        elif not is_other_protocol(like["netid"]):
            row = _ROW.fullmatch(body)
            record = _record_of(row, style, cut) if row is not None else None
            if row is None or record is None:
                on_unread(number, text)
            else:
                survey.read_ss_row(body.startswith("tcp"), record.state, is_unbound=row[7] == "*")
    if record is not None:
        yield record


def _is_lost(number: int, body: str, survey: TextSurvey) -> bool:
    """Whether a line without a word for a state is a row of TCP; what else it tells goes to `survey`."""
    plain = _WITHOUT_STATE.fullmatch(body)
    if plain is not None and (plain[1] is None or is_details(plain[1])):
        survey.without_state += 1
        return True
    return survey.read_other(number, body)


class _Style:
    """Whether ``*`` is IPv6's any-address (True, iproute2 since 4.15), IPv4's (False), or nobody can tell (None)."""

    is_new: bool | None = True

    def __init__(self) -> None:
        self._is_known = False

    def read_header(self, body: str) -> None:
        if "Recv-Q" in body and "Local Address:" in body:  # another output, perhaps of another ss
            self.is_new, self._is_known = True, body.endswith("Process")

    def read_row(self, row: re.Match[str]) -> None:
        """Learn from a row: old ones have no brackets, ``*`` beside IPv4, and ten columns for whatever state."""
        hosts = (row[4], row[6])
        if any(host.startswith(("[", "0.0.0.0")) for host in hosts):
            self.is_new, self._is_known = True, True
        elif any(":" in host or ("*" in hosts and ipv4_bytes(host.partition("%")[0])) for host in hosts):
            self.is_new, self._is_known = False, True
        elif not self._is_known:
            has_columns = row.end(2) - row.start(2) >= 7  # blanks were not folded
            self.is_new = None if has_columns and row.start(2) in (11, 17) else True


def _record_of(row: re.Match[str], style: _Style, cut: bool) -> SocketRecord | None:
    """The record of a row, None where it is not understood. `cut`: the last word may lack letters."""
    state = _STATE_BY_WORD.get(row[1])
    style.read_row(row)
    local = _endpoint(row[4], row[5], style)
    peer = _endpoint(row[6], row[7], style)
    if state is None or local is None or peer is None:
        return None
    family = local[0] or peer[0]
    if max(int(row[2]), int(row[3])) >= 1 << 32 or (peer[0] or family) != family:
        return None
    is_cut = cut and row[8] is None and row[7] != "*"
    record = SocketRecord(
        state=state,
        family=family,
        src=in_family(local[1], local[0], family),
        sport=local[3],
        dst=None if is_cut and ":" in row[6] and row[6][-1:] != "]" else in_family(peer[1], peer[0], family),
        dport=None if is_cut else peer[3],
        interface=local[2] or peer[2],
        rqueue=int(row[2]),
        wqueue=int(row[3]),
    )
    if row[8] is not None:
        read_details(record, row[8], cut)
    return record


def _endpoint(
    host: str, port_text: str, style: _Style
) -> tuple[int | None, bytes | None, str | None, int | None] | None:
    """(family, address, interface, port), each None where unknown; None for what is no endpoint at all."""
    is_port, port = read_port(port_text)
    if not is_port:
        return None
    bare, _, interface = host.partition("%")
    if host.startswith("["):
        inside = _BRACKETED.fullmatch(host)
        if inside is None:
            return None
        bare, interface = inside[1], inside[2] or inside[3] or ""
    if bare == "*":
        family = {True: AF_INET6, False: AF_INET, None: None}[style.is_new]
        address = None if family is None else ANY_ADDRESS[: 16 if family == AF_INET6 else 4]
    elif ":" in bare:
        family, address = AF_INET6, ipv6_bytes(bare)
    else:
        family, address = AF_INET, ipv4_bytes(bare)
        if address is None and is_name(bare):
            return None, None, interface or None, port
    return None if address is None and bare != "*" else (family, address, interface or None, port)


def is_details(body: str) -> bool:
    """Whether a line is one of ss's lines of details that follow a row, not prose."""
    return _DETAILS.match(body) is not None


def read_details(record: SocketRecord, text: str, cut: bool = False) -> None:
    """Fill in the details in `text`; what is there already stays. `cut`: the last word may lack letters."""
    if text.startswith("users:(("):
        text = _take_owners(record, text)
    text = _take_cgroup(record, text)
    info: Info = dict(record.info or {})
    congestion = _CONGESTION.search(text)
    if congestion:
        info.setdefault("congestion", congestion[1])
    words = text.split()
    if cut and words and not words[-1].endswith(")"):
        words.pop()
    for index, word in enumerate(words):
        key, _, value = word.partition(":")
        if word in _RATE_WORDS and index + 1 < len(words):
            _read_rate(info, word, words[index + 1])
        elif key in _MEMORY_COLUMN_BY_LETTERS:
            _read_memory(info, key, value)
        elif not _read_info(info, key, value):
            _read_socket_word(record, key, value)
    if record.state == TcpState.LISTEN:
        for column in _NOT_IN_LISTEN:
            info.pop(column, None)
    record.info = info or None


def _take_owners(record: SocketRecord, text: str) -> str:
    """Read `users:(("name",pid=1,fd=3),...)` at the beginning of `text`; return what follows it.

    A process may call itself nearly anything, so a name ends only where the whole pattern behind it follows, with the
    next owner or the end: fifteen letters of a name are too few to imitate that. Without an end, nothing is believed.
    """
    owners: list[tuple[str, int | None, int | None]] = []
    at = len('users:(("')
    while True:
        end = _OWNER_END.search(text, at)
        if end is None:
            return ""
        owners.append((text[at : end.start()], int(end[1]), int(end[2])))
        at = end.end()
        if end[3] is None:
            break
    if record.owners is None:
        record.owners = tuple(dict.fromkeys(owners))  # -T repeats an owner for each thread
    return text[at:].lstrip()


def _take_cgroup(record: SocketRecord, text: str) -> str:
    """Read `cgroup:PATH` out of `text`, where the path may have blanks; return the text without it."""
    begin = _CGROUP.search(text)
    if begin is None:
        return text
    end = _CGROUP_END.search(text, begin.end())
    if end is not None:
        path, rest = text[begin.end() : end.start()], text[end.end() :]
    else:
        path, _, rest = text[begin.end() :].partition(" ")
        rest = rest.lstrip()
        if rest and not is_details(rest):
            return text[: begin.start()]
    if record.cgroup is None and path.startswith("/"):  # ss says `unreachable:ID` for one that is gone
        record.cgroup = path
    return f"{text[: begin.start()]} {rest}".lstrip()


def _read_info(info: Info, key: str, value: str) -> bool:
    """Read a word of tcp_info into `info` if it is one and its value has its form."""
    if key in _COLUMN_BY_KEY:
        if _INTEGER.fullmatch(value):
            _put(info, _COLUMN_BY_KEY[key], int(value))
    elif key in _US_COLUMN_BY_KEY:
        _set_us(info, _US_COLUMN_BY_KEY[key], value)
    elif key in _TIME_COLUMN_BY_KEY:
        time = _LIMITED.fullmatch(value)
        if time:
            _put(info, _TIME_COLUMN_BY_KEY[key], int(time[1]) * 1000)
    elif key in _PAIR_COLUMNS_BY_KEY:
        separator, first_column, second_column = _PAIR_COLUMNS_BY_KEY[key]
        first, _, second = value.partition(separator)
        if _INTEGER.fullmatch(first) and _INTEGER.fullmatch(second):
            _put(info, first_column, int(first))
            _put(info, second_column, int(second))
    elif key == "rtt":
        smoothed, _, deviation = value.partition("/")
        if _set_us(info, "rtt_us", smoothed):
            _set_us(info, "rttvar_us", deviation)
    else:
        return False
    return True


def _put(info: Info, column: str, value: int) -> None:
    """The first word for a column counts; no column is wider than 64 bits."""
    if value < 1 << 63:
        info.setdefault(column, value)


def _set_us(info: Info, column: str, milliseconds: str) -> bool:
    if _MILLISECONDS.fullmatch(milliseconds) is None:
        return False
    _put(info, column, round(float(milliseconds) * 1000))
    return True


def _read_rate(info: Info, column: str, text: str) -> None:
    """Bits a second, plain (-n) or rounded to three digits with a unit, as bytes a second."""
    rate = _RATE.fullmatch(text)
    if rate:
        _put(info, column, round(float(rate[1]) * _MULTIPLE[rate[2]] / 8))


def _read_memory(info: Info, key: str, value: str) -> None:
    columns = _MEMORY_COLUMN_BY_LETTERS[key]
    memory = _MEMORY.fullmatch(value)
    for part in _MEMORY_PART.finditer(memory[1] if memory else ""):
        if part[1] in columns:
            _put(info, columns[part[1]], int(part[2]))


def _read_socket_word(record: SocketRecord, key: str, value: str) -> None:
    """Read a word of sock_details_print or tcp_timer_print into the record, unless it is there already."""
    if key == "timer" and record.timer is None:
        _read_timer(record, value)
    elif key == "uid" and record.uid is None and re.fullmatch(r"[0-9]{1,10}", value):
        record.uid = int(value) if int(value) < 1 << 32 else None
    elif key == "ino" and record.inode is None and re.fullmatch(r"[0-9]{1,18}", value):
        record.inode = int(value) or None
        if record.uid is None and not _is_mini(record):
            record.uid = 0
    elif key == "sk" and record.cookie is None and re.fullmatch(r"[0-9a-f]{1,16}", value):
        record.cookie = int(value, 16) or None
    elif key == "fwmark" and record.mark is None and re.fullmatch(r"0x[0-9a-f]{1,8}", value):
        record.mark = int(value, 16)
    elif key == "v6only" and record.v6only is None and value in ("0", "1"):
        record.v6only = value == "1"


def _is_mini(record: SocketRecord) -> bool:
    """Whether the socket is a mini-socket: without inode, and of a state or with a timer of mini-sockets."""
    is_state = record.state in (TcpState.TIME_WAIT, TcpState.FIN_WAIT2, TcpState.SYN_RECV)
    return record.inode is None and (is_state or record.timer == _TIMER_TIME_WAIT)


def _read_timer(record: SocketRecord, value: str) -> None:
    timer = _TIMER.fullmatch(value)
    if timer is None:
        return
    code = int(timer[1]) if timer[1].isdigit() else _TIMER_BY_WORD.get(timer[1])
    if code is None:
        return
    record.timer = code
    record.retrans = int(timer[3])
    time = _TIME.fullmatch(timer[2])  # print_ms_timer; empty for 0
    if time and code:
        minutes, seconds, before_point, milliseconds = (int(part or 0) for part in time.groups())
        record.expires_ms = minutes * 60_000 + (seconds + before_point) * 1000 + milliseconds
