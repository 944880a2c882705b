"""Paths of control groups: which container, Kubernetes pod and systemd unit one names; the text of /proc/PID/cgroup.

Source: kernel/cgroup/cgroup.c proc_cgroup_show (man 7 cgroups). The names of directories are each program's own: runc
libcontainer/cgroups/systemd getUnitName, containerd pkg/cri getCgroupsPath, podman libpod/container_internal_linux.go, cri-o
internal/config/cgmgr, kubelet pkg/kubelet/cm ToSystemd, lxc lxc.cgroup.pattern, libvirt docs/cgroups, systemd
src/basic/cgroup-util.c cg_path_get_unit.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# What stands before an id: `docker-ID.scope` of the systemd driver, `libpod-ID` of the other, and
# `SLICE:cri-containerd:ID` where a runtime took the systemd driver's words for a directory. The monitors beside podman's
# and cri-o's containers, `libpod-conmon-ID` and `crio-conmon-ID`, have other words and so are no containers.
_RUNTIME_BY_PREFIX = {
    "containerd": "containerd",
    "cri-containerd": "containerd",
    "crio": "cri-o",
    "docker": "docker",
    "libpod": "podman",
    "libpod-payload": "podman",  # --cgroups=split, the way of Quadlet: below the unit that started it
    "nerdctl": "containerd",
}
# Directories with a bare id in them; containerd's are its namespaces.
_RUNTIME_BY_PARENT = {"default": "containerd", "docker": "docker", "k8s.io": "containerd"}
_PODMAN_PARENT = "libpod_parent"  # a bare id in it is a pod of podman's; its containers are `libpod-ID`
_LXC_PARENTS = ("lxc", "lxc.payload")  # LXC to 3.0, and 3.1 to 3.2
_LXC_PREFIX = "lxc.payload."  # from 4.0; the monitor's is lxc.monitor.NAME
_NSPAWN_MONITOR = "supervisor"  # systemd-nspawn's own process, beside `payload`
_GARDEN_LENGTHS = ((8, 4, 4, 4, 4), (8, 4, 4, 4, 12))  # Cloud Foundry cuts its UUIDs short
_ECS_DEPTH = 3  # /ecs/TASK/ID and /ecs/CLUSTER/TASK/ID
_ID_LENGTH = 64

_UNIT_KINDS = frozenset(
    {"service", "scope", "socket", "mount", "swap"}
)  # the types with processes; slices only hold units
_UNIT_CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:-_.\\@"
_LONGEST_UNIT = 255
_HEXADECIMAL = "0123456789abcdef"


class CgroupIdentity:
    """Whose processes a control group holds; each is None where the path does not say.

    container: the innermost container's id, in most cases 64 hexadecimal digits, or its name where the path has only a
    name (lxc, nspawn, libvirt-lxc). runtime: docker, containerd, podman, cri-o, lxc, nspawn, libvirt-lxc or garden;
    kubepods or ecs where it is Kubernetes' or Amazon ECS's and the runtime cannot be told; None without a container and
    for a bare id under an unknown parent. pod: uid of the Kubernetes pod, with dashes; a static pod's has none.

    unit: name of the innermost systemd unit with processes of its own (service, scope, socket, mount, swap; no slice), as
    systemd shows it, `\\x2d` included: app-x.service, not the user@1000.service around it. A container's
    scope (docker-ID.scope) is a unit too. A unit inside a container is one of the container's own systemd.
    """

    __slots__ = ("container", "pod", "runtime", "unit")

    def __init__(
        self,
        container: str | None = None,
        pod: str | None = None,
        runtime: str | None = None,
        unit: str | None = None,
    ) -> None:
        self.container = container
        self.pod = pod
        self.runtime = runtime
        self.unit = unit


def parse_cgroup_path(path: str) -> CgroupIdentity:
    """The container, pod and unit that `path` names: /proc/PID/cgroup's, or one below a cgroup mount.

    Every string has an answer. The `..` of a path that leads out of the reader's cgroup namespace say nothing.
    """
    names = [name for name in path.split("/") if name not in ("", ".", "..")]
    identity = CgroupIdentity()
    for at, name in enumerate(names):
        found = _container_at(names, at)
        if found is not None:
            identity.container, identity.runtime = found
        identity.pod = _pod_of(name) or identity.pod
        identity.unit = _unit_of(name) or identity.unit
    return identity


def _container_at(names: Sequence[str], at: int) -> tuple[str, str | None] | None:
    """The container (and its runtime) whose outermost directory is the one at `at`."""
    return _with_prefix(names[at]) or _with_name(names, at) or _with_parent(names, at)


def _with_prefix(name: str) -> tuple[str, str] | None:
    """RUNTIME-ID.scope, RUNTIME-ID and SLICE:RUNTIME:ID."""
    before, _, last = name.removesuffix(".scope").rpartition(":" if ":" in name else "-")
    runtime = _RUNTIME_BY_PREFIX.get(before.rpartition(":")[2])
    return (last, runtime) if runtime is not None and _is_id(last) else None


def _with_name(names: Sequence[str], at: int) -> tuple[str, str] | None:
    """Those that have a name for an id: LXC, and the machines of systemd-machined that are no virtual machines."""
    name = names[at]
    if at > 0 and names[at - 1] in _LXC_PARENTS:
        return name, "lxc"
    if name.startswith(_LXC_PREFIX) and name != _LXC_PREFIX:
        return name[len(_LXC_PREFIX) :], "lxc"
    machine = _between(name, "machine-", ".scope") or _between(name, "systemd-nspawn@", ".service")
    if machine is None or names[at + 1 : at + 2] == [_NSPAWN_MONITOR]:
        return None
    machine = machine.replace("\\x2d", "-")
    driver, _, rest = machine.partition("-")
    is_of_libvirt = rest.partition("-")[0].isdecimal()  # its machines are DRIVER-NUMBER-NAME
    if is_of_libvirt and driver == "qemu":
        return None
    return machine, "libvirt-lxc" if is_of_libvirt and driver == "lxc" else "nspawn"


def _with_parent(names: Sequence[str], at: int) -> tuple[str, str | None] | None:
    """A bare id, whose runtime the directories above may tell."""
    name, parent = names[at].removesuffix(".scope"), names[at - 1] if at > 0 else ""
    is_of_ecs = "ecs" in names[max(at - _ECS_DEPTH, 0) : at]
    if _is_id(name):
        if parent == _PODMAN_PARENT:
            return None
        return name, "kubepods" if _pod_of(parent) else "ecs" if is_of_ecs else _RUNTIME_BY_PARENT.get(parent)
    task, dash, number = name.partition("-")
    if is_of_ecs and dash and _is_hexadecimal(task, 32) and number.isdecimal():  # Fargate from 1.4 on
        return name, "ecs"
    if "garden" in names[max(at - 2, 0) : at] and _is_garden_handle(name):  # garden/ID, and garden/good/ID
        return name, "garden"
    return None


def _is_id(text: str) -> bool:
    return _is_hexadecimal(text, _ID_LENGTH)


def _is_hexadecimal(text: str, length: int) -> bool:
    return len(text) == length and not text.strip(_HEXADECIMAL)


def _is_garden_handle(name: str) -> bool:
    parts = name.split("-", 5)[:5]  # words such as `-liveness-healthcheck-0` may follow
    return tuple(map(len, parts)) in _GARDEN_LENGTHS and not "".join(parts).strip(_HEXADECIMAL)


def _between(text: str, begin: str, end: str) -> str | None:
    is_there = text.startswith(begin) and text.endswith(end)
    return (text[len(begin) : -len(end)] or None) if is_there else None


def _pod_of(name: str) -> str | None:
    """The uid in podUID (cgroupfs driver) and kubepods-besteffort-podUID.slice (systemd driver, dashes as underscores).
    `kubepods` may have the kubelet's --cgroup-root before it. With containerd `:cri-containerd:ID` may follow.
    """  # fmt: skip
    if name.startswith("pod"):
        uid = name[3:]
    else:
        before, found, behind = name.rpartition("-pod")
        uid, dot, _ = behind.partition(".slice")
        if not found or not dot or "kubepods" not in before.split("-"):
            return None
        uid = uid.replace("_", "-")
    return uid if len(uid) in (32, 36) and _is_hexadecimal(uid.replace("-", ""), 32) else None


def _unit_of(name: str) -> str | None:
    """`name` as a unit's, None where it cannot be one (unit_name_is_valid). systemd puts an underscore before names that
    might be files of the kernel's, as _cpu.service.
    """  # fmt: skip
    name = name.removeprefix("_")
    stem, _, kind = name.rpartition(".")
    if kind not in _UNIT_KINDS or len(name) > _LONGEST_UNIT or not stem or stem.strip(_UNIT_CHARACTERS):
        return None
    if stem[0] == "@" or (stem[-1] == "@" and stem.find("@") == len(stem) - 1):  # a template is not running
        return None
    return name


_DELETED = " (deleted)"  # behind the path of a cgroup v2 directory that is gone


def parse_proc_cgroup(text: str) -> str | None:
    """Of the paths in /proc/PID/cgroup the one that tells most; None where there is none.

    A line is NUMBER:CONTROLLERS:PATH, of cgroup v2 `0::PATH`; a path may have colons. First comes the v2 line, then
    `name=systemd`, then the longest of the other v1 controllers; `/` comes last. A path with a container goes before one
    without: beside cgroup v1, Docker and containerd leave the v2 line at their own service, and so for every container.
    """
    unified, named, others = [], [], []
    for line in text.split("\n"):
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if not colon or not path.startswith("/"):
            continue
        if number == "0" and not controllers:
            unified.append(path.removesuffix(_DELETED))
        elif controllers == "name=systemd":
            named.append(path)
        else:
            others.append(path)
    paths = [*unified, *named, *sorted(others, key=len, reverse=True)]
    telling = [path for path in dict.fromkeys(paths) if path != "/"]
    for path in telling if len(telling) > 1 else ():
        if parse_cgroup_path(path).container is not None:
            return path
    return next(iter(telling or paths), None)
