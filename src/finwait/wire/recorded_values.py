"""Values in the JSON of a recording, which anybody may have written."""

from __future__ import annotations

YEAR_10000 = 253_402_300_800  # in seconds since the epoch


def text_or_none(value: object) -> str | None:
    """Raises TypeError for what is neither text nor null."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"a name should be text, not {str(value)[:80]}")
    return value


def seconds_or_none(value: object) -> float | None:
    """A time since the epoch that a calendar has. Raises ValueError."""
    seconds = None if value is None else float(str(value))
    if seconds is not None and not 0 <= seconds < YEAR_10000:
        raise ValueError(f"{value} is no time")
    return seconds


def integer_or_none(value: object, bits: int = 64) -> int | None:
    """A natural number of that many bits. Raises ValueError."""
    number = None if value is None else int(str(value))
    if number is not None and not 0 <= number < 1 << bits:
        raise ValueError(f"{value} is no number of {bits} bits")
    return number
