/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Whole lives: the states that a connection had, told at its end.
 */
#ifndef FINWAIT_LIFETIMES_BPF_H
#define FINWAIT_LIFETIMES_BPF_H

#include "tell.bpf.h"

/* The states that a connection had; only where whole lives are wanted. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, __u64); /* address */
	__type(value, struct finwait_path);
} paths SEC(".maps");

static inline void add_step(struct finwait_path *path, __u8 state, __u64 begin_ns)
{
	int index;

	for (index = 0; index < FINWAIT_STEPS; index++) {
		if (path->states[index])
			continue;
		path->states[index] = state;
		path->begins_ns[index] = begin_ns;
		return;
	}
}

static void tell_lifetime(struct finwait_change *change, struct sock *sk, struct finwait_path *path)
{
	struct finwait_lifetime *record;
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	if (!is_of_ports(change) || (least_ns && (!path->begins_ns[0] || change->at_ns - path->begins_ns[0] < least_ns)))
		return;
	record = bpf_ringbuf_reserve(&lifetimes, sizeof(*record), 0);
	if (!record) {
		__sync_fetch_and_add(&lost_changes, 1);
		return;
	}
	record->change = *change;
	record->path = *path;
	record->bytes_acked = tp ? tp->bytes_acked : 0;
	record->bytes_received = tp ? tp->bytes_received : 0;
	record->srtt_us = tp ? tp->srtt_us >> 3 : 0;
	record->total_retrans = tp ? tp->total_retrans : 0;
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
}

static inline void forget_path(struct sock *sk)
{
	__u64 key = (__u64)sk;

	if (wants & FINWAIT_WANT_LIFETIMES)
		bpf_map_delete_elem(&paths, &key);
}

/* change: with the states of the socket, not of what remains of it */
static void follow(struct finwait_change *change, struct sock *sk, __u8 remains)
{
	struct finwait_path first = {}, *path;
	__u64 key = (__u64)sk;
	__u8 to = change->to;

	if (to == TCP_LISTEN || change->from == TCP_LISTEN) /* no connection */
		return;
	path = bpf_map_lookup_elem(&paths, &key);
	if (!path || change->from == TCP_CLOSE) {
		if (change->from != TCP_CLOSE)
			add_step(&first, change->from, change->since_ns);
		if (to != TCP_CLOSE) {
			add_step(&first, to, change->at_ns);
			if (bpf_map_update_elem(&paths, &key, &first, BPF_ANY))
				__sync_fetch_and_add(&lost_lives, 1);
			return;
		}
		path = &first;
	}
	if (to != TCP_CLOSE) {
		add_step(path, to, change->at_ns);
		return;
	}
	change->to = remains;
	tell_lifetime(change, sk, path);
	change->to = to;
	bpf_map_delete_elem(&paths, &key);
}

#endif
