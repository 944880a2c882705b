"""The plain count by BPF: iter/tcp adds up states in the kernel, and a dump with bit 13 adds the bound sockets it cannot see.

Documentation/bpf/bpf_iterators.rst; net/ipv4/tcp_ipv4.c, bpf_iter_tcp. Both walks run at once: they are of different tables.
"""

from __future__ import annotations

from struct import Struct

from finwait.sources.libbpf import BpfObject, read_iterator
from finwait.sources.namespaces import visit_places
from finwait.sources.sock_diag import count_states as count_dumped
from finwait.sources.sock_diag import netns_of, open_beside
from finwait.table.request import Request
from finwait.tcp.state import BOUND_INACTIVE, TcpState
from finwait.wire.inet_diag import AF_INET6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable

    from finwait.table.snapshot import Notice, Provenance

_COUNTS = Struct("=32Q")  # counts[2][16] of bpf/count_tcp.bpf.c
BOUND_MASK = 1 << BOUND_INACTIVE


def count_states(request: Request, provenance: Provenance) -> dict[int, int]:
    """Sockets by the kernel's state number, as `request` narrows them. Raises NotSupported, NotPermitted, SourceError."""
    totals: dict[int, int] = {}
    provenance.source = "bpf"
    with BpfObject("count_tcp") as walker:

        def enter() -> tuple[int, socket]:
            return open_beside(lambda: walker.open_iterator("count_tcp"))

        before = _COUNTS.unpack(walker.read_section(".bss"))
        for place, (descriptor, diag) in visit_places(request, enter, provenance.notices):
            try:
                found: list[Notice] = []
                closed = count_bound(diag, request, lambda descriptor=descriptor: _exhaust(descriptor), found)  # type: ignore[misc]
                after = _COUNTS.unpack(walker.read_section(".bss"))
                provenance.netns.append(netns_of(diag, place.name, place.inode))
            finally:
                diag.close()
            for notice in found:
                provenance.add_notice(notice)
            _add(totals, [new - old for new, old in zip(after, before, strict=True)], request)
            totals[TcpState.CLOSE] = totals.get(TcpState.CLOSE, 0) + closed
            before = after
    return totals


def _exhaust(descriptor: int) -> None:
    for _ in read_iterator(descriptor):
        pass  # the program counts and writes nothing


def _add(totals: dict[int, int], counts: list[int], request: Request) -> None:
    for index, count in enumerate(counts):
        family, state = divmod(index, 16)
        if request.states >> state & 1 and (request.family is None or (request.family == AF_INET6) == bool(family)):
            totals[state] = totals.get(state, 0) + count


def count_bound(diag: socket, request: Request, meanwhile: Callable[[], None], notices: list[Notice]) -> int:
    """How many sockets are bound and not connected, counted in a thread while `meanwhile` runs; what went wrong is added to
    `notices`.
    """  # fmt: skip
    if not request.states & BOUND_MASK:
        meanwhile()
        return 0
    from threading import Thread

    outcome: list[tuple[dict[int, int], list[Notice]] | BaseException] = []

    def count() -> None:
        try:
            outcome.append(count_dumped(diag, Request(family=request.family, states=BOUND_MASK)))
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread
            outcome.append(error)

    thread = Thread(target=count, name="finwait-bound")
    thread.start()
    try:
        meanwhile()
    finally:
        thread.join()
    found = outcome[0]
    if isinstance(found, BaseException):
        raise found
    notices.extend(found[1])
    return found[0].get(TcpState.CLOSE, 0)
