"""A process, an interface or a host may call itself anything: no output passes on what a terminal would obey."""

from __future__ import annotations

import csv
import json
import re
import struct
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.kernel.bad_input import run_bytes
from tests.kernel.finwait_command import COMMAND, ENVIRONMENT
from tests.unit.wire.diag_messages import done, message

if TYPE_CHECKING:
    from pathlib import Path

NASTY = ["\x1b[31mred", "\x1b]52;c;ZXZpbA==\x07", "\x9b2J", "\x90q\x9c", "\u202eevil\u2066", "del\x7f", "bell\x07\x08",
         "\x0e\x0f", "=1+1", "+1", "-1", "@SUM(1)", "数据库服务器", "\u200b\ufeff", "a,b;'", "e\u0301", "{place}%s",
         "\\x1b"]  # fmt: skip
MORE = ["tab\tx", "\tx", "\rx", "line\nend", "\x00zero", '"quoted"', "", "x" * 300]  # not in a line of text
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    """X.finwait with a socket for each interface name, from a host and in a namespace of the same kind."""
    names = [*NASTY, *MORE]
    dump = bytearray()
    for index in range(1, len(names) + 1):
        one = bytearray(message(index, 10))
        struct.pack_into("=I", one, 16 + 40, index)  # idiag_if
        dump += one
    namespace = {"cookie": 1, "inode": 2, "name": "".join(NASTY[:6]), "file": "0001.diag", "sysctls": {}, "counters": {},
                 "interfaces": {str(index): name for index, name in enumerate(names, 1)}}  # fmt: skip
    manifest = {"schema": "finwait.recording/1", "host": "".join(names), "taken_from": 1.0, "taken_to": 2.0,
                "shows_closed": True, "warnings": [{"code": NASTY[0]}], "namespaces": [namespace]}  # fmt: skip
    path = str(tmp_path_factory.mktemp("foreign") / "nasty.finwait")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("0001.diag", bytes(dump) + done())
        file.writestr("manifest.json", json.dumps(manifest))
    return path


