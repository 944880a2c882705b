"""Both ends of a connection, where both are on this host: in one namespace over loopback, or in two over a veth pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from finwait.tcp.state import TcpState
from finwait.wire.inet_diag import MAPPED_PREFIX

if TYPE_CHECKING:
    from finwait.diagnosis.case import Case
    from finwait.table.batch import Array, Mask

_MAPPED = np.frombuffer(MAPPED_PREFIX, dtype=np.uint8)


def plain_addresses(case: Case, name: str, rows: Array | None = None) -> Array:
    """The addresses of column `name` (of `rows`; all for None) as n x 16 bytes, IPv4 mapped into IPv6, so that both families
    compare.
    """  # fmt: skip
    values, family = case.values(name), case.values("family")
    mapped = values.copy() if rows is None else values[rows]
    v4 = (family if rows is None else family[rows]) == 2
    mapped[v4, 12:] = mapped[v4, :4]
    mapped[v4, :12] = _MAPPED
    return mapped


def other_end(case: Case, row: int) -> tuple[Case, int] | None:
    """The socket whose local and peer ends are the peer and local ends of `row`; a mini-socket too. None where there is none.

    Of several namespaces the own one is searched first: addresses may repeat in namespaces that do not know each other.
    """
    here = np.asarray([row])
    local, peer = (plain_addresses(case, name, here)[0] for name in ("local_address", "peer_address"))
    ports = (case.values("local_port")[row], case.values("peer_port")[row])
    for other in (case, *case.others):
        at = _reverse(other, local, peer, *ports)
        at = at[at != row] if other is case else at
        if len(at):
            return other, int(at[0])
    return None


def tuples(case: Case, rows: Array, *, seen_from_peer: bool = False) -> list[bytes]:
    """The addresses and ports of `rows`, alike for both families; seen_from_peer: as the other end has them."""
    names = ("local_address", "peer_address", "local_port", "peer_port")
    if seen_from_peer:
        names = ("peer_address", "local_address", "peer_port", "local_port")
    addresses = [plain_addresses(case, name, rows) for name in names[:2]]
    ports = [case.values(name)[rows].astype("u2")[:, None].view(np.uint8) for name in names[2:]]
    return [key.tobytes() for key in np.concatenate([*addresses, *ports], axis=1)]


def _reverse(case: Case, local: Array, peer: Array, local_port: int, peer_port: int) -> Array:
    """The sockets of `case` that see `local` as their peer and `peer` as their own address."""
    near: Mask = (case.values("local_port") == peer_port) & (case.values("peer_port") == local_port)
    rows: Array = np.flatnonzero(near & ~case.in_state(TcpState.LISTEN, TcpState.CLOSE))
    same = (plain_addresses(case, "local_address", rows) == peer).all(axis=1)
    same &= (plain_addresses(case, "peer_address", rows) == local).all(axis=1)
    found: Array = rows[same]
    return found
