// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Writes one struct finwait_connection for each TCP socket of a network namespace, in the kernel's order. */
#include "finwait.bpf.h"

__u32 wanted_states = 0xffffffff; /* bit n: state n */

/* As inet_diag's tcp_diag_get_info(): a listener's queues are its accept queue's length and limit. */
static void copy_full(struct finwait_connection *row, struct tcp_sock *tp)
{
	struct sock *sk = &tp->inet_conn.icsk_inet.sk;

	row->uid = sk->sk_uid.val;
	row->inode = inode_of(sk);
	row->cgroup_id = cgroup_id_of(sk);
	row->shutdown = sk->sk_shutdown;
	if (row->state == TCP_LISTEN) {
		row->rqueue = sk->sk_ack_backlog;
		row->wqueue = sk->sk_max_ack_backlog;
	} else {
		__s32 unread = tp->rcv_nxt - tp->copied_seq;

		row->rqueue = unread > 0 ? unread : 0;
		row->wqueue = tp->write_seq - tp->snd_una;
	}
}

SEC("iter/tcp")
int list_tcp(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;
	struct finwait_connection row = {};
	struct tcp_sock *tp;

	if (!sk)
		return 0;
	row.state = state_of(sk);
	if (!(wanted_states >> (row.state & 31) & 1))
		return 0;
	row.family = sk->skc_family;
	row.cookie = bpf_get_socket_cookie(sk);
	row.bound_dev_if = sk->skc_bound_dev_if;
	row.local_port = sk->skc_num;
	row.peer_port = swap16(sk->skc_dport);
	copy_addresses(row.local_address, row.peer_address, sk);
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp)
		copy_full(&row, tp);
	else
		row.is_mini = 1;
	bpf_seq_write(ctx->meta->seq, &row, sizeof(row));
	return 0;
}
