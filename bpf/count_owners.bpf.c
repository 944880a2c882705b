// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Counts TCP sockets by owner in two walks. mark_owners visits all descriptors and leaves on each socket a mark that names its
 * class: process, user, cgroup, namespace. count_owners visits the sockets of one network namespace and counts classes by
 * state. So each socket is counted at one moment, whatever happens to it between the walks.
 *
 * Both are in one object because they share its maps, and because libbpf reads the kernel's types once an object (10 ms).
 */
#include "processes.bpf.h"

enum {
	PROBES = 16,
};

struct finwait_mark {
	__u64 cookie; /* 0: free */
	__u32 class_index; /* into `counts`; 0 where its class found no room */
	__u8 is_shared; /* another process holds the socket too */
	__u8 is_new; /* made in the second run */
	__u8 zero[2];
};

/* A hash table with linear probing, by cookie: a third of the time and of the memory that storage of each socket takes. User
 * space makes it large enough for the sockets that there are, with a power of two of slots. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct finwait_mark);
} marks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, FINWAIT_CLASSES);
	__type(key, struct finwait_class);
	__type(value, __u32);
} classes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FINWAIT_CLASSES);
	__type(key, __u32);
	__type(value, struct finwait_counts);
} counts SEC(".maps");

__u32 only_new SEC(".data"); /* mark_owners: write the descriptors of sockets that had no mark */
__u32 only_unmarked SEC(".data"); /* count_owners: write the sockets that a program has and that bear no mark; count nothing */
__u32 slot_bits SEC(".data"); /* binary logarithm of the slots of `marks` */
__u32 class_total; /* classes that have an index; 0 is for those that found no room */
static struct finwait_class last_class;
static __u32 last_index;

/* The slot of the mark of the socket `cookie`, where `make` is set a new one; negative where it has none, or there is no room near
 * its place. A global function: the verifier looks at it once, not at each call. */
int slot_of(__u64 cookie, int make)
{
	__u64 place = cookie * 0x9e3779b97f4a7c15ULL >> (64 - (slot_bits & 31));
	struct finwait_mark *mark;
	__u32 slot;
	int step;

	for (step = 0; step < PROBES; step++) {
		slot = (place + step) & ((1U << (slot_bits & 31)) - 1);
		mark = bpf_map_lookup_elem(&marks, &slot);
		if (!mark)
			return -1;
		if (mark->cookie == cookie)
			return slot;
		if (!mark->cookie) {
			if (!make)
				return -1;
			mark->cookie = cookie;
			return slot;
		}
	}
	return -1;
}

static inline struct finwait_mark *mark_of(__u64 cookie, int make)
{
	int slot = slot_of(cookie, make);

	return slot < 0 ? 0 : bpf_map_lookup_elem(&marks, &slot);
}

static inline int is_last_class(struct finwait_class *class)
{
	return last_index && class->netns_cookie == last_class.netns_cookie && class->cgroup_id == last_class.cgroup_id &&
	       class->tgid == last_class.tgid && class->uid == last_class.uid && class->owner_kind == last_class.owner_kind;
}

/* The index of `class`, a new one for a new class; 0 where there is no room. Sockets of a class often follow one another. */
static inline __u32 index_of(struct finwait_class *class)
{
	__u32 *known, index;

	if (is_last_class(class))
		return last_index;
	known = bpf_map_lookup_elem(&classes, class);
	if (known) {
		index = *known;
	} else {
		index = class_total + 1;
		if (index >= FINWAIT_CLASSES || bpf_map_update_elem(&classes, class, &index, BPF_ANY))
			return 0;
		class_total = index;
	}
	last_class = *class;
	last_index = index;
	return index;
}

static inline void describe_class(struct finwait_class *class, struct sock *sk)
{
	class->netns_cookie = sk->__sk_common.skc_net.net->net_cookie;
	class->cgroup_id = cgroup_id_of(sk);
	class->uid = sk->sk_uid.val;
}

/* Written out, one struct finwait_descriptor each, is what one mark cannot hold: every descriptor of a socket that a second
 * process holds too; those in state CLOSE, which iter/tcp does not visit; those of MPTCP; and when run again (`only_new`) those of sockets
 * that had no mark yet. */
