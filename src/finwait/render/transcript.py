"""A played exchange as text: what each end did, the segments between them, and the states of both after each."""

from __future__ import annotations

from finwait.tcp.exchanges import CLIENT, SEGMENT, SERVER, TIMER
from finwait.tcp.state import TcpState
from finwait.text.messages import mark, translate
from finwait.text.width import display_width, pad_right

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from finwait.tcp.exchanges import Exchange, Step

MIDDLE = 26  # cells of the arrow and what stands on it
CALLS = {
    "passive_open": "listen()", "active_open": "connect()", "send": "send()", "close": "close()",
    "shutdown_write": "shutdown(SHUT_WR)", "abort": "close(), SO_LINGER 0",
}  # fmt: skip


def render_transcript(
    exchange: Exchange, end: str, steps: Sequence[tuple[int, int, float]], *, unicode: bool = True
) -> Iterator[str]:
    """Lines: time in ms, the client, the segment, the server. The kernel's end shows what sock_diag showed, the peer's what the
    machine says.
    """  # fmt: skip
    kernel, peer = translate(mark("client (this kernel)")), translate(mark("server (scripted peer)"))
    if end == SERVER:
        kernel, peer = translate(mark("client (scripted peer)")), translate(mark("server (this kernel)"))
    width = max(display_width(kernel), 24)
    yield f"{'ms':>8}  {pad_right(kernel, width)}  {'':{MIDDLE}}  {peer}".rstrip()
    for at, shown, seconds in steps:
        step = exchange.steps[at]
        left, middle, right = _cells(step, unicode=unicode)
        yield f"{seconds * 1000:8.1f}  {pad_right(left, width)}  {pad_right(middle, MIDDLE)}  {right}".rstrip()
        client, server = (TcpState(shown), step.server) if end == CLIENT else (step.client, TcpState(shown))
        yield f"{'':8}  {pad_right('  ' + client.rfc, width)}  {'':{MIDDLE}}    {server.rfc}"


def _cells(step: Step, *, unicode: bool) -> tuple[str, str, str]:
    if step.kind == SEGMENT:
        return "", _arrow(step, unicode=unicode), ""
    what = translate(mark("time is up")) if step.kind == TIMER else CALLS.get(str(step.event), str(step.event))
    return (what, "", "") if step.end == CLIENT else ("", "", what)


def _arrow(step: Step, *, unicode: bool) -> str:
    """``── FIN,ACK ──▶``; a segment that does not arrive ends in a cross."""
    line = "─" if unicode else "-"
    head, tail = ("▶", "◀") if unicode else (">", "<")
    if not step.arrives:
        head = tail = "╳" if unicode else "x"
    text = f" {step.flags} seq={step.seq}" + (f" ack={step.ack}" if step.ack else "") + " "
    text = text if len(text) <= MIDDLE - 4 else f" {step.flags} "
    if step.end == CLIENT:
        return f"{line}{text}".ljust(MIDDLE - 1, line) + head
    return tail + f"{text}{line}".rjust(MIDDLE - 1, line)
