"""BTF, the type information in a BPF object: types with their members, and what libbpf will find in it.

Format: Documentation/bpf/btf.rst, include/uapi/linux/btf.h.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

KIND_INT, KIND_PTR, KIND_ARRAY, KIND_STRUCT, KIND_UNION, KIND_ENUM = 1, 2, 3, 4, 5, 6
KIND_TYPEDEF, KIND_VOLATILE, KIND_CONST, KIND_RESTRICT, KIND_FUNC_PROTO = 8, 9, 10, 11, 13
KIND_VAR, KIND_DATASEC, KIND_FLOAT, KIND_DECL_TAG, KIND_TYPE_TAG, KIND_ENUM64 = 14, 15, 16, 17, 18, 19
_QUALIFIERS = {KIND_TYPEDEF, KIND_VOLATILE, KIND_CONST, KIND_RESTRICT, KIND_TYPE_TAG}
_MAGIC = 0xEB9F
# What follows a type: the number of bytes once, and the number of bytes for each of its `vlen`
_ONCE = {KIND_INT: 4, KIND_ARRAY: 12, KIND_VAR: 4, KIND_DECL_TAG: 4}
_EACH = {KIND_STRUCT: 12, KIND_UNION: 12, KIND_ENUM: 8, KIND_FUNC_PROTO: 8, KIND_DATASEC: 12, KIND_ENUM64: 12}


class BtfError(ValueError):
    """Not BTF, or of a kind that is not known here."""


class Member(NamedTuple):
    """Of a struct or union; `bits` is 0 where it is no bit field."""

    name: str
    type_id: int
    bit_offset: int
    bits: int


class BtfType(NamedTuple):
    """One type. size_or_type: bytes, or the number of the type that is meant, by kind."""

    kind: int
    name: str
    size_or_type: int
    members: tuple[Member, ...] = ()
    enumerators: tuple[tuple[str, int], ...] = ()
    encoding: int = 0  # of an int: 1 signed, 2 char, 4 bool
    element: tuple[int, int] = (0, 0)  # of an array: the element's type, the number of them
    variables: tuple[int, ...] = ()  # of a DATASEC: types of kind VAR


class Btf(NamedTuple):
    """All types; the number of each is its place, 0 is void."""

    types: tuple[BtfType, ...]

    def named(self, kind: int, prefix: str = "") -> Iterator[BtfType]:
        """The types of `kind` whose names begin with `prefix`."""
        return (found for found in self.types if found.kind == kind and found.name.startswith(prefix))

    def resolve(self, type_id: int) -> BtfType:
        """The type behind typedefs, const and the like."""
        found = self.types[type_id]
        while found.kind in _QUALIFIERS:
            found = self.types[found.size_or_type]
        return found

    def size_of(self, type_id: int) -> int:
        """Bytes of a value. Raises BtfError for what has no size, such as a function."""
        found = self.resolve(type_id)
        if found.kind == KIND_ARRAY:
            return found.element[1] * self.size_of(found.element[0])
        if found.kind == KIND_PTR:
            return 8
        if found.kind in {KIND_INT, KIND_STRUCT, KIND_UNION, KIND_ENUM, KIND_ENUM64, KIND_FLOAT}:
            return found.size_or_type
        raise BtfError(f"type {found.name or type_id} has no size")


def parse_btf(data: bytes, order: str = "<") -> Btf:
    """The types in section .BTF. Raises BtfError."""
    try:
        magic, version, _, header, types_at, types_bytes, texts_at, texts_bytes = struct.unpack_from(
            order + "HBBIIIII", data
        )
        if magic != _MAGIC or version != 1:
            raise BtfError("not BTF, or not its version 1")
        texts = data[header + texts_at : header + texts_at + texts_bytes]
        rest = data[header + types_at : header + types_at + types_bytes]
        types = [BtfType(0, "void", 0)]
        position = 0
        while position < len(rest):
            found, position = _parse_type(rest, position, texts, order)
            types.append(found)
    except (struct.error, IndexError, ValueError) as error:
        raise error if isinstance(error, BtfError) else BtfError("the types are cut") from error
    return Btf(tuple(types))


def _parse_type(data: bytes, position: int, texts: bytes, order: str) -> tuple[BtfType, int]:
    """The type at `position`, and where the next one begins."""
    name_at, info, size_or_type = struct.unpack_from(order + "III", data, position)
    kind, count, flag = info >> 24 & 31, info & 0xFFFF, info >> 31
    if not 0 < kind <= KIND_ENUM64:
        raise BtfError(f"a type of unknown kind {kind}")
    words = (_ONCE.get(kind, 0) + _EACH.get(kind, 0) * count) // 4
    extra = struct.unpack_from(f"{order}{words}I", data, position + 12)
    name = _text(texts, name_at)
    plain = BtfType(kind, name, size_or_type)
    match kind:
        case 1:
            found = plain._replace(encoding=extra[0] >> 24 & 15)
        case 3:
            found = plain._replace(element=(extra[0], extra[2]))
        case 4 | 5:
            found = plain._replace(members=tuple(_members(extra, texts, has_bits=bool(flag))))
        case 6 | 19:
            found = plain._replace(enumerators=tuple(_enumerators(extra, texts, kind, is_signed=bool(flag))))
        case 15:
            found = plain._replace(variables=extra[::3])
        case _:
            found = plain
    return found, position + 12 + words * 4


def _text(texts: bytes, offset: int) -> str:
    return texts[offset : texts.index(b"\0", offset)].decode("utf-8", "replace")


def _members(extra: tuple[int, ...], texts: bytes, *, has_bits: bool) -> Iterator[Member]:
    for at in range(0, len(extra), 3):
        name, type_id, offset = extra[at : at + 3]
        bits = offset >> 24 if has_bits else 0
        yield Member(_text(texts, name), type_id, offset & 0xFFFFFF if has_bits else offset, bits)


def _enumerators(extra: tuple[int, ...], texts: bytes, kind: int, *, is_signed: bool) -> Iterator[tuple[str, int]]:
    """Name and value; those of 64 bits have a low and a high word."""
    words, bits = (2, 32) if kind == KIND_ENUM else (3, 64)
    for at in range(0, len(extra), words):
        value = extra[at + 1] if words == 2 else extra[at + 1] | extra[at + 2] << 32
        if is_signed and value >> (bits - 1):
            value -= 1 << bits
        yield _text(texts, extra[at]), value
