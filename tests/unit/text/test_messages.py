"""The language of messages: whose word decides, and how messages within messages are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from finwait.errors import Phrase, UsageError
from finwait.text import messages
from finwait.text.escape import escape_foreign
from finwait.text.messages import language_of_environment, localize, parse_language, translate, use_language


@pytest.fixture(autouse=True)
def _english_again() -> Iterator[None]:
    yield
    use_language("en")


class Upper:
    """A catalogue that shouts."""

    def gettext(self, message_id: str) -> str:
        return message_id.upper().replace("{WORD}", "{word}").replace("{PROBLEM}", "{problem}")


@pytest.mark.parametrize(
    ("word", "language"),
    [
        *(
            (word, "zh_CN")
            for word in ("zh", "zh_CN", "zh-CN", "zh_Hans", "zh-hans-cn", "ZH", "zh_CN.UTF-8", "zh_TW.Big5")
        ),
        *((word, "en") for word in ("en", "en_GB", "en-US", "C", "POSIX", "C.UTF-8", "en_US.UTF-8@euro")),
    ],
)
def test_a_language_is_spelled_as_a_locale_or_a_tag(word: str, language: str) -> None:
    assert parse_language(word) == language


@pytest.mark.parametrize("word", ["xx", "", "zhx", "e", "english", "\x1b[31m", "de_DE"])
def test_a_language_that_finwait_does_not_speak_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="finwait speaks en and zh"):
        parse_language(word)


@pytest.mark.parametrize(
    ("environ", "language"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh_CN"),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "C"}, "en"),
        ({"LANG": "C", "LC_MESSAGES": "zh_CN"}, "zh_CN"),
        ({"LANG": "zh_CN", "LC_MESSAGES": "zh_CN", "LC_ALL": "C"}, "en"),
        ({"LANG": "zh_CN", "LC_ALL": ""}, "zh_CN"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "\udcff"}, "en"),
    ],
)
def test_the_environment_asks_as_posix_says(environ: dict[str, str], language: str) -> None:
    assert language_of_environment(environ) == language


def test_without_a_catalogue_english_remains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(messages, "_LOCALE_DIR", str(tmp_path))
    use_language("zh_CN")
    assert translate("total") == "total"


def test_a_damaged_catalogue_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(messages, "_LOCALE_DIR", str(tmp_path))
    (tmp_path / "zh_CN" / "LC_MESSAGES").mkdir(parents=True)
    for damaged in (b"", b"garbage", b"\xde\x12\x04\x95" + b"\xff" * 60):
        (tmp_path / "zh_CN" / "LC_MESSAGES" / "finwait.mo").write_bytes(damaged)
        use_language("zh_CN")
        assert translate("total") == "total"


def test_a_phrase_is_translated_where_the_whole_is_and_foreign_text_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_catalogue", Upper())
    problem = Phrase("unknown word '{word}'", word="\x1b[31mx")
    error = UsageError("{problem} somewhere in {word}", problem=problem, word="total")
    assert localize(error) == "UNKNOWN WORD '\x1b[31mx' SOMEWHERE IN total"
    assert localize(error, escape_foreign) == r"UNKNOWN WORD '\x1b[31mx' SOMEWHERE IN total"
    assert str(error) == "unknown word '\x1b[31mx' somewhere in total"


@pytest.mark.parametrize("word", ["{", "}", "{0}", "{word}", "{problem.__class__}", "%s"])
def test_braces_of_foreign_text_are_text(word: str) -> None:
    assert localize(UsageError("'{word}' is wrong", word=word)) == f"'{word}' is wrong"
