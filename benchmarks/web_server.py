"""nginx in a network namespace of its own, which closes each connection after one answer: for wrk, in benchmarks and tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from finwait.lab.namespace import await_condition

if TYPE_CHECKING:
    from collections.abc import Iterator

URL = "http://127.0.0.1:8080/"
PATIENCE_S = 20.0
_PATH = f"/usr/sbin:{os.environ['PATH']}"
_BEGIN = 'ip link set lo up && sysctl -qw net.ipv4.tcp_max_tw_buckets=2000000 && exec nginx -p "$0" -c nginx.conf'
_NGINX = """
daemon off;
pid nginx.pid;
error_log stderr;
worker_processes 2;
events { worker_connections 4000; }
http {
  access_log off;
  keepalive_timeout 0;
  client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c; uwsgi_temp_path d; scgi_temp_path e;
  server { listen 127.0.0.1:8080 backlog=4096; location / { return 200 "well"; } }
}
"""


def missing_commands() -> list[str]:
    """Which of nginx and wrk are not installed."""
    return [name for name in ("nginx", "wrk") if shutil.which(name, path=_PATH) is None]


@contextmanager
def web_server() -> Iterator[int]:
    """A process id in its namespace. Raises RuntimeError where it does not begin."""
    with tempfile.TemporaryDirectory(prefix="finwait-nginx-") as directory:
        with open(os.path.join(directory, "nginx.conf"), "w", encoding="utf-8") as file:
            file.write(_NGINX)
        apart = ("unshare", "--net", "--pid", "--fork", "--kill-child=KILL", "sh", "-c", _BEGIN, directory)
        with subprocess.Popen(apart, env={**os.environ, "PATH": _PATH}, stderr=subprocess.DEVNULL) as server:
            try:
                if not await_condition(lambda: bool(_listening(_children(server.pid))), PATIENCE_S):
                    raise RuntimeError("nginx does not begin")
                yield _children(server.pid)[0]
            finally:
                for child in _children(server.pid):
                    os.kill(child, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]


def _listening(pids: list[int]) -> str:
    """What listens in the namespace of the first process."""
    if not pids:
        return ""
    command = ("nsenter", "-t", str(pids[0]), "-n", "--", "ss", "-tlnH")
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
