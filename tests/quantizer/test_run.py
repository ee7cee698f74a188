"""The whole way on one machine: the real command on a tiny model, and what becomes of a request where work fails."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import yaml

from saffron_api.failures import Failure, FailureReason, StageError
from saffron_api.prediction import TOO_LARGE
from saffron_api.quantized_model import QuantizedModelSpec
from saffron_api.results import (
    BaselineResult,
    EvaluateResult,
    InspectResult,
    PredictedSize,
    QuantizeResult,
    SampleResult,
    SampleSet,
    Stage,
)
from saffron_quantizer.local.order import Order
from saffron_quantizer.local.pipeline import run
from saffron_quantizer.local.places import Places, claims_of, places_of
from saffron_quantizer.local.process import do_in_process
from saffron_quantizer.local.stages import do
from saffron_quantizer.report import to_json

SAFFRON = Path(sys.executable).with_name("saffron")

pytestmark = pytest.mark.timeout(600)


def spec_json(**changes):
    base = {
        "model": {"uri": "pvc://models/tiny"},
        "data": {"source": {"dataset": {"uri": "pvc://data/prompts.jsonl"}}, "maxTokens": 16},
        "calibration": {"samples": 10},
        "evaluation": {"samples": 32},
        "candidates": [
            {"name": "gptq-int4", "method": "GPTQ", "scheme": "W4A16", "groupSize": 32},
            {"name": "int8", "method": "RTN", "scheme": "W8A8"},
        ],
        "gates": {"perplexityRatio": {"max": 100.0}},
        "storage": {"checkpoints": {"claimName": "checkpoints"}, "workspace": {"claimName": "work"}},
    }
    return base | changes


def spec(**changes):
    return QuantizedModelSpec.model_validate(spec_json(**changes))


@pytest.fixture
def claims(speaking_model, tmp_path):
    """A folder for each claim, with the model and 60 conversations in theirs."""
    folders = {name: tmp_path / name for name in ("models", "data", "checkpoints", "work")}
    for folder in folders.values():
        folder.mkdir()
    (folders["models"] / "tiny").symlink_to(speaking_model)
    texts = (f"w{7 + number % 80} w{8 + number // 80} w{9 + number % 60} w11 w12" for number in range(60))
    (folders["data"] / "prompts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folders


def command(claims, tmp_path, *more, **changes):
    request = {
        "apiVersion": "saffron.dev/v1alpha1",
        "kind": "QuantizedModel",
        "metadata": {"name": "tiny"},
        "spec": spec_json(**changes),
    }
    (tmp_path / "qm.yaml").write_text(yaml.safe_dump_all([{"kind": "Namespace"}, request]))
    mapped = [word for name, folder in claims.items() for word in ("--claim", f"{name}={folder}")]
    return [str(SAFFRON), "run", "-f", str(tmp_path / "qm.yaml"), *mapped, *more]


def saffron(*arguments):
    return subprocess.run(*arguments, check=False, capture_output=True, text=True, timeout=500)


def test_a_killed_run_leaves_no_process_behind_goes_on_and_is_then_only_reported(claims, tmp_path):
    page = tmp_path / "page.html"
    asked = {"candidates": [{"name": "int8", "method": "RTN", "scheme": "W8A8"}]}  # each costs two processes
    killed = subprocess.Popen(command(claims, tmp_path, **asked), stderr=subprocess.PIPE, text=True)
    assert killed.stderr is not None
    while "inspect the model" not in killed.stderr.readline():
        pass
    children = wait_for(lambda: Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split())
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children))

    done = saffron(command(claims, tmp_path, "--html", str(page), **asked))
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    *table, decision = done.stdout.splitlines()
    assert [line.split()[0] for line in table] == ["candidate", "int8"]
    assert decision.startswith("selected: int8, in ")
    assert "Selected: int8" in page.read_text()
    assert oct(claims["work"].joinpath("tiny").stat().st_mode)[-3:] == "700"

    # Its own pieces once more, in this process, which is sooner.
    stamps = {path: path.stat().st_mtime_ns for path in claims["checkpoints"].rglob("*")}
    steps = []
    order = Order(Stage.INSPECT, spec(**asked), places_of(spec(), "tiny", claims))
    outcome = run(order, lambda order: do(order, steps.append), lambda _: None)
    assert outcome.selected is not None
    assert outcome.folder == claims["checkpoints"] / "saffron" / outcome.selected.checkpoint_digest
    assert outcome.selected.uri == f"pvc://checkpoints/saffron/{outcome.selected.checkpoint_digest}"
    assert steps == []
    assert {path: path.stat().st_mtime_ns for path in claims["checkpoints"].rglob("*")} == stamps


def test_ctrl_c_in_a_terminal_is_told_once_for_all_processes(claims, tmp_path):
    begun = subprocess.Popen(command(claims, tmp_path), stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert begun.stderr is not None
    while "inspect the model" not in begun.stderr.readline():
        pass
    worker = wait_for(lambda: next(spawned(begun.pid), None))
    # It still imports what it needs, where an interrupt would end in a traceback of its own.
    (blocked,) = re.findall(r"^SigBlk:\s+(\w+)$", (worker / "status").read_text(), re.MULTILINE)
    assert int(blocked, 16) >> (signal.SIGINT - 1) & 1
    os.killpg(begun.pid, signal.SIGINT)
    _, errors = begun.communicate(timeout=120)
    told = (130, ["interrupted; the same command goes on with what is finished"])
    assert (begun.returncode, errors.splitlines()) == told


def spawned(parent):
    """Where the system tells of each process that was started to do a piece of work."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        place = Path("/proc") / child
        if place.exists() and b"spawn_main" in (place / "cmdline").read_bytes():
            yield place


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise TimeoutError


