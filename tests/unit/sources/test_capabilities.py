"""Probes on made-up type information: yes, no, cannot tell."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from finwait.sources.capabilities import probe_type_name

if TYPE_CHECKING:
    from pathlib import Path


def btf(*names: bytes, magic: int = 0xEB9F) -> bytes:
    """Documentation/bpf/btf.rst: header, types, strings."""
    strings = b"\0" + b"".join(name + b"\0" for name in names)
    types = b"TYPES\0NOT_A_STRING\0.."
    return struct.pack("=HBBIIIII", magic, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings


@pytest.fixture
def sys_root(tmp_path: Path) -> Path:
    (tmp_path / "kernel" / "btf").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (btf(b"TCP_CLOSE", b"TCP_BOUND_INACTIVE", b"x"), True),
        (btf(b"TCP_CLOSE", b"TCP_BOUND_INACTIVES"), False),
        (btf(b"TCP_CLOSE", b"NOT_TCP_BOUND_INACTIVE"), False),
        (btf(b"TCP_BOUND_INACTIVE", magic=0x1234), None),
        (b"", None),
        (b"\x9f\xeb", None),
    ],
)
def test_a_name_is_found_whole_or_not_at_all(sys_root: Path, content: bytes, answer: bool | None) -> None:
    (sys_root / "kernel" / "btf" / "vmlinux").write_bytes(content)
    assert probe_type_name(b"TCP_BOUND_INACTIVE", str(sys_root)) is answer


def test_a_name_outside_the_strings_does_not_count(sys_root: Path) -> None:
    (sys_root / "kernel" / "btf" / "vmlinux").write_bytes(btf(b"TCP_CLOSE"))
    assert probe_type_name(b"NOT_A_STRING", str(sys_root)) is False


def test_a_kernel_without_type_information_cannot_tell(tmp_path: Path) -> None:
    assert probe_type_name(b"TCP_BOUND_INACTIVE", str(tmp_path)) is None
