"""TCP's machine as data: what moves a connection from state to state (RFC 9293, 3.3.2 and 3.10; Linux where it differs).

MACHINE is the whole of it. Pictures, explanations and the lab are made from it; nothing else says what leads where.
"""

from __future__ import annotations

from finwait.tcp.state import LIFE_ORDER, TcpState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

STATES: tuple[TcpState, ...] = LIFE_ORDER
PROGRAM, PEER, KERNEL, CLOCK = "program", "peer", "kernel", "clock"
RFC9293, LINUX = "rfc9293", "linux"

# What can happen to a connection, and who makes it happen.
EVENTS: dict[str, str] = {
    # the program (or whoever may act for it)
    "passive_open": PROGRAM,  # listen()
    "active_open": PROGRAM,  # connect()
    "send": PROGRAM,
    "close": PROGRAM,  # close() of the last descriptor; also exit
    "shutdown_write": PROGRAM,  # shutdown(SHUT_WR)
    "abort": PROGRAM,  # close() with SO_LINGER 0, or connect() to AF_UNSPEC
    "close_unread": PROGRAM,  # close() while received data is unread
    "listener_closed": PROGRAM,  # the listener went, and this connection was not accepted yet
    "destroy": PROGRAM,  # SOCK_DESTROY: `ss -K`, by root
    # a segment of the peer
    "rcv_syn": PEER,
    "rcv_syn_fast_open": PEER,  # a SYN with data and a valid Fast Open cookie
    "rcv_syn_ack": PEER,
    "rcv_ack_of_syn": PEER,  # the ACK that ends the handshake
    "rcv_ack_of_cookie": PEER,  # the same, proving a SYN cookie: the kernel kept nothing
    "rcv_ack": PEER,  # an ACK of no SYN and no FIN
    "rcv_data": PEER,
    "rcv_data_after_close": PEER,  # data for a connection that no program can read any more
    "rcv_fin": PEER,  # a FIN that does not acknowledge ours
    "rcv_fin_ack": PEER,  # a FIN that acknowledges ours
    "rcv_ack_of_fin": PEER,
    "rcv_rst": PEER,
    # a timer
    "timeout_syn": CLOCK,  # the last SYN was not answered
    "timeout_syn_ack": CLOCK,  # the last SYN,ACK was not answered
    "timeout_resend": CLOCK,  # one retransmission, not the last
    "timeout_retransmit": CLOCK,  # the last retransmission or window probe was not answered
    "timeout_keepalive": CLOCK,  # the last keepalive probe was not answered
    "timeout_fin_wait_2": CLOCK,
    "timeout_time_wait": CLOCK,  # 2 MSL
    # the kernel by itself
    "out_of_resources": KERNEL,  # too many orphans, or no memory for them
    "too_many_time_wait": KERNEL,  # a FIN that would make one TIME-WAIT more than tcp_max_tw_buckets
}


class Transition:
    """One arrow of the machine, or a loop where `to` is the state itself.

    event: of EVENTS. sent: the flags of the segment that is sent, None for none. rfc: the section of RFC 9293 that has it, or
    that Linux departs from. origin: rfc9293 or linux. departure: of DEPARTURES, where something of Linux is to be known about
    it. spawns: the socket itself stays as it is (or is gone); the state reached is that of another, new one. hidden: Linux
    never takes it.
    """

    __slots__ = ("departure", "event", "hidden", "origin", "rfc", "sent", "spawns", "state", "to")

    def __init__(
        self,
        event: str,
        to: TcpState,
        sent: str | None,
        rfc: str,
        departure: str | None = None,
        *,
        origin: str = RFC9293,
        spawns: bool = False,
        hidden: bool = False,
    ) -> None:
        self.state = to  # the state that it leaves; told below, by the row in which it stands
        self.event = event
        self.to = to
        self.sent = sent
        self.rfc = rfc
        self.departure = departure
        self.origin = origin
        self.spawns = spawns
        self.hidden = hidden

    @property
    def who(self) -> str:
        """Who causes it: program, peer, kernel or clock."""
        return EVENTS[self.event]

    @property
    def is_loop(self) -> bool:
        """Whether the state stays."""
        return self.to is self.state

    def __repr__(self) -> str:
        return f"<{self.state.token} --{self.event}/{self.sent or '-'}--> {self.to.token}>"


