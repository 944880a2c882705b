/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Who has a socket: whoever changes its state by a call, sends or receives. The task that runs when a segment arrives is nobody.
 */
#ifndef FINWAIT_OWNERS_BPF_H
#define FINWAIT_OWNERS_BPF_H

#include "slots.bpf.h"

enum {
	PF_KTHREAD = 0x00200000, /* include/linux/sched.h */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32); /* tgid */
	__type(value, struct finwait_name);
} names SEC(".maps");

static __u32 reader_level; /* of the pid namespace in which processes are counted */
static __u32 reader_pid_ns; /* its inode number */

/* What was written to `names` last, and when: it is written every 256 ticks, so that it stays there, and when it changes. */
struct written {
	__u64 words[2]; /* of the name */
	__u32 tgid;
	__u32 moment;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024); /* a power of two */
	__type(key, __u32);
	__type(value, struct written);
} written_names SEC(".maps");

static inline void remember_name(__u32 tgid, struct task_struct *task)
{
	struct task_struct *leader = task->group_leader;
	struct written now = {.tgid = tgid, .moment = bpf_jiffies64() >> 8}, *last;
	__u32 number = tgid & 1023;

	now.words[0] = READ_WORD(leader, comm[0]);
	now.words[1] = READ_WORD(leader, comm[8]);
	last = bpf_map_lookup_elem(&written_names, &number);
	if (last && last->tgid == tgid && last->moment == now.moment && last->words[0] == now.words[0] &&
	    last->words[1] == now.words[1])
		return;
	bpf_map_update_elem(&names, &tgid, &now.words, BPF_ANY);
	if (last)
		*last = now;
}

/* Run by user space: processes are counted in its own pid namespace, not in the host's. */
SEC("syscall")
int learn_reader(void *context UNUSED)
{
	struct pid *pid = bpf_get_current_task_btf()->thread_pid;
	struct pid_namespace *space;
	struct upid *number;

	reader_level = READ(pid, level);
	number = (void *)__builtin_preserve_access_index(&pid->numbers) +
		 reader_level * __builtin_preserve_type_info(*(struct upid *)0, 1);
	space = READ(number, ns);
	reader_pid_ns = READ(space, ns.inum);
	return 0;
}

/* The process that runs, as the reader counts processes; 0 where it is none of the reader's, or no program. */
static inline __u32 running_tgid(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct pid_namespace *space;
	struct upid *number;
	struct pid *pid;
	__u32 tgid = task->tgid;

	if (task->flags & PF_KTHREAD)
		return 0;
	if (reader_level) {
		pid = task->group_leader->thread_pid;
		number = (void *)__builtin_preserve_access_index(&pid->numbers) +
			 reader_level * __builtin_preserve_type_info(*(struct upid *)0, 1);
		space = READ(number, ns);
		if (pid->level < reader_level || READ(space, ns.inum) != reader_pid_ns)
			return 0;
		tgid = READ(number, nr);
	}
	remember_name(tgid, task);
	return tgid;
}

/* Only calls of a program that has the socket lead there, and hold it meanwhile; all else may happen on any processor, in any
 * task's time. So may the FIN of a shutdown() that came before the handshake was complete (Linux 6.10). */
static inline int is_call(struct sock *sk, __u8 from, __u8 to)
{
	if (!sk->sk_lock.owned)
		return 0;
	return to == TCP_SYN_SENT || to == TCP_LISTEN || to == TCP_FIN_WAIT1 || (from == TCP_CLOSE_WAIT && to == TCP_LAST_ACK);
}

/* -- owners of connections that were accepted: whoever sends or receives has the socket */

static inline void own(struct sock *sk)
{
	__u64 address = number_of(sk);
	struct finwait_life *life = find_life(address);
	__u32 tgid;

	if (!life || life->tgid)
		return;
	tgid = running_tgid();
	life = find_life(address); /* nothing holds the socket: it may have ended, and another's life stand there */
	if (life && !life->tgid)
		life->tgid = tgid;
}

SEC("tp_btf/sock_send_length")
int on_sock_send_length(__u64 *ctx)
{
	own((struct sock *)ctx[0]);
	return 0;
}

SEC("tp_btf/sock_recv_length")
int on_sock_recv_length(__u64 *ctx)
{
	own((struct sock *)ctx[0]);
	return 0;
}

#endif
