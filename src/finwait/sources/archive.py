"""X.finwait: a zip archive with manifest.json and a raw dump for each namespace; and the writers of both recordings.

manifest.json: schema, finwait's version, host, boot_id, kernel, wall and boot clock of begin and end, and for each
namespace its cookie, inode, name, dump file, interface names, sysctls and counters (the texts of /proc/net files).
"""

from __future__ import annotations

import json
import os
import time

from finwait.errors import ParseError, Phrase, UsageError
from finwait.sources.bindings import read_interface_names
from finwait.sources.capabilities import probe_closed_visible
from finwait.sources.counters import SECRETS
from finwait.sources.namespaces import Place, open_inside
from finwait.sources.recording import RawDumpReader, Recording
from finwait.sources.text_file import cannot_write, read_line
from finwait.table.snapshot import Netns, Notice, Provenance
from finwait.text.messages import mark
from finwait.version import __version__
from finwait.wire.inet_diag import blank_keys, socket_messages
from finwait.wire.netlink import NLMSG_DONE, build_message
from finwait.wire.recorded_values import integer_or_none, seconds_or_none, text_or_none

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import IO, BinaryIO, TypeVar
    from zipfile import ZipFile

    from finwait.sources.readers import Reader
    from finwait.wire.masking import Mask

    Result = TypeVar("Result")

SCHEMA = "finwait.recording/1"
MANIFEST_BYTES = 64 << 20  # some 5,000 namespaces
ZIP_STORED, ZIP_DEFLATED = 0, 8  # methods of compression
END = build_message(NLMSG_DONE, 2, bytes(4))  # NLM_F_MULTI, errno 0
COUNTER_FILES = ("snmp", "netstat", "sockstat", "sockstat6")
_SYSCTL_DIR = "/proc/sys/net"
_SYSCTLS = ("core/somaxconn", "ipv4/ip_local_port_range", "ipv4/ip_local_reserved_ports",
            "netfilter/nf_conntrack_max", "netfilter/nf_conntrack_count")  # fmt: skip
NOT_AN_ARCHIVE = mark("{path} is a zip archive but no recording of finwait: {reason}")
INCOMPLETE = mark("the recording says of itself that it is not complete: {code}")


def open_archive(file: BinaryIO, name: str) -> Recording:
    """The archive in `file`. Raises ParseError where it is none, or not whole."""
    from zipfile import ZipFile

    archive: ZipFile | None = None
    try:
        archive = ZipFile(file)
        return _read_manifest(archive, file, name)
    except BaseException as error:
        if archive is not None:
            archive.close()
        file.close()
        if isinstance(error, damages()):
            raise ParseError(NOT_AN_ARCHIVE, path=name, reason=_reason(error)) from error
        raise


def _read_manifest(archive: ZipFile, file: BinaryIO, name: str) -> Recording:
    if archive.getinfo("manifest.json").file_size > MANIFEST_BYTES:
        raise ValueError(f"its manifest.json is longer than {MANIFEST_BYTES} bytes")
    manifest = json.loads(archive.read("manifest.json"))
    if manifest["schema"] != SCHEMA:
        raise ParseError("{path} has schema {schema}, finwait reads {known}", path=name, schema=str(manifest["schema"])[:80],
                         known=SCHEMA)  # fmt: skip
    provenance = Provenance(
        "recording",
        host=text_or_none(manifest["host"]),
        taken_from=seconds_or_none(manifest["taken_from"]),
        taken_to=seconds_or_none(manifest["taken_to"]),
    )
    readers: list[Reader] = [_open_part(archive, part, name) for part in manifest["namespaces"]]
    for warning in manifest["warnings"]:
        arguments = {"code": str(warning["code"])}
        provenance.add_notice(Notice("recorded_incomplete", INCOMPLETE, missing="sockets", arguments=arguments))
    return Recording(readers, provenance, (archive, file), shows_closed=manifest["shows_closed"] is True)


