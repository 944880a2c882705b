"""Words, files and namespaces that cannot be: one clear line, the nearest right word or the place, the exit code."""

from __future__ import annotations

import os
import re
import subprocess
import zipfile
from typing import TYPE_CHECKING

import pytest

from finwait.lab.population import Population
from finwait.lab.spec import Group, Spec
from tests.kernel.bad_input import AS_NOBODY, refusal, refusal_in_mounts, run_bytes
from tests.kernel.finwait_command import COMMAND, output_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USAGE, PARSE, PERMITTED, SOURCE = 2, 3, 5, 6


@pytest.fixture(scope="module")
def held() -> Iterator[Population]:
    with Population(Spec((Group("LISTEN", 3), Group("ESTABLISHED", 23)))) as population:
        yield population


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("coutn", "unknown command 'coutn'; did you mean count?"),
        ("lst", "unknown command 'lst'; did you mean list?"),
        ("--jsno", "unknown option --jsno; did you mean --json?"),
        ("list --colums state", "unknown option --colums; did you mean --columns?"),
        ("list --lmit=5", "unknown option --lmit; did you mean --limit?"),
        ("-Z", "unknown option -Z; 'finwait count --help' lists what there is"),
        ("--by stat", "unknown column 'stat'; did you mean state?"),
        ("--by state,peer_adress", "unknown column 'peer_adress'; did you mean peer_address?"),
        ("--by=", "columns are COLUMN[,COLUMN], none of them empty, not ''"),
        ("--by state,,uid", "columns are COLUMN[,COLUMN], none of them empty, not 'state,,uid'"),
        ("list --columns rtt_su", "unknown column 'rtt_su'; did you mean rtt_us?"),
        ("list --columns=", "columns are COLUMN[,COLUMN], none of them empty, not ''"),
        ("list --columns +", "columns are COLUMN[,COLUMN], none of them empty, not ''"),
        ("list --sort=", "--sort wants COLUMN or -COLUMN, separated by commas, not ''"),
        ("list --sort -recvv", "unknown column 'recvv'; did you mean recv_q?"),
        ("--sort uid", "--sort uid: the groups have count and state"),
        ("--top 0", "'0' is not a whole number from 1 on"),
        ("--top -1", None),
        ("list --limit x", "'x' is not a whole number from 1 on"),
        ("list --limit 1.5", "'1.5' is not a whole number from 1 on"),
        ("list --limit", None),
        ("-4 -6", None),
        ("--json --csv", None),
        ("--style fancy", None),
        ("--color purple", None),
        ("--source net", None),
        ("--lang xx", "unknown language 'xx'; finwait speaks en and zh"),
        ("--style netstat --by uid", "--style netstat counts by state, not by uid"),
        ("list --ghosts --style ss", "ss knows no ghosts; --ghosts does not go with --style ss"),
        ("list --ghosts -l", "a ghost is no listener; --ghosts does not go with -l"),
        ("--read x -N 1", "--read answers from a recording; it does not go with -N, --all-netns, --source or --record"),
        ("--record x", "--record writes X.diag (ss reads it) or X.finwait, not 'x'"),
        ("--record x.diag --source proc", "--record keeps what sock_diag says; it does not go with --source proc"),
        # the filter
        ("state listn", "unknown TCP state 'listn' at character 7 of the filter: state listn; did you mean listen?"),
        ("list exclude foo", "unknown TCP state 'foo' at character 9 of the filter: exclude foo; did you mean close?"),
        ("uid = 1 spotr = :22", "unknown word 'spotr' at character 9 of the filter: uid = 1 spotr = :22; did you mean sport?"),
        ("timer = kepalive", None),
        ("sport =", "the filter ends where a port should follow: sport ="),
        ("uid = 1 or", "the filter ends where a condition should follow: uid = 1 or"),
        ("( uid = 1", "the parenthesis is never closed at character 1 of the filter: ( uid = 1"),
        ("uid = 1 )", "unmatched ')' at character 9 of the filter: uid = 1 )"),
        ("process = 'x", "the quote at character 11 of the filter is never closed: process = 'x"),
        ("cgroup = /nosuch", "there is no cgroup v2 directory '/nosuch'"),
    ],
)  # fmt: skip
def test_a_wrong_word_gets_the_nearest_or_its_place(words: str, line: str | None, tmp_path: Path) -> None:
    code = SOURCE if words.startswith("cgroup") else USAGE
    said = refusal(code, *words.split(), cwd=tmp_path)
    assert said == line or line is None
    assert not os.listdir(tmp_path)


def test_an_empty_word_for_columns_is_refused() -> None:
    assert refusal(USAGE, "--by", "") == "columns are COLUMN[,COLUMN], none of them empty, not ''"


@pytest.mark.parametrize(
    ("word", "count"), [("uid = 1 or", 33_000), ("(", 100_000), ("!", 100_000), ("uid = 1 or uid = 2 and", 20_000)]
)
def test_a_filter_of_a_hundred_thousand_words_is_refused_in_one_line(word: str, count: int) -> None:
    assert len(refusal(USAGE, *(word.split() * count))) < 600


