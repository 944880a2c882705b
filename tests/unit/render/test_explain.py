"""Explanations as a document, a page of text and Markdown say the same, and fit."""

from __future__ import annotations

import pytest

from finwait.render.explain import Explainer, seconds_text, sysctl_text, way_text
from finwait.render.explain_markdown import MarkdownPage
from finwait.render.explain_text import TextPage
from finwait.render.style import Style
from finwait.tcp.explanations import read_explanations
from finwait.tcp.state import TcpState
from finwait.tcp.timers import SYSCTLS, TIMERS
from finwait.tcp.transitions import STATES, arrows
from finwait.text.width import display_width

SECTIONS = read_explanations("en")
DEFAULTS = {name: default for name, (default, _) in SYSCTLS.items()}
EXPLAINER = Explainer(SECTIONS, DEFAULTS | {"ipv4.tcp_fin_timeout": "17", "ipv4.tcp_rfc1337": None}, {"listen": 3})


def test_every_arrow_is_told_at_both_of_its_ends() -> None:
    told_in, told_out = set(), set()
    for state in STATES:
        document = EXPLAINER.state(state)
        told_in |= {(way["from"], way["event"], way["to"]) for way in document["ways_in"]}
        told_out |= {(way["from"], way["event"], way["to"]) for way in document["ways_out"]}
    assert told_in == told_out == {(t.state.token, t.event, t.to.token) for t in arrows()}


def test_a_state_that_was_not_found_is_counted_as_none_of_it_and_uncounted_is_null() -> None:
    assert EXPLAINER.state(TcpState.LISTEN)["count"] == 3
    assert EXPLAINER.state(TcpState.CLOSING)["count"] == 0
    assert Explainer(SECTIONS).state(TcpState.LISTEN)["count"] is None


def test_the_time_of_a_timer_follows_this_hosts_value() -> None:
    timer = EXPLAINER.timer(TIMERS["fin_wait_2"])
    assert (timer["seconds"], timer["default_seconds"]) == (17, 60)
    assert timer["sysctls"] == [{"name": "net.ipv4.tcp_fin_timeout", "value": "17", "default": "60", "unit": "seconds"}]
    assert seconds_text(timer, of_host=True) == "here: 17 s in all"
    assert seconds_text(timer, of_host=False) == "by default: 60 s in all"


@pytest.mark.parametrize(
    ("name", "here", "elsewhere"),
    [
        ("ipv4.tcp_fin_timeout", "net.ipv4.tcp_fin_timeout = 17 s (default: 60 s)", "(default: 60 s)"),
        ("ipv4.tcp_rto_max_ms", "net.ipv4.tcp_rto_max_ms = 120000 ms (the default)", "(default: 120000 ms)"),
        ("ipv4.tcp_rfc1337", "net.ipv4.tcp_rfc1337: not here", "(default: 0)"),
        ("ipv4.tcp_max_orphans", "net.ipv4.tcp_max_orphans: not here", "(default: by memory)"),
    ],
)
def test_a_setting_is_shown_with_its_value_and_default(name: str, here: str, elsewhere: str) -> None:
    sysctl = EXPLAINER._sysctl(name)
    assert sysctl_text(sysctl, of_host=True) == here
    assert sysctl_text(sysctl, of_host=False) == f"net.{name} {elsewhere}"


def test_a_states_page_tells_of_the_timers_that_end_it() -> None:
    states = [EXPLAINER.state(TcpState.FIN_WAIT2)]
    assert {timer["timer"] for timer in states[0]["timers"]} == {"keepalive", "delayed_ack", "fin_wait_2"}
    for page in (TextPage(Style()), MarkdownPage()):
        told = "\n".join(page.states(states))
        assert ("keepalive" in told, "fin_wait_2" in told, "delayed_ack" in told) == (True, True, False)


def test_what_linux_adds_and_what_it_never_does_is_marked() -> None:
    texts = {(way["event"], way["to"]): way_text(way) for way in EXPLAINER.state(TcpState.LISTEN)["ways_out"]}
    assert texts["rcv_syn", "syn_received"] == "a SYN arrives; SYN,ACK is sent"
    assert texts["rcv_ack_of_cookie", "established"].endswith(" (Linux)")
    assert texts["send", "syn_sent"].endswith(" (never in Linux)")


@pytest.mark.parametrize("columns", [40, 61, 80, 100, 300, None])
@pytest.mark.parametrize("language", ["en", "zh_CN"])
def test_prose_fits_whatever_the_width(columns: int | None, language: str) -> None:
    document = Explainer(read_explanations(language), DEFAULTS).document(language, STATES, TIMERS)
    page = TextPage(Style(), columns)
    lines = [*page.states(document["states"]), *page.timers(document["timers"])]
    unbreakable = ("finwait ", "net.")  # commands and settings are not broken, so that they can be copied
    wide = [line for line in lines if display_width(line) > min(columns or 100, 100)]
    assert [line for line in wide if columns != 40 and not line.strip().startswith(unbreakable)] == []


def test_markdown_has_a_heading_for_each_and_every_table_is_whole() -> None:
    document = EXPLAINER.document("en", STATES, TIMERS)
    lines = [*MarkdownPage(level=3).states(document["states"]), *MarkdownPage().timers(document["timers"])]
    assert [line[4:] for line in lines if line.startswith("### ")] == [state.rfc for state in STATES]
    assert [line[3:] for line in lines if line.startswith("## ")] == list(TIMERS)
    assert {line.count("|") for line in lines if line.startswith("| ")} == {5}
    assert all("\n" not in line for line in lines)
