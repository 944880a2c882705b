/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * What is wanted of changes, and how it is told: through rings, or counted.
 */
#ifndef FINWAIT_TELL_BPF_H
#define FINWAIT_TELL_BPF_H

#include "changes.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 23);
} changes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 23);
} lifetimes SEC(".maps");

/* Places of groups in `totals`, of namespaces in `sockets` and `beside`, from 1 on; 0 is for those that found no room. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct finwait_group);
	__type(value, __u32);
} places SEC(".maps");

/* Each processor has its own element of each place (`own_element`), and their sum counts: else they would take it from each other
 * for every change. User space maps the memory and reads it without a call. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct finwait_totals);
} totals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct finwait_sockets);
} sockets SEC(".maps");

/* Of each place; made by `count_beside`. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct finwait_beside);
} beside SEC(".maps");

/* Ports that a listener has or had; where sums are by listener. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct finwait_group); /* member: the port */
	__type(value, __u32);
} listened SEC(".maps");

/* What is wanted. */
__u64 wanted_netns[FINWAIT_MOST_NETNS] SEC(".data"); /* cookies; none: all */
__u64 least_ns SEC(".data"); /* in the state that is left */
__u32 wants SEC(".data"); /* of enum finwait_wants */
__u32 steady SEC(".data"); /* whether every full socket is counted in `sockets`, so that none needs a mark in `lives` */
__u32 timers SEC(".data"); /* whether the programs of mini_sockets.bpf.h are attached */
__u32 wanted_states SEC(".data"); /* bit n: state n is left or reached */
__u32 local_ports[2] SEC(".data"); /* first and last */
__u32 peer_ports[2] SEC(".data");
__u32 room SEC(".data"); /* places */
__u32 processors SEC(".data");
__u32 members SEC(".data"); /* of enum finwait_members */
__u8 wanted_family SEC(".data"); /* 0: any */

/* What was lost. */
__u64 lost_changes; /* a ring was full */
__u64 lost_lives; /* no room in `lives`: the next change of a socket is told without its time */
__u64 lost_listeners; /* no room in `listeners`: their half-open connections are not counted */
__u64 lost_minis; /* no room in `minis`: a change from FIN_WAIT2 to TIME_WAIT will not be told */

static __u32 last_place;

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

static inline int is_of_ports(struct finwait_change *change)
{
	return change->local_port >= local_ports[0] && change->local_port <= local_ports[1] &&
	       change->peer_port >= peer_ports[0] && change->peer_port <= peer_ports[1];
}

static inline int is_wanted(struct finwait_change *change)
{
	if (!((wanted_states >> (change->from & 15) | wanted_states >> (change->to & 15)) & 1) || !is_of_ports(change))
		return 0;
	return !least_ns || (change->since_ns && change->at_ns - change->since_ns >= least_ns);
}

/* -- counted */

static __u32 place_of(struct finwait_group *group)
{
	__u32 place, *known;

	if (!members && wanted_netns[0] && !wanted_netns[1])
		return 1;
	known = bpf_map_lookup_elem(&places, group);
	if (known)
		return *known;
	if (last_place + 1 >= room)
		return 0;
	place = __sync_fetch_and_add(&last_place, 1) + 1;
	if (place >= room)
		return 0;
	if (!bpf_map_update_elem(&places, group, &place, BPF_NOEXIST))
		return place;
	known = bpf_map_lookup_elem(&places, group); /* another processor was first */
	return known ? *known : 0;
}

/* Of an array with an element for each processor in each place. */
static inline __u32 own_element(__u32 place)
{
	return place * processors + bpf_get_smp_processor_id();
}

static inline __u64 member_of(struct finwait_change *change)
{
	struct finwait_group port = {change->netns_cookie, change->local_port};

	if (members == FINWAIT_BY_PROCESS)
		return change->tgid;
	return members == FINWAIT_BY_LISTENER && bpf_map_lookup_elem(&listened, &port) ? port.member : 0;
}

/* A socket listens at `port`, in host order. */
static inline void remember_listener(__u64 netns_cookie, __u16 port)
{
	struct finwait_group key = {netns_cookie, port};
	__u32 one = 1;

	if (members == FINWAIT_BY_LISTENER && bpf_map_update_elem(&listened, &key, &one, BPF_ANY))
		__sync_fetch_and_add(&lost_listeners, 1);
}

