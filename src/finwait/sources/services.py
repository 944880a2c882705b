"""Names of TCP services (man 5 services)."""

from __future__ import annotations

from _socket import getservbyname


def port_of_service(name: str) -> int | None:
    """The TCP port that /etc/services (or another NSS source) gives `name`, None where it is not known."""
    try:
        return getservbyname(name, "tcp")
    except (OSError, ValueError):
        return None
