"""Network namespaces: finding them, naming them, and opening sockets inside (man 7 network_namespaces, man 2 setns).

A netlink socket looks into the namespace in which it was created, for ever. So a short-lived thread enters, creates the
socket and ends; the caller's own namespace never changes and no descriptor of a namespace stays open.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, SOL_SOCKET, socket
from stat import S_ISREG
from sys import byteorder

from finwait.errors import FinwaitError, NotPermitted, SourceError, UsageError
from finwait.table.snapshot import Notice
from finwait.text.messages import mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from finwait.table.request import Request, Roots

    Opened = TypeVar("Opened")

NAMED_DIR = "/run/netns"  # where ip-netns(8) keeps names
PID_PREFIX = "pid:"  # of the name of a namespace that only has processes; -N takes it too
SO_NETNS_COOKIE = 71
CLONE_NEWNET = 0x40000000
NO_NETNS = mark("'{word}' is no network namespace")


class Place:
    """A namespace to read. path: of its nsfs file, None for the caller's own. inode: of that file. name: as `Netns`."""

    __slots__ = ("inode", "name", "path")

    def __init__(self, path: str | None, inode: int | None, name: str | None) -> None:
        self.path = path
        self.inode = inode
        self.name = name


def own_place() -> Place:
    """The caller's own namespace."""
    return Place(None, _inode("/proc/self/ns/net"), None)


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


def place_of(word: str, roots: Roots) -> Place:
    """The namespace that ``-N`` names: a number is a process id, a word with ``/`` a path, any other an ip-netns name.

    Raises SourceError (not there; names the nearest), NotPermitted, or UsageError for a word that can be none of them.
    """
    if not word or "\0" in word:
        raise UsageError("a network namespace is a name, a process id or a path, not '{word}'", word=word)
    pid = word.removeprefix(PID_PREFIX)
    if pid.isascii() and pid.isdigit():
        return _place_at(f"{roots.proc}/{pid.lstrip('0') or '0'}/ns/net", word)
    if "/" in word:
        return _place_at(word, word)
    return _place_at(os.path.join(NAMED_DIR, word), word)


def _place_at(path: str, word: str) -> Place:
    try:
        found = os.stat(path)
    except PermissionError as error:
        raise _not_permitted(word) from error
    except OSError as error:
        names = _names()
        if path.startswith(NAMED_DIR) and names:
            from difflib import get_close_matches

            nearest = get_close_matches(word, names, n=1, cutoff=0.0)[0]
            raise SourceError(
                "there is no network namespace '{word}'; did you mean {nearest}?", word=word, nearest=nearest
            ) from error
        raise SourceError("there is no network namespace '{word}' ({path})", word=word, path=path) from error
    if not S_ISREG(found.st_mode):  # opening a pipe would wait, opening a device may do anything
        raise SourceError(NO_NETNS, word=word)
    return Place(path, found.st_ino, word)


def _not_permitted(word: str) -> NotPermitted:
    return NotPermitted("not permitted to enter network namespace '{word}'; CAP_SYS_ADMIN would be needed", word=word)


def _names() -> list[str]:
    try:
        return sorted(os.listdir(NAMED_DIR))
    except OSError:
        return []


def find_places(roots: Roots) -> tuple[list[Place], list[Notice]]:
    """Every network namespace that has a name, a process, a mounted file or an open descriptor, each once, the own one first;
    and what was not permitted.
    """  # fmt: skip
    from finwait.sources.namespace_files import held_namespaces, mounted_namespaces

    own = own_place()
    place_by_inode = {own.inode: own}
    for name in _names():
        path = os.path.join(NAMED_DIR, name)
        inode = _inode(path)
        if inode is not None:
            known = place_by_inode.setdefault(inode, Place(path, inode, name))
            known.name = known.name or name
    hidden = _add_places_of_processes(place_by_inode, roots)
    for inode, path in (*mounted_namespaces(), *held_namespaces(roots.proc)):
        place_by_inode.setdefault(inode, Place(path, inode, path))
    notices = []
    if hidden:
        arguments = {"count": len(hidden), "pid": hidden[0]}
        notices.append(
            Notice("netns_not_permitted", HIDDEN, missing="netns", remedy=HIDDEN_REMEDY, arguments=arguments)
        )
    return list(place_by_inode.values()), notices


