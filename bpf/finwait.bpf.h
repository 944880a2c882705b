/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * What finwait's BPF programs share: the few kernel types that they read, the helpers that they call, and the structs
 * that they hand to user space. Kernel types name only the members that are read; CO-RE (preserve_access_index) finds
 * their true offsets on the running kernel, so neither kernel headers nor vmlinux.h are needed to compile.
 *
 * Structs for user space are `finwait_*`; wire/bpf_layouts.py is generated from their BTF.
 */
#ifndef FINWAIT_BPF_H
#define FINWAIT_BPF_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef int __s32;
typedef long long __s64;

#define SEC(name) __attribute__((section(name), used))
#define GLOBAL __attribute__((noinline)) /* the verifier goes through it once, not at each call */
#define UNUSED __attribute__((unused))
#define KERNEL_TYPE __attribute__((preserve_access_index))
#define STATIC_ASSERT_SIZE(type, size) _Static_assert(sizeof(type) == (size), #type " has padding or has grown")
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

/* Which sources an object was compiled from: user space refuses one that is not its own. */
#ifndef FINWAIT_SOURCES
#define FINWAIT_SOURCES "unknown"
#endif
static const char finwait_sources[] SEC("finwait") = "finwait-sources:" FINWAIT_SOURCES;
static const char finwait_license[] SEC("license") = "Dual MIT/GPL";

/* -- kernel types: include/net/sock.h, include/net/inet_timewait_sock.h, include/linux/{tcp,sched,fs,cgroup}.h */

struct net;

struct in6_addr {
	__u32 words[4];
};

typedef struct {
	struct net *net;
} possible_net_t;

typedef struct {
	__s64 counter;
} atomic64_t;

struct ns_common {
	__u32 inum;
} KERNEL_TYPE;

struct hlist_nulls_node {
	struct hlist_nulls_node *next;
};

struct hlist_nulls_head {
	struct hlist_nulls_node *first;
};

struct inet_ehash_bucket {
	struct hlist_nulls_head chain;
} KERNEL_TYPE;

struct inet_hashinfo {
	struct inet_ehash_bucket *ehash;
	unsigned int ehash_mask;
} KERNEL_TYPE;

struct inet_timewait_death_row {
	struct inet_hashinfo *hashinfo;
} KERNEL_TYPE;

struct netns_ipv4 {
	struct inet_timewait_death_row tcp_death_row;
} KERNEL_TYPE;

struct net {
	struct ns_common ns;
	__u64 net_cookie;
	struct netns_ipv4 ipv4;
} KERNEL_TYPE;

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	atomic_t refs;
} refcount_t;

struct sock_common {
	__u32 skc_daddr;
	__u32 skc_rcv_saddr;
	unsigned int skc_hash;
	__u16 skc_dport; /* network order */
	__u16 skc_num; /* host order */
	unsigned short skc_family;
	volatile unsigned char skc_state;
	unsigned long skc_flags; /* by enum sock_flags */
	int skc_bound_dev_if;
	struct proto *skc_prot;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	atomic64_t skc_cookie;
	struct hlist_nulls_node skc_nulls_node;
	refcount_t skc_refcnt;
	struct sock *skc_listener; /* of a request socket */
} KERNEL_TYPE;

struct proto {
	char name[32];
} KERNEL_TYPE;

struct timer_list {
	unsigned long expires; /* in jiffies */
	void (*function)(struct timer_list *timer);
} KERNEL_TYPE;

struct kernfs_node {
	__u64 id;
} KERNEL_TYPE;

struct cgroup {
	struct kernfs_node *kn;
} KERNEL_TYPE;

struct sock_cgroup_data {
	struct cgroup *cgroup;
} KERNEL_TYPE;

struct super_block {
	unsigned long s_magic;
} KERNEL_TYPE;

struct inode {
	struct super_block *i_sb;
	unsigned long i_ino;
} KERNEL_TYPE;

typedef struct {
	atomic64_t refcnt;
} file_ref_t;

struct file {
	struct inode *f_inode;
	file_ref_t f_ref;
} KERNEL_TYPE;

struct file___before_6_13 {
	atomic64_t f_count;
} KERNEL_TYPE;

struct sock;

