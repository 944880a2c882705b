"""Text of `netstat -ant` and its many flags, as net-tools prints it (netstat.c: tcp_do_one, finish_this_one).

netstat reads /proc/net/tcp and prints less than it reads: it cuts addresses at 22 characters unless told -W, names of
programs at 19, and knows no listener's limit. What it cut is unknown here, never guessed.
"""

from __future__ import annotations

import re

from finwait.tcp.state import TcpState
from finwait.wire.inet_diag import AF_INET, AF_INET6
from finwait.wire.records import SocketRecord
from finwait.wire.text_kind import (
    ANY_ADDRESS,
    TextSurvey,
    in_family,
    ipv4_bytes,
    ipv6_bytes,
    is_name,
    read_lines,
    read_port,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# netstat of Windows and of BSD begins its rows in the same way, and is not understood.
_LIKE_A_ROW = re.compile(r"tcp[46]?\s+(?:[0-9]+(?:\s|$)|\S+:[^\s:]+\s)", re.IGNORECASE)
_ROW = re.compile(
    r"(tcp6?)\s+([0-9]{1,10})\s+([0-9]{1,10})\s+(\S+):([^\s:]+)\s+(\S+):([^\s:]+)\s+([A-Z][A-Z0-9_]*)(?:\s+(\S.*))?"
)
_TIMER = re.compile(r"(?:^|\s)(\S+) \(([0-9]{1,20})\.([0-9]{2})/([0-9]{1,9})/([0-9]{1,9})\)$")
_USER_AND_INODE = re.compile(r"(?!-\s)([^\s/]+)\s+([0-9]{1,18})(?:\s+|$)")
_PROGRAM = re.compile(r"([0-9]{1,7})/(.*)", re.DOTALL)

_STATE_BY_WORD = {state.netstat: int(state) for state in TcpState}
# `unkn-4` is what net-tools printed before it had a word for the zero window probe. Other words are translations.
_TIMER_BY_WORD = {"off": 0, "on": 1, "keepalive": 2, "timewait": 3, "probe": 4, "unkn-4": 4, "unkn-5": 5}
_TIMER_TIME_WAIT = 3
_PROBE_TIMERS = (2, 4)
_MOST_MS = 1 << 32  # older kernels print the negative rest of an overdue timer as an unsigned long

# A text of exactly this width may have been cut: 23 by net-tools and BusyBox, 27 and 28 by the wider columns of old
# distributions. Only BusyBox and they print IPv6 in rows of `tcp`. A wider text proves that nothing is cut.
_CUT_WIDTHS = {"tcp6": (23,), "tcp": (23, 27, 28)}
_PROGRAM_WIDTH = 19  # PROGNAME_WIDTH - 1, of "PID/name"


def parse_netstat(
    lines: Iterable[str], on_unread: Callable[[int, str], None], survey: TextSurvey | None = None
) -> Iterator[SocketRecord]:
    """Yield a record for each TCP row of netstat's text, in order, in one pass and constant memory.

    Understood: every mixture of -a -n -p -o -e -W, headers in any language, quoting marks, fences, prose and rows of
    other protocols in between. `on_unread(line number from 1, line)` is called for a row of TCP that cannot be
    understood (a state in another language, a cut line, another system's netstat, a row of ss or /proc/net/tcp);
    nothing is raised. `survey` counts what was cut, headers, and what is not netstat's.

    rqueue and wqueue are bytes; for LISTEN rqueue is the accept queue's length and wqueue None, because net-tools shows
    /proc's 0 there. family is 10 for rows of ``tcp6`` (IPv4 in them is a mapped address and stored as such) and None
    where two names leave it open. An address is None where it is a name or may have been cut (a text of exactly 23
    characters and no wider one before it: ``fe80::1234:abcd:ef:8086`` could have gone on), a port where it is a
    service's name. retrans counts as inet_diag does: retransmissions for timer 1, probes for 2 and 4, else 0.
    expires_ms has a resolution of 10 ms. uid is None where netstat shows a name, and for mini-sockets: they have no
    owner. owners: (program, pid, None), one at most; netstat takes the program from the command line and cuts
    "pid/program" at 19 characters.
    """
    survey = survey or TextSurvey("netstat")
    is_wide = False
    for number, text, body, cut in read_lines(lines):
        if not _LIKE_A_ROW.match(body):
            is_wide = is_wide and not body  # other text may end one output and begin the next
            if survey.read_other(number, body):
                on_unread(number, text)
            continue
        row = _ROW.fullmatch(body)
        if row is not None and not is_wide:
            is_wide = _width(row) > max(_CUT_WIDTHS[row[1]])
        record = _record_of(row, is_wide, cut) if row is not None else None
        if row is None or record is None:
            on_unread(number, text)
            continue
        survey.read_row()
        survey.cut_addresses += (record.src is None and _is_address(row[4])) + (
            record.dst is None and _is_address(row[6])
        )
        yield record


def _is_address(host: str) -> bool:
    """Whether a text that gave no address is not a name nor ``*``: it may have been cut."""
    return ":" in host or ipv4_bytes(host) is not None


def _width(row: re.Match[str]) -> int:
    """Characters in the wider of the two addresses."""
    return max(row.end(5) - row.start(4), row.end(7) - row.start(6))


def _record_of(row: re.Match[str], is_wide: bool, cut: bool) -> SocketRecord | None:
    """The record of a row, None where it is not understood. `cut`: the last word may lack letters."""
    state = _STATE_BY_WORD.get(row[8])
    queues = int(row[2]), int(row[3])
    if (
        state is None or max(queues) >= 1 << 32 or (cut and row[9] is None and row[8] == "CLOSE")
    ):  # which may have been CLOSE_WAIT
        return None
    widths = () if is_wide else _CUT_WIDTHS[row[1]]
    local = _endpoint(row[4], row[5], row[1], widths)
    peer = _endpoint(row[6], row[7], row[1], widths)
    if local is None or peer is None:
        return None
    families = (local[0], peer[0])
    family = AF_INET6 if row[1] == "tcp6" or AF_INET6 in families else AF_INET if AF_INET in families else None
    record = SocketRecord(
        state=state,
        family=family,
        src=in_family(local[1], local[0], family),
        sport=local[3],
        dst=in_family(peer[1], peer[0], family),
        dport=peer[3],
        interface=local[2],
        rqueue=queues[0],
        wqueue=None if state == TcpState.LISTEN else queues[1],
    )
    tail = row[9] or ""
    if cut and not tail.endswith(")"):
        tail = (tail.rsplit(None, 1) if len(tail.split(None, 1)) > 1 else [""])[0]
    _read_tail(record, tail)
    return record


def _endpoint(
    host: str, port_text: str, protocol: str, cut_widths: tuple[int, ...]
) -> tuple[int | None, bytes | None, str | None, int | None] | None:
    """(family, address, interface, port), each None where unknown; None for what is no endpoint at all."""
    is_port, port = read_port(port_text)
    if not is_port:
        return None
    may_be_cut = len(host) + 1 + len(port_text) in cut_widths
    if may_be_cut and protocol == "tcp":
        port = None  # BusyBox cuts at the end of the text, net-tools in front of the port
    bare, _, interface = host.removeprefix("[").removesuffix("]").partition("%")
    if ":" in bare:
        address = ipv6_bytes(bare)
        if may_be_cut:
            return AF_INET6, None, None, port
        return None if address is None else (AF_INET6, address, interface or None, port)
    if bare == "*":  # old netstat's word for any address of the row's family
        return (AF_INET6, ANY_ADDRESS, None, port) if protocol == "tcp6" else (None, None, None, port)
    address = ipv4_bytes(bare)
    if may_be_cut:
        return None, None, None, port
    if address is None:
        return (None, None, None, port) if is_name(bare) else None
    return AF_INET, address, interface or None, port


def _read_tail(record: SocketRecord, tail: str) -> None:
    """Fill in what follows the state: User and Inode (-e), PID/Program name (-p), Timer (-o), as far as it is sure."""
    timer = _TIMER.search(tail)
    rest = tail[: timer.start()] if timer else tail
    user = _USER_AND_INODE.match(rest)
    start = user.end() if user else 0
    if timer and _PROGRAM.match(rest[start:]) and len(tail) - start <= _PROGRAM_WIDTH:
        timer, rest = None, rest[:start]  # a program that calls itself `x on (0.20/0/0)` fits in here: nothing is sure
    if timer:
        _read_timer(record, timer)
    if user:
        _read_user(record, user[1], int(user[2]))
    program = _PROGRAM.match(rest[start:])
    if program:
        text = program[0]
        if text[_PROGRAM_WIDTH : _PROGRAM_WIDTH + 1].isspace():
            text = text[:_PROGRAM_WIDTH]  # a security context (-Z) follows
        record.owners = ((text[program.start(2) :].rstrip(), int(program[1]), None),)


def _read_timer(record: SocketRecord, timer: re.Match[str]) -> None:
    code = _TIMER_BY_WORD.get(timer[1])
    if code is None:
        return
    record.timer = code
    expires_ms = int(timer[2]) * 1000 + int(timer[3]) * 10
    record.expires_ms = expires_ms if code and expires_ms < _MOST_MS else None
    record.retrans = int(timer[4]) if code == 1 else int(timer[5]) if code in _PROBE_TIMERS else 0


def _read_user(record: SocketRecord, user: str, inode: int) -> None:
    """Take over inode and a numeric uid, but not the zeros that /proc prints for mini-sockets."""
    record.inode = inode or None
    if re.fullmatch(r"[0-9]{1,10}", user) is None:
        return
    is_mini = inode == 0 and (
        record.state in (TcpState.TIME_WAIT, TcpState.SYN_RECV)
        or record.timer == _TIMER_TIME_WAIT
        or (record.state == TcpState.FIN_WAIT2 and user == "0")
    )
    record.uid = None if is_mini or int(user) >= 1 << 32 else int(user)
