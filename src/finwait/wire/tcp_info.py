"""struct tcp_info and the socket memory array, by offset (include/uapi/linux/tcp.h, include/uapi/linux/sock_diag.h).

The kernel only ever appends fields, so that a structure's length tells what it has: 144 bytes on Linux 4.4, 280 on 6.18.
A field beyond the length that came is absent, never zero.
"""

from __future__ import annotations

# kernel's name: (offset in bytes, NumPy type code); native byte order
TCP_INFO_FIELDS: dict[str, tuple[int, str]] = {
    "tcpi_ca_state": (1, "u1"),
    "tcpi_probes": (3, "u1"),
    "tcpi_backoff": (4, "u1"),
    "tcpi_options": (5, "u1"),
    "tcpi_wscale": (
        6,
        "u1",
    ),  # bit fields: snd_wscale in the low four bits, rcv_wscale in the high four (little endian)
    "tcpi_rto": (8, "u4"),
    "tcpi_ato": (12, "u4"),
    "tcpi_snd_mss": (16, "u4"),
    "tcpi_rcv_mss": (20, "u4"),
    "tcpi_unacked": (24, "u4"),
    "tcpi_sacked": (28, "u4"),
    "tcpi_lost": (32, "u4"),
    "tcpi_retrans": (36, "u4"),
    "tcpi_last_data_sent": (44, "u4"),
    "tcpi_last_data_recv": (52, "u4"),
    "tcpi_last_ack_recv": (56, "u4"),
    "tcpi_pmtu": (60, "u4"),
    "tcpi_rcv_ssthresh": (64, "u4"),
    "tcpi_rtt": (68, "u4"),
    "tcpi_rttvar": (72, "u4"),
    "tcpi_snd_ssthresh": (76, "u4"),
    "tcpi_snd_cwnd": (80, "u4"),
    "tcpi_advmss": (84, "u4"),
    "tcpi_reordering": (88, "u4"),
    "tcpi_rcv_rtt": (92, "u4"),
    "tcpi_rcv_space": (96, "u4"),
    "tcpi_total_retrans": (100, "u4"),
    "tcpi_pacing_rate": (104, "u8"),
    "tcpi_bytes_acked": (120, "u8"),
    "tcpi_bytes_received": (128, "u8"),
    "tcpi_segs_out": (136, "u4"),
    "tcpi_segs_in": (140, "u4"),
    "tcpi_notsent_bytes": (144, "u4"),
    "tcpi_min_rtt": (148, "u4"),
    "tcpi_data_segs_in": (152, "u4"),
    "tcpi_data_segs_out": (156, "u4"),
    "tcpi_delivery_rate": (160, "u8"),
    "tcpi_busy_time": (168, "u8"),
    "tcpi_rwnd_limited": (176, "u8"),
    "tcpi_sndbuf_limited": (184, "u8"),
    "tcpi_delivered": (192, "u4"),
    "tcpi_bytes_sent": (200, "u8"),
    "tcpi_bytes_retrans": (208, "u8"),
    "tcpi_rcv_ooopack": (224, "u4"),
    "tcpi_snd_wnd": (228, "u4"),
}

# SK_MEMINFO_* index times four
SK_MEMINFO_FIELDS: dict[str, tuple[int, str]] = {
    "SK_MEMINFO_RMEM_ALLOC": (0, "u4"),
    "SK_MEMINFO_RCVBUF": (4, "u4"),
    "SK_MEMINFO_WMEM_ALLOC": (8, "u4"),
    "SK_MEMINFO_SNDBUF": (12, "u4"),
    "SK_MEMINFO_FWD_ALLOC": (16, "u4"),
    "SK_MEMINFO_WMEM_QUEUED": (20, "u4"),
    "SK_MEMINFO_OPTMEM": (24, "u4"),
    "SK_MEMINFO_BACKLOG": (28, "u4"),
    "SK_MEMINFO_DROPS": (32, "u4"),
}

# Values that mean "not known yet".
TCP_INFINITE_SSTHRESH = 0x7FFFFFFF
UNLIMITED_RATE = 0xFFFFFFFFFFFFFFFF
NO_MIN_RTT = 0xFFFFFFFF
