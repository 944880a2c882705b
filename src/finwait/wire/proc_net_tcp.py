"""/proc/net/tcp and /proc/net/tcp6, the kernel's text of its TCP sockets.

Source: net/ipv4/tcp_ipv4.c get_tcp4_sock, get_openreq4, get_timewait4_sock and their twins in net/ipv6/tcp_ipv6.c;
Documentation/networking/proc_net_tcp.rst. There is no cookie, no interface, and no listener's limit in it.
"""

from __future__ import annotations

import re
from sys import byteorder

from finwait.errors import ParseError
from finwait.tcp.state import NEW_SYN_RECV, TcpState
from finwait.wire.inet_diag import AF_INET, AF_INET6
from finwait.wire.records import SocketRecord
from finwait.wire.text_kind import TextSurvey, read_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# One row. Where the kernel prints a number with a least width, more digits are no error. The five numbers behind the
# pointer (rto, ato, quick<<1|pingpong, snd_cwnd, ssthresh or a listener's Fast Open limit) stand in full sockets only.
_ROW = re.compile(
    r"\s*[0-9]+:\s+([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4})\s+([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4})"
    r"\s+([0-9A-F]{2})\s+([0-9A-F]{8}):([0-9A-F]{8})\s+([0-9A-F]{2}):([0-9A-F]{8,16})\s+([0-9A-F]{8})"
    r"\s+(-?[0-9]{1,10})\s+(-?[0-9]{1,10})\s+([0-9]{1,18})\s+[0-9]{1,10}\s+[0-9A-Za-z_()]+"
    r"(?:\s+[0-9]{1,20}\s+[0-9]{1,20}\s+[0-9]{1,10}\s+([0-9]{1,10})\s+(-?[0-9]{1,10}))?\s*"
)
_NUMBER = re.compile(r"[0-9]+:\s")
_MARKUP = re.compile(r"```|~~~|(?:\[[^\]]*\]|\S*)[$#](?:\s|$)")  # fences, and prompts as `root@host:~# cat ...`
_NETSTAT_TITLE = "Active Internet connections"  # stands in front of netstat's header

USER_HZ = 100  # every architecture's /proc counts in it (include/asm-generic/param.h), whatever the kernel's own HZ
_MS_PER_TICK = 1000 // USER_HZ
_MOST_TICKS = 1 << 31  # older kernels print the negative rest of an overdue timer as an unsigned long
_TIMER_RETRANSMIT = 1
_TIMER_TIME_WAIT = 3
_PROBE_TIMERS = (2, 4)  # keepalive, persist
_INFINITE_SSTHRESH = 0x7FFFFFFF  # TCP_INFINITE_SSTHRESH, include/net/tcp.h; printed as -1


def parse_proc_net_tcp(lines: Iterable[str], family: int) -> Iterator[SocketRecord]:
    """Yield a record for each row of /proc/net/tcp (`family` 2) or /proc/net/tcp6 (`family` 10), in order.

    `lines` is the file or any iterable of its lines. rqueue and wqueue are bytes; for LISTEN rqueue is the accept
    queue's length and wqueue None, because the file does not show the limit. expires_ms has the resolution of USER_HZ,
    10 ms, and is None where no timer runs. retrans counts as inet_diag does: retransmissions for timer 1, unanswered
    probes for the timers 2 and 4, else 0. info has snd_cwnd and ssthresh (segments; left out while infinite).

    Not every number in the file is a fact, and those that are not become None: inode 0; the uid of timewait
    mini-sockets, which is printed as 0; the uid of SYN_RECV without an inode. A request socket has no owner of its own:
    get_openreq4 prints its listener's uid, inet_diag prints 0 for the same socket.

    Headers, blank lines, code fences and lines of a prompt are skipped. Raises ParseError for any other line that is
    not a row of `family`: `offset` in characters from the beginning, `excerpt`, the argument `line`, counted from 1.
    """
    return _read_rows(lines, (family,), None, None)


