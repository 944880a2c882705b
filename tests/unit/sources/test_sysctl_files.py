"""The files that set sysctls at boot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from finwait.sources.sysctl_files import parse_setting, read_sysctl_files

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("net.ipv4.tcp_fin_timeout = 30", ("net.ipv4.tcp_fin_timeout", "30")),
        ("  -net/ipv4/tcp_mem=1  2\t3 ", ("net.ipv4.tcp_mem", "1 2 3")),
        ("net/ipv4/conf/eth0.1/rp_filter=0", ("net.ipv4.conf.eth0/1.rp_filter", "0")),
        ("net.ipv4.conf.eth0/1.rp_filter=0", ("net.ipv4.conf.eth0/1.rp_filter", "0")),
        ("kernel.core_pattern=|/bin/x a=b", ("kernel.core_pattern", "|/bin/x a=b")),
        ("# net.ipv4.tcp_fin_timeout = 30", None),
        ("; net.ipv4.tcp_fin_timeout = 30", None),
        ("", None),
        ("net.ipv4.tcp_fin_timeout 30", None),
        ("-net.ipv4.conf.*.rp_filter", None),
        (" = 30", None),
        ("two words = 3", None),
    ],
)
def test_a_line(line: str, wanted: tuple[str, str] | None) -> None:
    assert parse_setting(line) == wanted


def test_files_in_the_order_in_which_they_apply(tmp_path: Path) -> None:
    files = {
        "etc/sysctl.d/50-a.conf": "net.a = 1\n\n# no\nnet.b = 2\n",
        "usr/lib/sysctl.d/50-a.conf": "net.hidden = 1\n",
        "usr/lib/sysctl.d/10-first.conf": "net.c = 3\nbroken\n",
        "run/sysctl.d/60-b.conf": "net.d = \xff\n",
        "etc/sysctl.d/README": "net.no = 1\n",
        "etc/sysctl.conf": "net.e = 5\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    (tmp_path / "etc/sysctl.d/99-sysctl.conf").symlink_to("../sysctl.conf")
    (tmp_path / "etc/sysctl.d/70-off.conf").symlink_to("/dev/null")
    (tmp_path / "etc/sysctl.d/80-gone.conf").symlink_to("nowhere")
    found = [(path.removeprefix(f"{tmp_path}/"), *rest) for path, *rest in read_sysctl_files(str(tmp_path))]
    assert found == [
        ("usr/lib/sysctl.d/10-first.conf", 1, "net.c", "3"),
        ("etc/sysctl.d/50-a.conf", 1, "net.a", "1"),
        ("etc/sysctl.d/50-a.conf", 4, "net.b", "2"),
        ("run/sysctl.d/60-b.conf", 1, "net.d", "\N{REPLACEMENT CHARACTER}"),
        ("etc/sysctl.conf", 1, "net.e", "5"),
    ]


def test_where_there_are_no_files_there_are_no_settings(tmp_path: Path) -> None:
    assert read_sysctl_files(str(tmp_path)) == ()
