"""What a bundle keeps of the files of sysctl.d: what rules read, no secret and, masked, no name of a file."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING

import pytest

from finwait.bundle import write_bundle
from finwait.table.look import Host
from finwait.table.snapshot import Provenance
from finwait.wire.masking import Mask
from tests.unit.diagnosis.cases import case_of

if TYPE_CHECKING:
    from pathlib import Path

FILE = "/etc/sysctl.d/99-acme.conf"
SETTINGS = (
    (FILE, 1, "kernel.hostname", "db1.acme.example"),
    (FILE, 2, "net.ipv4.conf.acme0.rp_filter", "1"),
    (FILE, 3, "net.ipv4.tcp_fastopen_key", "0-1-2-3"),
    (FILE, 4, "net.ipv4.tcp_tw_recycle", "1"),
    (FILE, 5, "net.netfilter.nf_conntrack_tcp_timeout_time_wait", "1"),
)


@pytest.mark.parametrize(("mask", "file"), [(None, FILE), (Mask(), "file-1")])
def test_a_bundle_keeps_no_secret_of_sysctl_d(mask: Mask | None, file: str, tmp_path: Path) -> None:
    path = str(tmp_path / "host.zip")
    write_bundle(path, [], [case_of([], host=Host(settings=SETTINGS))], Provenance("sock_diag"), mask, {})
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["settings"] == [[file, *setting[1:]] for setting in SETTINGS[3:]]
