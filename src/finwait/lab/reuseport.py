"""Which listener of a shared port (SO_REUSEPORT) gets the next connection.

The kernel takes one by a hash of the addresses and ports, which nobody can foretell; a classic BPF program in its place
returns a member's number, in the order of listen(2). See socket(7), SO_ATTACH_REUSEPORT_CBPF.
"""

from __future__ import annotations

import ctypes
import socket
import struct

SO_ATTACH_REUSEPORT_CBPF = 51
SO_DETACH_REUSEPORT_BPF = 68
_BPF_RET_K = 0x06
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, jt, jf, k
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog: how many instructions, where


def choose(listener: socket.socket, member: int) -> None:
    """From now on the connections of `listener`'s port go to the member of that number. Raises OSError."""
    code = ctypes.create_string_buffer(_INSTRUCTION.pack(_BPF_RET_K, 0, 0, member), _INSTRUCTION.size)
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, _PROGRAM.pack(1, ctypes.addressof(code)))


def let_kernel_choose(listener: socket.socket) -> None:
    """Take the program away; one that was never there is no error."""
    try:
        listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)
    except FileNotFoundError:
        return
