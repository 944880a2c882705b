// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Tells every change of state of TCP connections, those of mini-sockets too.
 *
 * Full sockets are told by the tracepoint inet_sock_set_state. Mini-sockets have no tracepoint of their own, but each has a timer
 * that lives as long as it does: timer_start is the birth of a request socket (SYN_RECV) and of a timewait socket (TIME_WAIT, or
 * FIN_WAIT2 without a program), timer_cancel or timer_expire its end, and a timer that is set anew shows a FIN_WAIT2 that
 * became TIME_WAIT. net/ipv4/inet_connection_sock.c, net/ipv4/inet_timewait_sock.c, kernel/time/timer.c.
 *
 * Which timers are theirs is learned from the first one of each kind: by its function.
 */
#include "changes.bpf.h"

enum {
	PF_KTHREAD = 0x00200000,
	E2BIG = 7,
};

enum sock_flags { /* include/net/sock.h; CO-RE finds the kernel's values */
	SOCK_LINGER = 4,
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 23);
} changes SEC(".maps");

/* By address, from a socket's first change to its last; user space makes it large enough for the sockets that there are.
 * Storage of each socket would do without a limit, and costs three times as much. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 16);
	__type(key, __u64);
	__type(value, struct finwait_life);
} lives SEC(".maps");

/* Timewait sockets of which their own memory does not tell enough: those in FIN_WAIT2, and those whose timer was set anew. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 16);
	__type(key, __u64); /* cookie */
	__type(value, struct finwait_mini);
} minis SEC(".maps");

/* Timewait sockets whose connection was not CLOSED yet when the next one on its processor was made. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64); /* cookie */
	__type(value, __u8); /* state */
} unclaimed SEC(".maps");

struct finwait_name {
	char comm[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32); /* tgid */
	__type(value, struct finwait_name);
} names SEC(".maps");

/* What one call of the kernel tells in two tracepoints. The second finds here what the first has left. */
struct slot {
	__u64 time_wait; /* cookie of the timewait socket that was just made */
	__u64 time_wait_state;
	__u64 cloned; /* address of the socket that a completed handshake has made */
	__u64 request_since_ns; /* of its request socket; 0: there was none */
	__u64 connecting; /* address of the socket in connect() that has no port yet */
	struct finwait_change connect; /* what is to be told of it then */
	__u64 cancelled; /* address of the timer that was deleted, or will be set anew */
	struct finwait_mini mini; /* of that timer */
	__u64 running; /* address of the timer whose function runs */
	struct finwait_change run; /* what is to be told if it is not set anew */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FINWAIT_CPUS);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

/* What is wanted. */
__u64 wanted_netns[FINWAIT_MOST_NETNS] SEC(".data"); /* cookies; none: all */
__u64 least_ns SEC(".data"); /* in the state that is left */
__u32 wanted_states SEC(".data"); /* bit n: state n is left or reached */
__u32 local_ports[2] SEC(".data"); /* first and last */
__u32 peer_ports[2] SEC(".data");
__u8 wanted_family SEC(".data"); /* 0: any */
__u32 reader_level SEC(".data"); /* of the pid namespace in which processes are counted */
__u32 reader_pid_ns SEC(".data"); /* its inode number */
__u64 time_wait_ns SEC(".data"); /* TCP_TIMEWAIT_LEN */
__u32 cpus SEC(".data"); /* slots that are in use */

/* What was lost. */
__u64 lost_changes; /* the ring was full */
__u64 lost_lives; /* no room in `lives`: the next change of a socket is told without its time */
__u64 lost_minis; /* no room in `minis`: a change from FIN_WAIT2 to TIME_WAIT will not be told */

static __u64 jiffy_ns; /* the kernel's tick; 0: not known yet */
static __u64 time_wait_function, request_function; /* of their timers; 0: not known yet */

/* A member of a struct of which only the address is known; zeros where it cannot be read. */
#define READ(pointer, field)                                                                     \
	({                                                                                       \
		typeof((pointer)->field) value;                                                  \
		bpf_probe_read_kernel((void *)&value, sizeof(value),                             \
				      (void *)__builtin_preserve_access_index(&(pointer)->field)); \
		value;                                                                           \
	})