struct socket {
	struct file *file;
	struct sock *sk;
} KERNEL_TYPE;

/* net/socket.c keeps both in one object; SOCK_INODE() */
struct socket_alloc {
	struct socket socket;
	struct inode vfs_inode;
} KERNEL_TYPE;

typedef struct {
	__u32 val;
} kuid_t;

typedef struct {
	int owned; /* by a task, not by a processor for the time of a packet */
} KERNEL_TYPE socket_lock_t;

struct sock {
	struct sock_common __sk_common;
	socket_lock_t sk_lock;
	struct socket *sk_socket;
	kuid_t sk_uid;
	__u16 sk_type;
	__u16 sk_protocol;
	__u8 sk_shutdown;
	int sk_err;
	unsigned long sk_lingertime;
	__u32 sk_ack_backlog;
	__u32 sk_max_ack_backlog;
	struct sock_cgroup_data sk_cgrp_data;
} KERNEL_TYPE;

struct inet_sock {
	struct sock sk;
	__u16 inet_sport; /* network order */
} KERNEL_TYPE;

struct request_sock_queue {
	atomic_t qlen; /* half-open connections */
} KERNEL_TYPE;

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	struct request_sock_queue icsk_accept_queue;
	struct timer_list icsk_retransmit_timer;
} KERNEL_TYPE;

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u32 rcv_nxt;
	__u32 copied_seq;
	__u32 write_seq;
	__u32 snd_una;
	__u32 srtt_us; /* eighths of a microsecond */
	__u32 total_retrans;
	__u64 bytes_received;
	__u64 bytes_acked;
} KERNEL_TYPE;

struct inet_timewait_sock {
	struct sock_common __tw_common;
	volatile unsigned char tw_substate;
	__u16 tw_sport; /* network order */
	struct timer_list tw_timer;
} KERNEL_TYPE;

struct request_sock {
	struct sock_common __req_common;
	struct timer_list rsk_timer;
} KERNEL_TYPE;

struct inet_request_sock {
	struct request_sock req;
} KERNEL_TYPE;

struct tcp_request_sock {
	struct inet_request_sock req;
	__u64 snt_synack; /* CLOCK_MONOTONIC in us; 0 for a connection that came by a cookie */
} KERNEL_TYPE;

struct tcp_timewait_sock {
	struct inet_timewait_sock tw_sk;
} KERNEL_TYPE;

struct css_set {
	struct cgroup *dfl_cgrp;
} KERNEL_TYPE;

struct pid_namespace {
	struct ns_common ns;
} KERNEL_TYPE;

struct upid {
	int nr;
	struct pid_namespace *ns;
} KERNEL_TYPE;

struct pid {
	unsigned int level;
	struct upid numbers[1];
} KERNEL_TYPE;

struct task_struct {
	unsigned int flags;
	__s32 tgid;
	struct pid *thread_pid;
	struct task_struct *group_leader;
	struct css_set *cgroups;
	char comm[16];
} KERNEL_TYPE;

struct seq_file;
struct bpf_map;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
} KERNEL_TYPE;

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
} KERNEL_TYPE;

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
} KERNEL_TYPE;

enum {
	AF_INET = 2,
	AF_INET6 = 10,
	SOCK_STREAM = 1,
	IPPROTO_TCP = 6,
	IPPROTO_MPTCP = 262,
};

enum { /* include/net/tcp_states.h */
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT = 2,
	TCP_SYN_RECV = 3,
	TCP_FIN_WAIT1 = 4,
	TCP_FIN_WAIT2 = 5,
	TCP_TIME_WAIT = 6,
	TCP_CLOSE = 7,
	TCP_CLOSE_WAIT = 8,
	TCP_LAST_ACK = 9,
	TCP_LISTEN = 10,
	TCP_CLOSING = 11,
	TCP_NEW_SYN_RECV = 12,
};

enum {
	NSFS_MAGIC = 0x6e736673, /* include/uapi/linux/magic.h */
};

