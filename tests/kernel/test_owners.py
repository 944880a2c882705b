"""Who holds each socket: by BPF and by /proc, counted in the kernel and by the table, beside ss and /proc/PID/fd."""

from __future__ import annotations

import csv
import io
import json
import os
import pwd
import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import pytest

import finwait
from finwait.lab.spec import Group
from finwait.sources.proc_fd import hidden_processes
from finwait.tcp.state import TcpState
from finwait.text.escape import escape_foreign
from tests.kernel.finwait_command import run
from tests.kernel.owner_population import (
    CONNECTIONS_ELSEWHERE,
    HOSTILE,
    LISTENERS_ELSEWHERE,
    LISTENERS_OF_THREAD,
    LISTENERS_OF_USER,
    NAME_BY_PROCESS,
    ROLES,
    UNHELD,
    OwnerPopulation,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from finwait.lab.population import Population
    from finwait.table.snapshot import Snapshot
    from finwait.table.table import Connection

SOURCES = ("bpf", "auto", "sock_diag")  # sock_diag: owners by /proc
THE_TABLE = "sport >= :0"  # a filter that every socket passes and no count in the kernel takes
NAMES = {name: comm.decode("utf-8", "surrogateescape") for name, comm in NAME_BY_PROCESS.items()}
KIND_BY_STATE = {
    "TIME_WAIT": "time_wait",
    "SYN_RECV": "half_open",
    "FIN_WAIT1": "orphan",
    "LAST_ACK": "orphan",
    "CLOSING": "orphan",
    "ESTABLISHED": "not_accepted",
    "CLOSE_WAIT": "not_accepted",
}
# of a socket that a program has and no descriptor that may be looked at
UNDESCRIBED = "not_permitted" if hidden_processes() else "no_descriptor"
OWNER_COLUMNS = {"process", "pid", "owner_kind", "container", "unit"}
COLUMNS = "cookie,pid,fd,process,owner_kind,matched_by,state,family,user,inode"


@pytest.fixture(scope="module")
def owners() -> Iterator[OwnerPopulation]:
    with OwnerPopulation() as population:
        yield population


class Expected:
    """What the population is, by its holder's word on sockets and by /proc on descriptors."""

    def __init__(self, owners: OwnerPopulation, *, threads: bool, everywhere: bool = False) -> None:
        self.owners = owners
        self.inside = [one for one in owners.sockets if everywhere or one.netns == "holder"]
        held = descriptors_by_inode(owners.processes.values(), threads=threads)
        self.descriptors = {one.cookie: held[one.inode] for one in self.inside}
        self.name_by_pid = {pid: NAMES[name] for name, pid in owners.processes.items()}
        self.total = len(self.inside) + sum(group.count for group in UNHELD)

    def sockets(self) -> Iterator[list[dict[str, object]]]:
        """For each socket the cells of its rows, one for each process that holds it."""
        for one in self.inside:
            pids = {pid for pid, _ in self.descriptors[one.cookie]}
            kind = "process" if pids else UNDESCRIBED
            yield [self._cells(one.state, one.family, one.uid, kind, pid, one.netns) for pid in pids or {None}]
        for group in UNHELD:
            uid = None if group.state in {"TIME_WAIT", "SYN_RECV"} else 0
            cells = self._cells(group.state, group.family, uid, KIND_BY_STATE[group.state], None, "holder")
            yield from [[cells]] * group.count

    def _cells(
        self, state: str, family: str, uid: int | None, kind: str, pid: int | None, netns: str
    ) -> dict[str, object]:
        return {
            "state": TcpState[state].token, "family": "inet" if family == "ipv4" else "inet6", "owner_kind": kind,
            "user": None if uid is None else pwd.getpwuid(uid).pw_name, "pid": pid, "process": self.name_by_pid.get(pid),
            "netns": str(self.owners.pid if netns == "holder" else self.owners.processes[netns]),
            "container": None, "unit": None,
        }  # fmt: skip

    def groups(self, by: str) -> tuple[Counter[tuple[object, ...]], int]:
        """Sockets by the columns `by`, with the kind of owner behind them where one is asked for; and how many sockets stand in
        several groups.
        """  # fmt: skip
        names = [*by.split(","), *(["owner_kind"] if OWNER_COLUMNS & set(by.split(",")) else [])]
        counts: Counter[tuple[object, ...]] = Counter()
        shared = 0
        for rows in self.sockets():
            keys = {tuple(cells[name] for name in names) for cells in rows}
            shared += len(keys) > 1
            counts.update(keys)
        return counts, shared


def descriptors_by_inode(pids: Iterable[int], *, threads: bool) -> dict[int, set[tuple[int, int]]]:
    """(pid, fd) by socket inode, read from /proc apart from the product; threads: also where one has its own."""
    found: dict[int, set[tuple[int, int]]] = defaultdict(set)
    for pid in pids:
        places = [f"/proc/{pid}/task/{task}/fd" for task in os.listdir(f"/proc/{pid}/task")] if threads else []
        for place in {f"/proc/{pid}/fd", *places}:
            for fd in os.listdir(place):
                match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"{place}/{fd}"))
                if match:
                    found[int(match[1])].add((pid, int(fd)))
    return found