def test_a_filter_of_a_hundred_thousand_words_is_answered() -> None:
    words = ["sport", "=", ":1", "or"] * 25_000
    assert output_of("count", *words, "sport", "=", ":2", "--csv").startswith("state,count\n")


HOSTILE = "\x1b]52;c;ZXZpbA==\x07\x9b31m\u202eevil\x7f\n"


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (USAGE, (HOSTILE,)), (USAGE, (f"--{HOSTILE}",)), (USAGE, (f"-{HOSTILE}",)), (USAGE, ("--by", HOSTILE)),
        (USAGE, ("list", "--columns", HOSTILE)), (USAGE, ("list", "--sort", HOSTILE)), (USAGE, ("state", HOSTILE)),
        (USAGE, ("uid", "=", HOSTILE)), (USAGE, ("src", HOSTILE)), (USAGE, ("--lang", HOSTILE)),
        (USAGE, ("--style", HOSTILE)), (USAGE, ("--top", HOSTILE)), (USAGE, ("--record", HOSTILE)),
        (SOURCE, ("--read", HOSTILE)), (SOURCE, ("-N", HOSTILE)), (SOURCE, ("-N", f"/{HOSTILE}")),
        (SOURCE, ("cgroup", "=", f"'{HOSTILE}'")), (SOURCE, ("--record", f"/nosuch/{HOSTILE}.diag")),
        (USAGE, ("list\x1b[31m", "--json")), (USAGE, ("uid = 1 " * 500 + HOSTILE,)),
    ],
)  # fmt: skip
def test_a_word_with_escape_characters_is_shown_as_escapes(code: int, arguments: tuple[str, ...]) -> None:
    assert r"\x1b" in refusal(code, *arguments)


def test_bytes_that_are_no_utf_8_are_shown_as_bytes() -> None:
    said = refusal(SOURCE, "--read", os.fsdecode(b"/\xff\xfe\x1b"))
    assert said == r"cannot read /\xff\xfe\x1b: No such file or directory"


# -- recordings