enum { /* include/uapi/linux/bpf.h */
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_F_NO_PREALLOC = 1,
	BPF_F_MMAPABLE = 1 << 10,
	BPF_RB_NO_WAKEUP = 1,
};

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static __u32 (*const bpf_get_smp_processor_id)(void) = (void *)8;
static __u64 (*const bpf_get_socket_cookie)(void *ctx) = (void *)46;
static long (*const bpf_probe_read_kernel)(void *dst, __u32 size, const void *from) = (void *)113;
static long (*const bpf_probe_read_kernel_str)(void *dst, __u32 size, const void *from) = (void *)115;
static __u64 (*const bpf_jiffies64)(void) = (void *)118;
static long (*const bpf_ringbuf_output)(void *ring, void *data, __u64 size, __u64 flags) = (void *)130;
static void *(*const bpf_ringbuf_reserve)(void *ring, __u64 size, __u64 flags) = (void *)131;
static void (*const bpf_ringbuf_submit)(void *record, __u64 flags) = (void *)132;
static struct task_struct *(*const bpf_get_current_task_btf)(void) = (void *)158;
static long (*const bpf_seq_write)(struct seq_file *m, const void *data, __u32 len) = (void *)127;
static struct tcp_sock *(*const bpf_skc_to_tcp_sock)(void *sk) = (void *)137;
static struct tcp_timewait_sock *(*const bpf_skc_to_tcp_timewait_sock)(void *sk) = (void *)138;
static struct tcp_request_sock *(*const bpf_skc_to_tcp_request_sock)(void *sk) = (void *)139;
static long (*const bpf_for_each_map_elem)(void *map, void *callback, void *context, __u64 flags) = (void *)164;
static struct socket *(*const bpf_sock_from_file)(struct file *file) = (void *)162;

/* -- what user space gets */

/* Why a socket has no owner, or that it has one; table/owners.py spells them. */
enum finwait_owner_kind {
	FINWAIT_PROCESS = 0,
	FINWAIT_NOT_ACCEPTED = 1,
	FINWAIT_TIME_WAIT = 2,
	FINWAIT_HALF_OPEN = 3,
	FINWAIT_ORPHAN = 4,
	FINWAIT_NO_DESCRIPTOR = 5,
};

/* One socket of iter/tcp. Addresses: IPv4 in the first four bytes, network order. */
struct finwait_connection {
	__u64 cookie;
	__u64 cgroup_id; /* 0 for mini-sockets */
	__u8 local_address[16];
	__u8 peer_address[16];
	__u32 bound_dev_if;
	__u32 uid;
	__u32 inode;
	__u32 rqueue;
	__u32 wqueue;
	__u16 local_port; /* host order */
	__u16 peer_port; /* host order */
	__u8 state;
	__u8 family;
	__u8 is_mini; /* request and timewait sockets */
	__u8 shutdown;
	__u32 zero;
};
STATIC_ASSERT_SIZE(struct finwait_connection, 80);

/* One descriptor of a TCP socket. */
struct finwait_descriptor {
	__u64 cookie;
	__u64 netns_cookie;
	__u64 cgroup_id;
	__u32 netns_inode;
	__u32 tgid;
	__u32 fd;
	__u32 inode;
	__u32 uid;
	__u8 state;
	__u8 family;
	__u8 shutdown;
	__u8 is_bound; /* has a local port, so that a dump with bit 13 shows it in state CLOSE */
};
STATIC_ASSERT_SIZE(struct finwait_descriptor, 48);

/* Addresses of a socket that is in no walk of iter/tcp; as in struct finwait_connection. */
struct finwait_endpoints {
	__u8 local_address[16];
	__u8 peer_address[16];
	__u16 local_port;
	__u16 peer_port;
	__u32 zero;
};
STATIC_ASSERT_SIZE(struct finwait_endpoints, 40);

/* A process that holds a TCP descriptor: value of the map `processes`, keyed by tgid. */
struct finwait_process {
	__u64 cgroup_id; /* cgroup v2 */
	char comm[16]; /* of the thread group's leader */
};
STATIC_ASSERT_SIZE(struct finwait_process, 24);

/* Key of the map `classes`: sockets that are counted together. */
struct finwait_class {
	__u64 netns_cookie;
	__u64 cgroup_id; /* of the socket's creator; 0 for mini-sockets */
	__u32 tgid; /* 0 where there is no owner */
	__u32 uid; /* of the socket, (u32)-1 for mini-sockets */
	__u8 owner_kind;
	__u8 zero[7];
};
STATIC_ASSERT_SIZE(struct finwait_class, 32);