enum { /* of __builtin_preserve_field_info */
	FIELD_OFFSET = 0,
	FIELD_BYTES = 1,
	FIELD_EXISTS = 2,
	FIELD_LEFT = 4,
	FIELD_RIGHT = 5,
};
#define OFFSET(type, field) __builtin_preserve_field_info(((type *)0)->field, FIELD_OFFSET)

static inline struct slot *own_slot(void)
{
	__u32 cpu = bpf_get_smp_processor_id() % FINWAIT_CPUS;

	return bpf_map_lookup_elem(&slots, &cpu);
}

/* -- what is told */

static inline int is_wanted_netns(__u64 cookie)
{
	int index;

	if (!wanted_netns[0])
		return 1;
	for (index = 0; index < FINWAIT_MOST_NETNS; index++)
		if (wanted_netns[index] == cookie)
			return 1;
	return 0;
}

static inline int is_wanted(struct finwait_change *change)
{
	if (!((wanted_states >> (change->from & 15) | wanted_states >> (change->to & 15)) & 1))
		return 0;
	if (change->local_port < local_ports[0] || change->local_port > local_ports[1])
		return 0;
	if (change->peer_port < peer_ports[0] || change->peer_port > peer_ports[1])
		return 0;
	return !least_ns || (change->since_ns && change->at_ns - change->since_ns >= least_ns);
}

static void tell(struct finwait_change *change)
{
	if (!is_wanted(change) && !(change->hints & FINWAIT_BACK))
		return;
	if (bpf_ringbuf_output(&changes, change, sizeof(*change), BPF_RB_NO_WAKEUP))
		__sync_fetch_and_add(&lost_changes, 1);
}

/* -- full sockets */

static inline struct finwait_life *find_life(struct sock *sk)
{
	__u64 key = (__u64)sk;

	return bpf_map_lookup_elem(&lives, &key);
}