SS_TEXT = "ESTAB 0 0 10.0.0.1:80 10.0.0.2:1024\n"


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("empty.diag", b"", "{} is empty"),
        ("blank.txt", b"\n \n\t\n", "{} is empty"),
        ("image.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0\x1b[31m", "{} is no recording that finwait reads"),
        ("utf16.txt", SS_TEXT.encode("utf-16"), "{} is no recording that finwait reads"),
        ("letter.txt", b"Dear sir or madam,\n", "{} is no recording that finwait reads"),
        ("script.sh", b"#!/bin/sh\nss -tan\n", "{} is no recording that finwait reads"),
        ("zeros", bytes(100_000), "{} is no recording that finwait reads"),
        ("x.finwait", b"PK\x03\x04garbage", "{} is a zip archive but no recording of finwait: "),
        ("hostile\x1b[31m.txt", b"x", "/hostile\\x1b[31m.txt is no recording"),
    ],
)  # fmt: skip
def test_a_foreign_file_is_refused(name: str, content: bytes, line: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for command in ("count", "list"):
        assert line.replace("{}", str(path)) in refusal(PARSE, command, "--read", str(path))


def test_a_foreign_standard_input_is_refused() -> None:
    assert refusal(PARSE, "--read", "-").startswith("standard input is empty")
    assert refusal(PARSE, "--read", "-", input=b"\x1b[31mhello").startswith("standard input is no recording")


def test_a_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    assert refusal(SOURCE, "--read", f"{tmp_path}/no") == f"cannot read {tmp_path}/no: No such file or directory"
    assert refusal(SOURCE, "--read", str(tmp_path)) == f"cannot read {tmp_path}: Is a directory"
    assert refusal(SOURCE, "--read", f"{tmp_path}/" + "x" * 300).endswith("x…: File name too long")
    assert refusal(PARSE, "--read", "/dev/null") == "/dev/null is empty"
    path = tmp_path / "secret.txt"
    path.write_text(SS_TEXT)
    said = refusal(SOURCE, "--read", str(path), before=AS_NOBODY)
    assert said == f"cannot read {path}: Permission denied"


def test_an_archive_that_is_none_of_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    said = refusal(PARSE, "--read", str(path))
    assert said.startswith(f"{path} is a zip archive but no recording of finwait: ")
    assert "manifest.json" in said


def test_a_recording_cut_anywhere_is_told(held: Population, tmp_path: Path) -> None:
    whole = tmp_path / "whole.diag"
    output_of("count", "--record", str(whole), held=held)
    content, cut = whole.read_bytes(), tmp_path / "cut.diag"
    cut.write_bytes(content[: len(content) // 2])
    done = run_bytes([*COMMAND, "--read", str(cut)])
    assert done.returncode == 0
    assert b"the recording ends in the middle of a socket" in done.stderr
    assert b"Traceback" not in done.stderr
    archive = tmp_path / "whole.finwait"
    output_of("count", "--record", str(archive), held=held)
    content = archive.read_bytes()
    for length in (5, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.finwait").write_bytes(content[:length])
        refusal(PARSE, "--read", str(tmp_path / "cut.finwait"))


# -- namespaces


def test_a_namespace_that_is_not_there_is_told(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert (
        refusal(SOURCE, "-N", str(gone.pid)) == f"there is no network namespace '{gone.pid}' (/proc/{gone.pid}/ns/net)"
    )
    assert refusal(SOURCE, "-N", "9" * 5000).startswith("there is no network namespace '9999")
    assert refusal(SOURCE, "-N", f"{tmp_path}/x") == f"there is no network namespace '{tmp_path}/x' ({tmp_path}/x)"
    assert refusal(USAGE, "-N", "") == "a network namespace is a name, a process id or a path, not ''"


def test_a_path_that_is_no_namespace_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # which nobody writes: opening it would wait for ever
    for path in ("/etc/passwd", "/", "/dev/zero", "/proc/self/ns/mnt", str(tmp_path / "pipe")):
        assert refusal(SOURCE, "-N", path) == f"'{path}' is no network namespace"
        assert refusal(SOURCE, "list", "-N", path) == f"'{path}' is no network namespace"


NAMED = "mount -t tmpfs none /run; mkdir /run/netns; touch /run/netns/green /run/netns/\"$(printf 'blue\\033[31m')\""


def test_a_misspelt_namespace_gets_the_nearest() -> None:
    said = refusal_in_mounts(SOURCE, NAMED, "-N", "gren")
    assert said == "there is no network namespace 'gren'; did you mean green?"
    said = refusal_in_mounts(SOURCE, NAMED, "-N", "bleu")
    assert said == r"there is no network namespace 'bleu'; did you mean blue\x1b[31m?"


def test_a_name_that_is_no_namespace_is_told() -> None:
    assert refusal_in_mounts(SOURCE, NAMED, "-N", "green") == "'green' is no network namespace"


def test_another_users_namespace_is_not_permitted(held: Population) -> None:
    said = refusal(PERMITTED, "-N", str(held.pid), before=AS_NOBODY)
    assert said == f"not permitted to enter network namespace '{held.pid}'; CAP_SYS_ADMIN would be needed"


def test_an_ordinary_user_counts_and_is_told_what_is_hidden(held: Population) -> None:
    plain = run_bytes([*AS_NOBODY, *COMMAND, "--json"])
    assert (plain.returncode, plain.stderr) == (0, b"")
    everywhere = run_bytes([*AS_NOBODY, *COMMAND, "--all-netns"])
    assert everywhere.returncode == 0
    assert re.search(rb"processes whose network namespace could not be looked at: [0-9]+", everywhere.stderr)


def test_without_a_sight_of_other_processes_the_own_namespace_is_counted() -> None:
    script = 'mount -t proc -o hidepid=2 proc /proc\nexec "$@"'
    for arguments in ((), ("list",), ("--all-netns",), ("--source", "proc")):
        done = run_bytes(["unshare", "--mount", "sh", "-ec", script, "sh", *AS_NOBODY, *COMMAND, *arguments])
        assert done.returncode == 0, done
        assert b"Traceback" not in done.stderr


# -- /proc


ROW = "   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 ffff888 100 0 0 10 0\n"
HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tcp").write_text(HEADER + ROW)
    return tmp_path


def test_another_root_of_proc_is_read(root: Path) -> None:
    done = run_bytes([*COMMAND, "--source", "proc", "--proc", str(root), "--csv"])
    assert (done.returncode, b"listen,1\n" in done.stdout) == (0, True)


@pytest.mark.parametrize("command", ["count", "list"])
def test_a_malformed_row_of_proc_is_shown(root: Path, command: str) -> None:
    (root / "net" / "tcp").write_text(HEADER + ROW + "   1: gar\x1b[31mbage\n")
    said = refusal(PARSE, command, "--source", "proc", "--proc", str(root))
    assert said == r"line 3 is not a row of /proc/net/tcp:    1: gar\x1b[31mbage"


@pytest.mark.parametrize("command", ["count", "list"])
def test_a_proc_that_is_none_is_told(tmp_path: Path, command: str) -> None:
    said = refusal(4, command, "--source", "proc", "--proc", str(tmp_path))
    assert said == f"cannot read {tmp_path}/net/tcp: No such file or directory; it needs Linux with /proc mounted"
    (tmp_path / "net" / "tcp").mkdir(parents=True)
    said = refusal(SOURCE, command, "--source", "proc", "--proc", str(tmp_path))
    assert said == "reading /proc/net failed: Is a directory"


def test_a_proc_that_may_not_be_read_is_told(root: Path) -> None:
    said = refusal(PERMITTED, "--source", "proc", "--proc", str(root), before=AS_NOBODY)
    assert said == f"reading {root}/net/tcp is not permitted"


def test_all_namespaces_of_a_proc_that_is_not_there_is_told() -> None:
    assert refusal(SOURCE, "--all-netns", "--proc", "/nosuch") == "cannot read /nosuch: No such file or directory"