enum finwait_limits {
	FINWAIT_CLASSES = 16384,
};

/* How many sockets of a class are in each state: AF_INET first, then AF_INET6. */
struct finwait_counts {
	__u64 by_state[32];
};
STATIC_ASSERT_SIZE(struct finwait_counts, 256);

/* A descriptor of a namespace's file. */
struct finwait_ns_file {
	__u32 tgid;
	__u32 fd;
	__u32 inode;
};
STATIC_ASSERT_SIZE(struct finwait_ns_file, 12);

enum finwait_reason {
	FINWAIT_SHARED = 1, /* several processes hold it */
	FINWAIT_NO_MARK = 2, /* it came after the first walk, or its file stands in no table of descriptors */
	FINWAIT_NO_FILE = 3, /* a socket of the kernel's own */
	FINWAIT_NO_ROOM = 4, /* no process has it, and `classes` was full */
};

/* One socket that the kernel could not count by itself. */
struct finwait_loose {
	struct finwait_class class; /* zero where it is shared: class_index tells the first owner's */
	__u32 class_index;
	__u32 inode;
	__u8 state;
	__u8 family;
	__u8 reason;
	__u8 zero[5];
};
STATIC_ASSERT_SIZE(struct finwait_loose, 48);

/* -- what programs share */

extern void *bpf_rdonly_cast(const void *object, __u32 type) __attribute__((section(".ksyms")));

enum { /* of __builtin_preserve_field_info and __builtin_btf_type_id */
	FIELD_OFFSET = 0,
	FIELD_EXISTS = 2,
	KERNELS_TYPE = 1,
};
#define OFFSET(type, field) __builtin_preserve_field_info(((type *)0)->field, FIELD_OFFSET)

/* Whether a struct of which only the address is known is read by loads (bpf_rdonly_cast, Linux 6.2); else by a call for each
 * member. Linux 5.14 and 5.15 refuse a program with a function that they do not know, even where it is never called, so that each
 * way has an object of its own. */
#ifndef CAN_CAST
#define CAN_CAST 0
#endif

/* A member of a struct of which only the address is known; zeros where it cannot be read. */
#define READ(pointer, field)                                                                                       \
	({                                                                                                         \
		typeof((pointer)->field) value;                                                                    \
		if (CAN_CAST)                                                                                      \
			value = ((typeof(*(pointer)) *)bpf_rdonly_cast(                                            \
					 (pointer), __builtin_btf_type_id(*(pointer), KERNELS_TYPE)))             \
					->field;                                                                   \
		else                                                                                               \
			bpf_probe_read_kernel((void *)&value, sizeof(value),                                       \
					      (void *)__builtin_preserve_access_index(&(pointer)->field));         \
		value;                                                                                             \
	})

/* What READ reads, as a number: the verifier knows of a pointer that it is one, and lets nobody look at its bits. */
struct timespec64 {
	__s64 tv_sec;
} KERNEL_TYPE;
#define READ_WORD(pointer, field)                                                                                  \
	({                                                                                                         \
		struct timespec64 *at = (void *)__builtin_preserve_access_index(&(pointer)->field);                \
		(__u64)READ(at, tv_sec);                                                                           \
	})

/* An address as a number, which can be calculated with. */
static inline __u64 number_of(const void *pointer)
{
	const void *volatile kept = pointer;
	struct timespec64 *at = (void *)&kept;

	return READ(at, tv_sec);
}

static inline __u16 swap16(__u16 port)
{
	return __builtin_bswap16(port);
}

/* The state as sock_diag tells it: orphans in FIN_WAIT2 are timewait sockets with that substate, half-open connections
 * are SYN_RECV. */
static inline __u8 state_of(struct sock_common *sk)
{
	struct tcp_timewait_sock *tw;

	if (sk->skc_state == TCP_NEW_SYN_RECV)
		return TCP_SYN_RECV;
	if (sk->skc_state != TCP_TIME_WAIT)
		return sk->skc_state;
	tw = bpf_skc_to_tcp_timewait_sock(sk);
	return tw ? tw->tw_sk.tw_substate : TCP_TIME_WAIT;
}