@pytest.fixture(scope="module")
def pasted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Text of ``ss -tanp`` with a process for each name, and a line that cannot be understood."""
    path = tmp_path_factory.mktemp("foreign") / "pasted.txt"
    rows = [
        f'ESTAB 0 0 10.0.0.1:{port} 10.0.0.2:1024 users:(("{name}",pid={port},fd=3))'
        for port, name in enumerate(NASTY, 1000)
    ]
    rows += ["ESTAB 0 0 10.0.0.1:80\x1b[31m!! nonsense\u202e"]
    rows += [f'ESTAB 0 0 10.0.0.1:1 10.0.0.2:2 users:(("{name}",pid=1,fd=3))' for name in ("y" * 200, "\udcff\udcfe")]
    path.write_bytes("\n".join([*rows, ""]).encode("utf-8", "surrogateescape"))
    return str(path)


def printed(*arguments: str, **environment: str) -> tuple[str, str]:
    """What finwait prints and says, after a look for what must not be in it."""
    ran = run_bytes([*COMMAND, *arguments], env={**ENVIRONMENT, **environment})
    assert ran.returncode == 0, ran
    output, talk = ran.stdout.decode(), ran.stderr.decode()
    assert "Traceback" not in talk
    assert not OBEYED.search(output), OBEYED.search(output)
    assert not OBEYED.search(talk), OBEYED.search(talk)
    return output, talk


TEXTS: list[tuple[str, ...]] = [
    ("list",),
    ("list", "--style", "ss"),
    ("list", "-H"),
    ("list", "--color", "never"),
    ("count",),
]


@pytest.mark.parametrize("arguments", TEXTS, ids=" ".join)
def test_text_shows_escapes(archive: str, pasted: str, arguments: tuple[str, ...]) -> None:
    columns = ("--by", "{}") if arguments == ("count",) else ("--columns", "state,local,{},peer")
    for path, name in ((archive, "interface"), (pasted, "process"), (archive, "netns")):
        output, _ = printed(*arguments, *(word.format(name) for word in columns), "--read", path)
        assert r"\x1b[31mred" in output
        assert r"\x9b2J" in output or name == "netns"


@pytest.mark.parametrize("arguments", TEXTS[:2], ids=" ".join)
def test_a_name_takes_one_line(archive: str, pasted: str, arguments: tuple[str, ...]) -> None:
    for path, name, rows in ((archive, "interface", len(NASTY) + len(MORE)), (pasted, "process", len(NASTY) + 2)):
        output, _ = printed(*arguments, "--columns", f"{name},local_port", "--read", path)
        assert len(output.splitlines()) == output.count("\n") == 1 + rows


def test_what_is_said_on_stderr_shows_escapes(archive: str, pasted: str) -> None:
    assert r"80\x1b[31m!! nonsense\u202e" in printed("count", "--read", pasted)[1]
    assert r"\x1b[31mred" in printed("count", "--read", archive)[1]
    assert printed("list", "--csv", "--read", pasted)[1].count("\n") == 2


def documents(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_json_keeps_the_names_and_is_ascii(archive: str, pasted: str) -> None:
    for path, name, names in ((archive, "interface", NASTY + MORE), (pasted, "process", NASTY)):
        listed, _ = printed("list", "--json", "--columns", name, "--read", path)
        counted, _ = printed("count", "--json", "--by", name, "--read", path)
        lines, _ = printed("list", "--ndjson", "--columns", name, "--read", path)
        assert (listed + counted + lines).isascii()
        for rows in (json.loads(listed)["rows"], json.loads(counted)["rows"], documents(lines)):
            found = {row[name] for row in rows if name in row}
            assert found >= set(names)
            assert path == archive or "\udcff\udcfe" in found
    host = json.loads(printed("count", "--json", "--read", archive)[0])["host"]
    assert host == "".join(NASTY + MORE)


@pytest.mark.parametrize("command", [("list", "--columns"), ("count", "--by")])
def test_csv_has_an_apostrophe_before_what_looks_like_a_formula(
    archive: str, pasted: str, command: tuple[str, str]
) -> None:
    for path, name in ((archive, "interface"), (pasted, "process")):
        output, _ = printed(*command, name, "--csv", "--read", path)
        cells = {row[0] for row in csv.reader(output.splitlines())}
        assert cells >= {"'=1+1", "'+1", "'-1", "'@SUM(1)", "数据库服务器", "a,b;'", r"\x1b[31mred", "{place}%s"}
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)
        if path == archive:
            assert cells >= {r"'\x09x", r"'\x0dx", r"line\x0aend", '"quoted"', "x" * 300}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk", "utf-8"])
def test_in_any_encoding_columns_stay_aligned(archive: str, pasted: str, encoding: str) -> None:
    for path, name in ((archive, "interface"), (pasted, "process")):
        ran = run_bytes([*COMMAND, "list", "--columns", f"{name},local_port", "-H", "--read", path],
                        env={**ENVIRONMENT, "PYTHONIOENCODING": encoding})  # fmt: skip
        lines = ran.stdout.decode(encoding).splitlines()
        assert not OBEYED.search("".join(lines).replace("\n", ""))
        widths = {sum(2 if ord(letter) > 0x2E7F else letter != "\u0301" for letter in line.rstrip()) for line in lines}
        assert max(widths) - min(widths) <= 4, widths  # ports of two to five digits end in one column


@pytest.mark.parametrize("language", ["en", "zh"])
def test_in_chinese_nothing_else_passes(archive: str, pasted: str, language: str) -> None:
    for path in (archive, pasted):
        for arguments in (("count",), ("list",), ("count", "--by", "interface,process"), ("count", "--json")):
            printed(*arguments, "--lang", language, "--read", path)


def test_colour_is_ours_alone(pasted: str) -> None:
    ran = run_bytes([*COMMAND, "--color", "always", "--by", "process", "--read", pasted])
    output = re.sub("\x1b\\[[0-9;]*m", "", ran.stdout.decode())
    assert not OBEYED.search(output)
    assert ran.stdout.count(b"\x1b") > 0
    assert b"\x1b[31mred" not in ran.stdout


def test_a_file_with_such_a_name_is_read(pasted: str, tmp_path: Path) -> None:
    path = tmp_path / "\x1b]0;evil\x07.txt"
    path.write_text("tcp        0      0 10.0.0.1:80  10.0.0.2:1024  ESTABLISHED\n")
    printed("count", "--read", str(path))
    printed("count", "--json", "--read", str(path))
