/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * The processes that hold TCP descriptors, for the programs that walk iter/task_file.
 */
#ifndef FINWAIT_PROCESSES_BPF_H
#define FINWAIT_PROCESSES_BPF_H

#include "finwait.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536); /* the kernel makes as many buckets; /proc tells of any more */
	__type(key, __u32); /* tgid */
	__type(value, struct finwait_process);
} processes SEC(".maps");

__u32 last_tgid; /* descriptors of a process follow one another */

static inline void remember_process(struct task_struct *task)
{
	struct finwait_process process = {};
	__u32 tgid = tgid_of(task);

	if (tgid == last_tgid)
		return;
	last_tgid = tgid;
	process.cgroup_id = task->cgroups->dfl_cgrp->kn->id;
	bpf_probe_read_kernel_str(process.comm, sizeof(process.comm), task->group_leader->comm);
	bpf_map_update_elem(&processes, &tgid, &process, BPF_ANY);
}

#endif
