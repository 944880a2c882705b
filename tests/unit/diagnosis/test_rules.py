"""All rules: what each must have, and what it says where something that it reads is not there."""

from __future__ import annotations

import re
import string
from collections import Counter

import pytest

from finwait.diagnosis.rule import TWO_LOOKS, Rule
from finwait.diagnosis.rules import RULE_BY_ID, RULES, find_rules
from finwait.errors import UsageError
from finwait.table.look import INFO_COLUMNS, Host
from finwait.tcp.state import TcpState
from tests.unit.diagnosis.cases import QUIET, case_of, found, lacks, listener, sock, verdict

PLANNED = set(range(1, 41)) - {19}  # 19 says what is never a finding
PROMISED = {
    "accept-queue-full", "listen-overflow", "syn-flood", "syn-backlog-burst", "close-wait-leak", "close-wait-churn",
    "close-wait-not-accepted", "peer-leaks-close-wait", "fin-wait-2-forever", "peer-vanished", "ghost-sockets",
    "descriptor-limit", "port-exhaustion", "time-wait-overflow", "listener-in-ephemeral-range", "connect-unanswered",
    "idle-beyond-load-balancer", "zero-window", "reader-stuck", "retransmissions", "tcp-memory", "orphans", "conntrack-full",
    "sysctl-myth",
}  # fmt: skip
SETTING = re.compile(r"(ipv4|core|netfilter)\.")


def reads(rule: Rule, *, settings: bool) -> list[str]:
    names = [name for name in rule.reads if "." in name and not name.endswith("?")]
    return [name for name in names if bool(SETTING.match(name)) == settings]


COUNTED = [(rule.id, name) for rule in RULES for name in reads(rule, settings=False)]
CLIMBING = [(rule, name) for rule, name in COUNTED if not name.startswith("sockstat.")]
SET = [(rule.id, name) for rule in RULES for name in reads(rule, settings=True)]


def test_every_planned_rule_is_there_and_no_id_twice() -> None:
    assert {number for rule in RULES for number in rule.numbers} == PLANNED
    assert [rule for rule, times in Counter(rule.id for rule in RULES).items() if times > 1] == []
    assert set(RULE_BY_ID) >= PROMISED


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_says_what_it_means_and_what_to_do(rule: Rule) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+|orphans|retransmissions|aborts", rule.id)
    assert all(text.strip() == text and text for text in (rule.summary, rule.title, rule.meaning, rule.remedy))
    assert all(text.endswith((".", ")")) for text in (rule.meaning, rule.remedy, rule.avoid or "."))
    assert rule.command
    assert rule.sources
    assert [
        part[1] for part in string.Formatter().parse(rule.meaning + rule.remedy + (rule.avoid or "")) if part[1]
    ] == []


def test_a_quiet_host_has_nothing() -> None:
    diagnosis = verdict(case_of([listener(0, 511), *(sock(TcpState.ESTABLISHED, "10.0.0.1:80") for _ in range(50))]))
    assert (diagnosis.findings, diagnosis.unchecked) == ([], [])
    assert diagnosis.checked == [rule.id for rule in RULES]


def test_no_socket_at_all_is_no_trouble() -> None:
    assert verdict(case_of()).findings == []
    assert verdict(case_of(looks=1)).findings == []


def test_the_number_of_time_wait_is_never_a_finding() -> None:
    peers = [f"10.9.{number % 250}.{number % 3}:443" for number in range(30_000)]
    rows = [sock(TcpState.TIME_WAIT, f"10.0.0.1:{32768 + at % 28_000}", peer) for at, peer in enumerate(peers)]
    assert verdict(case_of(rows, counters={"sockstat.TCP.tw": 30_000})).findings == []


@pytest.mark.parametrize(("rule", "name"), COUNTED)
def test_without_its_counter_a_rule_is_unchecked(rule: str, name: str) -> None:
    gone = case_of(counters={name: (None, None)})
    assert lacks(gone, rule) == ["no_counter"]
    assert verdict(gone, rule).checked == []
    assert name in str(verdict(gone, rule).unchecked[0].reason)


@pytest.mark.parametrize(("rule", "name"), CLIMBING)
def test_where_its_counter_went_back_a_rule_is_unchecked(rule: str, name: str) -> None:
    assert lacks(case_of(counters={name: (1000, 3)}), rule) == ["counter_reset"]
    assert lacks(case_of(counters={name: (2**40, 3)}), rule) == ["counter_reset"]
    assert lacks(case_of(counters={name: (2**32 - 1, 0)}), rule) == []


def test_what_is_in_use_may_become_less() -> None:
    for rule, name in COUNTED:
        if name.startswith("sockstat."):
            assert lacks(case_of(counters={name: (1000, 3)}), rule) == []


@pytest.mark.parametrize(("rule", "name"), SET)
def test_without_its_setting_a_rule_is_unchecked(rule: str, name: str) -> None:
    assert lacks(case_of(sysctls={name: None}), rule) == ["no_setting"]


@pytest.mark.parametrize("rule", [rule.id for rule in RULES if TWO_LOOKS in rule.reads])
def test_what_compares_looks_needs_two(rule: str) -> None:
    assert lacks(case_of(looks=1), rule) == ["one_look"]
    assert lacks(case_of(looks=2), rule) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_what_a_rule_does_not_read_may_be_missing(rule: Rule) -> None:
    """A counter or setting that a rule uses only where it is there."""
    counters = {name: (None, None) for name in QUIET if name not in rule.reads}
    kept = {name: "1 2 3" if name.endswith("tcp_mem") else "1" for name in reads(rule, settings=True)}
    case = case_of([listener(3, 4), sock(TcpState.ESTABLISHED, recv_q=5, send_q=5)], counters=counters)
    for look in case.looks:
        look.sysctls = kept
    assert verdict(case, rule.id).checked == [rule.id]


def test_hidden_owners_and_limits_are_told_and_the_rest_judged() -> None:
    case = case_of([listener(6, 4)])
    assert case.holders is not None
    case.holders.kinds[0] = "not_permitted"
    diagnosis = verdict(case, "accept-queue-full")
    assert [lack.code for lack in diagnosis.unchecked] == ["owners_partly"]
    assert [finding.severity for finding in diagnosis.findings] == ["critical"]
    leak = case_of([sock(TcpState.CLOSE_WAIT)])
    assert leak.holders is not None
    leak.holders.kinds[0] = "not_permitted"
    for name in INFO_COLUMNS:
        del leak.now.rows.columns[name]
    leaks = verdict(leak, "close-wait-leak")
    assert ([lack.code for lack in leaks.unchecked], leaks.checked) == (["no_tcp_info"], [])
    case.holders = None
    assert lacks(case, "accept-queue-full") == ["no_owners"]
    assert lacks(case_of(host=Host(ghosts_seen=False)), "ghost-sockets") == ["no_ghosts"]


def test_a_wrap_of_32_bits_is_growth() -> None:
    (finding,) = found(case_of(counters={"TcpExt.ListenOverflows": (2**32 - 5, 6)}), "listen-overflow")
    assert finding.evidence["overflows"] == 11


def test_an_unknown_rule_names_the_nearest() -> None:
    assert [rule.id for rule in find_rules(["zero_window,ORPHANS"])] == ["zero-window", "orphans"]
    with pytest.raises(UsageError, match="did you mean accept-queue-full"):
        find_rules(["accept-queue"])