def damages() -> tuple[type[Exception], ...]:
    """What reading a damaged archive or its manifest raises; RecursionError is a RuntimeError, BadZipFile none of them."""
    from struct import error as struct_error
    from zipfile import BadZipFile
    from zlib import error as zlib_error

    return (BadZipFile, zlib_error, struct_error, LookupError, TypeError, ValueError, OSError, EOFError, RuntimeError,
            MemoryError, OverflowError)  # fmt: skip


def _reason(error: BaseException) -> Phrase | str:
    text = str(error.args[0] if error.args else error)[:200]
    is_key = isinstance(error, KeyError) and text.isidentifier()  # of the manifest; zipfile has sentences of its own
    return Phrase("{name} is missing", name=text) if is_key else text


def _open_part(archive: ZipFile, part: Mapping[str, object], path: str) -> Reader:
    netns = Netns(integer_or_none(part["cookie"]), integer_or_none(part["inode"]), text_or_none(part["name"]))
    interfaces = part["interfaces"]
    sysctls = part["sysctls"]
    if not isinstance(interfaces, dict) or not isinstance(sysctls, dict):
        raise TypeError("interfaces and sysctls should be objects")
    names = {int(index): str(name) for index, name in interfaces.items()}
    info = archive.getinfo(str(part["file"]))
    if info.compress_type not in {ZIP_STORED, ZIP_DEFLATED}:
        raise ValueError(f"{info.filename} is compressed in a way that finwait never uses")
    reader = RawDumpReader(_Part(archive.open(info), path), netns, names)  # type: ignore[arg-type]
    first, last = [integer_or_none(word, 16) for word in str(sysctls.get("ipv4/ip_local_port_range", "")).split()] or (
        None,
        None,
    )
    if first is not None and last is not None:
        reader.port_range = (first, last)
    return reader


class _Part:
    """A dump inside an archive. What is damaged in it is a ParseError."""

    def __init__(self, file: IO[bytes], path: str) -> None:
        self._file = file
        self._path = path

    def readinto(self, buffer: memoryview) -> int:
        """Bytes read into `buffer`, 0 at the end."""
        try:
            return self._file.readinto(buffer)  # type: ignore[attr-defined, no-any-return]
        except damages() as error:
            raise ParseError(NOT_AN_ARCHIVE, path=self._path, reason=_reason(error)) from error

    def close(self) -> None:
        """Close it."""
        self._file.close()


