"""What is asked of a source: which namespaces, families and states, and what the rows must carry."""

from __future__ import annotations

from finwait.wire.inet_diag import ALL_STATES_MASK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Roots:
    """Where the host's file systems are mounted, for an agent in a container that looks at its host."""

    __slots__ = ("cgroup", "proc", "sys")

    def __init__(self, proc: str = "/proc", sys: str = "/sys", cgroup: str | None = None) -> None:
        self.proc = proc
        self.sys = sys
        self.cgroup = cgroup  # None: find the cgroup v2 mount in mountinfo


class Request:
    """family: AF_INET 2, AF_INET6 10 or None for both. states: kernel state mask with bit 13 (bound-inactive).
    bytecode: of the kernel's filter, b"" for none; it only narrows, whoever asked checks again. extensions: mask of
    inet_diag attributes. netns: names, process ids or paths; empty for the own one. all_netns: every one that can be found.
    """  # fmt: skip

    __slots__ = ("all_netns", "bytecode", "extensions", "family", "netns", "roots", "states")

    def __init__(
        self,
        *,
        family: int | None = None,
        states: int = ALL_STATES_MASK,
        bytecode: bytes = b"",
        extensions: int = 0,
        netns: Sequence[str] = (),
        all_netns: bool = False,
        roots: Roots | None = None,
    ) -> None:
        self.family = family
        self.states = states
        self.bytecode = bytecode
        self.extensions = extensions
        self.netns = tuple(netns)
        self.all_netns = all_netns
        self.roots = roots or Roots()
