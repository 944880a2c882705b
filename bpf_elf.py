"""ELF64 objects: their sections and symbols, and the removal of what only a debugger or a linker reads.

Format: man 5 elf. What libbpf needs of an object: Documentation/bpf/btf.rst, chapter 4.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOBITS, SHT_REL = 1, 2, 3, 4, 8, 9
SHT_LLVM_ADDRSIG = 0x6FFF4C03  # numbers of symbols, for identical code folding in a linker
SHN_LORESERVE = 0xFF00  # SHN_ABS and others, which are no sections
STT_OBJECT, STT_FUNC, STT_SECTION = 1, 2, 3
_KNOWN = {SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOBITS, SHT_REL, SHT_LLVM_ADDRSIG}
_RELOCATIONS = {SHT_REL, SHT_RELA}
_DROPPED_PREFIXES = (".debug_", ".comment", ".note.GNU-stack")
# structs behind the byte order
_HEADER = "16sHHIQQQIHHHHHH"
_SECTION = "IIQQQQIIQQ"
_SYMBOL = "IBBHQQ"
_MOST_ALIGNMENT = 4096
_HEADER_BYTES, _SECTION_BYTES, _SYMBOL_BYTES = 64, 64, 24


class ElfError(ValueError):
    """Not an ELF64 object, or one with a part that is not known here."""


class Section(NamedTuple):
    """A section header with its content; `size` is more than its content's length where it has none (.bss)."""

    name: str
    name_offset: int
    kind: int
    flags: int
    address: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int
    content: bytes


class Symbol(NamedTuple):
    """A symbol; `section` is a number of a section or one from SHN_LORESERVE on."""

    name: str
    name_offset: int
    info: int
    other: int
    section: int
    value: int
    size: int

    @property
    def kind(self) -> int:
        """STT_OBJECT, STT_FUNC, ..."""
        return self.info & 15

    @property
    def is_local(self) -> bool:
        """Whether its binding is STB_LOCAL."""
        return self.info >> 4 == 0


class ElfObject(NamedTuple):
    """A relocatable object. order: `<` or `>`, for the module struct."""

    order: str
    header: tuple[Any, ...]  # the fields of struct Elf64_Ehdr
    sections: tuple[Section, ...]

    def section(self, name: str) -> Section | None:
        """The first section `name`."""
        return next((section for section in self.sections if section.name == name), None)

    @property
    def symbols(self) -> tuple[Symbol, ...]:
        """The symbols of its table in order, the empty one first."""
        table = next((section for section in self.sections if section.kind == SHT_SYMTAB), None)
        return () if table is None else parse_symbols(self, table)


def parse_object(data: bytes) -> ElfObject:
    """The object in `data`. Raises ElfError."""
    if data[:4] != b"\x7fELF" or len(data) < _HEADER_BYTES or data[4] != 2 or data[5] not in (1, 2):
        raise ElfError("not an ELF64 object")
    order = "<" if data[5] == 1 else ">"
    header = struct.unpack_from(order + _HEADER, data)
    table, entry_bytes, count, names = header[6], header[11], header[12], header[13]
    if entry_bytes != _SECTION_BYTES or not count or names >= count or table + count * _SECTION_BYTES > len(data):
        raise ElfError("no table of sections, or one that is cut")
    rows = [struct.unpack_from(order + _SECTION, data, table + number * _SECTION_BYTES) for number in range(count)]
    texts = _content(data, rows[names])
    sections = tuple(_section(data, texts, row) for row in rows)
    return ElfObject(order, header, sections)


def _section(data: bytes, texts: bytes, row: tuple[int, ...]) -> Section:
    name, kind, flags, address, _, size, link, info, alignment, entry_size = row
    content = _content(data, row)
    return Section(_text(texts, name), name, kind, flags, address, size, link, info, alignment, entry_size, content)


def _content(data: bytes, row: tuple[int, ...]) -> bytes:
    kind, offset, size = row[1], row[4], row[5]
    if kind in {0, SHT_NOBITS}:
        return b""
    if offset + size > len(data):
        raise ElfError("a section is cut")
    return data[offset : offset + size]


def _text(texts: bytes, offset: int) -> str:
    end = texts.find(b"\0", offset)
    if end < 0:
        raise ElfError("a name has no end")
    return texts[offset:end].decode("utf-8", "replace")


def parse_symbols(elf: ElfObject, table: Section) -> tuple[Symbol, ...]:
    """The rows of symbol table `table`. Raises ElfError."""
    if len(table.content) % _SYMBOL_BYTES or table.link >= len(elf.sections):
        raise ElfError("a table of symbols is cut")
    texts = elf.sections[table.link].content
    rows = struct.iter_unpack(elf.order + _SYMBOL, table.content)
    return tuple(Symbol(_text(texts, row[0]), *row) for row in rows)


