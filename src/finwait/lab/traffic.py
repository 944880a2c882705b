"""What the peer goes on doing while a population is held: a flood of SYNs that changes counters and no socket.

The listener's queue must be full, so that the kernel answers each SYN with a cookie (half-open connections) or drops it
(accept queue), and makes no socket of it.
"""

from __future__ import annotations

import time
from ipaddress import IPv4Address, IPv6Address

from finwait.lab.peer import MSS_OPTION, SYN, FarEnd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from finwait.lab.peer import TcpPeer
    from finwait.lab.spec import Traffic

_FIRST_IPV4 = IPv4Address("10.78.0.0")  # apart from those of the population
_FIRST_IPV6 = IPv6Address("fd77::78:0:0")
_ADDRESSES = 1 << 16
_PORTS = range(10_000, 60_000)
_AT_ONCE = 20  # SYNs, however late it is: a machine that stood still is not flooded for it
_RENEWAL_S = 0.4  # a SYN-ACK is sent again, and counted, after 1 s


class Flood:
    """SYNs at an even pace to `listener` (address and port), and the renewal of `half_open` connections."""

    def __init__(
        self,
        traffic: Traffic,
        peer: TcpPeer,
        listener: tuple[IPv4Address | IPv6Address, int],
        half_open: Sequence[FarEnd],
    ) -> None:
        self._peer = peer
        self._pause_s = 1 / traffic.syns
        self._first = _FIRST_IPV4 if traffic.family == "ipv4" else _FIRST_IPV6
        self._listener = listener
        self._half_open = half_open
        self._sent = 0
        self._due = self._renewal_due = time.monotonic()

    def go_on(self) -> float:
        """Send what is due; returns the seconds until something is again."""
        now = time.monotonic()
        for _ in range(_AT_ONCE):
            if self._due > now:
                break
            self._send_syn()
            self._due += self._pause_s
        else:
            self._due = now + self._pause_s
        return max(0.0, self._due - now)

    def renew(self) -> float:
        """Repeat the SYNs of what is half-open, so that its time begins anew; returns the seconds until that is due again."""
        remaining = self._renewal_due - time.monotonic()
        if remaining > 0:
            return remaining
        self._renewal_due = time.monotonic() + _RENEWAL_S
        for far in self._half_open:
            far.send_syn_again()
        return _RENEWAL_S

    def _send_syn(self) -> None:
        address, port = self._first + self._sent % _ADDRESSES, _PORTS[self._sent // _ADDRESSES % len(_PORTS)]
        self._sent += 1
        FarEnd(self._peer, address, port, *self._listener).send(SYN, options=MSS_OPTION)
