"""Which changes are told: what bpf/tell.bpf.h checks in the kernel, and the same for those who have no kernel to check it."""

from __future__ import annotations

import numpy as np

from finwait.wire.inet_diag import ALL_STATES_MASK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from finwait.table.batch import Array, Mask

PORTS = (0, 65535)


class Narrowing:
    """What is to be told. family: 2 or 10, None for both. states: mask of those that are left or reached; not of whole lives.
    local_ports, peer_ports: first and last. least_ns: time in the state that is left, or of a whole life; 0 for any, known or
    not.
    """  # fmt: skip

    __slots__ = ("family", "least_ns", "local_ports", "peer_ports", "states")

    def __init__(
        self,
        *,
        family: int | None = None,
        states: int = ALL_STATES_MASK,
        local_ports: tuple[int, int] = PORTS,
        peer_ports: tuple[int, int] = PORTS,
        least_ns: int = 0,
    ) -> None:
        self.family = family
        self.states = states
        self.local_ports = local_ports
        self.peer_ports = peer_ports
        self.least_ns = least_ns

    def accepts(self, records: Array) -> Mask:
        """Which of `records` (of changes, or of whole lives) are."""
        accepted: Mask = np.ones(len(records), dtype=np.bool_)
        is_life = "begins_ns" in (records.dtype.names or ())
        if self.family is not None:
            accepted &= records["family"] == self.family
        if not is_life and self.states != ALL_STATES_MASK:
            states = np.uint32(self.states)
            accepted &= (states >> records["from"].astype("u4") | states >> records["to"].astype("u4")) & 1 != 0
        for name, (first, last) in (("local_port", self.local_ports), ("peer_port", self.peer_ports)):
            if (first, last) != PORTS:
                accepted &= (records[name] >= first) & (records[name] <= last)
        if self.least_ns:
            since_ns = records["begins_ns"][:, 0] if is_life else records["since_ns"]
            accepted &= (since_ns != 0) & (records["at_ns"] >= since_ns + np.uint64(self.least_ns))
        return accepted
