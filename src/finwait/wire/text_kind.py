"""Text that people paste: which program printed it, and what all such text shares (quoting marks, cut ends, addresses).

Nothing here trusts its input: it comes from tickets, chats and mails, quoted, fenced, indented and cut.
Formats: ss(8) of iproute2 (misc/ss.c), netstat(8) of net-tools (netstat.c), Documentation/networking/proc_net_tcp.rst.
"""

from __future__ import annotations

import re

from finwait.tcp.state import TcpState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

AF_INET = 2
AF_INET6 = 10
MAPPED_PREFIX = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291, section 2.5.5.2
ANY_ADDRESS = bytes(16)

_PASTE_MARKS = "> \t\r\n\v\f\xa0\u200b\u3000\ufeff"
_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9_.+/-]+")  # of a host or a service: never all digits and dots
_HEX_GROUP = re.compile(r"[0-9A-Fa-f]{1,4}")
_OCTET = re.compile(r"0|[1-9][0-9]{0,2}")
_PORT = re.compile(r"[0-9]{1,5}")

# The words of ss's State column (misc/ss.c, sstate_name); the last two are ss's own admission that it does not know.
SS_STATE_PATTERN = "|".join([*(re.escape(state.ss) for state in TcpState), "UNKNOWN", "UNDEF"])

_PROC_ROW = re.compile(r"[0-9]+: ([0-9A-F]{8}(?:[0-9A-F]{24})?):[0-9A-F]{4} [0-9A-F]{8,32}:[0-9A-F]{4} [0-9A-F]{2} ")
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
        body = strip_paste_marks(line)
        row = _PROC_ROW.match(body)
        if row is not None:
            return "proc_net_tcp" if len(row[1]) == 8 else "proc_net_tcp6"
        for kind, pattern in _KIND_PATTERNS:
            if pattern.match(body):
                return kind
    return None


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
