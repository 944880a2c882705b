// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* First walk of a count by owner: marks each TCP socket with the process that holds it; count_owners then counts.
 *
 * Written out, one struct finwait_descriptor each, is what one mark cannot hold: every descriptor of a socket that a
 * second process holds too; those in state CLOSE, which iter/tcp does not visit; and when run again (`only_new`) those of
 * sockets that had no mark yet.
 */
#include "marks.bpf.h"
#include "processes.bpf.h"

__u32 only_new;
__u64 unmarked; /* descriptors whose socket could not be marked for want of memory */

SEC("iter/task_file")
int mark_owners(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct finwait_mark *mark;
	struct sock *sk;
	__u32 tgid;

	if (!task || !file)
		return 0;
	sk = tcp_from_file(file);
	if (!sk)
		return 0;
	remember_process(task);
	tgid = tgid_of(task);
	if (sk->__sk_common.skc_state == TCP_CLOSE) {
		if (!only_new)
			write_descriptor(ctx, sk, tgid);
		return 0;
	}
	mark = bpf_sk_storage_get(&marks, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!mark) {
		unmarked += 1;
		return 0;
	}
	if (!mark->tgid) {
		mark->tgid = tgid;
		mark->is_new = only_new;
	} else if (mark->tgid != tgid && !mark->is_shared) {
		mark->is_shared = 1;
		if (!mark->is_new)
			write_descriptor(ctx, sk, mark->tgid);
	}
	if (mark->is_new || mark->is_shared)
		write_descriptor(ctx, sk, tgid);
	return 0;
}
