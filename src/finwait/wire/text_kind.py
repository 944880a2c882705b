"""Text that people paste: which program printed it, and what all such text shares (quoting marks, cut ends, addresses).

Nothing here trusts its input: it comes from tickets, chats and mails, quoted, fenced, indented and cut.
Formats: ss(8) of iproute2 (misc/ss.c), netstat(8) of net-tools (netstat.c), Documentation/networking/proc_net_tcp.rst.
"""

from __future__ import annotations

import re

from finwait.tcp.state import TcpState
from finwait.wire.inet_diag import AF_INET, AF_INET6, MAPPED_PREFIX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ANY_ADDRESS = bytes(16)

_PASTE_MARKS = "> \t\r\n\v\f\xa0\u200b\u3000\ufeff"
_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9_.+/-]+")  # of a host or a service: never all digits and dots
_HEX_GROUP = re.compile(r"[0-9A-Fa-f]{1,4}")
_OCTET = re.compile(r"0|[1-9][0-9]{0,2}")
_PORT = re.compile(r"[0-9]{1,5}")

# The words of ss's State column (misc/ss.c, sstate_name); the last two are ss's own admission that it does not know.
SS_STATE_PATTERN = "|".join([*(re.escape(state.ss) for state in TcpState), "UNKNOWN", "UNDEF"])

# Words of ss's Netid (misc/ss.c, proto_name and its neighbours) and netstat's Proto for what is not TCP.
_OTHER_PROTOCOL = re.compile(
    r"nl|xdp|(?:udp|udpl|udplite|raw|sctp|dccp|icmp)6?|mptcp6?|unix|[upv]_[a-z]{3}|ti_[a-z]{2}|\?\?\?"
)
# Two numbers and two endpoints, behind two words at most (Netid and State): whatever the words are, it is a socket.
_LIKE_A_SOCKET = re.compile(r"(?:(\S+)\s+(?:(\S+)\s+)?)??[0-9]+\s+[0-9]+\s+\S+:[^\s:]+\s+\S+:[^\s:]+(?:\s|$)")

_PROC_ROW = re.compile(r"[0-9]+: ([0-9A-F]{8}(?:[0-9A-F]{24})?):[0-9A-F]{4} [0-9A-F]{8,32}:[0-9A-F]{4} [0-9A-F]{2} ")
_HEADER = re.compile(r"sl\s|Proto\s|Netid\s|State\s|Recv-Q\s")
_KIND_PATTERNS = (
    ("proc_net_tcp6", re.compile(r"sl\s+local_address\s+remote_address\s")),
    ("proc_net_tcp", re.compile(r"sl\s+local_address\s+rem_address\s")),
    ("netstat", re.compile(r"tcp[46]?\s+[0-9]+\s+[0-9]+\s+\S+:[^\s:]+\s+\S+:[^\s:]+\s+[A-Z]")),
    ("netstat", re.compile(r"Proto\s+Recv-Q\s+Send-Q\s")),
    ("ss", re.compile(rf"(?:[a-z][a-z0-9_]*\s+)?(?:{SS_STATE_PATTERN})\s+[0-9]+\s+[0-9]+\s+\S")),
    ("ss", re.compile(r"(?:Netid\s+)?(?:State\s+)?Recv-Q\s+Send-Q\s+Local Address:")),
)


def detect_text_kind(sample: str) -> str | None:
    """Which program printed `sample`: "proc_net_tcp", "proc_net_tcp6", "netstat", "ss", or None where no line tells.

    `sample` is the beginning of the text, some thousand characters; the first line that is a header or a row of a known
    format decides. A byte order mark, quoting marks, prompts, fences and prose before it do no harm. Raises nothing.
    """
    for line in sample.split("\n"):
        kind = _kind_of_line(strip_paste_marks(line))
        if kind is not None:
            return kind
    return None


def _kind_of_line(body: str) -> str | None:
    """The kind of text that a line is a header or a row of."""
    row = _PROC_ROW.match(body)
    if row is not None:
        return "proc_net_tcp" if len(row[1]) == 8 else "proc_net_tcp6"
    for kind, pattern in _KIND_PATTERNS:
        if pattern.match(body):
            return kind
    return None


