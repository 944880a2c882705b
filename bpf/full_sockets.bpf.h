/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Changes of full sockets: the tracepoint inet_sock_set_state, and what others say of the cause.
 */
#ifndef FINWAIT_FULL_SOCKETS_BPF_H
#define FINWAIT_FULL_SOCKETS_BPF_H

#include "lifetimes.bpf.h"
#include "owners.bpf.h"
#include "slots.bpf.h"

enum sock_flags { /* include/net/sock.h; CO-RE finds the kernel's values */
	SOCK_LINGER = 4,
};

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

static inline int is_linger_0(struct sock *sk)
{
	return sk->__sk_common.skc_flags >> __builtin_preserve_enum_value(*(typeof(enum sock_flags) *)SOCK_LINGER, 1) & 1 &&
	       !sk->sk_lingertime;
}

/* What else tells why: of changes that can have several causes. */
static inline void describe_cause(struct finwait_change *change, struct sock *sk, struct finwait_life *life)
{
	change->error = sk->sk_err;
	change->shutdown = sk->sk_shutdown;
	change->hints |= life->hints & ~(FINWAIT_BY_COOKIE | FINWAIT_PUT_OFF | FINWAIT_COUNTED);
	if (change->to != TCP_FIN_WAIT1 && change->to != TCP_LAST_ACK && change->to != TCP_CLOSE)
		return;
	if (!sk->sk_socket)
		change->hints |= FINWAIT_NO_PROGRAM;
	else if (is_released(sk))
		change->hints |= FINWAIT_RELEASED;
	if (change->to == TCP_CLOSE && is_linger_0(sk))
		change->hints |= FINWAIT_LINGER_0;
}

static inline int is_told_in_full(void)
{
	return wants & (FINWAIT_WANT_CHANGES | FINWAIT_WANT_LIFETIMES) || members == FINWAIT_BY_PROCESS;
}

static inline void describe(struct finwait_change *change, struct sock *sk, struct finwait_life *life)
{
	change->local_port = sk->__sk_common.skc_num;
	if (!change->local_port) /* a socket that is closed has given it back */
		change->local_port = swap16(READ((struct inet_sock *)sk, inet_sport));
	change->peer_port = swap16(sk->__sk_common.skc_dport);
	if (is_told_in_full()) {
		change->cookie = cookie_of(&sk->__sk_common);
		change->tgid = life->tgid;
		copy_addresses(change->local_address, change->peer_address, &sk->__sk_common);
		describe_cause(change, sk, life);
	} else if (change->to == TCP_FIN_WAIT1 || change->to == TCP_CLOSE) {
		change->cookie = cookie_of(&sk->__sk_common); /* its timewait socket will have it */
	}
}

/* -- a connection that a listener has got */

/* A completed handshake has made the socket `sk`; its addresses and its cookie come later. So does what became of its request
 * socket (`cancel_request`), or that there was none and its own timer guards the SYN-ACK (`start_fast_open`). */
static inline void begin_clone(struct sock *sk, struct finwait_life *life)
{
	struct slot *slot = own_slot();

	forget_path(sk); /* of a connection that had the address before */
	life->tgid = 0;
	life->hints = FINWAIT_BY_COOKIE;
	if (slot)
		slot->cloned = (__u64)sk;
}

/* A connection that leaves SYN_RECV and was not seen to come there: it comes from its listener, for the kernel had kept nothing of
 * it. Without timers nobody sees request sockets; its first round trip says since when it was one. */
static inline void end_clone(struct finwait_change *change, struct sock *sk)
{
	struct slot *slot = own_slot();
	struct finwait_change birth;
	struct tcp_sock *tp;

	if (slot && slot->cloned == (__u64)sk)
		slot->cloned = 0;
	if (timers) {
		change->from = TCP_LISTEN;
		change->since_ns = 0;
		change->hints |= FINWAIT_BY_COOKIE;
		return;
	}
	tp = bpf_skc_to_tcp_sock(sk);
	change->since_ns = 0;
	if (tp && tp->srtt_us && !tp->total_retrans)
		change->since_ns = change->at_ns - (tp->srtt_us >> 3) * 1000;
	birth = *change;
	birth.from = TCP_LISTEN;
	birth.to = TCP_SYN_RECV;
	birth.at_ns = change->since_ns ? change->since_ns : change->at_ns;
	birth.since_ns = 0;
	birth.evidence = FINWAIT_INFERRED;
	tell(&birth);
}

/* -- a connection that becomes a timewait socket */

enum {
	CHAIN = 128, /* sockets of one bucket that are looked at */
};

/* The timewait socket `cookie` in the chain of the established hash where the socket itself has been; 0 where there is none. It
 * was hashed before its connection was CLOSED (inet_twsk_hashdance_schedule). */
