/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Changes of mini-sockets, which have no tracepoint of their own. Each has a timer that lives as long as it does: timer_start is
 * the birth of a request socket (SYN_RECV) and of a timewait socket (TIME_WAIT, or FIN_WAIT2 without a program), timer_cancel or
 * timer_expire_entry its end, and a timer that is set anew shows a FIN_WAIT2 that became TIME_WAIT.
 * net/ipv4/inet_connection_sock.c, net/ipv4/inet_timewait_sock.c, kernel/time/timer.c.
 *
 * Which timers are theirs is learned from the first one of each kind: by its function.
 */
#ifndef FINWAIT_MINI_SOCKETS_BPF_H
#define FINWAIT_MINI_SOCKETS_BPF_H

#include "slots.bpf.h"

__u64 time_wait_ns SEC(".data"); /* TCP_TIMEWAIT_LEN */
__u64 secret SEC(".data"); /* no address of the kernel's leaves it: recordings are given away */
static __u64 jiffy_ns; /* the kernel's tick; 0: not known yet */
static __u64 time_wait_function, request_function; /* of their timers; 0: not known yet */

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
/* A member of the socket `skc`, of which `head` is a copy where members are not read by loads. */
#define MEMBER(field)                                                                      \
	({                                                                                 \
		typeof(skc->field) member;                                                 \
		if (CAN_CAST)                                                              \
			member = READ(skc, field);                                         \
		else                                                                       \
			member = *(typeof(member) *)((__u8 *)head + OFFSET(struct sock_common, field)); \
		member;                                                                    \
	})

/* Fills `change` from a socket of which only the address is known. Returns whether anybody wants it. */
static int describe_mini(struct finwait_change *change, struct sock_common *skc, struct timer_list *timer)
{
	struct in6_addr local, peer;
	__u64 head[HEAD / 8];
	struct net *net;

	if (!CAN_CAST && bpf_probe_read_kernel(head, sizeof(head), skc))
		return 0;
	net = MEMBER(skc_net.net);
	change->netns_cookie = READ(net, net_cookie);
	change->family = MEMBER(skc_family);
	if (!is_wanted_netns(change->netns_cookie) || (wanted_family && change->family != wanted_family))
		return 0;
	change->at_ns = bpf_ktime_get_ns();
	change->object = timer ? number_of(timer) ^ secret : 0; /* never the key itself */
	change->cookie = MEMBER(skc_cookie.counter);
	change->local_port = MEMBER(skc_num);
	change->peer_port = swap16(MEMBER(skc_dport));
	change->hints = FINWAIT_NO_PROGRAM;
	if (change->family == AF_INET6) {
		local = MEMBER(skc_v6_rcv_saddr);
		peer = MEMBER(skc_v6_daddr);
		__builtin_memcpy(change->local_address, &local, 16);
		__builtin_memcpy(change->peer_address, &peer, 16);
	} else {
		local.words[0] = MEMBER(skc_rcv_saddr);
		peer.words[0] = MEMBER(skc_daddr);
		__builtin_memcpy(change->local_address, &local, 4);
		__builtin_memcpy(change->peer_address, &peer, 4);
	}
	return 1;
}

/* When the SYN-ACK of a request socket was sent first, and with it SYN_RECV began; 0 where it was not. */
static inline __u64 request_since(struct sock_common *skc)
{
	return READ((struct tcp_request_sock *)skc, snt_synack) * 1000;
}

/* The timer that was just cancelled is set anew, so its socket lives. Nothing can come between on this processor. */
static inline void come_back(struct slot *slot, struct finwait_change *change)
{
	__u64 now_ns = change->at_ns;

	slot->cancelled = 0;
	change->from = slot->mini.state;
	change->to = TCP_CLOSE;
	change->since_ns = slot->mini.since_ns;
	change->tgid = slot->mini.tgid;
	change->at_ns = slot->cancelled_ns;
	take_back(change, slot->cancelled_told);
	change->at_ns = now_ns;
}

/* HZ is a constant of the kernel's. Jiffies begin five minutes before they wrap around in 32 bits (INITIAL_JIFFIES), the clock
 * with 0, and both count since boot: for one HZ only do they agree. */