def sees_threads(source: str) -> bool:
    """/proc/PID/fd shows what the process's first thread has."""
    return source != "sock_diag"


def connections(
    owners: OwnerPopulation, source: str, words: str | None = None, columns: str = COLUMNS
) -> list[Connection]:
    table = finwait.connections(words, columns=columns, source=source, netns=str(owners.pid))
    assert {notice.code for notice in table.warnings} <= {"owners_not_permitted"}
    return list(table)


def groups_of(snapshot: Snapshot) -> Counter[tuple[object, ...]]:
    """Counts by key, with the kind of owner behind it where one was asked for."""
    is_by_owner = bool(OWNER_COLUMNS & set(snapshot.by))
    keys = [(*group.key, *([group.owner_kind] if is_by_owner else [])) for group in snapshot.groups]
    assert len(keys) == len(set(keys)), keys
    assert is_by_owner or not any(group.owner_kind for group in snapshot.groups)
    return Counter(dict(zip(keys, (group.count for group in snapshot.groups), strict=True)))


# -- the population


def test_the_population_has_sockets_of_one_of_two_and_of_three_processes_and_of_none(owners: OwnerPopulation) -> None:
    expected = Expected(owners, threads=True)
    numbers = Counter(len({pid for pid, _ in held}) for held in expected.descriptors.values())
    groups = {role.name: sum(group.count for group in role.groups if group not in UNHELD) for role in ROLES}
    assert numbers == {
        0: groups["flight"],
        1: sum(groups[name] for name in ("alone", "twice", "threaded", *(f"hostile{at}" for at in range(4))))
        + LISTENERS_OF_USER + LISTENERS_OF_THREAD,
        2: groups["pair"],
        3: groups["trio"],
    }  # fmt: skip
    assert len({pid for held in expected.descriptors.values() for pid, _ in held}) == len(owners.processes) - 2
    assert sum(len(held) == 3 for held in expected.descriptors.values()) == groups["twice"]
    assert sum(len(held) == 6 for held in expected.descriptors.values()) == groups["trio"]


# -- lists


@pytest.mark.parametrize("source", SOURCES)
def test_every_socket_has_exactly_the_descriptors_that_proc_shows(owners: OwnerPopulation, source: str) -> None:
    expected = Expected(owners, threads=sees_threads(source))
    found: Counter[tuple[int, int, int]] = Counter()
    for row in connections(owners, source):
        if row.pid is not None:
            found[row.cookie, row.pid, row.fd] += 1
            assert row.process == expected.name_by_pid[row.pid]
            assert row.owner_kind == "process"
            assert row.matched_by == ("proc_fd" if source == "sock_diag" else "task_file")
    assert found == Counter((cookie, *one) for cookie, held in expected.descriptors.items() for one in held)


