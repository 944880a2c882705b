"""Paths of control groups as Docker, containerd, podman, cri-o, the kubelet, LXC, systemd and others make them."""

import pytest

from finwait.wire.cgroup_path import parse_cgroup_path, parse_proc_cgroup

ID = "3f2a" * 16
INNER = "c0de" * 16
UID = "0a1b2c3d-1111-2222-3333-0a1b2c3d4e5f"
WORD = UID.replace("-", "_")
STATIC = "0123456789abcdef" * 2
HANDLE = "6f265890-5165-7fab-6b52-18d1"
BURSTABLE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{WORD}.slice"
KIND = f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{WORD}.slice"
MANAGER = "/user.slice/user-1000.slice/user@1000.service"


def facts(path):
    identity = parse_cgroup_path(path)
    return identity.container, identity.runtime, identity.pod, identity.unit


def scope(words):
    return f"{words}-{ID}.scope"


@pytest.mark.parametrize(
    ("path", "container", "runtime", "unit"),
    [
        (f"/docker/{ID}", ID, "docker", None),
        (f"/docker/{ID}.scope", ID, "docker", f"{ID}.scope"),
        (f"/system.slice/docker-{ID}.scope", ID, "docker", scope("docker")),
        (f"/system.slice:docker:{ID}", ID, "docker", None),
        (f"{MANAGER}/user.slice/docker-{ID}.scope", ID, "docker", scope("docker")),
        (f"/default/{ID}", ID, "containerd", None),
        (f"/k8s.io/{ID}", ID, "containerd", None),
        (f"/system.slice/nerdctl-{ID}.scope", ID, "containerd", scope("nerdctl")),
        (f"/machine.slice/libpod-{ID}.scope", ID, "podman", scope("libpod")),
        (f"/machine.slice/libpod-{ID}.scope/container", ID, "podman", scope("libpod")),
        (f"{MANAGER}/user.slice/libpod-{ID}.scope", ID, "podman", scope("libpod")),
        (f"/libpod_parent/libpod-{ID}", ID, "podman", None),
        (f"/libpod_parent/{INNER}/libpod-{ID}", ID, "podman", None),
        (f"/machine.slice/machine-libpod_pod_{INNER}.slice/libpod-{ID}.scope", ID, "podman", scope("libpod")),
        (f"/system.slice/web.service/libpod-payload-{ID}", ID, "podman", "web.service"),
        (f"/crio/crio-{ID}", ID, "cri-o", None),
        (f"/ecs/0a1b2c3d-1111-2222-3333-0a1b2c3d4e5f/{ID}", ID, "ecs", None),
        (f"/ecs/a-cluster/5a0d5ceddf6c44c1928d367a815d890f/{ID}", ID, "ecs", None),
        (f"/ecs/{STATIC}/{STATIC}-1234567890", f"{STATIC}-1234567890", "ecs", None),
        (f"/ecstasks.slice/ecstasks-{STATIC}.slice/docker-{ID}.scope", ID, "docker", scope("docker")),
        (f"/system.slice/garden.service/garden/{HANDLE}", HANDLE, "garden", "garden.service"),
        (f"/garden/good/{HANDLE}", HANDLE, "garden", None),
        (f"/actions_job/{ID}", ID, None, None),
        (f"/{ID}/docker", ID, None, None),
    ],
)
def test_a_container_with_an_id_is_known_by_it(path, container, runtime, unit):
    assert facts(path) == (container, runtime, None, unit)


@pytest.mark.parametrize(
    ("path", "container", "runtime", "unit"),
    [
        ("/lxc/101", "101", "lxc", None),
        ("/lxc/101/ns/system.slice/nginx.service", "101", "lxc", "nginx.service"),
        ("/lxc.payload/web", "web", "lxc", None),
        ("/lxc.payload.web-1/init.scope", "web-1", "lxc", "init.scope"),
        ("/machine.slice/machine-web.scope/payload", "web", "nspawn", "machine-web.scope"),
        ("/machine.slice/machine-web\\x2d1.scope", "web-1", "nspawn", "machine-web\\x2d1.scope"),
        ("/machine.slice/machine-web.scope/payload/system.slice/a.service", "web", "nspawn", "a.service"),
        (
            "/machine.slice/systemd-nspawn@web-1.service/payload",
            "web-1", "nspawn", "systemd-nspawn@web-1.service",
        ),
        ("/machine.slice/machine-qemu\\x2dbuilds.scope", "qemu-builds", "nspawn", "machine-qemu\\x2dbuilds.scope"),
        (
            "/machine.slice/machine-lxc\\x2d12345\\x2ddemo.scope/libvirt/system.slice/a.service",
            "lxc-12345-demo", "libvirt-lxc", "a.service",
        ),
        (f"/lxc.payload.node/docker/{ID}", ID, "docker", None),
    ],
)  # fmt: skip
def test_a_container_without_an_id_is_known_by_its_name(path, container, runtime, unit):
    assert facts(path) == (container, runtime, None, unit)


