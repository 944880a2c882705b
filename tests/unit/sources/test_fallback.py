"""Where sock_diag refuses, /proc/net/tcp answers and says why."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

import finwait
from finwait.errors import NotPermitted, NotSupported, SourceError

if TYPE_CHECKING:
    from pathlib import Path

ROWS = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 4242 1 f 100 0 0 10 0
   1: 0100007F:0016 0100007F:0400 01 00000000:00000000 00:00000000 00000000  0 0 4243 1 f 100 0 0 10 0
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tcp").write_text(ROWS)
    return tmp_path


def refuse(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def socket(*_: object) -> object:
        raise OSError(number, "refused")

    monkeypatch.setattr("finwait.sources.sock_diag.socket", socket)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.ENOENT, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT])
@pytest.mark.parametrize("words", [None, "recv-q >= 0"])
def test_proc_answers_with_a_notice(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str | None
) -> None:
    refuse(monkeypatch, number)
    snapshot = finwait.count(words, proc=str(root))
    counts = {group.key[0]: group.count for group in snapshot.groups if group.count}
    assert counts == ({"listen": 1, "established": 1} if words is None else {"established": 1})
    assert snapshot.provenance.source == "proc"
    assert [notice.code for notice in snapshot.provenance.notices] == ["source_fallback", "closed_not_visible"]
    assert "read /proc/net/tcp instead" in str(snapshot.provenance.notices[0])
    assert len(finwait.connections(words, proc=str(root))) == len(counts)


def test_who_asks_for_sock_diag_gets_the_refusal(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, errno.EPERM)
    with pytest.raises(NotPermitted, match="is not permitted here"):
        finwait.count(source="sock_diag", proc=str(root))
    refuse(monkeypatch, errno.EPROTONOSUPPORT)
    with pytest.raises(NotSupported, match="CONFIG_INET_TCP_DIAG"):
        finwait.connections(source="sock_diag", proc=str(root))


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.EMFILE, errno.EINVAL])
def test_other_failures_are_no_reason_to_guess(root: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    refuse(monkeypatch, number)
    for ask in (finwait.count, finwait.connections):
        with pytest.raises(SourceError, match="failed"):
            ask(proc=str(root))


def test_damage_in_proc_is_placed_in_the_whole_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finwait.sources.proc_net.CHUNK_BYTES", 256)
    row = ROWS.splitlines(keepends=True)[1]
    (root / "net" / "tcp").write_text(ROWS + row * 20 + "garbage\n")
    for ask in (finwait.count, finwait.connections):
        with pytest.raises(finwait.ParseError) as caught:
            ask(source="proc", proc=str(root))
        assert caught.value.offset == len(ROWS) + 20 * len(row)
        assert caught.value.arguments["line"] == 24


@pytest.mark.parametrize(
    "arguments", [{"ip": 5}, {"top": 0}, {"top": -1}, {"source": "net"}, {"by": ""}, {"by": ()}, {"by": "x,"}]
)
def test_an_argument_that_cannot_be_is_a_usage_error(arguments: dict[str, object]) -> None:
    with pytest.raises(finwait.UsageError):
        finwait.count(**arguments)  # type: ignore[arg-type]
