"""One way to read, whatever is read: a namespace by sock_diag or /proc, or a recording. Each is a Reader.

The room above narrows what is asked and checks every row; a reader only yields batches and says what it could not see.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod

from finwait.errors import NotSupported, SourceError
from finwait.sources.bindings import read_bindings, read_interface_names
from finwait.sources.diag_table import read_batches
from finwait.sources.namespaces import Place, open_inside, visit_places
from finwait.sources.proc_net import close_files, open_files, read_records
from finwait.sources.record_columns import batches_of_records
from finwait.sources.sock_diag import netns_of, open_beside, open_diag_socket
from finwait.table.columns import COLUMN_BY_NAME
from finwait.table.request import Request
from finwait.table.snapshot import Netns, Notice
from finwait.tcp.state import BOUND_INACTIVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable, Container, Iterator, Sequence

    from finwait.sources.libbpf import BpfObject
    from finwait.table.batch import Batch
    from finwait.table.bindings import Bindings

    Sink = Callable[[memoryview], None]


BOUND_MASK = 1 << BOUND_INACTIVE
DERIVED = frozenset({"ip_version", "local", "peer", "netns", "netns_cookie"})
PROC_COLUMNS = frozenset({
    "state", "family", "local_address", "local_port", "peer_address", "peer_port", "recv_q", "send_q",
    "accept_queue_length", "timer", "expires_ms", "retransmits", "uid", "inode", "snd_cwnd", "ssthresh",
})  # fmt: skip


class Reader(ABC):
    """Reads one namespace's sockets. source: machine word. can_narrow: whether it takes a state mask and bytecode.

    Close it when done; it is a context manager.
    """

    source = ""
    can_narrow = False

    def __init__(self, netns: Netns) -> None:
        self.netns = netns

    @abstractmethod
    def bind(self, *, devices: bool, cgroups: Sequence[str], port_range: bool) -> Bindings:
        """Names of a filter looked up where the sockets are. Raises SourceError for one that is not there."""

    @abstractmethod
    def batches(
        self, request: Request, wanted: Sequence[str], notices: list[Notice], sink: Sink | None = None
    ) -> Iterator[Batch]:
        """The sockets with the columns `wanted`; what went wrong on the way is added to `notices` at the end."""

    @abstractmethod
    def untold(self, names: Sequence[str], told: Container[str]) -> list[str]:
        """Which of the columns `names` the source does not tell. told: those that stood in any batch."""

    def reopen(self) -> Reader:
        """Another reader of the same place, for a second look; a recording has none. Raises what opening raises."""
        raise NotImplementedError

    @abstractmethod
    def close(self) -> None:
        """Close every descriptor."""

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _PlaceReader(Reader):
    """A namespace of this host."""

    def __init__(self, place: Place, request: Request, netns: Netns) -> None:
        super().__init__(netns)
        self.place = place
        self.request = request

    def bind(self, *, devices: bool, cgroups: Sequence[str], port_range: bool) -> Bindings:
        roots = self.request.roots
        return read_bindings(self.place, roots, devices=devices, cgroups=cgroups, port_range=port_range)


class SockDiagReader(_PlaceReader):
    """A namespace by NETLINK_SOCK_DIAG."""

    source = "sock_diag"
    can_narrow = True

    def untold(self, names: Sequence[str], told: Container[str]) -> list[str]:
        return [name for name in names if COLUMN_BY_NAME[name].origin is None and name not in DERIVED]

    def __init__(self, place: Place, request: Request, diag: socket) -> None:
        super().__init__(place, request, netns_of(diag, place.name, place.inode))
        self.diag = diag

    def reopen(self) -> Reader:
        return SockDiagReader(self.place, self.request, open_inside(self.place, open_diag_socket))

    def batches(
        self, request: Request, wanted: Sequence[str], notices: list[Notice], sink: Sink | None = None
    ) -> Iterator[Batch]:
        names = read_interface_names(self.place) if "interface" in wanted else {}
        return read_batches(self.diag, request, wanted, names, notices, sink)

    def close(self) -> None:
        self.diag.close()


class ProcReader(_PlaceReader):
    """A namespace by /proc/net/tcp and tcp6."""

    source = "proc"

    def untold(self, names: Sequence[str], told: Container[str]) -> list[str]:
        return [name for name in names if name not in PROC_COLUMNS and name not in DERIVED]

    def __init__(self, place: Place, request: Request) -> None:
        super().__init__(place, request, Netns(None, place.inode, place.name))
        self.opened = open_files(place, request.roots, request.family)

    def batches(
        self, request: Request, wanted: Sequence[str], notices: list[Notice], sink: Sink | None = None
    ) -> Iterator[Batch]:
        return batches_of_records(read_records(self.opened), wanted)

    def reopen(self) -> Reader:
        return ProcReader(self.place, self.request)

    def close(self) -> None:
        close_files(self.opened)


class BpfReader(SockDiagReader):
    """A namespace by BPF's iter/tcp; sock_diag adds the sockets in state CLOSE."""

    source = "bpf"
    can_narrow = False

    def __init__(self, place: Place, request: Request, walker: BpfObject, opened: tuple[int, socket]) -> None:
        super().__init__(place, request, opened[1])
        self._walker = walker
        self._iterator: int | None = opened[0]

    def untold(self, names: Sequence[str], told: Container[str]) -> list[str]:
        from finwait.sources.bpf_table import COLUMNS

        return [name for name in names if name not in COLUMNS and name not in DERIVED]

    def reopen(self) -> Reader:
        return BpfReader(self.place, self.request, self._walker, open_inside(self.place, _opener(self._walker)))

    def batches(
        self, request: Request, wanted: Sequence[str], notices: list[Notice], sink: Sink | None = None
    ) -> Iterator[Batch]:
        from finwait.sources.bpf_table import read_connections

        names = read_interface_names(self.place) if "interface" in wanted else {}
        iterator, self._iterator = self._iterator, None
        assert iterator is not None, "an iterator is read once"
        yield from read_connections(iterator, wanted, names, notices)
        if request.states & BOUND_MASK:
            bound = Request(family=request.family, states=BOUND_MASK, roots=request.roots)
            yield from read_batches(self.diag, bound, wanted, names, notices)

    def close(self) -> None:
        if self._iterator is not None:
            os.close(self._iterator)
            self._iterator = None
        super().close()


