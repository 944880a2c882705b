"""The plain count: sockets by state, no table, no NumPy. The best source that answers, and what it could not see."""

from __future__ import annotations

import os
import time

from finwait.errors import NotPermitted, NotSupported, SourceError
from finwait.sources.choice import bpf_fallback, pays_for_bpf
from finwait.sources.namespaces import visit_places
from finwait.table.snapshot import Group, Notice, Provenance, Snapshot
from finwait.tcp.state import LIFE_ORDER, TcpState
from finwait.text.messages import mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from finwait.table.request import Request

CLOSED_NOT_VISIBLE = mark("CLOSED sockets (bound, not connected) cannot be seen by {source} here")
CLOSED_NOT_RECORDED = mark("CLOSED sockets (bound, not connected) are not in this recording")
CLOSED_REMEDY = mark("sock_diag on Linux 6.8 or later, or its recording as X.finwait")
FALLBACK = mark("sock_diag does not answer ({reason}); read /proc/net/tcp instead")


def take_census(request: Request, source: str = "auto") -> Snapshot:
    """Count sockets by state. source: auto, bpf, sock_diag or proc.

    All eleven states are in the answer, in the order of a connection's life; those that `request` does not ask for are
    zero. Raises NotSupported, NotPermitted, SourceError.
    """
    provenance = Provenance(source, host=os.uname().nodename, taken_from=time.time())
    counts = _count_by_bpf(request, provenance, source)
    if counts is None and source != "proc":
        try:
            counts = _count_by_sock_diag(request, provenance)
        except (NotSupported, NotPermitted) as error:
            if source != "auto" or request.all_netns or request.netns:
                raise
            provenance = Provenance("proc", host=provenance.host, taken_from=provenance.taken_from)
            provenance.add_notice(Notice("source_fallback", FALLBACK, incomplete=False, arguments={"reason": error}))
    if counts is None:
        from finwait.sources.proc_net import count_states as count_proc_states

        counts = count_proc_states(request, provenance)
    provenance.taken_to = time.time()
    add_closed_notice(counts.get(TcpState.CLOSE, 0), sum(counts.values()), request, provenance)
    groups = [Group((state.token,), counts.get(state, 0)) for state in LIFE_ORDER]
    return Snapshot(("state",), groups, sum(group.count for group in groups), provenance)


def _count_by_bpf(request: Request, provenance: Provenance, source: str) -> dict[int, int] | None:
    """What the kernel counted by itself; None where another source is to be asked: another was chosen, there are few sockets,
    or BPF cannot be used here, which only a choice of it by name makes an error.
    """  # fmt: skip
    if source not in {"auto", "bpf"}:
        return None
    if source == "auto" and not pays_for_bpf(request):
        return None
    from finwait.sources.bpf_census import count_states as count_in_kernel

    try:
        return count_in_kernel(request, provenance)
    except (NotSupported, NotPermitted, SourceError) as error:
        if source == "bpf":
            raise
        provenance.netns.clear()
        provenance.notices.clear()
        provenance.add_notice(bpf_fallback(error))
        return None


def _count_by_sock_diag(request: Request, provenance: Provenance) -> dict[int, int]:
    from finwait.sources.sock_diag import count_states, netns_of, open_diag_socket

    provenance.source = "sock_diag"
    totals: dict[int, int] = {}
    for place, diag in visit_places(request, open_diag_socket, provenance.notices):
        try:
            counts, notices = count_states(diag, request)
            provenance.netns.append(netns_of(diag, place.name, place.inode))
        finally:
            diag.close()
        for notice in notices:
            provenance.add_notice(notice)
        for state, count in counts.items():
            totals[state] = totals.get(state, 0) + count
    return totals


def add_closed_notice(closed_seen: int, sockets: int, request: Request, provenance: Provenance) -> None:
    """Say so where CLOSED was asked for, none was seen, and the source could not have seen one.

    closed_seen, sockets: how many CLOSED and how many sockets of any state were read.
    """
    if closed_seen or not request.states & 1 << TcpState.CLOSE:
        return
    if provenance.source in {"bpf", "sock_diag"}:
        from finwait.sources.capabilities import probe_closed_visible

        if probe_closed_visible(sockets, request.roots.sys) is not False:
            return
    message = CLOSED_NOT_RECORDED if provenance.source == "recording" else CLOSED_NOT_VISIBLE
    arguments = {"source": provenance.source}
    provenance.add_notice(
        Notice("closed_not_visible", message, missing="closed", remedy=CLOSED_REMEDY, arguments=arguments)
    )
