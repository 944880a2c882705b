"""libbpf.so.1 by ctypes: the objects of bpf/ loaded, their iterators read, their maps looked up.

libbpf's own messages are kept and told only where something fails. Nothing is pinned; whatever is opened is closed with
the object. Documentation/bpf/libbpf/, bpf_iter: Documentation/bpf/bpf_iterators.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
from ctypes import POINTER, byref, c_bool, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from mmap import MAP_SHARED, PROT_READ, mmap
from signal import SIGINT, signal

from finwait.errors import FinwaitError, NotPermitted, NotSupported, SourceError
from finwait.wire.bpf_layouts import SOURCES_DIGEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LIBRARY = "libbpf.so.1"
MAJOR = 1
CHUNK_BYTES = 1 << 15  # an iterator's buffer (kernel/bpf/bpf_iter.c, bpf_seq_read)
MESSAGES_KEPT = 40
_BATCH = 4096
_MISSES = "recursion_misses:"  # bpf_prog_show_fdinfo (kernel/bpf/syscall.c)
_SOURCES_MARK = b"finwait-sources:"

_PRINT = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
# name: (result, arguments)
_FUNCTIONS: dict[str, tuple[object, tuple[object, ...]]] = {
    "libbpf_major_version": (c_uint32, ()),
    "libbpf_version_string": (c_char_p, ()),
    "libbpf_set_print": (c_void_p, (_PRINT,)),
    "bpf_object__open_mem": (c_void_p, (c_char_p, c_size_t, c_void_p)),
    "bpf_object__load": (c_int, (c_void_p,)),
    "bpf_object__close": (None, (c_void_p,)),
    "bpf_object__find_program_by_name": (c_void_p, (c_void_p, c_char_p)),
    "bpf_object__find_map_by_name": (c_void_p, (c_void_p, c_char_p)),
    "bpf_map__fd": (c_int, (c_void_p,)),
    "libbpf_num_possible_cpus": (c_int, ()),
    "bpf_map__key_size": (c_uint32, (c_void_p,)),
    "bpf_map__value_size": (c_uint32, (c_void_p,)),
    "bpf_map__set_max_entries": (c_int, (c_void_p, c_uint32)),
    "bpf_map_lookup_elem": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_map_update_elem": (c_int, (c_int, c_void_p, c_void_p, c_uint64)),
    "bpf_map_lookup_batch": (c_int, (c_int, c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_uint32), c_void_p)),
    "bpf_program__attach_iter": (c_void_p, (c_void_p, c_void_p)),
    "bpf_program__attach": (c_void_p, (c_void_p,)),
    "bpf_program__set_autoload": (c_int, (c_void_p, c_bool)),
    "bpf_program__fd": (c_int, (c_void_p,)),
    "bpf_prog_test_run_opts": (c_int, (c_int, c_void_p)),
    "bpf_link__fd": (c_int, (c_void_p,)),
    "bpf_link__destroy": (c_int, (c_void_p,)),
    "bpf_iter_create": (c_int, (c_int,)),
}


class InterruptsPutOff:
    """Ctrl-C comes behind the block: in it libbpf calls back to keep what it says, and an exception would be lost there."""

    def __enter__(self) -> None:
        self._came = False
        self._before: object = None
        try:
            self._before = signal(SIGINT, self._remember)
        except ValueError:  # not the main thread, which alone is interrupted
            return

    def _remember(self, *_: object) -> None:
        self._came = True

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            return
        signal(SIGINT, self._before)  # type: ignore[arg-type]
        if self._came and callable(self._before):
            self._before(SIGINT, None)


class _RunOptions(ctypes.Structure):
    """struct bpf_test_run_opts (bpf.h)."""

    _fields_ = (
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    )


class Libbpf:
    """The library. `messages` are the last lines that it would have printed. Raises NotSupported where it is not there, or
    is of another major version.
    """  # fmt: skip

    def __init__(self, path: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(path, use_errno=True)
        except OSError as error:
            raise NotSupported("{library} is not installed (package libbpf1)", library=path) from error
        self._functions = {}
        for name, (result, arguments) in _FUNCTIONS.items():
            try:
                function = getattr(self._library, name)
            except AttributeError as error:
                raise self._wrong_version("?") from error
            function.restype, function.argtypes = result, arguments
            self._functions[name] = function
        if self.call("libbpf_major_version") != MAJOR:
            raise self._wrong_version(self.version)
        self.messages: list[str] = []
        self._format = ctypes.CDLL(None).vsnprintf
        self._format.argtypes = (c_char_p, c_size_t, c_char_p, c_void_p)
        self._keep = _PRINT(self._keep_message)
        self.call("libbpf_set_print", self._keep)

    @staticmethod
    def _wrong_version(version: str) -> NotSupported:
        return NotSupported("libbpf {version} is not of major version 1, which finwait knows", version=version)

    @property
    def version(self) -> str:
        """As the library calls itself, for example v1.1."""
        return bytes(self.call("libbpf_version_string")).decode("ascii", "replace")

    def call(self, name: str, *arguments: object) -> int:
        """Call the function `name`; what it returns (pointers as numbers, NULL as 0)."""
        return self._functions[name](*arguments) or 0

    @property
    def processors(self) -> int:
        """One more than the highest number that a processor of this machine may have."""
        try:
            with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:  # 0-3,8-11
                return int(file.read().strip().rpartition(",")[2].rpartition("-")[2]) + 1
        except (OSError, ValueError):
            return self.call("libbpf_num_possible_cpus")

    def _keep_message(self, level: int, template: bytes, values: int) -> int:
        if level:  # LIBBPF_WARN is 0; the others tell each step
            return 0
        text = ctypes.create_string_buffer(1 << 16)
        self._format(text, len(text), template, values)
        self.messages.append(text.value.decode("utf-8", "replace").strip())
        del self.messages[:-MESSAGES_KEPT]
        return 0

    def failure(self, number: int, request: str) -> FinwaitError:
        """What errno `number` means, with the last of libbpf's warnings."""
        number = abs(number)
        reason = os.strerror(number)
        said = next((line for line in reversed(self.messages) if line.startswith("libbpf: ")), "")
        if number == errno.EPERM:  # the verifier refuses by EACCES
            return NotPermitted(
                "BPF is not permitted here ({request}: {reason}); it needs CAP_BPF and CAP_PERFMON, or root",
                request=request,
                reason=reason,
            )
        if said:
            reason = f"{reason}; {said}"
        if number in {
            errno.EACCES,
            errno.EINVAL,
            errno.ESRCH,
            errno.ENOENT,
            errno.EOPNOTSUPP,
            errno.ENOTSUP,
            errno.ENOSYS,
        }:
            return NotSupported(
                "this kernel refuses the BPF program ({request}: {reason})", request=request, reason=reason
            )
        return SourceError("BPF failed ({request}: {reason})", request=request, reason=reason)


