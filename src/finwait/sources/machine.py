"""What this machine can do for finwait, asked of the machine: every probe tries, or reads the kernel's own type information.

None goes by a version, none leaves anything behind, and none raises: what cannot be tried is `cannot tell`.
"""

from __future__ import annotations

import os
import sys as python

from finwait.errors import FinwaitError, Phrase
from finwait.sources import bpf_probes, diag_probes, host_probes
from finwait.table.capability import Capability, Machine, cannot_tell, no
from finwait.table.request import Roots
from finwait.text.messages import mark
from finwait.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from finwait.table.capability import Answer

    Probe = Callable[[Roots, Mapping[str, Capability]], Answer]

# name: (what finwait does with it, its probe). A probe may look at the answers of those before it.
PROBES: dict[str, tuple[str, Probe]] = {
    "sock_diag": (mark("count and list sockets by the kernel's own walk"), diag_probes.probe_sock_diag),
    "closed_visible": (mark("show CLOSED: sockets that are bound and not connected"), diag_probes.probe_bound),
    "socket_marks": (mark("show fwmarks, and filter by them"), diag_probes.probe_marks),
    "destroy_groups": (
        mark("hear of connections as they end, with their last figures"),
        diag_probes.probe_destroy_groups,
    ),
    "sock_destroy": (mark("end a connection from outside, where that is asked for"), diag_probes.probe_sock_destroy),
    "netns_cookie": (
        mark("tell network namespaces apart, even where numbers are used again"),
        diag_probes.probe_netns_cookie,
    ),
    "proc_net": (mark("count and list where sock_diag does not answer"), host_probes.probe_proc_net),
    "other_processes": (mark("name who holds each socket, without BPF"), host_probes.probe_other_processes),
    "other_namespaces": (
        mark("look into other network namespaces: -N, --all-netns"),
        host_probes.probe_other_namespaces,
    ),
    "cgroup2": (mark("name a socket's container, pod or unit"), host_probes.probe_cgroup2),
    "user_namespaces": (mark("experiment in namespaces without root"), host_probes.probe_user_namespaces),
    "libbpf": (mark("load BPF programs"), bpf_probes.probe_libbpf),
    "kernel_types": (mark("fit BPF programs to this kernel"), bpf_probes.probe_kernel_types),
    "bpf_objects": (mark("have the BPF programs of this version, compiled"), bpf_probes.probe_objects),
    "bpf_permitted": (mark("load BPF programs as this user"), bpf_probes.probe_permitted),
    "bpf_count": (mark("count by state inside the kernel, fast where sockets are many"), bpf_probes.probe_count),
    "bpf_list": (mark("list without a dump, fast where sockets are many"), bpf_probes.probe_list),
    "bpf_descriptors": (mark("name who holds each socket, in all namespaces at once"), bpf_probes.probe_descriptors),
    "bpf_owners": (mark("count by process inside the kernel"), bpf_probes.probe_owners),
    "bpf_trace": (
        mark("follow connections through their states, and keep counts without walks"),
        bpf_probes.probe_trace,
    ),
    "bpf_namespaces": (mark("find network namespaces that are only held open"), bpf_probes.probe_namespaces),
}
# What cannot be had without another.
NEEDS = dict.fromkeys(("closed_visible", "socket_marks", "destroy_groups", "sock_destroy"), "sock_diag")


def capabilities(*, proc: str = "/proc", sys: str = "/sys", cgroup: str | None = None) -> Machine:
    """What this machine can do for finwait, what is missing, and what would give it.

    proc, sys, cgroup: where the host's file systems are mounted. Raises nothing; takes some tenths of a second, most of it to
    load BPF programs and to unload them.
    """
    roots = Roots(proc, sys, cgroup)
    known: dict[str, Capability] = {}
    for name, (gives, probe) in PROBES.items():
        known[name] = Capability(name, gives, _ask(name, probe, roots, known))
    uname = os.uname()
    return Machine(
        list(known.values()),
        host=uname.nodename,
        kernel=uname.release,
        finwait=__version__,
        python=python.version.split()[0],
        user=os.geteuid(),
    )


def _ask(name: str, probe: Probe, roots: Roots, known: Mapping[str, Capability]) -> Answer:
    needed = known.get(NEEDS.get(name, ""))
    if needed is not None and needed.answer is False:
        return no(Phrase("{capability} is missing", capability=needed.name), needed.remedy)
    try:
        return probe(roots, known)
    except FinwaitError as error:
        return cannot_tell(error)
    except (OSError, ImportError) as error:
        return cannot_tell(Phrase("it could not be tried: {reason}", reason=error))