SEC("iter/task_file")
int mark_owners(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct finwait_class class = {};
	struct finwait_mark *mark;
	struct sock *sk;
	__u32 index;

	if (!task || !file)
		return 0;
	sk = tcp_from_file(file);
	if (!sk)
		return 0;
	remember_process(task);
	if (is_mptcp(sk) || sk->__sk_common.skc_state == TCP_CLOSE) {
		if (!only_new && !(is_mptcp(sk) && sk->__sk_common.skc_state == TCP_CLOSE))
			write_descriptor(ctx, sk, tgid_of(task));
		return 0;
	}
	describe_class(&class, sk);
	class.tgid = tgid_of(task);
	mark = mark_of(cookie_of(&sk->__sk_common), 1);
	if (!mark) { /* user space joins it by its inode */
		write_descriptor(ctx, sk, class.tgid);
		return 0;
	}
	index = index_of(&class);
	if (!mark->class_index) {
		mark->class_index = index;
		mark->is_new = only_new;
		mark->is_shared |= !index; /* its class found no room: a matter for user space, as if it were shared */
	} else if (mark->class_index != index) {
		mark->is_shared = 1;
	}
	if (mark->is_new || mark->is_shared)
		write_descriptor(ctx, sk, class.tgid);
	return 0;
}

static inline void write_loose(struct bpf_iter__tcp *ctx, struct sock_common *skc, struct finwait_class *class, __u8 state,
			       __u8 reason, __u32 index, __u32 inode)
{
	struct finwait_loose row = {};

	row.class = *class;
	row.state = state;
	row.family = skc->skc_family;
	row.reason = reason;
	row.class_index = index;
	row.inode = inode;
	bpf_seq_write(ctx->meta->seq, &row, sizeof(row));
}

static inline int add_one(__u32 index, __u8 family, __u8 state)
{
	struct finwait_counts *found = bpf_map_lookup_elem(&counts, &index);

	if (!index || !found)
		return 0;
	found->by_state[(family == AF_INET6) * 16 + (state & 15)] += 1;
	return 1;
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

static inline void count_mini(struct bpf_iter__tcp *ctx, struct sock_common *skc, __u8 state)
{
	struct finwait_class class = {};

	class.netns_cookie = skc->skc_net.net->net_cookie;
	class.uid = -1;
	class.owner_kind = kind_of_mini(skc->skc_state, state);
	if (!add_one(index_of(&class), skc->skc_family, state))
		write_loose(ctx, skc, &class, state, FINWAIT_NO_ROOM, 0, 0);
}

static inline void count_unmarked(struct bpf_iter__tcp *ctx, struct sock_common *skc)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(skc);
	struct finwait_class class = {};
	struct sock *sk;

	if (!tp)
		return;
	sk = &tp->inet_conn.icsk_inet.sk;
	describe_class(&class, sk);
	if (sk->sk_socket) {
		class.owner_kind = FINWAIT_NO_DESCRIPTOR;
		write_loose(ctx, skc, &class, skc->skc_state, sk->sk_socket->file ? FINWAIT_NO_MARK : FINWAIT_NO_FILE, 0, inode_of(sk));
		return;
	}
	class.owner_kind = kind_of_unheld(skc->skc_state);
	if (!only_unmarked && !add_one(index_of(&class), skc->skc_family, skc->skc_state))
		write_loose(ctx, skc, &class, skc->skc_state, FINWAIT_NO_ROOM, 0, 0);
}

/* Written out, one struct finwait_loose each: sockets of several processes; those that a program has and that bear no mark,
 * because they came after the first walk or have no descriptor; those whose class found no room. */
SEC("iter/tcp")
int count_owners(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;
	struct finwait_class none = {};
	struct finwait_mark *mark;
	struct tcp_sock *tp;

	if (!skc)
		return 0;
	if (skc->skc_state == TCP_TIME_WAIT || skc->skc_state == TCP_NEW_SYN_RECV) {
		if (!only_unmarked)
			count_mini(ctx, skc, state_of(skc));
		return 0;
	}
	mark = mark_of(cookie_of(skc), 0);
	if (!mark) {
		count_unmarked(ctx, skc);
	} else if (!only_unmarked) {
		if (mark->is_shared || !add_one(mark->class_index, skc->skc_family, skc->skc_state)) {
			tp = bpf_skc_to_tcp_sock(skc);
			write_loose(ctx, skc, &none, skc->skc_state, FINWAIT_SHARED, mark->class_index,
				    tp ? inode_of(&tp->inet_conn.icsk_inet.sk) : 0);
		}
	}
	return 0;
}
