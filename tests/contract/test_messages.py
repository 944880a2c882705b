"""Messages in English and Chinese: all there, filled alike, aligned; and machine words that no language touches."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from finwait.text.messages import parse_language
from finwait.text.width import display_width
from scripts import catalogue, goldens

ROOT = Path(__file__).resolve().parents[2]
TICKET = goldens.TICKET


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    catalogue.compile_catalogues(ROOT)


def finwait(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "LC_ALL": "C.UTF-8", **environment}
    command = (sys.executable, "-m", "finwait", *arguments)
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)


def test_the_catalogues_are_those_of_the_source_and_every_message_is_translated() -> None:
    files, problems = catalogue.generate(ROOT)
    assert problems == []
    assert {path: (ROOT / path).read_text(encoding="utf-8") == text for path, text in files.items()} == dict.fromkeys(
        files, True
    )


def test_every_translation_fills_the_places_of_its_message() -> None:
    for message, translation in catalogue.read_translations(ROOT / catalogue.po_path("zh_CN"), "zh_CN").items():
        assert catalogue.placeholders(message) == catalogue.placeholders(translation.text), message


def test_a_translation_that_fills_other_places_is_told() -> None:
    assert catalogue.find_problems({"{a} of {b}": catalogue.Translation("{a}")}, "zh_CN")
    assert catalogue.find_problems({"a": catalogue.Translation("b", fuzzy=True)}, "zh_CN")
    assert catalogue.find_problems({"a": catalogue.Translation("")}, "zh_CN")


def test_no_message_is_built_of_pieces() -> None:
    """A catalogue has whole messages: a literal, or the name of one that is marked where it stands."""
    built = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in catalogue.KEYWORDS:
                at = catalogue.KEYWORDS[node.func.id][0] - 1
                if len(node.args) > at and isinstance(node.args[at], ast.JoinedStr | ast.BinOp):
                    built.append(f"{path}:{node.lineno}")
    assert built == []


@pytest.mark.parametrize("name", sorted(goldens.COMMANDS))
def test_a_golden_file_is_what_finwait_prints(name: str) -> None:
    assert goldens.render(ROOT, name) == (ROOT / goldens.DIRECTORY / name).read_text(encoding="utf-8")


def test_no_golden_file_is_left_over() -> None:
    assert {path.name for path in (ROOT / goldens.DIRECTORY).iterdir()} == set(goldens.COMMANDS)


@pytest.mark.parametrize("name", ["capabilities.zh_CN.txt", "capabilities.txt"])
def test_capabilities_are_aligned_and_fit(name: str) -> None:
    header, *lines = (ROOT / goldens.DIRECTORY / name).read_text(encoding="utf-8").splitlines()
    begins = {display_width(header[: header.rindex("  ") + 2])}
    for line in lines:
        row = re.match(r"\w+ +(?:cannot tell|\w+) +|   +", line)
        assert row is not None
        begins.add(display_width(row[0]))
    assert len(begins) == 1
    assert max(map(display_width, lines)) <= 100


@pytest.mark.parametrize("name", [name for name in goldens.COMMANDS if re.fullmatch(r"explain.*\.txt", name)])
def test_explanations_fit_into_a_hundred_columns(name: str) -> None:
    text = re.sub(r"\x1b\[\d+m", "", (ROOT / goldens.DIRECTORY / name).read_text(encoding="utf-8"))
    assert [line for line in text.splitlines() if display_width(line) > 100 or line != line.rstrip()] == []


def test_both_languages_explain_in_the_same_sections() -> None:
    english, chinese = (
        (ROOT / goldens.DIRECTORY / f"explain_all{language}.txt").read_text(encoding="utf-8")
        for language in ("", ".zh_CN")
    )
    assert chinese.count("\n\n") == english.count("\n\n")
    assert chinese.count("\n  - ") == english.count("\n  - ")


@pytest.mark.parametrize("name", ["count.zh_CN.txt", "count.txt"])
def test_columns_are_aligned_by_what_characters_take_on_a_terminal(name: str) -> None:
    text = (ROOT / goldens.DIRECTORY / name).read_text(encoding="utf-8").partition(goldens.SEPARATOR)[0]
    lines = text.splitlines()
    header, rows, total = lines[0], lines[1:-1], lines[-1]
    share_ends = {display_width(row[: row.index("%") + 1]) for row in rows if "%" in row}
    assert len(share_ends) == 1
    count_end = display_width(total)
    assert {row.split()[1] for row in rows} == {_cells(row, count_end).split()[-1] for row in rows}
    title = header.split()[1]
    assert display_width(header[: header.index(title) + len(title)]) == count_end


def _cells(text: str, cells: int) -> str:
    """The beginning of `text` that takes `cells` cells."""
    return next(text[:end] for end in range(len(text) + 1) if display_width(text[:end]) == cells)


@pytest.mark.parametrize(
    "arguments",
    [("count", "--json"), ("count", "--by", "state,process", "--json"), ("list", "-o", "--ndjson"), ("list", "--csv"),
     ("count", "--csv"), ("count", "--style", "netstat")],
    ids=" ".join,
)  # fmt: skip
def test_no_language_touches_machine_words(arguments: tuple[str, ...]) -> None:
    english = finwait(*arguments, "--read", TICKET)
    chinese = finwait(*arguments, "--read", TICKET, "--lang", "zh")
    assert (english.returncode, chinese.returncode) == (0, 0)
    assert _without_messages(chinese.stdout) == _without_messages(english.stdout)


def _without_messages(text: str) -> object:
    if not text.startswith("{"):
        return text
    documents = [json.loads(text)] if text.startswith("{\n") else [json.loads(line) for line in text.splitlines()]
    for document in documents:
        for warning in document.get("warnings", ()):
            assert isinstance(warning.pop("message"), str)
            warning.pop("remedy")
    return documents


@pytest.mark.parametrize("word", ["zh", "zh_CN", "zh-CN", "zh_Hans", "ZH", "zh_CN.UTF-8", "zh-hans-cn"])
def test_chinese_has_many_names(word: str) -> None:
    assert parse_language(word) == "zh_CN"


def test_the_locale_chooses_the_language_and_the_option_goes_before() -> None:
    assert "合计" in finwait("--read", TICKET, LC_ALL="zh_CN.UTF-8").stdout
    assert "合计" in finwait("--read", TICKET, LC_ALL="", LC_MESSAGES="", LANG="zh_CN.UTF-8").stdout
    assert "total" in finwait("--read", TICKET, "--lang", "en", LC_ALL="zh_CN.UTF-8").stdout
    assert "total" in finwait("--read", TICKET, LC_ALL="C.UTF-8", LANG="zh_CN.UTF-8").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("state", "tim-wait"), 2, "是不是 time_wait"),
        (("--colour",), 2, "是不是 --color"),
        (("--source", "telepathy"), 2, "无效的选择"),
        (("--top",), 2, "需要一个参数值"),
        (("--json", "--csv"), 2, "不能与参数"),
        (("sport", "=", ":22", "and"), 2, "后面应有条件"),
        (("--read", "/nonexistent"), 6, "无法读取 /nonexistent"),
        (("-N", "no-such-namespace"), 6, "没有网络命名空间"),
    ],
)
def test_errors_speak_chinese(arguments: tuple[str, ...], code: int, words: str) -> None:
    done = finwait(*arguments, "--lang", "zh")
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [(), ("count",), ("list",), ("capabilities",)], ids=str)
def test_help_speaks_chinese(command: tuple[str, ...]) -> None:
    help_text = finwait(*command, "--help", "--lang", "zh").stdout
    assert help_text.startswith("用法：")
    for english in ("usage", "options:", "positional", "show ", "where ", "language of"):
        assert english not in help_text


@pytest.mark.parametrize("command", ["count", "list", "capabilities"])
def test_the_usage_in_chinese_names_the_command(command: str) -> None:
    assert finwait(command, "--help", "--lang", "zh").stdout.startswith(f"用法：finwait {command} [")
