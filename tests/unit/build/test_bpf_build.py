"""Which compiler makes the BPF objects, when they are made anew, and that equal sources make equal bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import bpf_build
from bpf_build import BpfBuildError

ROOT = Path(__file__).resolve().parents[3]
TARGETS = "  Registered Targets:\n    bpf        - BPF (host endian)\n    x86-64     - 64-bit X86\n"
NO_BPF = "  Registered Targets:\n    x86-64     - 64-bit X86\n    xbpf - something else\n"


@pytest.fixture(autouse=True)
def no_choice(monkeypatch):
    monkeypatch.delenv("FINWAIT_BPF_CC", raising=False)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """An empty directory that is the whole PATH."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


def write_clang(path: Path, targets: str = TARGETS) -> str:
    path.write_text(f"#!/bin/sh\n[ \"$1\" = -print-targets ] || exit 9\nprintf '%s' '{targets}'\n")
    path.chmod(0o755)
    return str(path)


def write_sources(root: Path, **text_by_name: str) -> None:
    (root / "bpf").mkdir(parents=True, exist_ok=True)
    (root / "bpf" / "finwait.bpf.h").write_text(
        'static const char s[] SEC("finwait") = "finwait-sources:" FINWAIT_SOURCES;\n'
    )
    for name, text in text_by_name.items():
        (root / "bpf" / f"{name}.bpf.c").write_text(
            f'#define SEC(name) __attribute__((section(name), used))\n#include "finwait.bpf.h"\n{text}\n'
        )


def test_the_digest_changes_with_a_name_and_with_a_content(tmp_path):
    write_sources(tmp_path, one="int a;")
    first = bpf_build.read_digest(tmp_path)
    assert len(first) == 16
    (tmp_path / "bpf" / "one.bpf.c").rename(tmp_path / "bpf" / "two.bpf.c")
    second = bpf_build.read_digest(tmp_path)
    with (tmp_path / "bpf" / "finwait.bpf.h").open("a") as header:
        header.write("\n")
    assert len({first, second, bpf_build.read_digest(tmp_path)}) == 3
    (tmp_path / "bpf" / "notes.txt").write_text("no source")
    assert bpf_build.read_digest(tmp_path) not in {first, second}


def test_clang_is_taken_before_numbered_ones_and_those_from_the_newest(path):
    write_clang(path / "clang-9")
    newest = write_clang(path / "clang-19")
    write_clang(path / "clang-tidy-21")
    assert bpf_build.choose_compiler().command == (newest, "-target", "bpf")
    plain = write_clang(path / "clang")
    assert bpf_build.choose_compiler().command == (plain, "-target", "bpf")


def test_a_clang_without_the_target_bpf_is_passed_over(path):
    write_clang(path / "clang", NO_BPF)
    (path / "clang-20").write_text("#!/bin/sh\nexit 1\n")
    (path / "clang-20").chmod(0o755)
    assert bpf_build.find_clang() is None
    old = write_clang(path / "clang-14")
    assert bpf_build.choose_compiler().command[0] == old


def test_ziglang_is_asked_for_only_where_objects_must_be_made_and_no_clang_can(path, tmp_path, monkeypatch):
    write_sources(tmp_path, one="int a;")
    assert bpf_build.requirements(tmp_path) == [bpf_build.ZIGLANG]
    bpf_build.build_objects(tmp_path)
    assert bpf_build.requirements(tmp_path) == []
    monkeypatch.setenv("FINWAIT_BPF_CC", "ziglang")
    assert bpf_build.requirements(tmp_path) == [bpf_build.ZIGLANG]
    monkeypatch.setenv("FINWAIT_BPF_CC", "clang")
    assert bpf_build.requirements(tmp_path) == []
    monkeypatch.delenv("FINWAIT_BPF_CC")
    write_sources(tmp_path, one="int b;")
    write_clang(path / "clang")
    assert bpf_build.requirements(tmp_path) == []


def test_the_environment_forces_a_compiler(path, tmp_path, monkeypatch):
    write_clang(path / "clang")
    other = write_clang(tmp_path / "my-clang")
    monkeypatch.setenv("FINWAIT_BPF_CC", other)
    assert bpf_build.choose_compiler().name == other
    monkeypatch.setenv("FINWAIT_BPF_CC", "ziglang")
    assert bpf_build.choose_compiler().name == "ziglang"
    monkeypatch.setenv("FINWAIT_BPF_CC", str(tmp_path / "nothing"))
    with pytest.raises(BpfBuildError, match=r"FINWAIT_BPF_CC=.*nothing is no clang with the target bpf"):
        bpf_build.choose_compiler()


