"""Who holds a socket, or why nobody does: the tokens of `owner_kind` and `matched_by`, and the columns that tell of owners."""

from __future__ import annotations

from finwait.text.messages import mark

PROCESS = "process"
NOT_ACCEPTED = "not_accepted"
TIME_WAIT = "time_wait"
HALF_OPEN = "half_open"
ORPHAN = "orphan"
NO_DESCRIPTOR = "no_descriptor"
NOT_PERMITTED = "not_permitted"
# In the order of enum finwait_owner_kind (bpf/finwait.bpf.h); the last only user space can know.
OWNER_KINDS = (PROCESS, NOT_ACCEPTED, TIME_WAIT, HALF_OPEN, ORPHAN, NO_DESCRIPTOR, NOT_PERMITTED)
# What people read in brackets where a process would stand; None: its owner went away while it was looked for.
KIND_LABELS: dict[str | None, str] = {
    NOT_ACCEPTED: mark("not accepted"),
    TIME_WAIT: mark("time-wait"),
    HALF_OPEN: mark("half-open"),
    ORPHAN: mark("orphan"),
    NO_DESCRIPTOR: mark("no descriptor"),
    NOT_PERMITTED: mark("not permitted"),
}

# How an owner was found: iter/task_file with bpf_sock_from_file; inodes of /proc/PID/fd; the socket's own cgroup id (which
# names its creator's container, not a process); a recording that says so.
BY_TASK_FILE = "task_file"
BY_PROC_FD = "proc_fd"
BY_CGROUP_ID = "cgroup_id"
BY_RECORDING = "recording"

# Columns that need to know the processes; each row then stands once for each of the socket's owners.
OWNER_COLUMNS = frozenset({"process", "pid", "fd", "owner_kind", "matched_by", "container", "unit"})
# Columns that a socket's own uid and cgroup id tell.
LABEL_COLUMNS = frozenset({"user", "cgroup"})
SHORT_ID = 12  # digits of a container's id that docker ps shows too


def short_container(container: str) -> str:
    """A container's id as people know it: the first twelve of its 64 hexadecimal digits; a name stays whole."""
    is_id = len(container) == 64 and all(digit in "0123456789abcdef" for digit in container)
    return container[:SHORT_ID] if is_id else container


def names_of_cgroup(path: str | None) -> tuple[str | None, str | None]:
    """(container, unit) that the cgroup at `path` names, the container as people know it."""
    from finwait.wire.cgroup_path import parse_cgroup_path

    found = parse_cgroup_path(path or "")
    return None if found.container is None else short_container(found.container), found.unit
