"""Addresses, ports and numbers as ss's filter writes them (misc/ss.c, parse_hostcond; lib/utils.c, get_prefix_1)."""

from __future__ import annotations

from finwait.errors import UsageError
from finwait.query.expression import HostTest
from finwait.text.messages import mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    PortOfService = Callable[[str], int | None]

NOT_AN_ADDRESS = mark("'{word}' is no address: write ADDR, ADDR/PREFIX, ADDR:PORT, [ADDR]:PORT, :PORT or *")
_ANY = frozenset({"", "*", "any", "all", "default"})


def parse_integer(word: str) -> int | None:
    """A whole number as C's strtoul reads it with base 0: decimal, 0x hexadecimal, 0 octal. None for anything else."""
    try:
        if word[:1] == "0" and word.isdigit() and word.isascii():
            return int(word, 8)
        return int(word, 0) if word.isascii() and word[:1].isdigit() and "_" not in word else None
    except ValueError:
        return None


def parse_port(word: str, port_of_service: PortOfService) -> int | None:
    """The port that `word` names; None for ``*`` or nothing: any. Raises UsageError."""
    if word in {"", "*"}:
        return None
    port = parse_integer(word)
    if port is None:
        port = port_of_service(word)
    if port is None:
        raise UsageError("'{word}' is no port and no known service", word=word)
    if port > 0xFFFF:
        raise UsageError("'{word}' is no port: ports end at 65535", word=word)
    return port


def parse_host(side: str, word: str, port_of_service: PortOfService) -> HostTest:
    """``[inet:|inet6:]ADDR[/PREFIX][:PORT]``, ``*`` for any. Raises UsageError."""
    family = None
    rest = word
    for prefix, number in (("inet:", 2), ("inet6:", 10)):
        if rest.startswith(prefix):
            family, rest = number, rest[len(prefix) :]
            break
    host, port_word = _split_port(word, rest)
    port = parse_port(port_word, port_of_service)
    if host in _ANY:
        return HostTest(side, None, 0, port, family)
    address, prefix_length = _parse_prefix(host, word)
    if family is not None and (len(address) == 4) != (family == 2):
        raise UsageError(NOT_AN_ADDRESS, word=word)
    return HostTest(side, address, prefix_length, port, family)


def _split_port(word: str, rest: str) -> tuple[str, str]:
    """Address and port words. As in ss an IPv6 address with a port stands in brackets or has a prefix length."""
    if rest.startswith("["):
        host, bracket, behind = rest[1:].partition("]")
        if not bracket or (behind and behind[0] not in ":/"):
            raise UsageError(NOT_AN_ADDRESS, word=word)
        if behind.startswith("/"):
            length, _, port = behind[1:].partition(":")
            return f"{host}/{length}", port
        return host, behind[1:]
    if rest.startswith("*"):
        if rest[1:] and rest[1] != ":":
            raise UsageError(NOT_AN_ADDRESS, word=word)
        return "*", rest[2:]
    slash = rest.find("/")
    colon = rest.rfind(":", max(slash, 0))
    if colon < 0 or (slash < 0 and rest.count(":") > 1):
        return rest, ""
    return rest[:colon], rest[colon + 1 :]


def _parse_prefix(host: str, word: str) -> tuple[bytes, int]:
    text, slash, length_text = host.partition("/")
    address = parse_address(text)
    if address is None:
        raise UsageError(NOT_AN_ADDRESS, word=word)
    bits = len(address) * 8
    length = _prefix_length(length_text, bits) if slash else bits
    if length is None:
        raise UsageError("'{word}': the prefix length goes from 0 to {bits}", word=word, bits=bits)
    return address, length


def _prefix_length(text: str, bits: int) -> int | None:
    """A number of bits, or for IPv4 a netmask."""
    length = parse_integer(text)
    if length is None and bits == 32:
        netmask = parse_address(text)
        if netmask is not None and len(netmask) == 4:
            inverted = int.from_bytes(netmask, "big") ^ 0xFFFFFFFF
            if inverted & (inverted + 1) == 0:
                length = 32 - inverted.bit_length()
    return length if length is not None and length <= bits else None


def parse_address(text: str) -> bytes | None:
    """4 or 16 bytes in network order, or None. IPv4 is read as by iproute2 (lib/utils.c, get_addr_ipv4): it may be short,
    ``10.1`` is 10.1.0.0, and each number is one of C, ``0x0a.010`` is 10.8.0.0.
    """  # fmt: skip
    if ":" in text:
        from ipaddress import AddressValueError, IPv6Address

        try:
            return IPv6Address(text.partition("%")[0]).packed
        except (AddressValueError, ValueError):
            return None
    octets = [parse_integer(part) for part in text.split(".", 4)]
    known = [octet for octet in octets if octet is not None and octet < 256]
    return bytes(known) + bytes(4 - len(known)) if len(known) == len(octets) <= 4 else None
