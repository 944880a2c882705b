// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Counts the TCP sockets of a network namespace by family and state; nothing is written to user space. */
#include "finwait.bpf.h"

__u64 counts[2][16]; /* [0: AF_INET, 1: AF_INET6][state] */

SEC("iter/tcp")
int count_tcp(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;

	if (sk)
		counts[sk->skc_family == AF_INET6][state_of(sk) & 15] += 1;
	return 0;
}
