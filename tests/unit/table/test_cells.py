"""Cells: words, addresses and endpoints of every kind."""

from ipaddress import IPv4Address, IPv6Address

import numpy as np
import pytest

from finwait.table.batch import Batch, ColumnData
from finwait.table.cells import address_texts, cells_of, format_address
from finwait.tcp.state import TcpState

AF_INET, AF_INET6 = 2, 10


def packed(text):
    """(16 bytes, family) of an address."""
    if ":" in text:
        return IPv6Address(text).packed, AF_INET6
    return IPv4Address(text).packed + bytes(12), AF_INET


def addresses_of(*texts):
    rows, families = zip(*(packed(text) for text in texts), strict=True)
    matrix = np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(-1, 16)
    return matrix, np.array(families, dtype=np.uint8)


def batch_of(address, port, device=None, side="local"):
    """One row with an endpoint; None for what is not known."""
    matrix, family = addresses_of(address or "0.0.0.0")
    columns = {"family": ColumnData(family)}
    if address is not None:
        columns[f"{side}_address"] = ColumnData(matrix)
    if port is not None:
        columns[f"{side}_port"] = ColumnData(np.array([port], dtype="u2"))
    if device is not None:
        columns["interface"] = ColumnData(np.array([0], dtype="i4"), None, (device,))
    return Batch(1, columns)


@pytest.mark.parametrize(
    "text", ["0.0.0.0", "127.0.0.1", "255.255.255.255", "::", "::1", "2001:db8::1", "fe80::1:0:0:1", "2001:db8:0:1::"]
)
def test_an_address_is_its_canonical_text(text):
    assert format_address(*packed(text)) == text


def test_a_mapped_address_is_written_as_ipv4():
    assert format_address(*packed("::ffff:192.0.2.1")) == "192.0.2.1"
    assert format_address(*packed("::fffe:192.0.2.1")) == "::fffe:c000:201"


def test_the_bytes_behind_an_ipv4_address_do_not_matter():
    assert format_address(bytes([192, 0, 2, 1]) + b"\xff" * 12, AF_INET) == "192.0.2.1"


def test_addresses_keep_their_order_and_the_same_bytes_differ_by_family():
    matrix, family = addresses_of("10.0.0.2", "10.0.0.1", "::1", "10.0.0.2", "::ffff:10.0.0.1")
    assert address_texts(matrix, family) == ["10.0.0.2", "10.0.0.1", "::1", "10.0.0.2", "10.0.0.1"]
    zeros = np.zeros((2, 16), dtype=np.uint8)
    assert address_texts(zeros, np.array([AF_INET6, AF_INET], dtype=np.uint8)) == ["::", "0.0.0.0"]


def test_no_addresses_are_no_texts():
    assert address_texts(np.zeros((0, 16), dtype=np.uint8), np.zeros(0, dtype=np.uint8)) == []


def test_addresses_of_many_hosts_are_each_their_own():
    texts = [f"10.0.{number >> 8}.{number & 255}" for number in range(1009)]
    assert address_texts(*addresses_of(*texts)) == texts


@pytest.mark.parametrize(
    ("address", "port", "device", "text"),
    [
        ("192.0.2.1", 22, None, "192.0.2.1:22"),
        ("2001:db8::1", 22, None, "[2001:db8::1]:22"),
        ("::", 65535, None, "[::]:65535"),
        ("::ffff:192.0.2.1", 443, None, "192.0.2.1:443"),
        ("192.0.2.1", 22, "eth0", "192.0.2.1%eth0:22"),
        ("fe80::1", 22, "eth0", "[fe80::1%eth0]:22"),
        ("::ffff:192.0.2.1", 22, "eth0", "192.0.2.1%eth0:22"),
        ("0.0.0.0", 0, None, "0.0.0.0:*"),
        ("::", 0, None, "[::]:*"),
        ("192.0.2.1", None, None, "192.0.2.1:?"),
        ("2001:db8::1", None, None, "[2001:db8::1]:?"),
        (None, 22, None, "?:22"),
        (None, None, None, None),
    ],
)
def test_an_endpoint_is_address_device_and_port_with_ipv6_in_brackets(address, port, device, text):
    assert cells_of(batch_of(address, port, device), "local") == [text]


def test_a_device_stands_behind_the_local_address_only():
    assert cells_of(batch_of("192.0.2.1", 22, "eth0", side="peer"), "peer") == ["192.0.2.1:22"]


def test_rows_without_a_device_have_none_in_their_endpoint():
    matrix, family = addresses_of("fe80::1", "192.0.2.1")
    batch = Batch(
        2,
        {
            "family": ColumnData(family),
            "local_address": ColumnData(matrix),
            "local_port": ColumnData(np.array([1, 2], dtype="u2")),
            "interface": ColumnData(np.array([0, 0], dtype="i4"), np.array([True, False]), ("eth0",)),
        },
    )
    assert cells_of(batch, "local") == ["[fe80::1%eth0]:1", "192.0.2.1:2"]


def test_no_rows_have_no_endpoints():
    assert cells_of(Batch(0, {}), "local") == []


@pytest.mark.parametrize("state", TcpState, ids=lambda state: state.rfc)
def test_a_state_is_its_token(state):
    assert cells_of(Batch(1, {"state": ColumnData(np.array([state], dtype="u1"))}), "state") == [state.token]


@pytest.mark.parametrize(
    ("name", "numbers", "words"),
    [
        ("state", [1, 10, 0, 12, 255], ["established", "listen", "0", "12", "255"]),
        ("family", [2, 10, 2, 1], ["inet", "inet6", "inet", "1"]),
        ("timer", [0, 1, 2, 3, 4, 5, 6], ["none", "on", "keepalive", "time_wait", "persist", "delayed_ack", "6"]),
    ],
)
def test_a_number_that_has_no_word_stays_a_number(name, numbers, words):
    assert cells_of(Batch(len(numbers), {name: ColumnData(np.array(numbers, dtype="u1"))}), name) == words


def test_numbers_are_exact_and_of_python():
    cells = cells_of(Batch(2, {"cookie": ColumnData(np.array([2**64 - 1, 0], dtype="u8"))}), "cookie")
    assert cells == [2**64 - 1, 0]
    assert {type(cell) for cell in cells} == {int}


def test_booleans_are_of_python():
    assert cells_of(Batch(2, {"v6only": ColumnData(np.array([True, False]))}), "v6only") == [True, False]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("state", ColumnData(np.array([99, 1], dtype="u1"), np.array([False, True]))),
        ("uid", ColumnData(np.array([7, 8], dtype="u4"), np.array([False, True]))),
        ("process", ColumnData(np.array([0, 0], dtype="i4"), np.array([False, True]), ("nginx",))),
        ("local_address", ColumnData(np.zeros((2, 16), dtype="u1"), np.array([False, True]))),
    ],
)
def test_what_a_row_does_not_have_is_none_whatever_is_stored(name, data):
    first, second = cells_of(Batch(2, {name: data}), name)
    assert first is None
    assert second is not None


def test_a_code_outside_the_dictionary_is_none():
    data = ColumnData(np.array([-1, 0, 1], dtype="i4"), None, ("nginx",))
    assert cells_of(Batch(3, {"process": data}), "process") == [None, "nginx", None]


def test_a_connection_can_be_copied_and_pickled() -> None:
    import copy
    import pickle

    from finwait.table.table import Connection

    one = Connection({"state": "listen", "local_port": 80})
    for other in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert other.as_dict() == one.as_dict()
