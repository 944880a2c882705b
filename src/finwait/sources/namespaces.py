"""Network namespaces: finding them, naming them, and opening sockets inside (man 7 network_namespaces, man 2 setns).

A netlink socket looks into the namespace in which it was created, for ever. So a short-lived thread enters, creates the
socket and ends; the caller's own namespace never changes and no descriptor of a namespace stays open.
"""

from __future__ import annotations

import os
from stat import S_ISREG

from finwait.errors import FinwaitError, NotPermitted, SourceError, UsageError
from finwait.table.snapshot import Netns, Notice
from finwait.text.messages import mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from finwait.table.request import Request, Roots

    Opened = TypeVar("Opened")

NAMED_DIR = "/run/netns"  # where ip-netns(8) keeps names
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
    if word.isascii() and word.isdigit():
        return _place_at(f"{roots.proc}/{word.lstrip('0') or '0'}/ns/net", word)
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
    """Every network namespace that has a name or a process, each once, the own one first; and what was not permitted."""
    own = own_place()
    place_by_inode = {own.inode: own}
    for name in _names():
        path = os.path.join(NAMED_DIR, name)
        inode = _inode(path)
        if inode is not None:
            known = place_by_inode.setdefault(inode, Place(path, inode, name))
            known.name = known.name or name
    hidden: list[str] = []
    for pid in filter(str.isdigit, _listdir(roots.proc)):
        path = f"{roots.proc}/{pid}/ns/net"
        try:
            inode = os.stat(path).st_ino
        except PermissionError:
            hidden.append(pid)
            continue
        except OSError:
            continue  # the process has ended
        place_by_inode.setdefault(inode, Place(path, inode, None))
    notices = []
    if hidden:
        arguments = {"count": len(hidden), "pid": hidden[0]}
        notices.append(
            Notice("netns_not_permitted", HIDDEN, missing="netns", remedy=HIDDEN_REMEDY, arguments=arguments)
        )
    return list(place_by_inode.values()), notices


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
    for place in places:
        try:
            opened = open_inside(place, opener)
        except FinwaitError as error:
            if not request.all_netns or place.path is None:
                raise
            if not isinstance(error, NotPermitted) and not os.path.exists(str(place.path)):
                continue  # its last process has ended since
            notices.append(Notice("netns_not_read", error.message_id, missing="netns", arguments=error.arguments))
            continue
        yield place, opened


def label(netns: Netns) -> str:
    """How people call `netns`: its name, else ``net:[inode]`` as in /proc, else its cookie."""
    if netns.name is not None:
        return netns.name
    return f"net:[{netns.inode}]" if netns.inode is not None else f"cookie:{netns.cookie}"
