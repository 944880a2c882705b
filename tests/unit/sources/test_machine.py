"""Every probe on a machine that has the thing, lacks it, or does not tell: by fakes of what it asks."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from finwait.errors import NotPermitted, NotSupported, SourceError
from finwait.sources import bpf_probes, diag_probes, host_probes, libbpf, machine
from finwait.sources.namespaces import Place
from finwait.table.capability import Capability, no, yes
from finwait.table.request import Roots

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from finwait.table.capability import Answer

YES = (True, None, None)
REFUSED = NotPermitted("refused")
ABSENT = NotSupported("absent")
BROKEN = SourceError("broken")


def raising(error: BaseException) -> Callable[..., Any]:
    def fake(*_: object, **__: object) -> Any:
        raise error

    return fake


def told(answer: Answer) -> tuple[bool | None, str | None]:
    """The answer and its remedy; what is not there has a reason."""
    assert answer[0] or answer[1] is not None
    return answer[0], answer[2]


def known(**answers: bool | None) -> dict[str, Capability]:
    """What was found out before, `yes` where nothing else is said."""
    all_yes = dict.fromkeys(machine.PROBES, True)
    return {
        name: Capability(name, "", (word, REFUSED, f"{name} given")) for name, word in {**all_yes, **answers}.items()
    }


# -- the list


def test_every_answer_has_a_name_and_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = {name: (gives, lambda *_: yes()) for name, (gives, _) in machine.PROBES.items()}
    monkeypatch.setattr(machine, "PROBES", probes)
    found = machine.capabilities()
    assert [known.name for known in found.capabilities] == list(probes)
    assert {known.answer_word for known in found.capabilities} == {"yes"}
    assert (found.kernel, found.user) == (os.uname().release, os.geteuid())


@pytest.mark.parametrize(
    "error", [BROKEN, REFUSED, OSError(errno.EMFILE, "Too many open files"), ImportError("no such module")], ids=repr
)
def test_a_probe_that_fails_cannot_tell(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(machine, "PROBES", {"proc_net": ("", raising(error))})
    (found,) = machine.capabilities().capabilities
    assert found.answer_word == "cannot_tell"
    assert str(error) in str(found.reason)


def test_what_needs_sock_diag_is_not_tried_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = {
        "sock_diag": ("", lambda *_: no(ABSENT, "a newer kernel")),
        "socket_marks": ("", raising(AssertionError())),
    }
    monkeypatch.setattr(machine, "PROBES", probes)
    found = machine.capabilities().capabilities
    assert [(known.answer_word, known.remedy) for known in found] == [("no", "a newer kernel")] * 2
    assert str(found[1].reason) == "sock_diag is missing"


# -- sock_diag


@pytest.mark.parametrize(
    ("error", "answer", "remedy"),
    [(ABSENT, False, diag_probes._DIAG_REMEDY), (REFUSED, False, diag_probes._NETLINK_REMEDY)],
    ids=["not there", "not permitted"],
)
def test_sock_diag_is_there_when_it_answers(
    monkeypatch: pytest.MonkeyPatch, error: Exception, answer: bool, remedy: str
) -> None:
    monkeypatch.setattr(diag_probes, "_dump_nothing", raising(error))
    assert told(diag_probes.probe_sock_diag(Roots(), {})) == (answer, remedy)
    monkeypatch.setattr(diag_probes, "_dump_nothing", lambda _: None)
    assert diag_probes.probe_sock_diag(Roots(), {}) == YES


@pytest.mark.parametrize(
    ("visible", "answer", "remedy"), [(True, True, None), (False, False, "Linux 6.8 or later"), (None, None, None)]
)
def test_bound_sockets_are_seen_where_the_kernel_says_so(
    monkeypatch: pytest.MonkeyPatch, visible: bool | None, answer: bool | None, remedy: str | None
) -> None:
    monkeypatch.setattr(diag_probes, "probe_closed_visible", lambda *_: visible)
    assert told(diag_probes.probe_bound(Roots(), {})) == (answer, remedy)


def test_marks_need_a_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    monkeypatch.setattr(diag_probes, "_dump_nothing", asked.append)
    assert diag_probes.probe_marks(Roots(), {}) == YES
    assert asked[0][0] == 10  # INET_DIAG_BC_MARK_COND
    monkeypatch.setattr(diag_probes, "_dump_nothing", raising(REFUSED))
    assert told(diag_probes.probe_marks(Roots(), {})) == (False, "CAP_NET_ADMIN")
    monkeypatch.setattr(diag_probes, "_dump_nothing", raising(ABSENT))
    assert told(diag_probes.probe_marks(Roots(), {}))[0] is False


class FakeSocket:
    """Refuses every option with `error`, or takes it; remembers whether it was closed."""

    def __init__(self, error: OSError | None = None) -> None:
        self.error = error
        self.options: list[tuple[object, ...]] = []
        self.closed = False

    def setsockopt(self, *option: object) -> None:
        self.options.append(option)
        if self.error is not None:
            raise self.error

    def getsockopt(self, *option: object) -> bytes:
        self.setsockopt(*option)
        return bytes(8)

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("error", "answer", "remedy"),
    [
        (None, True, None),
        (PermissionError(errno.EPERM, "Operation not permitted"), False, "root"),
        (OSError(errno.EINVAL, "Invalid argument"), False, "Linux 4.2 or later"),
    ],
    ids=repr,
)
def test_groups_are_joined_for_a_moment(
    monkeypatch: pytest.MonkeyPatch, error: OSError | None, answer: bool, remedy: str | None
) -> None:
    fake = FakeSocket(error)
    monkeypatch.setattr(diag_probes, "open_diag_socket", lambda: fake)
    assert told(diag_probes.probe_destroy_groups(Roots(), {})) == (answer, remedy)
    assert fake.closed
    assert {option[2] for option in fake.options} <= {1, 3}


@pytest.mark.parametrize(
    ("error", "answer", "remedy"),
    [(None, True, None), (OSError(errno.ENOPROTOOPT, "Protocol not available"), False, "Linux 5.14 or later")],
    ids=repr,
)
def test_a_socket_knows_its_namespace_or_not(
    monkeypatch: pytest.MonkeyPatch, error: OSError | None, answer: bool, remedy: str | None
) -> None:
    fake = FakeSocket(error)
    monkeypatch.setattr(diag_probes, "socket", lambda *_: fake)
    assert told(diag_probes.probe_netns_cookie(Roots(), {})) == (answer, remedy)
    assert fake.closed


@pytest.mark.parametrize(
    ("marks", "shown", "answer"),
    [
        (True, {"vmlinux": True}, True),
        (True, {"vmlinux": False, "tcp_diag": True}, True),
        (True, {"vmlinux": False, "tcp_diag": None}, None),
        (True, {"vmlinux": None, "tcp_diag": None}, None),
        (None, {"vmlinux": True}, True),
        (False, {}, False),
    ],
)
def test_whether_a_socket_could_be_destroyed_is_read_and_not_tried(
    monkeypatch: pytest.MonkeyPatch, marks: bool | None, shown: dict[str, bool | None], answer: bool | None
) -> None:
    monkeypatch.setattr(diag_probes, "probe_type_name", lambda _, __, file: shown[file])
    monkeypatch.setattr(diag_probes, "open_diag_socket", raising(AssertionError()))
    found = diag_probes.probe_sock_destroy(Roots(), known(socket_marks=marks))
    assert told(found)[0] is answer
    assert (found[2] is None) is (answer is True)


# -- the host


def test_proc_net_is_read(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    assert told(host_probes.probe_proc_net(Roots(proc=str(tmp_path)), {})) == (False, "/proc mounted, or --proc")
    (tmp_path / "net" / "tcp").write_bytes(b"  sl  local_address\n")
    assert host_probes.probe_proc_net(Roots(proc=str(tmp_path)), {}) == YES


HIDEPID = "26 1 0:5 / {proc} rw - proc proc rw,hidepid={word}\n27 1 0:6 / /other rw - proc proc rw,hidepid=2\n"


def made_up_proc(tmp_path: Path, mountinfo: str = "", powers: int = 0) -> str:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mountinfo").write_text(mountinfo.format(proc=tmp_path, word="{word}"))
    (tmp_path / "self" / "status").write_text(f"Name:\tx\nCapEff:\t{powers:016x}\n")
    return str(tmp_path)


def test_a_process_that_hides_its_descriptors_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_probes, "hidden_processes", lambda _: [1, 23])
    found = host_probes.probe_other_processes(Roots(), {})
    assert told(found) == (False, host_probes._PTRACE)
    assert "2, the first is process 1" in str(found[1])


@pytest.mark.parametrize(
    ("word", "powers", "answer"),
    [
        ("0", 0, True),
        ("1", 0, True),
        ("2", 0, None),
        ("invisible", 0, None),
        ("ptraceable", 0, None),
        ("2", 1 << 19, True),
    ],
)
def test_proc_may_leave_processes_out(tmp_path: Path, word: str, powers: int, answer: bool | None) -> None:
    proc = made_up_proc(tmp_path, HIDEPID.replace("{word}", word), powers)
    assert told(host_probes.probe_other_processes(Roots(proc=proc), {}))[0] is answer


@pytest.mark.parametrize(
    ("status", "powers"), [("CapEff:\t0000000000000001\n", 1), ("Name: x\n", None), ("CapEff:\n", None), (None, None)]
)
def test_effective_capabilities_are_read(tmp_path: Path, status: str | None, powers: int | None) -> None:
    if status is not None:
        (tmp_path / "self").mkdir()
        (tmp_path / "self" / "status").write_text(status)
    assert host_probes.effective_capabilities(str(tmp_path)) == powers


ONE, OTHER = Place("/one", 2, "one"), Place("/other", 3, "other")


@pytest.mark.parametrize(
    ("places", "hidden", "errors", "answer"),
    [
        ([ONE], 0, {}, True),
        ([ONE, OTHER], 23, {"/one": BROKEN}, True),
        ([ONE, OTHER], 0, {"/one": REFUSED}, True),
        ([ONE], 0, {"/one": REFUSED}, False),
        ([], 0, {}, True),
        ([], 23, {}, None),
        ([], 23, {"/proc/thread-self/ns/net": REFUSED}, False),
        ([ONE], 0, {"/one": BROKEN, "/proc/thread-self/ns/net": REFUSED}, False),
    ],
)
def test_another_namespace_is_entered_or_else_the_own(
    monkeypatch: pytest.MonkeyPatch,
    places: list[Place],
    hidden: int,
    errors: dict[str, Exception],
    answer: bool | None,
) -> None:
    def enter(place: Place, opener: Callable[[], None]) -> None:
        if str(place.path) in errors:
            raise errors[str(place.path)]
        opener()

    monkeypatch.setattr(host_probes, "_find_others", lambda _, __: (places, hidden))
    monkeypatch.setattr(host_probes, "open_inside", enter)
    found = host_probes.probe_other_namespaces(Roots(), {})
    assert told(found)[0] is answer
    assert (found[2] is None) is (answer is True)


def test_other_namespaces_are_found_by_their_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_probes, "NAMED_DIR", str(tmp_path / "no-names"))
    for pid in (1, 2, 3):
        (tmp_path / str(pid) / "ns").mkdir(parents=True)
    own, other = tmp_path / "1" / "ns" / "net", tmp_path / "2" / "ns" / "net"
    own.touch()
    other.touch()
    places, hidden = host_probes._find_others(str(tmp_path), own.stat().st_ino)
    assert ([place.path for place in places], hidden) == ([str(other)], 0)


def test_a_cgroup_tree_is_listed(tmp_path: Path) -> None:
    there = host_probes.probe_cgroup2(Roots(cgroup=str(tmp_path)), {})
    assert (told(there), str(there[1])) == ((True, None), f"at {tmp_path}")
    gone = host_probes.probe_cgroup2(Roots(cgroup=str(tmp_path / "gone")), {})
    assert gone[0] is False
    assert str(gone[1]).startswith(f"cannot read {tmp_path}/gone: ")
    unmounted = host_probes.probe_cgroup2(Roots(proc=made_up_proc(tmp_path)), {})
    assert str(unmounted[1]) == "no cgroup v2 tree is mounted"
    assert unmounted[2] is not None


@pytest.mark.parametrize(
    ("code", "answer", "words"),
    [
        (0, True, ""),
        (errno.EPERM, False, os.strerror(errno.EPERM)),
        (errno.ENOSPC, False, os.strerror(errno.ENOSPC)),
        (host_probes._POWERLESS, False, "security module"),
        (host_probes._NOT_TRIED, None, "no ordinary user"),
    ],
)
def test_the_child_tells_by_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, code: int, answer: bool | None, words: str
) -> None:
    monkeypatch.setattr(host_probes, "_make_namespaces", lambda _: code)
    found = host_probes.probe_user_namespaces(Roots(), {})
    assert found[0] is answer
    assert words in str(found[1])


def test_a_child_that_fails_or_is_killed_is_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_probes, "_make_namespaces", raising(PermissionError(errno.EPERM, "setresuid")))
    assert told(host_probes.probe_user_namespaces(Roots(), {}))[0] is None
    monkeypatch.setattr(host_probes, "_make_namespaces", lambda _: os.kill(os.getpid(), 31))  # SIGSYS: seccomp
    found = host_probes.probe_user_namespaces(Roots(), {})
    assert (told(found)[0], str(found[1])[-9:]) == (False, "signal 31")


# -- BPF


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "open_library", lambda: libbpf.Libbpf("libbpf-that-is-not-there.so.1"))


@pytest.mark.usefixtures("no_library")
def test_a_missing_library_names_its_package() -> None:
    found = bpf_probes.probe_libbpf(Roots(), {})
    assert told(found) == (False, "package libbpf1, or libbpf of version 1")
    assert "libbpf-that-is-not-there.so.1" in str(found[1])


def test_a_library_tells_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    library = type("Library", (), {"version": "v1.4"})()
    monkeypatch.setattr(libbpf, "open_library", lambda: library)
    found = bpf_probes.probe_libbpf(Roots(), {})
    assert (found[0], str(found[1]), found[2]) == (True, "libbpf v1.4", None)


def test_python_without_ctypes_cannot_load_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "finwait.sources.libbpf", None)
    assert told(bpf_probes.probe_libbpf(Roots(), {})) == (False, "Python with ctypes")


@pytest.mark.parametrize(
    ("content", "answer"),
    [(b"\x9f\xeb\x01", True), (b"\xeb\x9f\x01", True), (b"\x7fELF", False), (b"", False), (None, False)],
)
def test_type_information_is_known_by_its_magic(tmp_path: Path, content: bytes | None, answer: bool) -> None:
    (tmp_path / "kernel" / "btf").mkdir(parents=True)
    if content is not None:
        (tmp_path / "kernel" / "btf" / "vmlinux").write_bytes(content)
    found = bpf_probes.probe_kernel_types(Roots(sys=str(tmp_path)), {})
    assert told(found) == (answer, None if answer else "Linux 5.4 or later with CONFIG_DEBUG_INFO_BTF")


def test_type_information_that_cannot_be_opened_does_not_tell(tmp_path: Path) -> None:
    (tmp_path / "kernel" / "btf" / "vmlinux").mkdir(parents=True)
    assert told(bpf_probes.probe_kernel_types(Roots(sys=str(tmp_path)), {}))[0] is None


def test_an_installation_without_objects_says_so(tmp_path: Path) -> None:
    found = bpf_probes.probe_objects(Roots(), {}, str(tmp_path))
    assert told(found) == (False, "an installation of finwait from its wheel")
    for name in bpf_probes.OBJECTS:
        (tmp_path / f"{name}.bpf.o").write_bytes(b"of another version")
    assert told(bpf_probes.probe_objects(Roots(), {}, str(tmp_path)))[0] is False
    for name in bpf_probes.OBJECTS:
        mark = libbpf._SOURCES_MARK + libbpf.SOURCES_DIGEST.encode() + b"\0"
        (tmp_path / f"{name}.bpf.o").write_bytes(mark)
    assert bpf_probes.probe_objects(Roots(), {}, str(tmp_path)) == YES


SYS_ADMIN, PERFMON, BPF = 1 << 21, 1 << 38, 1 << 39


@pytest.mark.parametrize(
    ("powers", "refused", "answer", "remedy"),
    [
        (BPF | PERFMON, 0, True, None),
        (SYS_ADMIN, 0, True, None),
        (BPF | PERFMON, errno.EPERM, False, bpf_probes._OUTSIDE_REMEDY),
        (BPF, None, False, bpf_probes._POWERS_REMEDY),
        (PERFMON, None, False, bpf_probes._POWERS_REMEDY),
        (0, None, False, bpf_probes._POWERS_REMEDY),
    ],
)
def test_bpf_is_permitted_by_the_kernel_to_those_with_the_capabilities(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    powers: int,
    refused: int | None,
    answer: bool,
    remedy: str | None,
) -> None:
    """refused: what bpf(2) says, None: it must not be asked."""
    fake = raising(AssertionError()) if refused is None else lambda _: refused
    monkeypatch.setattr(bpf_probes, "_load_nothing", fake)
    monkeypatch.setattr(bpf_probes, "_SYS_BPF", {os.uname().machine: 321})
    proc = made_up_proc(tmp_path, powers=powers)
    assert told(bpf_probes.probe_permitted(Roots(proc=proc), {})) == (answer, remedy)


def test_bpf_cannot_be_tried_on_a_machine_whose_calls_are_not_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bpf_probes, "_SYS_BPF", {})
    proc = made_up_proc(tmp_path, powers=SYS_ADMIN)
    assert told(bpf_probes.probe_permitted(Roots(proc=proc), {}))[0] is None


PROGRAMS = {
    "bpf_count": (bpf_probes.probe_count, "Linux 5.9 or later"),
    "bpf_list": (bpf_probes.probe_list, "Linux 5.12 or later"),
    "bpf_descriptors": (bpf_probes.probe_descriptors, "Linux 5.12 or later"),
    "bpf_owners": (bpf_probes.probe_owners, "Linux 5.12 or later"),
    "bpf_trace": (bpf_probes.probe_trace, "Linux 5.14 or later"),
    "bpf_namespaces": (bpf_probes.probe_namespaces, "Linux 5.8 or later"),
}


class FakeObject:
    """A BPF object that loads."""

    opened: list[tuple[str, object]]
    closed: list[str]

    def __init__(self, name: str, shared: object = None, without: tuple[str, ...] = ()) -> None:
        self.name = name
        self.without = without
        self.opened.append((name, shared))

    def close(self) -> None:
        self.closed.append(self.name)

    def __enter__(self) -> FakeObject:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_loads_is_unloaded(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    FakeObject.opened, FakeObject.closed = [], []
    monkeypatch.setattr(libbpf, "BpfObject", FakeObject)
    assert PROGRAMS[name][0](Roots(), known()) == YES
    assert sorted(FakeObject.closed) == sorted(opened for opened, _ in FakeObject.opened)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_does_not_load_says_what_would_help(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    probe, least_linux = PROGRAMS[name]
    for error, answer in (
        (REFUSED, (False, bpf_probes._POWERS_REMEDY)),
        (ABSENT, (False, least_linux)),
        (BROKEN, (None, None)),
    ):
        monkeypatch.setattr(libbpf, "BpfObject", raising(error))
        assert told(probe(Roots(), known())) == answer


@pytest.mark.parametrize("missing", bpf_probes.PRECONDITIONS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_not_tried_without_what_it_needs(monkeypatch: pytest.MonkeyPatch, name: str, missing: str) -> None:
    monkeypatch.setattr(libbpf, "BpfObject", raising(AssertionError()))
    found = PROGRAMS[name][0](Roots(), known(**{missing: False}))
    assert (told(found), str(found[1])) == ((False, f"{missing} given"), f"{missing} is missing")


@pytest.mark.parametrize("unknown", bpf_probes.PRECONDITIONS)
def test_a_program_is_tried_where_something_cannot_be_told(monkeypatch: pytest.MonkeyPatch, unknown: str) -> None:
    FakeObject.opened, FakeObject.closed = [], []
    monkeypatch.setattr(libbpf, "BpfObject", FakeObject)
    assert bpf_probes.probe_count(Roots(), known(**{unknown: None})) == YES