@pytest.mark.parametrize("source", SOURCES)
def test_every_socket_without_an_owner_stands_once_and_says_why(owners: OwnerPopulation, source: str) -> None:
    expected = Expected(owners, threads=sees_threads(source))
    rows = [row for row in connections(owners, source) if row.pid is None]
    assert len({row.cookie for row in rows}) == len(rows)
    assert {(row.process, row.fd, row.matched_by) for row in rows} == {(None, None, None)}
    undescribed = {cookie for cookie, held in expected.descriptors.items() if not held}
    assert {row.cookie for row in rows if row.owner_kind == UNDESCRIBED} == undescribed
    kinds = Counter((row.state.name, row.owner_kind) for row in rows if row.cookie not in undescribed)
    assert kinds == {(group.state, KIND_BY_STATE[group.state]): group.count for group in UNHELD}


@pytest.mark.parametrize("source", SOURCES)
def test_a_list_without_owners_has_each_socket_once(owners: OwnerPopulation, source: str) -> None:
    cookies = [row.cookie for row in connections(owners, source, columns="cookie,user")]
    assert len(cookies) == len(set(cookies)) == Expected(owners, threads=False).total


@pytest.mark.parametrize("source", SOURCES)
def test_users_are_those_of_the_sockets(owners: OwnerPopulation, source: str) -> None:
    users = {row.cookie: row.user for row in connections(owners, source)}
    for one in owners.sockets:
        if one.netns == "holder":
            assert users[one.cookie] == pwd.getpwuid(one.uid).pw_name


def owners_by_ss(owners: OwnerPopulation) -> dict[int, set[tuple[int, int]]]:
    """(pid, fd) by cookie; a name with a newline breaks a line of ss, so lines do not matter here."""
    found: dict[int, set[tuple[int, int]]] = {}
    held: set[tuple[int, int]] = set()
    for match in re.finditer(rb"pid=(\d+),fd=(\d+)\)| sk:([0-9a-f]+)", owners.run("ss", "-tanpeOH")):
        if match[3] is None:
            held.add((int(match[1]), int(match[2])))
        else:
            found[int(match[3], 16)], held = held, set()
    return found


@pytest.mark.parametrize("source", SOURCES)
def test_ss_prints_the_same_owners(owners: OwnerPopulation, source: str) -> None:
    found: dict[int, set[tuple[int, int]]] = defaultdict(set)
    threads = {one.cookie for one in owners.sockets if one.role == "thread"}  # ss looks at /proc/PID/fd only
    for row in connections(owners, source, "exclude closed"):
        found[row.cookie] |= {(row.pid, row.fd)} if row.pid is not None and row.cookie not in threads else set()
    assert found == owners_by_ss(owners)


def test_proc_net_tcp_has_the_same_owners_by_inode(owners: OwnerPopulation) -> None:
    table = finwait.connections("exclude closed", columns="inode,pid,fd", source="proc", netns=str(owners.pid))
    found = Counter((row.inode, row.pid, row.fd) for row in table if row.pid is not None)
    held = descriptors_by_inode(owners.processes.values(), threads=False)
    shown = [one.inode for one in owners.sockets if one.netns == "holder" and one.state != "CLOSE"]
    assert found == Counter((inode, *one) for inode in shown for one in held[inode])


# -- counts


BY = ("process", "pid", "process,state", "pid,family,state", "owner_kind", "process,user", "user", "user,state", "netns",
      "netns,process", "container", "unit", "container,process")  # fmt: skip


@pytest.mark.parametrize("words", [None, THE_TABLE], ids=["by-the-kernel", "by-the-table"])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("by", BY)
def test_groups_are_those_of_the_population(owners: OwnerPopulation, by: str, source: str, words: str | None) -> None:
    expected = Expected(owners, threads=sees_threads(source))
    snapshot = finwait.count(words, by=by, source=source, netns=str(owners.pid))
    groups, shared = expected.groups(by)
    assert groups_of(snapshot) == groups
    assert (snapshot.total, snapshot.shared) == (expected.total, shared)
    assert sum(group.count for group in snapshot.groups) == sum(groups.values())


