"""What a machine can do for finwait, as probes found it: yes, no and what would give it, or cannot tell."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from finwait.errors import FinwaitError, Phrase

    # What a probe finds: the answer, why, and the message id of what would give it.
    Answer = tuple[bool | None, FinwaitError | Phrase | None, str | None]

WORD_BY_ANSWER = {True: "yes", False: "no", None: "cannot_tell"}


def yes(detail: Phrase | None = None) -> Answer:
    """It was tried and works. detail: what people want to know of it."""
    return True, detail, None


def no(reason: FinwaitError | Phrase, remedy: str | None) -> Answer:
    """It does not work here; `remedy` would give it."""
    return False, reason, remedy


def cannot_tell(reason: FinwaitError | Phrase, remedy: str | None = None) -> Answer:
    """It could not be tried."""
    return None, reason, remedy


class Capability:
    """One thing that finwait may need of a machine.

    name: machine word. gives: message id, what finwait does with it. answer: True, False, or None: cannot tell. reason: why, a
    message with its arguments (of a yes: a detail, or None). remedy: message id of what would give it, or None.
    """

    __slots__ = ("answer", "gives", "name", "reason", "remedy")

    def __init__(self, name: str, gives: str, answer: Answer) -> None:
        self.name = name
        self.gives = gives
        self.answer, self.reason, self.remedy = answer

    @property
    def answer_word(self) -> str:
        """The answer as machine word: yes, no, cannot_tell."""
        return WORD_BY_ANSWER[self.answer]

    def __repr__(self) -> str:
        reason = "" if self.reason is None else f", {str(self.reason)!r}"
        return f"Capability({self.name!r}, {self.answer_word}{reason})"


class Machine:
    """Where the probes were made, and what they found. host: its name; kernel: its release; finwait, python: versions; user:
    the effective uid.
    """  # fmt: skip

    __slots__ = ("capabilities", "finwait", "host", "kernel", "python", "user")

    def __init__(
        self, capabilities: Sequence[Capability], *, host: str, kernel: str, finwait: str, python: str, user: int
    ) -> None:
        self.capabilities = list(capabilities)
        self.host = host
        self.kernel = kernel
        self.finwait = finwait
        self.python = python
        self.user = user

    def __repr__(self) -> str:
        return f"Machine({self.host!r}, kernel={self.kernel!r}, user={self.user}, {self.capabilities!r})"
