"""A scripted TCP peer: the far end of a veth pair, played by hand over one AF_PACKET socket.

The kernel under test owns the near end. The peer is no kernel socket: it sends the segments it is told to send and
answers nothing by itself, so that every state of RFC 9293 can be held still by withholding the next segment. With
``arp off`` on the near end the kernel writes its own hardware address as the destination of every frame: no ARP, no
neighbour discovery, and the kernel's own IP stack on the far end ignores the frames (PACKET_OTHERHOST).

See packet(7), RFC 9293 section 3.1 (header), RFC 8200 section 8.1 (pseudo-header).
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Protocol

from finwait.lab.links import FAR_MAC, NEAR_MAC

if TYPE_CHECKING:

    class Watch(Protocol):
        """Is told of a segment and of the time at which it was put on the wire."""

        def __call__(self, at: float, segment: Segment, *, is_sent: bool) -> None:
            """is_sent: by the peer."""


FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10

ETH_P_ALL = 0x0003
ETH_P_IP = 0x0800
ETH_P_IPV6 = 0x86DD
SOL_PACKET = 263
PACKET_QDISC_BYPASS = 20
PACKET_IGNORE_OUTGOING = 23
SO_TIMESTAMPNS = 35

_ETHERNET = struct.Struct("!6s6sH")
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_TIMESPEC = struct.Struct("@qq")
_TCP = struct.Struct("!HHIIBBHHH")
_IPV4_DF = 0x4000
_MSS = 1400
MSS_OPTION = struct.pack("!BBH", 2, 4, _MSS)
_SEQUENCE_SPACE = 1 << 32


@dataclass(frozen=True, slots=True)
class Segment:
    """One TCP segment with the addresses of the packet around it."""

    source: IPv4Address | IPv6Address
    source_port: int
    destination: IPv4Address | IPv6Address
    destination_port: int
    seq: int
    ack: int
    flags: int
    window: int = 65535
    options: bytes = b""  # a multiple of four bytes
    payload: bytes = b""

    @property
    def next_seq(self) -> int:
        """The sequence number after this segment; SYN and FIN take one each."""
        length = len(self.payload) + bool(self.flags & SYN) + bool(self.flags & FIN)
        return (self.seq + length) % _SEQUENCE_SPACE


def internet_checksum(octets: bytes) -> int:
    """The ones' complement checksum of RFC 1071: a sum modulo 65,535 of the 16-bit words."""
    if len(octets) % 2:
        octets += b"\0"
    return 0xFFFF - (int.from_bytes(octets, "big") % 0xFFFF or 0xFFFF)


def build_packet(segment: Segment) -> bytes:
    """The IPv4 or IPv6 packet that carries `segment`, with correct checksums."""
    source, destination = segment.source.packed, segment.destination.packed
    length = _TCP.size + len(segment.options) + len(segment.payload)
    pseudo_header = source + destination + struct.pack("!II", length, socket.IPPROTO_TCP)
    ports = (segment.source_port, segment.destination_port)
    offset = (_TCP.size + len(segment.options)) // 4 << 4
    fields = (*ports, segment.seq, segment.ack, offset, segment.flags, segment.window)
    rest = segment.options + segment.payload
    checksum = internet_checksum(pseudo_header + _TCP.pack(*fields, 0, 0) + rest)
    tcp = _TCP.pack(*fields, checksum, 0) + rest
    if segment.source.version == 6:
        return _IPV6.pack(6 << 28, length, socket.IPPROTO_TCP, 64, source, destination) + tcp
    first = (0x45, 0, _IPV4.size + length, 0, _IPV4_DF, 64, socket.IPPROTO_TCP)
    checksum = internet_checksum(_IPV4.pack(*first, 0, source, destination))
    return _IPV4.pack(*first, checksum, source, destination) + tcp


def parse_frame(frame: bytes) -> Segment | None:
    """The TCP segment in an Ethernet frame; None for anything else. Trusts the kernel that wrote it."""
    ethertype = _ETHERNET.unpack_from(frame)[2]
    packet = frame[_ETHERNET.size :]
    if ethertype == ETH_P_IP and packet[9] == socket.IPPROTO_TCP:
        header_length = (packet[0] & 0x0F) * 4
        end = int.from_bytes(packet[2:4], "big") or len(packet)
        source, destination = packet[12:16], packet[16:20]
    elif ethertype == ETH_P_IPV6 and packet[6] == socket.IPPROTO_TCP:
        header_length = _IPV6.size
        end = (header_length + int.from_bytes(packet[4:6], "big")) if packet[4:6] != b"\0\0" else len(packet)
        source, destination = packet[8:24], packet[24:40]
    else:
        return None
    tcp = packet[header_length:end]
    source_port, destination_port, seq, ack, offset, flags, window, _, _ = _TCP.unpack_from(tcp)
    options_end = (offset >> 4) * 4
    return Segment(
        ip_address(source), source_port, ip_address(destination), destination_port,
        seq, ack, flags, window, tcp[_TCP.size : options_end], tcp[options_end:],
    )  # fmt: skip