def strip_debug(data: bytes) -> bytes:
    """The object in `data` without DWARF: code, data, maps, symbols, .BTF, .BTF.ext and their relocations stay.

    Raises ElfError for what is not known here, rather than write an object that lies.
    """
    elf = parse_object(data)
    if sum(section.kind == SHT_SYMTAB for section in elf.sections) != 1:
        raise ElfError("not one table of symbols")
    kept = [number for number, section in enumerate(elf.sections) if number == 0 or not _is_dropped(elf, section)]
    section_numbers = {old: new for new, old in enumerate(kept)}
    symbols, symbol_numbers = _kept_symbols(elf, section_numbers)
    sections = [_rewritten(elf, elf.sections[number], section_numbers, symbols, symbol_numbers) for number in kept]
    return _write(elf, sections, section_numbers)


def _is_dropped(elf: ElfObject, section: Section) -> bool:
    if section.kind not in _KNOWN:
        raise ElfError(f"section {section.name} is of unknown type {section.kind:#x}")
    if section.kind in _RELOCATIONS:
        target = elf.sections[section.info] if 0 < section.info < len(elf.sections) else None
        if target is None or target.kind in _RELOCATIONS:
            raise ElfError(f"section {section.name} relocates no section with content")
        return _is_dropped(elf, target)
    return section.kind == SHT_LLVM_ADDRSIG or section.name.startswith(_DROPPED_PREFIXES)


def _kept_symbols(elf: ElfObject, section_numbers: dict[int, int]) -> tuple[list[Symbol], dict[int, int]]:
    """The symbols that stay, with the new numbers of their sections; and the new number of each by its old one."""
    symbols: list[Symbol] = []
    numbers: dict[int, int] = {}
    for old, symbol in enumerate(elf.symbols):
        section = symbol.section if symbol.section >= SHN_LORESERVE else section_numbers.get(symbol.section)
        if section is not None:
            numbers[old] = len(symbols)
            symbols.append(symbol._replace(section=section))
    return symbols, numbers


def _rewritten(
    elf: ElfObject,
    section: Section,
    section_numbers: dict[int, int],
    symbols: list[Symbol],
    symbol_numbers: dict[int, int],
) -> Section:
    """`section` with the new numbers of sections and symbols in it."""
    needed = {section.link, section.info if section.kind in _RELOCATIONS else 0}
    if not needed <= section_numbers.keys():
        raise ElfError(f"section {section.name} needs one that is dropped")
    info, content = section.info, section.content
    if section.kind == SHT_SYMTAB:
        info = sum(symbol.is_local for symbol in symbols)
        content = b"".join(struct.pack(elf.order + _SYMBOL, *symbol[1:]) for symbol in symbols)
    elif section.kind in _RELOCATIONS:
        info = section_numbers[section.info]
        content = _relocated(elf.order, section, symbol_numbers)
    size = section.size if section.kind == SHT_NOBITS else len(content)
    return section._replace(link=section_numbers[section.link], info=info, content=content, size=size)


def _relocated(order: str, section: Section, symbol_numbers: dict[int, int]) -> bytes:
    """The relocations in `section`, each with its symbol's new number (the upper half of r_info)."""
    layout = struct.Struct(order + ("QQ" if section.kind == SHT_REL else "QQq"))
    if len(section.content) % layout.size:
        raise ElfError(f"section {section.name} is cut")
    rows = []
    for offset, info, *addend in layout.iter_unpack(section.content):
        number = symbol_numbers.get(info >> 32)
        if number is None:
            raise ElfError(f"section {section.name} needs a symbol that is dropped")
        rows.append(layout.pack(offset, number << 32 | info & 0xFFFFFFFF, *addend))
    return b"".join(rows)


def _write(elf: ElfObject, sections: list[Section], section_numbers: dict[int, int]) -> bytes:
    """Header, contents in the order of their sections, table of sections."""
    body = bytearray(_HEADER_BYTES)
    rows = []
    for section in sections:
        if section.kind:
            if section.alignment > _MOST_ALIGNMENT:
                raise ElfError(f"section {section.name} is aligned to {section.alignment}")
            body += bytes(-len(body) % max(section.alignment, 1))
        offset = len(body) if section.kind else 0
        body += section.content
        fields = (section.name_offset, section.kind, section.flags, section.address, offset, section.size)
        rows.append((*fields, section.link, section.info, section.alignment, section.entry_size))
    body += bytes(-len(body) % 8)
    header = list(elf.header)
    if header[13] not in section_numbers:
        raise ElfError("the names of sections are dropped")
    header[6], header[12], header[13] = len(body), len(rows), section_numbers[header[13]]
    body[:_HEADER_BYTES] = struct.pack(elf.order + _HEADER, *header)
    return bytes(body) + b"".join(struct.pack(elf.order + _SECTION, *row) for row in rows)
