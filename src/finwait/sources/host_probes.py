"""What the host lets this process see: /proc, other processes, namespaces, cgroups (man 5 proc, 7 namespaces, 7 cgroups).

Whatever is tried is tried in a thread or a process that ends with it.
"""

from __future__ import annotations

import os
from _socket import AF_INET, SOCK_DGRAM, socket
from fcntl import ioctl
from struct import Struct
from warnings import catch_warnings, simplefilter

from finwait.errors import NotPermitted, NotSupported, Phrase, SourceError
from finwait.sources.bindings import find_cgroup2_mounts
from finwait.sources.namespaces import NAMED_DIR, Place, open_inside, own_place
from finwait.sources.proc_fd import hidden_processes, process_ids
from finwait.sources.proc_net import close_files, open_files
from finwait.table.capability import cannot_tell, no, yes
from finwait.text.messages import mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from ctypes import CDLL

    from finwait.table.capability import Answer, Capability
    from finwait.table.request import Roots

CAP_SYS_PTRACE = 19
_OWN_NETNS = "/proc/thread-self/ns/net"
NOBODY = 65534
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_IFREQ = Struct("=16sh22x")  # ifr_name, ifr_flags
_POWERLESS, _NOT_TRIED = 254, 255  # exit codes beside errno
HIDDEN_DESCRIPTORS = mark("processes whose descriptors may not be looked at: {count}, the first is process {pid}")
NO_OTHER_NAMESPACE = mark("found no other to enter; processes whose network namespace may not be looked at: {count}")
_PTRACE = mark("CAP_SYS_PTRACE in the user namespace of those processes")
_SYS_ADMIN = mark("CAP_SYS_ADMIN in the user namespace that owns the network namespace")
_USERNS_REMEDY = mark(
    "root; or sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns"
)


def effective_capabilities(proc: str) -> int | None:
    """CapEff of this process, a bit a capability (man 7 capabilities); None where it cannot be read."""
    try:
        with open(f"{proc}/self/status", encoding="utf-8", errors="replace") as status:
            return next((int(line.split()[1], 16) for line in status if line.startswith("CapEff:")), None)
    except (OSError, ValueError, IndexError):
        return None


def probe_proc_net(roots: Roots, _: Mapping[str, Capability]) -> Answer:
    """/proc/net/tcp opens and has its line of titles."""
    try:
        opened = open_files(own_place(), roots, None)
    except (NotSupported, NotPermitted) as error:
        return no(error, mark("/proc mounted, or --proc"))
    try:
        for descriptor in opened.values():
            os.read(descriptor, 64)
    finally:
        close_files(opened)
    return yes()


def probe_other_processes(roots: Roots, _: Mapping[str, Capability]) -> Answer:
    """The first descriptor of every process can be looked at."""
    hidden = hidden_processes(roots.proc)
    if hidden:
        reason = Phrase(HIDDEN_DESCRIPTORS, count=len(hidden), pid=hidden[0])
        return no(reason, _PTRACE)
    powers = effective_capabilities(roots.proc)
    if _leaves_out_processes(roots.proc) and not (powers is not None and powers >> CAP_SYS_PTRACE & 1):
        return cannot_tell(
            Phrase("{proc} is mounted with hidepid and may leave out processes", proc=roots.proc), _PTRACE
        )
    return yes()


