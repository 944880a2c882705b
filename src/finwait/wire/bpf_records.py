"""Records of the BPF programs in bpf/, cut from what their iterators write. The layouts come from the objects' own BTF."""

from __future__ import annotations

from struct import Struct
from sys import byteorder

from finwait.errors import ParseError
from finwait.wire.bpf_layouts import ENUMS, GLOBALS, STRUCTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    Record = dict[str, Any]

NO_UID = 0xFFFFFFFF
NO_MARK = ENUMS["FINWAIT_NO_MARK"]
_CODES = {"u1": "B", "u2": "H", "u4": "I", "u8": "Q"}


def _struct_code(code: str) -> str:
    """Code of module struct for one of NumPy: texts and arrays are bytes."""
    count, _, size = code.rpartition("u")
    if code.startswith("S"):
        return f"{code[1:]}s"
    return f"{int(count) * int(size)}s" if count else _CODES[code]


class Layout:
    """One struct: `size` in bytes, `fields` in order."""

    __slots__ = ("fields", "size", "struct")

    def __init__(self, name: str) -> None:
        self.size, members = STRUCTS[name]
        self.fields = tuple(field for field, _, _ in members)
        text, at = "=", 0
        for _, offset, code in members:
            text += f"{offset - at}x{_struct_code(code)}"
            at = offset + Struct("=" + _struct_code(code)).size
        self.struct = Struct(f"{text}{self.size - at}x")

    def records(self, data: bytes) -> Iterator[tuple[Any, ...]]:
        """The fields of each record in `data`. Raises ParseError where the last one is not whole."""
        if len(data) % self.size:
            rest = len(data) % self.size
            raise ParseError(
                "a BPF program wrote {length} bytes that are no whole record",
                offset=len(data) - rest,
                length=rest,
                excerpt="",
            )
        return self.struct.iter_unpack(data)

    def named(self, data: bytes) -> Iterator[Record]:
        """The same as mappings by field."""
        return (dict(zip(self.fields, values, strict=True)) for values in self.records(data))


def numpy_dtype(name: str) -> dict[str, Any]:
    """The arguments of `numpy.dtype` for struct `name`."""
    size, members = STRUCTS[name]
    formats = [
        f"({code.rpartition('u')[0]},)u{code.rpartition('u')[2]}" if code[0].isdigit() else code
        for _, _, code in members
    ]
    return {
        "names": [field for field, _, _ in members],
        "offsets": [offset for _, offset, _ in members],
        "formats": formats,
        "itemsize": size,
    }


def globals_section(object_name: str, section: str, values: Mapping[str, int | bytes]) -> bytes:
    """The content of `section` of an object with `values` for its globals and zeros for the others; bytes are an array's, zeros
    follow them.
    """  # fmt: skip
    known = GLOBALS[object_name]
    size = max(offset + length for where, offset, length in known.values() if where == section)
    content = bytearray(size)
    for name, value in values.items():
        _, offset, length = known[name]
        raw = value.to_bytes(length, byteorder) if isinstance(value, int) else value.ljust(length, b"\0")
        content[offset : offset + length] = raw
    return bytes(content)


def global_value(object_name: str, content: bytes, name: str) -> int:
    """The number `name` in `content` of its section."""
    _, offset, length = GLOBALS[object_name][name]
    return int.from_bytes(content[offset : offset + length], byteorder)


def comm_text(comm: bytes) -> str:
    """The name of a process as the kernel keeps it: up to 15 bytes of any encoding."""
    return comm.partition(b"\0")[0].decode("utf-8", "surrogateescape")