static inline void remember_name(__u32 tgid, struct task_struct *task)
{
	union {
		struct finwait_name name;
		__u64 words[2];
	} now = {}, *known = bpf_map_lookup_elem(&names, &tgid);

	bpf_probe_read_kernel_str(now.name.comm, sizeof(now.name.comm), task->group_leader->comm);
	if (!known || known->words[0] != now.words[0] || known->words[1] != now.words[1])
		bpf_map_update_elem(&names, &tgid, &now, BPF_ANY);
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

/* Only calls of a program that has the socket lead there; all else may happen on any processor, in any task's time. */
static inline int is_call(__u8 from, __u8 to)
{
	return to == TCP_SYN_SENT || to == TCP_LISTEN || to == TCP_FIN_WAIT1 || (from == TCP_CLOSE_WAIT && to == TCP_LAST_ACK);
}

static inline void copy_full_addresses(struct finwait_change *change, struct sock *sk)
{
	struct sock_common *skc = &sk->__sk_common;

	change->family = skc->skc_family;
	change->peer_port = swap16(skc->skc_dport);
	if (change->family == AF_INET6) {
		struct in6_addr local = skc->skc_v6_rcv_saddr, peer = skc->skc_v6_daddr;

		__builtin_memcpy(change->local_address, &local, 16);
		__builtin_memcpy(change->peer_address, &peer, 16);
	} else {
		__u32 local = skc->skc_rcv_saddr, peer = skc->skc_daddr;

		__builtin_memcpy(change->local_address, &local, 4);
		__builtin_memcpy(change->peer_address, &peer, 4);
	}
}

/* Whether nothing refers to the file any more: close() of the last descriptor, or exit, is what happens. */
static inline int is_released(struct sock *sk)
{
	struct socket *socket = sk->sk_socket;
	struct file *file = socket ? socket->file : 0;

	if (!file)
		return 1;
	if (__builtin_preserve_field_info(file->f_ref, FIELD_EXISTS))
		return file->f_ref.refcnt.counter < 0;
	return ((struct file___before_6_13 *)file)->f_count.counter <= 0;
}

static inline int is_fast_open(struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	__u64 word = 0;

	if (!tp || !__builtin_preserve_field_info(tp->syn_fastopen_child, FIELD_EXISTS))
		return 0;
	bpf_probe_read_kernel(&word, __builtin_preserve_field_info(tp->syn_fastopen_child, FIELD_BYTES),
			      (void *)tp + __builtin_preserve_field_info(tp->syn_fastopen_child, FIELD_OFFSET));
	return word << __builtin_preserve_field_info(tp->syn_fastopen_child, FIELD_LEFT) >>
	       __builtin_preserve_field_info(tp->syn_fastopen_child, FIELD_RIGHT);
}

static inline int is_linger_0(struct sock *sk)
{
	return sk->__sk_common.skc_flags >> __builtin_preserve_enum_value(*(typeof(enum sock_flags) *)SOCK_LINGER, 1) & 1 &&
	       !sk->sk_lingertime;
}

static inline void describe(struct finwait_change *change, struct sock *sk, struct finwait_life *life)
{
	struct tcp_sock *tp;

	copy_full_addresses(change, sk);
	change->cookie = bpf_get_socket_cookie(sk);
	change->tgid = life->tgid;
	change->error = sk->sk_err;
	change->shutdown = sk->sk_shutdown;
	change->hints |= life->hints;
	/* what else tells why: of changes that can have several causes */
	if (change->to == TCP_FIN_WAIT1 || change->to == TCP_LAST_ACK || change->to == TCP_CLOSE) {
		if (!sk->sk_socket)
			change->hints |= FINWAIT_NO_PROGRAM;
		else if (is_released(sk))
			change->hints |= FINWAIT_RELEASED;
		if (change->to == TCP_CLOSE && is_linger_0(sk))
			change->hints |= FINWAIT_LINGER_0;
	}
	change->local_port = sk->__sk_common.skc_num;
	if (!change->local_port) { /* a socket that is closed has given it back */
		tp = bpf_skc_to_tcp_sock(sk);
		if (tp)
			change->local_port = swap16(tp->inet_conn.icsk_inet.inet_sport);
	}
}

/* A completed handshake has made the socket `sk`; its addresses and its cookie come later. */
static inline void begin_clone(struct sock *sk, struct finwait_life *life)
{
	struct slot *slot = own_slot();

	life->tgid = 0;
	life->hints = FINWAIT_BY_COOKIE; /* until its request socket is seen to go */
	life->cpu = bpf_get_smp_processor_id() % FINWAIT_CPUS;
	if (slot) {
		slot->cloned = (__u64)sk;
		slot->request_since_ns = 0;
	}
}

/* Tells when a connection that leaves SYN_RECV came there: with its request socket, else now for the first time. */
static inline void end_clone(struct finwait_change *change, struct sock *sk, struct finwait_life *life)
{
	struct finwait_change birth = *change;
	__u32 cpu = life->cpu;
	struct slot *slot = bpf_map_lookup_elem(&slots, &cpu);

	life->hints &= ~FINWAIT_BY_COOKIE;
	change->hints &= ~FINWAIT_BY_COOKIE;
	if (!slot || slot->cloned != (__u64)sk) {
		change->since_ns = 0; /* another handshake came between */
		return;
	}
	slot->cloned = 0;
	if (slot->request_since_ns) {
		change->since_ns = slot->request_since_ns;
		return;
	}
	if (!is_fast_open(sk)) { /* the kernel had kept nothing of it */
		change->from = TCP_LISTEN;
		change->since_ns = 0;
		change->hints |= FINWAIT_BY_COOKIE;
		return;
	}
	birth.at_ns = life->since_ns;
	birth.since_ns = 0;
	birth.from = TCP_LISTEN;
	birth.to = TCP_SYN_RECV;
	birth.error = 0;
	birth.hints = FINWAIT_FAST_OPEN;
	tell(&birth);
}

static inline __u8 claim(struct slot *slot, __u64 cookie)
{
	if (!slot || slot->time_wait != cookie)
		return 0;
	slot->time_wait = 0;
	return slot->time_wait_state;
}

/* The same where another one was made on that processor since, or the task went on elsewhere. */
static __u8 claim_elsewhere(__u64 cookie)
{
	__u8 *state = bpf_map_lookup_elem(&unclaimed, &cookie), found;
	__u32 index, cpu;

	if (state) {
		found = *state;
		bpf_map_delete_elem(&unclaimed, &cookie);
		return found;
	}
	for (index = 0; index < FINWAIT_CPUS && index < cpus; index++) {
		cpu = index;
		found = claim(bpf_map_lookup_elem(&slots, &cpu), cookie);
		if (found)
			return found;
	}
	return TCP_CLOSE;
}

/* A connection that is CLOSED for its program may go on as a timewait socket, which is made before that. Returns the state. */
static inline __u8 state_of_remainder(struct finwait_change *change)
{
	__u8 state = claim(own_slot(), change->cookie);
	struct finwait_mini mini = {};

	if (!state)
		state = claim_elsewhere(change->cookie);
	if (state == TCP_FIN_WAIT2) { /* as before, without a program */
		mini.state = state;
		mini.since_ns = change->since_ns;
		mini.tgid = change->tgid;
		if (bpf_map_update_elem(&minis, &change->cookie, &mini, BPF_ANY))
			__sync_fetch_and_add(&lost_minis, 1);
	}
	return state;
}

/* connect() goes to SYN_SENT before it has a port. It is told when the timer of the SYN starts, or with the next change. */
static inline int is_put_off(struct finwait_change *change, struct sock *sk)
{
	struct slot *slot;

	if (change->to != TCP_SYN_SENT || change->local_port)
		return 0;
	slot = own_slot();
	if (!slot)
		return 0;
	if (slot->connecting)
		tell(&slot->connect); /* it was interrupted and went on elsewhere */
	slot->connect = *change;
	slot->connecting = (__u64)sk;
	return 1;
}

static inline void tell_put_off(struct finwait_life *life, struct sock *sk, __u16 local_port)
{
	__u32 cpu = life->cpu;
	struct slot *slot = bpf_map_lookup_elem(&slots, &cpu);

	if (!slot || slot->connecting != (__u64)sk)
		return;
	slot->connecting = 0;
	slot->connect.local_port = local_port;
	tell(&slot->connect);
}

static inline void keep_life(struct sock *sk, struct finwait_life *life, struct finwait_life *known)
{
	__u64 key = (__u64)sk;

	if (life->state == TCP_CLOSE) {
		if (known)
			bpf_map_delete_elem(&lives, &key);
	} else if (known) {
		*known = *life;
	} else if (bpf_map_update_elem(&lives, &key, life, BPF_ANY)) {
		__sync_fetch_and_add(&lost_lives, 1);
	}
}

/* An event between the last one and this one was missed. */
static void tell_missed(struct finwait_change *change, struct finwait_life *life)
{
	struct finwait_change missed = *change;

	missed.from = life->state;
	missed.to = change->from;
	missed.since_ns = life->since_ns;
	missed.evidence = FINWAIT_INFERRED;
	missed.error = 0;
	missed.hints = 0;
	tell(&missed);
}

SEC("tp_btf/inet_sock_set_state")
int on_inet_sock_set_state(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	struct finwait_change change = {.from = ctx[1], .to = ctx[2]};
	struct finwait_life life = {}, *known;

	change.netns_cookie = sk->__sk_common.skc_net.net->net_cookie;
	if (sk->sk_protocol != IPPROTO_TCP || change.from == change.to || !is_wanted_netns(change.netns_cookie))
		return 0;
	if (wanted_family && sk->__sk_common.skc_family != wanted_family)
		return 0;
	change.at_ns = bpf_ktime_get_ns();
	known = find_life(sk);
	if (known && change.from != TCP_CLOSE)
		life = *known;
	if (change.from == TCP_LISTEN && change.to == TCP_SYN_RECV) {
		begin_clone(sk, &life);
		life.since_ns = change.at_ns;
		life.state = change.to;
		keep_life(sk, &life, known);
		return 0;
	}
	describe(&change, sk, &life);
	if (change.from == TCP_SYN_SENT)
		tell_put_off(&life, sk, change.local_port);
	if (life.state && life.state != change.from)
		tell_missed(&change, &life);
	else
		change.since_ns = life.since_ns;
	if (change.hints & FINWAIT_BY_COOKIE)
		end_clone(&change, sk, &life);
	if (is_call(change.from, change.to)) {
		life.tgid = running_tgid();
		if (life.tgid)
			change.hints |= FINWAIT_IN_CALL;
		else
			life.tgid = change.tgid;
		change.tgid = life.tgid;
	}
	life.cpu = bpf_get_smp_processor_id() % FINWAIT_CPUS;
	life.since_ns = change.at_ns;
	life.hints = 0;
	life.state = change.to;
	keep_life(sk, &life, known);
	if (change.to == TCP_CLOSE && (change.from == TCP_FIN_WAIT2 || change.from == TCP_CLOSING))
		change.to = state_of_remainder(&change);
	if (change.from != change.to && !is_put_off(&change, sk))
		tell(&change);
	return 0;
}

/* A socket that is destroyed has been CLOSED; if that was missed, it is told now. */
SEC("tp_btf/tcp_destroy_sock")
int on_tcp_destroy_sock(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	struct finwait_change change = {.to = TCP_CLOSE, .evidence = FINWAIT_INFERRED};
	struct finwait_life *known = find_life(sk), life = {};

	if (!known)
		return 0;
	life = *known;
	life.hints = 0;
	describe(&change, sk, &life);
	change.netns_cookie = sk->__sk_common.skc_net.net->net_cookie;
	change.at_ns = bpf_ktime_get_ns();
	change.since_ns = life.since_ns;
	change.from = life.state;
	life.state = TCP_CLOSE;
	keep_life(sk, &life, known);
	tell(&change);
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int on_tcp_receive_reset(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	struct finwait_life *life = find_life(sk);

	if (life)
		life->hints |= FINWAIT_RST_RECEIVED;
	return 0;
}

SEC("tp_btf/tcp_send_reset")
int on_tcp_send_reset(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	struct finwait_life *life;

	if (!sk || sk->__sk_common.skc_state == TCP_TIME_WAIT || sk->__sk_common.skc_state == TCP_NEW_SYN_RECV)
		return 0;
	life = find_life(sk);
	if (life && life->state != TCP_LISTEN)
		life->hints |= FINWAIT_RST_SENT;
	return 0;
}

/* -- mini-sockets */

enum kind {
	NO_MINI,
	TIME_WAIT_TIMER,
	REQUEST_TIMER,
};

static inline struct sock_common *time_wait_of(struct timer_list *timer)
{
	return (void *)timer - OFFSET(struct inet_timewait_sock, tw_timer);
}

static inline struct sock_common *request_of(struct timer_list *timer)
{
	return (void *)timer - OFFSET(struct request_sock, rsk_timer);
}

/* Whether what would be around a timer of that kind is a socket of TCP in that state. */
static inline int is_tcp_in(struct sock_common *skc, __u8 state)
{
	struct proto *protocol;
	char name[4] = {};
	__u16 family;

	if (READ(skc, skc_state) != state)
		return 0;
	family = READ(skc, skc_family);
	if (family != AF_INET && family != AF_INET6)
		return 0;
	protocol = READ(skc, skc_prot);
	bpf_probe_read_kernel(name, sizeof(name), __builtin_preserve_access_index(&protocol->name));
	return name[0] == 'T' && name[1] == 'C' && name[2] == 'P' && (name[3] == 0 || name[3] == 'v');
}

/* What `timer`, which starts, is of; learns it where it is not known yet. */
static inline enum kind learn_kind(struct timer_list *timer, __u64 function)
{
	if (!time_wait_function && is_tcp_in(time_wait_of(timer), TCP_TIME_WAIT)) {
		time_wait_function = function;
		return TIME_WAIT_TIMER;
	}
	if (!request_function && is_tcp_in(request_of(timer), TCP_NEW_SYN_RECV)) {
		request_function = function;
		return REQUEST_TIMER;
	}
	return NO_MINI;
}

static inline enum kind kind_of(__u64 function)
{
	if (!function)
		return NO_MINI;
	return function == time_wait_function ? TIME_WAIT_TIMER : function == request_function ? REQUEST_TIMER : NO_MINI;
}

enum {
	HEAD = 192, /* bytes of struct sock_common that are enough for every member that is read */
};
#define OF_HEAD(head, field) (*(typeof(((struct sock_common *)0)->field) *)((head) + OFFSET(struct sock_common, field)))

/* Fills `change` from a socket of which only the address is known. Returns whether anybody wants it. */
static int describe_mini(struct finwait_change *change, struct sock_common *skc, __u64 timer)
{
	__u64 words[HEAD / 8];
	__u8 *head = (__u8 *)words;
	struct net *net;

	if (bpf_probe_read_kernel(words, sizeof(words), skc))
		return 0;
	net = OF_HEAD(head, skc_net.net);
	change->netns_cookie = READ(net, net_cookie);
	change->family = OF_HEAD(head, skc_family);
	if (!is_wanted_netns(change->netns_cookie) || (wanted_family && change->family != wanted_family))
		return 0;
	change->at_ns = bpf_ktime_get_ns();
	change->object = timer;
	change->cookie = OF_HEAD(head, skc_cookie.counter);
	change->local_port = OF_HEAD(head, skc_num);
	change->peer_port = swap16(OF_HEAD(head, skc_dport));
	change->hints = FINWAIT_NO_PROGRAM;
	if (change->family == AF_INET6) {
		__builtin_memcpy(change->local_address, &OF_HEAD(head, skc_v6_rcv_saddr), 16);
		__builtin_memcpy(change->peer_address, &OF_HEAD(head, skc_v6_daddr), 16);
	} else {
		__builtin_memcpy(change->local_address, &OF_HEAD(head, skc_rcv_saddr), 4);
		__builtin_memcpy(change->peer_address, &OF_HEAD(head, skc_daddr), 4);
	}
	return 1;
}

/* When the SYN-ACK of a request socket was sent first, and with it SYN_RECV began; 0 where it was not. */
static inline __u64 request_since(struct sock_common *skc)
{
	return READ((struct tcp_request_sock *)skc, snt_synack) * 1000;
}

/* The timer that was just cancelled is set anew, so its socket lives. Nothing can come between on this processor. */
static inline int is_back(struct slot *slot, struct timer_list *timer, struct finwait_change *change)
{
	if (!slot || slot->cancelled != (__u64)timer)
		return 0;
	slot->cancelled = 0;
	change->from = slot->mini.state;
	change->since_ns = slot->mini.since_ns;
	change->tgid = slot->mini.tgid;
	change->hints |= FINWAIT_BACK;
	change->to = change->from;
	tell(change);
	change->hints &= ~FINWAIT_BACK;
	return 1;
}

/* HZ is a constant of the kernel's. Jiffies begin five minutes before they wrap around in 32 bits (INITIAL_JIFFIES), the clock
 * with 0, and both count since boot: for one HZ only do they agree. */
static inline void try_tick(__u32 hz)
{
	__s64 difference = bpf_jiffies64() - (__u32)(-300 * hz) - bpf_ktime_get_ns() * hz / 1000000000;

	if (difference < 2 * (__s64)hz && -difference < 2 * (__s64)hz)
		jiffy_ns = 1000000000 / hz;
}

static inline int learn_tick(void)
{
	if (!jiffy_ns) {
		try_tick(100);
		try_tick(250);
		try_tick(300);
		try_tick(1000);
	}
	return jiffy_ns != 0;
}

/* When a timewait socket came to TIME_WAIT, if its timer was not set anew since; to the tick. */
static __u64 time_wait_since(struct timer_list *timer, __u64 now_ns)
{
	__s64 left = timer->expires - bpf_jiffies64();

	return learn_tick() ? now_ns + left * (__s64)jiffy_ns - time_wait_ns : 0;
}

/* Takes what is known of a timewait socket whose timer ends. Returns whether it was kept. */
static inline int take_mini(struct finwait_mini *mini, struct finwait_change *change, struct timer_list *timer)
{
	struct finwait_mini *kept = bpf_map_lookup_elem(&minis, &change->cookie);

	if (!kept) {
		mini->state = READ((struct inet_timewait_sock *)time_wait_of(timer), tw_substate);
		if (mini->state == TCP_TIME_WAIT)
			mini->since_ns = time_wait_since(timer, change->at_ns);
		return 0;
	}
	*mini = *kept;
	bpf_map_delete_elem(&minis, &change->cookie);
	return 1;
}

static inline void start_time_wait(struct timer_list *timer)
{
	struct inet_timewait_sock *tw = (void *)time_wait_of(timer);
	struct finwait_change change = {};
	struct finwait_mini mini = {};
	struct slot *slot = own_slot();
	__u8 state;

	if (!slot || !describe_mini(&change, &tw->__tw_common, (__u64)timer))
		return;
	mini.state = READ(tw, tw_substate);
	if (is_back(slot, timer, &change)) {
		mini.since_ns = change.at_ns;
		mini.tgid = change.tgid;
		if (mini.state == change.from) {
			mini.since_ns = change.since_ns;
		} else { /* an orphan in FIN_WAIT2 has got its FIN */
			change.to = mini.state;
			tell(&change);
		}
		bpf_map_update_elem(&minis, &change.cookie, &mini, BPF_ANY);
		return;
	}
	if (slot->time_wait) {
		state = slot->time_wait_state;
		bpf_map_update_elem(&unclaimed, &slot->time_wait, &state, BPF_ANY);
	}
	slot->time_wait = change.cookie;
	slot->time_wait_state = mini.state;
}

static inline void start_request(struct timer_list *timer)
{
	struct slot *slot = own_slot();
	struct finwait_change change = {};

	if (slot && slot->running == (__u64)timer) { /* the SYN-ACK was sent again */
		slot->running = 0;
		return;
	}
	if (!describe_mini(&change, request_of(timer), (__u64)timer) || is_back(slot, timer, &change))
		return;
	change.from = TCP_LISTEN;
	change.to = TCP_SYN_RECV;
	tell(&change);
}

/* The timer of a SYN starts: its socket has a port now. */
static inline void start_connect(struct timer_list *timer)
{
	struct slot *slot = own_slot();
	struct sock_common *skc;

	if (!slot || !slot->connecting)
		return;
	skc = (void *)slot->connecting;
	if ((__u64)timer != slot->connecting + OFFSET(struct inet_connection_sock, icsk_retransmit_timer))
		return;
	slot->connecting = 0;
	slot->connect.local_port = READ(skc, skc_num);
	tell(&slot->connect);
}

SEC("tp_btf/timer_start")
int on_timer_start(__u64 *ctx)
{
	struct timer_list *timer = (struct timer_list *)ctx[0];
	__u64 function = (__u64)timer->function;
	enum kind kind = kind_of(function);

	if (kind == NO_MINI && (!time_wait_function || !request_function))
		kind = learn_kind(timer, function);
	if (kind == TIME_WAIT_TIMER)
		start_time_wait(timer);
	else if (kind == REQUEST_TIMER)
		start_request(timer);
	else
		start_connect(timer);
	return 0;
}

/* A timer is cancelled when its time has come, when it is set anew, and when its socket goes. The first is told by
 * timer_expire_entry; of the second timer_start takes back what is told here. */
static inline void cancel_time_wait(struct slot *slot, struct timer_list *timer)
{
	struct finwait_change change = {.to = TCP_CLOSE};

	if (!describe_mini(&change, time_wait_of(timer), (__u64)timer))
		return;
	slot->mini = (struct finwait_mini){};
	take_mini(&slot->mini, &change, timer);
	slot->cancelled = (__u64)timer;
	change.since_ns = slot->mini.since_ns;
	change.from = slot->mini.state;
	change.tgid = slot->mini.tgid;
	change.hints |= FINWAIT_GONE;
	tell(&change);
}

static inline void cancel_request(struct slot *slot, struct timer_list *timer)
{
	struct finwait_change change = {.from = TCP_SYN_RECV, .to = TCP_CLOSE};
	struct sock_common *skc = request_of(timer);

	if (slot->cloned && !slot->request_since_ns) { /* the handshake is complete */
		slot->request_since_ns = request_since(skc);
		if (!slot->request_since_ns)
			slot->request_since_ns = bpf_ktime_get_ns();
		return;
	}
	if (!describe_mini(&change, skc, (__u64)timer))
		return;
	change.since_ns = request_since(skc);
	slot->mini = (struct finwait_mini){.state = TCP_SYN_RECV, .since_ns = change.since_ns};
	slot->cancelled = (__u64)timer;
	change.hints |= FINWAIT_GONE;
	tell(&change);
}

SEC("tp_btf/timer_cancel")
int on_timer_cancel(__u64 *ctx)
{
	struct timer_list *timer = (struct timer_list *)ctx[0];
	enum kind kind = kind_of((__u64)timer->function);
	struct slot *slot;

	if (kind == NO_MINI || (long)(bpf_jiffies64() - timer->expires) >= 0)
		return 0;
	slot = own_slot();
	if (!slot)
		return 0;
	if (kind == TIME_WAIT_TIMER)
		cancel_time_wait(slot, timer);
	else
		cancel_request(slot, timer);
	return 0;
}

static inline void expire_time_wait(struct timer_list *timer)
{
	struct finwait_change change = {.to = TCP_CLOSE};
	struct finwait_mini mini = {};

	if (!describe_mini(&change, time_wait_of(timer), (__u64)timer))
		return;
	take_mini(&mini, &change, timer);
	change.from = mini.state;
	change.since_ns = mini.since_ns;
	change.tgid = mini.tgid;
	change.hints |= FINWAIT_BY_TIMER;
	tell(&change);
}

/* The function of a request's timer sends the SYN-ACK again and sets the timer anew, or drops the request. */
static inline void expire_request(struct timer_list *timer)
{
	struct finwait_change change = {.from = TCP_SYN_RECV, .to = TCP_CLOSE};
	struct slot *slot = own_slot();

	if (!slot || !describe_mini(&change, request_of(timer), (__u64)timer))
		return;
	change.since_ns = request_since(request_of(timer));
	change.hints |= FINWAIT_BY_TIMER;
	slot->run = change;
	slot->running = (__u64)timer;
}

SEC("tp_btf/timer_expire_entry")
int on_timer_expire_entry(__u64 *ctx)
{
	struct timer_list *timer = (struct timer_list *)ctx[0];
	enum kind kind = kind_of((__u64)timer->function);

	if (kind == TIME_WAIT_TIMER)
		expire_time_wait(timer);
	else if (kind == REQUEST_TIMER)
		expire_request(timer);
	return 0;
}

SEC("tp_btf/timer_expire_exit")
int on_timer_expire_exit(__u64 *ctx)
{
	struct timer_list *timer = (struct timer_list *)ctx[0];
	struct slot *slot = own_slot();

	if (!slot || !slot->running || slot->running != (__u64)timer)
		return 0;
	slot->running = 0;
	slot->run.at_ns = bpf_ktime_get_ns();
	tell(&slot->run);
	return 0;
}

/* -- owners of connections that were accepted: whoever sends or receives has the socket */

static inline void own(struct sock *sk)
{
	struct finwait_life *life = find_life(sk);

	if (life && !life->tgid)
		life->tgid = running_tgid();
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

/* -- what was there before: a walk over the sockets, and one over the descriptors */

static inline void seed_time_wait(struct sock_common *skc)
{
	struct tcp_timewait_sock *tw = bpf_skc_to_tcp_timewait_sock(skc);
	__u64 cookie = bpf_get_socket_cookie(skc);
	struct finwait_mini mini = {};

	if (!tw)
		return;
	mini.state = tw->tw_sk.tw_substate;
	if (mini.state == TCP_FIN_WAIT2)
		bpf_map_update_elem(&minis, &cookie, &mini, BPF_NOEXIST);
	if (!time_wait_function)
		time_wait_function = (__u64)tw->tw_sk.tw_timer.function;
}

SEC("iter/tcp")
int seed_sockets(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;
	struct tcp_request_sock *request;
	struct finwait_life life = {};
	__u64 key;

	if (!skc)
		return 0;
	bpf_get_socket_cookie(skc);
	if (skc->skc_state == TCP_TIME_WAIT) {
		seed_time_wait(skc);
	} else if (skc->skc_state == TCP_NEW_SYN_RECV) {
		request = bpf_skc_to_tcp_request_sock(skc);
		if (request && !request_function)
			request_function = (__u64)request->req.req.rsk_timer.function;
	} else {
		key = (__u64)bpf_skc_to_tcp_sock(skc);
		life.state = skc->skc_state;
		if (key && bpf_map_update_elem(&lives, &key, &life, BPF_NOEXIST) == -E2BIG)
			__sync_fetch_and_add(&lost_lives, 1);
	}
	return 0;
}

SEC("iter/task_file")
int seed_owners(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct finwait_life *life;
	struct sock *sk;
	__u32 tgid;

	if (!task || !file)
		return 0;
	sk = tcp_from_file(file);
	if (!sk)
		return 0;
	life = find_life(sk);
	if (!life || life->tgid)
		return 0;
	tgid = tgid_of(task);
	remember_name(tgid, task);
	life->tgid = tgid;
	return 0;
}
