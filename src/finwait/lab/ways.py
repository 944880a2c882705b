"""How a connection is brought to each state: the events that a stage plays, and what it cannot play."""

from __future__ import annotations

from finwait.tcp.state import TcpState
from finwait.tcp.transitions import MACHINE, Transition, next_transition

# How a connection comes to each state: events from CLOSED on.
WAYS: dict[TcpState, tuple[str, ...]] = {
    TcpState.CLOSE: (),
    TcpState.LISTEN: ("passive_open",),
    TcpState.SYN_SENT: ("active_open",),
    TcpState.SYN_RECV: ("passive_open", "rcv_syn"),
    TcpState.ESTABLISHED: ("active_open", "rcv_syn_ack"),
    TcpState.FIN_WAIT1: ("active_open", "rcv_syn_ack", "shutdown_write"),
    TcpState.FIN_WAIT2: ("active_open", "rcv_syn_ack", "shutdown_write", "rcv_ack_of_fin"),
    TcpState.CLOSE_WAIT: ("active_open", "rcv_syn_ack", "rcv_fin"),
    TcpState.CLOSING: ("active_open", "rcv_syn_ack", "shutdown_write", "rcv_fin"),
    TcpState.LAST_ACK: ("active_open", "rcv_syn_ack", "rcv_fin", "shutdown_write"),
    TcpState.TIME_WAIT: ("active_open", "rcv_syn_ack", "shutdown_write", "rcv_ack_of_fin", "rcv_fin"),
}

_PASSIVE = ("passive_open", "rcv_syn", "rcv_ack_of_syn")
_ACTIVE = ("active_open", "rcv_syn_ack")
# Other ways, for transitions that need them: by state and event.
OTHER_WAYS: dict[tuple[TcpState, str], tuple[str, ...]] = {
    (TcpState.SYN_RECV, "rcv_syn_ack"): ("active_open", "rcv_syn"),
    (TcpState.SYN_RECV, "close"): ("active_open", "rcv_syn"),
    (TcpState.SYN_RECV, "shutdown_write"): ("active_open", "rcv_syn"),
    (TcpState.SYN_RECV, "abort"): ("active_open", "rcv_syn"),
    (TcpState.LISTEN, "rcv_ack_of_cookie"): ("passive_open", "rcv_syn"),
    (TcpState.SYN_RECV, "rcv_data"): _PASSIVE,
    (TcpState.ESTABLISHED, "listener_closed"): _PASSIVE,
    (TcpState.CLOSE_WAIT, "listener_closed"): (*_PASSIVE, "rcv_fin"),
    (TcpState.SYN_RECV, "close_unread"): ("passive_open", "rcv_syn_fast_open"),
    (TcpState.CLOSE_WAIT, "close_unread"): (*_ACTIVE, "rcv_data", "rcv_fin"),
    (TcpState.CLOSING, "close_unread"): (*_ACTIVE, "rcv_data", "shutdown_write", "rcv_fin"),
    (TcpState.LAST_ACK, "close_unread"): (*_ACTIVE, "rcv_data", "rcv_fin", "shutdown_write"),
    (TcpState.FIN_WAIT1, "rcv_data_after_close"): (*_ACTIVE, "close"),
    (TcpState.FIN_WAIT2, "rcv_data_after_close"): (*_ACTIVE, "close", "rcv_ack_of_fin"),
    (TcpState.FIN_WAIT2, "timeout_fin_wait_2"): (*_ACTIVE, "close", "rcv_ack_of_fin"),
    (TcpState.TIME_WAIT, "rcv_syn"): (*_PASSIVE, "shutdown_write", "rcv_ack_of_fin", "rcv_fin"),
}
# Arrows of the table that no stage drives here, and why.
NOT_DRIVEN: dict[tuple[TcpState, str], str] = {
    (TcpState.FIN_WAIT1, "out_of_resources"): "tcp_max_orphans and memory are the host's, not a namespace's",
    (TcpState.CLOSING, "out_of_resources"): "tcp_max_orphans and memory are the host's, not a namespace's",
    (TcpState.LAST_ACK, "out_of_resources"): "tcp_max_orphans and memory are the host's, not a namespace's",
    (TcpState.TIME_WAIT, "timeout_time_wait"): "takes 60 s, which nothing shortens",
    (TcpState.TIME_WAIT, "active_open"): "needs timestamps, which the scripted peer does not send",
}


def way_to(transition: Transition) -> tuple[Transition, ...]:
    """The transitions from CLOSED to the state that `transition` leaves, as it needs them."""
    key = (transition.state, transition.event)
    steps = []
    state = TcpState.CLOSE
    for event in OTHER_WAYS.get(key, WAYS[transition.state]):
        step = find_event(state, event)
        # with cookies, or a program that waits for data, the same event does something else
        for other in MACHINE[state]:
            departs = other.departure in {"syn_cookies", "defer_accept"} and other.departure == transition.departure
            if other.event == event and departs:
                step = other
        steps.append(step)
        state = step.to
    return tuple(steps)


def find_event(state: TcpState, event: str) -> Transition:
    """What usually happens in `state` when `event` does. Raises KeyError where nothing can."""
    transition = next_transition(state, event)
    if transition is None:
        raise KeyError(f"{event} cannot happen in {state.rfc}")
    return transition
