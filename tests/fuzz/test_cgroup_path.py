"""Any text whatever is a path of a control group, or a /proc/PID/cgroup, and has an answer made of its own parts."""

from hypothesis import example, given
from hypothesis import strategies as st

from finwait.wire.cgroup_path import parse_cgroup_path, parse_proc_cgroup

IDS = st.text("0123456789abcdef", min_size=63, max_size=65)
NAMES = st.one_of(
    st.text(max_size=5),
    st.binary(max_size=5).map(lambda data: data.decode("utf-8", "surrogateescape")),
    IDS,
    st.builds(
        "{}{}{}".format,
        st.sampled_from(
            [
                "docker-",
                "libpod-",
                "crio-conmon-",
                "machine-",
                "pod",
                "kubepods-pod",
                "lxc.payload.",
                "a.slice:crio:",
                "_",
            ]
        ),
        st.one_of(IDS, st.uuids().map(str), st.text(max_size=9)),
        st.sampled_from(["", ".scope", ".service", ".slice", "@.service", " (deleted)"]),
    ),
    st.sampled_from(
        ["", ".", "..", "lxc", "docker", "ecs", "garden", "kubepods", "payload", "supervisor", "\\x2d", ":"]
    ),
)
PATHS = st.one_of(st.text(), st.lists(NAMES).map("/".join).map("/{}".format))
CONTROLLERS = st.sampled_from(["", "name=systemd", "cpu"])
LINES = st.one_of(st.text(), st.builds("{}:{}:{}".format, st.integers(0, 13), CONTROLLERS, PATHS))


@given(PATHS)
@example("/" * 100_000)
@example("/docker" * 100_000)
@example("-" * 100_000 + ":" * 100_000)
def test_any_path_has_an_answer_of_its_own_words(path):
    identity = parse_cgroup_path(path)
    names = path.split("/")
    for found in (identity.container, identity.unit):
        assert found is None or any(found in name.replace("\\x2d", "-") or found in name for name in names)
    assert identity.pod is None or any(identity.pod in name.replace("_", "-") for name in names)
    assert (identity.container, identity.unit, identity.pod).count("") == 0
    assert identity.runtime is None or identity.container is not None


@given(st.lists(LINES).map("\n".join))
def test_any_text_has_a_path_of_its_own_or_none(text):
    path = parse_proc_cgroup(text)
    assert path is None or (path.startswith("/") and f":{path}" in text)


@given(PATHS, PATHS)
def test_what_stands_above_a_container_changes_nothing_of_it(above, below):
    path = f"/system.slice/docker-{'ab' * 32}.scope/{below}"
    alone, nested = parse_cgroup_path(path), parse_cgroup_path(f"{above}{path}")
    assert (nested.container, nested.unit) == (alone.container, alone.unit)
