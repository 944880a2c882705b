"""What is sent while a population is made, by whom, when, and what state each end is in then.

Of every group the first connection is followed; the others are made in the same way. The kernel's state is looked up before
the next thing happens, so that it is the one that the last thing led to; the peer's is what the machine says of its segments.
"""

from __future__ import annotations

import time

from finwait.lab import namespace
from finwait.lab.peer import ACK, FIN, RST, SYN
from finwait.lab.ways import find_event
from finwait.tcp.state import TcpState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from finwait.lab.peer import FarEnd, Segment, TcpPeer
    from finwait.lab.spec import Group

_PATIENCE_S = 10.0
_SEQUENCE_SPACE = 1 << 32


class PeerState:
    """The state of a peer that has taken of the kernel's segments only what it has answered."""

    def __init__(self) -> None:
        self.state = TcpState.LISTEN  # until it sends a SYN of its own
        self._our_fin: int | None = None  # what an ACK of the peer's FIN acknowledges
        self._their_fin: int | None = None  # the same of the kernel's, until it is taken

    @property
    def awaits_ack(self) -> bool:
        """Whether the peer's FIN is not acknowledged yet."""
        return self._our_fin is not None and self.state is not TcpState.CLOSE

    def received(self, segment: Segment) -> None:
        """The kernel has sent it."""
        if segment.flags & ACK and self.state is TcpState.SYN_RECV:
            self.state = TcpState.ESTABLISHED
        if segment.flags & FIN:
            self._their_fin = segment.next_seq
        if self._our_fin is not None and segment.ack == self._our_fin:
            self._our_fin = None
            self.state = find_event(self.state, "rcv_ack_of_fin").to

    def sent(self, segment: Segment) -> None:
        """The peer has sent it."""
        if segment.flags & SYN:
            self.state = TcpState.SYN_RECV if segment.flags & ACK else TcpState.SYN_SENT
            return
        if self.state is TcpState.SYN_SENT:
            self.state = TcpState.ESTABLISHED
        if self._their_fin is not None and segment.ack == self._their_fin:
            self._their_fin = None
            self.state = find_event(self.state, "rcv_fin").to
        if segment.flags & FIN:
            self._our_fin = segment.next_seq
            self.state = find_event(self.state, "close").to
        if segment.flags & RST:
            self.state = TcpState.CLOSE


class Entry:
    """One thing that happened. at: CLOCK_REALTIME in s. what: a call, or a segment's flags. sender: kernel, peer,
    or "" for a call. seq and ack count from each end's first; ack None without the flag. kernel, peer: states after it.
    """  # fmt: skip

    __slots__ = ("ack", "at", "kernel", "length", "peer", "sender", "seq", "what")

    def __init__(
        self,
        at: float,
        what: str,
        peer: TcpState,
        sender: str = "",
        seq: int = 0,
        ack: int | None = None,
        length: int = 0,
    ) -> None:
        self.at = at
        self.what = what
        self.sender = sender
        self.seq = seq
        self.ack = ack
        self.length = length
        self.kernel = TcpState.CLOSE
        self.peer = peer


class Trace:
    """The first connection of a group. last_at: when the group's last was made; count: how many it has."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.entries: list[Entry] = []
        self.far: FarEnd | None = None
        self.count = 0
        self.last_at = 0.0


class Recorder:
    """Follows what `peer` sends and receives; without `begin` it costs next to nothing."""

    def __init__(self, peer: TcpPeer) -> None:
        self.traces: dict[Group, Trace] = {}
        self._began = time.time()
        self._peer = peer
        self._trace: Trace | None = None
        self._state = PeerState()
        self._first: dict[bool, int] = {}  # sequence numbers of the peer (True) and the kernel
        peer.watch = self._see

    def begin(self, group: Group) -> None:
        """One of `group` is about to be made; not of mapped addresses, which `look_up` does not find."""
        trace = self.traces.get(group)
        if trace is None:
            self._trace = trace = self.traces[group] = Trace(group)
            self._state, self._first = PeerState(), {}
        trace.count += 1

    def follow(self, far: FarEnd) -> None:
        """This is the peer's end of what is being made."""
        if self._trace is not None:
            self._trace.far = far

    def call(self, name: str) -> None:
        """The program is about to call `name`."""
        if self._trace is not None:
            self._settle()
            self._trace.entries.append(Entry(time.time(), name, self._state.state))

    def end(self, group: Group) -> None:
        """It is made; what the kernel has answered to the last segment is seen as well."""
        trace, self._trace = self._trace, self._trace
        self.traces[group].last_at = time.time()
        if trace is None:
            return
        wanted = TcpState.CLOSE if group.reset or group.overflow else group.tcp_state
        if trace.far is not None:
            namespace.await_condition(lambda: self._kernel_state() is wanted, _PATIENCE_S)
            self._peer.drain()
            deadline = time.monotonic() + _PATIENCE_S
            while self._state.awaits_ack:  # which the kernel may delay by 40 ms
                self._peer.receive(deadline)
        trace.entries[-1].kernel = wanted
        self._trace = None

    def facts(self) -> list[dict[str, object]]:
        """For JSON; times in seconds since the beginning, rounded to a microsecond."""
        return [self._facts_of(trace) for trace in self.traces.values()]

    def _facts_of(self, trace: Trace) -> dict[str, object]:
        far, group = trace.far, trace.group
        entries = [
            [round(one.at - self._began, 6), one.what, one.sender, one.seq, one.ack, one.length, one.kernel, one.peer]
            for one in trace.entries
        ]
        ends = None if far is None else [str(far.near_address), far.near_port, str(far.address), far.port]
        last_s = round(trace.last_at - self._began, 6)
        left = "reset" if group.reset else "overflow" if group.overflow else ""
        return {
            "state": group.state,
            "left": left,
            "count": trace.count,
            "ends": ends,
            "last_s": last_s,
            "entries": entries,
        }

    def _see(self, at: float, segment: Segment, *, is_sent: bool) -> None:
        trace = self._trace
        if trace is None or trace.far is None:
            return
        far = (segment.source, segment.source_port) if is_sent else (segment.destination, segment.destination_port)
        if far != (trace.far.address, trace.far.port):
            return
        self._settle()
        first = self._first.setdefault(is_sent, segment.seq)
        other = self._first.get(not is_sent, 0)
        (self._state.sent if is_sent else self._state.received)(segment)
        ack = (segment.ack - other) % _SEQUENCE_SPACE if segment.flags & ACK else None
        seq, length = (segment.seq - first) % _SEQUENCE_SPACE, len(segment.payload)
        sender = "peer" if is_sent else "kernel"
        trace.entries.append(Entry(at, _flags(segment), self._state.state, sender, seq, ack, length))

    def _settle(self) -> None:
        """Note what the last entry led the kernel to."""
        assert self._trace is not None
        if self._trace.entries:
            self._trace.entries[-1].kernel = self._kernel_state()

    def _kernel_state(self) -> TcpState:
        far = self._trace.far if self._trace is not None else None
        if far is None:
            return TcpState.CLOSE
        row = namespace.look_up((far.near_address, far.near_port), (far.address, far.port))
        return TcpState.CLOSE if row is None else TcpState.SYN_RECV if row.state == 12 else TcpState(row.state)


def _flags(segment: Segment) -> str:
    names = (("SYN", SYN), ("FIN", FIN), ("RST", RST), ("ACK", ACK))
    return ",".join(name for name, flag in names if segment.flags & flag)
