// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* The programs of trace_tcp.bpf.c for kernels before Linux 6.2: they read by calls. */
#define CAN_CAST 0
#include "trace_tcp.bpf.c"
