"""The kernel's counters and settings of one network namespace, and what processes may open.

/proc/net is the main thread's: inside another namespace it must be this thread's. /proc/sys/net shows the settings of the
namespace of whoever opens it.
"""

from __future__ import annotations

import os

from finwait.wire.proc_counters import parse_conntrack_stat, parse_open_files_limit, parse_snmp, parse_sockstat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from finwait.sources.namespaces import Place
    from finwait.table.request import Roots

_FILES: dict[str, Callable[[str], dict[str, int]]] = {
    "snmp": parse_snmp,
    "netstat": parse_snmp,
    "sockstat": parse_sockstat,
    "sockstat6": parse_sockstat,
    "stat/nf_conntrack": parse_conntrack_stat,
}
SECRETS = frozenset({"tcp_fastopen_key"})  # whoever has it can open connections in another's name
SYSCTL_NAMES = (
    "core.somaxconn",
    "ipv4.ip_forward",
    "ipv4.ip_local_port_range",
    "ipv4.ip_local_reserved_ports",
    "netfilter.nf_conntrack_count",
    "netfilter.nf_conntrack_max",
    "netfilter.nf_conntrack_tcp_timeout_established",
    "netfilter.nf_conntrack_tcp_timeout_time_wait",
)


def net_directory(place: Place, roots: Roots) -> str:
    """Where the files of /proc/net are for a thread inside `place`."""
    return f"{roots.proc}/net" if place.path is None else "/proc/thread-self/net"


def read_counters(directory: str) -> dict[str, int]:
    """All counters of the namespace whose ``net`` directory this is; files that are not there are left out."""
    found: dict[str, int] = {}
    for name, parse in _FILES.items():
        found.update(parse(_read(f"{directory}/{name}") or ""))
    return found


def read_settings(directory: str) -> dict[str, str]:
    """Every tcp_ sysctl and SYSCTL_NAMES, by name as ``ipv4.tcp_fin_timeout``, words one space apart; `directory` is
    /proc/sys/net for the namespace of the calling thread.
    """  # fmt: skip
    try:
        known = sorted(os.listdir(f"{directory}/ipv4"))
    except OSError:
        known = []
    names = (*SYSCTL_NAMES, *(f"ipv4.{name}" for name in known if name.startswith("tcp_") and name not in SECRETS))
    found = {name: _read(f"{directory}/{name.replace('.', '/')}") for name in names}
    return {name: " ".join(text.split()) for name, text in found.items() if text is not None}


def read_descriptor_limit(pid: int, proc: str) -> int | None:
    """RLIMIT_NOFILE (soft) of a process; None where it has none or may not be seen."""
    return parse_open_files_limit(_read(f"{proc}/{pid}/limits") or "")


def count_descriptors(pid: int, proc: str) -> int | None:
    """Open descriptors of a process; None where it may not be seen."""
    try:
        size = os.stat(f"{proc}/{pid}/fd").st_size  # since Linux 6.2 their number (fs/proc/fd.c)
        return size or len(os.listdir(f"{proc}/{pid}/fd"))
    except OSError:
        return None


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None
