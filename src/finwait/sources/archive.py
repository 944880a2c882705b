"""X.finwait: a zip archive with manifest.json and a raw dump for each namespace; and the writers of both recordings.

manifest.json: schema, finwait's version, host, boot_id, kernel, wall and boot clock of begin and end, and for each
namespace its cookie, inode, name, dump file, interface names, sysctls and counters (the texts of /proc/net files).
"""

from __future__ import annotations

import json
import os
import time

from finwait.errors import ParseError, SourceError, UsageError
from finwait.sources.bindings import read_interface_names
from finwait.sources.namespaces import Place, open_inside
from finwait.sources.recording import RawDumpReader, Recording, strip_done
from finwait.table.snapshot import Netns, Notice, Provenance
from finwait.text.messages import mark
from finwait.version import __version__
from finwait.wire.netlink import NLMSG_DONE, build_message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import BinaryIO
    from zipfile import ZipFile

    from finwait.sources.readers import Reader

SCHEMA = "finwait.recording/1"
END = build_message(NLMSG_DONE, 2, bytes(4))  # NLM_F_MULTI, errno 0
COUNTER_FILES = ("snmp", "netstat", "sockstat", "sockstat6")
_SYSCTL_DIR = "/proc/sys/net"
_SYSCTLS = ("core/somaxconn", "ipv4/ip_local_port_range", "ipv4/ip_local_reserved_ports",
            "netfilter/nf_conntrack_max", "netfilter/nf_conntrack_count")  # fmt: skip
NOT_AN_ARCHIVE = mark("{path} is a zip archive but no recording of finwait: {reason}")
INCOMPLETE = mark("the recording says of itself that it is not complete: {code}")


