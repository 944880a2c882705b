"""DWARF is dropped from an object, and every number of a section or symbol in what stays means what it meant."""

from __future__ import annotations

import struct
import subprocess
from typing import NamedTuple

import pytest

from bpf_build import find_ziglang
from bpf_elf import (
    SHT_LLVM_ADDRSIG,
    SHT_REL,
    SHT_SYMTAB,
    STT_SECTION,
    ElfError,
    ElfObject,
    parse_object,
    strip_debug,
)

SOURCE = """
#define SEC(name) __attribute__((section(name), used))
typedef struct { unsigned long long first; int second; } pair;
struct { int (*type)[1]; int (*max_entries)[17]; int *key; pair *value; } pairs SEC(".maps");
static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
int wanted = 23;
static unsigned long long seen;
static const char terms[] SEC("license") = "GPL";
static __attribute__((noinline)) int twice(int number)
{
	pair *found = bpf_map_lookup_elem(&pairs, &number);

	return found ? found->second : number + wanted;
}
SEC("iter/tcp") int first(int *context)
{
	seen += 1;
	return twice(*context);
}
SEC("iter/task_file") int second(int *context)
{
	return seen > 3 ? twice(*context + 1) : wanted;
}
"""


class Relocation(NamedTuple):
    """What one row of a section of relocations says, by names."""

    offset: int
    kind: int
    symbol: str
    section: str
    value: int


