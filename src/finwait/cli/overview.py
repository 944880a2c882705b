"""`finwait --help`: what commands there are."""

from __future__ import annotations

import sys

from finwait.text.messages import mark, translate
from finwait.text.width import pad_right

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "count": mark("count connections by state, or by any columns (the command when none is named)"),
    "list": mark("one line a connection"),
    "explain": mark("what a state is, who must act, which timer ends it, and what helps"),
    "diagram": mark("the state diagram with this host's numbers in it, the handshake, the close"),
    "lab": mark("real sockets in any state, to look at and to learn from"),
    "doctor": mark("what is wrong with this host's TCP, who does it, what to do, and what not to touch"),
    "ports": mark("how much of the range of ephemeral ports each destination uses"),
    "trace": mark("every change of state as it happens, TIME-WAIT and half-open connections too"),
    "selftest": mark("known sockets, asked of every source, of ss and netstat: does everybody agree?"),
    "capabilities": mark("what this machine can do for finwait, and what is missing"),
}
EXAMPLES = (
    ("finwait", mark("how many connections are in each state, and what each state waits for")),
    ("finwait --by state,peer_address --top 10", mark("the ten largest groups")),
    ("finwait state time-wait dport = :443", mark("count what a filter of ss selects")),
    ("finwait list -o state close-wait", mark("connections that the local program has not closed, with timers")),
    ("finwait explain close-wait", mark("what CLOSE-WAIT means, and what to do about it")),
    ("finwait --read ticket.txt", mark("the same from pasted output of ss or netstat")),
    ("finwait capabilities", mark("what finwait cannot do here, why, and what would help")),
)


def run(arguments: Sequence[str]) -> int:
    """Print the overview; returns the exit code."""
    lines = [
        translate(mark("usage: finwait [COMMAND] [OPTIONS] [FILTER]")),
        "",
        translate(mark("What are your TCP connections waiting for?")),
        "",
        translate(mark("commands:")),
        *(f"  {pad_right(name, 14)}{translate(text)}" for name, text in COMMANDS.items()),
        "",
        translate(mark("examples:")),
        *(f"  {pad_right(command, 44)}{translate(text)}" for command, text in EXAMPLES),
        "",
        translate(mark("'finwait COMMAND --help' tells a command's options; finwait --version the version.")),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
