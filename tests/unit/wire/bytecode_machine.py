"""The kernel's filter machine, written after net/ipv4/inet_diag.c: inet_diag_bc_run and inet_diag_bc_audit."""

from __future__ import annotations

import struct
from typing import NamedTuple

from finwait.wire.diag_filter import (
    AUTO,
    CGROUP_COND,
    D_COND,
    D_EQ,
    D_GE,
    D_LE,
    DEV_COND,
    JMP,
    MARK_COND,
    NOP,
    S_COND,
    S_EQ,
    S_GE,
    S_LE,
)

AF_INET, AF_INET6 = 2, 10
COMPARE = {
    S_GE: lambda entry, port: entry.sport >= port,
    S_LE: lambda entry, port: entry.sport <= port,
    S_EQ: lambda entry, port: entry.sport == port,
    D_GE: lambda entry, port: entry.dport >= port,
    D_LE: lambda entry, port: entry.dport <= port,
    D_EQ: lambda entry, port: entry.dport == port,
}
_LENGTHS = {DEV_COND: 8, MARK_COND: 12, CGROUP_COND: 12, **dict.fromkeys(COMPARE, 8)}


class Entry(NamedTuple):
    """struct inet_diag_entry; addresses are 16 bytes, IPv4 in the first four."""

    family: int = AF_INET
    saddr: bytes = bytes(16)
    daddr: bytes = bytes(16)
    sport: int = 0
    dport: int = 0
    autobound: bool = False
    ifindex: int = 0
    mark: int = 0
    cgroup_id: int = 0


def run(program: bytes, entry: Entry) -> bool:
    """inet_diag_bc_run: what is left is 0 where it accepts and -4 where it rejects."""
    at = 0
    while at < len(program):
        code, yes, no = struct.unpack_from("=BBH", program, at)
        at += yes if _holds(program, at, code, entry) else no
    return at == len(program)


def _holds(program: bytes, at: int, code: int, entry: Entry) -> bool:
    if code == NOP:
        return True
    if code == JMP:
        return False
    if code in {S_COND, D_COND}:
        return _host_matches(program, at + 4, entry, local=code == S_COND)
    if code == AUTO:
        return entry.autobound
    if code == DEV_COND:
        return bool(entry.ifindex == struct.unpack_from("=I", program, at + 4)[0])
    if code == MARK_COND:
        mark, mask = struct.unpack_from("=II", program, at + 4)
        return bool((entry.mark & mask) == mark)
    if code == CGROUP_COND:
        return bool(entry.cgroup_id == struct.unpack_from("=Q", program, at + 4)[0])
    return bool(COMPARE[code](entry, struct.unpack_from("=H", program, at + 6)[0]))


def _host_matches(program: bytes, at: int, entry: Entry, *, local: bool) -> bool:
    family, prefix, port = struct.unpack_from("=BBxxi", program, at)
    if port not in {-1, entry.sport if local else entry.dport}:
        return False
    address = entry.saddr if local else entry.daddr
    wanted = program[at + 8 : at + 24]
    if family not in {0, entry.family}:
        if entry.family == AF_INET6 and family == AF_INET:
            return address[:12] == bytes(10) + b"\xff\xff" and _bits(address[12:], prefix) == _bits(wanted, prefix)
        return False
    return prefix == 0 or _bits(address, prefix) == _bits(wanted, prefix)


def _bits(address: bytes, prefix: int) -> str:
    return "".join(f"{byte:08b}" for byte in address)[:prefix]


def audit(program: bytes) -> bool:
    """inet_diag_bc_audit and valid_cc: operations follow one another by `yes`; every `no` lands on one, or at the end."""
    starts, at = set(), 0
    while at < len(program):
        starts.add(at)
        code, yes, _ = struct.unpack_from("=BBH", program, at)
        if yes < _least_length(program, at, code) or yes % 4:
            return False
        at += yes
    if at != len(program):
        return False
    targets = {start + struct.unpack_from("=H", program, start + 2)[0] for start in starts}
    return all(target in starts or target in {len(program), len(program) + 4} for target in targets)


def _least_length(program: bytes, at: int, code: int) -> int:
    if code in {S_COND, D_COND}:
        return 12 + {0: 0, AF_INET: 4, AF_INET6: 16}[program[at + 4]]
    return _LENGTHS.get(code, 4)
