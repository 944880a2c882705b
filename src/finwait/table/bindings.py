"""What a filter's words mean in one namespace: names to numbers. Filled by the sources, used by the query room."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Bindings:
    """index_by_interface: interface indexes by name. cgroup_id_by_path: cgroup v2 ids. port_range: first and last of
    ip_local_port_range, None where unknown.
    """  # fmt: skip

    __slots__ = ("cgroup_id_by_path", "index_by_interface", "port_range")

    def __init__(
        self,
        index_by_interface: Mapping[str, int] | None = None,
        cgroup_id_by_path: Mapping[str, int] | None = None,
        port_range: tuple[int, int] | None = None,
    ) -> None:
        self.index_by_interface = dict(index_by_interface or {})
        self.cgroup_id_by_path = dict(cgroup_id_by_path or {})
        self.port_range = port_range

    def interface_index(self, device: str) -> int | None:
        """The index of `device`, a name or a number."""
        index = self.index_by_interface.get(device)
        return int(device) if index is None and device.isascii() and device.isdigit() else index