def _opener(walker: BpfObject) -> Callable[[], tuple[int, socket]]:
    """What opens an iterator, and a socket beside it, inside a namespace."""
    return lambda: open_beside(lambda: walker.open_iterator("list_tcp"))


def _open_bpf_readers(request: Request, notices: list[Notice]) -> Iterator[Reader]:
    from finwait.sources.libbpf import BpfObject

    with BpfObject("list_tcp") as walker:
        for place, opened in visit_places(request, _opener(walker), notices):
            with BpfReader(place, request, walker, opened) as reader:
                yield reader


def open_readers(request: Request, source: str, notices: list[Notice]) -> Iterator[Reader]:
    """A reader for each namespace that `request` asks for, one open at a time. source: bpf, sock_diag or proc."""
    if source == "bpf":
        yield from _open_bpf_readers(request, notices)
        return
    if source == "proc":
        for place, _ in visit_places(request, lambda: None, notices):
            try:
                reader: Reader = ProcReader(place, request)
            except (SourceError, NotSupported) as error:  # its last process may have ended since
                if not request.all_netns or place.path is None:
                    raise
                notices.append(Notice("netns_not_read", error.message_id, missing="netns", arguments=error.arguments))
                continue
            with reader:
                yield reader
        return
    for place, diag in visit_places(request, open_diag_socket, notices):
        with SockDiagReader(place, request, diag) as reader:
            yield reader
