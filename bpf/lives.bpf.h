/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * What is known of each full socket, by its address, from its first change to its last.
 *
 * Every change, send and receive asks for it, so it lies in an array where loads find it: five sockets share a bucket. What finds
 * no room there is in a hash map, which costs a call for each question and is asked only where the bucket says so. (Storage of
 * each socket would do without a limit, and costs three times as much as that map.)
 */
#ifndef FINWAIT_LIVES_BPF_H
#define FINWAIT_LIVES_BPF_H

#include "tell.bpf.h"

enum {
	IN_BUCKET = 5,
};

struct bucket {
	__u64 addresses[IN_BUCKET]; /* 0: free */
	__u64 elsewhere; /* how many more that belong here are in `more_lives` */
	struct finwait_life lives[IN_BUCKET];
};

/* User space makes both large enough for the sockets that there are. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* a power of two */
	__type(key, __u32);
	__type(value, struct bucket);
} lives SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 16);
	__type(key, __u64);
	__type(value, struct finwait_life);
} more_lives SEC(".maps");

__u32 bucket_shift SEC(".data"); /* 64 without the bits of a bucket's number */

static inline struct bucket *bucket_for(__u64 address)
{
	__u32 number = address * 0x9e3779b97f4a7c15 >> (bucket_shift & 63);

	return bpf_map_lookup_elem(&lives, &number);
}

/* Where `address` is in the bucket; IN_BUCKET where it is not. Without branches: the verifier follows each of them to the end. */
static inline __u32 index_in(struct bucket *bucket, __u64 address)
{
	__u64 found, differs, index = 0, any = 0;
	int each;

	for (each = 0; each < IN_BUCKET; each++) {
		differs = bucket->addresses[each] ^ address;
		found = differs - 1 & ~differs; /* only of 0 the highest bit is set */
		asm("" : "+r"(found)); /* else the compiler sees a comparison, and makes a branch */
		found = found >> 63 & ~any; /* the first one */
		index += found * each;
		any |= found;
	}
	return any ? index : IN_BUCKET;
}

static inline struct finwait_life *find_life(__u64 address)
{
	struct bucket *bucket = bucket_for(address);
	__u32 index;

	if (!bucket)
		return 0;
	index = index_in(bucket, address);
	if (index < IN_BUCKET)
		return &bucket->lives[index];
	return bucket->elsewhere ? bpf_map_lookup_elem(&more_lives, &address) : 0;
}

/* Of a socket that has none; whoever calls has the socket, so that nobody else begins one for it. Returns whether there was room.
 * Before the life is written an older one shows there, which only `own` could see; the next send or receive mends that. */
static inline int begin_life(__u64 address, struct finwait_life *life)
{
	struct bucket *bucket = bucket_for(address);
	__u32 index;
	int try;

	if (!bucket)
		return 0;
	for (try = 0; try < IN_BUCKET; try++) { /* another processor may take what was free */
		index = index_in(bucket, 0);
		if (index >= IN_BUCKET)
			break;
		if (__sync_val_compare_and_swap(&bucket->addresses[index], 0, address))
			continue;
		bucket->lives[index] = *life;
		return 1;
	}
	if (bpf_map_update_elem(&more_lives, &address, life, BPF_ANY)) {
		__sync_fetch_and_add(&lost_lives, 1);
		return 0;
	}
	__sync_fetch_and_add(&bucket->elsewhere, 1);
	return 1;
}

static inline void end_life(__u64 address)
{
	struct bucket *bucket = bucket_for(address);
	__u32 index;

	if (!bucket)
		return;
	index = index_in(bucket, address);
	if (index < IN_BUCKET)
		bucket->addresses[index] = 0;
	else if (bucket->elsewhere && !bpf_map_delete_elem(&more_lives, &address))
		__sync_fetch_and_add(&bucket->elsewhere, -1);
}

#endif