def test_when_no_candidate_is_small_enough_nothing_is_made_and_what_only_a_cluster_does_is_told(claims, tmp_path):
    rollout = {"targetRef": {"name": "qwen", "container": "server"}, "steps": [{"weight": 50}]}
    changes = {"rollout": rollout, "job": {"parallelism": 2}, "gates": {"checkpointBytesRatio": {"max": 0.01}}}
    done = saffron(command(claims, tmp_path, "--claim", f"spare={tmp_path}", **changes))
    assert done.returncode == 20
    assert "note: the request names no claim spare" in done.stderr
    assert done.stdout.splitlines()[-1].startswith("selected: none, for none passed")
    assert "checkpointBytesRatio allows 0.01; it was not made" in done.stdout
    assert list(claims["checkpoints"].iterdir()) == []
    for name in ("spec.rollout", "spec.job"):
        assert f"note: {name} is for a cluster and not looked at" in done.stderr


REFUSED = {
    "a claim without a folder": (["--claim", "models"], 2, "'models' is not NAME=DIR, as models=/srv/models"),
    "a claim whose folder is missing": (
        [word for name in ("models", "data", "checkpoints", "work") for word in ("--claim", f"{name}=/no/{name}")],
        2,
        "there is no folder /no/models for models, /no/data for data",
    ),
    "claims that are not told": ([], 2, "no --claim says which folder stands for models, data, checkpoints, work"),
}