/* The socket's cookie, which it gets where nobody has asked for it yet. */
static inline __u64 cookie_of(struct sock_common *sk)
{
	__u64 known = sk->skc_cookie.counter;

	return known ? known : bpf_get_socket_cookie(sk);
}

static inline __u64 cgroup_id_of(struct sock *sk)
{
	struct cgroup *cgroup = sk->sk_cgrp_data.cgroup;

	return cgroup ? cgroup->kn->id : 0;
}

/* Inode number of the descriptor's file, SOCK_INODE(); 0 for a socket that no program has. */
static inline __u32 inode_of(struct sock *sk)
{
	struct socket_alloc *alloc = (struct socket_alloc *)sk->sk_socket; /* its first member */
	unsigned long number = 0;

	if (!alloc)
		return 0;
	bpf_probe_read_kernel(&number, sizeof(number), __builtin_preserve_access_index(&alloc->vfs_inode.i_ino));
	return number;
}

/* Whether `sk` speaks TCP, plain or as MPTCP, which has its own protocol number; SMC has its own family. */
static inline int is_tcp(struct sock *sk)
{
	__u16 family = sk->__sk_common.skc_family, protocol = sk->sk_protocol;

	return (family == AF_INET || family == AF_INET6) && sk->sk_type == SOCK_STREAM &&
	       (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP);
}

/* Its TCP connections are other sockets, which no file has: they share its inode. */
static inline int is_mptcp(struct sock *sk)
{
	return sk->sk_protocol == IPPROTO_MPTCP;
}

/* Process id of `task` as the reader of the iterator counts it: in the reader's own pid namespace, whose tasks are all that
 * the kernel visits (kernel/bpf/task_iter.c). */
static inline __u32 tgid_of(struct task_struct *task)
{
	__u32 level = bpf_get_current_task_btf()->thread_pid->level;
	volatile int nr = task->tgid; /* volatile: the verifier wants each load to have one kind of pointer */
	struct pid *pid;

	if (level) {
		pid = task->group_leader->thread_pid;
		bpf_probe_read_kernel((void *)&nr, sizeof(nr),
				      (void *)__builtin_preserve_access_index(&pid->numbers) +
					      level * __builtin_preserve_type_info(*(struct upid *)0, 1) +
					      __builtin_preserve_field_info(((struct upid *)0)->nr, 0));
	}
	return nr;
}

/* local, peer: of 16 bytes, zeros before; IPv4 in the first four. */
static inline void copy_addresses(__u8 *local, __u8 *peer, struct sock_common *skc)
{
	if (skc->skc_family == AF_INET6) {
		struct in6_addr from = skc->skc_v6_rcv_saddr, to = skc->skc_v6_daddr;

		__builtin_memcpy(local, &from, 16);
		__builtin_memcpy(peer, &to, 16);
	} else {
		__u32 from = skc->skc_rcv_saddr, to = skc->skc_daddr;

		__builtin_memcpy(local, &from, 4);
		__builtin_memcpy(peer, &to, 4);
	}
}

/* The TCP or MPTCP socket behind `file`, NULL where there is none. */
static inline struct sock *tcp_from_file(struct file *file)
{
	struct socket *socket = bpf_sock_from_file(file);
	struct sock *sk = socket ? socket->sk : 0;

	return sk && is_tcp(sk) ? sk : 0;
}

/* tgid: whose descriptor it is said to be; the number of the descriptor is that of the visit. */
static inline void write_descriptor(struct bpf_iter__task_file *ctx, struct sock *sk, __u32 tgid)
{
	struct finwait_descriptor row = {};
	struct net *net = sk->__sk_common.skc_net.net;

	row.cookie = bpf_get_socket_cookie(sk);
	row.netns_cookie = net->net_cookie;
	row.cgroup_id = cgroup_id_of(sk);
	row.netns_inode = net->ns.inum;
	row.tgid = tgid;
	row.fd = ctx->fd;
	row.inode = inode_of(sk);
	row.uid = sk->sk_uid.val;
	row.state = sk->__sk_common.skc_state;
	row.family = sk->__sk_common.skc_family;
	row.shutdown = sk->sk_shutdown;
	row.is_bound = sk->__sk_common.skc_num != 0;
	bpf_seq_write(ctx->meta->seq, &row, sizeof(row));
}

#endif
