"""Write everything that is generated, or with --check say what is out of date.

    python scripts/regenerate.py                 write
    python scripts/regenerate.py --check         exit 1 where anything would change; write only what git ignores (.mo, .bpf.o)
    python scripts/regenerate.py --populations   also run the examples that need sockets (root or user namespaces)

Message catalogues (docs: CONTRIBUTING.md), docs/commands.md, docs/columns.md, docs/states.md, manual pages, completions, the
golden files of tests/contract, docs/images, the output of the console examples in README and docs, wire/bpf_layouts.py.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from scripts import bpf_layouts, catalogue, completions, examples, goldens, manuals, reference  # noqa: E402

SHOWN_LINES = 40


def main() -> int:
    """Do what the arguments ask; the exit code is 1 where something is out of date or not translated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--populations", action="store_true")
    options = parser.parse_args()
    try:
        layouts = bpf_layouts.generate(ROOT)
    except bpf_layouts.FAILURES as error:
        sys.exit(str(error))
    catalogues, problems = catalogue.generate(ROOT)
    changed = _settle(layouts | catalogues, check=options.check)
    catalogue.compile_catalogues(ROOT)  # an editable tree speaks Chinese, and so do the pages made next
    pages = reference.generate(ROOT)
    for files in (pages, manuals.generate(ROOT, pages), completions.generate(ROOT), goldens.generate(ROOT)):
        changed += _settle(files, check=options.check)
    changed += _settle(examples.generate(ROOT, pages), check=options.check)
    if options.populations and not options.check:
        examples.refresh_populations(ROOT)
    for problem in problems:
        print(problem, file=sys.stderr)
    if options.check and changed:
        print(f"{len(changed)} files are out of date; run: python scripts/regenerate.py", file=sys.stderr)
    return 1 if problems or (options.check and changed) else 0


def _settle(files: dict[Path, str], *, check: bool) -> list[Path]:
    """Write `files` where they differ from what is there, or only tell how; returns those that differ."""
    changed = []
    for path, text in files.items():
        target = ROOT / path
        present = target.read_text(encoding="utf-8") if target.exists() else ""
        if present == text and target.exists():
            continue
        changed.append(path)
        if check:
            _tell(path, present, text)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            print(path)
    return changed


def _tell(path: Path, present: str, text: str) -> None:
    lines = list(difflib.unified_diff(present.splitlines(), text.splitlines(), str(path), "generated", lineterm=""))
    print("\n".join(lines[:SHOWN_LINES]), file=sys.stderr)
    if len(lines) > SHOWN_LINES:
        print(f"... {len(lines) - SHOWN_LINES} more lines", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
