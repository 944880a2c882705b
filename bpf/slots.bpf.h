/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * What is remembered of mini-sockets, and what one call of the kernel tells in two tracepoints.
 */
#ifndef FINWAIT_SLOTS_BPF_H
#define FINWAIT_SLOTS_BPF_H

#include "lives.bpf.h"

/* Timewait sockets of which their own memory does not tell enough: those in FIN_WAIT2, and those whose timer was set anew. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 16);
	__type(key, __u64); /* cookie */
	__type(value, struct finwait_mini);
} minis SEC(".maps");

static inline int keeps_minis(void)
{
	return timers || wants & FINWAIT_WANT_SOCKETS;
}

/* Of a processor: what a first tracepoint leaves for a second one. */
struct slot {
	__u64 cloned; /* address of the socket that a completed handshake has just made */
	__u64 connecting; /* address of the socket in connect() that has no port yet */
	struct finwait_change connect; /* what is to be told of it then */
	__u64 cancelled; /* address of the timer that was deleted, or will be set anew */
	__u64 cancelled_told; /* whether its change was */
	__u64 cancelled_cookie; /* of its socket: another one may have the same address a moment later */
	__u64 cancelled_ns; /* when */
	struct finwait_mini mini; /* of that timer */
	__u64 running; /* address of the timer whose function runs */
	struct finwait_change run; /* what is to be told if it is not set anew */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* processors */
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

static inline struct slot *own_slot(void)
{
	__u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&slots, &cpu);
}

#endif
