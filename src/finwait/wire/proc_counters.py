"""The texts of the kernel's counters: /proc/net/snmp and netstat, sockstat, /proc/net/stat/nf_conntrack, /proc/PID/limits.

Documentation/networking/snmp_counter.rst, man 5 proc. Lines that are not as the format says are left out: an older kernel or a
container may cut the file anywhere, and each counter stands for itself.
"""  # fmt: skip

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

UNLIMITED = "unlimited"


def parse_snmp(text: str) -> dict[str, int]:
    """Counters by name with their group, as ``TcpExt.ListenDrops``, of pairs of lines: names, then numbers."""
    found: dict[str, int] = {}
    lines = text.splitlines()
    for names, numbers in zip(lines[::2], lines[1::2], strict=False):
        group, _, rest = names.partition(":")
        other, _, values = numbers.partition(":")
        if group == other:
            found.update(_numbers(group, rest.split(), values.split()))
    return found


def parse_sockstat(text: str) -> dict[str, int]:
    """Gauges by name, as ``sockstat.TCP.orphan``, of lines ``TCP: inuse 5 orphan 0``."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        group, _, rest = line.partition(":")
        words = rest.split()
        found.update(_numbers(f"sockstat.{group}", words[::2], words[1::2]))
    return found


def parse_conntrack_stat(text: str) -> dict[str, int]:
    """The sums over all processors, as ``conntrack.drop``, of a table of hexadecimal numbers with a line of titles; `entries`
    is not summed, each processor shows the same.
    """  # fmt: skip
    lines = [line.split() for line in text.splitlines()]
    found: dict[str, int] = {}
    for row in lines[1:]:
        for name, word in zip(lines[0], row, strict=False):
            if name != "entries" and all(digit in "0123456789abcdefABCDEF" for digit in word):
                found[f"conntrack.{name}"] = found.get(f"conntrack.{name}", 0) + int(word, 16)
    return found


def parse_open_files_limit(text: str) -> int | None:
    """The soft limit of open files in /proc/PID/limits; None where it has none or does not tell."""
    for line in text.splitlines():
        if line.startswith("Max open files"):
            word = line.split()[3:4]
            return int(word[0]) if word and word[0].isdigit() else None
    return None


def _numbers(group: str, names: list[str], values: list[str]) -> Iterator[tuple[str, int]]:
    for name, value in zip(names, values, strict=False):
        if value.removeprefix("-").isdigit() and value.isascii():
            yield f"{group}.{name}", int(value)
