"""Counts and lists by BPF are those of sock_diag and of the population; few sockets never pay for loading it."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

import finwait
from finwait.lab.population import Population
from finwait.lab.spec import FAMILIES, Group, Spec
from finwait.sources import choice, libbpf
from finwait.sources.bpf_table import COLUMNS
from finwait.table.request import Request, Roots
from finwait.tcp.state import LIFE_ORDER, TcpState
from tests.kernel.bad_input import open_descriptors
from tests.kernel.finwait_command import counts_of, document_of, output_of
from tests.kernel.test_census import MIXED, UNIFORM, tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from finwait.table.snapshot import Snapshot

ON_DEVICES = (
    Group("LISTEN", 2, device="near"),
    Group("ESTABLISHED", 3, device="near"),
    Group("SYN_SENT", 5, "ipv6", device="near"),
)
HELD_SPEC = Spec((*MIXED.groups, *ON_DEVICES), shuffle=41)
FILTERS = (
    "state established", "state connected", "state bucket", "exclude listening exclude closed", "state syn-recv",
    "sport >= :2000 and sport <= :2003", "dst 10.77.1.0/25", "src fd77::/16", "dev = near", "recv-q > 0",
    "send-q >= 500 or accept-queue-length > 0", "uid = 0", "!(inode > 0)", "dev = near or state last-ack",
)  # fmt: skip


@pytest.fixture(scope="module")
def held() -> Iterator[Population]:
    with Population(HELD_SPEC) as population:
        yield population


@pytest.fixture(scope="module")
def other() -> Iterator[Population]:
    with Population(Spec(UNIFORM)) as population:
        yield population


def states_of(snapshot: Snapshot) -> dict[object, int]:
    return {group.key[0]: group.count for group in snapshot.groups if group.count}


def asked(held: Population, *families: str) -> Counter[TcpState]:
    return held.spec.count_by_state(*families)


def rows_by(
    source: str, words: str | None, held: Population, *more: str, **options: object
) -> Counter[tuple[object, ...]]:
    names = [*sorted(COLUMNS), *more]
    table = finwait.connections(words, columns=names, source=source, netns=str(held.pid), **options)
    assert table.complete, table.warnings
    return Counter(tuple(row.as_dict().values()) for row in table)


def test_bpf_counts_all_eleven_states_inside_the_namespace_and_from_outside(held: Population) -> None:
    document = document_of("count", "--source", "bpf", held=held)
    assert {row["state"]: row["count"] for row in document["rows"]} == tokens(asked(held))
    assert (document["source"], document["complete"], document["total"]) == ("bpf", True, sum(asked(held).values()))
    outside = finwait.count(source="bpf", netns=str(held.pid))
    assert states_of(outside) == tokens(asked(held)) == counts_of("--source", "sock_diag", held=held)
    assert [netns.inode for netns in outside.provenance.netns] == [held.netns_inode]


@pytest.mark.parametrize(("ip", "families"), [(4, ("ipv4",)), (6, ("ipv6", "mapped"))])
def test_bpf_counts_one_family_alone(held: Population, ip: int, families: tuple[str, ...]) -> None:
    assert states_of(finwait.count(ip=ip, source="bpf", netns=str(held.pid))) == tokens(asked(held, *families))


@pytest.mark.parametrize("state", LIFE_ORDER, ids=str)
def test_bpf_counts_a_state_alone(held: Population, state: TcpState) -> None:
    found = finwait.count(f"state {state.token}", source="bpf", netns=str(held.pid))
    assert states_of(found) == {state.token: asked(held)[state]}


def test_bpf_adds_up_two_namespaces_and_names_both(held: Population, other: Population) -> None:
    found = finwait.count(source="bpf", netns=[str(held.pid), str(other.pid)])
    assert states_of(found) == tokens(asked(held) + asked(other))
    assert [netns.inode for netns in found.provenance.netns] == [held.netns_inode, other.netns_inode]


def test_bpf_counts_all_namespaces_as_sock_diag_does(held: Population, other: Population) -> None:
    by_bpf = finwait.count(source="bpf", all_netns=True)
    assert {held.netns_inode, other.netns_inode} < {netns.inode for netns in by_bpf.provenance.netns}
    inside = {cookie: sum(asked(one).values()) for one in (held, other) for cookie in [cookie_of(one)]}
    for source in ("bpf", "sock_diag"):
        counts = finwait.count(by="netns_cookie", source=source, all_netns=True)
        assert {group.key[0]: group.count for group in counts.groups if group.key[0] in inside} == inside
        assert sum(states_of(by_bpf).values()) == counts.total


def cookie_of(held: Population) -> int | None:
    return finwait.count("state listening", netns=str(held.pid)).provenance.netns[0].cookie


def test_lists_by_bpf_and_by_sock_diag_agree_cell_by_cell(held: Population) -> None:
    by_bpf = rows_by("bpf", None, held)
    assert by_bpf == rows_by("sock_diag", None, held)
    assert sum(by_bpf.values()) == sum(asked(held).values())
    assert max(by_bpf.values()) == 1


def test_every_column_of_bpf_has_values_in_the_comparison(held: Population) -> None:
    table = finwait.connections(columns=sorted(COLUMNS), source="bpf", netns=str(held.pid))
    for name in COLUMNS:
        values = {cell for cell in table.column(name) if cell is not None}
        assert len(values) > (name not in {"cgroup_id", "interface", "uid"}), name  # one holder, one device


@pytest.mark.parametrize("words", FILTERS)
def test_a_filter_accepts_the_same_rows_by_bpf(held: Population, words: str) -> None:
    by_bpf = rows_by("bpf", words, held)
    assert by_bpf == rows_by("sock_diag", words, held)
    assert by_bpf


@pytest.mark.parametrize("ip", [4, 6])
def test_a_family_is_listed_alike(held: Population, ip: int) -> None:
    families = ("ipv4",) if ip == 4 else ("ipv6", "mapped")
    by_bpf = rows_by("bpf", None, held, ip=ip)
    assert by_bpf == rows_by("sock_diag", None, held, ip=ip)
    assert sum(by_bpf.values()) == sum(asked(held, *families).values())


def test_namespaces_are_told_alike_in_lists_of_two(held: Population, other: Population) -> None:
    names = ("netns", "netns_cookie", "cookie", "state")
    both = [str(held.pid), str(other.pid)]
    lists = [finwait.connections(columns=names, source=source, netns=both) for source in ("bpf", "sock_diag")]
    by_bpf, by_diag = (Counter(tuple(row.as_dict().values()) for row in table) for table in lists)
    assert by_bpf == by_diag
    assert Counter(lists[0].column("netns")) == {str(one.pid): sum(asked(one).values()) for one in (held, other)}


def test_groups_by_bpf_are_the_spec(held: Population) -> None:
    rows = document_of("count", "--source", "bpf", "--by", "state,family", held=held)["rows"]
    wanted = Counter[tuple[str, str]]()
    for family in FAMILIES:
        for state, count in asked(held, family).items():
            wanted[state.token, "inet" if family == "ipv4" else "inet6"] += count
    assert Counter({(row["state"], row["family"]): row["count"] for row in rows}) == wanted


def test_columns_that_bpf_does_not_tell_make_the_list_incomplete(held: Population) -> None:
    table = finwait.connections(columns="state,rtt_us,timer", source="bpf", netns=str(held.pid))
    assert [(notice.code, notice.missing) for notice in table.warnings] == [("columns_not_visible", "rtt_us,timer")]
    assert len(table) == sum(asked(held).values())


def test_one_socket_alone_is_counted() -> None:
    with Population(Spec((Group("LISTEN", 1),))) as alone:
        assert counts_of("--source", "bpf", held=alone) == {"listen": 1}
        assert states_of(finwait.count(source="bpf", netns=str(alone.pid))) == {"listen": 1}
        assert rows_by("bpf", None, alone) == rows_by("sock_diag", None, alone)


def test_an_empty_namespace_has_no_sockets() -> None:
    with Population(Spec(())) as empty:
        assert counts_of("--source", "bpf", held=empty) == {}
        assert rows_by("bpf", None, empty) == Counter()


def test_the_text_is_the_same_by_both(held: Population) -> None:
    assert output_of("count", "--source", "bpf", held=held) == output_of("count", "--source", "sock_diag", held=held)


# -- auto

# Counts in a clean interpreter; argv: how many sockets are many, and further words of a filter.
COUNT_AND_TELL = """
import sys
from finwait.sources import choice
choice.MANY_SOCKETS = int(sys.argv[1])
import finwait
snapshot = finwait.count(sys.argv[2:] or None)
loaded = sorted({"ctypes", "finwait.sources.libbpf", "numpy"} & sys.modules.keys())
with open("/proc/self/maps") as maps:
    libraries = sorted({"libbpf" for line in maps if "libbpf" in line})
