"""The documentation is true: its examples are run, its generated parts are fresh, its two languages agree."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from finwait import errors
from finwait.cli.main import COMMANDS
from finwait.lab.population import Population, Spec
from finwait.table.columns import COLUMNS
from finwait.tcp.state import SPELLINGS
from scripts import examples
from scripts.commands import build_parser, takes_filter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
PAGES = examples.pages(ROOT)
TRANSLATED = [
    (page, page.with_suffix(".zh_CN.md")) for page in PAGES if (ROOT / page.with_suffix(".zh_CN.md")).exists()
]
WITH_EXAMPLES = [page for page in PAGES if "```console" in (ROOT / page).read_text(encoding="utf-8")]
MANUALS = sorted((ROOT / "packaging" / "man").glob("*.1"))
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read(page: Path | str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def committed_files() -> list[str]:
    listed = subprocess.run(("git", "ls-files", "-z"), cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:  # an unpacked archive: what it has is what was committed
        return [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file() and not _is_made(path)]
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def _is_made(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(ROOT).parts)


# -- examples


@pytest.fixture
def hold() -> Iterator[Callable[[str], Population]]:
    """Makes the namespaces of a page when its examples ask for them: small FIN-WAIT-2 sockets live for a minute only."""
    with ExitStack() as stack:

        @cache
        def hold_named(name: str) -> Population:
            return stack.enter_context(Population(Spec.from_json(read(examples.POPULATIONS / f"{name}.json"))))

        yield hold_named


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=str)
def test_every_console_example_prints_what_the_page_says(page: Path, hold: Callable[[str], Population]) -> None:
    differences = []
    with examples.Runner(ROOT) as runner:
        for example in examples.find_examples(page, read(page)):
            if example.population is not None:
                runner.enter = hold(example.population).enter_command
            differences.append(examples.difference(example, runner.run(example)))
    assert "\n".join(filter(None, differences)) == ""


@pytest.mark.parametrize("page", [page for page in PAGES if "```pycon" in read(page)], ids=str)
def test_every_python_example_gives_what_the_page_says(page: Path, tmp_path: Path) -> None:
    examples_of_page = tmp_path / f"{page.name}.txt"
    blocks = (body for kind, body in _FENCE.findall(read(page)) if kind == "pycon")
    examples_of_page.write_text("\n".join(blocks), encoding="utf-8")
    command = (sys.executable, "-m", "doctest", str(examples_of_page))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_block_has_a_kind(page: Path) -> None:
    fences = re.findall(r"^```(\w*)$", read(page), re.MULTILINE)
    assert set(fences[::2]) <= {"console", "pycon", "sh", "text", "json", "python", "toml"}
    assert set(fences[1::2]) <= {""}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", read(page))
    assert [target for target in targets if not ((ROOT / page).parent / target).exists()] == []


# -- languages


@pytest.mark.parametrize(("english", "chinese"), TRANSLATED, ids=str)
def test_a_page_and_its_translation_have_the_same_headings_and_blocks(english: Path, chinese: Path) -> None:
    assert _outline(chinese) == _outline(english)
    assert _FENCE.findall(read(chinese)) == _FENCE.findall(read(english))
    assert read(chinese).count("<!-- population:") == read(english).count("<!-- population:")


def _outline(page: Path) -> list[int]:
    text = _FENCE.sub("", read(page))
    return [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]


def test_the_readme_and_the_tutorial_are_translated() -> None:
    assert {str(english) for english, _ in TRANSLATED} >= {"README.md", "docs/tutorial.md", "docs/columns.md"}


# -- everything is documented


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    assert f"## finwait {command}\n" in read("docs/commands.md")
    assert f"## finwait {command}\n\n### Overhead\n" in read("docs/overhead-and-caveats.md")
    page = read(f"packaging/man/finwait-{command}.1")
    sections = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "OVERHEAD", "CAVEATS", "FILES"]
    for section in [*sections, *(["FILTER"] if takes_filter(build_parser(command)) else [])]:
        assert f".SH {section}\n" in page


def test_every_column_and_every_spelling_is_documented() -> None:
    columns, states = read("docs/columns.md"), read("docs/states.md")
    assert [column.name for column in COLUMNS if f"| `{column.name}` |" not in columns] == []
    assert [word for words in SPELLINGS.values() for word in words if f"`{word}`" not in states] == []


def test_every_exit_code_is_documented() -> None:
    classes = (errors.FinwaitError, *errors.FinwaitError.__subclasses__())
    for value in classes:
        assert f"| {value.exit_code} | `{value.__name__}` |" in read("docs/exit-codes.md")


def test_every_warning_code_is_documented() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    codes = set(re.findall(r'Notice\(\s*"(\w+)"', source))
    assert [code for code in sorted(codes) if f"| `{code}` |" not in read("docs/json.md")] == []


# -- generated files


def test_everything_generated_is_fresh() -> None:
    done = subprocess.run(
        (sys.executable, "scripts/regenerate.py", "--check"), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", MANUALS, ids=lambda page: page.name)
def test_a_manual_page_has_no_warnings(page: Path) -> None:
    if shutil.which("man") is None:
        pytest.skip("needs man")
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "100"}
    command = ("man", "--warnings", "-l", str(page))
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("page", MANUALS, ids=lambda page: page.name)
def test_mandoc_finds_nothing_but_the_missing_date(page: Path) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("needs mandoc")
    done = subprocess.run(("mandoc", "-T", "lint", "-W", "warning", str(page)), capture_output=True, text=True)
    assert [line for line in done.stdout.splitlines() if "missing date" not in line] == []


COMPLETE = """
source packaging/completions/finwait.bash
COMP_WORDS=("$@")
COMP_CWORD=$(( $# - 1 ))
_finwait 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("li", ["list"]),
        ("--no", ["--no-header"]),
        ("list --st", ["--style"]),
        ("--style n", ["netstat"]),
        ("list --style n", [""]),
        ("cap", ["capabilities"]),
        ("capabilities --nd", ["--ndjson"]),
        ("capabilities --st", [""]),
        ("capabilities time", [""]),
        ("explain close_w", ["close_wait"]),
        ("explain timer orph", ["orphan_retries"]),
        ("explain --mark", ["--markdown"]),
        ("--by state,peer_a", ["state,peer_address"]),
        ("--by = peer_a", ["peer_address"]),
        ("list --columns +cong", ["+congestion"]),
        ("list --sort -rto", ["-rto_us"]),
        ("state time_w", ["time_wait"]),
        ("list exclude listeni", ["listening"]),
        ("list timer keep", ["keepalive"]),
        ("--read docs/examples/ticket-n", ["docs/examples/ticket-netstat.txt"]),
    ],
)
def test_bash_completes(words: str, completed: list[str]) -> None:
    done = subprocess.run(
        ("bash", "--norc", "-c", COMPLETE, "bash", "finwait", *words.split()), cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == completed, done.stderr


def test_zsh_reads_its_completion() -> None:
    if shutil.which("zsh") is None:
        pytest.skip("needs zsh")
    done = subprocess.run(("zsh", "-n", "packaging/completions/_finwait"), cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# -- nothing of this machine


def test_no_committed_file_names_this_machines_paths() -> None:
    foreign = re.compile(r"/work/\w|/home/\w|/Users/\w|/root/\w")
    assert _lines_with(foreign) == []


def test_no_committed_file_names_a_registry_or_a_mirror() -> None:
    registries = re.compile(
        r"--(?:extra-)?index-url|\bindex-url\s*=|files\.pythonhosted|/simple/?\b.*https?:|https?://[^\s)\"']*/simple\b"
    )
    assert _lines_with(registries) == []


def _lines_with(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for name in committed_files():
        if name == str(Path(__file__).relative_to(ROOT)):
            continue
        text = (ROOT / name).read_text(encoding="utf-8", errors="replace")
        found += [f"{name}: {line}" for line in text.splitlines() if pattern.search(line)]
    return found