@pytest.mark.parametrize(
    ("path", "container", "runtime", "pod", "unit"),
    [
        (f"/kubepods/besteffort/pod{UID}/{ID}", ID, "kubepods", UID, None),
        (f"/kubepods/pod{UID}/{ID}", ID, "kubepods", UID, None),
        (f"/kubepods/burstable/pod{STATIC}/{ID}", ID, "kubepods", STATIC, None),
        (f"/kubepods/burstable/pod{UID}/crio-{ID}", ID, "cri-o", UID, None),
        (f"/kubelet/kubepods/burstable/pod{UID}/{ID}", ID, "kubepods", UID, None),
        (f"{BURSTABLE}/cri-containerd-{ID}.scope", ID, "containerd", UID, scope("cri-containerd")),
        (f"{BURSTABLE}/crio-{ID}.scope/container", ID, "cri-o", UID, scope("crio")),
        (f"{BURSTABLE}/docker-{ID}.scope", ID, "docker", UID, scope("docker")),
        (f"{BURSTABLE}/{ID}", ID, "kubepods", UID, None),
        (f"/kubepods.slice/kubepods-pod{STATIC}.slice/crio-{ID}.scope", ID, "cri-o", STATIC, scope("crio")),
        (f"{KIND}/cri-containerd-{ID}.scope", ID, "containerd", UID, scope("cri-containerd")),
        (f"/kubepods-burstable-pod{WORD}.slice:cri-containerd:{ID}", ID, "containerd", UID, None),
        (
            f"/system.slice/containerd.service/kubepods-pod{WORD}.slice:cri-containerd:{ID}",
            ID, "containerd", UID, "containerd.service",
        ),
    ],
)  # fmt: skip
def test_a_pod_of_kubernetes_is_known_by_its_uid_with_dashes(path, container, runtime, pod, unit):
    assert facts(path) == (container, runtime, pod, unit)


@pytest.mark.parametrize(
    ("path", "container", "runtime", "pod", "unit"),
    [
        (f"/docker/{ID}/docker/{INNER}", INNER, "docker", None, None),
        (f"/system.slice/docker-{ID}.scope/docker/{INNER}", INNER, "docker", None, scope("docker")),
        (f"/docker/{ID}/kubelet/kubepods/burstable/pod{UID}/{INNER}", INNER, "kubepods", UID, None),
        (f"/kubepods/burstable/pod{UID}/{ID}/docker/{INNER}", INNER, "docker", UID, None),
        (f"/docker/{ID}/system.slice/nginx.service", ID, "docker", None, "nginx.service"),
        (f"/system.slice/docker-{ID}.scope/init.scope", ID, "docker", None, "init.scope"),
        (f"/docker/{ID}/libpod_parent/libpod-conmon-{INNER}", ID, "docker", None, None),
    ],
)
def test_the_innermost_container_and_unit_win(path, container, runtime, pod, unit):
    assert facts(path) == (container, runtime, pod, unit)


@pytest.mark.parametrize(
    ("path", "container", "runtime", "pod"),
    [
        (f"/../{ID}", ID, None, None),
        (f"/../../docker/{ID}", ID, "docker", None),
        (f"/../../pod{UID}/{ID}", ID, "kubepods", UID),
        (f"/../cri-containerd-{ID}.scope", ID, "containerd", None),
        ("/../..", None, None, None),
    ],
)
def test_a_path_out_of_the_namespace_tells_what_is_left_of_it(path, container, runtime, pod):
    assert facts(path)[:3] == (container, runtime, pod)


