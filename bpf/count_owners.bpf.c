// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Second walk of a count by owner: counts the TCP sockets of one network namespace by (process, state, ...), by the marks of
 * mark_owners. So each socket is counted once, whatever happens to it between the walks.
 *
 * Written out, one struct finwait_loose each: sockets of several processes; those that a program has and that bear no mark,
 * because they came after the first walk or have no descriptor; those that found no room in `groups`.
 */
#include "marks.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct finwait_group);
	__type(value, __u64);
} groups SEC(".maps");

__u32 only_unmarked; /* write those that a program has and that bear no mark; count nothing */

static inline void write_loose(struct bpf_iter__tcp *ctx, struct finwait_group *group, __u8 reason)
{
	struct finwait_loose row = {};

	row.group = *group;
	row.cookie = bpf_get_socket_cookie(ctx->sk_common);
	row.reason = reason;
	bpf_seq_write(ctx->meta->seq, &row, sizeof(row));
}

static inline void add_to_group(struct bpf_iter__tcp *ctx, struct finwait_group *group)
{
	__u64 *count = bpf_map_lookup_elem(&groups, group);
	__u64 one = 1;

	if (count)
		*count += 1;
	else if (bpf_map_update_elem(&groups, group, &one, BPF_ANY))
		write_loose(ctx, group, FINWAIT_NO_ROOM);
}

static inline __u8 kind_of_mini(__u8 kernel_state, __u8 state)
{
	if (kernel_state == TCP_NEW_SYN_RECV)
		return FINWAIT_HALF_OPEN;
	return state == TCP_TIME_WAIT ? FINWAIT_TIME_WAIT : FINWAIT_ORPHAN;
}

/* A full socket that no program has waits for accept(), or its program has closed it. */
static inline __u8 kind_of_unheld(__u8 state)
{
	return state == TCP_ESTABLISHED || state == TCP_CLOSE_WAIT || state == TCP_SYN_RECV ? FINWAIT_NOT_ACCEPTED : FINWAIT_ORPHAN;
}

SEC("iter/tcp")
int count_owners(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;
	struct finwait_group group = {};
	struct finwait_mark *mark;
	struct tcp_sock *tp;
	struct sock *sk;

	if (!skc)
		return 0;
	group.netns_cookie = skc->skc_net.net->net_cookie;
	group.state = state_of(skc);
	group.family = skc->skc_family;
	tp = bpf_skc_to_tcp_sock(skc);
	if (!tp) {
		group.uid = -1;
		group.owner_kind = kind_of_mini(skc->skc_state, group.state);
		if (!only_unmarked)
			add_to_group(ctx, &group);
		return 0;
	}
	sk = &tp->inet_conn.icsk_inet.sk;
	group.uid = sk->sk_uid.val;
	group.cgroup_id = cgroup_id_of(sk);
	if (!sk->sk_socket) {
		group.owner_kind = kind_of_unheld(group.state);
		if (!only_unmarked)
			add_to_group(ctx, &group);
		return 0;
	}
	mark = bpf_sk_storage_get(&marks, tp, 0, 0);
	if (!mark) {
		group.owner_kind = FINWAIT_NO_DESCRIPTOR;
		write_loose(ctx, &group, sk->sk_socket->file ? FINWAIT_NO_MARK : FINWAIT_NO_FILE);
	} else if (!only_unmarked) {
		group.tgid = mark->tgid;
		if (mark->is_shared)
			write_loose(ctx, &group, FINWAIT_SHARED);
		else
			add_to_group(ctx, &group);
	}
	return 0;
}
