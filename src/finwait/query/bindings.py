"""What a filter's words mean on one host: names to numbers. Filled by `finwait.sources.bindings`, used without I/O."""

from __future__ import annotations

from finwait.query.expression import AutoboundTest, CgroupTest, DeviceTest, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from finwait.query.expression import Filter


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


class Names:
    """What a filter asks to be bound. devices: whether interface names occur. cgroups: paths. port_range: whether it is
    needed.
    """  # fmt: skip

    __slots__ = ("cgroups", "devices", "port_range")

    def __init__(self, wanted: Filter) -> None:
        nodes = [] if wanted.expression is None else list(walk(wanted.expression))
        self.devices = any(isinstance(node, DeviceTest) for node in nodes)
        self.cgroups = tuple(node.path for node in nodes if isinstance(node, CgroupTest))
        self.port_range = any(isinstance(node, AutoboundTest) for node in nodes)

    def __bool__(self) -> bool:
        return self.devices or bool(self.cgroups) or self.port_range