def _add_places_of_processes(place_by_inode: dict[int | None, Place], roots: Roots) -> list[str]:
    """Add the namespaces of processes, called by the first one's container, else by that process; returns the ids of those that
    may not be looked at.
    """  # fmt: skip
    hidden: list[str] = []
    for pid in sorted(filter(str.isdigit, _listdir(roots.proc)), key=int):
        path = f"{roots.proc}/{pid}/ns/net"
        try:
            inode = os.stat(path).st_ino
        except PermissionError:
            hidden.append(pid)
            continue
        except OSError:
            continue  # the process has ended
        if inode not in place_by_inode:
            place_by_inode[inode] = Place(path, inode, _name_by_process(pid, roots))
    return hidden


def _name_by_process(pid: str, roots: Roots) -> str:
    from finwait.sources.cgroups import read_process_cgroup
    from finwait.table.owners import names_of_cgroup

    container, _ = names_of_cgroup(read_process_cgroup(int(pid), roots.proc))
    return container or f"{PID_PREFIX}{pid}"


HIDDEN = mark("processes whose network namespace could not be looked at: {count}, the first is process {pid}")
HIDDEN_REMEDY = mark("CAP_SYS_PTRACE and CAP_SYS_ADMIN in the user namespace of the process")


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError as error:
        raise SourceError("cannot read {path}: {reason}", path=path, reason=os.strerror(error.errno or 0)) from error


def open_inside(place: Place, opener: Callable[[], Opened]) -> Opened:
    """What `opener` returns when called inside `place`. Whatever it raises is raised here.

    Raises NotPermitted or SourceError where the namespace cannot be entered.
    """
    if place.path is None:
        return opener()
    from threading import Thread

    outcome: list[Opened | BaseException] = []

    def enter() -> None:
        try:
            _setns(place)
            outcome.append(opener())
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread
            outcome.append(error)

    thread = Thread(target=enter, name="finwait-setns")
    thread.start()
    thread.join()
    opened = outcome[0]
    if isinstance(opened, BaseException):
        raise opened
    return opened


def _setns(place: Place) -> None:
    from ctypes import CDLL, get_errno

    path, word = str(place.path), str(place.name or place.path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError as error:
        raise _not_permitted(word) from error
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise SourceError("cannot open network namespace '{word}': {reason}", word=word, reason=reason) from error
    try:
        if place.inode is not None and os.fstat(descriptor).st_ino != place.inode:
            raise SourceError("network namespace '{word}' has ended", word=word)
        if CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) == 0:
            return
    finally:
        os.close(descriptor)
    errno = get_errno()
    if errno == 1:
        raise _not_permitted(word)
    if errno == 22:
        raise SourceError(NO_NETNS, word=word)
    raise SourceError("cannot enter network namespace '{word}': {reason}", word=word, reason=os.strerror(errno))


def places_of(request: Request) -> tuple[list[Place], list[Notice]]:
    """The namespaces that `request` asks for, each once, and what of them was not permitted to be found."""
    if request.all_netns:
        return find_places(request.roots)
    if not request.netns:
        return [own_place()], []
    return list(
        {place.inode: place for place in (place_of(word, request.roots) for word in request.netns)}.values()
    ), []


def visit_places(
    request: Request, opener: Callable[[], Opened], notices: list[Notice]
) -> Iterator[tuple[Place, Opened]]:
    """Each namespace that `request` asks for with what `opener` returned inside it.

    One that was asked for by name raises where it cannot be entered; with ``all_netns`` it becomes a notice.
    """
    places, hidden = places_of(request)
    notices.extend(hidden)
    visited: set[int] = set()
    for place in places:
        try:
            cookie, opened = open_inside(place, lambda: (_cookie_if_new(visited), opener()))
        except _Visited:
            continue
        except FinwaitError as error:
            if not request.all_netns or place.path is None:
                raise
            if not isinstance(error, NotPermitted) and not os.path.exists(str(place.path)):
                continue  # its last process has ended since
            notices.append(Notice("netns_not_read", error.message_id, missing="netns", arguments=error.arguments))
            continue
        if cookie:
            visited.add(cookie)
        yield place, opened


class _Visited(Exception):  # noqa: N818 - no error: the way out of a namespace
    """The namespace was entered by another path already."""


def _cookie_if_new(visited: set[int]) -> int:
    """The cookie of the calling thread's namespace, 0 before Linux 5.14. Raises _Visited for one of `visited`: inode numbers
    are used again while one looks, cookies are not.
    """  # fmt: skip
    probe = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
    try:
        cookie = int.from_bytes(probe.getsockopt(SOL_SOCKET, SO_NETNS_COOKIE, 8), byteorder)
    except OSError:
        return 0
    finally:
        probe.close()
    if cookie in visited:
        raise _Visited
    return cookie
