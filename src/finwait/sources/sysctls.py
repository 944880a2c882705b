"""/proc/sys/net: the settings of the calling process's network namespace (Documentation/networking/ip-sysctl.rst)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def read_sysctls(names: Iterable[str], proc: str = "/proc") -> dict[str, str | None]:
    """The present values by name, as ``ipv4.tcp_fin_timeout``; None for what the kernel or the namespace lacks, or hides."""
    return {name: _read(f"{proc}/sys/net/{name.replace('.', '/')}") for name in names}


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return " ".join(file.read().split())
    except OSError:
        return None
