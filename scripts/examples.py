"""The console examples of the documentation: found, run, compared, and filled in.

A fenced block of kind ``console`` is an example: a line that begins with ``$ `` is a command for bash, what follows is
what a terminal without colours then shows. Every block is run. A comment right before it says where:

    <!-- population: leak -->     in a network namespace with the sockets of docs/examples/leak.json

Without one it must print the same on every Linux host. Commands run in a directory of their own, in which ``docs`` is
the repository's; what they write there is seen by later examples of the same page. Blocks of kind ``sh`` are not run.
"""

from __future__ import annotations

import difflib
import errno
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Enter = Callable[..., tuple[str, ...]]

PAGES = ("README.md", "README.zh_CN.md", "docs/*.md")
POPULATIONS = Path("docs/examples")
_BLOCK = re.compile(
    r"(?:^<!-- population: (?P<population>[\w-]+) -->\n)?^```console\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
_TIMEOUT_S = 60


class Example:
    """One command of a page with what the page says it prints. population: the name of its sockets, None for none."""

    def __init__(self, page: Path, line: int, population: str | None, command: str, printed: str) -> None:
        self.page = page
        self.line = line
        self.population = population
        self.command = command
        self.printed = printed

    def __repr__(self) -> str:
        return f"{self.page}:{self.line}: {self.command}"


def pages(root: Path) -> list[Path]:
    """The pages that may have examples, below `root`."""
    return [path.relative_to(root) for pattern in PAGES for path in sorted(root.glob(pattern))]


def find_examples(page: Path, text: str) -> Iterator[Example]:
    """The examples of a page, in order."""
    for block in _BLOCK.finditer(text):
        line = text.count("\n", 0, block.start("body")) + 1
        for command, printed in _parts(block["body"]):
            yield Example(page, line, block["population"], command, printed)
            line += 1 + printed.count("\n")


def _parts(body: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        command, _, printed = part.partition("\n")
        yield command, printed


class Runner:
    """Runs the examples of one page. enter: turns a command into one that runs inside a population's namespace."""

    def __init__(self, root: Path, enter: Enter | None = None) -> None:
        self.enter = enter or (lambda *command: command)
        self._directory = TemporaryDirectory()
        os.symlink(root / "docs", f"{self._directory.name}/docs")

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()

    def run(self, example: Example) -> str:
        """What the example's command prints now."""
        command = ("bash", "-c", example.command)
        if example.population is not None:
            command = self.enter(*command)
        return _run_on_terminal(command, self._directory.name)


def _run_on_terminal(command: tuple[str, ...], directory: str) -> str:
    """What a person sees: both outputs in their order, on a terminal of 100 columns that knows no colours."""
    near, far = pty.openpty()
    modes = termios.tcgetattr(far)
    modes[1] &= ~termios.OPOST  # newlines stay what they are
    termios.tcsetattr(far, termios.TCSANOW, modes)
    termios.tcsetwinsize(far, (60, int(_environment()["COLUMNS"])))
    process = subprocess.Popen(
        command, cwd=directory, env=_environment(), stdin=subprocess.DEVNULL, stdout=far, stderr=far
    )
    os.close(far)
    parts = []
    try:
        while part := os.read(near, 65536):
            parts.append(part)
    except OSError as error:
        if error.errno != errno.EIO:  # so ends a terminal that nobody holds any more
            raise
    finally:
        os.close(near)
        process.wait(_TIMEOUT_S)
    return b"".join(parts).decode()


def _environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "LC_ALL": "C.UTF-8", "COLUMNS": "100", "HOME": "/nonexistent", "TERM": "dumb"}


def refresh(root: Path, page: Path, text: str, wanted: Iterable[str | None], enter: Enter | None = None) -> str:
    """`text` with the output of its examples as it is now, for the populations `wanted` (None: those without)."""
    chosen = set(wanted)
    with Runner(root, enter) as runner:

        def fill(block: re.Match[str]) -> str:
            if block["population"] not in chosen:
                return block[0]
            parts = []
            for command, printed in _parts(block["body"]):
                parts.append(f"$ {command}\n{runner.run(Example(page, 0, block['population'], command, printed))}")
            return block[0].replace(block["body"], "".join(parts))

        return _BLOCK.sub(fill, text)


def populations_of(text: str) -> set[str]:
    """The names of the populations that a page's examples run in."""
    return {block["population"] for block in _BLOCK.finditer(text) if block["population"]}


def difference(example: Example, printed: str) -> str:
    """What differs between what the page says and what was printed, for people; nothing where they agree."""
    lines = difflib.unified_diff(
        example.printed.splitlines(), printed.splitlines(), f"{example.page}:{example.line}", "printed now", lineterm=""
    )
    return "\n".join(lines)


def refresh_populations(root: Path) -> None:
    """Write into the pages what their examples with populations print now. Needs root or user namespaces."""
    from finwait.lab.population import Population, Spec

    texts = {page: (root / page).read_text(encoding="utf-8") for page in pages(root)}
    for name in sorted(set().union(*map(populations_of, texts.values()))):
        spec = Spec.from_json((root / POPULATIONS / f"{name}.json").read_text(encoding="utf-8"))
        with Population(spec) as population:
            for page, text in texts.items():
                if name in populations_of(text):
                    texts[page] = refresh(root, page, text, [name], population.enter_command)
    for page, text in texts.items():
        (root / page).write_text(text, encoding="utf-8")


def generate(root: Path, drafts: dict[Path, str]) -> dict[Path, str]:
    """The pages with the output of their examples as it is now, but for those with populations. `drafts` go before files."""
    written = {}
    for page in pages(root):
        text = drafts.get(page) or (root / page).read_text(encoding="utf-8")
        if "```console" in text:
            written[page] = refresh(root, page, text, [None])
    return written
