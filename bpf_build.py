"""Compiles bpf/NAME.bpf.c to src/finwait/sources/bpf_objects/NAME.bpf.o; the build hook and `make bpf` call it.

An object is bytecode of the host's byte order: those made on x86 work on every little-endian Linux machine, whatever its
kernel (CO-RE). So a wheel that holds them stays py3-none-any. On a big-endian machine libbpf refuses them and finwait reads
by sock_diag; a build from the sdist there makes big-endian ones.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from bpf_elf import ElfError, strip_debug

SOURCES = Path("bpf")
OBJECTS = Path("src/finwait/sources/bpf_objects")
LAYOUTS = Path("src/finwait/wire/bpf_layouts.py")  # scripts/bpf_layouts.py writes it
CHOICE = "FINWAIT_BPF_CC"  # environment: clang, ziglang or the path of a clang
# The oldest that was tried (clang 18 inside); the wheel is clang for whoever has none, on every machine that has wheels.
ZIGLANG = "ziglang>=0.13"
_NO_CLANG = "clang with the target bpf on PATH (Debian: apt install clang)"
_DIGEST_DIGITS = 16
_MARK = b"finwait-sources:"
_FLAGS = (
    "-O2", "-g",
    "-mcpu=v3",  # Linux 5.1; iterators came with 5.8. Compilers differ in what they take by themselves
    "-fno-asynchronous-unwind-tables", "-fno-unwind-tables",
    "-fdebug-compilation-dir=.",  # no path of this machine; sources are named relative to the repository
    "-Wall", "-Wextra", "-Werror",
)  # fmt: skip


class BpfBuildError(Exception):
    """Why there are no objects; its text is for whoever runs the build."""


class Compiler(NamedTuple):
    """A way to compile; `command` is followed by flags and files."""

    name: str
    command: tuple[str, ...]


def read_digest(root: Path) -> str:
    """What the objects of these sources carry: of SHA-256 over names and contents of bpf/*."""
    total = hashlib.sha256()
    for path in sorted((root / SOURCES).glob("*.bpf.[ch]"), key=lambda path: path.name):
        content = path.read_bytes()
        total.update(f"{path.name}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()[:_DIGEST_DIGITS]


def object_names(root: Path) -> list[str]:
    """NAME of every bpf/NAME.bpf.c."""
    return sorted(path.name.removesuffix(".bpf.c") for path in (root / SOURCES).glob("*.bpf.c"))


def are_fresh(root: Path, directory: Path | None = None) -> bool:
    """Whether there is exactly one object a source, each made from the sources as they are now."""
    mark = _MARK + read_digest(root).encode() + b"\0"
    present = {path.name: path for path in (directory or root / OBJECTS).glob("*.bpf.o")}
    wanted = {f"{name}.bpf.o" for name in object_names(root)}
    return set(present) == wanted and all(mark in path.read_bytes() for path in present.values())


def check_layouts(root: Path) -> None:
    """Raise BpfBuildError where wire/bpf_layouts.py is of other sources: finwait would refuse its own objects."""
    if f'"{read_digest(root)}"' not in (root / LAYOUTS).read_text(encoding="utf-8"):
        raise BpfBuildError(f"{LAYOUTS} was not made from {SOURCES} as it is now; run: make bpf")


def find_clang() -> Compiler | None:
    """The first clang on PATH that can make BPF: `clang`, then `clang-NN`, the newest first."""
    directories = [path for path in os.environ.get("PATH", "").split(os.pathsep) if os.path.isdir(path)]
    numbered = {name for path in directories for name in os.listdir(path) if re.fullmatch(r"clang-\d+", name)}
    names = ["clang", *sorted(numbered, key=lambda name: -int(name.removeprefix("clang-")))]
    for path in filter(None, map(shutil.which, names)):
        if has_bpf_target(path):
            return clang_at(path)
    return None


def has_bpf_target(path: str) -> bool:
    """Whether the clang at `path` was built with the target bpf."""
    try:
        done = subprocess.run((path, "-print-targets"), capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and re.search(r"^\s+bpf\s", done.stdout, re.MULTILINE) is not None


def clang_at(path: str) -> Compiler:
    """The clang at `path`; its target bpf has the host's byte order."""
    return Compiler(path, (path, "-target", "bpf"))


def find_ziglang() -> Compiler | None:
    """The clang inside the wheel ziglang, where this interpreter can import it."""
    if importlib.util.find_spec("ziglang") is None:
        return None
    target = f"{'bpfel' if sys.byteorder == 'little' else 'bpfeb'}-freestanding-none"
    return Compiler("ziglang", (sys.executable, "-m", "ziglang", "cc", "-target", target))


def choose_compiler() -> Compiler:
    """What FINWAIT_BPF_CC says, else clang, else ziglang. Raises BpfBuildError."""
    choice = os.environ.get(CHOICE, "")
    if choice and choice not in {"clang", "ziglang"}:
        path = shutil.which(choice)
        if path is None or not has_bpf_target(path):
            raise BpfBuildError(f"{CHOICE}={choice} is no clang with the target bpf")
        return clang_at(path)
    compiler = find_clang() if choice != "ziglang" else None
    if compiler is None and choice != "clang":
        compiler = find_ziglang()
    if compiler is None:
        wanted = {"clang": _NO_CLANG, "ziglang": ZIGLANG}.get(choice, f"{_NO_CLANG} and no {ZIGLANG}")
        raise BpfBuildError(f"no compiler for {SOURCES}/*.bpf.c: there is no {wanted}")
    return compiler


def requirements(root: Path) -> list[str]:
    """What a build must install first: ziglang, where objects must be made and no clang can."""
    choice = os.environ.get(CHOICE, "")
    if choice:
        return [ZIGLANG] if choice == "ziglang" else []
    return [] if are_fresh(root) or find_clang() else [ZIGLANG]


def build_objects(
    root: Path, directory: Path | None = None, compiler: Compiler | None = None, *, force: bool = False
) -> bool:
    """Make the objects, in `directory` if it is not the package; whether they had to be. Raises BpfBuildError.

    Those that carry the digest of the sources stay, unless forced or FINWAIT_BPF_CC is set.
    """
    if not (force or compiler or os.environ.get(CHOICE)) and are_fresh(root, directory):
        return False
    target = directory or root / OBJECTS
    target.mkdir(parents=True, exist_ok=True)
    made = compile_sources(root, compiler or choose_compiler())
    for path in target.glob("*.bpf.o"):
        if path.name.removesuffix(".bpf.o") not in made:
            path.unlink()
    for name, content in made.items():
        _replace(target / f"{name}.bpf.o", content)
    return True


def _replace(path: Path, content: bytes) -> None:
    """Write `content`; who reads meanwhile gets the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def compile_sources(root: Path, compiler: Compiler) -> dict[str, bytes]:
    """The stripped object of every bpf/NAME.bpf.c by NAME. Raises BpfBuildError."""
    return compile_files(root, compiler, {name: f"{SOURCES}/{name}.bpf.c" for name in object_names(root)})


def compile_files(root: Path, compiler: Compiler, sources: dict[str, str]) -> dict[str, bytes]:
    """The stripped object of each of `sources` by its name; all are compiled at once. Raises BpfBuildError."""
    digest = read_digest(root)
    with tempfile.TemporaryDirectory(prefix="finwait-bpf-") as scratch:
        # ziglang's cache: one that goes, so that a build needs no home and takes nothing from an earlier one
        cache = os.path.join(scratch, "cache")
        environment = {**os.environ, "LC_ALL": "C", "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
        running = {}
        for name, source in sources.items():
            files = ("-I", str(SOURCES), "-c", source, "-o", os.path.join(scratch, f"{name}.o"))
            command = (*compiler.command, *_FLAGS, f'-DFINWAIT_SOURCES="{digest}"', *files)
            running[name] = _start(compiler, command, root, environment)
        failures = [text for name, process in running.items() if (text := _failure(compiler, sources[name], process))]
        if failures:
            raise BpfBuildError("\n".join(failures))
        objects = {name: _stripped(source, Path(scratch, f"{name}.o"), digest) for name, source in sources.items()}
    if read_digest(root) != digest:
        raise BpfBuildError(f"{SOURCES} changed while it was compiled; build again")
    return objects


def _start(
    compiler: Compiler, command: tuple[str, ...], root: Path, environment: dict[str, str]
) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            command,
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise BpfBuildError(f"{compiler.name} cannot be run: {error.strerror}") from error


def _failure(compiler: Compiler, source: str, process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate()
    if process.returncode == 0:
        return ""
    return f"{compiler.name} cannot compile {source} (exit code {process.returncode}):\n{said.strip()}"


def _stripped(source: str, path: Path, digest: str) -> bytes:
    """The object in `path` without DWARF. Raises BpfBuildError where it is not as the package needs it."""
    try:
        content = strip_debug(path.read_bytes())
    except (ElfError, OSError) as error:
        raise BpfBuildError(f"the object of {source}: {error}") from error
    if _MARK + digest.encode() + b"\0" not in content:
        raise BpfBuildError(f"the object of {source} does not carry the digest of its sources (bpf/finwait.bpf.h)")
    return content
