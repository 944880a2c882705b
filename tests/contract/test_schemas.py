"""The documents that finwait prints are those of docs/schemas."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from finwait.diagnosis.rules import RULES
from finwait.render.change_lines import TRACE_SCHEMA
from finwait.render.rates import Rates
from finwait.render.state_graph import states_document
from finwait.sources.machine import PROBES
from finwait.table.change import CHANGE_NAMES, EVIDENCE, LIFETIME_NAMES
from finwait.tcp.exchanges import EXCHANGES
from finwait.tcp.state import TcpState
from finwait.tcp.timers import SYSCTLS
from finwait.tcp.transitions import EVENTS, STATES, transitions_from

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ROOT / "docs" / "schemas"
TEXTS = sorted((ROOT / "tests" / "fixtures" / "text").glob("*.txt"))
TICKETS = sorted((ROOT / "docs" / "examples").glob("*.txt"))
RECORDINGS = [str(path.relative_to(ROOT)) for path in [*TICKETS, *TEXTS]]
COUNTS = [
    (),
    ("--by", "state,peer_address,process", "--top", "2"),
    ("--by", "local,ip_version,v6only,timer,netns"),
    ("--lang", "zh"),
    ("state", "close-wait"),
    ("recv-q", ">", "0"),
    ("autobound",),
]
LISTS = [(), ("-o", "-i", "-m"), ("--limit", "2"), ("state", "closing"), ("--lang", "zh"), ("fwmark", "=", "1")]


def printed(*arguments: str) -> str:
    command = (sys.executable, "-m", "finwait", *arguments)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def schema(name: str) -> dict[str, Any]:
    return json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))


def document_validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(schema(name))


def record_validator() -> Draft202012Validator:
    whole = schema("finwait.list-1")
    return Draft202012Validator({"$ref": "#/$defs/record", "$defs": whole["$defs"]})


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.json")), ids=lambda path: path.name)
def test_a_schema_is_a_schema(path: Path) -> None:
    Draft202012Validator.check_schema(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("arguments", COUNTS, ids=" ".join)
@pytest.mark.parametrize(
    "where", [(), ("--source", "proc"), *(("--read", path) for path in RECORDINGS[:3])], ids=" ".join
)
def test_a_count_is_what_its_schema_says(where: tuple[str, ...], arguments: tuple[str, ...]) -> None:
    document_validator("finwait.count-1").validate(json.loads(printed("count", "--json", *where, *arguments)))


@pytest.mark.parametrize("arguments", LISTS, ids=" ".join)
@pytest.mark.parametrize(
    "where", [(), ("--source", "proc"), *(("--read", path) for path in RECORDINGS[:3])], ids=" ".join
)
def test_a_list_is_what_its_schema_says(where: tuple[str, ...], arguments: tuple[str, ...]) -> None:
    document_validator("finwait.list-1").validate(json.loads(printed("list", "--json", *where, *arguments)))
    validator = record_validator()
    for line in printed("list", "--ndjson", *where, *arguments).splitlines():
        validator.validate(json.loads(line))


@pytest.mark.parametrize("recording", RECORDINGS)
def test_every_recording_gives_valid_documents(recording: str) -> None:
    count = json.loads(printed("count", "--ndjson", "--read", recording))
    document_validator("finwait.count-1").validate(count)
    listed = json.loads(printed("list", "--json", "--read", recording))
    document_validator("finwait.list-1").validate(listed)
    assert count["total"] == listed["total"] == len(listed["rows"])


@pytest.mark.parametrize("arguments", [(), ("--lang", "zh")], ids=" ".join)
@pytest.mark.parametrize("form", ["--json", "--ndjson"])
def test_capabilities_are_what_their_schema_says(form: str, arguments: tuple[str, ...]) -> None:
    document = json.loads(printed("capabilities", form, *arguments))
    document_validator("finwait.capabilities-1").validate(document)


def test_capabilities_of_a_made_up_machine_are_what_their_schema_says() -> None:
    for name in ("capabilities.json", "capabilities.ndjson"):
        text = (ROOT / "tests" / "contract" / "golden" / name).read_text(encoding="utf-8")
        document = json.loads(text)
        document_validator("finwait.capabilities-1").validate(document)
        assert {known["answer"] for known in document["capabilities"]} == {"yes", "no", "cannot_tell"}
        assert all(known["remedy"] for known in document["capabilities"] if known["answer"] == "no")


def test_a_capability_has_one_of_three_answers() -> None:
    document = json.loads(printed("capabilities", "--json"))
    for wrong in ({"answer": "maybe"}, {"answer": None}, {"answer": "yes", "remedy": "more"}, {"name": "Not A Word"}):
        first = {**document["capabilities"][0], **wrong}
        with pytest.raises(ValidationError):
            document_validator("finwait.capabilities-1").validate({**document, "capabilities": [first]})


def test_the_page_on_json_shows_a_document_of_capabilities_and_names_each() -> None:
    page = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    block = page.partition("## Capabilities\n")[2].partition("```json\n")[2].partition("```")[0]
    document_validator("finwait.capabilities-1").validate(json.loads(block))
    for name, (gives, _) in PROBES.items():
        assert f"| `{name}` | {gives} | " in page


EXPLAINED = [
    (),
    ("all", "--no-counts"),
    ("all", "--lang", "zh"),
    ("timer",),
    ("timer", "keepalive", "--lang", "zh"),
    ("transition", "syn-recv", "established"),
    ("transition", "last-ack", "established"),
]


@pytest.mark.parametrize("arguments", EXPLAINED, ids=" ".join)
def test_an_explanation_is_what_its_schema_says(arguments: tuple[str, ...]) -> None:
    document_validator("finwait.explain-1").validate(json.loads(printed("explain", "--json", *arguments)))


def test_the_schema_of_explanations_knows_every_state_segment_and_unit() -> None:
    known = schema("finwait.explain-1")["$defs"]
    assert known["token"]["enum"] == [state.token for state in STATES]
    sent = {transition.sent for state in STATES for transition in transitions_from(state)}
    assert set(known["way"]["properties"]["sent"]["enum"]) == sent
    assert set(known["sysctl"]["properties"]["unit"]["enum"]) == {unit for _, unit in SYSCTLS.values()}


DIAGRAMS = [
    (),
    ("states", "--counts", "--whole"),
    ("--read", "docs/examples/ticket-ss.txt", "--lang", "zh"),
    ("states", "state", "established", "--source", "proc"),
    *((name.replace("_", "-"),) for name in EXCHANGES),
]


@pytest.mark.parametrize("arguments", DIAGRAMS, ids=" ".join)
def test_a_diagram_is_what_its_schema_says(arguments: tuple[str, ...]) -> None:
    document = json.loads(printed("diagram", "--format", "json", *arguments))
    document_validator("finwait.diagram-1").validate(document)


def test_a_diagram_with_rates_is_what_its_schema_says() -> None:
    rates = Rates({(TcpState.ESTABLISHED, TcpState.CLOSE): 23, (TcpState.LISTEN, TcpState.SYN_RECV): 7}, 2.5)
    for whole in (False, True):
        document_validator("finwait.diagram-1").validate(states_document({}, None, rates, whole=whole))


def test_the_schema_of_diagrams_knows_every_state_segment_and_event() -> None:
    known = schema("finwait.diagram-1")["$defs"]
    assert known["token"]["enum"] == [state.token for state in STATES]
    sent = {transition.sent for state in STATES for transition in transitions_from(state)}
    assert set(known["transition"]["properties"]["sent"]["enum"]) == sent
    flags = {step.flags for exchange in EXCHANGES.values() for step in exchange.steps}
    assert flags <= set(known["step"]["properties"]["flags"]["enum"])


def test_the_schema_of_diagrams_refuses_a_mixture() -> None:
    states = json.loads(printed("diagram", "--format", "json", "--read", RECORDINGS[0]))
    exchange = json.loads(printed("diagram", "open", "--format", "json"))
    assert states["complete"] is False  # the recording has no CLOSED, and its warning says so
    first = {**states["states"][0], "weight": 1.5}
    wrong = [
        {**states, "kind": "exchange"}, {**exchange, "complete": False}, {**states, "steps": exchange["steps"]},
        {**states, "states": [first, *states["states"][1:]]}, {**states, "states": states["states"][1:]},
    ]  # fmt: skip
    for document in wrong:
        with pytest.raises(ValidationError):
            document_validator("finwait.diagram-1").validate(document)


def test_by_state_alone_a_count_has_all_eleven_states() -> None:
    rows = json.loads(printed("count", "--json", "--read", RECORDINGS[0]))["rows"]
    assert len(rows) == 11
    assert [set(row) for row in rows] == [{"state", "count"}] * 11


def test_a_schema_refuses_what_it_does_not_name() -> None:
    document = json.loads(printed("count", "--json", "--read", RECORDINGS[0]))
    with pytest.raises(ValidationError):
        document_validator("finwait.count-1").validate({**document, "unheard_of": 1})


def test_the_last_record_of_a_list_is_its_end() -> None:
    lines = printed("list", "--ndjson", "--read", RECORDINGS[0]).splitlines()
    records = [json.loads(line)["record"] for line in lines]
    assert records == ["row"] * (len(lines) - 1) + ["end"]


@pytest.mark.parametrize(
    "arguments", [(), ("--source", "proc"), ("--rule", "sysctl-myth"), ("--lang", "zh")], ids=" ".join
)
def test_a_diagnosis_is_what_its_schema_says(arguments: tuple[str, ...]) -> None:
    document = json.loads(printed("doctor", "--for", "0", "--json", *arguments))
    document_validator("finwait.doctor-1").validate(document)
    lines = [json.loads(line) for line in printed("doctor", "--for", "0", "--ndjson", *arguments).splitlines()]
    kinds = [line.pop("type") for line in lines]
    assert kinds[0] == "diagnosis"
    whole = schema("finwait.doctor-1")
    for kind, line in zip(kinds[1:], lines[1:], strict=True):
        assert line.pop("schema") == "finwait.doctor/1"
        Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": whole["$defs"]}).validate(line)
    document_validator("finwait.doctor-1").validate({**lines[0], "findings": [], "unchecked": []})


def test_the_rules_are_what_their_schema_says() -> None:
    document = json.loads(printed("doctor", "--rules", "--json"))
    document_validator("finwait.doctor-rules-1").validate(document)
    assert [rule["id"] for rule in document["rules"]] == [rule.id for rule in RULES]


@pytest.mark.parametrize("arguments", [(), ("--for", "0.01"), ("--source", "proc")], ids=" ".join)
def test_a_port_budget_is_what_its_schema_says(arguments: tuple[str, ...]) -> None:
    document_validator("finwait.ports-1").validate(json.loads(printed("ports", "--json", *arguments)))


TRACES = [(), ("--lifetimes",), ("--summary",), ("--summary", "--every", "1"), ("--lang", "zh")]


def traced(*arguments: str) -> str:
    """What `finwait trace` prints of the made-up host."""
    command = (sys.executable, "tests/contract/fixed_trace.py", "trace", *arguments)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("arguments", TRACES, ids=" ".join)
def test_a_trace_is_what_its_schema_says(arguments: tuple[str, ...]) -> None:
    validator = document_validator("finwait.trace-1")
    document = json.loads(traced("--json", *arguments))
    validator.validate(document)
    lines = [json.loads(line) for line in traced("--ndjson", *arguments).splitlines()]
    for line in lines:
        validator.validate(line)
    kinds = [line["type"] for line in lines]
    assert kinds[0] == "ready"
    assert kinds[-1] == "end"
    assert lines[1:-1] == document["rows"]
    assert lines[-1]["lost"] == document["lost"] == sum(line["lost"] for line in lines if line["type"] == "loss")


def test_the_schema_of_traces_knows_every_column_state_event_and_evidence() -> None:
    known = schema("finwait.trace-1")["$defs"]
    assert list(known["change"]["properties"]) == ["schema", "type", *CHANGE_NAMES]
    assert list(known["lifetime"]["properties"]) == ["schema", "type", *LIFETIME_NAMES, "path"]
    assert known["token"]["enum"] == [state.token for state in STATES]
    assert known["change"]["properties"]["why"]["enum"] == [*EVENTS, None]
    assert set(known["change"]["properties"]["evidence"]["enum"]) == set(EVIDENCE)
    assert {known[kind]["properties"]["schema"]["const"] for kind in ("ready", "loss", "end")} == {TRACE_SCHEMA}


def test_the_schema_of_traces_refuses_a_mixture() -> None:
    change = json.loads(traced("--ndjson", "--count", "1").splitlines()[1])
    for wrong in ({"type": "lifetime"}, {"to": "TIME-WAIT"}, {"in_from_us": -1}, {"at": None}, {"why": "because"}):
        with pytest.raises(ValidationError):
            document_validator("finwait.trace-1").validate({**change, **wrong})


def test_the_page_on_json_has_every_record_and_key_of_a_trace() -> None:
    page = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    part = page.partition("## A trace\n")[2].partition("\n## ")[0]
    known = schema("finwait.trace-1")["$defs"]
    kinds = ("ready", "change", "lifetime", "summary", "loss", "end")
    assert [kind for kind in kinds if f"| `{kind}` |" not in part] == []
    keys = {*CHANGE_NAMES, *LIFETIME_NAMES, "path", *known["summary"]["properties"], "lost"} - {"schema", "type"}
    assert [key for key in sorted(keys) if f"`{key}`" not in part] == []