def _linux(event: str, to: TcpState, sent: str | None, rfc: str, departure: str, *, spawns: bool = False) -> Transition:
    return Transition(event, to, sent, rfc, departure, origin=LINUX, spawns=spawns)


_LISTEN, _SYN_SENT, _SYN_RECV, _ESTABLISHED = (
    TcpState.LISTEN, TcpState.SYN_SENT, TcpState.SYN_RECV, TcpState.ESTABLISHED,
)  # fmt: skip
_FIN_WAIT1, _FIN_WAIT2, _CLOSE_WAIT, _CLOSING, _LAST_ACK, _TIME_WAIT, _CLOSED = (
    TcpState.FIN_WAIT1, TcpState.FIN_WAIT2, TcpState.CLOSE_WAIT, TcpState.CLOSING, TcpState.LAST_ACK,
    TcpState.TIME_WAIT, TcpState.CLOSE,
)  # fmt: skip

# The machine. Figure 5 of RFC 9293 is complete in it, with its notes: the RST that leads from SYN-RECEIVED to LISTEN (note 1),
# FIN-WAIT-1 to TIME-WAIT in one step (note 2), a RST from any state (note 3; that a RST *sent* may leave TIME-WAIT behind, as
# that note allows, is nothing that Linux does). Section 3.10 has what the figure leaves out: abort, time-outs, and segments
# that change nothing but are answered.
#
# Where several transitions have one event, the first is the usual one, and the others have a departure that says when they are
# taken. An ACK that data, a FIN or a RST carries anyway is no event of its own; FIN is sent with ACK ("FIN,ACK"). A RST that
# Linux sends by itself carries ACK, also where a program aborts and the RFC has RST alone; one that answers a segment with ACK
# does not (tcp_send_active_reset, tcp_v4_send_reset).
#
# The RFC's CLOSE means "nothing more to send" and leaves RECEIVE to the program: that is shutdown(SHUT_WR). close() gives up
# both.
#
# LISTEN: the arrow to SYN-RECEIVED is the connection's. The listener stays, whatever becomes of the connection; so in Linux a
# RST does not lead back to LISTEN, it only ends the half-open connection.
# SYN-RECEIVED: has no program that could close it, unless it came by Fast Open or a simultaneous open. Data that it could leave
# unread comes with the SYN of Fast Open only.
# FIN-WAIT-1, CLOSING, LAST-ACK: what ends them where the peer is silent is the retransmission of the FIN. A program that has
# called shutdown() is still there and may leave data unread: then close() sends a RST in any state (__tcp_close).
# FIN-WAIT-2: nothing is left that could be sent again, so RFC 9293 has no end for it; Linux has one where no program is left.
# CLOSE-WAIT: only the program's close leads on. Keepalive, where the program asked for it, ends the connection and leaves the
# program with a descriptor of nothing.
# TIME-WAIT: no program is left that could abort; root can destroy it.
# CLOSED: in Linux a socket that is bound at most. A segment for no socket at all is answered with RST: that is CLOSED too.
MACHINE: dict[TcpState, tuple[Transition, ...]] = {
    _LISTEN: (
        Transition("rcv_syn", _SYN_RECV, "SYN,ACK", "3.10.7.2", "request_sockets", spawns=True),
        _linux("rcv_syn", _LISTEN, "SYN,ACK", "3.10.7.2", "syn_cookies"),
        _linux("rcv_syn_fast_open", _SYN_RECV, "SYN,ACK", "3.10.7.2", "fast_open", spawns=True),
        _linux("rcv_ack_of_cookie", _ESTABLISHED, None, "3.10.7.2", "syn_cookies", spawns=True),
        Transition("rcv_ack", _LISTEN, "RST", "3.10.7.2"),
        Transition("send", _SYN_SENT, "SYN", "3.10.2", "no_send_on_listener", hidden=True),
        Transition("close", _CLOSED, None, "3.10.4", "listener_closed"),
        _linux("destroy", _CLOSED, None, "3.10.5", "sock_destroy"),
    ),
    _SYN_SENT: (
        Transition("rcv_syn_ack", _ESTABLISHED, "ACK", "3.10.7.3"),
        Transition("rcv_syn", _SYN_RECV, "SYN,ACK", "3.10.7.3", "simultaneous_open"),
        Transition("rcv_rst", _CLOSED, None, "3.10.7.3"),
        Transition("close", _CLOSED, None, "3.10.4"),
        Transition("abort", _CLOSED, None, "3.10.5"),
        Transition("timeout_resend", _SYN_SENT, "SYN", "3.10.8"),
        Transition("timeout_syn", _CLOSED, None, "3.8.3"),
        _linux("destroy", _CLOSED, None, "3.10.5", "sock_destroy"),
    ),
    _SYN_RECV: (
        Transition("rcv_ack_of_syn", _ESTABLISHED, None, "3.10.7.4", "request_sockets"),
        _linux("rcv_ack_of_syn", _SYN_RECV, None, "3.10.7.4", "defer_accept"),
        _linux("rcv_ack_of_syn", _SYN_RECV, None, "3.10.7.4", "accept_queue_full"),
        _linux("rcv_ack_of_syn", _CLOSED, "RST", "3.10.7.4", "abort_on_overflow"),
        Transition("rcv_syn_ack", _ESTABLISHED, None, "3.5", "simultaneous_open"),
        _linux("rcv_data", _ESTABLISHED, "ACK", "3.10.7.4", "defer_accept"),
        Transition("rcv_syn", _SYN_RECV, "SYN,ACK", "3.10.7.4"),
        Transition("rcv_fin", _CLOSE_WAIT, "ACK", "3.10.7.4"),
        Transition("rcv_rst", _CLOSED, None, "3.10.7.4", "request_sockets"),
        Transition("rcv_rst", _LISTEN, None, "3.10.7.4", "request_sockets", hidden=True),
        Transition("close", _FIN_WAIT1, "FIN,ACK", "3.10.4", "full_syn_recv"),
        _linux("shutdown_write", _SYN_RECV, None, "3.10.4", "full_syn_recv"),
        Transition("abort", _CLOSED, "RST", "3.10.5", "full_syn_recv"),
        _linux("close_unread", _CLOSED, "RST,ACK", "3.6.1", "unread_data"),
        _linux("listener_closed", _CLOSED, None, "3.10.4", "listener_closed"),
        Transition("timeout_resend", _SYN_RECV, "SYN,ACK", "3.10.8"),
        Transition("timeout_syn_ack", _CLOSED, None, "3.8.3", "request_sockets"),
        _linux("destroy", _CLOSED, None, "3.10.5", "sock_destroy"),
    ),
    _ESTABLISHED: (
        Transition("close", _FIN_WAIT1, "FIN,ACK", "3.10.4"),
        Transition("rcv_fin", _CLOSE_WAIT, "ACK", "3.10.7.4"),
        Transition("shutdown_write", _FIN_WAIT1, "FIN,ACK", "3.6", "half_close"),
        Transition("send", _ESTABLISHED, "PSH,ACK", "3.10.2"),
        Transition("rcv_data", _ESTABLISHED, "ACK", "3.10.7.4"),
        Transition("rcv_ack", _ESTABLISHED, None, "3.10.7.4"),
        Transition("rcv_syn", _ESTABLISHED, "ACK", "3.10.7.4", "challenge_ack"),
        Transition("rcv_rst", _CLOSED, None, "3.10.7.4", "ghosts"),
        Transition("abort", _CLOSED, "RST", "3.10.5", "linger_0"),
        _linux("close_unread", _CLOSED, "RST,ACK", "3.6.1", "unread_data"),
        _linux("listener_closed", _CLOSED, "RST,ACK", "3.10.4", "listener_closed"),
        Transition("timeout_resend", _ESTABLISHED, "PSH,ACK", "3.10.8"),
        Transition("timeout_retransmit", _CLOSED, None, "3.8.3", "ghosts"),
        Transition("timeout_keepalive", _CLOSED, "RST,ACK", "3.8.4", "ghosts"),
        _linux("destroy", _CLOSED, "RST,ACK", "3.10.5", "sock_destroy"),
    ),
    _FIN_WAIT1: (
        Transition("rcv_ack_of_fin", _FIN_WAIT2, None, "3.10.7.4", "fin_wait_2"),
        Transition("rcv_fin", _CLOSING, "ACK", "3.10.7.4", "simultaneous_close"),
        Transition("rcv_fin_ack", _TIME_WAIT, "ACK", "3.10.7.4", "first_to_close"),
        Transition("rcv_data", _FIN_WAIT1, "ACK", "3.10.7.4", "half_close"),
        _linux("rcv_data_after_close", _CLOSED, "RST", "3.6.1", "unread_data"),
        Transition("rcv_syn", _FIN_WAIT1, "ACK", "3.10.7.4", "challenge_ack"),
        Transition("rcv_rst", _CLOSED, None, "3.10.7.4"),
        Transition("abort", _CLOSED, "RST", "3.10.5", "linger_0"),
        _linux("close_unread", _CLOSED, "RST,ACK", "3.6.1", "unread_data"),
        Transition("timeout_resend", _FIN_WAIT1, "FIN,ACK", "3.10.8"),
        Transition("timeout_retransmit", _CLOSED, None, "3.8.3", "orphans"),
        _linux("out_of_resources", _CLOSED, "RST,ACK", "3.8.3", "orphans"),
        _linux("destroy", _CLOSED, "RST,ACK", "3.10.5", "sock_destroy"),
    ),
    _FIN_WAIT2: (
        Transition("rcv_fin", _TIME_WAIT, "ACK", "3.10.7.4", "first_to_close"),
        Transition("rcv_data", _FIN_WAIT2, "ACK", "3.10.7.4", "half_close"),
        _linux("rcv_data_after_close", _CLOSED, "RST", "3.6.1", "unread_data"),
        _linux("close", _FIN_WAIT2, None, "3.10.4", "fin_wait_2"),
        Transition("rcv_syn", _FIN_WAIT2, "ACK", "3.10.7.4", "challenge_ack"),
        Transition("rcv_rst", _CLOSED, None, "3.10.7.4"),
        Transition("abort", _CLOSED, "RST", "3.10.5", "linger_0"),
        _linux("close_unread", _CLOSED, "RST,ACK", "3.6.1", "unread_data"),
        _linux("timeout_fin_wait_2", _CLOSED, None, "3.3.2", "fin_wait_2"),
        Transition("timeout_keepalive", _CLOSED, "RST,ACK", "3.8.4", "ghosts"),
        _linux("too_many_time_wait", _CLOSED, "ACK", "3.6.1", "too_many_time_wait"),
        _linux("destroy", _CLOSED, "RST,ACK", "3.10.5", "sock_destroy"),
    ),
    _CLOSE_WAIT: (
        Transition("close", _LAST_ACK, "FIN,ACK", "3.10.4"),
        Transition("shutdown_write", _LAST_ACK, "FIN,ACK", "3.6", "half_close"),
        Transition("send", _CLOSE_WAIT, "PSH,ACK", "3.10.2", "half_close"),
        Transition("rcv_ack", _CLOSE_WAIT, None, "3.10.7.4"),
        Transition("rcv_syn", _CLOSE_WAIT, "ACK", "3.10.7.4", "challenge_ack"),
        Transition("rcv_rst", _CLOSED, None, "3.10.7.4", "ghosts"),
        Transition("abort", _CLOSED, "RST", "3.10.5", "linger_0"),
        _linux("close_unread", _CLOSED, "RST,ACK", "3.6.1", "unread_data"),
        _linux("listener_closed", _CLOSED, "RST,ACK", "3.10.4", "listener_closed"),
        Transition("timeout_resend", _CLOSE_WAIT, "PSH,ACK", "3.10.8"),
        Transition("timeout_retransmit", _CLOSED, None, "3.8.3", "ghosts"),
        Transition("timeout_keepalive", _CLOSED, "RST,ACK", "3.8.4", "ghosts"),
        _linux("destroy", _CLOSED, "RST,ACK", "3.10.5", "sock_destroy"),
    ),
    _CLOSING: (
        Transition("rcv_ack_of_fin", _TIME_WAIT, None, "3.10.7.4", "simultaneous_close"),
        Transition("rcv_fin", _CLOSING, "ACK", "3.10.7.4"),
        Transition("rcv_syn", _CLOSING, "ACK", "3.10.7.4", "challenge_ack"),
        Transition("rcv_rst", _CLOSED, None, "3.10.7.4"),
        Transition("abort", _CLOSED, None, "3.10.5"),
        _linux("close_unread", _CLOSED, "RST,ACK", "3.6.1", "unread_data"),
        Transition("timeout_resend", _CLOSING, "FIN,ACK", "3.10.8"),
        Transition("timeout_retransmit", _CLOSED, None, "3.8.3", "orphans"),
        _linux("out_of_resources", _CLOSED, "RST,ACK", "3.8.3", "orphans"),
        _linux("destroy", _CLOSED, None, "3.10.5", "sock_destroy"),
    ),
    _LAST_ACK: (
        Transition("rcv_ack_of_fin", _CLOSED, None, "3.10.7.4"),
        Transition("rcv_fin", _LAST_ACK, "ACK", "3.10.7.4"),
        Transition("rcv_syn", _LAST_ACK, "ACK", "3.10.7.4", "challenge_ack"),
        Transition("rcv_rst", _CLOSED, None, "3.10.7.4"),
        Transition("abort", _CLOSED, None, "3.10.5"),
        _linux("close_unread", _CLOSED, "RST,ACK", "3.6.1", "unread_data"),
        Transition("timeout_resend", _LAST_ACK, "FIN,ACK", "3.10.8"),
        Transition("timeout_retransmit", _CLOSED, None, "3.8.3", "orphans"),
        _linux("out_of_resources", _CLOSED, "RST,ACK", "3.8.3", "orphans"),
        _linux("destroy", _CLOSED, None, "3.10.5", "sock_destroy"),
    ),
    _TIME_WAIT: (
        Transition("timeout_time_wait", _CLOSED, None, "3.10.8", "time_wait"),
        Transition("rcv_fin", _TIME_WAIT, "ACK", "3.10.7.4", "time_wait"),
        Transition("rcv_rst", _CLOSED, None, "3.10.7.4", "assassination"),
        _linux("rcv_syn", _SYN_RECV, "SYN,ACK", "3.6.1", "time_wait_reuse", spawns=True),
        _linux("active_open", _SYN_SENT, "SYN", "3.6.1", "time_wait_reuse", spawns=True),
        _linux("destroy", _CLOSED, None, "3.10.5", "sock_destroy"),
        Transition("abort", _CLOSED, None, "3.10.5", "sock_destroy", hidden=True),
    ),
    _CLOSED: (
        Transition("passive_open", _LISTEN, None, "3.10.1"),
        Transition("active_open", _SYN_SENT, "SYN", "3.10.1"),
        Transition("rcv_syn", _CLOSED, "RST,ACK", "3.10.7.1"),
        Transition("rcv_ack", _CLOSED, "RST", "3.10.7.1"),
    ),
}
for _state, _row in MACHINE.items():
    for _transition in _row:
        _transition.state = _state

