"""What are your TCP connections waiting for? On Linux: count them, list them, understand them.

>>> import finwait
>>> finwait.count()              # doctest: +SKIP
>>> finwait.connections("state close-wait", columns="local,peer,recv_q")  # doctest: +SKIP

Importing loads nothing heavy (PEP 562); NumPy comes with the first table.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from finwait.api import connections, count, diagnose, trace
    from finwait.errors import FinwaitError, NotPermitted, NotSupported, ParseError, SourceError, UsageError
    from finwait.sources.machine import capabilities
    from finwait.table.capability import Capability, Machine
    from finwait.table.change import Loss, StateChange
    from finwait.table.finding import Diagnosis, Finding
    from finwait.table.snapshot import Snapshot
    from finwait.table.table import Connection, ConnectionTable
    from finwait.tcp.state import TcpState
    from finwait.version import __version__

_MODULE_BY_NAME = {
    "capabilities": "finwait.sources.machine",
    "connections": "finwait.api",
    "count": "finwait.api",
    "diagnose": "finwait.api",
    "trace": "finwait.api",
    "FinwaitError": "finwait.errors",
    "NotPermitted": "finwait.errors",
    "NotSupported": "finwait.errors",
    "ParseError": "finwait.errors",
    "SourceError": "finwait.errors",
    "UsageError": "finwait.errors",
    "Capability": "finwait.table.capability",
    "Machine": "finwait.table.capability",
    "Loss": "finwait.table.change",
    "StateChange": "finwait.table.change",
    "Diagnosis": "finwait.table.finding",
    "Finding": "finwait.table.finding",
    "Snapshot": "finwait.table.snapshot",
    "Connection": "finwait.table.table",
    "ConnectionTable": "finwait.table.table",
    "TcpState": "finwait.tcp.state",
    "__version__": "finwait.version",
}

__all__ = [
    "Capability", "Connection", "ConnectionTable", "Diagnosis", "Finding", "FinwaitError", "Loss", "Machine", "NotPermitted",
    "NotSupported", "ParseError", "Snapshot", "SourceError", "StateChange", "TcpState", "UsageError", "__version__",
    "capabilities", "connections", "count", "diagnose", "trace",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _MODULE_BY_NAME:
        raise AttributeError(f"module 'finwait' has no attribute {name!r}")
    module = __import__(_MODULE_BY_NAME[name], fromlist=[name])
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
