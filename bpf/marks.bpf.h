/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * The mark that one walk leaves on a socket for the next; it goes away with the socket or the map.
 */
#ifndef FINWAIT_MARKS_BPF_H
#define FINWAIT_MARKS_BPF_H

#include "finwait.bpf.h"

struct finwait_mark {
	__u32 tgid; /* that was seen to hold it first */
	__u8 is_shared; /* another holds it too */
	__u8 is_new; /* was made in the second run */
	__u8 zero[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct finwait_mark);
} marks SEC(".maps");

#endif
