/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * A change of state as user space gets it, and what the programs that see changes keep between them.
 */
#ifndef FINWAIT_CHANGES_BPF_H
#define FINWAIT_CHANGES_BPF_H

#include "finwait.bpf.h"

enum finwait_evidence {
	FINWAIT_EVENT = 0, /* the kernel told it as it happened */
	FINWAIT_INFERRED = 1, /* an event was missed; the next one says from where it came */
};

enum finwait_hints {
	FINWAIT_RST_RECEIVED = 1,
	FINWAIT_RST_SENT = 2,
	FINWAIT_BY_TIMER = 4, /* the socket's own timer has ended it */
	FINWAIT_IN_CALL = 8, /* the process `tgid` has made it happen */
	FINWAIT_LINGER_0 = 16, /* SO_LINGER with 0: close() aborts */
	FINWAIT_NO_PROGRAM = 32, /* accepted by nobody, or closed */
	FINWAIT_GONE = 64, /* the timer of a mini-socket was deleted: it ends, unless FINWAIT_BACK follows */
	FINWAIT_BACK = 128, /* that timer was only set anew: the change of the same `object` before has not happened */
	FINWAIT_BY_COOKIE = 256, /* a SYN cookie: the peer has kept what a request socket would */
	FINWAIT_FAST_OPEN = 512, /* a SYN with a Fast Open cookie made the connection at once */
	FINWAIT_RELEASED = 1024, /* its last descriptor is closed */
};

/* One change of one connection. Addresses as in struct finwait_connection. */
struct finwait_change {
	__u64 at_ns; /* CLOCK_MONOTONIC */
	__u64 since_ns; /* when the state `from` began; 0: not known */
	__u64 cookie; /* 0: none yet, a request socket has one only where somebody asked */
	__u64 netns_cookie;
	__u64 object; /* of a mini-socket, to join FINWAIT_GONE and FINWAIT_BACK; means nothing else */
	__u8 local_address[16];
	__u8 peer_address[16];
	__u16 local_port;
	__u16 peer_port;
	__u32 tgid; /* of a process that has the socket; 0: not known */
	__u8 family;
	__u8 from;
	__u8 to;
	__u8 evidence;
	__u8 error; /* sk_err: an errno */
	__u8 shutdown;
	__u16 hints;
};
STATIC_ASSERT_SIZE(struct finwait_change, 88);

enum finwait_rooms {
	FINWAIT_MOST_NETNS = 16, /* that are chosen in the kernel; of more, user space chooses */
	FINWAIT_CPUS = 256, /* a larger machine shares slots */
};

/* What is known of a full socket, in its own storage. */
struct finwait_life {
	__u64 since_ns; /* when it came to `state`; 0: not known */
	__u32 tgid; /* of a process that has it; 0: not known */
	__u8 state; /* 0: nothing is known */
	__u8 cpu; /* of the clone, below FINWAIT_CPUS */
	__u16 hints; /* of enum finwait_hints, that the next change has */
};
STATIC_ASSERT_SIZE(struct finwait_life, 16);

/* What is kept of a mini-socket, where it is. since_ns, tgid: 0 where they are not known. */
struct finwait_mini {
	__u64 since_ns;
	__u32 tgid;
	__u8 state;
	__u8 zero[3];
};
STATIC_ASSERT_SIZE(struct finwait_mini, 16);

#endif