@pytest.fixture(scope="module", params=["bpfel", "bpfeb"])
def made(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("elf")
    (directory / "x.bpf.c").write_text(SOURCE)
    ziglang = find_ziglang()
    assert ziglang, "the test tools have ziglang"
    command = (*ziglang.command[:-1], f"{request.param}-freestanding-none", "-O2", "-g", "-c", "x.bpf.c", "-o", "x.o")
    subprocess.run(command, cwd=directory, check=True)
    return (directory / "x.o").read_bytes()


@pytest.fixture(scope="module", params=["as compiled", "backwards"])
def compiled(request, made):
    return made if request.param == "as compiled" else backwards(made)


def backwards(data: bytes) -> bytes:
    """The same object with its sections in reverse, so that those dropped come first and every number changes."""
    elf = parse_object(data)
    count, table = len(elf.sections), elf.header[6]
    changed = bytearray(data)
    struct.pack_into(elf.order + "H", changed, 62, count - elf.header[13])
    for old in range(1, count):
        row = list(struct.unpack_from(elf.order + "IIQQQQIIQQ", data, table + 64 * old))
        row[6] = row[6] and count - row[6]
        row[7] = count - row[7] if row[1] == SHT_REL else row[7]
        struct.pack_into(elf.order + "IIQQQQIIQQ", changed, table + 64 * (count - old), *row)
        for place in range(row[4], row[4] + row[5], 24) if row[1] == SHT_SYMTAB else ():
            (section,) = struct.unpack_from(elf.order + "H", data, place + 6)
            if 0 < section < 0xFF00:
                struct.pack_into(elf.order + "H", changed, place + 6, count - section)
    return bytes(changed)


@pytest.fixture(scope="module")
def before(compiled):
    return parse_object(compiled)


@pytest.fixture(scope="module")
def after(compiled):
    return parse_object(strip_debug(compiled))


def relocations(elf: ElfObject) -> dict[str, list[Relocation]]:
    symbols = elf.symbols
    found = {}
    for section in elf.sections:
        if section.kind == SHT_REL:
            rows = []
            for offset, info in struct.iter_unpack(elf.order + "QQ", section.content):
                symbol = symbols[info >> 32]
                rows.append(Relocation(offset, info & 0xFFFFFFFF, symbol.name, section_name(elf, symbol), symbol.value))
            found[section.name] = rows
    return found


def section_name(elf: ElfObject, symbol) -> str:
    return elf.sections[symbol.section].name if symbol.section < len(elf.sections) else f"special {symbol.section:#x}"


def test_what_is_compiled_has_everything_that_the_filter_must_cope_with(before):
    names = {section.name for section in before.sections}
    assert {".debug_info", ".rel.debug_info", ".BTF", ".rel.BTF", ".BTF.ext", ".rel.BTF.ext", ".maps", ".bss"} <= names
    assert any(section.kind == SHT_LLVM_ADDRSIG for section in before.sections)
    dropped = [symbol for symbol in before.symbols if section_name(before, symbol).startswith(".debug_")]
    last = max(before.symbols.index(symbol) for symbol in dropped)
    assert last < len(before.symbols) - 1, "no symbol gets another number"


def test_a_dropped_section_stands_before_others_in_one_of_the_objects(made):
    names = [section.name for section in parse_object(backwards(made)).sections]
    assert names.index(".debug_info") < names.index(".text") < names.index(".strtab")


def test_debug_sections_their_relocations_and_the_linkers_numbers_of_symbols_are_gone(before, after):
    gone = {section.name for section in before.sections} - {section.name for section in after.sections}
    assert all(".debug_" in name or name == ".llvm_addrsig" for name in gone)
    assert not any(".debug_" in section.name or section.kind == SHT_LLVM_ADDRSIG for section in after.sections)


def test_sections_that_stay_keep_their_order_and_content(before, after):
    names = {section.name for section in after.sections}
    kept = [section for section in before.sections if section.name in names]
    assert [section.name for section in after.sections] == [section.name for section in kept]
    for old, new in zip(kept, after.sections, strict=True):
        assert (new.kind, new.flags, new.alignment, new.entry_size) == (
            old.kind,
            old.flags,
            old.alignment,
            old.entry_size,
        )
        if new.kind not in {SHT_REL, SHT_SYMTAB}:
            assert (new.size, new.content) == (old.size, old.content), new.name


def test_symbols_of_sections_that_stay_keep_their_order_names_values_and_sections(before, after):
    names = {section.name for section in after.sections}
    kept = [symbol for symbol in before.symbols if symbol.section >= 0xFF00 or section_name(before, symbol) in names]
    described = [
        [
            (symbol.name, symbol.info, symbol.other, symbol.value, symbol.size, section_name(elf, symbol))
            for symbol in symbols
        ]
        for elf, symbols in ((before, kept), (after, after.symbols))
    ]
    assert described[0] == described[1]
    assert {"first", "second", "twice", "pairs", "wanted", "seen"} <= {symbol.name for symbol in after.symbols}
    assert any(symbol.kind == STT_SECTION for symbol in after.symbols)


def test_every_relocation_means_the_same_symbol(before, after):
    kept = {name: rows for name, rows in relocations(before).items() if ".debug_" not in name}
    assert relocations(after) == kept
    assert {"pairs", "wanted"} <= {row.symbol for rows in kept.values() for row in rows}


def test_sections_point_at_each_other_by_their_new_numbers(after):
    table = next(section for section in after.sections if section.kind == SHT_SYMTAB)
    assert after.sections[table.link].name == ".strtab"
    assert after.sections[after.header[13]].name == ".strtab"
    assert [symbol.is_local for symbol in after.symbols] == sorted((s.is_local for s in after.symbols), reverse=True)
    assert table.info == sum(symbol.is_local for symbol in after.symbols)
    for section in after.sections:
        if section.kind == SHT_REL:
            assert after.sections[section.link] is table
            assert section.name == ".rel" + after.sections[section.info].name


def test_sections_are_aligned_and_do_not_overlap(compiled):
    data = strip_debug(compiled)
    elf = parse_object(data)
    rows = [
        struct.unpack_from(elf.order + "IIQQQQIIQQ", data, elf.header[6] + 64 * number)
        for number in range(len(elf.sections))
    ]
    end = 64
    for _, kind, _, _, offset, size, _, _, alignment, _ in rows[1:]:
        assert offset >= end
        assert offset % alignment == 0
        end = offset + (0 if kind == 8 else size)
    assert end <= elf.header[6]
    assert elf.header[6] % 8 == 0
    assert len(data) == elf.header[6] + 64 * len(rows)


def test_a_stripped_object_is_left_as_it_is(compiled):
    once = strip_debug(compiled)
    assert strip_debug(once) == once
    assert len(once) < len(compiled)


def test_an_object_cut_anywhere_is_refused(compiled):
    for length in range(0, len(compiled), 61):
        with pytest.raises(ElfError):
            strip_debug(compiled[:length])


def test_sections_of_an_unknown_type_are_refused_not_copied(compiled):
    elf = parse_object(compiled)
    number = next(number for number, section in enumerate(elf.sections) if section.name == ".BTF")
    data = bytearray(compiled)
    struct.pack_into(elf.order + "I", data, elf.header[6] + 64 * number + 4, 17)  # SHT_GROUP holds numbers of sections
    with pytest.raises(ElfError, match="unknown type 0x11"):
        strip_debug(bytes(data))


def test_relocations_of_relocations_are_refused(compiled):
    elf = parse_object(compiled)
    number = next(number for number, section in enumerate(elf.sections) if section.kind == SHT_REL)
    data = bytearray(compiled)
    struct.pack_into(elf.order + "I", data, elf.header[6] + 64 * number + 44, number)
    with pytest.raises(ElfError, match="relocates no section with content"):
        strip_debug(bytes(data))
