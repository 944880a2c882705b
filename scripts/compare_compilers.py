"""Compile bpf/ with clang and with ziglang, and compare what libbpf and user space see of the objects.

    python scripts/compare_compilers.py    exit 1 where they differ, or where one of the compilers is not there

Compared are programs and their sections, maps, globals, records and enumerators; instructions may differ.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import bpf_build  # noqa: E402
import bpf_elf  # noqa: E402
from scripts import bpf_layouts, btf  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Mapping

SHF_EXECINSTR = 4


def read_programs(data: bytes) -> dict[str, str]:
    """The section, which tells the type, of every program; what they call stands in .text."""
    elf = bpf_elf.parse_object(data)
    found = {}
    for symbol in elf.symbols:
        if symbol.kind == bpf_elf.STT_FUNC and symbol.section < len(elf.sections):
            section = elf.sections[symbol.section]
            if section.flags & SHF_EXECINSTR and section.name != ".text":
                found[symbol.name] = section.name
    return found


def read_maps(types: btf.Btf) -> dict[str, dict[str, int]]:
    """What the definition of every map says: numbers as they are, of key and value the bytes."""
    sections = [found for found in types.named(btf.KIND_DATASEC) if found.name == ".maps"]
    variables = [types.types[number] for found in sections for number in found.variables]
    return {variable.name: _definition(types, variable.size_or_type) for variable in variables}


def _definition(types: btf.Btf, type_id: int) -> dict[str, int]:
    """`__uint(name, n)` is a pointer to an array of n, `__type(name, t)` a pointer to a t (tools/lib/bpf/bpf_helpers.h)."""
    found = {}
    for member in types.resolve(type_id).members:
        target = types.resolve(member.type_id).size_or_type
        if member.name in {"key", "value"}:
            found[f"{member.name}_size"] = types.size_of(target)
        else:
            found[member.name] = types.resolve(target).element[1]
    return found


def describe(objects: dict[str, bytes]) -> dict[str, object]:
    """Everything that is compared, by a name for it."""
    described: dict[str, object] = {}
    for name, data in objects.items():
        types = bpf_layouts.parse_types(data)
        parts: dict[str, Mapping[str, object]] = {
            "programs": read_programs(data),
            "maps": read_maps(types),
            "globals": bpf_layouts.read_globals(data),
            "structs": bpf_layouts.read_structs(types),
            "enumerators": bpf_layouts.read_enums(types),
        }
        for kind, part in parts.items():
            described.update({f"{name}: {kind}: {key}": value for key, value in part.items()})
    return described


def differences(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """A line for each thing that the two do not say the same of."""
    names = sorted(one.keys() | other.keys())
    return [f"{name}: {one.get(name)} and {other.get(name)}" for name in names if one.get(name) != other.get(name)]


def compile_all(compiler: bpf_build.Compiler) -> dict[str, bytes]:
    """The objects, and the one that has the BTF of all records."""
    return bpf_build.compile_sources(ROOT, compiler) | bpf_layouts.compile_anchors(ROOT, compiler)


def main() -> int:
    """Compare; the exit code is 1 where the compilers do not agree or are not both there."""
    clang, ziglang = bpf_build.find_clang(), bpf_build.find_ziglang()
    if clang is None or ziglang is None:
        print("comparing takes clang with the target bpf and the wheel ziglang", file=sys.stderr)
        return 1
    try:
        one, other = describe(compile_all(clang)), describe(compile_all(ziglang))
    except bpf_layouts.FAILURES as error:
        print(error, file=sys.stderr)
        return 1
    found = differences(one, other)
    for line in found:
        print(f"{clang.name} and {ziglang.name} differ in {line}", file=sys.stderr)
    print(f"{len(one)} programs, maps, globals and types compared, {len(found)} differ")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
