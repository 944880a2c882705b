"""Messages for people in English and Chinese, through gettext catalogues in the package.

English is the message id itself, so that an English run opens no catalogue. Machine words (JSON keys, tokens, metric
names, exit codes) never pass through here.
"""

from __future__ import annotations

import os

from finwait.errors import FinwaitError, Phrase, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from gettext import GNUTranslations

LANGUAGES = ("en", "zh_CN")
_LOCALE_DIR = os.path.join(os.path.dirname(__file__), "locale")
_catalogue: GNUTranslations | None = None
_language = "en"


def mark(message_id: str) -> str:
    """Mark `message_id` for extraction; whoever shows it calls `translate`."""
    return message_id


def translate(message_id: str) -> str:
    """`message_id` in the chosen language."""
    return message_id if _catalogue is None else _catalogue.gettext(message_id)


def localize(message: object, show: Callable[[str], str] = str) -> str:
    """`message` (an error, a phrase, or any value that fills a place) in the chosen language.

    show: what each value that is no message passes through, such as the escaper of foreign strings.
    """
    if isinstance(message, FinwaitError | Phrase):
        arguments = {name: localize(value, show) for name, value in message.arguments.items()}
        return translate(message.message_id).format(**arguments)
    return show(str(message))


def parse_language(word: str) -> str:
    """The language that ``--lang`` or a locale name spells: ``zh``, ``zh-CN``, ``zh_Hans``, ``zh_CN.UTF-8`` are zh_CN.

    Raises UsageError for a language that finwait does not speak.
    """
    folded = word.lower().replace("-", "_").partition(".")[0].partition("@")[0]
    primary = folded.partition("_")[0]
    if primary == "zh":
        return "zh_CN"
    if primary in {"en", "c", "posix"}:
        return "en"
    raise UsageError("unknown language '{word}'; finwait speaks en and zh", word=word)


def language_of_environment(environ: Mapping[str, str]) -> str:
    """The language that the locale variables ask for, English where they ask for one that finwait does not speak.

    POSIX precedence: LC_ALL, LC_MESSAGES, LANG.
    """
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if environ.get(name):
            return "zh_CN" if environ[name].lower().startswith("zh") else "en"
    return "en"


def use_language(language: str) -> None:
    """Speak `language` (one of LANGUAGES) from now on. Only a language other than English opens a file; where it is not
    there (a source tree that was never built) or damaged, English remains.
    """  # fmt: skip
    global _catalogue, _language
    _catalogue, _language = None, "en"
    if language == "en":
        return
    from gettext import GNUTranslations
    from struct import error as struct_error

    try:
        with open(os.path.join(_LOCALE_DIR, language, "LC_MESSAGES", "finwait.mo"), "rb") as file:
            _catalogue, _language = GNUTranslations(file), language
    except (OSError, ValueError, struct_error):
        return


def language_in_use() -> str:
    """The language that `translate` speaks: one of LANGUAGES."""
    return _language
