"""finwait trace of a made-up host: the same changes for ever, no kernel. Arguments as of finwait itself."""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import TYPE_CHECKING

import numpy as np

from finwait import tracing
from finwait.cli.main import main
from finwait.sources.change_columns import batch_of, lifetimes_of
from finwait.sources.change_records import CHANGE, CHANGES, COUNTS, LIFETIME
from finwait.table.change import Loss, Ready, Summary, Times, Totals
from finwait.table.snapshot import Netns, Notice, Provenance
from finwait.tcp.state import TcpState as State
from finwait.wire.bpf_layouts import ENUMS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from finwait.table.batch import Batch
    from finwait.tracing import TraceQuestion

UP_NS = 10**13  # since boot
CLOCK_NS = 10**18 - UP_NS  # it is 2001-09-09T01:46:40Z
WEB, OTHER = Netns(7, 4026531840, "web\x1b[31m"), Netns(23)
NAMES = {4711: "nginx", 23: "pool\x1b]0;x\x07"}
US, MS, S = 1_000, 1_000_000, 1_000_000_000
PEER, PEER_6, LOCAL, ANY = ("10.9.0.1", 40001), ("fd77::1", 40003), ("10.0.0.1", 80), ("0.0.0.0", 0)
HINTS = {name.removeprefix("FINWAIT_"): bit for name, bit in ENUMS.items()}


def packed(address: str) -> tuple[int, bytes]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.inet_pton(family, address).ljust(16, b"\0")


def record(
    at_ns: int,
    left: State,
    to: State,
    peer: tuple[str, int] = PEER,
    *hints: str,
    local: tuple[str, int] = LOCAL,
    lasted_ns: int = 0,
    **fields: int,
) -> dict[str, object]:
    family, peer_address = packed(peer[0])
    return {
        "at_ns": UP_NS + at_ns, "since_ns": UP_NS + at_ns - lasted_ns if lasted_ns else 0, "netns_cookie": 7, "family": family,
        "local_address": np.frombuffer(packed(local[0])[1], "u1"), "local_port": local[1],
        "peer_address": np.frombuffer(peer_address, "u1"), "peer_port": peer[1],
        "from": left, "to": to, "hints": sum(HINTS[hint] for hint in hints), **fields,
    }  # fmt: skip


def begins(*at_ns: int) -> list[int]:
    """Of the states of a path; 0: not seen."""
    return [*(UP_NS + at if at else 0 for at in at_ns), *[0] * (8 - len(at_ns))]


RECORDS = [
    record(17 * MS, State.CLOSE, State.LISTEN, ANY, cookie=1, tgid=4711),
    record(23 * MS, State.LISTEN, State.SYN_RECV),
    record(23 * MS + 31 * US, State.SYN_RECV, State.ESTABLISHED, lasted_ns=31 * US, cookie=2),
    record(31 * MS, State.ESTABLISHED, State.FIN_WAIT1, PEER, "RELEASED", lasted_ns=7_969 * US, cookie=2, tgid=4711),
    record(31 * MS + 53 * US, State.FIN_WAIT1, State.FIN_WAIT2, lasted_ns=53 * US, cookie=2, tgid=4711),
    record(31 * MS + 61 * US, State.FIN_WAIT2, State.TIME_WAIT, lasted_ns=8 * US, cookie=2, tgid=4711),
    record(
        37 * MS, State.SYN_SENT, State.CLOSE, ("fd77::1", 443), "RST_RECEIVED", local=PEER_6, lasted_ns=97 * US, cookie=3,
        tgid=23, error=111,
    ),
    record(41 * MS, State.ESTABLISHED, State.CLOSE_WAIT, ("::ffff:10.9.0.2", 40002), local=("::ffff:10.0.0.1", 80), cookie=4,
           tgid=4711, netns_cookie=23),
    record(43 * MS, State.ESTABLISHED, State.CLOSE, ("10.9.0.3", 40005), "NO_PROGRAM", cookie=5, evidence=1, shutdown=3,
           lasted_ns=3_607 * S),
    record(60 * S + 32 * MS, State.TIME_WAIT, State.CLOSE, PEER, "BY_TIMER", lasted_ns=60 * S + 2 * MS, cookie=2, tgid=4711),
]  # fmt: skip
LIVES = [
    {
        **RECORDS[5],
        "begins_ns": begins(23 * MS, 23 * MS + 31 * US, 31 * MS, 31 * MS + 53 * US),
        "states": [State.SYN_RECV, State.ESTABLISHED, State.FIN_WAIT1, State.FIN_WAIT2, 0, 0, 0, 0],
        "bytes_acked": 1_001, "bytes_received": 101, "srtt_us": 211,
    },
    {
        **RECORDS[6], "begins_ns": begins(37 * MS - 97 * US), "states": [State.SYN_SENT, *[0] * 7],
    },
    {
        **RECORDS[7], "from": State.LAST_ACK, "to": State.CLOSE, "begins_ns": begins(0, 36 * MS, 39 * MS),
        "states": [State.ESTABLISHED, State.CLOSE_WAIT, State.LAST_ACK, *[0] * 5], "bytes_received": 2**40, "total_retrans": 3,
    },
]  # fmt: skip