/* Four to each power of two; below four, each number its own. */
static inline __u32 bucket_of(__u64 us)
{
	__u32 log2 = 0;
	__u64 rest = us;

	if (us < 4)
		return us;
	if (us >> 47)
		return FINWAIT_BUCKETS - 1;
	if (rest >> 32)
		log2 += 32, rest >>= 32;
	if (rest >> 16)
		log2 += 16, rest >>= 16;
	if (rest >> 8)
		log2 += 8, rest >>= 8;
	if (rest >> 4)
		log2 += 4, rest >>= 4;
	if (rest >> 2)
		log2 += 2, rest >>= 2;
	if (rest >> 1)
		log2 += 1;
	return (log2 - 1) * 4 + (us >> (log2 - 2) & 3);
}

/* by: 1, or -1 for a change that has not happened after all */
static void count(struct finwait_change *change, __s64 by)
{
	struct finwait_group group = {change->netns_cookie, member_of(change)};
	__u32 place = place_of(&group), from = change->from & 15, to = change->to & 15, bucket, element = own_element(place);
	struct finwait_totals *sums = bpf_map_lookup_elem(&totals, &element);
	__u64 us;

	if (!sums)
		return;
	if (place)
		sums->group = group;
	__sync_fetch_and_add(&sums->changes[from * 16 + to], by);
	if (!change->since_ns)
		return;
	us = (change->at_ns - change->since_ns) / 1000;
	bucket = from * FINWAIT_BUCKETS + bucket_of(us);
	__sync_fetch_and_add(&sums->time_us[from], by * us);
	if (bucket < 16 * FINWAIT_BUCKETS)
		__sync_fetch_and_add(&sums->times[bucket], by);
}

enum {
	NOBODY = 16, /* no place: a socket that is not there, or in a state that is not counted */
};

/* The compiler would leave the mask out where it knows better; the verifier does not. */
static inline __u32 masked(__u32 state)
{
	asm volatile("" : "+r"(state));
	return state & 15;
}

/* A full socket goes from a state to another. */
static inline void move(__u64 netns_cookie, __u32 from, __u32 to)
{
	struct finwait_group group = {netns_cookie, 0};
	struct finwait_sockets *sums;
	__u32 place, element;

	if (!(wants & FINWAIT_WANT_SOCKETS))
		return;
	place = place_of(&group);
	element = own_element(place);
	sums = bpf_map_lookup_elem(&sockets, &element);
	if (!sums)
		return;
	if (place)
		sums->netns_cookie = netns_cookie;
	if (from != NOBODY)
		__sync_fetch_and_add(&sums->by_state[masked(from)], -1);
	if (to != NOBODY)
		__sync_fetch_and_add(&sums->by_state[masked(to)], 1);
}

/* -- one by one */

/* The kernel says that a change has happened. Returns whether nothing of it is lost. */
GLOBAL int tell(struct finwait_change *change)
{
	if (!change || !is_wanted(change))
		return 1;
	if (wants & FINWAIT_WANT_TOTALS)
		count(change, 1);
	if (wants & FINWAIT_WANT_CHANGES && bpf_ringbuf_output(&changes, change, sizeof(*change), BPF_RB_NO_WAKEUP)) {
		__sync_fetch_and_add(&lost_changes, 1);
		return 0;
	}
	return 1;
}

/* The change that was told last of the same object has not happened; was_told: or was lost, which is no loss then. */
GLOBAL int take_back(struct finwait_change *change, int was_told)
{
	if (!change || !is_wanted(change))
		return 0;
	if (wants & FINWAIT_WANT_TOTALS)
		count(change, -1);
	if (!(wants & FINWAIT_WANT_CHANGES))
		return 0;
	if (!was_told) {
		__sync_fetch_and_add(&lost_changes, -1);
		return 0;
	}
	change->hints |= FINWAIT_BACK;
	if (bpf_ringbuf_output(&changes, change, sizeof(*change), BPF_RB_NO_WAKEUP))
		__sync_fetch_and_add(&lost_changes, 1);
	change->hints &= ~FINWAIT_BACK;
	return 0;
}

#endif
