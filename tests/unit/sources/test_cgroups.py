"""Control groups of a made-up host: any tree of directories is a cgroup tree where Roots say so."""

import os

import pytest

from finwait.sources import cgroups
from finwait.sources.cgroups import CgroupPaths, read_process_cgroup
from finwait.table.request import Roots

NO_PROCESS = 0x7FFFFFFF


def id_of(path):
    return os.stat(path).st_ino


@pytest.fixture
def tree(tmp_path):
    """A mount with 23 directories: /a0 ... /a4, in four of them /b with three or four leaves, and a file."""
    root = tmp_path / "cgroup"
    for outer in range(5):
        (root / f"a{outer}").mkdir(parents=True)
    for outer, inners in enumerate((3, 3, 4, 4)):
        (root / f"a{outer}" / "b").mkdir()
        for inner in range(inners):
            (root / f"a{outer}" / "b" / f"c{inner}.service").mkdir()
        (root / f"a{outer}" / "cgroup.procs").write_text("")
    return root


@pytest.fixture
def walks(monkeypatch):
    """The mounts that were walked, in order."""
    walked = []
    walk = cgroups._walk
    monkeypatch.setattr(cgroups, "_walk", lambda mount, found: walked.append(mount) or walk(mount, found))
    return walked


def test_every_directory_is_found_by_its_id(tree):
    paths = CgroupPaths(Roots(cgroup=str(tree)))
    directories = [path for path in tree.rglob("*") if path.is_dir()]
    assert len(directories) == 23
    for directory in directories:
        assert paths.path_of(id_of(directory)) == f"/{directory.relative_to(tree)}"


def test_the_mount_itself_is_the_root(tree):
    assert CgroupPaths(Roots(cgroup=str(tree))).path_of(id_of(tree)) == "/"


def test_files_are_no_cgroups(tree):
    assert CgroupPaths(Roots(cgroup=str(tree))).path_of(id_of(tree / "a0" / "cgroup.procs")) is None


def test_symbolic_links_are_not_followed(tree, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "inside").mkdir(parents=True)
    (tree / "a3" / "link").symlink_to(elsewhere)
    (tree / "a3" / "loop").symlink_to(tree)
    paths = CgroupPaths(Roots(cgroup=str(tree)))
    assert paths.path_of(id_of(elsewhere)) is paths.path_of(id_of(elsewhere / "inside")) is None
    assert paths.path_of(id_of(tree / "a3" / "b")) == "/a3/b"


def test_nothing_is_walked_before_the_first_look_up_and_the_tree_but_once_for_all(tree, walks):
    paths = CgroupPaths(Roots(cgroup=str(tree)))
    assert walks == []
    for directory in tree.iterdir():
        paths.path_of(id_of(directory))
    assert walks == [str(tree)]


def test_no_id_is_no_reason_to_walk(tree, walks):
    assert CgroupPaths(Roots(cgroup=str(tree))).path_of(0) is None
    assert walks == []


def test_a_cgroup_made_after_the_walk_is_found_each_time_that_there_is_one(tree, walks):
    paths = CgroupPaths(Roots(cgroup=str(tree)))
    for number in range(3):
        paths.path_of(id_of(tree))
        late = tree / "a4" / f"late{number}"
        late.mkdir()
        assert paths.path_of(id_of(late)) == f"/a4/late{number}"
    assert walks == [str(tree)] * 4


def test_ids_of_removed_cgroups_cost_one_walk_together(tree, walks):
    paths = CgroupPaths(Roots(cgroup=str(tree)))
    assert [paths.path_of((1 << 63) + number) for number in range(101)] == [None] * 101
    assert walks == [str(tree)] * 2
    assert paths.path_of(id_of(tree / "a1" / "b")) == "/a1/b"


def test_a_path_once_found_stays_when_its_cgroup_is_removed(tree):
    paths = CgroupPaths(Roots(cgroup=str(tree)))
    number = id_of(tree / "a4")
    assert paths.path_of(number) == "/a4"
    (tree / "a4").rmdir()
    assert paths.path_of(1 << 63) is None
    assert paths.path_of(number) == "/a4"


