"""What BTF says of records, enumerators, globals and maps, read from objects that are compiled here."""

from __future__ import annotations

import pytest

import bpf_build
from scripts import bpf_layouts, btf, compare_compilers
from scripts.bpf_layouts import LayoutError

HEADER = """
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
#define SEC(name) __attribute__((section(name), used))
static const char sources[] SEC("finwait") = "finwait-sources:" FINWAIT_SOURCES;
"""
RECORDS = """
/* struct finwait_dead { int x; }; enum { FINWAIT_DEAD }; */
enum finwait_colour {
	FINWAIT_RED = 1, // FINWAIT_PINK
	FINWAIT_BLUE = 7,
};
struct finwait_inner {
	const u16 port;
	u8 zero[2];
	int below;
};
struct finwait_outer {
	u64 cookie;
	struct finwait_inner inner;
	u8 address[16];
	char comm[16];
	volatile u8 state;
	u8 zero;
	u16 last;
	enum finwait_colour colour;
};
"""
PROGRAM = """
#include "records.bpf.h"
struct {
	int (*type)[1]; int (*map_flags)[1]; int (*max_entries)[17]; u32 *key; struct finwait_inner *value;
} inners SEC(".maps");
static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static u64 seen;
u32 wanted = 5;
const u32 fixed = 6;
u8 many[3];
SEC("iter/tcp") int on_tcp(u32 *context)
{
	u32 key = wanted + fixed;

	seen += 1;
	many[*context & 1] = 1;
	return bpf_map_lookup_elem(&inners, &key) != 0;
}
"""


def compiled(root, records: str = RECORDS, program: str = PROGRAM) -> dict[str, bytes]:
    """The object of `program`, and the one with the BTF of `records`."""
    (root / "bpf").mkdir(exist_ok=True)
    (root / "bpf" / "finwait.bpf.h").write_text(f"#pragma once\n{HEADER}")
    (root / "bpf" / "records.bpf.h").write_text(f'#pragma once\n#include "finwait.bpf.h"\n{records}')
    (root / "bpf" / "program.bpf.c").write_text(program)
    compiler = bpf_build.choose_compiler()
    return bpf_build.compile_sources(root, compiler) | bpf_layouts.compile_anchors(root, compiler)


def structs(objects: dict[str, bytes]) -> bpf_layouts.Structs:
    return bpf_layouts.read_structs(bpf_layouts.parse_types(objects[bpf_layouts.ANCHORS]))


def test_records_are_flat_have_numpys_codes_and_no_padding(tmp_path):
    found = structs(compiled(tmp_path))
    assert found == {
        "finwait_inner": (8, (("port", 0, "u2"), ("below", 4, "i4"))),
        "finwait_outer": (
            56,
            (
                ("cookie", 0, "u8"),
                ("port", 8, "u2"),
                ("below", 12, "i4"),
                ("address", 16, "16u1"),
                ("comm", 32, "S16"),
                ("state", 48, "u1"),
                ("last", 50, "u2"),
                ("colour", 52, "u4"),
            ),
        ),
    }


def test_the_module_has_the_digest_the_records_and_the_enumerators_but_not_what_is_commented_out(tmp_path):
    objects = compiled(tmp_path)
    module = {}
    text = bpf_layouts.render(tmp_path, objects)
    exec(text, module)
    assert module["SOURCES_DIGEST"] == bpf_build.read_digest(tmp_path)
    assert module["STRUCTS"] == structs(objects)
    assert module["ENUMS"] == {"FINWAIT_RED": 1, "FINWAIT_BLUE": 7}
    assert module["GLOBALS"]["program"].keys() == {"seen", "wanted", "many"}
    assert module["GLOBALS"].keys() == {"program"}