@pytest.mark.parametrize("source", SOURCES)
def test_groups_with_the_port_add_up_to_those_without(owners: OwnerPopulation, source: str) -> None:
    narrow = finwait.count(by="pid,local_port", source=source, netns=str(owners.pid))
    wide = finwait.count(by="pid", source=source, netns=str(owners.pid))
    added: Counter[tuple[object, ...]] = Counter()
    for group in narrow.groups:
        added[group.key[0], group.owner_kind] += group.count
    assert added == groups_of(wide)
    assert (narrow.total, narrow.shared) == (wide.total, wide.shared)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("words", ["state established", "exclude established", "state closed", "state time-wait"])
def test_states_are_asked_for_alike_by_the_kernel_and_by_the_table(
    owners: OwnerPopulation, source: str, words: str
) -> None:
    place = str(owners.pid)
    for by in ("pid", "process,state"):
        in_kernel = finwait.count(words, by=by, source=source, netns=place)
        by_table = finwait.count(f"{words} {THE_TABLE}", by=by, source=source, netns=place)
        assert groups_of(in_kernel) == groups_of(by_table) != Counter()
        assert (in_kernel.total, in_kernel.shared) == (by_table.total, by_table.shared)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("ip", [4, 6])
def test_families_are_asked_for_alike_by_the_kernel_and_by_the_table(
    owners: OwnerPopulation, source: str, ip: int
) -> None:
    in_kernel = finwait.count(by="pid,state", ip=ip, source=source, netns=str(owners.pid))
    by_table = finwait.count(THE_TABLE, by="pid,state", ip=ip, source=source, netns=str(owners.pid))
    assert groups_of(in_kernel) == groups_of(by_table) != Counter()
    assert (in_kernel.total, in_kernel.shared) == (by_table.total, by_table.shared)


def test_each_group_says_how_its_owner_was_found(owners: OwnerPopulation) -> None:
    for source, how in (("bpf", "task_file"), ("auto", "task_file"), ("sock_diag", "proc_fd")):
        for words in (None, THE_TABLE):
            snapshot = finwait.count(words, by="process", source=source, netns=str(owners.pid))
            found = {(group.key[0] is not None, group.matched_by) for group in snapshot.groups}
            assert found == {(True, how), (False, None)}


@pytest.mark.parametrize("words", [None, THE_TABLE])
@pytest.mark.parametrize("source", SOURCES)
def test_two_namespaces_are_counted_together_and_told_apart(
    owners: OwnerPopulation, source: str, words: str | None
) -> None:
    places = [str(owners.pid), str(owners.processes["elsewhere"])]
    expected = Expected(owners, threads=sees_threads(source), everywhere=True)
    for by in ("netns", "netns,process", "pid"):
        snapshot = finwait.count(words, by=by, source=source, netns=places)
        groups, shared = expected.groups(by)
        assert groups_of(snapshot) == groups
        assert (snapshot.total, snapshot.shared) == (expected.total, shared)
    assert groups[owners.processes["elsewhere"], "process"] == LISTENERS_ELSEWHERE + CONNECTIONS_ELSEWHERE


@pytest.mark.parametrize("source", SOURCES)
def test_all_namespaces_have_every_process_of_the_population(owners: OwnerPopulation, source: str) -> None:
    snapshot = finwait.count(by="pid", source=source, all_netns=True)
    expected, _ = Expected(owners, threads=sees_threads(source), everywhere=True).groups("pid")
    found = {key: count for key, count in groups_of(snapshot).items() if key[0] in owners.processes.values()}
    assert found == {key: count for key, count in expected.items() if key[0] is not None}


def test_hidden_processes_are_told_in_a_notice(owners: OwnerPopulation) -> None:
    flight = sum(one.role == "flight" for one in owners.sockets)
    by_bpf = finwait.count(by="process", source="bpf", netns=str(owners.pid))
    by_proc = finwait.count(by="process", source="sock_diag", netns=str(owners.pid))
    codes = [notice.code for notice in (*by_bpf.warnings, *by_proc.warnings)]
    if not hidden_processes():
        assert codes == ["ghosts_not_told_apart"]
        return
    assert codes == ["owners_not_permitted", "owners_not_permitted", "ghosts_not_told_apart"]
    assert by_bpf.warnings[0].arguments == {"count": flight}
    assert by_proc.warnings[0].arguments["count"] == len(hidden_processes())
    assert not by_bpf.complete


