/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * What user space gets of changes of state: one by one, a connection at its end, and counted.
 */
#ifndef FINWAIT_CHANGES_BPF_H
#define FINWAIT_CHANGES_BPF_H

#include "finwait.bpf.h"

enum finwait_evidence {
	FINWAIT_EVENT = 0, /* the kernel told it as it happened */
	FINWAIT_INFERRED = 1, /* an event was missed; the next one says from where it came */
	FINWAIT_LOOKUP = 2, /* two looks differ */
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
	FINWAIT_PUT_OFF = 2048, /* not told yet: its port is not known */
	FINWAIT_COUNTED = 4096, /* it is one of finwait_totals.sockets */
	FINWAIT_REUSED = 8192, /* a new connection has taken the place of a TIME_WAIT; user space finds that out */
};

/* One change of one connection. Addresses as in struct finwait_connection. */
struct finwait_change {
	__u64 at_ns; /* CLOCK_MONOTONIC */
	__u64 since_ns; /* when the state `from` began; 0: not known */
	__u64 cookie; /* 0: none yet, a request socket has one only where somebody asked */
	__u64 netns_cookie;
	__u64 object; /* a mini-socket's number, to join FINWAIT_GONE and FINWAIT_BACK; means nothing else */
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
	FINWAIT_MOST_PLACES = 1024, /* of groups that are counted apart */
	FINWAIT_STEPS = 8, /* of a connection's path; a connection has no more than seven states */
	FINWAIT_BUCKETS = 188, /* of times: four to each power of two of microseconds */
};

/* The states of a connection, in order. */
struct finwait_path {
	__u64 begins_ns[8]; /* 0: not known */
	__u8 states[8];
};
STATIC_ASSERT_SIZE(struct finwait_path, 72);

/* A connection at its end: its last change, that of a program's socket; a timewait socket may remain of it (`to`). */
struct finwait_lifetime {
	struct finwait_change change;
	struct finwait_path path; /* without the last state */
	__u64 bytes_acked;
	__u64 bytes_received;
	__u32 srtt_us; /* 0: not known */
	__u32 total_retrans;
};
STATIC_ASSERT_SIZE(struct finwait_lifetime, 184);

/* Sums are apart by namespace, and in it by enum finwait_members. */
struct finwait_group {
	__u64 netns_cookie;
	__u64 member; /* 0: of none, or not asked for */
};
STATIC_ASSERT_SIZE(struct finwait_group, 16);

enum finwait_members {
	FINWAIT_TOGETHER = 0,
	FINWAIT_BY_LISTENER = 1, /* the local port, where a listener has or had it */
	FINWAIT_BY_PROCESS = 2, /* tgid */
};

/* What happened in a group, as one processor saw it. */
struct finwait_totals {
	struct finwait_group group;
	__u64 changes[256]; /* [from * 16 + to] */
	__u64 time_us[16]; /* spent in a state that was left, where its begin is known */
	__u64 times[16 * 188]; /* [state * FINWAIT_BUCKETS + bucket]: how many spent how long in it */
};
STATIC_ASSERT_SIZE(struct finwait_totals, 16 + 2048 + 128 + 8 * 16 * 188);

/* How many full sockets of a namespace are in each state, now, as one processor saw them come and go. */
struct finwait_sockets {
	__u64 netns_cookie;
	__u64 by_state[16];
};
STATIC_ASSERT_SIZE(struct finwait_sockets, 136);

/* How many sockets of a namespace are in a state that only a look tells. */
struct finwait_beside {
	__u64 netns_cookie;
	__u64 half_open; /* in the queues of its listeners */
	__u64 orphans; /* in FIN_WAIT2, without a program: timewait sockets */
};
STATIC_ASSERT_SIZE(struct finwait_beside, 24);

enum finwait_wants {
	FINWAIT_WANT_CHANGES = 1,
	FINWAIT_WANT_LIFETIMES = 2,
	FINWAIT_WANT_TOTALS = 4,
	FINWAIT_WANT_SOCKETS = 8, /* counted by state; and what `count_beside` counts */
};

/* What is known of a full socket. */
struct finwait_life {
	__u64 since_ns; /* when it came to `state`; 0: not known */
	__u32 tgid; /* of a process that has it; 0: not known */
	__u8 state; /* 0: nothing is known */
	__u8 zero;
	__u16 hints; /* of enum finwait_hints, that the next change has */
};
STATIC_ASSERT_SIZE(struct finwait_life, 16);

/* What is kept of a mini-socket, where it is. since_ns, tgid: 0 where they are not known. address: of a timewait socket in
 * FIN_WAIT2, 0 where it is not known. */
struct finwait_mini {
	__u64 since_ns;
	__u64 address;
	__u32 tgid;
	__u8 state;
	__u8 zero[3];
};
STATIC_ASSERT_SIZE(struct finwait_mini, 24);

/* A process that was seen to have a socket. */
struct finwait_name {
	char comm[16];
};
STATIC_ASSERT_SIZE(struct finwait_name, 16);

#endif
