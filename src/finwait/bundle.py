"""X.zip: what the doctor looked at and what it found, for a colleague, who gets the same findings from it.

manifest.json: schema, finwait's version, host, kernel, and for each namespace its looks (number of the recording, clocks,
counters, sysctls), ages, owners; look-1.finwait and so on: recordings that `finwait --read` takes; findings.json and report.md.
"""

from __future__ import annotations

import io
import json
import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from finwait.diagnosis.case import Case, filled
from finwait.errors import ParseError, SourceError
from finwait.sources.archive import open_archive
from finwait.sources.counters import SECRETS
from finwait.table.batch import Batch, concatenate
from finwait.table.look import LOOK_COLUMNS, Holders, Host, Look, Process
from finwait.table.request import Request
from finwait.table.snapshot import Notice, Provenance
from finwait.text.messages import mark
from finwait.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from finwait.sources.recording import Recording
    from finwait.wire.masking import Mask

SCHEMA = "finwait.bundle/1"
MANIFEST_BYTES = 256 << 20
KEPT_SETTINGS = (
    "net.ipv4.tcp_",
    "net.core.",
    "net.netfilter.",
)  # of the files of sysctl.d; others name hosts, interfaces
NOT_A_BUNDLE = mark("{path} is no bundle of finwait doctor: {reason}")
OTHER_SCHEMA = mark("{path} has schema {schema}, finwait reads {known}")
SAID = mark("said when it was taken: {message}")


def write_bundle(
    path: str,
    looks: Sequence[str],
    cases: Sequence[Case],
    provenance: Provenance,
    mask: Mask | None,
    documents: Mapping[str, str],
) -> None:
    """looks: paths of the recordings, the oldest first. documents: further texts by file name. Raises SourceError."""
    from zipfile import ZIP_DEFLATED, ZipFile

    manifest = _Writer(mask).manifest(cases, provenance, len(looks))
    partial = f"{path}.{os.getpid()}.part"
    try:
        with ZipFile(partial, "x", ZIP_DEFLATED) as archive:
            for number, look in enumerate(looks, 1):
                archive.write(look, f"look-{number}.finwait")  # not stored: its directory would pass for the bundle's
            archive.writestr("manifest.json", json.dumps(manifest))
            for name, text in documents.items():
                archive.writestr(name, text)
        os.replace(partial, path)
    except OSError as error:
        if os.path.exists(partial):
            os.unlink(partial)
        raise SourceError("cannot write {path}: {reason}", path=path, reason=os.strerror(error.errno or 0)) from error


class _Writer:
    def __init__(self, mask: Mask | None) -> None:
        self.mask = mask

    def name(self, kind: str, name: str | None) -> str | None:
        return name if self.mask is None else self.mask.name(kind, name)

    def manifest(self, cases: Sequence[Case], provenance: Provenance, looks: int) -> dict[str, Any]:
        host = cases[0].host if cases else Host()
        return {
            "schema": SCHEMA,
            "finwait": __version__,
            "kernel": os.uname().release,
            "masked": self.mask is not None,
            "source": provenance.source,
            "host": self.name("host", provenance.host),
            "taken_from": provenance.taken_from,
            "taken_to": provenance.taken_to,
            "warnings": [
                {"code": one.code, "message": str(one), "missing": one.missing, "incomplete": one.incomplete}
                for one in provenance.notices
            ],
            "looks": looks,
            "namespaces": [self.namespace(case, looks) for case in cases],
            "ghosts_seen": host.ghosts_seen,
            "hidden": host.hidden,
            "page_size": host.page_size,
            "settings": [
                [self.name("file", path), line, name, value]
                for path, line, name, value in host.settings
                if name.startswith(KEPT_SETTINGS) and name.rpartition(".")[2] not in SECRETS
            ],
            "processes": [
                [one.pid, self.name("process", one.name), one.descriptors, one.limit, one.ghosts, one.ghosts_before]
                for one in host.processes.values()
            ],
        }

    def namespace(self, case: Case, looks: int) -> dict[str, Any]:
        cookies, holders = case.values("cookie").tolist(), case.holders
        return {
            "looks": [
                {
                    "recording": looks - len(case.looks) + at + 1,
                    "cookie": look.netns.cookie,
                    "at_s": look.at_s,
                    "wall_s": look.wall_s,
                    "counters": dict(look.counters),
                    "sysctls": dict(look.sysctls),
                    "explicit": None if look.explicit is None else look.explicit.tolist(),
                }
                for at, look in enumerate(case.looks)
            ],
            "cookies": cookies,
            "since_s": [round(age, 3) for age in case.since_s.tolist()],
            "kinds": None if holders is None else holders.kinds,
            "matched_by": None if holders is None else holders.matched_by,
            "holders": None
            if holders is None
            else [
                [cookies[row], pid, fd]
                for row, pid, fd in zip(
                    *(one.tolist() for one in (holders.rows, holders.pids, holders.fds)), strict=True
                )
            ],
        }


