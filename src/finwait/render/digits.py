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
_POWERS = np.asarray([10**power for power in range(1, 20)], dtype=np.uint64)  # of ten, that have a digit more
LONG_US = 10_000_000  # from here on a duration is in seconds
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
    width = len(str(top))
    groups = -(-width // 3)
    digits = np.empty((len(values), groups, 3), dtype=np.uint8)
    rest = values.astype(np.uint64)
    for group in reversed(range(groups)):
        rest, last = np.divmod(rest, np.uint64(1000))
        digits[:, group] = _three_digits()[last]
    matrix = digits.reshape(len(values), 3 * groups)[:, 3 * groups - width :]
    lengths = np.searchsorted(_POWERS, values.astype(np.uint64), "right") + 1
    matrix[np.arange(width)[None, :] < (width - lengths)[:, None]] = BLANK
    return matrix


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


def durations(micros: Array) -> Array:
    """(n, width) bytes of microseconds: ``12.345ms``, from ten seconds on ``60.407s``; blanks in front."""
    micros = np.maximum(micros, 0)
    is_long = micros >= LONG_US
    whole, rest = np.divmod(np.where(is_long, micros // 1000, micros), 1000)
    numbers, digits = right_aligned_numbers(whole.astype(np.uint64)), _three_digits()[rest]
    count, width = numbers.shape
    block = np.empty((count, width + 6), dtype=np.uint8)
    block[:, :width] = numbers
    block[:, width:] = np.frombuffer(b".   ms", dtype=np.uint8)
    block[:, width + 1 : width + 4] = digits
    if is_long.any():  # a letter less
        block[is_long, 0] = BLANK
        block[is_long, 1 : width + 1] = numbers[is_long]
        block[is_long, width + 1 :] = np.frombuffer(b".   s", dtype=np.uint8)
        block[is_long, width + 2 : width + 5] = digits[is_long]
    return block
