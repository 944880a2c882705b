"""An MPTCP connection is seen as its TCP subflows; its owner is found though the descriptor's socket is another."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest

from tests.kernel.finwait_command import COMMAND

IPPROTO_MPTCP = 262
HOLDER = """
import os, socket, subprocess, sys
from finwait.lab import namespace

namespace.enter_own_namespace()
namespace.die_with_parent(namespace.destroy_all)
namespace.bring_up_loopback()
server = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
server.bind(("127.0.0.1", 0))
server.listen()
plain = socket.create_connection(server.getsockname())
multi = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
multi.connect(server.getsockname())
held = [server.accept() for _ in range(2)]
print(os.getpid(), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("source", ["auto", "bpf", "sock_diag"])
@pytest.mark.parametrize("by", ["pid", "pid,local_address"])
def test_mptcp_sockets_have_their_owner(source: str, by: str) -> None:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP).close()  # this kernel has it
    holder = subprocess.Popen((sys.executable, "-c", HOLDER), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    pid = holder.stdout.readline().strip()
    try:
        done = subprocess.run(
            (*COMMAND, "-N", pid, "--by", by, "--source", source, "--json"), capture_output=True, text=True, check=True
        )
    finally:
        holder.communicate()
    document = json.loads(done.stdout)
    assert document["total"] == 5
    assert {(row["pid"], row["owner_kind"]) for row in document["rows"]} == {(int(pid), "process")}
