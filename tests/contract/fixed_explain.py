"""finwait explain on a made-up host: its settings and its sockets are the same for ever. Arguments as of finwait itself."""

from __future__ import annotations

import sys

from finwait import api
from finwait.cli import explain
from finwait.cli.main import main
from finwait.sources import sysctls
from finwait.table.snapshot import Group, Provenance, Snapshot
from finwait.tcp.state import LIFE_ORDER
from finwait.tcp.timers import SYSCTLS

# What was changed on it, and what its kernel does not have.
VALUES = {
    "ipv4.tcp_fin_timeout": "17",
    "ipv4.tcp_keepalive_time": "23",
    "ipv4.tcp_max_tw_buckets": "131072",
    "ipv4.tcp_max_orphans": "131072",
    "ipv4.tcp_max_syn_backlog": "2048",
    "ipv4.tcp_syn_linear_timeouts": None,
    "ipv4.tcp_tw_reuse_delay": None,
    "ipv4.tcp_rto_max_ms": None,
}
COUNTS = (3, 0, 21, 55, 15, 1, 23, 2, 4, 150, 0)  # in the order of a connection's life


def fixed_values(names: object, proc: str = "/proc") -> dict[str, str | None]:
    del names, proc
    return {name: default for name, (default, _) in SYSCTLS.items()} | VALUES


def fixed_count(request: object, wanted: object, by: tuple[str, ...]) -> Snapshot:
    del request, wanted
    groups = [Group((state.token,), count) for state, count in zip(LIFE_ORDER, COUNTS, strict=True)]
    return Snapshot(by, groups, sum(COUNTS), Provenance("sock_diag", host="web-1", taken_from=0.0, taken_to=0.5))


if __name__ == "__main__":
    sysctls.read_sysctls = fixed_values
    api.count_for = fixed_count
    explain._host = lambda: "web-1"
    sys.exit(main())
