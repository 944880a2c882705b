"""/proc/net/tcp and tcp6 (Documentation/networking/proc_net_tcp.rst): the fallback of last resort. No cookie, no way to
narrow, some 1.8 us a socket; sockets may be missing or come twice while they change.
"""  # fmt: skip

from __future__ import annotations

import os

from finwait.errors import NotPermitted, NotSupported, ParseError, SourceError
from finwait.sources.namespaces import Place, open_inside, visit_places
from finwait.table.snapshot import Netns
from finwait.wire.proc_net_tcp import count_proc_states, parse_proc_net_tcp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from finwait.table.request import Request, Roots
    from finwait.table.snapshot import Provenance
    from finwait.wire.records import SocketRecord

_FILE_BY_FAMILY = {2: "tcp", 10: "tcp6"}
CHUNK_BYTES = 1 << 20


def open_files(place: Place, roots: Roots, family: int | None) -> dict[int, int]:
    """Open descriptors of the files of `place` by family; IPv6 may be absent. Raises NotSupported, NotPermitted."""
    opened: dict[int, int] = {}
    try:
        for number in _FILE_BY_FAMILY if family is None else (family,):
            descriptor = _open(place, roots, number)
            if descriptor is not None:
                opened[number] = descriptor
    except BaseException:
        close_files(opened)
        raise
    return opened


def close_files(opened: dict[int, int]) -> None:
    """Close what `open_files` opened."""
    for descriptor in opened.values():
        os.close(descriptor)


def _open(place: Place, roots: Roots, family: int) -> int | None:
    name = _FILE_BY_FAMILY[family]
    # /proc/net is the main thread's; inside another namespace it must be this thread's.
    path = f"{roots.proc}/net/{name}" if place.path is None else f"/proc/thread-self/net/{name}"
    try:
        return open_inside(place, lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except PermissionError as error:
        raise NotPermitted("reading {path} is not permitted", path=path) from error
    except OSError as error:
        if family == 10 and isinstance(error, FileNotFoundError):
            return None  # no IPv6
        raise NotSupported(
            "cannot read {path}: {reason}; it needs Linux with /proc mounted",
            path=path,
            reason=os.strerror(error.errno or 0),
        ) from error


def count_states(request: Request, provenance: Provenance) -> dict[int, int]:
    """Sockets by the kernel's state number, of those that `request` asks for, without a table."""
    totals: dict[int, int] = {}
    provenance.source = "proc"
    for place, _ in visit_places(request, lambda: None, provenance.notices):
        provenance.netns.append(Netns(None, place.inode, place.name))
        opened = open_files(place, request.roots, request.family)
        try:
            for descriptor in opened.values():
                for state, count in _count_file(descriptor).items():
                    if request.states & 1 << state:
                        totals[state] = totals.get(state, 0) + count
        finally:
            close_files(opened)
    return totals


def _count_file(descriptor: int) -> dict[int, int]:
    """Sockets by state in one file. Raises ParseError that points into the whole file."""
    counts: dict[int, int] = {}
    offset = lines = 0
    for chunk in _whole_lines(descriptor):
        try:
            for state, count in count_proc_states(chunk).items():
                counts[state] = counts.get(state, 0) + count
        except ParseError as error:
            error.arguments["offset"] = error.offset = error.offset + offset
            error.arguments["line"] = int(str(error.arguments["line"])) + lines
            raise
        offset += len(chunk)
        lines += chunk.count(b"\n")
    return counts


def _whole_lines(descriptor: int) -> Iterator[bytes]:
    """The file in pieces that end with a line."""
    rest = b""
    while True:
        try:
            chunk = os.read(descriptor, CHUNK_BYTES)
        except OSError as error:
            raise _not_readable(error) from error
        if not chunk:
            break
        cut = chunk.rfind(b"\n") + 1
        if cut:
            yield rest + chunk[:cut]
            rest = chunk[cut:]
        else:
            rest += chunk
    if rest:
        yield rest


def read_records(opened: dict[int, int]) -> Iterator[SocketRecord]:
    """Every socket of the files that `open_files` opened."""
    for family, descriptor in opened.items():
        try:
            with open(descriptor, encoding="ascii", errors="surrogateescape", closefd=False) as lines:
                yield from parse_proc_net_tcp(lines, family)
        except OSError as error:
            raise _not_readable(error) from error


def _not_readable(error: OSError) -> SourceError:
    return SourceError("reading /proc/net failed: {reason}", reason=os.strerror(error.errno or 0))
