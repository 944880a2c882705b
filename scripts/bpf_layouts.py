"""Write src/finwait/wire/bpf_layouts.py: the records and globals of the BPF programs, as their BTF has them.

    python scripts/bpf_layouts.py    make the BPF objects and write the layouts (`make bpf`)

Clang writes BTF of types that maps, globals and arguments use, not of a program's local variables. So the headers of bpf/ are
compiled once more, with a variable of each `struct finwait_*` and `enum finwait_*` that they declare.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import bpf_build  # noqa: E402
import bpf_elf  # noqa: E402
from scripts import btf  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeVar

    Value = TypeVar("Value")
    Fields = tuple[tuple[str, int, str], ...]
    Structs = dict[str, tuple[int, Fields]]
    Globals = dict[str, tuple[str, int, int]]

ANCHORS = "finwait_anchors"  # the object made for its BTF alone; not part of the package
PREFIX = "finwait_"
PADDING = "zero"
_GLOBAL_SECTIONS = (".bss", ".data")
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)


class LayoutError(ValueError):
    """A type that user space could not read, or that objects do not agree on; its text is for who edits bpf/."""


FAILURES = (bpf_build.BpfBuildError, bpf_elf.ElfError, btf.BtfError, LayoutError)


def generate(root: Path) -> dict[Path, str]:
    """The file by path, from objects that are made where they are not fresh. Raises FAILURES."""
    bpf_build.build_objects(root)
    return {bpf_build.LAYOUTS: render(root, read_objects(root) | compile_anchors(root, bpf_build.choose_compiler()))}


def read_objects(root: Path) -> dict[str, bytes]:
    """The objects in the package by name."""
    return {name: (root / bpf_build.OBJECTS / f"{name}.bpf.o").read_bytes() for name in bpf_build.object_names(root)}


def declared_types(root: Path, pattern: str = "*.bpf.h") -> list[str]:
    """`struct finwait_*` and `enum finwait_*` in the order of the sources."""
    found = [
        re.findall(rf"^((?:struct|enum) {PREFIX}\w+) \{{", text, re.MULTILINE) for text in _read_sources(root, pattern)
    ]
    return [name for names in found for name in names]


def declared_enumerators(root: Path) -> list[str]:
    """FINWAIT_* that any enum of the sources has."""
    bodies = [
        body for text in _read_sources(root, "*.bpf.[ch]") for body in re.findall(r"enum[^{};]*\{([^}]*)\}", text)
    ]
    return [name for body in bodies for name in re.findall(r"\bFINWAIT_\w+", body)]


def _read_sources(root: Path, pattern: str) -> Iterator[str]:
    paths = sorted((root / bpf_build.SOURCES).glob(pattern), key=lambda path: path.name)
    return (_COMMENT.sub(" ", path.read_text(encoding="utf-8")) for path in paths)


def compile_anchors(root: Path, compiler: bpf_build.Compiler) -> dict[str, bytes]:
    """An object with the BTF of every type that the headers declare, by its name. Raises BpfBuildError."""
    headers = sorted(path.name for path in (root / bpf_build.SOURCES).glob("*.bpf.h"))
    lines = [f'#include "{name}"' for name in headers]
    lines += [f"{name} anchor_{number};" for number, name in enumerate(declared_types(root))]
    with tempfile.TemporaryDirectory(prefix="finwait-bpf-") as scratch:
        source = Path(scratch, f"{ANCHORS}.bpf.c")
        source.write_text("\n".join([*lines, ""]), encoding="utf-8")
        return bpf_build.compile_files(root, compiler, {ANCHORS: str(source)})


def parse_types(data: bytes) -> btf.Btf:
    """The BTF of an object. Raises LayoutError where it has none."""
    elf = bpf_elf.parse_object(data)
    section = elf.section(".BTF")
    if section is None:
        raise LayoutError("an object has no BTF")
    return btf.parse_btf(section.content, elf.order)


def _flat_members(types: btf.Btf, found: btf.BtfType, base: int = 0) -> Iterator[tuple[str, int, str]]:
    """(field, offset, code) of each member, those of nested structs in their place, padding too."""
    for member in found.members:
        place = f"struct {found.name}: {member.name}"
        if member.bits or member.bit_offset % 8:
            raise LayoutError(f"{place} is a bit field")
        offset = base + member.bit_offset // 8
        inner = types.resolve(member.type_id)
        if inner.kind == btf.KIND_STRUCT:
            yield from _flat_members(types, inner, offset)
        else:
            yield member.name, offset, _code(types, member.type_id, place)


def _code(types: btf.Btf, type_id: int, place: str) -> str:
    """NumPy's code of a number, characters or bytes. Raises LayoutError for anything else."""
    found = types.resolve(type_id)
    if found.kind == btf.KIND_ARRAY:
        element, count = types.resolve(found.element[0]), found.element[1]
        if element.kind == btf.KIND_INT:
            return f"S{count}" if element.name == "char" else f"{count}u{element.size_or_type}"
    elif found.kind == btf.KIND_INT:
        return f"{'i' if found.encoding & 1 else 'u'}{found.size_or_type}"
    elif found.kind == btf.KIND_ENUM:
        return f"u{found.size_or_type}"
    raise LayoutError(f"{place} is of a type that has no code here")


