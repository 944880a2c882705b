// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* Tells every change of state of TCP connections, those of mini-sockets too; or counts them. Two walks tell it what was there
 * before: one over the sockets, and one over the descriptors.
 */
#ifndef CAN_CAST
#define CAN_CAST 1
#endif
#include "full_sockets.bpf.h"
#include "mini_sockets.bpf.h"

enum {
	E2BIG = 7,
};

static inline void seed_time_wait(struct sock_common *skc)
{
	struct tcp_timewait_sock *tw = bpf_skc_to_tcp_timewait_sock(skc);
	struct finwait_mini mini = {.state = TCP_FIN_WAIT2, .address = (__u64)tw};
	__u64 cookie = bpf_get_socket_cookie(skc);

	if (!tw)
		return;
	if (!time_wait_function)
		time_wait_function = (__u64)tw->tw_sk.tw_timer.function;
	if (tw->tw_sk.tw_substate != TCP_FIN_WAIT2)
		return;
	if (keeps_minis() && bpf_map_update_elem(&minis, &cookie, &mini, BPF_NOEXIST) == -E2BIG)
		__sync_fetch_and_add(&lost_minis, 1);
}

static inline void seed_request(struct sock_common *skc)
{
	struct tcp_request_sock *request = bpf_skc_to_tcp_request_sock(skc);

	if (request && !request_function)
		request_function = (__u64)request->req.req.rsk_timer.function;
}

/* The kernel holds the socket's lock meanwhile (Linux 5.15), so that its state stays and nobody else begins its life. */
static inline void seed_full(struct sock_common *skc)
{
	struct finwait_life life = {.state = skc->skc_state, .hints = FINWAIT_COUNTED};
	__u64 address = number_of(bpf_skc_to_tcp_sock(skc));

	if (!address)
		return;
	if (life.state == TCP_LISTEN && wants & FINWAIT_WANT_SOCKETS)
		mark_listener((void *)address, 1);
	if (life.state == TCP_LISTEN)
		remember_listener(skc->skc_net.net->net_cookie, skc->skc_num);
	if (!find_life(address) && begin_life(address, &life))
		move(skc->skc_net.net->net_cookie, NOBODY, life.state);
}

SEC("iter/tcp")
int seed_sockets(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;

	if (!skc || (wanted_family && skc->skc_family != wanted_family))
		return 0;
	bpf_get_socket_cookie(skc);
	if (skc->skc_state == TCP_TIME_WAIT)
		seed_time_wait(skc);
	else if (skc->skc_state == TCP_NEW_SYN_RECV)
		seed_request(skc);
	else
		seed_full(skc);
	return 0;
}

static struct finwait_beside *beside_of(struct sock_common *skc)
{
	struct net *net = READ(skc, skc_net.net);
	struct finwait_group group = {READ(net, net_cookie), 0};
	__u32 place = place_of(&group);
	struct finwait_beside *sums = bpf_map_lookup_elem(&beside, &place);

	if (sums && place)
		sums->netns_cookie = group.netns_cookie;
	return sums;
}

static long add_queue(struct bpf_map *map UNUSED, __u64 *key, __u32 *value UNUSED, void *context UNUSED)
{
	struct inet_connection_sock *listener = (void *)*key;
	struct sock_common *skc = (void *)*key;
	__u32 length = READ(listener, icsk_accept_queue.qlen.counter);
	struct finwait_beside *sums;

	if (!length || READ(skc, skc_state) != TCP_LISTEN)
		return 0;
	sums = beside_of(skc);
	if (sums)
		sums->half_open += length;
	return 0;
}

/* What was given back keeps its content until somebody takes it; nothing refers to it then. */
static long add_orphan(void *map, __u64 *key, struct finwait_mini *mini, void *context UNUSED)
{
	struct inet_timewait_sock *tw = (void *)mini->address;
	struct sock_common *skc = (void *)mini->address;
	struct finwait_beside *sums;

	if (READ(skc, skc_cookie.counter) != (__s64)*key || !READ(skc, skc_refcnt.refs.counter) ||
	    READ(skc, skc_state) != TCP_TIME_WAIT || READ(tw, tw_substate) != TCP_FIN_WAIT2) {
		bpf_map_delete_elem(map, key);
		return 0;
	}
	sums = beside_of(skc);
	if (sums)
		sums->orphans++;
	return 0;
}

/* Run by user space: counts into `beside`. */
SEC("syscall")
int count_beside(void *context UNUSED)
{
	struct finwait_beside *sums;
	__u32 index, place;

	for (index = 0; index < FINWAIT_MOST_PLACES && index < room; index++) {
		place = index; /* the verifier does not count what stands in memory */
		sums = bpf_map_lookup_elem(&beside, &place);
		if (sums)
			sums->half_open = sums->orphans = 0;
	}
	bpf_for_each_map_elem(&listeners, add_queue, 0, 0);
	bpf_for_each_map_elem(&minis, add_orphan, 0, 0);
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
	life = find_life(number_of(sk));
	if (!life || life->tgid)
		return 0;
	tgid = tgid_of(task);
	remember_name(tgid, task);
	life = find_life(number_of(sk)); /* as in `own` */
	if (life && !life->tgid)
		life->tgid = tgid;
	return 0;
}