def parse_pasted_proc(
    lines: Iterable[str], on_unread: Callable[[int, str], None], survey: TextSurvey | None = None
) -> Iterator[SocketRecord]:
    """The same of pasted text, where both files may stand: the digits of each row tell its family.

    Where text of ss or netstat begins, its rows are told to `on_unread` (line number from 1, line) and to `survey`, and
    whatever else is no row is passed over from there on.
    """
    return _read_rows(lines, (AF_INET, AF_INET6), on_unread, survey or TextSurvey("proc_net_tcp"))


def _read_rows(
    lines: Iterable[str],
    families: tuple[int, ...],
    on_unread: Callable[[int, str], None] | None,
    survey: TextSurvey | None,
) -> Iterator[SocketRecord]:
    offset = 0
    for number, text, body, cut in read_lines(lines):
        row = _ROW.fullmatch(text) or _ROW.fullmatch(body)
        record = _record_of(row, families, cut) if row is not None else None
        if record is not None:
            if survey is not None:
                survey.read_row(record.family)
            yield record
        elif body and not _MARKUP.match(body):
            if on_unread is not None and survey is not None and survey.read_other(number, body):
                on_unread(number, text)
            elif survey is not None and body.startswith(_NETSTAT_TITLE):
                pass
            elif not body.startswith("sl ") and (survey is None or survey.other_line is None or _NUMBER.match(body)):
                raise _not_a_row(number, offset, text)
        offset += len(text) + 1


def _record_of(row: re.Match[str], families: tuple[int, ...], cut: bool) -> SocketRecord | None:
    """The record of a row, None where its state is none or its family none of `families`. `cut`: the last number may
    lack digits.
    """
    family = AF_INET if len(row[1]) == 8 else AF_INET6
    if len(row[1]) != len(row[3]) or family not in families:
        return None
    state = int(row[5], 16)
    state = int(TcpState.SYN_RECV) if state == NEW_SYN_RECV else state
    if not 1 <= state <= 11:
        return None
    timer, ticks, inode = int(row[8], 16), int(row[9], 16), int(row[13])
    is_mini = timer == _TIMER_TIME_WAIT or (state == TcpState.SYN_RECV and inode == 0)
    retransmits, probes = int(row[10], 16), int(row[12])
    info: dict[str, int | float | str] = {}
    if row[14] is not None:
        info["snd_cwnd"] = int(row[14])
        ssthresh = int(row[15])
        if state != TcpState.LISTEN and 0 <= ssthresh < _INFINITE_SSTHRESH and not cut:
            info["ssthresh"] = ssthresh
    return SocketRecord(
        state=state,
        family=family,
        src=address_bytes(row[1]),
        sport=int(row[2], 16),
        dst=address_bytes(row[3]),
        dport=int(row[4], 16),
        rqueue=int(row[7], 16),
        wqueue=None if state == TcpState.LISTEN else int(row[6], 16),
        timer=timer,
        retrans=retransmits if timer == _TIMER_RETRANSMIT else max(probes, 0) if timer in _PROBE_TIMERS else 0,
        expires_ms=ticks * _MS_PER_TICK if timer != 0 and ticks < _MOST_TICKS else None,
        uid=None if is_mini else int(row[11]) & 0xFFFFFFFF,
        inode=inode or None,
        info=info or None,
    )


def address_bytes(digits: str, order: str = byteorder) -> bytes:
    """16 bytes in network order from 8 or 32 hexadecimal digits: 32-bit words printed in the host's `order`."""
    words = bytes.fromhex(digits)
    if order == "little":
        words = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
    return words.ljust(16, b"\0")


def _not_a_row(number: int, offset: int, text: str) -> ParseError:
    return ParseError(
        "line {line} is not a row of /proc/net/tcp: {excerpt}", offset=offset, excerpt=text[:80], line=number
    )


# The census. A row of tcp is `%4d: %08X:%04X %08X:%04X %02X ` and more, padded to 149 characters (TMPSZ - 1, seq_pad);
# a row of tcp6 has 32 digits for 8 and no padding. From row 10,000 on the number is wider and moves the rest.
_TCP_WIDTH = 150
_TCP_STATE = 30  # columns from the colon behind the row's number to the state, in tcp and in tcp6
_TCP6_STATE = 78
_SHORTEST_STRIDE = 64
_LINES_AT_ONCE = 1 << 18
_STATE_BY_COLUMN = {f" {state:02X} ".encode(): state for state in range(1, 13)}
_STATE_BY_DIGIT = b"123456789ABC"


