"""What BPF needs and whether each of finwait's programs loads here (man 2 bpf; Documentation/bpf/). Whatever was loaded is
unloaded at once.
"""  # fmt: skip

from __future__ import annotations

import os

from finwait.errors import FinwaitError, NotPermitted, NotSupported, Phrase
from finwait.sources.host_probes import effective_capabilities
from finwait.table.capability import cannot_tell, no, yes
from finwait.text.messages import mark
from finwait.wire.bpf_layouts import GLOBALS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from finwait.table.capability import Answer, Capability
    from finwait.table.request import Roots

OBJECTS = tuple(GLOBALS)
# The least Linux that loads a program: iter/task_file came with 5.8, iter/tcp with 5.9, bpf_get_socket_cookie() in such
# programs with 5.12, the cookie of a namespace with 5.14.
LINUX_5_8 = mark("Linux 5.8 or later")
LINUX_5_9 = mark("Linux 5.9 or later")
LINUX_5_12 = mark("Linux 5.12 or later")
LINUX_5_14 = mark("Linux 5.14 or later")
PRECONDITIONS = ("libbpf", "bpf_objects", "kernel_types", "bpf_permitted")
CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF = 21, 38, 39
_BTF_MAGIC = 0xEB9F.to_bytes(2, "little")
_SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "ppc64le": 361}
_BPF_PROG_LOAD, _BPF_PROG_TYPE_RAW_TRACEPOINT = 5, 17
_RETURN_ZERO = bytes.fromhex("b700000000000000 9500000000000000")  # r0 = 0; exit
NO_CTYPES = mark("this Python cannot call libraries: {reason}")
_PYTHON_REMEDY = mark("Python with ctypes")
_LIBRARY_REMEDY = mark("package libbpf1, or libbpf of version 1")
_POWERS_REMEDY = mark("CAP_BPF and CAP_PERFMON, or root")
_OUTSIDE_REMEDY = mark("CAP_BPF and CAP_PERFMON outside of containers and user namespaces")


def probe_libbpf(_: Roots, __: Mapping[str, Capability]) -> Answer:
    """The library opens."""
    try:
        from finwait.sources.libbpf import open_library

        library = open_library()
    except ImportError as error:
        return no(Phrase(NO_CTYPES, reason=error), _PYTHON_REMEDY)
    except NotSupported as error:
        return no(error, _LIBRARY_REMEDY)
    return yes(Phrase("libbpf {version}", version=library.version))


def probe_kernel_types(roots: Roots, _: Mapping[str, Capability]) -> Answer:
    """The kernel shows its type information (Documentation/bpf/btf.rst)."""
    path = f"{roots.sys}/kernel/btf/vmlinux"
    remedy = mark("Linux 5.4 or later with CONFIG_DEBUG_INFO_BTF")
    try:
        with open(path, "rb") as file:
            begin = file.read(2)
    except OSError as error:
        reason = Phrase("cannot read {path}: {reason}", path=path, reason=error.strerror)
        return no(reason, remedy) if isinstance(error, FileNotFoundError) else cannot_tell(reason, remedy)
    if begin in {_BTF_MAGIC, _BTF_MAGIC[::-1]}:
        return yes()
    return no(Phrase("{path} is no type information", path=path), remedy)


def probe_objects(_: Roots, __: Mapping[str, Capability], directory: str | None = None) -> Answer:
    """Every object file is there and of this version."""
    from finwait.sources.libbpf import read_object

    try:
        for name in OBJECTS:
            read_object(name, directory)
    except NotSupported as error:
        return no(error, mark("an installation of finwait from its wheel"))
    return yes()


