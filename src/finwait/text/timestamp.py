"""Moments as RFC 3339 has them."""

from __future__ import annotations

import time


def format_time(at_ns: int) -> str:
    """UTC with microseconds. at_ns: since the epoch."""
    seconds, rest = divmod(at_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest // 1000:06d}Z"