class TcpPeer:
    """The far end of the veth pair: sends and receives segments, knows no connection. sent_at, received_at: CLOCK_REALTIME in s
    at which the last segment was put on the wire, and at which the kernel put the last there that was looked at.
    """  # fmt: skip

    def __init__(self, interface: str, *, timeout: float = 10.0, deaf: bool = False) -> None:
        self.timeout = timeout
        self.sent_at = self.received_at = 0.0
        self.watch: Watch | None = None  # is told of every segment
        self._packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._packets.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        self._packets.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        # Without its carrier the far end came up with the noop qdisc, which drops until linkwatch replaces it.
        self._packets.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        self._packets.bind((interface, 0 if deaf else ETH_P_ALL))  # deaf: only sends, and costs the kernel no copies

    def close(self) -> None:
        """Give the far end back."""
        self._packets.close()

    def build_frame(self, segment: Segment) -> bytes:
        """The Ethernet frame that carries `segment` to the near end."""
        ethertype = ETH_P_IPV6 if segment.source.version == 6 else ETH_P_IP
        return _ETHERNET.pack(NEAR_MAC, FAR_MAC, ethertype) + build_packet(segment)

    def send_frame(self, frame: bytes) -> None:
        """Put a frame of `build_frame` on the wire."""
        self._packets.send(frame)

    def send(self, segment: Segment) -> None:
        """Put `segment` on the wire."""
        frame = self.build_frame(segment)
        self.sent_at = time.time()
        if self.watch is not None:
            self.watch(self.sent_at, segment, is_sent=True)
        self._packets.send(frame)

    def receive(self, deadline: float) -> Segment:
        """The next segment from the kernel, whichever connection it belongs to. Raises TimeoutError at `deadline`."""
        while (remaining := deadline - time.monotonic()) > 0:
            self._packets.settimeout(remaining)
            try:
                segment = self._read()
            except TimeoutError:
                break
            if segment is not None:
                return segment
        raise TimeoutError("the kernel sent no segment")

    def drain(self) -> None:
        """Look at every segment that the kernel has sent so far."""
        self._packets.setblocking(False)
        try:
            while True:
                self._read()
        except BlockingIOError:
            return

    def _read(self) -> Segment | None:
        frame, stamps, _, _ = self._packets.recvmsg(1 << 17, socket.CMSG_SPACE(_TIMESPEC.size))
        segment = parse_frame(frame)
        if segment is not None and stamps:
            seconds, nanoseconds = _TIMESPEC.unpack(stamps[0][2])
            self.received_at = seconds + nanoseconds / 1e9
            if self.watch is not None:
                self.watch(self.received_at, segment, is_sent=False)
        return segment


@dataclass(slots=True)
class FarEnd:
    """The peer's side of one connection: its addresses and its two sequence numbers."""

    peer: TcpPeer
    address: IPv4Address | IPv6Address
    port: int
    near_address: IPv4Address | IPv6Address
    near_port: int
    window: int = 65535
    snd_nxt: int = 1_000_000
    rcv_nxt: int = 0
    _unacked_fin: Segment | None = field(default=None, repr=False)

    def send(self, flags: int, *, options: bytes = b"", payload: bytes = b"") -> None:
        """Send one segment at SND.NXT that acknowledges RCV.NXT, and advance SND.NXT."""
        segment = Segment(
            self.address, self.port, self.near_address, self.near_port,
            self.snd_nxt, self.rcv_nxt if flags & ACK else 0, flags, self.window, options, payload,
        )  # fmt: skip
        self.peer.send(segment)
        self.snd_nxt = segment.next_seq

    def expect(self, flags: int) -> Segment:
        """The next segment of this connection that has all `flags`; others are retransmissions and thrown away."""
        deadline = time.monotonic() + self.peer.timeout
        ours = (self.near_address, self.near_port, self.address, self.port)
        while True:
            segment = self.peer.receive(deadline)
            theirs = (segment.source, segment.source_port, segment.destination, segment.destination_port)
            if theirs == ours and segment.flags & flags == flags:
                return segment

    def answer_syn(self) -> None:
        """Passive side of the handshake: wait for the kernel's SYN, send SYN-ACK."""
        self.rcv_nxt = self.expect(SYN).next_seq
        self.send(SYN | ACK, options=MSS_OPTION)
        self.expect(ACK)

    def send_syn(self) -> None:
        """Begin an active open and leave it half-open."""
        self.send(SYN, options=MSS_OPTION)

    def send_syn_again(self) -> None:
        """The same SYN once more."""
        self.snd_nxt = (self.snd_nxt - 1) % _SEQUENCE_SPACE
        self.send_syn()

    def open(self) -> None:
        """Active side of the whole handshake."""
        self.send_syn()
        self.rcv_nxt = self.expect(SYN | ACK).next_seq
        self.send(ACK)

    def send_data(self, length: int) -> None:
        """Send `length` bytes in segments of the usual size; the kernel's acknowledgements are not awaited."""
        for start in range(0, length, _MSS):
            self.send(ACK | PSH, payload=b"." * min(_MSS, length - start))

    def await_ack(self) -> None:
        """Wait until the kernel has acknowledged everything that was sent."""
        while self.expect(ACK).ack != self.snd_nxt:
            pass

    def await_fin(self) -> None:
        """Wait for the kernel's FIN without acknowledging it."""
        self._unacked_fin = self.expect(FIN)

    def ack_fin(self) -> None:
        """Acknowledge the FIN that `await_fin` saw."""
        assert self._unacked_fin is not None, "no FIN to acknowledge"
        self.rcv_nxt = self._unacked_fin.next_seq
        self.send(ACK)

    def send_fin(self) -> None:
        """Close the peer's direction."""
        self.send(FIN | ACK)

    def send_ack(self) -> None:
        """A bare acknowledgement; in TIME-WAIT it starts the 60 seconds anew (tcp_timewait_state_process)."""
        self.send(ACK)
