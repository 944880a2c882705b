"""Build hook: compiles into the package, for wheels and editable installs alike, the message catalogues (.po to .mo) and
the BPF objects (bpf/*.bpf.c to .bpf.o).
"""  # fmt: skip

from __future__ import annotations

import pathlib
import sys
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # hatchling loads this file by its path; its siblings are not importable by themselves

import bpf_build  # noqa: E402

LOCALE = pathlib.Path("src/finwait/text/locale")


def compile_catalogues(root: pathlib.Path) -> list[pathlib.Path]:
    """Write finwait.mo beside every finwait.po below `root`; returns what was written."""
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import read_po

    written = []
    for po in sorted((root / LOCALE).glob("*/LC_MESSAGES/*.po")):
        with po.open("rb") as source:
            catalogue = read_po(source, locale=po.parent.parent.name)
        mo = po.with_suffix(".mo")
        with mo.open("wb") as target:
            write_mo(target, catalogue)
        written.append(mo)
    return written


class FinwaitHook(BuildHookInterface):  # type: ignore[type-arg]
    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        return bpf_build.requirements(pathlib.Path(self.root)) if self.target_name == "wheel" else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        root = pathlib.Path(self.root)
        compile_catalogues(root)
        try:
            bpf_build.build_objects(root)
            if version != "editable":  # there `make bpf` comes after an edit, and a test tells who forgot it
                bpf_build.check_layouts(root)
        except bpf_build.BpfBuildError as error:
            self.app.abort(f"finwait: {error}")