def test_without_any_compiler_the_message_says_what_to_install(path, monkeypatch):
    monkeypatch.setattr(bpf_build, "find_ziglang", lambda: None)
    with pytest.raises(BpfBuildError, match=r"no clang .*apt install clang.* and no ziglang>=") as failed:
        bpf_build.choose_compiler()
    assert "\n" not in str(failed.value)


def test_a_failure_names_compiler_and_file_and_leaves_the_objects_that_were_there(path, tmp_path):
    write_sources(tmp_path, good="int a;", wrong="int b;")
    bpf_build.build_objects(tmp_path)
    objects = {file: file.read_bytes() for file in (tmp_path / bpf_build.OBJECTS).iterdir()}
    write_sources(tmp_path, wrong="int f(void) { return missing; }")
    with pytest.raises(BpfBuildError) as failed:
        bpf_build.build_objects(tmp_path)
    first, *rest = str(failed.value).splitlines()
    assert first == "ziglang cannot compile bpf/wrong.bpf.c (exit code 1):"
    assert "bpf/wrong.bpf.c:3" in rest[0]
    assert "missing" in rest[0]
    assert {file: file.read_bytes() for file in (tmp_path / bpf_build.OBJECTS).iterdir()} == objects


def test_a_warning_is_a_failure(path, tmp_path):
    write_sources(tmp_path, one="int f(void) { int unused; return 1; }")
    with pytest.raises(BpfBuildError, match="unused"):
        bpf_build.build_objects(tmp_path)


def test_a_compiler_that_cannot_be_run_is_named(tmp_path):
    write_sources(tmp_path, one="int a;")
    with pytest.raises(BpfBuildError, match="/nowhere/clang cannot be run: No such file"):
        bpf_build.build_objects(tmp_path, compiler=bpf_build.clang_at("/nowhere/clang"))


def test_fresh_objects_are_left_and_any_change_makes_all_anew(path, tmp_path, monkeypatch):
    write_sources(tmp_path, one="int a;", two="int b;")
    assert bpf_build.build_objects(tmp_path)
    assert not bpf_build.build_objects(tmp_path)
    assert bpf_build.build_objects(tmp_path, force=True)
    monkeypatch.setenv("FINWAIT_BPF_CC", "ziglang")
    assert bpf_build.build_objects(tmp_path)
    monkeypatch.delenv("FINWAIT_BPF_CC")
    (tmp_path / bpf_build.OBJECTS / "two.bpf.o").unlink()
    assert bpf_build.build_objects(tmp_path)
    write_sources(tmp_path, two="int c;")
    assert bpf_build.build_objects(tmp_path)
    (tmp_path / "bpf" / "two.bpf.c").unlink()
    assert bpf_build.build_objects(tmp_path)
    assert [file.name for file in (tmp_path / bpf_build.OBJECTS).iterdir()] == ["one.bpf.o"]


def test_equal_sources_make_equal_bytes_wherever_they_lie(tmp_path, monkeypatch):
    made = []
    for place in ("here", "some/where/else"):
        root = tmp_path / place
        shutil.copytree(ROOT / "bpf", root / "bpf")
        monkeypatch.setenv("HOME", str(tmp_path / "no-home"))
        made.append(bpf_build.compile_sources(root, bpf_build.choose_compiler()))
    assert made[0] == made[1]
    assert not (tmp_path / "no-home").exists()
    for content in made[0].values():
        assert str(tmp_path).encode() not in content


def test_layouts_of_other_sources_stop_a_build(tmp_path):
    write_sources(tmp_path, one="int a;")
    layouts = tmp_path / bpf_build.LAYOUTS
    layouts.parent.mkdir(parents=True)
    layouts.write_text(f'SOURCES_DIGEST: str = "{bpf_build.read_digest(tmp_path)}"\n')
    bpf_build.check_layouts(tmp_path)
    write_sources(tmp_path, one="int b;")
    with pytest.raises(BpfBuildError, match="run: make bpf"):
        bpf_build.check_layouts(tmp_path)