@pytest.mark.parametrize(("more", "code", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused(more, code, words, tmp_path):
    done = saffron(command({}, tmp_path, *more))
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr


BAD_REQUESTS = {
    "no YAML": ("{", "it is not YAML"),
    "another kind": ("kind: Pod\n", "it holds 0 objects of the kind QuantizedModel, and one is asked for"),
    "two requests": ("kind: QuantizedModel\n---\nkind: QuantizedModel\n", "it holds 2 objects"),
    "a field that is not there": (
        yaml.safe_dump(
            {
                "apiVersion": "saffron.dev/v1alpha1",
                "kind": "QuantizedModel",
                "metadata": {"name": "tiny"},
                "spec": spec_json(speed="fast"),
            }
        ),
        "spec.speed: unknown field",
    ),
}


@pytest.mark.parametrize(("text", "words"), BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_a_request_with(text, words, tmp_path):
    (tmp_path / "qm.yaml").write_text(text)
    done = saffron([str(SAFFRON), "run", "-f", str(tmp_path / "qm.yaml")])
    assert (done.returncode, words in done.stderr) == (10, True), done.stderr


def test_a_device_that_is_not_there_is_refused_before_the_model_is_read(claims, tmp_path):
    shutil.rmtree(claims["models"])
    claims["models"].mkdir()
    done = saffron(command(claims, tmp_path, "--device", "cuda"))
    assert (done.returncode, done.stderr.splitlines()[1]) == (
        16,
        "error: There is no GPU here that can be used (no-GPU-found).",
    )
    assert list(claims["work"].joinpath("tiny").iterdir()) == []


def test_each_piece_of_work_is_told_of_the_device(make_report, tmp_path):
    work, devices = Work(make_report), []

    def do_and_note(order):
        devices.append(order.device)
        return work(order)

    run(replace(first(tmp_path), device="cuda"), do_and_note, lambda _: None)
    assert devices == ["cuda"] * len(ALL)


def test_claims_are_found_by_name_and_paths_below_them():
    request = spec(storage={"checkpoints": {"claimName": "models", "path": "a/b"}, "workspace": {"claimName": "work"}})
    assert claims_of(request) == ["models", "data", "work"]
    folders = {"models": Path("/m"), "data": Path("/d"), "work": Path("/w")}
    assert places_of(request, "tiny", folders) == Places(
        model=Path("/m/tiny"), dataset=Path("/d/prompts.jsonl"), workspace=Path("/w/tiny"), checkpoints=Path("/m/a/b")
    )


# --- what becomes of a request where work fails: the work itself is told, not done -----------------------------------

SETS = SampleSet(count=32, tokens=100, digest="e" * 64)
TELLS = {
    Stage.SAMPLE: SampleResult(calibration=SETS, selection=SETS, gate=SETS),
    Stage.BASELINE: BaselineResult(perplexity=20.0, scored_tokens=100),
}
SIZES = {"gptq-int4": 400, "int8": 600}
BROKEN = StageError(Failure(reason=FailureReason.NUMERICALLY_UNSTABLE, subject="model.layers.0"))


class Work:
    """Tells what each piece of work would, notes what was asked for, and fails where it is told to."""

    def __init__(self, make_report, *, fails=(), losses=None, impossible=None):
        self.make_report, self.fails, self.losses = make_report, fails, losses or {}
        self.impossible, self.asked = impossible, []

    def __call__(self, order):
        name = order.candidate.name if order.candidate else None
        self.asked.append(order.about)
        if (order.stage, name) in self.fails:
            raise BROKEN
        if order.stage is Stage.INSPECT:
            return self.inspected()
        if order.stage is Stage.QUANTIZE:
            return QuantizeResult(
                checkpoint_digest=f"{SIZES[name]:064x}", bytes=SIZES[name] * 1_000_000, modules=1, max_damping=0.01,
                dead_columns=0, seconds=1.0, peak_bytes=1,
            )  # fmt: skip
        if order.stage is Stage.EVALUATE:
            return self.measured(order, name)
        return TELLS[order.stage]

    def inspected(self):
        failure = Failure(reason=FailureReason.SHAPE_UNSUPPORTED, subject="q_proj", have=96, need=128)
        return InspectResult(
            model_digest="a" * 64, architecture="Llama", parameters=1, bytes=1_000_000_000, isa="AVX2",
            predicted=[
                PredictedSize(name=name, failure=failure)
                if name == self.impossible
                else PredictedSize(name=name, bytes=size * 1_000_000)
                for name, size in SIZES.items()
            ],
        )  # fmt: skip

    def measured(self, order, name):
        report = self.make_report(size=SIZES[name], loss=self.losses.get(name, 0.01))
        path = order.places.report(order.evaluate_key)
        path.parent.mkdir(parents=True)
        path.write_text(to_json(report))
        return EvaluateResult(
            checkpoint_digest=report.digest, figures=report.figures, units=60, scored_tokens=1, confidence=order.level
        )


ALL = ["inspect", "sample", "baseline", "quantize gptq-int4", "evaluate gptq-int4", "quantize int8", "evaluate int8"]
Q, E = Stage.QUANTIZE, Stage.EVALUATE
MISSES, DOUBTS = 0.9, 0.2
"""Losses whose perplexity ratio misses a limit of 1.2, and whose bounds lie on both sides of it."""
ENDINGS = {
    "all pass, and the smallest is taken": ({}, ["Pass", "Pass"], "gptq-int4", ALL),
    "one can't be made": ({"fails": [(Q, "gptq-int4")]}, ["Error", "Pass"], "int8", [*ALL[:4], *ALL[5:]]),
    "one can't be measured": ({"fails": [(E, "gptq-int4")]}, ["Error", "Pass"], "int8", ALL),
    "one misses a gate": ({"losses": {"gptq-int4": MISSES}}, ["Fail", "Pass"], "int8", ALL),
    "one does not fit the model": ({"impossible": "gptq-int4"}, [None, "Pass"], "int8", [*ALL[:3], *ALL[5:]]),
    "all miss a gate": ({"losses": dict.fromkeys(SIZES, MISSES)}, ["Fail", "Fail"], None, ALL),
    "one is in doubt": ({"losses": {"gptq-int4": DOUBTS, "int8": MISSES}}, ["Inconclusive", "Fail"], None, ALL),
    "none can be made": (
        {"fails": [(Q, "gptq-int4"), (Q, "int8")]}, ["Error", "Error"], None, [*ALL[:4], ALL[5]],
    ),
}  # fmt: skip


def first(tmp_path, **changes):
    request = spec(**{"gates": {"perplexityRatio": {"max": 1.2}}, **changes})
    return Order(Stage.INSPECT, request, Places(tmp_path / "m", tmp_path / "d", tmp_path / "w", tmp_path / "c"))


@pytest.mark.parametrize("case", ENDINGS.values(), ids=ENDINGS.keys())
def test_a_run_in_which(case, make_report, tmp_path):
    how, verdicts, selected, asked = case
    work = Work(make_report, **how)
    outcome = run(first(tmp_path), work, lambda _: None)
    assert [each.verdict for each in outcome.candidates] == verdicts
    assert (outcome.selected.name if outcome.selected else None) == selected
    assert work.asked == asked
    assert outcome.inconclusive == ("Inconclusive" in verdicts and selected is None)
    assert [report.name for report in outcome.reports] == [
        name for name, verdict in zip(SIZES, verdicts, strict=True) if verdict in {"Pass", "Fail", "Inconclusive"}
    ]
    folder = None if selected is None else tmp_path / "c" / f"{SIZES[selected]:064x}"
    assert outcome.folder == folder


def test_a_candidate_that_must_miss_its_size_is_not_made(make_report, tmp_path):
    gates = {"perplexityRatio": {"max": 1.2}, "checkpointBytesRatio": {"max": 0.5}}
    work = Work(make_report)
    outcome = run(first(tmp_path, gates=gates), work, lambda _: None)
    assert work.asked == ALL[:5]
    assert [(each.verdict, each.reason) for each in outcome.candidates] == [("Pass", None), ("Fail", TOO_LARGE)]


@pytest.mark.parametrize("stage", [Stage.INSPECT, Stage.SAMPLE, Stage.BASELINE])
def test_a_stage_that_all_need_ends_the_run(stage, make_report, tmp_path):
    with pytest.raises(StageError):
        run(first(tmp_path), Work(make_report, fails=[(stage, None)]), lambda _: None)


def test_why_a_candidate_failed_is_told(make_report, tmp_path):
    lines = []
    run(first(tmp_path), Work(make_report, fails=[(Q, "gptq-int4")]), lines.append)
    assert f"gptq-int4: Error: {BROKEN}" in lines


DEATHS = {
    "is killed, as for memory": (partial(signal.raise_signal, signal.SIGKILL), FailureReason.OUT_OF_MEMORY),
    "ends without a word": (partial(os._exit, 3), FailureReason.INTERNAL),
}


@pytest.mark.parametrize(("show", "reason"), DEATHS.values(), ids=DEATHS.keys())
def test_a_process_that(show, reason, tmp_path):
    with pytest.raises(StageError) as caught:
        do_in_process(first(tmp_path), show)
    assert caught.value.failure.reason is reason