def probe_permitted(roots: Roots, _: Mapping[str, Capability]) -> Answer:
    """A program that does nothing loads, of a type that needs what finwait's own need."""
    powers = effective_capabilities(roots.proc)
    may = powers is None or bool(powers >> CAP_SYS_ADMIN & 1 or (powers >> CAP_BPF & 1 and powers >> CAP_PERFMON & 1))
    if not may:  # the kernel would refuse, or a sandbox might end this process
        return no(Phrase("this process has neither CAP_BPF with CAP_PERFMON nor CAP_SYS_ADMIN"), _POWERS_REMEDY)
    number = _SYS_BPF.get(os.uname().machine)
    if number is None:
        return cannot_tell(Phrase("it cannot be tried on {machine}", machine=os.uname().machine), _POWERS_REMEDY)
    refused = _load_nothing(number)
    if refused:
        reason = os.strerror(refused)
        return no(
            Phrase("the kernel refuses BPF in spite of the capabilities: {reason}", reason=reason), _OUTSIDE_REMEDY
        )
    return yes()


def _load_nothing(number: int) -> int:
    """0, or EPERM or another errno where bpf(2) does not permit. EINVAL comes from behind the check (kernel/bpf/syscall.c,
    bpf_prog_load): such programs are permitted, and not built into the kernel.
    """  # fmt: skip
    from ctypes import CDLL, addressof, c_char, create_string_buffer, get_errno
    from errno import EINVAL
    from struct import pack

    program, license_text = create_string_buffer(_RETURN_ZERO, len(_RETURN_ZERO)), create_string_buffer(b"GPL")
    request = pack(
        "=IIQQ", _BPF_PROG_TYPE_RAW_TRACEPOINT, len(_RETURN_ZERO) // 8, addressof(program), addressof(license_text)
    )
    attributes = (c_char * 48).from_buffer_copy(request.ljust(48, b"\0"))
    descriptor = CDLL(None, use_errno=True).syscall(number, _BPF_PROG_LOAD, attributes, len(attributes))
    if descriptor >= 0:
        os.close(descriptor)
        return 0
    return 0 if get_errno() == EINVAL else get_errno()


def probe_count(_: Roots, known: Mapping[str, Capability]) -> Answer:
    """The program that counts by state loads."""
    return _try_program(known, LINUX_5_9, lambda: _load("count_tcp"))


def probe_list(_: Roots, known: Mapping[str, Capability]) -> Answer:
    """The program that lists connections loads."""
    return _try_program(known, LINUX_5_12, lambda: _load("list_tcp"))


def probe_descriptors(_: Roots, known: Mapping[str, Capability]) -> Answer:
    """The program that lists descriptors loads."""
    return _try_program(known, LINUX_5_12, lambda: _load("task_files"))


def probe_owners(_: Roots, known: Mapping[str, Capability]) -> Answer:
    """The two programs that count by process load."""
    return _try_program(known, LINUX_5_12, lambda: _load("count_owners"))


def probe_trace(_: Roots, known: Mapping[str, Capability]) -> Answer:
    """The programs that tell changes of state load."""
    from finwait.sources.tcp_tracepoints import missing_programs, object_name

    return _try_program(known, LINUX_5_14, lambda: _load(object_name(), missing_programs()))


def probe_namespaces(_: Roots, known: Mapping[str, Capability]) -> Answer:
    """The program that lists descriptors of namespaces loads."""
    return _try_program(known, LINUX_5_8, lambda: _load("ns_files"))


def _load(name: str, without: Sequence[str] = ()) -> None:
    from finwait.sources.libbpf import BpfObject

    BpfObject(name, without=without).close()


def _try_program(known: Mapping[str, Capability], least_linux: str, load: Callable[[], None]) -> Answer:
    """Load, unless something that it needs is known to be missing."""
    for name in PRECONDITIONS:
        if known[name].answer is False:
            return no(Phrase("{capability} is missing", capability=name), known[name].remedy)
    try:
        load()
    except NotPermitted as error:
        return no(error, _POWERS_REMEDY)
    except NotSupported as error:
        return no(error, least_linux)
    except FinwaitError as error:
        return cannot_tell(error)
    return yes()
