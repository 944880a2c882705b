"""Text of numbers and IPv4 endpoints for whole columns: table look-ups and shifts of 64-bit words, no step per row.

A short text is a word whose lowest byte is its first character, and a length. ``a.b.`` and ``c.d:`` have eight characters
at most, a port five, so an endpoint is three words put together by shifts. Tables are made once, when first needed.
"""

from __future__ import annotations

import time
from functools import cache

import numpy as np

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Texts = tuple[Array, Array]  # words and lengths

BLANK = 32
ENDPOINT_BYTES = 24
_BLANKS = np.uint64(0x2020202020202020)
_EIGHT = np.uint64(8)


def _shift(words: Array, characters: Array) -> Array:
    """`words` moved behind `characters` others (0 to 8); a shift by 64 bits is undefined, two by 32 are not."""
    half = characters * np.uint64(4)
    return np.asarray(words << half << half)


def _unshift(words: Array, characters: Array) -> Array:
    """What of `words` did not fit behind `characters` others in eight."""
    half = (_EIGHT - characters) * np.uint64(4)
    return np.asarray(words >> half >> half)


@cache
def _numbers() -> Texts:
    """Texts of 0 to 65535."""
    values = np.arange(65536, dtype=np.uint64)
    lengths = np.ones(65536, dtype=np.uint64)
    words = np.zeros(65536, dtype=np.uint64)
    for power in range(1, 5):
        lengths += values >= 10**power
    for place in range(5):
        digit = values // np.uint64(10**place) % np.uint64(10) + np.uint64(48)
        at = lengths - np.uint64(1 + place)
        there = lengths > place
        words |= np.where(there, digit << np.where(there, at * _EIGHT, 0).astype(np.uint64), 0).astype(np.uint64)
    return words, lengths


@cache
def _right_aligned() -> Array:
    """0 to 65535 in eight characters, blanks in front."""
    words, lengths = _numbers()
    blanks = _EIGHT - lengths
    return _shift(words, blanks) | _unshift(np.full(65536, _BLANKS), blanks)


@cache
def _pairs(end: str) -> Texts:
    """``a.b`` and `end` for the 65,536 pairs of octets; the index is the two octets in network order as one number."""
    words, lengths = _numbers()
    dotted = words[:256] | np.uint64(ord(".")) << lengths[:256] * _EIGHT
    ended = words[:256] | np.uint64(ord(end)) << lengths[:256] * _EIGHT
    after = np.repeat(lengths[:256] + np.uint64(1), 256)
    pair = np.repeat(dotted, 256) | _shift(np.tile(ended, 256), after)
    return pair, after + np.tile(lengths[:256] + np.uint64(1), 256)


@cache
def _ports() -> Texts:
    """Ports; 0 is ``*``."""
    words, lengths = _numbers()
    words = words.copy()
    words[0] = ord("*")
    return words, lengths


@cache
def _padding() -> Array:
    """Blanks behind a text of n characters, three words for n from 0 to 24."""
    matrix = np.where(np.arange(24)[None, :] >= np.arange(25)[:, None], np.uint8(BLANK), np.uint8(0))
    return np.ascontiguousarray(matrix).view("<u8").astype(np.uint64)


def ipv4_endpoints(addresses: Array, ports: Array) -> tuple[Array, int]:
    """(n, 24) bytes of ``a.b.c.d:port``, blanks behind, and the longest one's length. addresses: (n, 4) octets."""
    octets = addresses.astype(np.uint16)
    first, first_length = _pairs(".")
    second, second_length = _pairs(":")
    third, third_length = _ports()
    high = octets[:, 0] << 8 | octets[:, 1]
    low = octets[:, 2] << 8 | octets[:, 3]
    one, two, three = first[high], second[low], third[ports]
    at_two = first_length[high]
    at_three = at_two + second_length[low] - _EIGHT  # in the second word: both halves together have 8 to 16 characters
    length = at_three + _EIGHT + third_length[ports]
    padding = _padding()[length]
    words = np.empty((len(ports), 3), dtype=np.uint64)
    words[:, 0] = one | _shift(two, at_two)
    words[:, 1] = _unshift(two, at_two) | _shift(three, at_three)
    words[:, 2] = _unshift(three, at_three)
    words |= padding
    return words.astype("<u8", copy=False).view(np.uint8).reshape(len(ports), ENDPOINT_BYTES), int(length.max())


def right_aligned_numbers(values: Array) -> Array:
    """(n, width) bytes of non-negative integers, blanks in front, as wide as the widest."""
    top = int(values.max())
    if top < 65536:
        matrix = _right_aligned()[values].astype("<u8", copy=False).view(np.uint8).reshape(len(values), 8)
        return matrix[:, 8 - len(str(top)) :]
    unique, inverse = np.unique(values, return_inverse=True)
    width = len(str(top))
    table = np.asarray([str(value).rjust(width) for value in unique.tolist()], dtype=f"S{width}")
    return table[inverse].view(np.uint8).reshape(len(values), width)


@cache
def _three_digits() -> Array:
    """000 to 999 as (1000, 3) bytes."""
    numbers = np.arange(1000)
    return np.stack([numbers // 100, numbers // 10 % 10, numbers % 10], axis=1).astype(np.uint8) + np.uint8(48)


def six_digits(values: Array) -> Array:
    """(n, 6) bytes of numbers below a million, zeros in front."""
    digits = _three_digits()
    return np.concatenate([digits[values // 1000], digits[values % 1000]], axis=1)


def clock_times(at_ns: Array) -> Array:
    """(n, 15) bytes of local time as 23:59:59.123456. at_ns: since the epoch."""
    seconds, micros = np.divmod(at_ns // 1000, 1_000_000)
    unique, inverse = np.unique(seconds, return_inverse=True)
    texts = [time.strftime("%H:%M:%S.", time.localtime(second)).encode() for second in unique.tolist()]
    table = np.frombuffer(b"".join(texts), dtype=np.uint8).reshape(len(texts), 9)
    return np.concatenate([table[inverse], six_digits(micros)], axis=1)


def milliseconds(micros: Array) -> Array:
    """(n, width) bytes of microseconds as milliseconds with three places, ``12.345ms``, blanks in front."""
    whole, rest = np.divmod(np.maximum(micros, 0), 1000)
    block = np.full((len(micros), 6), ord("."), dtype=np.uint8)
    block[:, 1:4] = _three_digits()[rest]
    block[:, 4:] = np.frombuffer(b"ms", dtype=np.uint8)
    return np.concatenate([right_aligned_numbers(whole.astype(np.uint64)), block], axis=1)
