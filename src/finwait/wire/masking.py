"""Addresses and names replaced by others, the same by the same, so that what is recorded can be shown to strangers.

IPv4 addresses become those of 198.18.0.0/15 (RFC 2544), IPv6 those of 2001:db8::/32 (RFC 3849), in the order in which they
come; loopback and the unspecified address stay, ports too: what a finding says depends on them.
"""

from __future__ import annotations

from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_HEADER = Struct("=I12x")  # struct nlmsghdr; its length counts itself
_FAMILY_AT = _HEADER.size  # idiag_family, the first byte of struct inet_diag_msg
_SOURCE_AT = _HEADER.size + 8  # behind family, state, timer, retrans and two ports
_AF_INET6 = 10
_V4_FIRST = int.from_bytes(bytes([198, 18, 0, 1]), "big")
_V4_MOST = (1 << 17) - 2
_V6_FIRST = int.from_bytes(bytes.fromhex("20010db8") + bytes(12), "big") + 1
_MAPPED = bytes(10) + b"\xff\xff"
_LOOPBACK_V6 = bytes(15) + b"\x01"


class Mask:
    """What replaces what. Each name keeps its kind: ``process-1``, ``netns-2``."""

    def __init__(self) -> None:
        self._v4: dict[bytes, bytes] = {}
        self._v6: dict[bytes, bytes] = {}
        self._names: dict[tuple[str, str], str] = {}

    def name(self, kind: str, name: str | None) -> str | None:
        """The other name of `name`; None stays."""
        if name is None:
            return None
        number = sum(known == kind for known, _ in self._names) + 1
        return self._names.setdefault((kind, name), f"{kind}-{number}")

    def address_v4(self, address: bytes) -> bytes:
        """The other address of four bytes."""
        if address[0] == 127 or address == bytes(4):
            return address
        return self._v4.setdefault(address, (_V4_FIRST + len(self._v4) % _V4_MOST).to_bytes(4, "big"))

    def address_v6(self, address: bytes) -> bytes:
        """The other address of sixteen bytes; of a mapped IPv4 address the mapped other."""
        if address.startswith(_MAPPED):
            return _MAPPED + self.address_v4(address[12:])
        if address in {_LOOPBACK_V6, bytes(16)}:
            return address
        return self._v6.setdefault(address, (_V6_FIRST + len(self._v6)).to_bytes(16, "big"))

    def messages(self, messages: bytes) -> bytes:
        """inet_diag messages, one behind the other with their padding, with other addresses."""
        masked = bytearray(messages)
        at = 0
        while at + _HEADER.size <= len(masked):
            length = _HEADER.unpack_from(masked, at)[0]
            self._replace(masked, at)
            at += (length + 3) & ~3
        return bytes(masked)

    def _replace(self, masked: bytearray, at: int) -> None:
        is_v6 = masked[at + _FAMILY_AT] == _AF_INET6
        size = 16 if is_v6 else 4
        other: Callable[[bytes], bytes] = self.address_v6 if is_v6 else self.address_v4
        for begin in (at + _SOURCE_AT, at + _SOURCE_AT + 16):
            masked[begin : begin + size] = other(bytes(masked[begin : begin + size]))