# What Linux adds to RFC 9293, hides or decides: where it is in the kernel (6.18) or who specifies it. The reasons are texts of
# explanations/, by the same names.
DEPARTURES: dict[str, str] = {
    "request_sockets": "net/ipv4/inet_connection_sock.c: inet_csk_reqsk_queue_hash_add, reqsk_timer_handler",
    "syn_cookies": "net/ipv4/syncookies.c: cookie_v4_check; RFC 4987, 3.6",
    "fast_open": "net/ipv4/tcp_fastopen.c: tcp_fastopen_create_child; RFC 7413",
    "defer_accept": "net/ipv4/tcp_minisocks.c: tcp_check_req; tcp(7), TCP_DEFER_ACCEPT",
    "accept_queue_full": "net/ipv4/tcp_ipv4.c: tcp_v4_syn_recv_sock (sk_acceptq_is_full)",
    "abort_on_overflow": "net/ipv4/tcp_minisocks.c: tcp_check_req (listen_overflow)",
    "full_syn_recv": "net/ipv4/tcp.c: tcp_close_state (new_state)",
    "simultaneous_open": "net/ipv4/tcp_input.c: tcp_rcv_synsent_state_process",
    "no_send_on_listener": "net/ipv4/tcp.c: tcp_sendmsg_locked; net/ipv4/af_inet.c: __inet_stream_connect",
    "listener_closed": "net/ipv4/inet_connection_sock.c: inet_csk_listen_stop",
    "half_close": "net/ipv4/tcp.c: tcp_shutdown; shutdown(2)",
    "linger_0": "net/ipv4/tcp.c: __tcp_close, tcp_disconnect; socket(7), SO_LINGER",
    "unread_data": "net/ipv4/tcp.c: __tcp_close (data_was_unread); net/ipv4/tcp_input.c: tcp_rcv_state_process",
    "ghosts": "net/ipv4/tcp_input.c: tcp_reset; net/ipv4/tcp_timer.c: tcp_write_err",
    "challenge_ack": "net/ipv4/tcp_input.c: tcp_validate_incoming; RFC 5961, 4.2",
    "first_to_close": "net/ipv4/tcp_input.c: tcp_fin",
    "simultaneous_close": "net/ipv4/tcp_input.c: tcp_fin, tcp_rcv_state_process (TCP_CLOSING)",
    "orphans": "net/ipv4/tcp_timer.c: tcp_orphan_retries, tcp_out_of_resources",
    "fin_wait_2": "net/ipv4/tcp.c: __tcp_close; net/ipv4/tcp_minisocks.c: tcp_time_wait (tw_substate)",
    "too_many_time_wait": "net/ipv4/inet_timewait_sock.c: inet_twsk_alloc",
    "time_wait": "include/net/tcp.h: TCP_TIMEWAIT_LEN; net/ipv4/tcp_minisocks.c: tcp_timewait_state_process",
    "time_wait_reuse": "net/ipv4/tcp_minisocks.c: tcp_timewait_state_process; net/ipv4/tcp_ipv4.c: tcp_twsk_unique; RFC 6191",
    "assassination": "net/ipv4/tcp_minisocks.c: tcp_timewait_state_process (sysctl_tcp_rfc1337); RFC 1337",
    "sock_destroy": "net/ipv4/tcp.c: tcp_abort; sock_diag(7)",
}