class Recorder:
    """Writes a recording beside its place and puts it there when it is whole: a failure leaves what was there before."""

    def __init__(self, path: str, mask: Mask | None = None) -> None:
        """mask: other addresses and names for those that are written.

        Raises UsageError for a name that ends in neither .diag nor .finwait, SourceError where it cannot be written.
        """
        self.path = path
        self.mask = mask
        self.partial = f"{path}.{os.getpid()}.part"
        if not path.endswith((".diag", ".finwait")):
            raise UsageError("--record writes X.diag (ss reads it) or X.finwait, not '{path}'", path=path)
        self.namespaces: list[dict[str, object]] = []
        self.began = (time.time(), time.clock_gettime(time.CLOCK_BOOTTIME))
        try:
            self.file = open(self.partial, "xb")  # noqa: SIM115 - closed by finish or abandon
        except OSError as error:
            raise cannot_write(path, error) from error
        self.archive: ZipFile | None = None
        self.part: BinaryIO = self.file
        if path.endswith(".finwait"):
            from zipfile import ZipFile

            self.archive = ZipFile(self.file, "w", ZIP_DEFLATED, compresslevel=1)

    def begin(self, place: Place, netns: Netns) -> None:
        """What follows are the sockets of this namespace. Raises UsageError for a second one in a .diag file."""
        if self.archive is None:
            if self.namespaces:
                raise UsageError("a .diag file holds one network namespace; record several as X.finwait")
            self.namespaces.append({})
            return
        archive = self.archive
        number = len(self.namespaces) + 1
        name = f"{number:04d}.diag"
        self.namespaces.append(
            {
                "cookie": netns.cookie,
                "inode": netns.inode,
                "name": self._masked("netns", netns.name),
                "file": name,
                "interfaces": {
                    str(index): self._masked("interface", text) for index, text in read_interface_names(place).items()
                },
                "sysctls": open_inside(place, _read_sysctls),
                "counters": open_inside(place, _read_counters),
            }
        )
        self.part = self._written(lambda: archive.open(name, "w", force_zip64=True))  # type: ignore[assignment]

    def write(self, datagram: memoryview) -> None:
        """Keep the sockets of one datagram. Raises SourceError where they cannot be written."""
        messages = blank_keys(socket_messages(datagram))
        self._written(lambda: self.part.write(messages if self.mask is None else self.mask.messages(messages)))

    def end(self) -> None:
        """The namespace's sockets were all written. Raises SourceError where they cannot be."""
        if self.archive is not None:
            self._written(lambda: self.part.write(END))
            self._written(self.part.close)

    def finish(self, provenance: Provenance) -> None:
        """Put the recording in its place. Raises SourceError."""
        self._written(lambda: self._finish(provenance))

    def _finish(self, provenance: Provenance) -> None:
        if self.archive is None:
            self.file.write(END)
        else:
            self.archive.writestr("manifest.json", json.dumps(self._manifest(provenance), indent=1))
            self.archive.close()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self.partial, self.path)

    def _masked(self, kind: str, name: str | None) -> str | None:
        return name if self.mask is None else self.mask.name(kind, name)

    def _written(self, write: Callable[[], Result]) -> Result:
        try:
            return write()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def abandon(self) -> None:
        """Remove what was written so far; nothing where `finish` has put it in its place."""
        if not self.file.closed:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.file.fileno(), inheritable=False)  # what is still on its way there may fail no more
            os.close(nowhere)
            for writer in (self.part, self.archive, self.file):
                _close_unfinished(writer)
        if os.path.exists(self.partial):
            os.unlink(self.partial)

    def _manifest(self, provenance: Provenance) -> dict[str, object]:
        return {
            "schema": SCHEMA,
            "finwait": __version__,
            "host": self._masked("host", provenance.host),
            "boot_id": self._masked("boot", read_line("/proc/sys/kernel/random/boot_id")),
            "kernel": os.uname().release,
            "taken_from": self.began[0],
            "taken_to": time.time(),
            "boot_clock_from": self.began[1],
            "boot_clock_to": time.clock_gettime(time.CLOCK_BOOTTIME),
            "shows_closed": probe_closed_visible() is True,
            "warnings": [{"code": notice.code} for notice in provenance.notices if notice.incomplete],
            "namespaces": self.namespaces,
        }


def _close_unfinished(writer: BinaryIO | ZipFile | None) -> None:
    """Close one part of a recording that nobody will read; an archive that is not whole complains in many ways."""
    from struct import error as struct_error

    try:
        if writer is not None:
            writer.close()
    except (OSError, ValueError, struct_error):
        return


def _read_sysctls() -> dict[str, str]:
    """What decides how connections live and die in the calling thread's namespace."""
    try:
        known = sorted(os.listdir(f"{_SYSCTL_DIR}/ipv4"))
    except OSError:
        known = []  # no /proc: the sockets are worth keeping all the same
    names = [*_SYSCTLS, *(f"ipv4/{name}" for name in known if name.startswith("tcp_") and name not in SECRETS)]
    values = {name: read_line(f"{_SYSCTL_DIR}/{name}") for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _read_counters() -> dict[str, str]:
    values = {name: read_line(f"/proc/thread-self/net/{name}") for name in COUNTER_FILES}
    return {name: value for name, value in values.items() if value is not None}
