"""The generated parts of reference pages: between ``<!-- generated: NAME -->`` and ``<!-- /generated -->``.

The prose around them is written by hand, in the pages themselves.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from finwait.diagnosis.rules import RULES
from finwait.render.doctor_markdown import DO, DONT
from finwait.render.explain import Explainer
from finwait.render.explain_markdown import MarkdownPage
from finwait.table.columns import ALIASES, BOOL, CHANGE_COLUMNS, COLUMNS, ENDPOINT, LIFETIME_COLUMNS, NUMBER, TIME
from finwait.tcp.explanations import read_explanations
from finwait.tcp.state import LIFE_ORDER, SPELLINGS, STATE_GROUPS
from finwait.tcp.timers import TIMERS
from finwait.tcp.waits import CLOCK, NOBODY, PEER, PROGRAM, WAITS
from finwait.text.messages import translate, use_language
from scripts.commands import COMMANDS, SUMMARIES, build_parser

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from finwait.diagnosis.rule import Rule
    from finwait.table.columns import Column

PAGES = tuple(
    Path("docs") / name
    for name in (
        "commands.md", "columns.md", "columns.zh_CN.md", "states.md", "states.zh_CN.md", "rules.md", "rules.zh_CN.md",
        "json.md",
    )
)  # fmt: skip
REGION = re.compile(r"(?<=^<!-- generated: )(?P<name>.+?) -->\n.*?(?=^<!-- /generated -->$)", re.MULTILINE | re.DOTALL)
# argparse prints `-N NETNS, --net NETNS` up to Python 3.12 and `-N, --net NETNS` from 3.13 on; the files are of the former.
HELP_IS_STABLE = sys.version_info < (3, 13)
WHO = {NOBODY: "nobody", PEER: "the peer", PROGRAM: "the local program", CLOCK: "the clock"}
_TOLD_BY_TEXT = {"process", "pid", "fd", "cgroup"}  # columns that only ss's and netstat's text tells so far


def generate(root: Path) -> dict[Path, str]:
    """The pages by path, their generated parts made anew. Raises KeyError for a part that nothing makes."""
    pages = [page for page in PAGES if HELP_IS_STABLE or page.name != "commands.md"]
    return {page: REGION.sub(_fill, (root / page).read_text(encoding="utf-8")) for page in pages}


def _fill(region: re.Match[str]) -> str:
    return f"{region['name']} -->\n{PARTS[region['name']]()}\n"


def _command_list() -> str:
    return "\n".join(f"- [`finwait {name}`](#finwait-{name}): {SUMMARIES[name]}" for name in COMMANDS)


def _help_of(command: str) -> Callable[[], str]:
    return lambda: f"```text\n{build_parser(command).format_help().rstrip()}\n```"


def _columns_table() -> str:
    titles = ("Name", "Kind", "Unit", "Null", "Where from", "Meaning")
    return _table(titles, (_column_row(column) for column in COLUMNS))


def _own_columns(columns: Iterable[Column]) -> Callable[[], str]:
    """A table of columns that nothing but a trace has."""

    def tell() -> str:
        rows = (
            (f"`{column.name}`", _kind(column), _unit(column), "yes" if column.nullable else "", column.description)
            for column in columns
        )
        return _table(("Key", "Kind", "Unit", "Null", "Meaning"), rows)

    return tell


def _unit(column: Column) -> str:
    return "" if column.kind == TIME else column.unit or ""  # moments are written as text


def _chinese_columns_table() -> str:
    use_language("zh_CN")
    try:
        titles = ("列名", "类型", "单位", "可为 null", "来源", "含义")
        return _table(titles, [_column_row(column, yes="是") for column in COLUMNS])
    finally:
        use_language("en")


def _column_row(column: Column, yes: str = "yes") -> tuple[str, ...]:
    null = yes if column.nullable else ""
    meaning = translate(column.description)
    return (f"`{column.name}`", _kind(column), column.unit or "", null, _origin(column), meaning)


def _kind(column: Column) -> str:
    if column.kind == NUMBER:
        return f"u{int(column.dtype[1:]) * 8}"
    return {BOOL: "bool", ENDPOINT: "address:port"}.get(column.kind, column.kind)


def _origin(column: Column) -> str:
    if column.origin is None:
        return "pasted text" if column.name in _TOLD_BY_TEXT else "derived"
    kind, field = column.origin
    return {"msg": "message", "skmem": "memory"}.get(kind) or (f"tcp_info `{field}`" if kind == "info" else "attribute")


def _aliases() -> str:
    return _table(("Word", "Column"), ((f"`{alias}`", f"`{name}`") for alias, name in ALIASES.items()))


def _waits() -> str:
    rows = ((f"**{state.rfc}**", WHO[WAITS[state][0]], WAITS[state][1]) for state in LIFE_ORDER)
    return _table(("State", "Who must act", "It waits for"), rows)


def _chinese_waits() -> str:
    use_language("zh_CN")
    try:
        who = {NOBODY: "没有谁", PEER: "对端", PROGRAM: "本地程序", CLOCK: "时钟"}
        rows = [(f"**{state.rfc}**", who[WAITS[state][0]], translate(WAITS[state][1])) for state in LIFE_ORDER]
        return _table(("状态", "谁必须行动", "在等什么"), rows)
    finally:
        use_language("en")


def _explanations(language: str, what: str) -> Callable[[], str]:
    """The parts of states or of timers in `language`, speaking of no host."""

    def explain() -> str:
        use_language(language)
        try:
            explainer = Explainer(read_explanations(language))
            page = MarkdownPage(of_host=False, level=3)
            if what == "states":
                return "\n".join(page.states(explainer.document(language, LIFE_ORDER)["states"])).rstrip()
            return "\n".join(page.timers(explainer.document(language, (), TIMERS)["timers"])).rstrip()
        finally:
            use_language("en")

    return explain


def _rules(language: str) -> Callable[[], str]:
    """A section for each rule of the doctor."""

    def tell() -> str:
        use_language(language)
        try:
            return "\n\n".join("\n\n".join(_rule_parts(rule)) for rule in RULES)
        finally:
            use_language("en")

    return tell


def _rule_parts(rule: Rule) -> Iterator[str]:
    yield f"### {rule.id}"
    yield f"*{translate(rule.summary)}*"
    yield translate(rule.meaning)
    yield f"**{translate(DO)}**: {translate(rule.remedy)}"
    if rule.avoid is not None:
        yield f"**{translate(DONT)}**: {translate(rule.avoid)}"
    limits = ", ".join(f"`{name}` = {value:g}" for name, value in rule.limits.items())
    facts = [limits, f"`{rule.command}`", "; ".join(rule.sources)]
    yield "; ".join(fact for fact in facts if fact)


def _spellings() -> str:
    titles = (
        "Number",
        "finwait",
        "ss prints",
        "ss filter",
        "netstat, psutil",
        "node_exporter",
        "JSON, OpenTelemetry",
        "Also",
    )
    return _table(titles, ((str(int(state)), *_words(SPELLINGS[state])) for state in LIFE_ORDER))


def _words(spellings: tuple[str, ...]) -> list[str]:
    return [*(f"`{word}`" for word in spellings[:6]), ", ".join(f"`{word}`" for word in spellings[6:])]


def _groups() -> str:
    rows = (
        (f"`{name}`", ", ".join(state.rfc for state in LIFE_ORDER if state in members))
        for name, members in STATE_GROUPS.items()
    )
    return _table(("Group", "States"), rows)


def _table(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [titles, tuple("---" for _ in titles), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


PARTS: dict[str, Callable[[], str]] = {
    "commands": _command_list,
    **{f"help of {name}": _help_of(name) for name in COMMANDS},
    "columns": _columns_table,
    "columns in Chinese": _chinese_columns_table,
    "columns of changes": _own_columns(CHANGE_COLUMNS),
    "columns of lifetimes": _own_columns(LIFETIME_COLUMNS),
    "aliases of columns": _aliases,
    "waits": _waits,
    "waits in Chinese": _chinese_waits,
    "states": _explanations("en", "states"),
    "states in Chinese": _explanations("zh_CN", "states"),
    "timers": _explanations("en", "timers"),
    "timers in Chinese": _explanations("zh_CN", "timers"),
    "rules": _rules("en"),
    "rules in Chinese": _rules("zh_CN"),
    "spellings": _spellings,
    "groups of states": _groups,
}