static inline void try_tick(__u32 hz)
{
	__s64 difference = bpf_jiffies64() - (__u32)(-300 * hz) - bpf_ktime_get_ns() / 1000 * hz / 1000000;

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

/* When a timewait socket came to TIME_WAIT, if its timer was not set anew since; to the tick, but not after `now_ns`. */
static __u64 time_wait_since(struct timer_list *timer, __u64 now_ns)
{
	__s64 left = READ(timer, expires) - bpf_jiffies64();

	if (!learn_tick())
		return 0;
	left = left * (__s64)jiffy_ns - time_wait_ns;
	return left > 0 ? now_ns : now_ns + left;
}

/* An orphan in FIN_WAIT2 has got its FIN: it is in TIME_WAIT. Where the timer's new time falls where the old one did, the kernel
 * changes its `expires` and nothing tells; that says when it was, to the tick. */
static void tell_late_time_wait(struct finwait_mini *mini, struct finwait_change *change, struct timer_list *timer)
{
	struct finwait_change late = *change;

	late.at_ns = time_wait_since(timer, change->at_ns);
	if (!late.at_ns)
		late.at_ns = change->at_ns;
	if (late.at_ns < mini->since_ns) /* within one tick */
		late.at_ns = mini->since_ns;
	late.since_ns = mini->since_ns;
	late.tgid = mini->tgid;
	late.from = TCP_FIN_WAIT2;
	late.to = TCP_TIME_WAIT;
	late.evidence = FINWAIT_LOOKUP;
	late.hints = FINWAIT_NO_PROGRAM;
	tell(&late);
	mini->state = TCP_TIME_WAIT;
	mini->since_ns = late.at_ns;
}

/* Takes what is known of a timewait socket whose timer ends. */
static void take_mini(struct finwait_mini *mini, struct finwait_change *change, struct timer_list *timer)
{
	struct finwait_mini *kept = bpf_map_lookup_elem(&minis, &change->cookie);
	__u8 state = READ((struct inet_timewait_sock *)time_wait_of(timer), tw_substate);

	if (!kept) {
		mini->state = state;
		if (state == TCP_TIME_WAIT)
			mini->since_ns = time_wait_since(timer, change->at_ns);
		return;
	}
	*mini = *kept;
	bpf_map_delete_elem(&minis, &change->cookie);
	/* by its timer the connection ends; a timer that is cancelled may be set anew at once for that very change */
	if (mini->state == TCP_FIN_WAIT2 && state == TCP_TIME_WAIT && change->hints & FINWAIT_BY_TIMER)
		tell_late_time_wait(mini, change, timer);
}

static long check_mini(struct bpf_map *map UNUSED, __u64 *key, struct finwait_mini *mini, void *context UNUSED)
{
	struct inet_timewait_sock *tw = (void *)mini->address;
	struct sock_common *skc = (void *)mini->address;
	struct finwait_change change = {};
	struct timer_list *timer;

	if (mini->state != TCP_FIN_WAIT2 || !tw || READ(skc, skc_cookie.counter) != (__s64)*key ||
	    READ(tw, tw_substate) != TCP_TIME_WAIT)
		return 0;
	timer = (void *)tw + OFFSET(struct inet_timewait_sock, tw_timer);
	if (describe_mini(&change, skc, timer))
		tell_late_time_wait(mini, &change, timer);
	return 0;
}

/* Run by user space now and then: which orphans in FIN_WAIT2 have come to TIME_WAIT without a word. */
SEC("syscall")
int check_minis(void *context UNUSED)
{
	bpf_for_each_map_elem(&minis, check_mini, 0, 0);
	return 0;
}

/* The birth of a timewait socket is told where its connection is CLOSED, a moment later (`state_of_remainder`). */
static inline void start_time_wait(struct timer_list *timer)
{
	struct inet_timewait_sock *tw = (void *)time_wait_of(timer);
	struct finwait_change change = {};
	struct finwait_mini mini = {};
	struct slot *slot = own_slot();

	if (!slot || slot->cancelled != (__u64)timer || !describe_mini(&change, &tw->__tw_common, timer) ||
	    change.cookie != slot->cancelled_cookie)
		return;
	mini.state = READ(tw, tw_substate);
	come_back(slot, &change);
	mini.since_ns = change.at_ns;
	mini.tgid = change.tgid;
	mini.address = (__u64)tw;
	if (mini.state == change.from) {
		mini.since_ns = change.since_ns;
	} else { /* an orphan in FIN_WAIT2 has got its FIN */
		change.to = mini.state;
		tell(&change);
	}
	bpf_map_update_elem(&minis, &change.cookie, &mini, BPF_ANY);
}

static inline void start_request(struct timer_list *timer)
{
	struct slot *slot = own_slot();
	struct finwait_change change = {};

	if (slot && slot->running == (__u64)timer) { /* the SYN-ACK was sent again */
		slot->running = 0;
		return;
	}
	if (!describe_mini(&change, request_of(timer), timer))
		return;
	if (slot && slot->cancelled == (__u64)timer && request_since(request_of(timer))) { /* a new one has sent nothing yet */
		come_back(slot, &change);
		return;
	}
	change.from = TCP_LISTEN;
	change.to = TCP_SYN_RECV;
	tell(&change);
}

/* Of a socket, not of a mini-socket, is this the timer that guards its SYN or SYN-ACK? */
static inline int is_timer_of(struct timer_list *timer, __u64 address)
{
	return address && (__u64)timer == address + OFFSET(struct inet_connection_sock, icsk_retransmit_timer);
}

/* The timer of a SYN starts: its socket has a port now. */
static inline void start_connect(struct slot *slot)
{
	struct finwait_life *life = find_life(slot->connecting);
	struct sock_common *skc = (void *)slot->connecting;

	slot->connect.local_port = READ(skc, skc_num);
	slot->connecting = 0;
	if (!life || !(life->hints & FINWAIT_PUT_OFF))
		return;
	life->hints &= ~FINWAIT_PUT_OFF;
	tell(&slot->connect);
}

/* The timer of a SYN-ACK starts that is not a request socket's: its SYN had a Fast Open cookie. */
static inline void start_fast_open(struct slot *slot)
{
	struct finwait_change change = {.from = TCP_LISTEN, .to = TCP_SYN_RECV};
	struct finwait_life *life = find_life(slot->cloned);
	struct sock_common *skc = (void *)slot->cloned;

	slot->cloned = 0;
	if (!life || !describe_mini(&change, skc, 0))
		return;
	life->hints &= ~FINWAIT_BY_COOKIE;
	change.hints = FINWAIT_FAST_OPEN;
	tell(&change);
}

SEC("tp_btf/timer_start")
int on_timer_start(__u64 *ctx)
{
	struct timer_list *timer = (struct timer_list *)ctx[0];
	__u64 function = (__u64)timer->function;
	enum kind kind = kind_of(function);
	struct slot *slot;

	if (kind == NO_MINI && (!time_wait_function || !request_function))
		kind = learn_kind(timer, function);
	if (kind == TIME_WAIT_TIMER)
		start_time_wait(timer);
	else if (kind == REQUEST_TIMER)
		start_request(timer);
	if (kind != NO_MINI)
		return 0;
	slot = own_slot();
	if (slot && is_timer_of(timer, slot->connecting))
		start_connect(slot);
	else if (slot && is_timer_of(timer, slot->cloned))
		start_fast_open(slot);
	return 0;
}

/* A timer is cancelled when its time has come, when it is set anew, and when its socket goes. Of the first, timer_expire_entry takes
 * back what is told here, of the second timer_start. (A timer runs up to an eighth later than it was set for: that its time has
 * come says nothing.) */
static inline void cancel_time_wait(struct slot *slot, struct timer_list *timer)
{
	struct finwait_change change = {.to = TCP_CLOSE};

	if (!describe_mini(&change, time_wait_of(timer), timer))
		return;
	slot->mini = (struct finwait_mini){};
	take_mini(&slot->mini, &change, timer);
	slot->cancelled = (__u64)timer;
	slot->cancelled_cookie = change.cookie;
	slot->cancelled_ns = change.at_ns;
	change.since_ns = slot->mini.since_ns;
	change.from = slot->mini.state;
	change.tgid = slot->mini.tgid;
	change.hints |= FINWAIT_GONE;
	slot->cancelled_told = tell(&change);
}

/* The connection that was just made had a request socket. */
static inline void complete(struct slot *slot, __u64 since_ns)
{
	struct finwait_life *life = find_life(slot->cloned);

	slot->cloned = 0;
	if (life) {
		life->since_ns = since_ns;
		life->hints &= ~FINWAIT_BY_COOKIE;
	}
}

static inline void cancel_request(struct slot *slot, struct timer_list *timer)
{
	struct finwait_change change = {.from = TCP_SYN_RECV, .to = TCP_CLOSE};
	struct sock_common *skc = request_of(timer);

	if (slot->cloned) { /* the handshake is complete */
		complete(slot, request_since(skc));
		return;
	}
	if (!describe_mini(&change, skc, timer))
		return;
	change.since_ns = request_since(skc);
	slot->mini = (struct finwait_mini){.state = TCP_SYN_RECV, .since_ns = change.since_ns};
	slot->cancelled = (__u64)timer;
	slot->cancelled_ns = change.at_ns;
	change.hints |= FINWAIT_GONE;
	slot->cancelled_told = tell(&change);
}

SEC("tp_btf/timer_cancel")
int on_timer_cancel(__u64 *ctx)
{
	struct timer_list *timer = (struct timer_list *)ctx[0];
	enum kind kind = kind_of((__u64)timer->function);
	struct slot *slot;

	if (kind == NO_MINI)
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
	struct slot *slot = own_slot();

	if (!slot || !describe_mini(&change, time_wait_of(timer), timer))
		return;
	change.hints |= FINWAIT_BY_TIMER;
	if (slot->cancelled == (__u64)timer && slot->cancelled_cookie == change.cookie) {
		mini = slot->mini;
		come_back(slot, &change);
		bpf_map_update_elem(&minis, &change.cookie, &mini, BPF_ANY);
	}
	take_mini(&mini, &change, timer);
	change.from = mini.state;
	change.since_ns = mini.since_ns;
	change.tgid = mini.tgid;
	tell(&change);
}

static inline int is_listening(struct sock_common *request)
{
	struct sock_common *listener = (void *)READ(request, skc_listener);

	return listener && READ(listener, skc_state) == TCP_LISTEN;
}

/* The function of a request's timer sends the SYN-ACK again and sets the timer anew, or drops the request. */
static inline void expire_request(struct timer_list *timer)
{
	struct finwait_change change = {.from = TCP_SYN_RECV, .to = TCP_CLOSE};
	struct slot *slot = own_slot();

	if (!slot || !describe_mini(&change, request_of(timer), timer))
		return;
	if (slot->cancelled == (__u64)timer)
		come_back(slot, &change);
	change.since_ns = request_since(request_of(timer));
	change.hints |= FINWAIT_BY_TIMER;
	if (!is_listening(request_of(timer)))
		change.hints |= FINWAIT_RELEASED;
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

#endif