def count_proc_states(data: bytes) -> dict[int, int]:
    """Count the rows of /proc/net/tcp or tcp6 by state, without records: {kernel number 1..11: rows}, no zeros.

    `data` is the file or any run of whole lines of it, with or without the header. Where the padded rows of tcp follow
    each other their states are one strided slice; other rows are looked at one by one. Raises ParseError for a line
    that is neither a header, blank nor a row: `offset` in bytes, `excerpt`, the argument `line`, counted from 1.
    """
    counts = [0] * 16
    at = 0
    while at < len(data):
        at = _count_stride(data, at, counts) or _count_lines(data, at, counts)
    counts[TcpState.SYN_RECV] += counts[NEW_SYN_RECV]
    return {state: counts[state] for state in range(1, 12) if counts[state]}


def _count_stride(data: bytes, at: int, counts: list[int]) -> int:
    """Count the rows of equal width and equal columns that begin at `at`; return where they end, or 0 if too few."""
    colon = data.find(b":", at, at + 16)
    if colon < 0 or data[at + _TCP_WIDTH - 1 : at + _TCP_WIDTH] != b"\n":
        return 0
    ends = data[at + _TCP_WIDTH - 1 : at + _TCP_WIDTH * 65536 : _TCP_WIDTH]
    rows = len(ends) - len(ends.lstrip(b"\n"))
    colons = data[colon : at + rows * _TCP_WIDTH : _TCP_WIDTH]
    rows = len(colons) - len(colons.lstrip(b":"))
    end = at + rows * _TCP_WIDTH
    before, tens, ones, after = (data[colon + _TCP_STATE + column - 1 : end : _TCP_WIDTH] for column in range(4))
    found = {digit: ones.count(digit) for digit in _STATE_BY_DIGIT}
    is_sure = before.count(b" ") == after.count(b" ") == tens.count(b"0") == sum(found.values()) == rows
    if rows < _SHORTEST_STRIDE or not is_sure or data.count(b"\n", at, end) != rows:
        return 0
    for digit, count in found.items():
        counts[int(chr(digit), 16)] += count
    return end


def _count_lines(data: bytes, at: int, counts: list[int]) -> int:
    """Count line by line from `at`, some hundred kilobytes of them; return where it stopped, always behind `at`."""
    is_first = at == 0 or data[at : at + 8].lstrip().startswith(b"sl")  # a header: a stride may follow it
    end = (data.find(b"\n", at if is_first else at + _LINES_AT_ONCE) + 1) or len(data)
    lines = data[at:end].split(b"\n")
    for index, line in enumerate(lines):
        colon = line.find(b":", 0, 16)
        column = colon + (_TCP_STATE if line[colon + 10 : colon + 11] == b":" else _TCP6_STATE)
        state = _STATE_BY_COLUMN.get(line[column - 1 : column + 3]) if colon > 0 else None
        if state is None:
            state = _state_of_line(line)
            if state is None:
                raise _no_state(data, at + sum(len(before) + 1 for before in lines[:index]))
        counts[state] += 1
    counts[0] = 0
    return end


def _state_of_line(line: bytes) -> int | None:
    """The state by splitting; 0 for a blank line or a header; None for anything else."""
    fields = line.split(None, 4)
    if not fields or fields[0] == b"sl":
        return 0
    if len(fields) < 5 or not fields[0].endswith(b":") or fields[1][-5:-4] != b":" or fields[2][-5:-4] != b":":
        return None
    return _STATE_BY_COLUMN.get(b" " + fields[3] + b" ")


def _no_state(data: bytes, offset: int) -> ParseError:
    end = data.find(b"\n", offset)
    line = data[offset : end if end >= 0 else len(data)]
    return ParseError(
        "line {line} is not a row of /proc/net/tcp: {excerpt}",
        offset=offset,
        excerpt=line[:80].decode("ascii", "backslashreplace"),
        line=data.count(b"\n", 0, offset) + 1,
    )
