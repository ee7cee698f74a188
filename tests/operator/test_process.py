"""The parts around the reconcile loop that need no cluster: health, metrics, logs, the command line, watch ages."""

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import generate_latest

from saffron_api.quantized_model import (
    CandidateState,
    CandidateStatus,
    Condition,
    FigureStatus,
    QuantizedModelStatus,
    Verdict,
)
from saffron_api.results import FigureName
from saffron_operator import health
from saffron_operator.lease import Timing
from saffron_operator.logs import LogfmtFormatter
from saffron_operator.metrics import Metrics, StageSeconds
from saffron_operator.queue import Key
from saffron_operator.settings import Settings, parse
from saffron_operator.watches import WatchAges

WELL = {"leading": True, "watch_age": 60.0, "pass_seconds": 1.0, "silence": 5.0}


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        pytest.param({}, [], id="a leader whose watches live is alive"),
        pytest.param(
            {"watch_age": 300.0},
            ["a watch has shown no sign of life for 300 s"],
            id="a watch that ended without a word is noticed",
        ),
        pytest.param({"pass_seconds": 200.0}, ["a pass has run for 200 s"], id="a pass that hangs is noticed"),
        pytest.param({"leading": False, "watch_age": 9e9, "pass_seconds": 9e9}, [], id="who waits watches nothing"),
        pytest.param(
            {"leading": False, "silence": 130.0},
            ["the API server has not answered about the Lease for 130 s"],
            id="who waits must be able to ask for the Lease",
        ),
    ],
)
def test_liveness(changes: dict[str, Any], problems: list[str]) -> None:
    assert health.alive(**(WELL | changes)) == problems


@pytest.mark.parametrize(
    ("state", "problems"),
    [
        pytest.param((True, True, True), [], id="a leader with all its watches is ready"),
        pytest.param((True, False, True), ["not all watches have begun"], id="a leader without is not"),
        pytest.param((False, False, True), [], id="who waits for the Lease is ready"),
        pytest.param((False, False, False), ["the API server has not answered yet"], id="who heard nothing is not"),
    ],
)
def test_readiness(state: tuple[bool, bool, bool], problems: list[str]) -> None:
    leading, watching, heard = state
    assert health.ready(leading=leading, watching=watching, heard=heard) == problems


def test_the_age_of_a_watch_counts_from_its_last_answer_and_unknown_paths_are_nothing() -> None:
    now = 100.0
    ages = WatchAges(frozenset({"/a", "/b"}), clock=lambda: now)
    now = 110.0
    ages.seen("/a")
    ages.seen("/c")
    now = 115.0
    assert (ages.ages(), ages.oldest, ages.complete) == ({"/a": 5.0, "/b": 15.0}, 15.0, False)
    ages.seen("/b")
    assert (ages.oldest, ages.complete) == (5.0, True)
    now = 120.0
    ages.restart()
    assert ages.oldest == 0.0
    ages.expect(["/c"])
    assert (ages.ages(), ages.complete) == ({"/c": 0.0}, False)


def test_a_watch_is_lost_when_it_is_refused_again_and_again() -> None:
    ages = WatchAges(frozenset({"/a", "/b"}))
    for path in ("/a", "/b", "/a", "/c", "/c", "/c"):
        ages.refused(path)
    ages.seen("/a")
    assert ages.lost == ()
    for path in ("/a", "/a", "/b", "/b"):
        ages.refused(path)
    assert ages.lost == ("/b",)


STATUS = QuantizedModelStatus(
    observed_generation=1,
    candidates=[
        CandidateStatus(
            name="int8",
            state=CandidateState.DONE,
            verdict=Verdict.PASS,
            figures=[
                FigureStatus(
                    name=FigureName.KL_DIVERGENCE, value=0.02, lower=0.01, upper=0.03, limit=0.08, verdict=Verdict.PASS
                )
            ],
        )
    ],
    conditions=[
        Condition(
            type="Ready",
            status="True",
            reason="Promoted",
            message="",
            last_transition_time=datetime(2026, 1, 1, tzinfo=UTC),
            observed_generation=1,
        )
    ],
)


def lines(metrics: Metrics) -> set[str]:
    text = generate_latest(metrics.registry).decode()
    return {line for line in text.splitlines() if "quantizedmodel=" in line}


def test_metrics_show_what_was_decided_last_and_forget_what_is_gone() -> None:
    metrics = Metrics(WatchAges(frozenset()))
    key = Key("ns", "qwen")
    metrics.show(key, STATUS, (StageSeconds("quantize", "int8", 12.0, ended="2026-01-01T00:00:00Z"),))
    of = 'namespace="ns",quantizedmodel="qwen"'
    gate = f'candidate="int8",gate="klDivergence",{of}'
    assert lines(metrics) == {
        f"saffron_gate_value{{{gate}}} 0.02",
        f"saffron_gate_lower_bound{{{gate}}} 0.01",
        f"saffron_gate_upper_bound{{{gate}}} 0.03",
        f"saffron_gate_limit{{{gate}}} 0.08",
        f'saffron_candidate_verdict{{candidate="int8",{of},verdict="Pass"}} 1.0',
        f'saffron_candidate_verdict{{candidate="int8",{of},verdict="Fail"}} 0.0',
        f'saffron_candidate_verdict{{candidate="int8",{of},verdict="Inconclusive"}} 0.0',
        f'saffron_candidate_verdict{{candidate="int8",{of},verdict="Error"}} 0.0',
        f'saffron_condition{{{of},reason="Promoted",status="True",type="Ready"}} 1.0',
        f'saffron_stage_duration_seconds{{candidate="int8",{of},stage="quantize"}} 12.0',
    }
    metrics.forget(key)
    assert lines(metrics) == set()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        pytest.param({"key": "ns/qwen"}, 'msg="pass failed" key=ns/qwen', id="a plain value stays bare"),
        pytest.param({"error": 'a "b"=c'}, 'msg="pass failed" error="a \\"b\\"=c"', id="others are quoted"),
        pytest.param({"error": "one\ntwo"}, 'msg="pass failed" error="one\\ntwo"', id="an event is one line"),
        pytest.param({"error": ""}, 'msg="pass failed" error=""', id="nothing is shown as nothing"),
    ],
)
def test_log_lines_are_pairs(fields: dict[str, object], text: str) -> None:
    record = logging.LogRecord("saffron_operator.queue", logging.WARNING, "", 0, "pass failed", None, None)
    record.fields = fields
    line = LogfmtFormatter().format(record)
    time, rest = line.split(" ", 1)
    assert time.startswith("time=20")
    assert rest == f"level=warning logger=saffron_operator.queue {text}"


def test_the_command_line_has_a_default_for_all_but_namespace_and_image() -> None:
    given = parse(
        ["--namespace", "a", "--namespace", "b", "--namespace", "a", "--quantizer-image", "q:1", "--identity", "me"]
    )
    assert given == Settings(namespaces=("a", "b"), quantizer_image="q:1", lease_namespace="a", identity="me")
    assert given.timing == Timing(duration=30.0, give_up=15.0, renew=5.0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param([], "the following arguments are required: --namespace, --quantizer-image", id="nothing"),
        pytest.param(["--metrics-port", "70000"], "70000 is no port", id="no port"),
        pytest.param(["--lease-seconds", "1"], "1 seconds are not between 3 and 600", id="a Lease too short"),
        pytest.param(["--lease-seconds", "nan"], "nan seconds are not between 3 and 600", id="no number"),
    ],
)
def test_a_wrong_command_line_ends_with_a_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["saffron-operator"])
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err