import json
print(json.dumps([snapshot.provenance.source, loaded, libraries, {g.key[0]: g.count for g in snapshot.groups if g.count}]))
"""


def estimate_of(held: Population) -> int:
    """What sockstat of the namespace says: half-open and bound sockets are not in it."""
    return sum(count for state, count in asked(held).items() if state not in {TcpState.SYN_RECV, TcpState.CLOSE})


def test_the_estimate_is_every_socket_that_is_neither_half_open_nor_bound(held: Population) -> None:
    inside = Roots(f"/proc/{held.pid}")  # whose net/ is that of the process's namespace
    assert choice.estimate_sockets(Request(roots=inside)) == estimate_of(held)
    assert choice.estimate_sockets(Request(netns=(str(held.pid),))) >= estimate_of(held)


@pytest.mark.parametrize("many", [0, 1])
def test_auto_loads_bpf_from_the_estimate_on_and_below_it_neither_ctypes_nor_libbpf(
    held: Population, many: int
) -> None:
    told = json.loads(held.run(sys.executable, "-c", COUNT_AND_TELL, str(estimate_of(held) + many)))
    assert told[3] == tokens(asked(held))
    by_bpf = ["bpf", ["ctypes", "finwait.sources.libbpf"], ["libbpf"]]
    assert told[:3] == (["sock_diag", [], []] if many else by_bpf)


def test_auto_takes_sock_diag_for_few_sockets_also_as_a_command(held: Population) -> None:
    assert document_of("count", held=held)["source"] == "sock_diag"


def test_auto_without_the_capability_asks_sock_diag_and_has_nothing_to_say(held: Population) -> None:
    without = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
    told = json.loads(held.run(*without, sys.executable, "-c", COUNT_AND_TELL, "0"))
    assert told == ["sock_diag", [], [], tokens(asked(held))]


def test_auto_falls_back_to_sock_diag_and_says_why(held: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "MANY_SOCKETS", 0)
    monkeypatch.setattr(libbpf, "_library", None)
    monkeypatch.setattr(libbpf.Libbpf.__init__, "__defaults__", ("libbpf.so.none",))
    snapshot = finwait.count(netns=str(held.pid))
    assert (snapshot.provenance.source, states_of(snapshot)) == ("sock_diag", tokens(asked(held)))
    assert [notice.code for notice in snapshot.warnings] == ["bpf_fallback"]
    assert "libbpf.so.none is not installed (package libbpf1)" in str(snapshot.warnings[0])
    assert snapshot.complete


# -- descriptors


def test_no_descriptor_stays_open(held: Population, other: Population) -> None:
    before = open_descriptors()
    for netns in ((), str(held.pid), (str(held.pid), str(other.pid))):
        finwait.count(source="bpf", netns=netns)
        finwait.connections(source="bpf", netns=netns)
        finwait.count(by="process", source="bpf", netns=netns)
        finwait.connections(source="bpf", columns="process", netns=netns)
        finwait.connections(source="bpf", ghosts=True, netns=netns)
    assert open_descriptors() == before