@pytest.mark.parametrize(
    "path",
    [
        f"/machine.slice/libpod-conmon-{ID}.scope",
        f"/libpod_parent/{ID}",
        "/libpod_parent/conmon",
        f"/kubepods/burstable/pod{UID}/crio-conmon-{ID}",
        f"{BURSTABLE}/crio-conmon-{ID}.scope",
        BURSTABLE,
        "/lxc.monitor.web",
        "/lxc.monitor/101",
        "/lxc.payload.",
        "/lxc/..",
        "/web/lxc",
        "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt",
        "/machine.slice/machine-web.scope/supervisor",
        "/machine.slice/machine-.scope",
        f"/system.slice/docker-{ID[1:]}.scope",
        f"/docker/{ID}0",
        f"/docker/{ID.upper()}",
        "/docker/buildkit/k0lqkg1xkpxsjr3cydw2k4l6y",
        f"/garden/{HANDLE[:-1]}",
        "/system.slice/docker.service",
        f"/x-{ID}",
    ],
)
def test_monitors_pods_machines_and_their_like_are_no_containers(path):
    assert facts(path)[:2] == (None, None)


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/system.slice/nginx.service", "nginx.service"),
        ("/system.slice/nginx.service/worker/7", "nginx.service"),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
        ("/system.slice/system-a\\x2db.slice/a\\x2db@1.service", "a\\x2db@1.service"),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
        (f"{MANAGER}/app.slice/app-gnome-firefox-4242.scope", "app-gnome-firefox-4242.scope"),
        (f"{MANAGER}/init.scope", "init.scope"),
        (MANAGER, "user@1000.service"),
        ("/system.slice/dbus.socket", "dbus.socket"),
        ("/system.slice/home.mount", "home.mount"),
        ("/system.slice/_cpu.service", "cpu.service"),
        ("/init.scope", "init.scope"),
        ("system.slice/nginx.service/", "nginx.service"),
        ("/system.slice", None),
        (f"{MANAGER.rpartition('/')[0]}/user@.service", None),
        ("/system.slice/@tty1.service", None),
        ("/system.slice/getty####@tty6.service", None),
        ("/system.slice/.service", None),
        (f"/{'a' * 248}.service", None),
    ],
)
def test_the_unit_is_the_innermost_one_that_has_processes(path, unit):
    assert facts(path) == (None, None, None, unit)


def test_a_pod_that_is_not_the_kubelets_has_no_uid():
    assert facts(f"/machine.slice/machine-pod{WORD}.slice/libpod-{ID}.scope")[:3] == (ID, "podman", None)


def test_the_longest_name_of_a_unit_is_one():
    name = "a" * 247 + ".service"
    assert facts(f"/{name}")[3] == name


@pytest.mark.parametrize(
    "path", ["", "/", "//", "/.", "/..", "-", ":", "/:/-/.scope", "/docker-", "/pod", "\x00", "\udcff", "0::/"]
)
def test_what_names_nothing_has_an_answer_too(path):
    assert facts(path) == (None, None, None, None)


V1 = f"12:pids:/docker/{ID}\n3:cpu,cpuacct:/docker/{ID}\n1:name=systemd:/docker/{ID}\n"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("0::/system.slice/nginx.service\n", "/system.slice/nginx.service"),
        ("0::/\n", "/"),
        ("0::/system.slice/a.service (deleted)\n", "/system.slice/a.service"),
        (f"0::/a.slice:cri-containerd:{ID}\n", f"/a.slice:cri-containerd:{ID}"),
        ("0::/../other.scope", "/../other.scope"),
        ("2:cpu:/much/longer/than/it\n1:name=systemd:/init.scope\n0::/user.slice/a.scope\n", "/user.slice/a.scope"),
        ("2:cpu:/much/longer/than/it\n1:name=systemd:/init.scope\n0::/\n", "/init.scope"),
        ("2:cpu:/a\n4:memory:/process_api/780e\n3:pids:/b\n1:name=systemd:/\n0::/\n", "/process_api/780e"),
        ("2:cpu:/a\n1:name=systemd:/\n0::\n", "/a"),
        ("2:cpu:/\n1:name=systemd:/\n", "/"),
        (f"{V1}0::/system.slice/containerd.service\n", f"/docker/{ID}"),
        (f"2:cpu:/lxc/101\n1:name=systemd:/docker/{ID}\n0::/\n", f"/docker/{ID}"),
        ("0::/a\u2028b\x0bc\n", "/a\u2028b\x0bc"),
        ("4:memory:/a (deleted)\n", "/a (deleted)"),
        ("1:name=elogind:/5\n0::/\n", "/5"),
        ("0::\n", None),
        ("", None),
        ("no cgroup here\n:\n::\n", None),
        ("3:cpu:relative\n", None),
    ],
)
def test_the_path_that_tells_most_is_taken(text, path):
    assert parse_proc_cgroup(text) == path
