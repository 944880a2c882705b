"""What NETLINK_SOCK_DIAG does here (man 7 sock_diag; net/ipv4/inet_diag.c, net/core/sock_diag.c). Nothing is changed: no socket
is destroyed to find out whether it could be.
"""  # fmt: skip

from __future__ import annotations

from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, SOL_SOCKET, socket

from finwait.errors import NotPermitted, NotSupported, Phrase
from finwait.sources.capabilities import MANY_SOCKETS, probe_closed_visible, probe_type_name
from finwait.sources.sock_diag import SO_NETNS_COOKIE, open_diag_socket, walk_census
from finwait.table.capability import cannot_tell, no, yes
from finwait.table.request import Request
from finwait.text.messages import mark
from finwait.wire.diag_filter import Branch, assemble, mark_condition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from finwait.table.capability import Answer, Capability
    from finwait.table.request import Roots

_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1
_SKNLGRP_INET_TCP_DESTROY, _SKNLGRP_INET6_TCP_DESTROY = 1, 3
_NET_ADMIN = mark("CAP_NET_ADMIN")
_DIAG_REMEDY = mark("Linux 3.3 or later with CONFIG_INET_TCP_DIAG (module tcp_diag)")
_NETLINK_REMEDY = mark("a sandbox (seccomp, security module) that permits netlink sockets")
_NO_NET_ADMIN = mark("not permitted in this network namespace")


def probe_sock_diag(_: Roots, __: Mapping[str, Capability]) -> Answer:
    """A dump of no state at all is answered."""
    try:
        _dump_nothing(b"")
    except NotSupported as error:
        return no(error, _DIAG_REMEDY)
    except NotPermitted as error:
        return no(error, _NETLINK_REMEDY)
    return yes()


def _dump_nothing(bytecode: bytes) -> None:
    """Ask for the sockets in no state: the kernel checks the request and sends nothing. Raises what it refuses."""
    diag = open_diag_socket()
    try:
        walk_census(diag, Request(states=0, bytecode=bytecode))
    finally:
        diag.close()


def probe_bound(roots: Roots, _: Mapping[str, Capability]) -> Answer:
    """Bound sockets are in a dump; see `probe_closed_visible`."""
    visible = probe_closed_visible(MANY_SOCKETS, roots.sys)
    if visible is None:
        return cannot_tell(Phrase("neither the kernel's type information nor a bound socket tells"))
    if visible:
        return yes()
    return no(
        Phrase("a dump of this kernel has no sockets that are bound and not connected"), mark("Linux 6.8 or later")
    )


def probe_marks(_: Roots, __: Mapping[str, Capability]) -> Answer:
    """The kernel takes a filter by mark, which it does from those who may also see marks."""
    try:
        _dump_nothing(assemble(Branch("leaf", condition=mark_condition(0, 0))) or b"")
    except NotPermitted:
        return no(Phrase(_NO_NET_ADMIN), _NET_ADMIN)
    except NotSupported as error:
        return no(error, _DIAG_REMEDY)
    return yes()


def probe_destroy_groups(_: Roots, __: Mapping[str, Capability]) -> Answer:
    """The multicast groups that tell of connections as they end can be joined; they are left at once."""
    request = "setsockopt(NETLINK_ADD_MEMBERSHIP)"
    diag = open_diag_socket()
    try:
        for group in (_SKNLGRP_INET_TCP_DESTROY, _SKNLGRP_INET6_TCP_DESTROY):
            diag.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
    except PermissionError as error:
        return no(_refusal(request, error), mark("root"))
    except OSError as error:
        return no(_refusal(request, error), mark("Linux 4.2 or later"))
    finally:
        diag.close()
    return yes()


def _refusal(request: str, error: OSError) -> Phrase:
    return Phrase("{request} failed: {reason}", request=request, reason=error.strerror)


def probe_sock_destroy(roots: Roots, known: Mapping[str, Capability]) -> Answer:
    """The kernel's type information has inet_diag's function for it, and CAP_NET_ADMIN is there: a filter by mark needs it
    likewise.
    """  # fmt: skip
    if known["socket_marks"].answer is False:
        return no(Phrase(_NO_NET_ADMIN), _NET_ADMIN)
    for file in ("vmlinux", "tcp_diag"):
        if probe_type_name(b"tcp_diag_destroy", roots.sys, file=file):
            return yes()
    return cannot_tell(
        Phrase("the kernel's type information does not show {name}", name="tcp_diag_destroy"),
        mark("Linux 4.5 or later with CONFIG_INET_DIAG_DESTROY and CONFIG_DEBUG_INFO_BTF"),
    )


def probe_netns_cookie(_: Roots, __: Mapping[str, Capability]) -> Answer:
    """A socket tells its namespace's cookie."""
    asked = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
    try:
        asked.getsockopt(SOL_SOCKET, SO_NETNS_COOKIE, 8)
    except OSError as error:
        return no(_refusal("getsockopt(SO_NETNS_COOKIE)", error), mark("Linux 5.14 or later"))
    finally:
        asked.close()
    return yes()
