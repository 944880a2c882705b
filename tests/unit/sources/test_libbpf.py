"""libbpf by ctypes: what it refuses becomes a reason, it says nothing by itself, and an interrupted walk goes on.

The library is a fake here; tests/kernel/test_libbpf.py has the real one.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

import pytest

from finwait.errors import FinwaitError, NotPermitted, NotSupported, SourceError
from finwait.sources import libbpf
from finwait.sources.libbpf import BpfObject, Libbpf, drain, read_iterator, read_object
from finwait.wire.bpf_layouts import SOURCES_DIGEST

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MARK = f"finwait-sources:{SOURCES_DIGEST}".encode() + b"\0"
OBJECT, LINK, PROGRAM, MAP = 11, 13, 17, 19  # pointers

NO_VALUES = ctypes.create_string_buffer(64)  # a va_list that nothing is taken from


class Function:
    """A function of the fake library."""

    def __init__(self, result: object) -> None:
        self.result = result
        self.restype: object = None
        self.argtypes: object = None
        self.calls: list[tuple[object, ...]] = []

    def __call__(self, *arguments: object) -> object:
        self.calls.append(arguments)
        return self.result(*arguments) if callable(self.result) else self.result


class Library:
    """libbpf as far as finwait calls it; `results` change what functions return."""

    def __init__(self, **results: object) -> None:
        usual = {
            "libbpf_major_version": 1,
            "libbpf_version_string": b"v1.9",
            "bpf_object__open_mem": OBJECT,
            "bpf_object__find_map_by_name": MAP,
            "bpf_object__find_program_by_name": PROGRAM,
            "bpf_program__attach_iter": LINK,
        }
        for name in libbpf._FUNCTIONS:
            setattr(self, name, Function(results.get(name, usual.get(name, 0))))

    def say(self, level: int, text: bytes) -> None:
        """What libbpf does where it would print."""
        (keep,) = self.libbpf_set_print.calls[-1]
        keep(level, text, ctypes.addressof(NO_VALUES))


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Library]:
    """Use a fake library, and objects of `tmp_path`."""
    real = ctypes.CDLL

    def use(**results: object) -> Library:
        library = Library(**results)
        monkeypatch.setattr(
            ctypes, "CDLL", lambda name, **options: library if name == libbpf.LIBRARY else real(name, **options)
        )
        monkeypatch.setattr(libbpf, "_library", None)
        (tmp_path / "walk.bpf.o").write_bytes(b"\x7fELF" + MARK)
        return library

    return use


def opened(directory: Path) -> BpfObject:
    return BpfObject("walk", directory=str(directory))


# -- the library


def test_a_library_that_is_not_there_names_its_package() -> None:
    with pytest.raises(NotSupported, match=r"^libbpf-none\.so\.1 is not installed \(package libbpf1\)$"):
        Libbpf("libbpf-none.so.1")


@pytest.mark.parametrize(("major", "text"), [(0, b"v0.8"), (2, b"v2.0")])
def test_a_library_of_another_major_version_is_refused(use: Callable[..., Library], major: int, text: bytes) -> None:
    library = use(libbpf_major_version=major, libbpf_version_string=text)
    with pytest.raises(NotSupported, match=f"^libbpf {text.decode()} is not of major version 1, which finwait knows$"):
        Libbpf()
    assert library.libbpf_set_print.calls == []


@pytest.mark.parametrize("name", list(libbpf._FUNCTIONS))
def test_a_library_that_lacks_a_function_is_refused(use: Callable[..., Library], name: str) -> None:
    delattr(use(), name)
    with pytest.raises(NotSupported, match="is not of major version 1"):
        Libbpf()


def test_the_library_is_opened_once_a_process(use: Callable[..., Library]) -> None:
    use()
    assert libbpf.open_library() is libbpf.open_library()


# -- its messages


def test_warnings_are_kept_and_what_is_less_is_not(
    use: Callable[..., Library], capfd: pytest.CaptureFixture[str]
) -> None:
    library = use()
    known = Libbpf()
    library.say(1, b"libbpf: loading\n")
    library.say(2, b"libbpf: section 3\n")
    library.say(0, b"libbpf: prog 'x': failed\n")
    assert known.messages == ["libbpf: prog 'x': failed"]
    assert capfd.readouterr() == ("", "")


def test_only_the_last_messages_are_kept(use: Callable[..., Library]) -> None:
    library = use()
    known = Libbpf()
    for at in range(101):
        library.say(0, b"libbpf: line %d" % at)
    assert known.messages == [f"libbpf: line {at}" for at in range(101 - libbpf.MESSAGES_KEPT, 101)]


def test_a_message_of_bytes_that_are_no_text_is_kept(use: Callable[..., Library]) -> None:
    library = use()
    known = Libbpf()
    library.say(0, b"libbpf: \xff\x1b[31m")
    assert known.messages == ["libbpf: \ufffd\x1b[31m"]


# -- what errno means


REFUSALS = {
    errno.EPERM: (NotPermitted, 5, "BPF is not permitted here"),
    errno.EACCES: (NotSupported, 4, "this kernel refuses the BPF program"),
    errno.EINVAL: (NotSupported, 4, "this kernel refuses the BPF program"),
    errno.ENOENT: (NotSupported, 4, "this kernel refuses the BPF program"),
    errno.ESRCH: (NotSupported, 4, "this kernel refuses the BPF program"),
    errno.ENOSYS: (NotSupported, 4, "this kernel refuses the BPF program"),
    errno.EOPNOTSUPP: (NotSupported, 4, "this kernel refuses the BPF program"),
    errno.ENOMEM: (SourceError, 6, "BPF failed"),
    errno.EMFILE: (SourceError, 6, "BPF failed"),
}


@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.get)
def test_a_kernel_that_refuses_to_load_is_told_by_its_errno(
    use: Callable[..., Library], tmp_path: Path, number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    library = use()

    def load(_: int) -> int:
        library.say(0, b"libbpf: prog 'walk': BPF program load failed\n")
        library.say(0, b"0: R1=ctx() R10=fp0\n")  # the verifier's log
        return -number

    library.bpf_object__load.result = load
    kind, exit_code, words = REFUSALS[number]
    with pytest.raises(kind) as refused:
        opened(tmp_path)
    assert refused.value.exit_code == exit_code
    said = str(refused.value)
    assert said.startswith(f"{words} (bpf_object__load walk: {os.strerror(number)}")
    assert ("; libbpf: prog 'walk': BPF program load failed" in said) is (number != errno.EPERM)
    assert "\n" not in said
    assert library.bpf_object__close.calls == [(OBJECT,)]
    assert capfd.readouterr() == ("", "")


def fail_with(number: int) -> Callable[..., int]:
    def fail(*_: object) -> int:
        ctypes.set_errno(number)
        return 0

    return fail


def test_an_object_that_cannot_be_opened_is_told(use: Callable[..., Library], tmp_path: Path) -> None:
    library = use(bpf_object__open_mem=fail_with(errno.EINVAL))
    with pytest.raises(NotSupported, match="bpf_object__open walk: Invalid argument"):
        opened(tmp_path)
    assert library.bpf_object__close.calls == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.ENOMEM])
def test_an_iterator_that_cannot_be_attached_is_told_and_the_object_is_closed(
    use: Callable[..., Library], tmp_path: Path, number: int
) -> None:
    library = use(bpf_program__attach_iter=fail_with(number))
    with pytest.raises(REFUSALS[number][0], match="bpf_program__attach_iter walk"), opened(tmp_path) as walk:
        walk.open_iterator("walk")
    assert library.bpf_link__destroy.calls == []
    assert library.bpf_object__close.calls == [(OBJECT,)]


def test_an_iterator_that_cannot_be_made_is_told_and_everything_is_closed(
    use: Callable[..., Library], tmp_path: Path
) -> None:
    library = use(bpf_iter_create=-errno.EMFILE)
    with pytest.raises(SourceError, match="bpf_iter_create walk: Too many open files"), opened(tmp_path) as walk:
        walk.open_iterator("walk")
    assert library.bpf_link__destroy.calls == [(LINK,)]
    assert library.bpf_object__close.calls == [(OBJECT,)]


def test_a_link_is_made_once_and_closing_twice_closes_once(use: Callable[..., Library], tmp_path: Path) -> None:
    library = use(bpf_iter_create=7)
    with opened(tmp_path) as walk:
        assert [walk.open_iterator("walk"), walk.open_iterator("walk")] == [7, 7]
    walk.close()
    assert len(library.bpf_program__attach_iter.calls) == 1
    assert library.bpf_link__destroy.calls == [(LINK,)]
    assert library.bpf_object__close.calls == [(OBJECT,)]


def test_a_map_that_is_not_there_is_told(use: Callable[..., Library], tmp_path: Path) -> None:
    use(bpf_object__find_map_by_name=0)
    with pytest.raises(SourceError, match="map nosuch: No such file"), opened(tmp_path) as walk:
        list(walk.read_map("nosuch"))


# -- maps


class HashMap:
    """A hash map that the kernel hands out bucket by bucket, each whole; ENOSPC says that the next one has no room."""

    def __init__(self, buckets: list[list[tuple[int, int]]]) -> None:
        self.buckets = buckets

    def look_up(
        self, _: int, start: object, after: object, keys: object, values: object, room: object, __: object
    ) -> int:
        at = 0 if start is None else int.from_bytes(start.raw, "little")
        limit = room._obj.value
        found: list[tuple[int, int]] = []
        while at < len(self.buckets) and len(found) + len(self.buckets[at]) <= limit:
            found += self.buckets[at]
            at += 1
        if not found and at < len(self.buckets):
            return -errno.ENOSPC
        for index, (key, value) in enumerate(found):
            keys[index * 4 : index * 4 + 4] = key.to_bytes(4, "little")
            values[index * 8 : index * 8 + 8] = value.to_bytes(8, "little")
        room._obj.value = len(found)
        after.raw = at.to_bytes(8, "little")
        return -errno.ENOENT if at == len(self.buckets) else 0


@pytest.mark.parametrize(
    "sizes", [[], [1], [0, 3, 0, 5], [4095, 4096, 2], [5003], [11, 9001, 13], [0, 0, 17], [1] * 4099]
)
def test_a_hash_map_is_read_whole_whatever_its_buckets_hold(
    use: Callable[..., Library], tmp_path: Path, sizes: list[int]
) -> None:
    at, buckets = 0, []
    for size in sizes:
        buckets.append([(number, 3 * number) for number in range(at, at + size)])
        at += size
    use(bpf_map_lookup_batch=HashMap(buckets).look_up, bpf_map__key_size=4, bpf_map__value_size=8)
    with opened(tmp_path) as walk:
        found = [(int.from_bytes(key, "little"), int.from_bytes(value, "little")) for key, value in walk.read_map("m")]
    assert found == [(number, 3 * number) for number in range(at)]


def test_a_map_that_cannot_be_read_is_told(use: Callable[..., Library], tmp_path: Path) -> None:
    use(bpf_map_lookup_batch=-errno.EINVAL, bpf_map__key_size=4, bpf_map__value_size=8)
    with pytest.raises(NotSupported, match="bpf_map_lookup_batch m: Invalid argument"), opened(tmp_path) as walk:
        list(walk.read_map("m"))


# -- object files


def test_an_object_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match=r"no BPF object walk \(No such file or directory\); install finwait again"):
        read_object("walk", str(tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x7fELF",
        b"finwait-sources:0000000000000000\0",
        MARK[:-1],
        MARK[:-2] + b"\0",
        b"finwait-sources:unknown\0",
    ],
)
def test_an_object_of_other_sources_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "walk.bpf.o"
    path.write_bytes(content)
    with pytest.raises(NotSupported, match="was not made for this version of finwait") as refused:
        read_object("walk", str(tmp_path))
    assert refused.value.arguments["path"] == str(path)


def test_an_object_of_these_sources_is_taken(tmp_path: Path) -> None:
    (tmp_path / "walk.bpf.o").write_bytes(b"before" + MARK + b"behind")
    assert read_object("walk", str(tmp_path)) == b"before" + MARK + b"behind"


# -- walks


class Descriptor:
    """Stands for an iterator: what read(2) returns or raises, one after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: bytes | int) -> None:
        self.answers = list(answers)
        self.closed = 0
        monkeypatch.setattr(libbpf.os, "read", self.read)
        monkeypatch.setattr(libbpf.os, "close", self.close)

    def read(self, descriptor: int, room: int) -> bytes:
        assert (descriptor, room) == (7, libbpf.CHUNK_BYTES)
        answer = self.answers.pop(0)
        if isinstance(answer, int):
            raise OSError(answer, os.strerror(answer))
        return answer

    def close(self, descriptor: int) -> None:
        assert descriptor == 7
        self.closed += 1


def test_a_walk_that_a_million_silent_objects_interrupt_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    walk = Descriptor(monkeypatch, errno.EAGAIN, errno.EAGAIN, b"one", errno.EAGAIN, b"two", errno.EAGAIN, b"")
    assert drain(7) == b"onetwo"
    assert (walk.answers, walk.closed) == ([], 1)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOMEM, errno.E2BIG])
def test_a_walk_that_fails_is_told_and_closed(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    walk = Descriptor(monkeypatch, b"one", number)
    with pytest.raises(SourceError, match=f"read of an iterator: {os.strerror(number)}"):
        drain(7)
    assert walk.closed == 1


def test_a_walk_of_which_only_the_first_piece_is_wanted_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    walk = Descriptor(monkeypatch, b"one", b"two", b"")
    pieces = read_iterator(7)
    assert next(pieces) == b"one"
    pieces.close()
    assert (walk.answers, walk.closed) == ([b"two", b""], 1)


def test_every_refusal_is_one_of_finwaits_own_errors(use: Callable[..., Library]) -> None:
    use()
    known = Libbpf()
    for number in range(1, 134):
        assert isinstance(known.failure(-number, "request"), FinwaitError)
        assert str(known.failure(number, "request")) == str(known.failure(-number, "request"))
