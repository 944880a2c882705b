"""Masked recordings: other addresses of the same kind, the same for the same, and nothing else is changed."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network
from struct import Struct

from hypothesis import given
from hypothesis import strategies as st

from finwait.wire.masking import Mask

MESSAGE = Struct("=I12xBxxxHH16s16s8x")  # nlmsghdr, then inet_diag_msg up to the cookie
V4, V6 = st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)


def message(family: int, source: bytes, destination: bytes, *, rest: bytes = b"") -> bytes:
    length = MESSAGE.size + len(rest)
    return MESSAGE.pack(length, family, 80, 443, source, destination) + rest + bytes(-length % 4)


@given(st.lists(st.tuples(V4, V4), max_size=20))
def test_ipv4_becomes_benchmark_addresses(pairs: list[tuple[bytes, bytes]]) -> None:
    mask = Mask()
    seen: dict[bytes, bytes] = {}
    for pair in pairs:
        for address in pair:
            other = mask.address_v4(address)
            assert seen.setdefault(address, other) == other
            stays = address[0] == 127 or address == bytes(4)
            assert other == address if stays else IPv4Address(other) in ip_network("198.18.0.0/15")
    assert len(set(seen.values())) == len(seen) or any(value in seen for value in seen.values())


@given(V6)
def test_ipv6_becomes_documentation_addresses_or_a_mapped_one(address: bytes) -> None:
    other = IPv6Address(Mask().address_v6(address))
    if address.startswith(bytes(10) + b"\xff\xff"):
        assert other.ipv4_mapped is not None
    elif address not in {bytes(16), bytes(15) + b"\x01"}:
        assert other in ip_network("2001:db8::/32")


def test_loopback_and_the_unspecified_address_stay() -> None:
    mask = Mask()
    for text in ("::", "::1", "::ffff:127.0.0.1"):
        assert mask.address_v6(IPv6Address(text).packed) == IPv6Address(text).packed
    assert mask.address_v6(IPv6Address("::ffff:10.1.2.3").packed)[12:] == mask.address_v4(
        IPv4Address("10.1.2.3").packed
    )


@given(st.lists(st.tuples(st.booleans(), V6, V6, st.binary(max_size=9)), max_size=8))
def test_messages_keep_all_but_their_addresses(parts: list[tuple[bool, bytes, bytes, bytes]]) -> None:
    def padded(address: bytes, is_v6: bool) -> bytes:
        return address if is_v6 else address[:4] + bytes(12)

    whole = b"".join(message(10 if v6 else 2, padded(a, v6), padded(b, v6), rest=rest) for v6, a, b, rest in parts)
    mask = Mask()
    masked = mask.messages(whole)
    expected = b"".join(
        message(
            10 if v6 else 2,
            mask.address_v6(a) if v6 else padded(mask.address_v4(a[:4]), v6),
            mask.address_v6(b) if v6 else padded(mask.address_v4(b[:4]), v6),
            rest=rest,
        )
        for v6, a, b, rest in parts
    )
    assert masked == expected


def test_names_keep_their_kind_and_are_numbered_in_the_order_in_which_they_come() -> None:
    mask = Mask()
    assert [mask.name("process", name) for name in ("nginx", "redis", "nginx", None)] == [
        "process-1", "process-2", "process-1", None,
    ]  # fmt: skip
    assert mask.name("netns", "nginx") == "netns-1"