def read_structs(types: btf.Btf) -> Structs:
    """(size, fields) of every `struct finwait_*`. Raises LayoutError."""
    structs: Structs = {}
    for found in types.named(btf.KIND_STRUCT, PREFIX):
        fields = tuple(field for field in _flat_members(types, found) if field[0] != PADDING)
        if len({name for name, _, _ in fields}) < len(fields):
            raise LayoutError(f"struct {found.name} has two fields of one name")
        structs[found.name] = (found.size_or_type, fields)
    return structs


def read_enums(types: btf.Btf) -> dict[str, int]:
    """The value of every enumerator FINWAIT_*. Raises LayoutError for one that clang 14 cuts or writes without its sign."""
    found = (*types.named(btf.KIND_ENUM), *types.named(btf.KIND_ENUM64))
    enums = {}
    for enum in found:
        for name, value in enum.enumerators:
            if name.startswith("FINWAIT_"):
                if enum.size_or_type > 4 or not 0 <= value < 1 << 31:
                    raise LayoutError(f"{name} does not fit into 31 bits")
                enums[name] = value
    return enums


def read_globals(data: bytes) -> Globals:
    """(section, offset, size) of every global that is not const."""
    elf = bpf_elf.parse_object(data)
    found = {}
    for symbol in elf.symbols:
        if symbol.kind == bpf_elf.STT_OBJECT and symbol.section < len(elf.sections):
            section = elf.sections[symbol.section].name
            if section in _GLOBAL_SECTIONS:
                found[symbol.name] = (section, symbol.value, symbol.size)
    return dict(sorted(found.items(), key=lambda item: item[1]))


def merge(parts: Iterable[dict[str, Value]], kind: str) -> dict[str, Value]:
    """All of `parts`. Raises LayoutError where two of them say different things of one name."""
    merged: dict[str, Value] = {}
    for part in parts:
        for name, value in part.items():
            if merged.setdefault(name, value) != value:
                raise LayoutError(f"{kind} {name} is not the same in all objects: {merged[name]} and {value}")
    return merged


def missing_types(root: Path, structs: Structs, enums: dict[str, int]) -> list[str]:
    """What the sources declare and no BTF has."""
    wanted = [name.removeprefix("struct ") for name in declared_types(root, "*.bpf.[ch]") if name.startswith("struct ")]
    missing = [name for name in wanted if name not in structs]
    return missing + [name for name in declared_enumerators(root) if name not in enums]


def render(root: Path, objects: dict[str, bytes]) -> str:
    """The text of the module. Raises LayoutError."""
    types = [parse_types(objects[name]) for name in sorted(objects)]
    structs = merge(map(read_structs, types), "struct")
    enums = merge(map(read_enums, types), "enumerator")
    missing = missing_types(root, structs, enums)
    if missing:
        raise LayoutError(f"in no BTF, declare them in a header, enums with a name finwait_*: {', '.join(missing)}")
    places = {name: read_globals(data) for name, data in sorted(objects.items()) if name != ANCHORS}
    lines = [
        '"""Records and globals of the BPF programs."""',
        "",
        "# generated by scripts/bpf_layouts.py from the BTF of bpf/; do not edit",
        "",
        f'SOURCES_DIGEST: str = "{bpf_build.read_digest(root)}"',
        "# struct: (bytes, ((field, offset, NumPy's code), ...))",
        "STRUCTS: dict[str, tuple[int, tuple[tuple[str, int, str], ...]]] = {",
    ]
    for name, (size, fields) in sorted(structs.items()):
        lines += [f'    "{name}": (', f"        {size},", *_tuple_lines(fields), "    ),"]
    lines += ["}", "ENUMS: dict[str, int] = {"]
    lines += [f'    "{name}": {value},' for name, value in enums.items()]
    lines += [
        "}",
        "# object: global: (section, offset, bytes)",
        "GLOBALS: dict[str, dict[str, tuple[str, int, int]]] = {",
    ]
    for name, found in places.items():
        rows = [f'        "{variable}": ("{place[0]}", {place[1]}, {place[2]}),' for variable, place in found.items()]
        lines += [f'    "{name}": {{', *rows, "    },"] if rows else [f'    "{name}": {{}},']
    return "\n".join([*lines, "}", ""])


def _tuple_lines(fields: Fields) -> list[str]:
    """A tuple as the formatter leaves it: one of one element stays on its line."""
    rows = [f'("{name}", {offset}, "{code}")' for name, offset, code in fields]
    if len(rows) == 1:
        return [f"        ({rows[0]},),"]
    return ["        (", *(f"            {row}," for row in rows), "        ),"]


def main() -> int:
    """Make the objects anew, then the layouts; the exit code is 1 where either cannot be."""
    try:
        bpf_build.build_objects(ROOT, force=True)
        files = generate(ROOT)
    except FAILURES as error:
        print(error, file=sys.stderr)
        return 1
    for path, text in files.items():
        if (ROOT / path).read_text(encoding="utf-8") != text:
            (ROOT / path).write_text(text, encoding="utf-8")
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
