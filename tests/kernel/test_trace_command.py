"""The options of `finwait trace`: filters, namespaces, how long, in what form, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import tempfile
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import pytest

from finwait.lab.namespace import await_condition
from finwait.table.change import CHANGE_NAMES
from tests.kernel.bad_input import refusal, run_bytes
from tests.kernel.finwait_command import COMMAND, ENVIRONMENT
from tests.kernel.test_privileges import WITHOUT
from tests.kernel.tracer import (
    CLIENT,
    CONNECT,
    PATIENCE_S,
    PORT,
    SERVE,
    SERVER,
    Lab,
    Row,
    Tracer,
    busy,
    lab,
    read_text,
    step,
    steps,
    times,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from finwait.lab.population import Population

__all__ = ["busy", "lab"]  # the fixtures


# -- filters


FILTERED: list[tuple[tuple[str, ...], Callable[[Row], bool]]] = [
    (("sport = :3000",), lambda row: row["local_port"] == PORT),
    (("dport = :3000",), lambda row: row["peer_port"] == PORT),
    (("sport != :3000",), lambda row: row["local_port"] != PORT),
    (("sport > :3000",), lambda row: row["local_port"] > PORT),
    (("dport >= :3000", "dport <= :3000"), lambda row: row["peer_port"] == PORT),
    (("state time-wait",), lambda row: "time_wait" in {row["from"], row["to"]}),
    (("state established",), lambda row: "established" in {row["from"], row["to"]}),
    (("exclude established",), lambda row: {row["from"], row["to"]} != {"established"}),
    (("dst 127.0.0.2",), lambda row: row["peer_address"] == "127.0.0.2"),
    (("src 127.0.0.2",), lambda row: row["local_address"] == "127.0.0.2"),
    (("dst 127.0.0.0/8", "and", "sport = :3000"), lambda row: row["local_port"] == PORT and row["family"] == "inet"),
    (("-4",), lambda row: row["family"] == "inet"),
    (("-6",), lambda row: row["family"] == "inet6"),
    (("process = the-client",), lambda row: row["process"] == "the-client"),
    (("state time-wait", "dst ::1"), lambda row: row["to"] == "time_wait" and row["peer_address"] == "::1"),
]


@pytest.mark.parametrize(("words", "accepts"), FILTERED, ids=[" ".join(words) for words, _ in FILTERED])
def test_a_filter_lets_through_what_it_says_and_nothing_else(
    lab: Lab, words: tuple[str, ...], accepts: Callable[[Row], bool]
) -> None:
    """A second round shows that nothing more came of the first one."""
    client, server = lab.pair(place := lab.place())
    server.do("servers = [server, listen('127.0.0.2'), listen('::1')]")
    everything, filtered = lab.tracer(place=place), lab.tracer(*words, place=place)
    for count in (5, 5):
        for at, address in enumerate(("127.0.0.1", "127.0.0.2", "::1")):
            server.do(f"server = servers[{at}]")
            server.begin(SERVE.format(count=count))
            client.do(CONNECT.format(count=count, address=address, end="one.close()"))
            server.answer()
        everything.catch_up(client)
        wanted = [row for row in everything.rows if accepts(row)]
        assert 0 < len(wanted) < len(everything.rows) or words == ("exclude established",)
        filtered.wait(lambda wanted=wanted: len(filtered.rows) >= len(wanted))  # type: ignore[misc]
        assert keys(filtered.rows) == keys(wanted)
        one, other = causes(filtered.rows), causes(everything.rows)
        assert [one[key] for key in one.keys() & other.keys()] == [other[key] for key in one.keys() & other.keys()]
    filtered.stop()
    assert steps(everything.stop()) == times(30, *CLIENT, *SERVER)


def key_of(row: Row) -> tuple[object, ...]:
    """What two tracers say of the same change; each has its own clock reading and learns owners when it can."""
    return tuple(
        row[name] for name in ("cookie", "local_address", "local_port", "peer_address", "peer_port", "from", "to")
    )


def keys(rows: list[Row]) -> Counter[tuple[object, ...]]:
    return Counter(map(key_of, rows))


def causes(rows: list[Row]) -> dict[tuple[object, ...], str | None]:
    """Of changes that were told as they happened: each tracer may miss one, and infer it."""
    return {key_of(row): row["why"] for row in rows if row["evidence"] == "event"}


def test_a_least_time_leaves_out_what_was_shorter_and_what_is_not_known(lab: Lab) -> None:
    client, server = lab.pair(place := lab.place())
    everything, slow = lab.tracer(place=place), lab.tracer("--min-time", "0.3", place=place)
    client.do("slow = connect(); slow_port = slow.getsockname()[1]; time.sleep(0.3)")
    server.do("one, _ = server.accept()")
    for code in ("slow.close()", "one = connect(); one.close()"):
        client.do(code)
    server.do("other, _ = server.accept()\nfor one in (one, other):\n    one.recv(1)\n    one.close()")
    everything.catch_up(client)
    slow.wait(lambda: len(slow.rows) >= 2)
    port = client.do("answer = slow_port")
    rows = slow.stop()
    assert keys(rows) == keys(
        [row for row in everything.stop() if row["in_from_us"] is not None and row["in_from_us"] >= 300_000]
    )
    assert {step(row) for row in rows} == {"established>fin_wait_1", "established>close_wait"}
    assert {port in {row["local_port"], row["peer_port"]} for row in rows} == {True}


def run_in(place: Population, *arguments: str) -> tuple[int, bytes, bytes]:
    done = run_bytes(place.enter_command(*COMMAND, "trace", *arguments))
    return done.returncode, done.stdout, done.stderr


def test_a_filter_that_matches_nothing_tells_nothing(busy: Population) -> None:
    for words in (("sport = :7",), ("state closing",), ("dst 10.1.2.3",), ("-6",), ("process = nobody-here",)):
        code, told, said = run_in(busy, "--for", "0.2", "--ndjson", *words)
        assert (code, said) == (0, b"")
        assert [json.loads(line)["type"] for line in told.splitlines()] == ["ready", "end"]


@pytest.mark.parametrize("word", ["recv-q > 0", "rtt_us > 5", "user = root", "uid = 0", "dev = lo", "fwmark = 1"])
def test_a_filter_of_what_changes_do_not_tell_is_refused_in_one_line(word: str) -> None:
    said = refusal(2, "trace", "--for", "0.1", word)
    assert "local_port" in said
    assert "process" in said


# -- namespaces


def test_changes_of_the_chosen_namespaces_alone_are_told(lab: Lab) -> None:
    places = [lab.place() for _ in range(3)]
    actors = [lab.actor(place, "one") for place in places]
    labels = []
    for place in places:
        inode = os.stat(f"/proc/{place.pid}/ns/net").st_ino
        labels.append({f"net:[{inode}]", str(place.pid), f"pid:{place.pid}"})
    tracers = {
        (0,): lab.tracer(place=places[0]),
        (1,): lab.tracer("-N", str(places[1].pid)),
        (0, 2): lab.tracer("-N", str(places[0].pid), "-N", str(places[2].pid)),
        (0, 1, 2): lab.tracer("--all-netns"),
    }
    for at, actor in enumerate(actors):
        actor.do(f"listen(port={4000 + at}).close()")
    for watched, tracer in tracers.items():
        wanted = {4000 + at for at in watched}
        tracer.wait(lambda wanted=wanted, tracer=tracer: wanted <= ports_of(tracer))  # type: ignore[misc]
        tracer.catch_up(actors[watched[0]])
        rows = [row for row in tracer.stop() if 4000 <= row["local_port"] < 4003]
        assert Counter(row["local_port"] for row in rows) == dict.fromkeys(wanted, 2)
        named = {row["local_port"] - 4000: row["netns"] for row in rows}
        assert all(name in labels[at] for at, name in named.items())
        assert len(set(named.values())) == len(named)


def ports_of(tracer: Tracer) -> set[int]:
    return {row["local_port"] for row in tracer.rows if row["to"] == "closed"}


def test_of_very_many_chosen_namespaces_no_other_is_told(lab: Lab) -> None:
    places = [lab.place() for _ in range(17)]  # FINWAIT_MOST_NETNS is 16
    inside, outside = lab.actor(places[16], "inside"), lab.actor(lab.place(), "outside")
    tracer = lab.tracer(*(word for place in places for word in ("-N", str(place.pid))))
    outside.do("listen(port=4000).close()")
    inside.do("listen(port=4001).close()")
    tracer.catch_up(inside)
    assert [row["local_port"] for row in tracer.stop()] == [4001, 4001]


# -- how long, and in what form


@pytest.mark.parametrize("count", [1, 23])
def test_a_trace_of_so_many_changes_ends_after_exactly_so_many(busy: Population, count: int) -> None:
    code, told, said = run_in(busy, "--count", str(count), "--ndjson")
    assert (code, said) == (0, b"")
    kinds = [json.loads(line)["type"] for line in told.splitlines()]
    assert kinds == ["ready", *["change"] * count, "end"]


def test_json_is_one_document_with_the_same_keys(busy: Population) -> None:
    code, told, said = run_in(busy, "--count", "31", "--json")
    assert (code, said) == (0, b"")
    document = json.loads(told)
    assert (document["schema"], document["lost"], document["complete"], document["source"]) == (
        "finwait.trace/1", 0, True, "bpf",
    )  # fmt: skip
    assert len(document["rows"]) == 31
    lines = [json.loads(line) for line in run_in(busy, "--count", "31", "--ndjson")[1].splitlines()]
    assert {tuple(row) for row in document["rows"]} == {tuple(line) for line in lines[1:-1]}


def test_json_of_no_change_is_a_document_too(lab: Lab) -> None:
    code, told, said = run_in(lab.place(), "--for", "0.1", "--json")
    assert (code, said) == (0, b"")
    assert json.loads(told)["rows"] == []


def test_csv_has_a_title_unless_it_is_not_wanted(busy: Population) -> None:
    for arguments, first in ((("--csv",), [list(CHANGE_NAMES)]), (("--csv", "-H"), [])):
        code, told, said = run_in(busy, "--count", "29", *arguments)
        assert (code, said) == (0, b"")
        rows = list(csv.reader(io.StringIO(told.decode())))
        assert rows[: len(first)] == first
        assert len(rows) == len(first) + 29
        assert {len(row) for row in rows} == {len(CHANGE_NAMES)}
        assert {row[-2:] == ["", ""] or row[-1] == "busy" for row in rows[len(first) :]} == {True}


def test_text_has_a_line_for_each_change(busy: Population) -> None:
    for arguments, titles in (((), 1), (("-H",), 0)):
        code, told, said = run_in(busy, "--count", "37", *arguments)
        assert (code, said) == (0, b"")
        lines = told.decode().splitlines()
        assert len(lines) == 37 + titles
        assert all(line.isprintable() for line in lines)
        assert all("127.0.0.1:" in line for line in lines[titles:])
        assert all(("process" in line.lower()) == (at < titles) for at, line in enumerate(lines))


def test_without_owners_the_same_changes_are_told(lab: Lab) -> None:
    client, server = lab.pair(place := lab.place())
    tracer = lab.tracer("--no-owners", place=place)
    server.begin(SERVE.format(count=3))
    client.do(CONNECT.format(count=3, address="127.0.0.1", end="one.close()"))
    server.answer()
    tracer.catch_up(client)
    rows = tracer.stop()
    assert steps(rows) == times(3, *CLIENT, *SERVER)


def test_what_happened_before_ctrl_c_is_told(lab: Lab) -> None:
    client, server = lab.pair(place := lab.place())
    tracer = lab.tracer(place=place)
    tracer.process.send_signal(signal.SIGSTOP)
    server.begin(SERVE.format(count=53))
    client.do(CONNECT.format(count=53, address="127.0.0.1", end="one.close()"))
    server.answer()
    tracer.process.send_signal(signal.SIGINT)
    tracer.process.send_signal(signal.SIGCONT)
    tracer.process.wait(PATIENCE_S)
    assert steps(tracer.rows) == times(53, *CLIENT, *SERVER)


def is_in_main(pid: int) -> bool:
    """Whether the command has begun: it has loaded what only a trace needs, and Python has its own way with SIGINT (before that
    and while it runs code from a text, as namedtuple() does, it ends by the signal).
    """  # fmt: skip
    status = dict(line.split(":\t") for line in read_text(f"/proc/{pid}/status").splitlines() if line.startswith("Sig"))
    catches_term = int(status["SigCgt"], 16) >> (signal.SIGTERM - 1) & 1
    return bool(catches_term)


def test_ctrl_c_at_any_moment_ends_it_with_nothing_or_a_whole_document() -> None:
    for moment in range(29):
        with tempfile.TemporaryFile() as file:
            tracer = subprocess.Popen(
                (*COMMAND, "trace", "--json"), stdout=file, stderr=subprocess.PIPE, env=ENVIRONMENT
            )
            try:
                assert await_condition(partial(is_in_main, tracer.pid), PATIENCE_S)
                with pytest.raises(subprocess.TimeoutExpired):
                    tracer.wait(0.01 * moment)
                tracer.send_signal(signal.SIGINT)
                _, said = tracer.communicate(timeout=PATIENCE_S)
            finally:
                tracer.kill()
                tracer.communicate()
            assert (tracer.returncode, said) == (130, b"")
            file.seek(0)
            told = file.read()
            assert told == b"" or json.loads(told)["rows"] == []


# -- without capabilities


def test_nobody_is_refused_in_one_line() -> None:
    for arguments in (("--source", "bpf"), ("--summary", "--by", "listener"), ("--summary", "--by", "process")):
        said = refusal(5, "trace", *arguments, "--for", "0.1", before=WITHOUT)
        assert said.startswith("BPF is not permitted here (")


def test_what_cannot_be_is_refused_in_one_line() -> None:
    said = refusal(2, "trace", "--summary", "--by", "listener", "--source", "sock_diag")
    assert said.startswith("sums by listener are counted by BPF only")
    assert refusal(2, "trace", "--for", "-1").startswith("'-1' is no number of seconds")