def open_archive(file: BinaryIO, name: str) -> Recording:
    """The archive in `file`. Raises ParseError where it is none, or not whole."""
    from zipfile import BadZipFile, ZipFile

    try:
        archive = ZipFile(file)
    except (BadZipFile, OSError, ValueError, NotImplementedError) as error:
        file.close()
        raise ParseError(NOT_AN_ARCHIVE, path=name, reason=str(error)[:200]) from error
    try:
        manifest = json.loads(archive.read("manifest.json"))
        if manifest["schema"] != SCHEMA:
            raise ParseError("{path} has schema {schema}, finwait reads {known}", path=name, schema=str(manifest["schema"]),
                             known=SCHEMA)  # fmt: skip
        provenance = Provenance("recording", host=_text(manifest["host"]), taken_from=_number(manifest["taken_from"]),
                                taken_to=_number(manifest["taken_to"]))  # fmt: skip
        readers: list[Reader] = [_open_part(archive, part) for part in manifest["namespaces"]]
        for warning in manifest["warnings"]:
            arguments = {"code": str(warning["code"])}
            provenance.add_notice(Notice("recorded_incomplete", INCOMPLETE, missing="sockets", arguments=arguments))
    except (BadZipFile, KeyError, TypeError, ValueError, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        archive.close()
        file.close()
        raise ParseError(NOT_AN_ARCHIVE, path=name, reason=str(error)[:200]) from error
    return Recording(readers, provenance, (archive, file))


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _number(value: object) -> float | None:
    return None if value is None else float(str(value))


def _open_part(archive: ZipFile, part: Mapping[str, object]) -> Reader:
    netns = Netns(_integer(part["cookie"]), _integer(part["inode"]), _text(part["name"]))
    interfaces = part["interfaces"]
    sysctls = part["sysctls"]
    if not isinstance(interfaces, dict) or not isinstance(sysctls, dict):
        raise TypeError("interfaces and sysctls should be objects")
    names = {int(index): str(name) for index, name in interfaces.items()}
    reader = RawDumpReader(archive.open(str(part["file"])), netns, names)  # type: ignore[arg-type]
    numbers = str(sysctls.get("ipv4/ip_local_port_range", "")).split()
    if len(numbers) == 2:
        reader.port_range = (int(numbers[0]), int(numbers[1]))
    return reader


def _integer(value: object) -> int | None:
    return None if value is None else int(str(value))


class Recorder:
    """Writes a recording beside its place and puts it there when it is whole: a failure leaves what was there before."""

    def __init__(self, path: str) -> None:
        """Raises UsageError for a name that ends in neither .diag nor .finwait, SourceError where it cannot be written."""
        self.path = path
        self.partial = f"{path}.{os.getpid()}.part"
        if not path.endswith((".diag", ".finwait")):
            raise UsageError("--record writes X.diag (ss reads it) or X.finwait, not '{path}'", path=path)
        self.namespaces: list[dict[str, object]] = []
        self.began = (time.time(), time.clock_gettime(time.CLOCK_BOOTTIME))
        try:
            self.file = open(self.partial, "xb")  # noqa: SIM115 - closed by finish or abandon
        except OSError as error:
            raise _cannot_write(path, error) from error
        self.archive: ZipFile | None = None
        self.part: BinaryIO = self.file
        if path.endswith(".finwait"):
            from zipfile import ZIP_DEFLATED, ZipFile

            self.archive = ZipFile(self.file, "w", ZIP_DEFLATED, compresslevel=1)

    def begin(self, place: Place, netns: Netns) -> None:
        """What follows are the sockets of this namespace. Raises UsageError for a second one in a .diag file."""
        if self.archive is None:
            if self.namespaces:
                raise UsageError("a .diag file holds one network namespace; record several as X.finwait")
            self.namespaces.append({})
            return
        number = len(self.namespaces) + 1
        name = f"{number:04d}.diag"
        self.namespaces.append(
            {
                "cookie": netns.cookie,
                "inode": netns.inode,
                "name": netns.name,
                "file": name,
                "interfaces": {str(index): text for index, text in read_interface_names(place).items()},
                "sysctls": open_inside(place, _read_sysctls),
                "counters": open_inside(place, _read_counters),
            }
        )
        self.part = self.archive.open(name, "w", force_zip64=True)  # type: ignore[assignment]

    def write(self, datagram: memoryview) -> None:
        """Keep the sockets of one datagram. Raises SourceError where they cannot be written."""
        try:
            self.part.write(strip_done(datagram))
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def end(self) -> None:
        """The namespace's sockets were all written."""
        if self.archive is not None:
            self.part.write(END)
            self.part.close()

    def finish(self, provenance: Provenance) -> None:
        """Put the recording in its place. Raises SourceError."""
        try:
            if self.archive is None:
                self.file.write(END)
            else:
                self.archive.writestr("manifest.json", json.dumps(self._manifest(provenance), indent=1))
                self.archive.close()
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            os.replace(self.partial, self.path)
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def abandon(self) -> None:
        """Remove what was written so far."""
        self.file.close()
        if os.path.exists(self.partial):
            os.unlink(self.partial)

    def _manifest(self, provenance: Provenance) -> dict[str, object]:
        return {
            "schema": SCHEMA,
            "finwait": __version__,
            "host": provenance.host,
            "boot_id": _read_line("/proc/sys/kernel/random/boot_id"),
            "kernel": os.uname().release,
            "taken_from": self.began[0],
            "taken_to": time.time(),
            "boot_clock_from": self.began[1],
            "boot_clock_to": time.clock_gettime(time.CLOCK_BOOTTIME),
            "warnings": [{"code": notice.code} for notice in provenance.notices if notice.incomplete],
            "namespaces": self.namespaces,
        }


def _cannot_write(path: str, error: OSError) -> SourceError:
    return SourceError("cannot write {path}: {reason}", path=path, reason=os.strerror(error.errno or 0))


def _read_line(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return None


def _read_sysctls() -> dict[str, str]:
    """What decides how connections live and die in the calling thread's namespace."""
    names = [
        *_SYSCTLS,
        *(f"ipv4/{name}" for name in sorted(os.listdir(f"{_SYSCTL_DIR}/ipv4")) if name.startswith("tcp_")),
    ]
    values = {name: _read_line(f"{_SYSCTL_DIR}/{name}") for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _read_counters() -> dict[str, str]:
    values = {name: _read_line(f"/proc/thread-self/net/{name}") for name in COUNTER_FILES}
    return {name: value for name, value in values.items() if value is not None}