def transitions_from(state: TcpState) -> tuple[Transition, ...]:
    """Everything that can happen in `state`, loops too."""
    return MACHINE[state]


def transitions_to(state: TcpState) -> tuple[Transition, ...]:
    """The transitions that lead to `state` from another one, those of RFC 9293's order of states first."""
    return tuple(transition for transition in arrows() if transition.to is state)


def find_transition(state: TcpState, to: TcpState) -> tuple[Transition, ...]:
    """The transitions that lead from `state` to `to` in one step, the usual one first; none where there is no arrow."""
    return tuple(transition for transition in MACHINE[state] if transition.to is to)


def arrows() -> Iterator[Transition]:
    """Every transition that changes the state."""
    for state in STATES:
        yield from (transition for transition in MACHINE[state] if not transition.is_loop)


def next_transition(state: TcpState, event: str) -> Transition | None:
    """What usually happens in `state` when `event` does; None where nothing can."""
    return next((transition for transition in MACHINE[state] if transition.event == event), None)


def find_path(state: TcpState, to: TcpState) -> tuple[TcpState, ...]:
    """The fewest states from `state` to `to`, both included, for one connection in Linux; none where it can never come there.

    A connection that is CLOSED is over, and one that is made anew (`spawns`, but for a listener's) is another.
    """
    paths: list[tuple[TcpState, ...]] = [(state,)]
    for path in paths:
        if path[-1] is TcpState.CLOSE and len(path) > 1:
            continue
        for transition in MACHINE[path[-1]]:
            if transition.hidden or (transition.spawns and path[-1] is not TcpState.LISTEN):
                continue
            if transition.to is to and not transition.is_loop:
                return (*path, to)
            if all(transition.to not in known for known in paths):
                paths.append((*path, transition.to))
    return ()
