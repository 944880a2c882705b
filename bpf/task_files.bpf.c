// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Writes one struct finwait_descriptor for each descriptor of a TCP socket, of all processes and network namespaces.
 *
 * The kernel visits a process once, its threads only where they have descriptors of their own.
 */
#include "processes.bpf.h"

__u32 only_closed; /* sockets in state CLOSE only, each followed by its struct finwait_endpoints */

static inline void write_endpoints(struct seq_file *seq, struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct finwait_endpoints ends = {};

	/* a socket that was reset has given its port back (skc_num is 0) and still tells it here */
	ends.local_port = tp ? swap16(tp->inet_conn.icsk_inet.inet_sport) : 0;
	ends.peer_port = swap16(sk->__sk_common.skc_dport);
	copy_addresses(ends.local_address, ends.peer_address, &sk->__sk_common);
	bpf_seq_write(seq, &ends, sizeof(ends));
}

SEC("iter/task_file")
int list_task_files(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct sock *sk;

	if (!task || !file)
		return 0;
	sk = tcp_from_file(file);
	if (!sk)
		return 0;
	if (only_closed && (is_mptcp(sk) || sk->__sk_common.skc_state != TCP_CLOSE))
		return 0;
	remember_process(task);
	write_descriptor(ctx, sk, tgid_of(task));
	if (only_closed)
		write_endpoints(ctx->meta->seq, sk);
	return 0;
}
