// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Writes one struct finwait_ns_file for each descriptor of a namespace's file: it may be all that keeps a network namespace
 * alive. Which kind of namespace it is, its link in /proc tells.
 */
#include "finwait.bpf.h"

SEC("iter/task_file")
int list_ns_files(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct finwait_ns_file row = {};

	if (!task || !file || file->f_inode->i_sb->s_magic != NSFS_MAGIC)
		return 0;
	row.tgid = tgid_of(task);
	row.fd = ctx->fd;
	row.inode = file->f_inode->i_ino;
	bpf_seq_write(ctx->meta->seq, &row, sizeof(row));
	return 0;
}