def test_globals_have_their_section_their_place_and_their_size(tmp_path):
    found = bpf_layouts.read_globals(compiled(tmp_path)["program"])
    assert found["wanted"] == (".data", 0, 4)
    assert {name: (where, size) for name, (where, _, size) in found.items()} == {
        "wanted": (".data", 4),
        "seen": (".bss", 8),
        "many": (".bss", 3),
    }
    assert sorted(found) == ["many", "seen", "wanted"]
    assert abs(found["seen"][1] - found["many"][1]) >= 3


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("struct finwait_bits {\n\tu32 low : 3;\n};", "struct finwait_bits: low is a bit field"),
        ("struct finwait_pointer {\n\tu8 *at;\n};", "struct finwait_pointer: at is of a type that has no code here"),
        (
            "struct finwait_table {\n\tu8 rows[2][2];\n};",
            "struct finwait_table: rows is of a type that has no code here",
        ),
        (
            "struct finwait_pair {\n\tu8 a;\n\tstruct {\n\t\tu8 a;\n\t} b;\n};",
            "struct finwait_pair has two fields of one name",
        ),
    ],
)
def test_a_record_that_user_space_could_not_read_is_refused(tmp_path, record, reason):
    with pytest.raises(LayoutError, match=f"^{reason}$"):
        structs(compiled(tmp_path, RECORDS + record))


def test_a_record_or_an_enumerator_that_is_in_no_object_is_named(tmp_path):
    program = PROGRAM + "struct finwait_local {\n\tu8 a;\n};\n"
    records = RECORDS + "enum {\n\tFINWAIT_NAMELESS = 3,\n};\n"
    with pytest.raises(LayoutError, match=r"finwait_local, FINWAIT_NAMELESS$"):
        bpf_layouts.render(tmp_path, compiled(tmp_path, records, program))


def test_a_record_that_is_another_in_another_object_is_refused(tmp_path):
    objects = compiled(tmp_path)
    other = compiled(tmp_path, RECORDS.replace("int below", "unsigned below"))
    with pytest.raises(LayoutError, match="struct finwait_inner is not the same in all objects"):
        bpf_layouts.render(tmp_path, {"program": objects["program"], bpf_layouts.ANCHORS: other[bpf_layouts.ANCHORS]})


@pytest.mark.parametrize("value", ["0x123456789abcULL", "-3"])
def test_an_enumerator_that_compilers_write_differently_is_refused(tmp_path, value):
    objects = compiled(tmp_path, RECORDS + f"enum finwait_far {{\n\tFINWAIT_FAR = {value},\n}};\n")
    with pytest.raises(LayoutError, match="FINWAIT_FAR does not fit into 31 bits"):
        bpf_layouts.render(tmp_path, objects)


def test_values_of_enums_have_their_sign_and_up_to_64_bits(tmp_path):
    records = (
        RECORDS
        + "enum finwait_far {\n\tFAR = 0x123456789abcULL,\n\tBELOW = -3,\n};\nenum finwait_low {\n\tLOW = -5,\n};\n"
    )
    compiled(tmp_path, records)
    anchors = bpf_layouts.compile_anchors(tmp_path, bpf_build.find_ziglang())  # clang 14 cuts them
    types = bpf_layouts.parse_types(anchors[bpf_layouts.ANCHORS])
    found = dict(
        pair for kind in (btf.KIND_ENUM, btf.KIND_ENUM64) for enum in types.named(kind) for pair in enum.enumerators
    )
    assert {name: found[name] for name in ("FAR", "BELOW", "LOW")} == {"FAR": 0x123456789ABC, "BELOW": -3, "LOW": -5}


def test_programs_and_maps_are_compared_by_what_libbpf_sees(tmp_path):
    objects = compiled(tmp_path)
    described = compare_compilers.describe(objects)
    assert described["program: programs: on_tcp"] == "iter/tcp"
    assert described["program: maps: inners"] == {
        "type": 1,
        "map_flags": 1,
        "max_entries": 17,
        "key_size": 4,
        "value_size": 8,
    }
    assert compare_compilers.differences(described, described) == []
    other = compare_compilers.describe(compiled(tmp_path, program=PROGRAM.replace("[17]", "[19]").replace("u8 many", "u8 more")
                                                .replace("\tmany[", "\tmore[")))  # fmt: skip
    names = [line.partition(": ")[2].partition(":")[0] for line in compare_compilers.differences(described, other)]
    assert sorted(names) == ["globals", "globals", "maps"]