GLOBAL __u64 find_in_chain(__u64 hashinfo_address, __u32 hash, __u64 cookie)
{
	struct inet_hashinfo *hashinfo = (void *)hashinfo_address;
	struct inet_ehash_bucket *bucket = READ(hashinfo, ehash);
	struct sock_common *skc;
	__u64 node;
	int index;

	bucket = (void *)bucket + (hash & READ(hashinfo, ehash_mask)) * __builtin_preserve_type_info(*bucket, 1);
	node = READ_WORD(bucket, chain.first);
	for (index = 0; index < CHAIN; index++) {
		if (node & 1) /* the end of a nulls list */
			break;
		skc = (void *)(node - OFFSET(struct sock_common, skc_nulls_node));
		if (READ(skc, skc_state) == TCP_TIME_WAIT && READ(skc, skc_cookie.counter) == (__s64)cookie)
			return (__u64)skc;
		node = READ_WORD(skc, skc_nulls_node.next);
	}
	if (index == CHAIN)
		__sync_fetch_and_add(&lost_minis, 1);
	return 0;
}

/* A connection that is CLOSED for its program may go on as a timewait socket. Returns the state. */
static inline __u8 state_of_remainder(struct finwait_change *change, struct sock *sk)
{
	struct net *net = sk->__sk_common.skc_net.net;
	struct inet_timewait_sock *tw = (void *)find_in_chain(number_of(net->ipv4.tcp_death_row.hashinfo),
							      sk->__sk_common.skc_hash, change->cookie);
	__u8 state = tw ? READ(tw, tw_substate) : TCP_CLOSE;
	struct finwait_mini mini = {};

	if (state == TCP_FIN_WAIT2 && keeps_minis()) { /* as before, without a program */
		mini.address = (__u64)tw;
		mini.state = state;
		mini.since_ns = change->since_ns;
		mini.tgid = change->tgid;
		if (bpf_map_update_elem(&minis, &change->cookie, &mini, BPF_ANY))
			__sync_fetch_and_add(&lost_minis, 1);
	}
	return state;
}

/* -- a connection that connect() begins */

/* connect() goes to SYN_SENT before it has a port. It is told when the timer of the SYN starts (`start_connect`), or with the
 * next change. */
static inline int put_off(struct finwait_change *change, struct sock *sk, struct finwait_life *life)
{
	struct slot *slot;

	if (change->to != TCP_SYN_SENT || change->local_port || !timers || !(wants & (FINWAIT_WANT_CHANGES | FINWAIT_WANT_TOTALS)))
		return 0;
	slot = own_slot();
	if (!slot)
		return 0;
	slot->connect = *change;
	slot->connecting = (__u64)sk;
	life->hints |= FINWAIT_PUT_OFF;
	return 1;
}

static void tell_put_off(struct finwait_change *change, struct finwait_life *life)
{
	struct finwait_change begin = *change;

	begin.at_ns = life->since_ns;
	begin.since_ns = 0;
	begin.from = TCP_CLOSE;
	begin.to = TCP_SYN_SENT;
	begin.error = 0;
	begin.hints = life->tgid ? FINWAIT_IN_CALL : 0;
	tell(&begin);
}

/* -- listeners, whose queues of half-open connections are read */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096); /* a reading visits as many buckets */
	__type(key, __u64); /* address */
	__type(value, __u32);
} listeners SEC(".maps");

static inline void mark_listener(struct sock *sk, int listens)
{
	__u64 key = number_of(sk);
	__u32 one = 1;

	if (!listens)
		bpf_map_delete_elem(&listeners, &key);
	else if (bpf_map_update_elem(&listeners, &key, &one, BPF_ANY))
		__sync_fetch_and_add(&lost_listeners, 1);
}

/* -- the tracepoints */

static inline void keep_life(__u64 address, struct finwait_life *life, struct finwait_life *known)
{
	if (life->state == TCP_CLOSE) {
		if (known)
			end_life(address);
	} else if (known) {
		*known = *life;
	} else {
		begin_life(address, life);
	}
}

