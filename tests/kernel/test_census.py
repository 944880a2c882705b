"""What finwait counts and lists is what the kernel has: known populations, every source, ss and netstat beside it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from finwait.lab.population import Population
from finwait.lab.spec import FAMILIES, Group, Spec
from finwait.tcp.state import LIFE_ORDER, TcpState
from tests.kernel.finwait_command import counts_of, document_of, output_of, run
from tests.kernel.test_population import EVERYTHING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ONE_LINER = "netstat -n | awk '/^tcp/ {++S[$NF]} END {for(a in S) print a, S[a]}' | LC_ALL=C sort"
EXTRAS = (
    Group("ESTABLISHED", 7, accepted=False),
    Group("ESTABLISHED", 5, unread=1000),
    Group("ESTABLISHED", 3, "ipv6", unacked=500),
    Group("ESTABLISHED", 2, unsent=700),
    Group("ESTABLISHED", 11, keepalive=True, mark=0x17),
    Group("ESTABLISHED", 2, congestion="reno"),
    Group("FIN_WAIT2", 3, mini=True),
    Group("LISTEN", 2, "ipv6", backlog=5),
)
UNIFORM = EVERYTHING
MIXED = Spec((*EVERYTHING, *EXTRAS), shuffle=20)


def tokens(counts: Counter[TcpState], *, without: tuple[TcpState, ...] = ()) -> dict[str, int]:
    return {state.token: count for state, count in counts.items() if state not in without}


@pytest.fixture(scope="module", params=["uniform", "mixed"])
def held(request: pytest.FixtureRequest) -> Iterator[Population]:
    with Population(Spec(UNIFORM) if request.param == "uniform" else MIXED) as population:
        yield population


@pytest.fixture(scope="module")
def mixed() -> Iterator[Population]:
    with Population(MIXED) as population:
        yield population


def asked(held: Population) -> Counter[TcpState]:
    return held.spec.count_by_state()


def test_sock_diag_counts_all_eleven_states(held: Population) -> None:
    assert counts_of(held=held) == tokens(asked(held))


def test_the_table_path_counts_the_same(held: Population) -> None:
    assert counts_of("recv-q >= 0 or recv-q < 1 or accept-queue-length >= 0", held=held) == tokens(asked(held))


def test_proc_counts_ten_states_and_says_that_closed_cannot_be_seen(held: Population) -> None:
    done = run("count", "--source", "proc", "--json", held=held)
    document = json.loads(done.stdout)
    counts = {row["state"]: row["count"] for row in document["rows"] if row["count"]}
    assert counts == tokens(asked(held), without=(TcpState.CLOSE,))
    assert document["complete"] is False
    assert [warning["code"] for warning in document["warnings"]] == ["closed_not_visible"]


@pytest.mark.parametrize("option", ["pid", "path"])
def test_another_namespace_is_counted_from_outside(held: Population, option: str) -> None:
    place = str(held.pid) if option == "pid" else held.netns_path
    document = document_of("count", "-N", place)
    assert {row["state"]: row["count"] for row in document["rows"] if row["count"]} == tokens(asked(held))
    assert [netns["inode"] for netns in document["netns"]] == [held.netns_inode]


def test_proc_of_another_namespace_is_counted_from_outside(held: Population) -> None:
    done = run("count", "-N", str(held.pid), "--source", "proc", "--json")
    counts = {row["state"]: row["count"] for row in json.loads(done.stdout)["rows"] if row["count"]}
    assert counts == tokens(asked(held), without=(TcpState.CLOSE,))


def test_all_namespaces_include_this_one_under_its_cookie(mixed: Population) -> None:
    inside = document_of("count", held=mixed)["netns"][0]["cookie"]
    done = run("count", "--all-netns", "--by", "netns_cookie", "--json")
    counts = {row["netns_cookie"]: row["count"] for row in json.loads(done.stdout)["rows"]}
    assert counts[inside] == sum(asked(mixed).values())


@pytest.mark.parametrize(("option", "families"), [("-4", ("ipv4",)), ("-6", ("ipv6", "mapped"))])
@pytest.mark.parametrize("source", ["sock_diag", "proc"])
def test_one_family_alone_is_counted(held: Population, option: str, families: tuple[str, ...], source: str) -> None:
    done = run("count", option, "--source", source, "--json", held=held)
    counts = {row["state"]: row["count"] for row in json.loads(done.stdout)["rows"] if row["count"]}
    without = (TcpState.CLOSE,) if source == "proc" else ()
    assert counts == tokens(held.spec.count_by_state(*families), without=without)


@pytest.mark.parametrize("state", LIFE_ORDER, ids=str)
def test_a_state_mask_counts_that_state_alone(held: Population, state: TcpState) -> None:
    assert counts_of("state", state.token, held=held) == {state.token: asked(held)[state]}


def test_style_netstat_prints_the_one_liners_lines(held: Population) -> None:
    assert output_of("count", "--style", "netstat", held=held) == held.run("sh", "-c", ONE_LINER)


def test_style_ss_prints_the_rows_and_columns_of_ss(held: Population) -> None:
    printed = output_of("list", "--style", "ss", "exclude", "closed", held=held).splitlines()
    by_ss = held.run("ss", "-tan").splitlines()
    assert printed[0].split() == re.sub(r"\s*Process\s*$", "", by_ss[0]).split()  # a column that -p fills
    assert Counter(tuple(line.split()) for line in printed[1:]) == Counter(tuple(line.split()) for line in by_ss[1:])


COMMON = "state,family,local_address,local_port,peer_address,peer_port,interface,recv_q,accept_queue_length,inode"


def rows_of(*arguments: str, held: Population | None = None) -> Counter[tuple[object, ...]]:
    done = run("list", *arguments, "--json", held=held)
    assert done.returncode == 0, done
    return Counter(tuple(row.values()) for row in json.loads(done.stdout)["rows"])


def test_sock_diag_and_proc_agree_cell_by_cell(held: Population) -> None:
    columns = ("--columns", COMMON)  # timers and retransmits go on while we look
    by_proc = rows_of(*columns, "--source", "proc", held=held)
    # /proc tells no device: interface is null there
    by_diag = rows_of(*columns, "exclude", "closed", held=held)
    assert by_proc == by_diag


@pytest.mark.parametrize("suffix", ["diag", "finwait"])
def test_a_recording_has_the_same_rows_in_every_column(mixed: Population, tmp_path: Path, suffix: str) -> None:
    path = str(tmp_path / f"x.{suffix}")
    columns = ("--columns", f"{COMMON},send_q,cookie,uid,mark,cgroup_id,shutdown,v6only,congestion,mss,sndbuf")
    live = rows_of(*columns, "--record", path, held=mixed)
    assert rows_of(*columns, "--read", path) == live == rows_of(*columns, held=mixed)


def test_ss_reads_the_recording(mixed: Population, tmp_path: Path) -> None:
    path = str(tmp_path / "x.diag")
    output_of("count", "--record", path, held=mixed)
    environment = {**os.environ, "TCPDIAG_FILE": path}
    by_file = subprocess.run(("ss", "-tan"), env=environment, capture_output=True, text=True, check=True).stdout
    live = [line.split()[:5] for line in mixed.run("ss", "-tanH").splitlines()]
    closed = asked(mixed)[TcpState.CLOSE]
    read = [line.split()[:5] for line in by_file.splitlines()[1:]]
    assert len(read) == len(live) + closed
    assert Counter(map(tuple, (row for row in read if row[0] != "UNCONN"))) == Counter(map(tuple, live))


def test_a_dump_of_ss_is_read_past_its_first_end(mixed: Population, tmp_path: Path) -> None:
    path = str(tmp_path / "ss.diag")
    mixed.run("ss", "-tan", "-D", path)
    done = run("count", "--read", path, "--json")
    counts = {row["state"]: row["count"] for row in json.loads(done.stdout)["rows"] if row["count"]}
    assert counts == tokens(asked(mixed), without=(TcpState.CLOSE,))


@pytest.mark.parametrize(
    "command", [("ss", "-tan"), ("ss", "-tanoiemp"), ("ss", "-tanOiH"), ("netstat", "-antW"), ("netstat", "-antopeW")]
)
def test_pasted_text_counts_the_same(mixed: Population, command: tuple[str, ...]) -> None:
    text = mixed.run(*command)
    done = run("count", "--read", "-", "--json", input=text)
    counts = {row["state"]: row["count"] for row in json.loads(done.stdout)["rows"] if row["count"]}
    assert counts == tokens(asked(mixed), without=(TcpState.CLOSE,))


@pytest.mark.parametrize("command", [("ss", "-tan"), ("netstat", "-antW")])
def test_pasted_text_has_the_same_addresses_and_ports(mixed: Population, command: tuple[str, ...]) -> None:
    columns = ("--columns", "state,local_address,local_port,peer_address,peer_port,recv_q,accept_queue_length")
    done = run("list", *columns, "--read", "-", "--json", input=mixed.run(*command))
    pasted = Counter(tuple(row.values()) for row in json.loads(done.stdout)["rows"])
    assert pasted == rows_of(*columns, "exclude", "closed", held=mixed)


def test_mapped_connections_are_shown_as_ipv4(mixed: Population) -> None:
    rows = json.loads(
        output_of(
            "list", "--columns", "family,ip_version,local_address,peer", "--json", "state", "established", held=mixed
        )
    )["rows"]
    mapped = [row for row in rows if row["family"] == "inet6" and row["ip_version"] == 4]
    assert len(mapped) == mixed.spec.count_by_state("mapped")[TcpState.ESTABLISHED]
    assert all(re.fullmatch(r"10\.77\.\d+\.\d+", row["local_address"]) for row in mapped)
    assert not any("ffff" in row["peer"] for row in rows)


def test_cookies_are_those_that_the_holder_got_from_so_cookie(mixed: Population) -> None:
    rows = json.loads(output_of("list", "--columns", "state,cookie", "--json", held=mixed))["rows"]
    known = {one.cookie: TcpState[one.state].token for one in mixed.sockets if one.cookie is not None}
    seen = {row["cookie"]: row["state"] for row in rows}
    assert {cookie: seen.get(cookie) for cookie in known} == known


def test_a_listeners_queue_is_told_under_its_own_name(mixed: Population) -> None:
    rows = json.loads(
        output_of(
            "list", "-l", "--columns", "recv_q,send_q,accept_queue_length,accept_queue_limit", "--json", held=mixed
        )
    )["rows"]
    assert len(rows) == asked(mixed)[TcpState.LISTEN]
    assert {(row["recv_q"], row["send_q"]) for row in rows} == {(None, None)}
    assert sum(row["accept_queue_length"] for row in rows) == 7
    assert sum(row["accept_queue_limit"] == 5 for row in rows) == 2


def test_queues_marks_timers_and_congestion_are_those_that_were_made(mixed: Population) -> None:
    def total(*words: str) -> int:
        return document_of("count", *words, held=mixed)["total"]

    assert total("recv-q = 1000") == 5
    assert total("state established send-q = 500") == 3
    assert total("fwmark = 0x17") == 11
    assert total("timer = keepalive") == 11
    assert total("congestion = reno") == 2
    assert total("state fin-wait-2 timer = time_wait") == 3
    assert total("state established inode = 0") == 0  # null is equal to nothing
    assert total("state established !(inode > 0)") == 7


def test_groups_add_up_and_the_rest_is_other(mixed: Population) -> None:
    whole = document_of("count", "--by", "state,family", held=mixed)
    top = document_of("count", "--by", "state,family", "--top", "3", held=mixed)
    assert [row["count"] for row in whole["rows"]] == sorted((row["count"] for row in whole["rows"]), reverse=True)
    assert sum(row["count"] for row in whole["rows"]) == whole["total"] == sum(asked(mixed).values())
    assert top["rows"] == whole["rows"][:3]
    assert top["other"] == whole["total"] - sum(row["count"] for row in top["rows"])


def test_groups_by_family_and_state_are_the_spec(mixed: Population) -> None:
    rows = document_of("count", "--by", "state,family", held=mixed)["rows"]
    wanted = Counter[tuple[str, str]]()
    for family in FAMILIES:
        for state, count in mixed.spec.count_by_state(family).items():
            wanted[state.token, "inet" if family == "ipv4" else "inet6"] += count
    assert Counter({(row["state"], row["family"]): row["count"] for row in rows}) == wanted


def test_a_sorted_list_is_in_order_and_complete(mixed: Population) -> None:
    rows = json.loads(
        output_of("list", "--sort", "-local_port,state", "--columns", "local_port,state", "--json", held=mixed)
    )["rows"]
    order = [state.token for state in LIFE_ORDER]
    keys = [(-row["local_port"], order.index(row["state"])) for row in rows]
    assert keys == sorted(keys)
    assert len(rows) == sum(asked(mixed).values())


def test_a_limit_takes_the_first_rows(mixed: Population) -> None:
    assert len(output_of("list", "-H", "--limit", "5", held=mixed).splitlines()) == 5


def test_an_unprivileged_user_counts_the_same(mixed: Population) -> None:
    command = mixed.enter_command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all",
                                  "--bounding-set=-all", *finwait_words("count", "--json"))  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    document = json.loads(done.stdout)
    assert {row["state"]: row["count"] for row in document["rows"] if row["count"]} == tokens(asked(mixed))
    assert document["complete"] is True


def test_an_unprivileged_user_is_told_that_marks_cannot_be_seen(mixed: Population) -> None:
    command = mixed.enter_command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all",
                                  "--bounding-set=-all", *finwait_words("count", "--json", "fwmark = 0x17"))  # fmt: skip
    document = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert document["complete"] is False
    assert "marks_not_visible" in [warning["code"] for warning in document["warnings"]]


def finwait_words(*arguments: str) -> tuple[str, ...]:
    from tests.kernel.finwait_command import COMMAND

    return (*COMMAND, *arguments)


def codes_of(*arguments: str, held: Population) -> list[str]:
    return [warning["code"] for warning in json.loads(run(*arguments, "--json", held=held).stdout)["warnings"]]


def test_columns_that_a_source_cannot_tell_make_the_answer_incomplete(mixed: Population) -> None:
    proc = ("--source", "proc", "exclude", "closed")
    assert codes_of("count", *proc, "rtt_us > 0", held=mixed) == ["columns_not_visible"]
    assert codes_of("count", *proc, "dev = near", held=mixed) == ["columns_not_visible"]
    assert codes_of("list", *proc, "--columns", "state,local,recv_q", held=mixed) == []
    assert codes_of("list", *proc, "--columns", "cgroup", held=mixed) == ["columns_not_visible"]
    assert codes_of("list", "exclude", "closed", "--columns", "process", held=mixed) == []
    assert codes_of("list", "exclude", "closed", "rtt_us > 0", held=mixed) == []


def test_the_first_rows_alone_say_what_the_whole_list_says(mixed: Population) -> None:
    columns = ("--columns", "state,local")
    assert codes_of("list", "--source", "proc", *columns, "--limit", "1", held=mixed) == ["closed_not_visible"]
    proc = ("--source", "proc", "exclude", "closed")
    assert codes_of("list", *proc, "--columns", "rtt_us", "--limit", "1", held=mixed) == ["columns_not_visible"]


def test_a_recorded_autobound_says_that_it_is_half_a_test(mixed: Population, tmp_path: Path) -> None:
    assert "autobound_not_asked" in codes_of("list", "autobound", "--record", str(tmp_path / "x.diag"), held=mixed)


def test_a_connection_that_was_never_answered_has_no_time_since_data(mixed: Population) -> None:
    rows = json.loads(
        output_of("list", "state", "syn-sent", "--columns", "last_data_sent_ms,last_ack_recv_ms", "--json", held=mixed)
    )
    assert {tuple(row.values()) for row in rows["rows"]} == {(None, None)}


def test_the_namespace_is_a_column_to_filter_by(mixed: Population) -> None:
    everything = json.loads(output_of("list", "--columns", "netns,netns_cookie", "--json", held=mixed))["rows"]
    label, cookie = everything[0]["netns"], everything[0]["netns_cookie"]
    for wanted, total in (
        (f"netns = '{label}'", len(everything)),
        (f"netns_cookie = {cookie}", len(everything)),
        ("netns = nosuch", 0),
        (f"netns != '{label}'", 0),
    ):
        assert json.loads(output_of("count", wanted, "--json", held=mixed))["total"] == total, wanted