class TextSurvey:
    """What a text is beside its rows: counters that a parser fills in, for whoever reads the text to tell.

    kind: "ss", "netstat" or "proc_net_tcp", what the parser reads. other_line: number of the line where another kind
    begins, which is not read, or None; other_rows: its rows of TCP. without_state: rows of ss without a State column.
    cut_addresses: those that netstat may have cut. tables: how often an output begins, by what one output may hold
    once (the families of /proc, else None).
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.other_line: int | None = None
        self.other_rows = self.without_state = self.cut_addresses = 0
        self.tables: dict[int | None, int] = {}
        self._table: int | None = -1  # no table yet
        self._maybe_udp = self._plain_rows = 0
        self._is_udp_possible, self._has_unbound = True, False

    @property
    def maybe_udp(self) -> int:
        """Rows in tables of ss that have UDP's two states and no other, and nothing that says TCP."""
        return self._maybe_udp + (self._plain_rows if self._is_udp_possible and self._has_unbound else 0)

    def begin_table(self) -> None:
        """A header: the rows that follow are of another table."""
        self._maybe_udp = self.maybe_udp
        self._plain_rows, self._is_udp_possible, self._has_unbound = 0, True, False
        self._table = -1

    def read_row(self, part: int | None = None) -> None:
        """A row that was read, of this part of an output."""
        if part != self._table:
            self._table = part
            self.tables[part] = self.tables.get(part, 0) + 1

    def read_ss_row(self, is_said_tcp: bool, state: int, is_unbound: bool) -> None:
        """The same of ss. is_said_tcp: Netid says so. is_unbound: no peer."""
        self.read_row()
        self._plain_rows += 1
        self._is_udp_possible &= not is_said_tcp and state in (TcpState.CLOSE, TcpState.ESTABLISHED)
        self._has_unbound |= is_unbound and state == TcpState.CLOSE

    def read_other(self, number: int, body: str) -> bool:
        """Look at a line that is no row of this kind; whether it is one of TCP all the same, that would be lost."""
        kind = (_kind_of_line(body) or "").removesuffix("6")
        if kind == self.kind and _HEADER.match(body):
            self.begin_table()
            return False
        is_row = is_like_a_row(body)
        if kind and kind != self.kind:
            is_row |= not _HEADER.match(body) and not is_other_protocol(body.split(None, 1)[0])
            self.other_line = self.other_line or number
            self.other_rows += is_row
        return is_row


def is_like_a_row(body: str) -> bool:
    """Whether a line has two numbers and two endpoints as rows of ss and netstat have, and no word says another protocol."""
    row = _LIKE_A_SOCKET.match(body)
    return row is not None and not is_other_protocol(row[1]) and not is_other_protocol(row[2])


def is_other_protocol(word: str | None) -> bool:
    """Whether `word` is ss's or netstat's for a protocol that is not TCP."""
    return word is not None and _OTHER_PROTOCOL.fullmatch(word.lower()) is not None


def strip_paste_marks(line: str) -> str:
    """`line` without a byte order mark, ``>`` marks of quoting, and white space on both sides."""
    return line.lstrip(_PASTE_MARKS).rstrip()


def read_lines(lines: Iterable[str]) -> Iterator[tuple[int, str, str, bool]]:
    """Yield (line number from 1, line without its end, the same without paste marks, whether its end may be missing).

    A last line without an end of line, where lines before it had one, may have been cut in the middle of a word: what
    stands at its very end is not to be believed. Text that was split already (no line has an end) is believed.
    """
    ended = False
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\r\n")
        has_end = len(text) < len(line)
        yield number, text, strip_paste_marks(text), ended and not has_end and not text[-1:].isspace()
        ended = ended or has_end


def ipv4_bytes(text: str) -> bytes | None:
    """The 4 bytes of a dotted quad, each part decimal without leading zeros; None for anything else."""
    parts = text.split(".", 4)
    if len(parts) != 4 or not all(_OCTET.fullmatch(part) for part in parts):
        return None
    numbers = [int(part) for part in parts]
    return bytes(numbers) if max(numbers) < 256 else None


def ipv6_bytes(text: str) -> bytes | None:
    """The 16 bytes of IPv6 text (RFC 4291, section 2.2), without brackets and scope; None for anything else."""
    if len(text) > 45 or ":" not in text:
        return None
    if "." in text:
        before, _, quad = text.rpartition(":")
        last = ipv4_bytes(quad)
        if last is None:
            return None
        text = f"{before}:{last[:2].hex()}:{last[2:].hex()}"
    head, gap, tail = text.partition("::")
    left = head.split(":") if head else []
    right = tail.split(":") if tail else []
    missing = 8 - len(left) - len(right)
    if not all(_HEX_GROUP.fullmatch(group) for group in (*left, *right)) or (missing < 1 if gap else missing != 0):
        return None
    return bytes.fromhex("".join(group.zfill(4) for group in (*left, *["0"] * missing, *right)))


def read_port(text: str) -> tuple[bool, int | None]:
    """(whether `text` can stand for a port, its number): 0 for ``*``, None for a service's name: it is not resolved."""
    if text == "*":
        return True, 0
    if _PORT.fullmatch(text):
        port = int(text)
        return port < 65536, port if port < 65536 else None
    return is_name(text), None


def is_name(text: str) -> bool:
    """Whether `text` can be the name of a host or a service; numbers and dots alone cannot."""
    return _NAME.fullmatch(text) is not None


def in_family(address: bytes | None, found: int | None, family: int | None) -> bytes | None:
    """16 bytes for a record of `family` from an address text of family `found`: IPv4 in a socket of IPv6 is mapped."""
    if address is None or family is None:
        return None
    if found == AF_INET:
        return MAPPED_PREFIX + address if family == AF_INET6 else address + bytes(12)
    return address