/* Whoever runs has the socket. */
static inline void learn_caller(struct finwait_change *change, struct finwait_life *life)
{
	__u32 tgid = running_tgid();

	if (!tgid)
		return;
	life->tgid = change->tgid = tgid;
	change->hints |= FINWAIT_IN_CALL;
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

/* What is left to do once every socket is counted. */
static inline void count_only(struct finwait_change *change, struct sock *sk)
{
	__u32 from = change->from, to = change->to;

	if (to == TCP_LISTEN || (from == TCP_LISTEN && to == TCP_CLOSE))
		mark_listener(sk, to == TCP_LISTEN);
	if (to == TCP_FIN_WAIT2)
		cookie_of(&sk->__sk_common); /* a timewait socket of it has a copy, made before it is CLOSED */
	if (to == TCP_CLOSE && from == TCP_FIN_WAIT2) {
		change->cookie = cookie_of(&sk->__sk_common);
		state_of_remainder(change, sk);
	}
	if (from == TCP_CLOSE || (from == TCP_LISTEN && to == TCP_SYN_RECV))
		from = NOBODY;
	move(change->netns_cookie, from, to == TCP_CLOSE ? NOBODY : to);
}

SEC("tp_btf/inet_sock_set_state")
int on_inet_sock_set_state(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	struct finwait_change change = {.from = ctx[1], .to = ctx[2]};
	struct finwait_life life = {}, *known;
	__u8 remains = change.to;
	__u32 counted = NOBODY;
	__u64 address;

	change.netns_cookie = sk->__sk_common.skc_net.net->net_cookie;
	if (sk->sk_protocol != IPPROTO_TCP || change.from == change.to || !is_wanted_netns(change.netns_cookie))
		return 0;
	change.family = sk->__sk_common.skc_family;
	if (wanted_family && change.family != wanted_family)
		return 0;
	if (steady) {
		count_only(&change, sk);
		return 0;
	}
	change.at_ns = bpf_ktime_get_ns();
	address = number_of(sk);
	known = find_life(address);
	if (known && change.from != TCP_CLOSE)
		life = *known;
	if (change.from == TCP_LISTEN && change.to == TCP_SYN_RECV) {
		begin_clone(sk, &life);
		if (wants & FINWAIT_WANT_SOCKETS) {
			move(change.netns_cookie, NOBODY, TCP_SYN_RECV);
			life.hints |= FINWAIT_COUNTED;
		}
		life.since_ns = change.at_ns;
		life.state = change.to;
		keep_life(address, &life, known);
		return 0;
	}
	describe(&change, sk, &life);
	if (life.hints & FINWAIT_PUT_OFF)
		tell_put_off(&change, &life);
	if (life.state && life.state != change.from)
		tell_missed(&change, &life);
	else
		change.since_ns = life.since_ns;
	if (life.hints & FINWAIT_BY_COOKIE)
		end_clone(&change, sk);
	if (is_told_in_full() && is_call(sk, change.from, change.to))
		learn_caller(&change, &life);
	if (change.to == TCP_LISTEN)
		remember_listener(change.netns_cookie, change.local_port);
	if (life.hints & FINWAIT_COUNTED)
		counted = life.state;
	life.since_ns = change.at_ns;
	life.hints = FINWAIT_COUNTED;
	life.state = change.to;
	if (change.to == TCP_CLOSE && (change.from == TCP_FIN_WAIT2 || change.from == TCP_CLOSING))
		remains = state_of_remainder(&change, sk);
	if (wants & FINWAIT_WANT_LIFETIMES)
		follow(&change, sk, remains);
	change.to = remains;
	move(change.netns_cookie, counted, life.state == TCP_CLOSE ? NOBODY : life.state);
	if (wants & FINWAIT_WANT_SOCKETS && (change.from == TCP_LISTEN || change.to == TCP_LISTEN))
		mark_listener(sk, change.to == TCP_LISTEN);
	if (!put_off(&change, sk, &life) && change.from != change.to)
		tell(&change);
	keep_life(address, &life, known);
	return 0;
}

/* A socket that is destroyed has been CLOSED; if that was missed, it is told now, with what remains of its connection. Several are
 * missed at once where timers of many sockets run in the midst of `on_inet_sock_set_state`. */
SEC("tp_btf/tcp_destroy_sock")
int on_tcp_destroy_sock(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	struct finwait_change change = {.to = TCP_CLOSE, .evidence = FINWAIT_INFERRED};
	__u64 address = number_of(sk);
	struct finwait_life *known = steady ? 0 : find_life(address), life = {};
	__u8 remains;

	if (!known)
		return 0;
	life = *known;
	describe(&change, sk, &life);
	change.family = sk->__sk_common.skc_family;
	change.netns_cookie = sk->__sk_common.skc_net.net->net_cookie;
	change.at_ns = bpf_ktime_get_ns();
	change.since_ns = life.since_ns;
	change.from = life.state;
	if (life.hints & FINWAIT_COUNTED)
		move(change.netns_cookie, life.state, NOBODY);
	if (life.state != TCP_FIN_WAIT2)
		change.since_ns = change.at_ns; /* of what remains */
	remains = state_of_remainder(&change, sk);
	change.since_ns = life.since_ns;
	life.state = TCP_CLOSE;
	if (wants & FINWAIT_WANT_LIFETIMES)
		follow(&change, sk, remains);
	keep_life(address, &life, known);
	change.to = remains;
	if (change.from != change.to)
		tell(&change);
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int on_tcp_receive_reset(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	struct finwait_life *life = find_life(number_of(sk));

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
	life = find_life(number_of(sk));
	if (life && life->state != TCP_LISTEN)
		life->hints |= FINWAIT_RST_SENT;
	return 0;
}

#endif
