"""finwait as its user runs it, inside a population's namespace or beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finwait.lab.population import Population

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COMMAND = (sys.executable, "-m", "finwait")
ENVIRONMENT = {**os.environ, "LC_ALL": "C.UTF-8"}


def run(*arguments: str, held: Population | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run finwait, in the namespace of `held` if one is given."""
    command = (*COMMAND, *arguments)
    if held is not None:
        command = held.enter_command(*command)
    options = {"capture_output": True, "text": True, "env": ENVIRONMENT, "check": False, **options}
    return subprocess.run(command, **options)


def output_of(*arguments: str, held: Population | None = None) -> str:
    """What finwait prints, which must have nothing to say on stderr."""
    done = run(*arguments, held=held)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def document_of(*arguments: str, held: Population | None = None) -> dict[str, Any]:
    """The JSON document that finwait prints."""
    return json.loads(output_of(*arguments, "--json", held=held))


def counts_of(*arguments: str, held: Population | None = None) -> dict[str, int]:
    """Connections by state's token, states without any left out."""
    return {row["state"]: row["count"] for row in document_of("count", *arguments, held=held)["rows"] if row["count"]}
