"""Any bytes whatever are an object or an ElfError, types or a BtfError."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpf_build
from bpf_elf import ElfError, parse_object, strip_debug
from scripts.btf import Btf, BtfError, parse_btf

SOURCE = """
static const char sources[] __attribute__((section("finwait"), used)) = "finwait-sources:" FINWAIT_SOURCES;
struct { int (*type)[1]; int *key; long *value; } map __attribute__((section(".maps"), used));
static enum { RED, BLUE } colour;
__attribute__((section("iter/tcp"))) int on_tcp(int *context) { return context == (void *)&map || colour++ == BLUE; }
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzz")
    (root / "bpf").mkdir()
    (root / "bpf" / "one.bpf.c").write_text(SOURCE)
    return bpf_build.compile_sources(root, bpf_build.choose_compiler())["one"]


def damaged(data: bytes, changes: list[tuple[int, int]], cut: int | None) -> bytes:
    changed = bytearray(data)
    for place, value in changes:
        changed[place % len(changed)] = value
    return bytes(changed[:cut])


CHANGES = st.lists(st.tuples(st.integers(0, 1 << 20), st.sampled_from([0, 1, 2, 4, 8, 9, 127, 128, 255])), max_size=6)


@settings(max_examples=400, deadline=None)
@given(changes=CHANGES, cut=st.none() | st.integers(0, 4000), at_end=st.booleans())
def test_a_damaged_object_is_stripped_or_refused(built, changes, cut, at_end):
    base = (
        len(built) - parse_object(built).header[12] * 64 if at_end else 0
    )  # the table of sections is where numbers are
    data = damaged(built, [(base + place % (len(built) - base), value) for place, value in changes], cut)
    try:
        stripped = strip_debug(data)
    except ElfError:
        return
    assert isinstance(stripped, bytes)


@settings(max_examples=400, deadline=None)
@given(changes=CHANGES, cut=st.none() | st.integers(0, 2000))
def test_damaged_types_are_read_or_refused(built, changes, cut):
    data = damaged(parse_object(built).section(".BTF").content, changes, cut)
    try:
        types = parse_btf(data)
    except BtfError:
        return
    assert isinstance(types, Btf)


@pytest.mark.parametrize(("parse", "refusal"), [(strip_debug, ElfError), (parse_btf, BtfError)])
@given(data=st.binary(max_size=300))
def test_bytes_of_no_kind_are_refused(parse, refusal, data):
    with pytest.raises(refusal):
        parse(data)
