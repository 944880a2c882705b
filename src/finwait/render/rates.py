"""How often connections went from one state to another: what stands on an arrow, and below a picture for what has none."""

from __future__ import annotations

from finwait.tcp.state import LIFE_ORDER
from finwait.text.messages import mark, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from finwait.tcp.state import TcpState

    Pair = tuple[TcpState, TcpState]

LEAST_PLAIN = 0.001  # what is less has an exponent: no rate takes more than MOST_CELLS
MOST_CELLS = 9


class Rates:
    """What was measured. changes: how many by (from, to); a pair that is not there never was. seconds: for how long."""

    __slots__ = ("changes", "seconds")

    def __init__(self, changes: Mapping[Pair, int], seconds: float) -> None:
        self.changes = changes
        self.seconds = seconds

    def count_of(self, state: TcpState, to: TcpState) -> int:
        """How many changes from `state` to `to` there were."""
        return self.changes.get((state, to), 0)

    def rate_of(self, state: TcpState, to: TcpState) -> float:
        """How many there were a second."""
        return self.count_of(state, to) / self.seconds

    def text_of(self, state: TcpState, to: TcpState) -> str:
        """``50.5/s``: the rate in three digits."""
        return rate_text(self.rate_of(state, to))

    def pairs(self, drawn: Collection[Pair] = ()) -> Iterator[Pair]:
        """The pairs that were, but for those of `drawn`, in the order of a connection's life."""
        for state in LIFE_ORDER:
            for to in LIFE_ORDER:
                if self.count_of(state, to) and (state, to) not in drawn:
                    yield state, to


def rate_text(rate: float) -> str:
    """``0/s``, ``0.0667/s``, ``50.5/s``, ``1.23k/s``, ``1.5M/s``: three digits."""
    rounded = float(f"{rate:.3g}")
    if 0 < rounded < LEAST_PLAIN:
        digits, _, exponent = f"{rounded:.2e}".partition("e")
        return f"{float(digits):g}e{int(exponent)}/s"
    if rounded < 1000:
        return f"{rounded:g}/s"
    return f"{rounded / 1000:g}k/s" if rounded < 1_000_000 else f"{rounded / 1_000_000:g}M/s"


def rates_title(rates: Rates) -> str:
    """What the numbers of the arrows are."""
    message = translate(mark("on the arrows: changes of state a second, measured for {seconds} s"))
    return message.format(seconds=f"{rates.seconds:.3g}" if rates.seconds < 100 else f"{rates.seconds:.0f}")


def rates_notes(rates: Rates, drawn: Collection[Pair]) -> Iterator[str]:
    """The title, and in one paragraph what was and has no arrow among `drawn`."""
    yield rates_title(rates)
    others = [f"{state.rfc}>{to.rfc} {rates.text_of(state, to)}" for state, to in rates.pairs(drawn)]
    if others:
        yield translate(mark("without an arrow here: {changes}")).format(changes=", ".join(others))


def rates_lines(rates: Rates, drawn: Collection[Pair]) -> Iterator[str]:
    """The same as lines of text, each change its own."""
    others = list(rates.pairs(drawn))
    titles = [rates_title(rates), *([translate(mark("without an arrow here:"))] if others else [])]
    yield from ("", *(f" {title}" for title in titles))
    for state, to in others:
        yield f"   {state.rfc:<12} > {to.rfc:<12} {rates.text_of(state, to):>{MOST_CELLS}}"
