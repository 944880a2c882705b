"""Numbers and endpoints as text, against f-strings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finwait.render.digits import ENDPOINT_BYTES, durations, ipv4_endpoints, right_aligned_numbers


def endpoints(octets: list[tuple[int, ...]], ports: list[int]) -> list[str]:
    matrix, width = ipv4_endpoints(np.asarray(octets, dtype=np.uint8), np.asarray(ports, dtype=np.uint16))
    assert matrix.shape == (len(ports), ENDPOINT_BYTES)
    lines = [row.tobytes().decode() for row in matrix]
    assert max(len(line.rstrip()) for line in lines) == width
    return [line.rstrip() for line in lines]


def numbers(values: list[int], dtype: str) -> list[str]:
    matrix = right_aligned_numbers(np.asarray(values, dtype=dtype))
    assert matrix.dtype == np.uint8
    return [row.tobytes().decode() for row in matrix]


def expected(octets: tuple[int, ...], port: int) -> str:
    return f"{octets[0]}.{octets[1]}.{octets[2]}.{octets[3]}:{port or '*'}"


OCTET = st.integers(0, 255) | st.sampled_from([0, 9, 10, 99, 100, 255])


@given(st.lists(st.tuples(st.tuples(OCTET, OCTET, OCTET, OCTET), st.integers(0, 65535)), min_size=1))
def test_endpoints_are_written(rows: list[tuple[tuple[int, ...], int]]) -> None:
    octets, ports = [row[0] for row in rows], [row[1] for row in rows]
    assert endpoints(octets, ports) == [expected(*row) for row in rows]


@pytest.mark.parametrize("octets", [(0, 0, 0, 0), (255, 255, 255, 255), (10, 0, 0, 1), (1, 22, 133, 4)])
def test_every_port_is_written(octets: tuple[int, ...]) -> None:
    assert endpoints([octets] * 65536, list(range(65536))) == [expected(octets, port) for port in range(65536)]


@pytest.mark.parametrize("place", range(4))
def test_every_octet_is_written(place: int) -> None:
    for others in (0, 10, 255):
        octets = [tuple(value if at == place else others for at in range(4)) for value in range(256)]
        for port in (0, 1, 65535):
            assert endpoints(octets, [port] * 256) == [expected(one, port) for one in octets]


def test_the_longest_endpoint_fits() -> None:
    assert endpoints([(255, 255, 255, 255)], [65535]) == ["255.255.255.255:65535"]


@pytest.mark.parametrize(("dtype", "top"), [("u1", 2**8 - 1), ("u2", 2**16 - 1), ("u4", 2**32 - 1), ("u8", 2**64 - 1)])
@given(data=st.data())
def test_numbers_are_written_to_the_right(dtype: str, top: int, data: st.DataObject) -> None:
    some = (
        st.integers(0, top)
        | st.sampled_from([0, 9, 10, top])
        | st.integers(0, 20).map(lambda power: min(10**power, top))
    )
    values = data.draw(st.lists(some, min_size=1))
    width = len(str(max(values)))
    assert numbers(values, dtype) == [f"{value:>{width}}" for value in values]


@pytest.mark.parametrize("top", [0, 9, 10, 99, 100, 999, 1000, 9999, 10000, 65535, 65536, 99999, 100000])
def test_every_number_below_is_written(top: int) -> None:
    values = list(range(top + 1))
    width = len(str(top))
    assert numbers(values, "u4") == [f"{value:>{width}}" for value in values]


def test_the_largest_numbers_are_exact() -> None:
    values = [2**64 - 1, 2**64 - 2, 2**63, 2**53 + 1, 0]
    assert numbers(values, "u8") == [str(value).rjust(20) for value in values]


@given(
    st.lists(st.integers(-1, 10**13) | st.sampled_from([0, 999, 1000, 9_999_999, 10_000_000, 60_407_530]), min_size=1)
)
def test_durations_are_in_milliseconds_and_from_ten_seconds_on_in_seconds(values: list[int]) -> None:
    wanted = [
        f"{us // 10**6}.{us // 1000 % 1000:03d}s" if us >= 10**7 else f"{us // 1000}.{us % 1000:03d}ms"
        for us in (max(value, 0) for value in values)
    ]
    found = [row.tobytes().decode() for row in durations(np.asarray(values, dtype=np.int64))]
    assert [text.lstrip() for text in found] == wanted
    assert len({len(text) for text in found}) == 1
