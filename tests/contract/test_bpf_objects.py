"""The BPF objects that are installed come from bpf/ as it is, say nothing of the machine that made them, and have the layouts
that wire/bpf_layouts.py tells; a wheel brings them along.
"""  # fmt: skip

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import bpf_build
import finwait
from finwait.wire.bpf_layouts import GLOBALS, SOURCES_DIGEST, STRUCTS
from scripts import bpf_layouts

ROOT = Path(__file__).resolve().parents[2]
OBJECTS = Path(finwait.__file__).parent / "sources" / "bpf_objects"
NAMES = bpf_build.object_names(ROOT)


def test_there_is_one_object_for_every_program():
    assert NAMES
    assert sorted(path.name for path in OBJECTS.glob("*.bpf.o")) == [f"{name}.bpf.o" for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_an_object_carries_the_digest_of_the_sources(name):
    digest = bpf_build.read_digest(ROOT)
    assert f"finwait-sources:{digest}\0".encode() in (OBJECTS / f"{name}.bpf.o").read_bytes(), "run: make bpf"


def test_the_layouts_are_those_of_the_sources():
    assert bpf_build.read_digest(ROOT) == SOURCES_DIGEST, "run: make bpf"


@pytest.mark.parametrize("name", NAMES)
def test_an_object_holds_no_path_of_this_machine(name):
    content = (OBJECTS / f"{name}.bpf.o").read_bytes()
    for place in {str(ROOT), os.getcwd(), os.path.expanduser("~"), sys.prefix, "/tmp/", "/home/", "/root/", "/usr/"} - {
        "/"
    }:
        assert place.encode() not in content
    assert b"bpf/finwait.bpf.h" in content, "line information names the sources, relative to the repository"


@pytest.mark.parametrize("name", NAMES)
def test_records_and_globals_of_an_object_are_those_of_the_layouts(name):
    content = (OBJECTS / f"{name}.bpf.o").read_bytes()
    for struct, layout in bpf_layouts.read_structs(bpf_layouts.parse_types(content)).items():
        assert STRUCTS[struct] == layout
    assert bpf_layouts.read_globals(content) == GLOBALS[name]


@pytest.mark.parametrize("name", STRUCTS)
def test_a_record_is_as_long_in_python_as_in_the_kernel(name):
    size, fields = STRUCTS[name]
    names, offsets, codes = zip(*fields, strict=True)
    layout = np.dtype({"names": names, "offsets": offsets, "formats": codes})
    ends = [offset + np.dtype(code).itemsize for _, offset, code in fields]
    assert all(end <= start for end, start in zip(ends, (*offsets[1:], size), strict=True)), "no two fields overlap"
    assert ends[-1] <= size < ends[-1] + 8, "what follows the last field is padding"
    assert layout.itemsize == ends[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    directory = tmp_path_factory.mktemp("wheel")
    command = ("-c", "import sys, hatchling.build; hatchling.build.build_wheel(sys.argv[1])", str(directory))
    subprocess.run((sys.executable, *command), cwd=ROOT, check=True, capture_output=True)
    (path,) = directory.glob("*.whl")
    return path


def test_a_wheel_is_for_every_machine_and_has_every_object_and_the_layouts(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        objects = {name: archive.read(name) for name in archive.namelist() if "bpf_objects/" in name}
        layouts = archive.read("finwait/wire/bpf_layouts.py")
    assert objects == {
        f"finwait/sources/bpf_objects/{name}.bpf.o": (OBJECTS / f"{name}.bpf.o").read_bytes() for name in NAMES
    }
    assert SOURCES_DIGEST.encode() in layouts


def test_installing_a_wheel_runs_no_compiler(wheel, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("clang", "cc", "gcc"):
        (tools / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/compiled\nexit 1\n")
        (tools / name).chmod(0o755)
    target = tmp_path / "installed"
    command = (
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
        str(wheel),
    )
    environment = {"PATH": str(tools), "FINWAIT_BPF_CC": str(tools / "clang"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True)
    assert not (tmp_path / "compiled").exists()
    installed = target / "finwait" / "sources" / "bpf_objects"
    assert sorted(path.name for path in installed.iterdir()) == [f"{name}.bpf.o" for name in NAMES]
