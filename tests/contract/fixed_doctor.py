"""finwait doctor and ports on a made-up host that was looked at twice. Arguments as of finwait itself."""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from finwait import examination
from finwait.cli.main import main
from finwait.table.look import Host, Process
from finwait.table.snapshot import Netns, Notice, Provenance
from finwait.tcp.state import TcpState
from tests.unit.diagnosis import cases

LEAKER, SERVER = 4711, 23
NETNS = Netns(7, 4026531840, "web\x1b[31m")
_cookies = count(1)


def sock(state: TcpState, local: str, peer: str, **columns: object) -> cases.Row:
    return cases.sock(state, local, peer, cookie=next(_cookies), **columns)


ROWS = [
    cases.listener(3, 2, "0.0.0.0:80", cookie=next(_cookies), pid=SERVER, fd=5),
    *(
        sock(
            TcpState.CLOSE_WAIT,
            f"127.0.0.1:{40_000 + at}",
            "127.0.0.1:6379",
            pid=LEAKER,
            fd=7 + at,
            recv_q=1,
            last_ack_recv_ms=700_000 + at,
        )
        for at in range(7)
    ),
    *(
        sock(TcpState.FIN_WAIT2, "127.0.0.1:6379", f"127.0.0.1:{40_000 + at}", pid=SERVER, fd=40 + at)
        for at in range(7)
    ),
    *(
        sock(TcpState.TIME_WAIT, f"10.0.0.1:{32_768 + at}", "10.9.0.1:443", pid=None, expires_ms=30_000)
        for at in range(40)
    ),
]
SYSCTLS = {"ipv4.ip_local_port_range": "32768 32817", "netfilter.nf_conntrack_max": None, "ipv4.tcp_fin_timeout": "15"}


class FixedExaminer:
    """What an Examiner has after its looks."""

    def __init__(self) -> None:
        processes = {
            LEAKER: Process(LEAKER, "pool\x1b]0;x\x07", 950, 1000),
            SERVER: Process(SERVER, "redis", 60, 1000, 3, 3),
        }
        case = cases.case_of(
            ROWS,
            before=ROWS[:-7],
            counters={"TcpExt.ListenOverflows": 90, "TcpExt.ListenDrops": 90},
            sysctls=SYSCTLS,
            host=Host(processes, ghosts_seen=False),
            since_s=10.0,
        )
        for look in case.looks:
            look.netns = NETNS
        self._case = case
        self.provenance = Provenance("sock_diag", host="web-1", taken_from=1e9, taken_to=1e9 + 10, netns=(NETNS,))
        self.provenance.add_notice(Notice("owners_not_permitted", "processes hidden: {count}", arguments={"count": 3}))

    def cases(self) -> list[cases.Case]:
        return [self._case]


if __name__ == "__main__":
    examination.examine = lambda *_, **__: FixedExaminer()
    sys.exit(main())
