"""Owners by /proc/PID/fd (man 5 proc): the way without BPF. A descriptor of a socket shows the socket's inode number.

Threads that unshared their descriptors are not looked at. Needs CAP_SYS_PTRACE for other users' processes.
"""

from __future__ import annotations

import os
from array import array
from stat import S_ISSOCK

from finwait.errors import SourceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class SocketDescriptors:
    """inodes, pids, fds: of each descriptor of a socket of any kind, in order of processes. hidden: ids of processes whose
    descriptors could not be looked at.
    """  # fmt: skip

    __slots__ = ("fds", "hidden", "inodes", "pids")

    def __init__(self) -> None:
        self.inodes = array("Q")
        self.pids = array("I")
        self.fds = array("I")
        self.hidden: list[int] = []


def read_socket_descriptors(proc: str = "/proc") -> SocketDescriptors:
    """Every socket descriptor that this process may see. Raises SourceError where `proc` cannot be read."""
    found = SocketDescriptors()
    for pid in process_ids(proc):
        if not _add_sockets(found, proc, pid):
            found.hidden.append(pid)
    return found


def _add_sockets(found: SocketDescriptors, proc: str, pid: int) -> bool:
    """Add those of process `pid`; False where that is not permitted. A call for each descriptor would cost a third more."""
    add_inode, add_pid, add_fd, stat = found.inodes.append, found.pids.append, found.fds.append, os.stat
    try:
        directory = _open_directory(proc, pid)
        if directory is None:
            return True
        try:
            for name in os.listdir(directory):
                try:
                    status = stat(name, dir_fd=directory)
                except PermissionError:
                    os.readlink(
                        name, dir_fd=directory
                    )  # permitted where only the file's own file system refuses (FUSE)
                    continue
                except OSError:
                    continue  # closed since, or of a file system that does not answer (ENOTCONN)
                if S_ISSOCK(status[0]):
                    add_inode(status[1])
                    add_pid(pid)
                    add_fd(int(name))
        finally:
            os.close(directory)
    except PermissionError:
        return False
    except OSError:
        return True  # the process has ended
    return True


def _open_directory(proc: str, pid: int) -> int | None:
    """A descriptor of /proc/PID/fd; None where the process has ended. Raises PermissionError."""
    try:
        return os.open(f"{proc}/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        raise
    except OSError:
        return None


def process_ids(proc: str = "/proc") -> list[int]:
    """The processes there are. Raises SourceError."""
    try:
        return sorted(int(name) for name in os.listdir(proc) if name.isascii() and name.isdigit())
    except OSError as error:
        raise SourceError("cannot read {path}: {reason}", path=proc, reason=os.strerror(error.errno or 0)) from error


def visit_descriptors(proc: str, pid: int, visit: Callable[[str, os.stat_result], None]) -> bool:
    """Call `visit` with name and status of each descriptor of process `pid`; False where that is not permitted.

    A process or descriptor that goes away on the way is no error.
    """
    try:
        directory = _open_directory(proc, pid)
    except PermissionError:
        return False
    if directory is None:
        return True
    try:
        for name in os.listdir(directory):
            try:
                visit(name, os.stat(name, dir_fd=directory))
            except PermissionError:
                return False
            except OSError:
                continue  # closed since
    except PermissionError:
        return False
    except OSError:
        return True
    finally:
        os.close(directory)
    return True


def hidden_processes(proc: str = "/proc") -> list[int]:
    """Ids of processes whose descriptors may not be looked at, found by their first descriptor."""
    return [pid for pid in process_ids(proc) if not _may_look(f"{proc}/{pid}/fd")]


INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # its inode (include/uapi/linux/nsfs.h, PID_NS_INIT_INO)


def sees_all_processes() -> bool:
    """Whether this process is in the initial pid namespace. In another neither /proc nor BPF's iterators show the processes
    outside of it, whose sockets may be in the same network namespace.
    """  # fmt: skip
    try:
        return os.stat("/proc/self/ns/pid").st_ino == INITIAL_PID_NAMESPACE
    except OSError:
        return False


def _may_look(path: str) -> bool:
    """By the link of the first descriptor: the file behind it may be refused by its own file system."""
    try:
        with os.scandir(path) as entries:
            first = next(entries, None)
        if first is not None:
            os.readlink(first.path)
    except PermissionError:
        return False
    except OSError:
        return True
    return True


def read_protocol(proc: str, pid: int, fd: int) -> str | None:
    """The protocol of the socket behind a descriptor, such as ``TCP`` or ``TCPv6`` (net/socket.c, sockfs_xattr_get); None where
    it cannot be had.
    """  # fmt: skip
    try:
        return os.getxattr(f"{proc}/{pid}/fd/{fd}", "system.sockprotoname").rstrip(b"\0").decode("ascii", "replace")
    except OSError:
        return None


def read_inode(proc: str, pid: int, fd: int) -> int | None:
    """The inode number of the file behind a descriptor; None where it cannot be had."""
    try:
        return os.stat(f"{proc}/{pid}/fd/{fd}").st_ino
    except OSError:
        return None


def read_comm(pid: int, proc: str = "/proc") -> str | None:
    """The name of process `pid`; None where it has ended."""
    try:
        with open(f"{proc}/{pid}/comm", "rb") as file:
            return file.read().removesuffix(b"\n").decode("utf-8", "surrogateescape")
    except OSError:
        return None