def rows(dtype: np.dtype, records: list[dict[str, object]]) -> np.ndarray:
    found = np.zeros(len(records), dtype)
    for at, fields in enumerate(records):
        for name, value in fields.items():
            found[name][at] = value
    return found


def names(tgids: Iterable[int]) -> Mapping[int, str]:
    return {tgid: NAMES[tgid] for tgid in tgids}


def times(counts: dict[int, int], total_us: int) -> Times:
    return Times(tuple(counts.get(bucket, 0) for bucket in range(ENUMS["FINWAIT_BUCKETS"])), total_us)


def summary(begin_s: int) -> Summary:
    changes = {
        (State.LISTEN, State.SYN_RECV): 1_009, (State.SYN_RECV, State.ESTABLISHED): 1_007,
        (State.ESTABLISHED, State.FIN_WAIT1): 1_009,
        (State.FIN_WAIT1, State.FIN_WAIT2): 1_009, (State.TIME_WAIT, State.CLOSE): 23,
    }  # fmt: skip
    spent = {State.SYN_RECV: times({17: 990, 60: 17}, 1_017_017), State.TIME_WAIT: times({99: 23}, 23 * 60_002_000)}
    begin_ns = CLOCK_NS + UP_NS + begin_s * S
    totals = (Totals(WEB, changes, spent), Totals(None, {(State.CLOSE, State.SYN_SENT): 1}, {})) if not begin_s else ()
    return Summary(begin_ns, begin_ns + 5 * S, 5.0, totals)


class FixedTrace:
    """What a Trace yields, without its kernel."""

    def __init__(self, question: TraceQuestion, **_: object) -> None:
        self.question = question
        self.lost = 0
        self.provenance = Provenance("bpf", host="web-1", netns=(WEB,), taken_from=1e9)

    def __iter__(self) -> Iterator[Ready | Batch | Loss | Summary]:
        yield Ready(self.provenance, "bpf")
        if self.question.tells == COUNTS:
            yield summary(0)
            yield summary(5)
        elif self.question.tells == CHANGES:
            batch = batch_of(rows(CHANGE, RECORDS), CLOCK_NS, (WEB,), names)
            yield batch.head(4)
            self.lost = 23
            yield Loss(CLOCK_NS + UP_NS + 29 * MS, 23)
            yield batch.take(np.arange(batch.length) >= 4)
        else:
            yield lifetimes_of(rows(LIFETIME, LIVES), CLOCK_NS, (WEB,), names)
        self.provenance.taken_to = 1e9 + 61
        self.provenance.add_notice(
            Notice("netns_not_read", "made up: {count}", missing="netns", arguments={"count": 1})
        )


if __name__ == "__main__":
    os.environ["TZ"] = "UTC"
    time.tzset()
    tracing.Trace = FixedTrace
    sys.exit(main())
