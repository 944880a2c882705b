"""What happened between this kernel and the scripted peer, as text: calls, segments, and the states of both after each."""

from __future__ import annotations

from finwait.tcp.exchanges import CLIENT, SEGMENT, SERVER, TIMER
from finwait.tcp.state import TcpState
from finwait.text.messages import mark, translate
from finwait.text.width import display_width, pad_right

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from finwait.tcp.exchanges import Exchange, Step

MIDDLE = 33  # cells of the arrow and what stands on it
RECORDED_WIDTH = 22  # cells of the kernel's column
LEFT = {
    "reset": mark("reset by the peer, the descriptor still open"),
    "overflow": mark("cut short: tcp_max_tw_buckets is reached"),
}
CALLS = {
    "passive_open": "listen()", "active_open": "connect()", "send": "send()", "close": "close()",
    "shutdown_write": "shutdown(SHUT_WR)", "abort": "close(), SO_LINGER 0",
}  # fmt: skip


def render_transcript(
    exchange: Exchange, end: str, steps: Sequence[tuple[int, int, float, str | None]], *, unicode: bool = True
) -> Iterator[str]:
    """Lines: time in ms, the client, the segment with the flags that it had, the server. The kernel's end shows what sock_diag
    showed, the peer's what the machine says.
    """  # fmt: skip
    kernel, peer = translate(mark("client (this kernel)")), translate(mark("server (scripted peer)"))
    if end == SERVER:
        kernel, peer = translate(mark("client (scripted peer)")), translate(mark("server (this kernel)"))
    width = max(display_width(kernel), 24)
    yield f"{'ms':>8}  {pad_right(kernel, width)}  {'':{MIDDLE}}  {peer}".rstrip()
    for at, shown, seconds, flags in steps:
        step = exchange.steps[at]
        left, middle, right = _cells(step, flags, unicode=unicode)
        yield f"{seconds * 1000:8.1f}  {pad_right(left, width)}  {pad_right(middle, MIDDLE)}  {right}".rstrip()
        client, server = (TcpState(shown), step.server) if end == CLIENT else (step.client, TcpState(shown))
        yield f"{'':8}  {pad_right('  ' + client.rfc, width)}  {'':{MIDDLE}}    {server.rfc}"


def render_recorded(trace: dict[str, Any], *, unicode: bool = True) -> Iterator[str]:
    """Lines: how the first connection of a group was made, as `finwait.lab.recorder` tells it, and how many more there are."""
    kernel, peer = translate(mark("this kernel")), translate(mark("scripted peer"))
    yield _headline(trace)
    yield f"{'ms':>8}  {pad_right(kernel, RECORDED_WIDTH)}  {'':{MIDDLE}}  {peer}"
    for at, what, sender, seq, ack, length, shown, far in trace["entries"]:
        left = what if not sender else ""
        middle = (
            _recorded_arrow(what, seq, ack, length, from_kernel=sender == "kernel", unicode=unicode) if sender else ""
        )
        yield f"{at * 1000:8.1f}  {pad_right(left, RECORDED_WIDTH)}  {middle}".rstrip()
        states = TcpState(shown).rfc, TcpState(far).rfc if trace["ends"] else ""
        yield f"{'':8}    {pad_right(states[0], RECORDED_WIDTH - 2)}  {'':{MIDDLE}}    {states[1]}".rstrip()
    if trace["count"] > 1:
        more = translate(mark("{count} more in the same way, the last at {ms:.1f} ms"))
        yield more.format(count=trace["count"] - 1, ms=trace["last_s"] * 1000)


def _headline(trace: dict[str, Any]) -> str:
    words = [TcpState[trace["state"]].rfc]
    if trace["left"]:
        what = LEFT[trace["left"]]
        words.append(translate(what))
    if trace["ends"]:
        near, near_port, far, far_port = trace["ends"]
        words.append(f"{_endpoint(near, near_port)} - {_endpoint(far, far_port)}")
    return ", ".join(words)


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _recorded_arrow(flags: str, seq: int, ack: int | None, length: int, *, from_kernel: bool, unicode: bool) -> str:
    text = f" {flags} {seq}"
    text += f":{seq + length}" if length else ""
    text += f" ack {ack} " if ack is not None else " "
    return _pointed(text, to_right=from_kernel, arrives=True, unicode=unicode)


def _cells(step: Step, flags: str | None, *, unicode: bool) -> tuple[str, str, str]:
    if step.kind == SEGMENT:
        return "", _arrow(step, flags or step.flags or "", unicode=unicode), ""
    what = translate(mark("time is up")) if step.kind == TIMER else CALLS.get(str(step.event), str(step.event))
    return (what, "", "") if step.end == CLIENT else ("", "", what)


def _arrow(step: Step, flags: str, *, unicode: bool) -> str:
    text = f" {flags} seq={step.seq}" + (f" ack={step.ack}" if step.ack else "")
    text += f" len={step.data} " if step.data else " "
    return _pointed(text, to_right=step.end == CLIENT, arrives=step.arrives, unicode=unicode)


def _pointed(text: str, *, to_right: bool, arrives: bool, unicode: bool) -> str:
    """``── FIN,ACK ──▶``; a segment that does not arrive ends in a cross."""
    line = "─" if unicode else "-"
    head, tail = ("▶", "◀") if unicode else (">", "<")
    if not arrives:
        head = tail = "╳" if unicode else "x"
    if to_right:
        return f"{line}{text}".ljust(MIDDLE - 1, line) + head
    return tail + f"{text}{line}".rjust(MIDDLE - 1, line)
