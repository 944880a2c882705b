"""Which source to ask, known before any is asked: how many sockets there are about, and whether BPF may be loaded."""

from __future__ import annotations

import os

from finwait.table.snapshot import Notice
from finwait.text.messages import mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from finwait.errors import FinwaitError
    from finwait.table.request import Request

BPF_FALLBACK = mark("BPF could not be used ({reason}); sock_diag and /proc were asked instead")
# Loading a program takes 17 ms; a walk by it wins that back at so many sockets (0.45 us each instead of 0.9).
MANY_SOCKETS = 50_000
_CAP_SYS_ADMIN, _CAP_PERFMON, _CAP_BPF = 21, 38, 39


def pays_for_bpf(request: Request) -> bool:
    """Whether there are so many sockets that counting in the kernel is faster, and this process may."""
    return estimate_sockets(request) >= MANY_SOCKETS and may_load_bpf()


def estimate_sockets(request: Request) -> int:
    """About how many TCP sockets there are where `request` looks, without a walk: /proc/net/sockstat and sockstat6 of the own
    namespace; for others the host's number of allocated sockets too. Half-open connections are in none of these.
    """  # fmt: skip
    numbers = _read_sockstat(request.roots.proc)
    own = numbers.get("TCP: inuse", 0) + numbers.get("TCP: tw", 0) + numbers.get("TCP6: inuse", 0)
    return own if not (request.netns or request.all_netns) else max(own, numbers.get("TCP: alloc", 0))


def allocated_sockets(proc: str) -> int:
    """How many TCP sockets this host has, of all namespaces, without mini-sockets; 0 where that cannot be read."""
    return _read_sockstat(proc).get("TCP: alloc", 0)


def _read_sockstat(proc: str) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for name in ("sockstat", "sockstat6"):
        try:
            descriptor = os.open(f"{proc}/net/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            lines = os.read(descriptor, 4096).decode("ascii", "replace").splitlines()
        finally:
            os.close(descriptor)
        for line in lines:
            words = line.split()
            for key, value in zip(words[1::2], words[2::2], strict=False):
                numbers[f"{words[0]} {key}"] = int(value) if value.isdigit() else 0
    return numbers


def may_load_bpf() -> bool:
    """Whether this process has the capabilities that loading needs, so that nobody pays for a refusal: CAP_BPF and
    CAP_PERFMON, or CAP_SYS_ADMIN (man 7 capabilities).
    """  # fmt: skip
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as status:
            effective = next((int(line.split()[1], 16) for line in status if line.startswith("CapEff:")), 0)
    except (OSError, ValueError):
        return False
    return bool(effective >> _CAP_SYS_ADMIN & 1) or bool(effective >> _CAP_PERFMON & 1 and effective >> _CAP_BPF & 1)


def bpf_fallback(error: FinwaitError) -> Notice:
    """What to tell where BPF was tried, failed with `error`, and something else answered as completely."""
    return Notice("bpf_fallback", BPF_FALLBACK, incomplete=False, arguments={"reason": error})