_library: Libbpf | None = None


def open_library() -> Libbpf:
    """libbpf, opened once a process. Raises NotSupported."""
    global _library
    if _library is None:
        _library = Libbpf()
    return _library


def read_object(name: str, directory: str | None = None) -> bytes:
    """The object file `name`. Raises NotSupported where this installation has none, or one that other sources made."""
    path = os.path.join(directory or os.path.join(os.path.dirname(__file__), "bpf_objects"), f"{name}.bpf.o")
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise NotSupported(
            "this installation has no BPF object {name} ({reason}); install finwait again",
            name=name,
            reason=os.strerror(error.errno or 0),
        ) from error
    if _SOURCES_MARK + SOURCES_DIGEST.encode() + b"\0" not in data:
        raise NotSupported(
            "the BPF object {path} was not made for this version of finwait; install it again (in a checkout: make bpf)",
            path=path,
        )
    return data


class BpfObject:
    """One object of bpf/, loaded. rooms: elements of its maps by name (bytes, of a ring), where that is for user space to say.
    without: programs that are not loaded. Close it; it is a context manager.

    Raises NotSupported, NotPermitted or SourceError.
    """

    def __init__(
        self,
        name: str,
        rooms: Mapping[str, int] | None = None,
        *,
        without: Sequence[str] = (),
        directory: str | None = None,
    ) -> None:
        self.name = name
        self._object = 0
        self._links: dict[str, int] = {}
        self._library = open_library()
        data = read_object(name, directory)
        self._library.messages.clear()
        with InterruptsPutOff():
            self._object = self._library.call("bpf_object__open_mem", data, len(data), None)
        if not self._object:
            raise self._library.failure(ctypes.get_errno(), f"bpf_object__open {name}")
        try:
            for map_name, room in (rooms or {}).items():
                self._check(
                    self._library.call("bpf_map__set_max_entries", self._map(map_name), room),
                    "bpf_map__set_max_entries",
                )
            for program in without:
                self._library.call("bpf_program__set_autoload", self._program(program), False)
            with InterruptsPutOff():
                loaded = self._library.call("bpf_object__load", self._object)
            self._check(loaded, "bpf_object__load")
        except BaseException:
            self.close()
            raise

    def _check(self, result: int, request: str) -> int:
        if result < 0:
            raise self._library.failure(result, f"{request} {self.name}")
        return result

    def _map(self, name: str) -> int:
        found = self._library.call("bpf_object__find_map_by_name", self._object, name.encode())
        if not found:
            raise SourceError(
                "BPF failed ({request}: {reason})", request=f"map {name}", reason=os.strerror(errno.ENOENT)
            )
        return found

    def _program(self, name: str) -> int:
        found = self._library.call("bpf_object__find_program_by_name", self._object, name.encode())
        if not found:
            raise SourceError(
                "BPF failed ({request}: {reason})", request=f"program {name}", reason=os.strerror(errno.ENOENT)
            )
        return found

    def map_descriptor(self, name: str) -> int:
        """Descriptor of map `name`; it belongs to the object."""
        return self._check(self._library.call("bpf_map__fd", self._map(name)), f"bpf_map__fd {name}")

    def read_section(self, name: str) -> bytes:
        """The globals in section `name`, ``.bss`` or ``.data``, as they are now."""
        return self.read_element(name, 0)

    def write_section(self, name: str, value: bytes) -> None:
        """Set all globals in section `name`; zeros follow a `value` that is shorter."""
        size = self._library.call("bpf_map__value_size", self._map(name))
        key = c_uint32(0)
        content = ctypes.create_string_buffer(value, size)
        result = self._library.call("bpf_map_update_elem", self.map_descriptor(name), byref(key), content, 0)
        self._check(result, f"bpf_map_update_elem {name}")

    def read_map(self, name: str) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of every element of hash map `name`, by many at once (BPF_MAP_LOOKUP_BATCH, Linux 5.6)."""
        library, found = self._library, self._map(name)
        descriptor = self.map_descriptor(name)
        key_size, value_size = library.call("bpf_map__key_size", found), library.call("bpf_map__value_size", found)
        room = _BATCH
        position = ctypes.create_string_buffer(8)
        begun = False
        while True:
            keys, values = ctypes.create_string_buffer(room * key_size), ctypes.create_string_buffer(room * value_size)
            count = c_uint32(room)
            start = position if begun else None
            after = ctypes.create_string_buffer(8)
            result = library.call("bpf_map_lookup_batch", descriptor, start, after, keys, values, byref(count), None)
            if result == -errno.ENOSPC:  # one bucket has more than there is room for
                room *= 2
                continue
            if result < 0 and result != -errno.ENOENT:
                raise library.failure(result, f"bpf_map_lookup_batch {name}")
            key_bytes, value_bytes = keys.raw, values.raw
            for index in range(count.value):
                yield (
                    key_bytes[index * key_size : (index + 1) * key_size],
                    value_bytes[index * value_size : (index + 1) * value_size],
                )
            if result < 0:
                return
            position, begun = after, True

    def read_element(self, name: str, index: int) -> bytes:
        """Element `index` of array map `name`."""
        value = ctypes.create_string_buffer(self._library.call("bpf_map__value_size", self._map(name)))
        key = c_uint32(index)
        result = self._library.call("bpf_map_lookup_elem", self.map_descriptor(name), byref(key), value)
        self._check(result, f"bpf_map_lookup_elem {name}")
        return value.raw

    def find_element(self, name: str, key: bytes) -> bytes | None:
        """The value of `key` in hash map `name`; None where it has none."""
        value = ctypes.create_string_buffer(self._library.call("bpf_map__value_size", self._map(name)))
        result = self._library.call("bpf_map_lookup_elem", self.map_descriptor(name), key, value)
        if result == -errno.ENOENT:
            return None
        self._check(result, f"bpf_map_lookup_elem {name}")
        return value.raw

    def map_memory(self, name: str, elements: int) -> mmap:
        """The memory of array map `name` (BPF_F_MMAPABLE) of so many elements, each at a multiple of eight bytes; to read.

        It is the caller's to close. Raises SourceError.
        """
        size = (self._library.call("bpf_map__value_size", self._map(name)) + 7) // 8 * 8 * elements
        try:
            return mmap(self.map_descriptor(name), size, MAP_SHARED, PROT_READ)
        except (OSError, ValueError) as error:
            raise SourceError("BPF failed ({request}: {reason})", request=f"mmap {name}", reason=error) from error

    def run(self, program: str) -> None:
        """Run `program`, of type syscall, once (BPF_PROG_RUN, Linux 5.14)."""
        options = _RunOptions(sz=ctypes.sizeof(_RunOptions))
        descriptor = self._library.call("bpf_program__fd", self._program(program))
        self._check(self._library.call("bpf_prog_test_run_opts", descriptor, byref(options)), f"run of {program}")

    def missed(self, program: str) -> int:
        """How often the kernel has left out `program`, because it ran on that processor already (Linux 5.12; before, 0)."""
        descriptor = self._library.call("bpf_program__fd", self._program(program))
        with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
            words = file.read().split()
        return int(words[words.index(_MISSES) + 1]) if _MISSES in words else 0

    def open_iterator(self, program: str) -> int:
        """A descriptor that walks what `program` iterates over, for iter/tcp in the calling thread's network namespace. It is
        the caller's to close.
        """  # fmt: skip
        library = self._library
        if program not in self._links:
            with InterruptsPutOff():
                link = library.call("bpf_program__attach_iter", self._program(program), None)
            if not link:
                raise library.failure(ctypes.get_errno(), f"bpf_program__attach_iter {program}")
            self._links[program] = link
        descriptor = library.call("bpf_iter_create", library.call("bpf_link__fd", self._links[program]))
        return self._check(descriptor, "bpf_iter_create")

    def attach(self, program: str) -> None:
        """Let the kernel run `program` at its tracepoint until this object is closed."""
        with InterruptsPutOff():
            link = self._library.call("bpf_program__attach", self._program(program))
        if not link:
            raise self._library.failure(ctypes.get_errno(), f"bpf_program__attach {program}")
        self._links[program] = link

    def close(self) -> None:
        """Detach and unload."""
        for link in self._links.values():
            self._library.call("bpf_link__destroy", link)
        if self._object:
            self._library.call("bpf_object__close", self._object)
        self._links.clear()
        self._object = 0

    def __enter__(self) -> BpfObject:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_iterator(descriptor: int) -> Iterator[bytes]:
    """What the walk writes, in pieces; closes `descriptor`. Raises SourceError.

    A walk that writes nothing is interrupted by EAGAIN after a million objects, and goes on when it is read again.
    """
    try:
        while True:
            try:
                piece = os.read(descriptor, CHUNK_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise SourceError(
                    "BPF failed ({request}: {reason})",
                    request="read of an iterator",
                    reason=os.strerror(error.errno or 0),
                ) from error
            if not piece:
                return
            yield piece
    finally:
        os.close(descriptor)


def drain(descriptor: int) -> bytes:
    """All that a walk writes; closes `descriptor`. Raises SourceError."""
    return b"".join(read_iterator(descriptor))