# -- orphans in FIN_WAIT2


@pytest.mark.parametrize("source", SOURCES)
def test_a_fin_wait_2_mini_socket_is_an_orphan(source: str, population: Callable[..., Population]) -> None:
    held = population(Group("FIN_WAIT2", 3, mini=True), Group("FIN_WAIT2", 5))
    for words in (None, THE_TABLE):
        snapshot = finwait.count(words, by="pid,state", source=source, netns=str(held.pid))
        assert groups_of(snapshot) == {(None, "fin_wait_2", "orphan"): 3, (held.pid, "fin_wait_2", "process"): 5}
    kinds = Counter(finwait.connections(columns="owner_kind", source=source, netns=str(held.pid)).column("owner_kind"))
    assert kinds == {"orphan": 3, "process": 5}


# -- filters


@pytest.mark.parametrize("source", SOURCES)
def test_filters_by_owner_take_the_sockets_of_that_owner(owners: OwnerPopulation, source: str) -> None:
    expected = Expected(owners, threads=sees_threads(source))
    by_name, _ = expected.groups("process")
    by_pid, _ = expected.groups("pid")
    by_user, _ = expected.groups("user")
    by_kind, _ = expected.groups("owner_kind")

    def total(words: str) -> int:
        snapshot = finwait.count(words, source=source, netns=str(owners.pid))
        table = finwait.connections(words, columns="cookie", source=source, netns=str(owners.pid))
        assert snapshot.total == len(table) == len(set(table.column("cookie")))
        return snapshot.total

    for name in NAMES.values():
        if name.isprintable():
            assert total(f"process = '{name}'") == by_name[name, "process"]
    for pid in owners.processes.values():
        assert total(f"pid = {pid}") == by_pid[pid, "process"]
    for user in ("root", "nobody"):
        assert total(f"user = {user}") == by_user[user,]
    for kind in ("process", "not_accepted", "time_wait", "half_open", "orphan", "no_descriptor", "not_permitted"):
        assert total(f"owner_kind = {kind}") == by_kind[kind, kind]
    assert total("process = nosuch") == 0
    either = {one.cookie for one in expected.inside if {pid for pid, _ in expected.descriptors[one.cookie]}
              & {owners.processes["second"], owners.processes["user"]}}  # fmt: skip
    assert total(f"pid = {owners.processes['second']} or process = user") == len(either)
    assert total(f"state established pid = {owners.processes['alone']}") == 23 + 7 + 3
    assert total("fd >= 0") == sum(bool(held) for held in expected.descriptors.values())


@pytest.mark.parametrize("source", SOURCES)
def test_a_filter_by_one_of_two_owners_lists_that_owner_alone(owners: OwnerPopulation, source: str) -> None:
    second = owners.processes["second"]
    rows = connections(owners, source, f"pid = {second}")
    held = Expected(owners, threads=False).descriptors
    wanted = Counter((cookie, *one) for cookie, found in held.items() for one in found if one[0] == second)
    assert Counter((row.cookie, row.pid, row.fd) for row in rows) == wanted


# -- what is printed


def test_json_and_csv_have_a_row_for_each_descriptor_and_count_sockets(owners: OwnerPopulation) -> None:
    expected = Expected(owners, threads=True)
    held = Counter((cookie, *one) for cookie, found in expected.descriptors.items() for one in found)
    done = run("list", "-p", "--columns", "+cookie", "-N", str(owners.pid), "--json")
    document = json.loads(done.stdout)
    rows = [(row["cookie"], row["pid"], row["fd"]) for row in document["rows"]]
    assert Counter(row for row in rows if row[1] is not None) == held
    assert document["total"] == expected.total == len({row[0] for row in rows})
    assert {row["matched_by"] for row in document["rows"]} == {"task_file", None}
    text = run("list", "-p", "--columns", "+cookie", "-N", str(owners.pid), "--csv").stdout
    table = list(csv.DictReader(io.StringIO(text)))
    assert Counter((int(row["cookie"]), int(row["pid"]), int(row["fd"])) for row in table if row["pid"]) == held
    assert [(row["cookie"], row["owner_kind"]) for row in table] == [
        (str(row["cookie"]), row["owner_kind"]) for row in document["rows"]
    ]


