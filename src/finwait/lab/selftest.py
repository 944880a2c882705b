"""Does finwait tell the truth here? A known population, asked of every source, and of ss and netstat where they are."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from shutil import which

from finwait.errors import FinwaitError
from finwait.lab.population import Population
from finwait.lab.spec import Group, Spec
from finwait.tcp.state import LIFE_ORDER, TcpState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AGREES, DIFFERS, NOT_ASKED = "agrees", "differs", "not_asked"
# Prime numbers, one for each state, so that no mistake looks like another's number.
COUNTS = dict(zip(LIFE_ORDER, (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37), strict=True))
_SS_STATES = {state.ss: state for state in TcpState}
_NETSTAT_STATES = {state.netstat: state for state in TcpState}


class Verdict:
    """What a witness said. witness: machine word; answer: agrees, differs or not_asked; detail: what differs, or why it was not
    asked; unseen: states that it does not show by its nature.
    """  # fmt: skip

    __slots__ = ("answer", "detail", "family", "unseen", "witness")

    def __init__(self, witness: str, family: str, answer: str, detail: str = "", unseen: str = "") -> None:
        self.witness = witness
        self.family = family
        self.answer = answer
        self.detail = detail
        self.unseen = unseen


def ask_everybody() -> Iterator[Verdict]:
    """A verdict for each family and witness. Raises what making the population raises."""
    for family in ("ipv4", "ipv6"):
        spec = Spec(tuple(Group(state.name, count, family) for state, count in COUNTS.items()), shuffle=7)
        with Population(spec) as population:
            for witness, ask in _WITNESSES.items():
                yield _verdict(witness, family, lambda ask=ask, population=population: ask(population))  # type: ignore[misc]


def _verdict(witness: str, family: str, ask: Callable[[], Counter[TcpState]]) -> Verdict:
    try:
        shown = ask()
    except FinwaitError as error:
        return Verdict(witness, family, NOT_ASKED, str(error))
    unseen = _UNSEEN.get(witness, frozenset())
    wanted = Counter({state: count for state, count in COUNTS.items() if state not in unseen})
    wrong = [state for state in TcpState if wanted[state] != shown[state]]
    detail = ", ".join(f"{state.rfc} {shown[state]} instead of {wanted[state]}" for state in wrong)
    words = ", ".join(state.rfc for state in LIFE_ORDER if state in unseen)
    return Verdict(witness, family, DIFFERS if wrong else AGREES, detail, words)


def _by_finwait(source: str) -> Callable[[Population], Counter[TcpState]]:
    def ask(population: Population) -> Counter[TcpState]:
        command = (sys.executable, "-P", "-m", "finwait", "count", "--json", "--source", source)
        done = subprocess.run(population.enter_command(*command), capture_output=True, text=True)  # noqa: PLW1510
        if done.returncode:
            raise FinwaitError("{reason}", reason=done.stderr.strip().removeprefix("finwait: "))
        rows = json.loads(done.stdout)["rows"]
        return Counter({TcpState(_STATE_BY_TOKEN[row["state"]]): row["count"] for row in rows})

    return ask


def _by_text(
    command: tuple[str, ...], column: int, states: dict[str, TcpState]
) -> Callable[[Population], Counter[TcpState]]:
    def ask(population: Population) -> Counter[TcpState]:
        if which(command[0]) is None:
            raise FinwaitError("{program} is not installed", program=command[0])
        try:
            text = population.run(*command)
        except subprocess.CalledProcessError as error:
            reason = str(error.stderr).strip().partition("\n")[0] or f"exit code {error.returncode}"
            raise FinwaitError("{reason}", reason=reason) from error
        words = [line.split() for line in text.splitlines()]
        return Counter(states[line[column]] for line in words if len(line) > column and line[column] in states)

    return ask


_STATE_BY_TOKEN = {state.token: state for state in TcpState}
_WITNESSES: dict[str, Callable[[Population], Counter[TcpState]]] = {
    "bpf": _by_finwait("bpf"),
    "sock_diag": _by_finwait("sock_diag"),
    "proc": _by_finwait("proc"),
    "ss": _by_text(("ss", "-tanH"), 0, _SS_STATES),
    "netstat": _by_text(("netstat", "-ant"), 5, _NETSTAT_STATES),
}
_UNSEEN = {witness: frozenset({TcpState.CLOSE}) for witness in ("proc", "ss", "netstat")}