def read_bundle(path: str) -> tuple[list[Case], Provenance]:
    """The cases of the bundle at `path`, and how they were taken. Raises SourceError, ParseError."""
    from zipfile import ZipFile

    from finwait.sources.archive import damages

    try:
        with ZipFile(path) as archive:
            if archive.getinfo("manifest.json").file_size > MANIFEST_BYTES:
                raise ValueError("its manifest.json is too long")
            manifest = json.loads(archive.read("manifest.json"))
            if manifest["schema"] != SCHEMA:
                raise ParseError(OTHER_SCHEMA, path=path, schema=str(manifest["schema"])[:80], known=SCHEMA)
            recordings = [
                open_archive(io.BytesIO(archive.read(f"look-{number}.finwait")), path)
                for number in range(1, int(manifest["looks"]) + 1)
            ]
            return _Reading(manifest, recordings).cases()
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise SourceError("cannot read {path}: {reason}", path=path, reason=os.strerror(error.errno or 0)) from error
    except damages() as error:
        raise ParseError(NOT_A_BUNDLE, path=path, reason=str(error.args[0] if error.args else error)[:200]) from error


class _Reading:
    def __init__(self, manifest: Mapping[str, Any], recordings: Sequence[Recording]) -> None:
        self.manifest = manifest
        self.notices: list[Notice] = []
        self.rows = [
            {reader.netns.cookie: (reader.netns, self._rows(reader)) for reader in one.readers} for one in recordings
        ]

    def _rows(self, reader: Any) -> Batch:
        batches = list(reader.batches(Request(), LOOK_COLUMNS, self.notices))
        return concatenate(batches) if batches else Batch(0, {})

    def cases(self) -> tuple[list[Case], Provenance]:
        manifest = self.manifest
        processes = {int(fields[0]): _process(*fields) for fields in manifest["processes"]}
        settings = tuple(
            (str(file), int(line), str(name), str(value)) for file, line, name, value in manifest["settings"]
        )
        host = Host(
            processes, bool(manifest["ghosts_seen"]), int(manifest["hidden"]), settings, int(manifest["page_size"])
        )
        cases = [self._case(part, host) for part in manifest["namespaces"]]
        if not cases:
            raise ValueError("it holds no namespace")
        for case in cases:
            case.others = tuple(other for other in cases if other is not case)
        for one in manifest["warnings"]:
            arguments = {"message": str(one["message"])}
            self.notices.append(
                Notice(
                    str(one["code"]),
                    SAID,
                    missing=one["missing"],
                    incomplete=bool(one["incomplete"]),
                    arguments=arguments,
                )
            )
        netns = tuple(case.now.netns for case in cases)
        return cases, Provenance(
            str(manifest["source"]),
            host=None if manifest["host"] is None else str(manifest["host"]),
            taken_from=_finite(manifest["taken_from"]),
            taken_to=_finite(manifest["taken_to"]),
            netns=netns,
            notices=tuple(self.notices),
        )

    def _case(self, part: Mapping[str, Any], host: Host) -> Case:
        looks = tuple(self._look(look) for look in part["looks"])
        cookies = filled(looks[-1], "cookie")
        place = {cookie: at for at, cookie in enumerate(part["cookies"])}
        at = [place[cookie] for cookie in cookies.tolist()]
        since = np.asarray([_finite(age) for age in part["since_s"]], dtype=np.float64)[at] if at else np.zeros(0)
        return Case(looks, None if part["holders"] is None else _holders(part, cookies.tolist(), at), host, since)

    def _look(self, part: Mapping[str, Any]) -> Look:
        netns, rows = self.rows[int(part["recording"]) - 1][part["cookie"]]
        explicit = None if part["explicit"] is None else np.asarray(part["explicit"], dtype=np.uint64)
        counters = {name: int(value) for name, value in dict(part["counters"]).items()}
        sysctls = {name: str(value) for name, value in dict(part["sysctls"]).items()}
        return Look(netns, _finite(part["at_s"]), _finite(part["wall_s"]), rows, counters, sysctls, explicit)


def _finite(number: Any) -> float:
    found = float(number)
    if not math.isfinite(found):
        raise ValueError(f"{found} is no time")
    return found


def _process(pid: Any, name: Any, *counts: Any) -> Process:
    numbers = [None if count is None else int(count) for count in counts]
    return Process(int(pid), None if name is None else str(name), *numbers)  # type: ignore[arg-type]


def _holders(part: Mapping[str, Any], cookies: list[int], at: list[int]) -> Holders:
    """The owners by the rows of the recording, in order of rows."""
    row_by_cookie = {cookie: row for row, cookie in enumerate(cookies)}
    found = sorted((row_by_cookie[cookie], pid, fd) for cookie, pid, fd in part["holders"])
    rows, pids, fds = (np.asarray([one[column] for one in found], dtype=np.int64) for column in range(3))
    return Holders(rows, pids, fds, [part["kinds"][place] for place in at], part["matched_by"])
