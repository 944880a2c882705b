"""What a command does not load, asked of a clean interpreter, and the import contracts of the rooms."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "numpy", "dataclasses", "typing", "pathlib", "socket", "json", "ctypes", "importlib.metadata", "importlib.resources",
    "difflib", "shutil", "threading", "subprocess", "tempfile", "zipfile", "csv", "ipaddress", "contextlib",
)  # fmt: skip
# Runs finwait in a clean interpreter; the last line of standard error tells what was loaded and which files were opened.
WATCH = """
import sys
opened = []
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        opened.append(arguments[0])
sys.addaudithook(watch)
before = set(sys.modules)
from finwait.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as exit:
    code = exit.code
loaded = sorted(set(sys.modules) - before)
files = list(opened)
import json
sys.stderr.write("\\n" + json.dumps({"code": code, "loaded": loaded, "opened": files}))
"""


def watched(*arguments: str, **environment: str) -> dict[str, list[str]]:
    variables = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **environment}
    # -P and no site: a pth file of the environment must not load what finwait does not
    command = (sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {_paths()!r}\n{WATCH}", *arguments)
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    report = json.loads(done.stderr.splitlines()[-1])
    assert report["code"] == 0, done.stderr
    return report


def _paths() -> list[str]:
    return [str(ROOT / "src"), *(path for path in sys.path if path.endswith("site-packages"))]


def heavy(loaded: Iterable[str]) -> set[str]:
    return set(HEAVY).intersection(loaded)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("count",),
        ("-4",),
        ("-H",),
        ("--style", "netstat"),
        ("--style", "ss"),
        ("state", "established"),
        ("--lang", "en"),
    ],
    ids=" ".join,
)
def test_a_plain_count_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert heavy(watched(*arguments)["loaded"]) == set()


def test_a_plain_count_as_json_loads_json_and_nothing_else_heavy() -> None:
    assert heavy(watched("--json")["loaded"]) <= {"json"}


PROBING = re.compile(r"finwait\.(\w+\.)?(capabilities|capability|machine|\w+_probes)$")


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--by", "peer"), ("list", "--limit", "1")], ids=" ".join)
def test_only_the_command_that_tells_of_capabilities_loads_their_probes(arguments: tuple[str, ...]) -> None:
    of_the_count = {"finwait.sources.capabilities"}  # whether CLOSED can be seen
    assert {name for name in watched(*arguments)["loaded"] if PROBING.match(name)} <= of_the_count


@pytest.mark.parametrize(
    "arguments",
    [(), ("close-wait",), ("all", "--no-counts"), ("timer", "keepalive"), ("transition", "listen", "time-wait"),
     ("all", "--markdown"), ("all", "--lang", "zh")],
    ids=" ".join,
)  # fmt: skip
def test_an_explanation_loads_nothing_heavy_and_reads_one_language(arguments: tuple[str, ...]) -> None:
    report = watched("explain", *arguments)
    assert heavy(report["loaded"]) == set()
    read = {Path(name).name for name in report["opened"] if "/explanations/" in name and name.endswith(".txt")}
    assert read == {"zh_CN.txt" if "zh" in arguments else "en.txt"}


def test_an_explanation_without_counts_asks_no_kernel() -> None:
    loaded = watched("explain", "time-wait", "--no-counts")["loaded"]
    assert {"finwait.api", "finwait.sources.census", "finwait.sources.sock_diag"}.isdisjoint(loaded)


@pytest.mark.parametrize("arguments", [(), ("list", "--limit", "1")], ids=" ".join)
def test_only_explain_reads_explanations(arguments: tuple[str, ...]) -> None:
    assert [name for name in watched(*arguments)["loaded"] if name.startswith("finwait.tcp.t")] == []


@pytest.mark.parametrize(
    "arguments",
    [(), ("close",), ("--format", "svg"), ("close", "--format", "svg"), ("--format", "svg", "--counts"),
     ("--format", "dot"), ("--format", "markdown"), ("open", "--format", "markdown"), ("--format", "svg", "--lang", "zh")],
    ids=" ".join,
)  # fmt: skip
def test_a_diagram_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    loaded = watched("diagram", *arguments)["loaded"]
    assert heavy(loaded) == set()
    assert ("finwait.render.svg" in loaded) == ("svg" in arguments)
    assert not any(name.startswith("xml") for name in loaded)


def test_capabilities_load_no_numpy() -> None:
    loaded = watched("capabilities")["loaded"]
    assert "finwait.sources.machine" in loaded
    assert heavy(loaded) <= {"ctypes", "threading"}


def test_a_list_loads_numpy() -> None:
    assert "numpy" in watched("list", "--limit", "1")["loaded"]


def test_english_opens_no_catalogue() -> None:
    assert [name for name in watched()["opened"] if name.endswith(".mo")] == []


def test_chinese_opens_its_catalogue_alone() -> None:
    for report in (watched("--lang", "zh"), watched(LC_ALL="zh_CN.UTF-8")):
        catalogues = [name for name in report["opened"] if name.endswith(".mo")]
        assert [Path(name).relative_to(ROOT / "src/finwait/text/locale") for name in catalogues] == [
            Path("zh_CN/LC_MESSAGES/finwait.mo")
        ]
        assert heavy(report["loaded"]) == set()


def test_a_list_in_english_opens_no_catalogue() -> None:
    assert [name for name in watched("list", "--limit", "1")["opened"] if name.endswith(".mo")] == []


def in_clean_interpreter(code: str) -> list[str]:
    whole = f"import sys; sys.path[:0] = {_paths()!r}; before = set(sys.modules); import finwait; {code}"
    done = subprocess.run((sys.executable, "-I", "-S", "-c", whole), capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_the_library_loads_nothing_of_it_but_itself() -> None:
    assert set(in_clean_interpreter("print(*set(sys.modules) - before)")) - {"__future__"} == {"finwait"}


def test_every_public_name_can_be_had_lazily() -> None:
    assert set(in_clean_interpreter("print(*(getattr(finwait, name) is None for name in finwait.__all__))")) == {
        "False"
    }


def test_reading_text_leaves_no_file_open() -> None:
    code = f"import finwait; finwait.count(read={str(ROOT / 'docs/examples/ticket-ss.txt')!r})"
    done = subprocess.run((sys.executable, "-X", "dev", "-c", code), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_room_imports_downwards_only() -> None:
    command = (str(Path(sys.executable).parent / "lint-imports"), "--no-cache")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