def _leaves_out_processes(proc: str) -> bool:
    """Whether `proc` is mounted with hidepid=invisible or ptraceable (Documentation/filesystems/proc.rst, section 4)."""
    try:
        with open(f"{proc}/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
            mounts = [line.split() for line in lines]
    except OSError:
        return False
    options = {option for mount in mounts if mount[4] == proc for option in mount[-1].split(",")}
    return not options.isdisjoint({"hidepid=2", "hidepid=invisible", "hidepid=4", "hidepid=ptraceable"})


def probe_other_namespaces(roots: Roots, _: Mapping[str, Capability]) -> Answer:
    """A thread enters another network namespace; where there is none its own, which needs CAP_SYS_ADMIN likewise."""
    own = own_place()
    places, hidden = _find_others(roots.proc, own.inode)
    refusal: Answer | None = None
    for place in places:
        try:
            open_inside(place, lambda: None)
        except NotPermitted as error:
            refusal = no(error, _SYS_ADMIN)
        except SourceError:  # its last process has ended since
            continue
        else:
            return yes()
    if refusal is not None:
        return refusal
    try:
        open_inside(Place(_OWN_NETNS, own.inode, _OWN_NETNS), lambda: None)
    except NotPermitted:
        return no(Phrase("this process may not enter network namespaces"), _SYS_ADMIN)
    if hidden:
        return cannot_tell(Phrase(NO_OTHER_NAMESPACE, count=hidden), _PTRACE)
    return yes(Phrase("there is no other at the moment"))


def _find_others(proc: str, own: int | None) -> tuple[list[Place], int]:
    """Network namespaces that have an ip-netns name or a process, and how many processes do not show theirs. Not those that are
    only mounted or held open: to find them takes a walk over every descriptor.
    """  # fmt: skip
    paths = [f"{NAMED_DIR}/{name}" for name in (os.listdir(NAMED_DIR) if os.path.isdir(NAMED_DIR) else ())]
    paths += [f"{proc}/{pid}/ns/net" for pid in process_ids(proc)]
    place_by_inode: dict[int, Place] = {}
    hidden = 0
    for path in paths:
        try:
            inode = os.stat(path).st_ino
        except PermissionError:
            hidden += 1
        except OSError:
            continue  # the process has ended
        else:
            place_by_inode.setdefault(inode, Place(path, inode, path))
    return [place for inode, place in place_by_inode.items() if inode != own], hidden


def probe_cgroup2(roots: Roots, _: Mapping[str, Capability]) -> Answer:
    """A cgroup v2 tree is mounted and can be read."""
    mounts = [roots.cgroup] if roots.cgroup is not None else find_cgroup2_mounts(roots)
    refusal = Phrase("no cgroup v2 tree is mounted")
    for mount in mounts:
        try:
            os.listdir(mount)
        except OSError as error:
            refusal = Phrase("cannot read {path}: {reason}", path=mount, reason=error.strerror)
            continue
        return yes(Phrase("at {path}", path=mount))
    return no(refusal, mark("mount -t cgroup2 none /sys/fs/cgroup, or --cgroup"))


def probe_user_namespaces(_: Roots, __: Mapping[str, Capability]) -> Answer:
    """A child, as ordinary user, makes a user namespace and a network namespace in it, and may rule there."""
    from ctypes import CDLL

    library = CDLL(None, use_errno=True)
    with catch_warnings():  # Python 3.12 warns of a fork beside threads; this child only makes system calls
        simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = _NOT_TRIED
        try:
            code = _make_namespaces(library)
        finally:
            os._exit(code)  # nothing of the parent's is flushed or cleaned up
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 0:
        return yes()
    if code == _NOT_TRIED:
        return cannot_tell(Phrase("no ordinary user could be tried"), _USERNS_REMEDY)
    if code == _POWERLESS:
        return no(
            Phrase("an ordinary user has no power in user namespaces (a security module takes it)"), _USERNS_REMEDY
        )
    reason = os.strerror(code) if code > 0 else f"signal {-code}"
    return no(Phrase("an ordinary user may not make user namespaces: {reason}", reason=reason), _USERNS_REMEDY)


def _make_namespaces(library: CDLL) -> int:
    """0, the errno of unshare(2), or one of the codes above."""
    from ctypes import get_errno

    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    if library.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        return get_errno()
    try:
        ioctl(socket(AF_INET, SOCK_DGRAM), _SIOCSIFFLAGS, _IFREQ.pack(b"lo", _IFF_UP))
    except PermissionError:
        return _POWERLESS
    return 0
