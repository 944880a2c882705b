"""Network namespaces that no process lives in: kept by a mounted file (docker and CNI do so) or by an open descriptor."""

from __future__ import annotations

import os

from finwait.errors import NotPermitted, NotSupported, SourceError
from finwait.sources.choice import may_load_bpf
from finwait.sources.proc_fd import process_ids, visit_descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MANY_FILES = 20_000  # looking at each by /proc costs 2 us, loading a BPF program 17 ms


def mounted_namespaces(proc: str = "/proc") -> list[tuple[int, str]]:
    """(inode, path) of each network namespace's file that is mounted somewhere (man 5 proc, mountinfo)."""
    found = []
    try:
        with open(f"{proc}/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                before, _, behind = line.partition(" - ")
                fields = before.split()
                if behind.startswith("nsfs ") and fields[3].startswith("net:["):
                    found.append((int(fields[3][5:-1]), unescape(fields[4])))
    except (OSError, ValueError, IndexError):
        return found
    return found


def unescape(path: str) -> str:
    """A path of mountinfo: blank, tab, newline and backslash are octal (man 5 proc)."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, character)
    return path


def held_namespaces(proc: str = "/proc") -> Iterator[tuple[int, str]]:
    """(inode, path) of each descriptor of a network namespace's file that may be looked at."""
    for pid, fd in _namespace_descriptors(proc):
        path = f"{proc}/{pid}/fd/{fd}"
        try:
            target = os.readlink(path)
        except OSError:
            continue  # closed since, or not permitted
        if target.startswith("net:["):
            yield int(target[5:-1]), path


def _namespace_descriptors(proc: str) -> list[tuple[int, int]]:
    if proc == "/proc" and _open_files(proc) >= MANY_FILES and may_load_bpf():
        try:
            return _by_bpf()
        except (NotSupported, NotPermitted, SourceError):
            pass  # /proc tells the same, more slowly
    return _by_proc(proc)


def _open_files(proc: str) -> int:
    """How many files are open on this host, of all kinds (Documentation/admin-guide/sysctl/fs.rst, file-nr)."""
    try:
        with open(f"{proc}/sys/fs/file-nr", encoding="ascii") as file:
            return int(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def _by_bpf() -> list[tuple[int, int]]:
    from finwait.sources.libbpf import BpfObject, drain
    from finwait.wire.bpf_records import Layout

    with BpfObject("ns_files") as walker:
        rows = Layout("finwait_ns_file").named(drain(walker.open_iterator("list_ns_files")))
        return [(row["tgid"], row["fd"]) for row in rows]


def _by_proc(proc: str) -> list[tuple[int, int]]:
    """Files on the file system of namespaces, whose device number the own namespace's file tells."""
    device = os.stat("/proc/self/ns/net").st_dev
    found: list[tuple[int, int]] = []
    for pid in process_ids(proc):
        visit_descriptors(proc, pid, _collector(device, pid, found))
    return found


def _collector(device: int, pid: int, found: list[tuple[int, int]]) -> Callable[[str, os.stat_result], None]:
    def collect(name: str, status: os.stat_result) -> None:
        if status.st_dev == device:
            found.append((pid, int(name)))

    return collect
