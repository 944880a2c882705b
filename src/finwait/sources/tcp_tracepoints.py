"""The programs of bpf/trace_tcp.bpf.c: which object has them for this kernel, and which of them it has no tracepoint for."""

from __future__ import annotations

from finwait.sources.capabilities import probe_type_name

STATES = ("on_inet_sock_set_state", "on_tcp_destroy_sock")
TIMERS = ("on_timer_start", "on_timer_cancel", "on_timer_expire_entry", "on_timer_expire_exit")
RESETS = ("on_tcp_receive_reset", "on_tcp_send_reset")  # they tell why
RUN = ("count_beside", "check_minis", "learn_reader")  # of type syscall: user space runs them
CALLS = ("on_sock_send_length", "on_sock_recv_length")  # they tell who; Linux 6.3


def object_name(sys: str = "/sys") -> str:
    """The object whose programs this kernel takes: MEM_RCU (include/linux/bpf.h) came with bpf_rdonly_cast."""
    return "trace_tcp_calls" if probe_type_name(b"MEM_RCU", sys) is False else "trace_tcp"


def missing_programs(sys: str = "/sys") -> tuple[str, ...]:
    """Programs that cannot be loaded here, because their tracepoint is not in the kernel's type information."""
    return CALLS if probe_type_name(b"btf_trace_sock_recv_length", sys) is False else ()
