"""Which of a filter's words must be looked up on the host before the filter means anything."""

from __future__ import annotations

from finwait.query.expression import AutoboundTest, CgroupTest, DeviceTest, MarkTest, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from finwait.query.expression import Filter


class Names:
    """devices: interface names or numbers. cgroups: the paths. port_range: whether `autobound` asks for it. marks:
    whether fwmarks are tested.
    """  # fmt: skip

    __slots__ = ("cgroups", "devices", "marks", "port_range")

    def __init__(self, wanted: Filter) -> None:
        nodes = [] if wanted.expression is None else list(walk(wanted.expression))
        self.devices = tuple(node.device for node in nodes if isinstance(node, DeviceTest))
        self.cgroups = tuple(node.path for node in nodes if isinstance(node, CgroupTest))
        self.port_range = any(isinstance(node, AutoboundTest) for node in nodes)
        self.marks = any(isinstance(node, MarkTest) for node in nodes)