def test_a_table_of_owners_shows_names_as_escapes_and_the_lack_of_one_in_brackets(owners: OwnerPopulation) -> None:
    lines = run("list", "-p", "-H", "-N", str(owners.pid)).stdout.splitlines()
    expected = Expected(owners, threads=True)
    assert len(lines) == sum(max(len(held), 1) for held in expected.descriptors.values()) + sum(
        group.count for group in UNHELD
    )
    assert all(line.isprintable() for line in lines)
    text = "\n".join(lines)
    assert text.count(r"\x1b]52;c;ZQ==\x07") == 2
    assert text.count(r"a\x0a\x1b[2Jb") == 3
    assert text.count('"(orphan)"') == 5
    assert text.count(r"\xff\xfe\x1b[31m") == 7
    assert len(re.findall(r"(?<!\")\(orphan\)", text)) == 10


def test_a_count_shows_a_process_called_orphan_apart_from_orphans(owners: OwnerPopulation) -> None:
    text = run("count", "--by", "process", "-H", "-N", str(owners.pid)).stdout
    assert text.isprintable() or all(line.isprintable() for line in text.splitlines())
    counts = dict(re.findall(r"^(\S+|\(.+?\)) +(\d+) ", text, re.MULTILINE))
    assert counts['"(orphan)"'] == "5"
    assert counts["(orphan)"] == "10"
    assert counts[r"\x1b]52;c;ZQ==\x07"] == "2"
    done = run("count", "--by", "process", "-N", str(owners.pid), "--csv")
    rows = list(csv.reader(io.StringIO(done.stdout)))
    assert ["(orphan)", "process", "5"] in rows
    assert ["", "orphan", "10"] in rows
    assert "\x1b" not in done.stdout
    named = {
        row["process"]: row["count"]
        for row in json.loads(run("count", "--by", "process", "-N", str(owners.pid), "--json").stdout)["rows"]
    }
    assert {name: named[name] for name in NAMES.values() if name in named} == {
        key[0]: count
        for key, count in Expected(owners, threads=True).groups("process")[0].items()
        if key[0] is not None
    }


def lines_of_ss(text: bytes) -> Counter[tuple[bytes, frozenset[bytes]]]:
    """Each line before its users, and the users in any order; names as escapes. ss ends a name before its first parenthesis."""
    text = text.replace(b'"(orphan"', b'"(orphan)"')
    for name in HOSTILE:
        text = text.replace(name, escape_foreign(name.decode("utf-8", "surrogateescape")).encode())
    found: Counter[tuple[bytes, frozenset[bytes]]] = Counter()
    for line in text.splitlines():
        before, _, users = line.partition(b"users:(")
        found[b" ".join(before.split()), frozenset(re.findall(rb'\("[^"]*",pid=\d+,fd=\d+\)', users))] += 1
    return found


@pytest.mark.parametrize("source", SOURCES)
def test_style_ss_prints_the_lines_of_ss_with_all_their_users(owners: OwnerPopulation, source: str) -> None:
    ours = run("list", "-p", "--style", "ss", "-N", str(owners.pid), "--source", source).stdout
    assert all(line.isprintable() for line in ours.splitlines())
    threads = {one.inode for one in owners.sockets if one.role == "thread"}  # ss looks at /proc/PID/fd only
    held = descriptors_by_inode([owners.processes["threaded"]], threads=True)
    for pid, fd in set().union(*(held[inode] for inode in threads)):
        ours = ours.replace(f'users:(("threaded",pid={pid},fd={fd}))', "")
    assert lines_of_ss(ours.encode()) == lines_of_ss(owners.run("ss", "-tanp"))
