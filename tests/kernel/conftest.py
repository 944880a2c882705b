"""The kernel tests' fixtures and their two guards: no silent skip, nothing left over."""

from __future__ import annotations

import os
import re
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import finwait
from finwait.lab.namespace import await_condition
from finwait.lab.population import Population
from finwait.lab.spec import Group, Spec

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

_OLDEST_LINUX = (6, 1)
_SESSION_VARIABLE = "FINWAIT_KERNEL_TEST_SESSION"  # inherited by every process that a test starts
_PATIENCE_S = 10.0


def _runs_here() -> bool:
    release = tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])
    return os.uname().sysname == "Linux" and os.geteuid() == 0 and release >= _OLDEST_LINUX


def pytest_collection_finish(session: pytest.Session) -> None:
    """Nothing runs where the tests that run finwait as nobody could not: said at once, in one line, and not by each of them."""
    closed = next((path for path in Path(finwait.__file__).parents if not path.stat().st_mode & 0o001), None)
    if closed is not None and _runs_here() and not session.config.option.collectonly:
        pytest.exit(f"finwait is run as nobody too, who may not enter {closed}; chmod o+x it, or clone elsewhere", 4)


def pytest_runtest_setup() -> None:
    """Where the kernel tests cannot run they say so."""
    if not _runs_here():
        pytest.skip("kernel tests need root on Linux 6.1 or later")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where they can run, a skipped test is a failed one: nobody reads skips."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and _runs_here():
        report.outcome = "failed"
        report.longrepr = f"skipped, though root on Linux 6.1 or later must run it: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for whole modules."""
    report = yield
    if report.outcome == "skipped" and _runs_here():
        report.outcome = "failed"
        report.longrepr = f"skipped, though root on Linux 6.1 or later must run it: {report.longrepr}"
    return report


@pytest.fixture
def population() -> Iterator[Callable[..., Population]]:
    """Hold populations until the test ends: ``population(Group("LISTEN", 3), Group("CLOSE_WAIT", 23), shuffle=7)``."""
    with ExitStack() as stack:

        def hold(*groups: Group, shuffle: int | None = None, sysctls: dict[str, str | int] | None = None) -> Population:
            return stack.enter_context(Population(Spec(groups, shuffle, sysctls or {})))

        yield hold


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_over() -> Iterator[None]:
    """No process, namespace descriptor, namespace mount or veth outlives the session."""
    session = os.environ[_SESSION_VARIABLE] = uuid.uuid4().hex
    before = _leftovers(session)
    yield
    await_condition(lambda: _leftovers(session) <= before, _PATIENCE_S)
    surplus = _leftovers(session) - before
    assert not surplus, f"left over: {sorted(surplus)}"


def _leftovers(session: str) -> set[str]:
    return {*_processes_of(session), *_namespace_descriptors(), *_namespace_mounts(), *_veths()}


def _processes_of(session: str) -> Iterator[str]:
    marker = f"{_SESSION_VARIABLE}={session}".encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as environ, open(f"/proc/{pid}/cmdline", "rb") as cmdline:
                if marker in environ.read().split(b"\0"):
                    yield f"process {pid} {cmdline.read()!r}"
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended, or it is not ours


def _namespace_descriptors() -> Iterator[str]:
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # the descriptor that listed them
        if re.match(r"(net|user|mnt|pid):\[", target):
            yield f"descriptor {fd} {target}"


def _namespace_mounts() -> Iterator[str]:
    with open("/proc/self/mountinfo", encoding="utf-8") as mountinfo:
        for line in mountinfo:
            if " - nsfs " in line:
                yield f"mount {line.strip()}"


def _veths() -> Iterator[str]:
    for name in os.listdir("/sys/class/net"):
        if os.path.exists(f"/sys/class/net/{name}/iflink") and _read_index(name, "iflink") != _read_index(
            name, "ifindex"
        ):
            yield f"link {name}"


def _read_index(interface: str, name: str) -> int:
    with open(f"/sys/class/net/{interface}/{name}", encoding="ascii") as file:
        return int(file.read())
