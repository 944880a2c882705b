"""Links, addresses and routes of a namespace by NETLINK_ROUTE (man 7 rtnetlink), so that the lab needs no ip(8)."""

from __future__ import annotations

import os
import socket
import struct
from ipaddress import IPv4Network, IPv6Network

from finwait.errors import SourceError
from finwait.wire.netlink import NLM_F_REQUEST, NLMSG_ERROR, build_attribute, build_message, parse_errno, parse_messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

# Locally administered, of the two ends of the cable.
NEAR_MAC = b"\x02\0\0\0\0\1"
FAR_MAC = b"\x02\0\0\0\0\2"

NETLINK_ROUTE = 0
NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE = 0x4, 0x200, 0x400
RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE = 16, 20, 24
IFF_UP, IFF_NOARP = 0x1, 0x80
IFLA_ADDRESS, IFLA_IFNAME, IFLA_LINKINFO = 1, 3, 18
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFA_ADDRESS, IFA_LOCAL, IFA_F_NODAD = 1, 2, 0x02
RTA_DST, RTA_GATEWAY = 1, 5
RT_TABLE_MAIN, RTPROT_BOOT, RTN_UNICAST = 254, 3, 1
_IFINFOMSG = struct.Struct("=BxHiII")  # ifi_family, ifi_type, ifi_index, ifi_flags, ifi_change
_IFADDRMSG = struct.Struct("=BBBBI")  # ifa_family, ifa_prefixlen, ifa_flags, ifa_scope, ifa_index
_RTMSG = struct.Struct("=BBBBBBBBI")  # rtm_family, dst_len, src_len, tos, table, protocol, scope, type, flags


class Links:
    """A socket onto the calling thread's namespace; a context manager. Every method raises SourceError for a refusal."""

    def __init__(self) -> None:
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)

    def __enter__(self) -> Links:
        return self

    def __exit__(self, *_: object) -> None:
        self._netlink.close()

    def add_veth(self, name: str, address: bytes, peer: str, peer_address: bytes) -> None:
        """A pair of devices; what is sent into one comes out of the other."""
        far = _IFINFOMSG.pack(0, 0, 0, 0, 0) + _name_and_address(peer, peer_address)
        data = build_attribute(IFLA_INFO_DATA, build_attribute(VETH_INFO_PEER, far))
        info = build_attribute(IFLA_LINKINFO, build_attribute(IFLA_INFO_KIND, b"veth") + data)
        payload = _IFINFOMSG.pack(0, 0, 0, 0, 0) + _name_and_address(name, address) + info
        self._request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, payload, f"add device {name}")

    def set_up(self, name: str, *, arp: bool = True) -> None:
        """Bring device `name` up; arp: whether it asks for hardware addresses."""
        flags = IFF_UP if arp else IFF_UP | IFF_NOARP
        payload = _IFINFOMSG.pack(0, 0, socket.if_nametoindex(name), flags, flags)
        self._request(RTM_NEWLINK, 0, payload, f"set {name} up")

    def add_address(self, name: str, address: IPv4Address | IPv6Address, prefix_length: int) -> None:
        """Give `address` to device `name`, without asking whether somebody has it (nodad)."""
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        head = _IFADDRMSG.pack(
            family, prefix_length, IFA_F_NODAD if address.version == 6 else 0, 0, socket.if_nametoindex(name)
        )
        payload = head + build_attribute(IFA_LOCAL, address.packed) + build_attribute(IFA_ADDRESS, address.packed)
        self._request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, payload, f"add address {address}")

    def add_route(self, network: IPv4Network | IPv6Network, gateway: IPv4Address | IPv6Address) -> None:
        """Packets for `network` go to `gateway`."""
        family = socket.AF_INET if network.version == 4 else socket.AF_INET6
        head = _RTMSG.pack(family, network.prefixlen, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0)
        payload = head + build_attribute(RTA_DST, network.network_address.packed)
        payload += build_attribute(RTA_GATEWAY, gateway.packed)
        self._request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, payload, f"add route {network}")

    def _request(self, nlmsg_type: int, flags: int, payload: bytes, what: str) -> None:
        self._netlink.send(build_message(nlmsg_type, NLM_F_REQUEST | NLM_F_ACK | flags, payload))
        answer = self._netlink.recv(1 << 16)
        for kind, _, start, end in parse_messages(answer):
            errno = parse_errno(answer, start, end) if kind == NLMSG_ERROR else 0
            if errno:
                raise SourceError("{request} failed: {reason}", request=what, reason=os.strerror(errno))


def lay_cable(near: tuple[IPv4Address, IPv6Address], gateways: tuple[IPv4Address, IPv6Address]) -> None:
    """A veth pair. Device `near`, with the addresses `near`, is the kernel's; what it sends to 10.0.0.0/8 and fd77::/64 goes by
    `gateways` to device `far`, for whoever opens a packet socket there. No ARP, no neighbour discovery.
    """  # fmt: skip
    with Links() as links:
        links.set_up("lo")
        links.add_veth("near", NEAR_MAC, "far", FAR_MAC)
        links.set_up("far", arp=False)
        links.set_up("near", arp=False)
        links.add_address("near", near[0], 24)
        links.add_address("near", near[1], 112)
        links.add_route(IPv4Network("10.0.0.0/8"), gateways[0])
        links.add_route(IPv6Network("fd77::/64"), gateways[1])


def _name_and_address(name: str, address: bytes) -> bytes:
    return build_attribute(IFLA_IFNAME, name.encode() + b"\0") + build_attribute(IFLA_ADDRESS, address)