@pytest.mark.parametrize("when", ["before it is looked at", "before it is opened"])
def test_a_directory_that_vanishes_during_the_walk_takes_nothing_with_it(tree, monkeypatch, when):
    rest = [path for path in (tree, *tree.rglob("*")) if path.is_dir() and path.name != "a4"]
    expected = [f"/{path.relative_to(tree)}".replace("/.", "/") for path in rest]
    is_leaf = cgroups._is_leaf

    def look(child):
        if (tree / "a4").exists():
            (tree / "a4").rmdir()
        return is_leaf(child) if when == "before it is looked at" else False

    monkeypatch.setattr(cgroups, "_is_leaf", look)
    paths = CgroupPaths(Roots(cgroup=str(tree)))
    assert [paths.path_of(id_of(path)) for path in rest] == expected
    assert not (tree / "a4").exists()


class Uncounted:
    """A directory of a file system that does not count the directories in it, as btrfs."""

    def stat(self, *, follow_symlinks):
        assert not follow_symlinks
        return os.stat_result((0o40755, 5, 1, 1, *[0] * 6))


def test_only_a_directory_whose_children_are_counted_and_none_is_left_unopened(tree):
    assert [cgroups._is_leaf(entry) for entry in os.scandir(tree / "a3" / "b")] == [True] * 4
    assert [cgroups._is_leaf(entry) for entry in os.scandir(tree / "a3") if entry.is_dir()] == [False]
    assert not cgroups._is_leaf(Uncounted())


def test_a_mount_that_is_not_there_has_no_paths(tmp_path):
    paths = CgroupPaths(Roots(cgroup=str(tmp_path / "missing")))
    assert paths.path_of(1) is None


def with_mounts(tmp_path, *mounts):
    """A /proc whose mountinfo has these as cgroup v2, and one more of another kind."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    lines = [f"{20 + at} 1 0:27 / {mount} rw - cgroup2 cgroup2 rw\n" for at, mount in enumerate(mounts)]
    (tmp_path / "proc" / "self" / "mountinfo").write_text(
        f"19 1 0:5 / {tmp_path} rw - tmpfs tmpfs rw\n" + "".join(lines)
    )
    return Roots(proc=str(tmp_path / "proc"))


def test_the_mounts_are_looked_up_where_none_is_given(tree, tmp_path, walks):
    paths = CgroupPaths(with_mounts(tmp_path, tree))
    assert paths.path_of(id_of(tree / "a0" / "b")) == "/a0/b"
    assert walks == [str(tree)]


def test_a_host_without_a_mount_has_no_paths(tmp_path):
    assert CgroupPaths(with_mounts(tmp_path)).path_of(1) is None


@pytest.mark.parametrize("parts", [("", "a1"), ("a1", "")])
def test_of_two_mounts_the_one_that_shows_more_names_the_paths(tree, tmp_path, parts):
    paths = CgroupPaths(with_mounts(tmp_path, *(str(tree / part) for part in parts)))
    assert paths.path_of(id_of(tree / "a1")) == "/a1"
    assert paths.path_of(id_of(tree / "a1" / "b")) == "/a1/b"
    assert paths.path_of(id_of(tree)) == "/"


def test_a_part_of_a_tree_that_was_walked_is_not_walked_again(tree, tmp_path, walks):
    CgroupPaths(with_mounts(tmp_path, tree, tree / "a1")).path_of(id_of(tree))
    assert walks == [str(tree)]


def with_process(tmp_path, data):
    (tmp_path / "4242").mkdir()
    (tmp_path / "4242" / "cgroup").write_bytes(data)
    return str(tmp_path)


def test_the_path_of_a_process_is_read_below_the_given_proc(tmp_path):
    proc = with_process(tmp_path, b"1:name=systemd:/init.scope\n0::/system.slice/nginx.service\n")
    assert read_process_cgroup(4242, proc) == "/system.slice/nginx.service"


@pytest.mark.parametrize("name", ["a\udcff", "a\r", "\u00e9"])
def test_any_name_of_a_directory_is_read_as_scandir_reads_it(tmp_path, name):
    proc = with_process(tmp_path, b"0::/" + os.fsencode(name) + b"\n")
    assert read_process_cgroup(4242, proc) == f"/{name}"


def test_a_process_that_has_ended_has_no_path(tmp_path):
    assert read_process_cgroup(4242, str(tmp_path)) is None
    assert read_process_cgroup(NO_PROCESS) is None


def test_a_process_that_may_not_be_read_has_no_path(tmp_path):
    (tmp_path / "4242" / "cgroup").mkdir(parents=True)  # open() refuses a directory to root too
    assert read_process_cgroup(4242, str(tmp_path)) is None


def test_our_own_process_has_the_path_that_proc_shows():
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        assert f":{read_process_cgroup(os.getpid())}\n" in file.read()
