"""Evaluation end to end on a tiny model: what is measured is what was written, on the data that were meant."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tinymodels.checkpoints import checkpoint_of

from saffron_api.candidate import CandidateSpec, Method, Scheme
from saffron_api.failures import Failure, FailureReason, StageError
from saffron_api.quantized_model import Gates, UpperLimit, Verdict
from saffron_api.results import FigureName
from saffron_quantizer.checkpoint.identity import model_digest
from saffron_quantizer.checkpoint.manifest import write_manifest
from saffron_quantizer.data.sequences import TokenSequence
from saffron_quantizer.evaluation.baseline import BaselineRequest, baseline
from saffron_quantizer.evaluation.evaluate import EvaluateRequest, evaluate
from saffron_quantizer.evaluation.window import limit_scored
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.progress import ignore
from saffron_quantizer.report import finished_report, judged


def gate_set(conversations):
    """Conversations of several lengths, every third with two sequences, scored from different places."""
    torch.manual_seed(0)
    sequences = []
    for number in range(conversations):
        for _ in range(2 if number % 3 == 0 else 1):
            tokens = (1, *torch.randint(7, 97, (5 + number % 9,)).tolist())
            sequences.append(TokenSequence(tokens, (1 + number % 3, len(tokens)), f"c{number}"))
    return limit_scored(sequences)


@pytest.fixture
def request_(speaking_model, speaking_checkpoint):
    return EvaluateRequest(
        original=speaking_model,
        model_digest=model_digest(speaking_model, hash_cache=None),
        candidate=speaking_checkpoint,
        sequences=gate_set(40),
        baseline=None,
        confidence=0.95,
    )


def expected_values(request):
    """Perplexity ratio, divergence and agreement by their definitions, one sequence at a time in float64."""
    original, candidate = ModelStream.open(request.original), ModelStream.open(request.candidate)
    parts = []
    for sequence in request.sequences:
        start, end = sequence.score
        # The original's states are kept in float16, and the candidate's rounded alike.
        log_p, log_q = (
            model.logits(model.final_hidden([torch.tensor(sequence.tokens)])[0].half().float()).double().log_softmax(1)
            for model in (original, candidate)
        )
        rows = torch.arange(start - 1, end - 1)
        targets = torch.tensor(sequence.tokens[start:end])
        divergence = (log_p.exp() * (log_p - log_q)).sum(dim=1)[rows]
        same = (log_p.argmax(dim=1) == log_q.argmax(dim=1))[rows].double()
        parts.append(torch.stack([log_p[rows, targets] - log_q[rows, targets], divergence, same]))
    log_ratio, divergence, agreement = torch.cat(parts, dim=1).mean(dim=1).tolist()
    return [math.exp(log_ratio), divergence, agreement]


def test_figures_equal_their_definitions(request_):
    report = evaluate(request_, None, ignore)
    # Padding in a batch changes the order of float32 additions, not more.
    assert [row.value for row in report.gates[:3]] == pytest.approx(expected_values(request_), rel=1e-4)
    assert [row.name for row in report.gates] == list(FigureName)
    assert all(row.lower <= row.value <= row.upper for row in report.gates)
    assert (report.units, report.scored_tokens) == (40, sum(sequence.scored for sequence in request_.sequences))


@pytest.mark.parametrize(
    "spec",
    [
        CandidateSpec(method="RTN", scheme="FP8Static", kv_cache="FP8"),
        CandidateSpec(method="RTN", scheme="FP8"),
        CandidateSpec(method="RTN", scheme="W4A16", group_size=32, format="AutoAWQ"),
    ],
    ids=["FP8Static with an FP8 cache", "FP8", "AutoAWQ"],
)
def test_every_kind_of_checkpoint_is_measured(speaking_model, request_, tmp_path, spec):
    torch.manual_seed(1)
    sequences = [torch.randint(7, 97, (30,)) for _ in range(4)]
    checkpoint_of(speaking_model, spec, tmp_path / "it", sequences)
    request = replace(request_, candidate=tmp_path / "it")
    report = evaluate(request, None, ignore)
    # One sequence at a time adds in another order, and what that tips over to the next FP8 number is a sixteenth off.
    assert [row.value for row in report.gates[:3]] == pytest.approx(expected_values(request), rel=0.05)
    assert report.candidate == spec.recipe


def test_the_size_is_that_of_the_tensors_and_exact(request_):
    report = evaluate(request_, None, ignore)
    size = report.gates[3]
    ratio = report.bytes / report.original_bytes
    assert (size.value, size.lower, size.upper) == (ratio, ratio, ratio)
    manifest = json.loads((request_.candidate / "manifest.json").read_text())
    assert report.bytes == manifest["result"]["bytes"]
    assert report.tensor_parallel == manifest["tensorParallel"] == 2


def test_the_report_tells_what_each_block_took(request_):
    report = evaluate(request_, None, ignore)
    assert [(layer.block, layer.modules, layer.dead_columns) for layer in report.layers] == [(0, 7, 0), (1, 7, 0)]


def test_a_written_baseline_gives_the_same_figures(request_, tmp_path):
    of = BaselineRequest(request_.model_digest, request_.sequences)
    result = baseline(request_.original, of, tmp_path / "base", ignore)
    with_it = evaluate(replace(request_, baseline=tmp_path / "base"), None, ignore)
    without = evaluate(request_, None, ignore)
    # With a baseline the divergence comes from the candidate's logits alone; only float32 rounding tells them apart.
    assert [value for row in with_it.gates for value in (row.value, row.lower, row.upper)] == pytest.approx(
        [value for row in without.gates for value in (row.value, row.lower, row.upper)], rel=1e-5
    )
    # Summed over tokens here, and over conversations there.
    assert result.perplexity == pytest.approx(with_it.perplexity_original, rel=1e-12)
    assert result.scored_tokens == with_it.scored_tokens


def test_of_a_model_that_caps_its_logits_both_models_logits_are_compared(speaking_model, tmp_path):
    shutil.copytree(speaking_model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "final_logit_softcapping": 2.0}))
    spec = CandidateSpec(method=Method.RTN, scheme=Scheme.W4A16, group_size=32)
    checkpoint_of(tmp_path / "model", spec, tmp_path / "int4")
    digest = model_digest(tmp_path / "model", hash_cache=None)
    request = EvaluateRequest(tmp_path / "model", digest, tmp_path / "int4", gate_set(30), None, 0.95)
    baseline(request.original, BaselineRequest(digest, request.sequences), tmp_path / "base", ignore)
    told = []
    with_it = evaluate(replace(request, baseline=tmp_path / "base"), None, told.append)
    assert with_it.gates == evaluate(request, None, ignore).gates
    assert told[-1].activity == "comparing tokens, with the logits of both models"


def make_layout_1(folder):
    """What a baseline of the first layout looked like: no layout among its settings, and the states alone."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["settings"]["layout"]
    states = load_file(folder / "hidden.safetensors")["hidden"]
    save_file({"hidden": states}, folder / "hidden.safetensors")
    manifest["files"]["hidden.safetensors"]["size"] = (folder / "hidden.safetensors").stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_baseline_of_an_earlier_layout_is_refused_and_made_again(request_, tmp_path):
    of = BaselineRequest(request_.model_digest, request_.sequences)
    first = baseline(request_.original, of, tmp_path / "base", ignore)
    written = (tmp_path / "base" / "hidden.safetensors").read_bytes()
    make_layout_1(tmp_path / "base")
    assert str(failure(replace(request_, baseline=tmp_path / "base"))) == (
        f"The request is not valid: --baseline={tmp_path}/base. (it holds the baseline of another version of Saffron; "
        "run `saffron baseline` on it again)"
    )
    assert baseline(request_.original, of, tmp_path / "base", ignore) == first
    assert (tmp_path / "base" / "hidden.safetensors").read_bytes() == written


def test_a_baseline_of_an_earlier_layout_and_of_other_data_is_left_alone(request_, tmp_path):
    baseline(request_.original, BaselineRequest(request_.model_digest, gate_set(3)), tmp_path / "base", ignore)
    make_layout_1(tmp_path / "base")
    before = (tmp_path / "base" / "manifest.json").read_bytes()
    with pytest.raises(StageError):
        baseline(
            request_.original, BaselineRequest(request_.model_digest, request_.sequences), tmp_path / "base", ignore
        )
    assert (tmp_path / "base" / "manifest.json").read_bytes() == before


def test_a_baseline_is_made_once(request_, tmp_path):
    of = BaselineRequest(request_.model_digest, request_.sequences)
    first = baseline(request_.original, of, tmp_path / "base", ignore)
    assert baseline(tmp_path / "no-model", of, tmp_path / "base", ignore) == first


def failure(request):
    with pytest.raises(StageError) as caught:
        evaluate(request, None, ignore)
    return caught.value


def test_a_baseline_of_other_data_is_refused(request_, tmp_path):
    baseline(request_.original, BaselineRequest(request_.model_digest, gate_set(3)), tmp_path / "base", ignore)
    refused = failure(replace(request_, baseline=tmp_path / "base"))
    assert str(refused) == (
        f"The request is not valid: --baseline={tmp_path}/base. (it holds the baseline of another model or other data)"
    )


def test_a_baseline_that_was_not_finished_is_refused(request_, tmp_path):
    refused = failure(replace(request_, baseline=tmp_path))
    assert refused.failure == Failure(reason=FailureReason.SPEC_INVALID, subject=f"--baseline={tmp_path}")
    assert refused.detail == "it holds no finished baseline; `saffron baseline` makes one"


def flip_a_byte(folder):
    path = max(folder.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def finish_a_sample(folder):
    (folder / "manifest.json").unlink()
    write_manifest(folder, {"settings": {"stage": "sample"}, "result": {}})


DAMAGE = {
    "a byte that flipped": (flip_a_byte, FailureReason.INPUT_CHANGED),
    "a file cut short": (lambda folder: (folder / "config.json").write_text("{"), FailureReason.INPUT_CHANGED),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), FailureReason.SPEC_INVALID),
    "another stage's manifest": (finish_a_sample, FailureReason.SPEC_INVALID),
    "no folder": (shutil.rmtree, FailureReason.MODEL_MISSING),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_checkpoint_with(request_, tmp_path, damage, reason):
    folder = tmp_path / "candidate"
    shutil.copytree(request_.candidate, folder)
    damage(folder)
    assert failure(replace(request_, candidate=folder)).failure.reason is reason


def test_a_file_that_is_put_beside_a_checkpoint_is_no_part_of_it(request_, tmp_path):
    """A model card above all: it is written once the checkpoint was measured, and belongs there."""
    folder = tmp_path / "candidate"
    shutil.copytree(request_.candidate, folder)
    before = evaluate(replace(request_, candidate=folder), None, ignore)
    (folder / "README.md").write_text("# A model card")
    assert evaluate(replace(request_, candidate=folder), before, ignore) is before


def test_an_original_that_is_not_finite_is_refused(request_, tmp_path, speaking_model):
    shutil.copytree(speaking_model, tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    tensors["model.norm.weight"][3] = torch.inf
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    refused = failure(replace(request_, original=tmp_path / "model")).failure
    assert refused == Failure(reason=FailureReason.MODEL_NOT_FINITE, subject="model.norm.weight")


def test_a_checkpoint_of_another_model_than_the_original_is_told(request_, caplog):
    evaluate(request_, None, ignore)
    assert caplog.messages == []
    evaluate(replace(request_, model_digest="f" * 64), None, ignore)
    candidate, original = request_.candidate, request_.original
    assert caplog.messages == [
        f"{candidate} was made of another model than {original}; the figures compare it with this one."
    ]


def test_the_same_settings_are_not_measured_again(request_):
    report = evaluate(request_, None, ignore)
    assert evaluate(request_, report, ignore) is report
    assert evaluate(replace(request_, confidence=0.99), report, ignore) is not report


@pytest.mark.parametrize(
    ("make", "what"), [(lambda path: path.write_text("{}"), "file"), (lambda path: path.mkdir(), "folder")]
)
def test_a_place_for_the_report_that_is_taken_is_refused_before_any_work(tmp_path, make, what):
    make(tmp_path / "thesis")
    with pytest.raises(StageError) as caught:
        finished_report(tmp_path / "thesis")
    assert caught.value.failure.reason is FailureReason.SPEC_INVALID
    assert caught.value.detail == f"there is a {what} of that name that is no report"


def test_fewer_than_30_conversations_are_inconclusive(request_):
    report = evaluate(replace(request_, sequences=gate_set(29)), None, ignore)
    gates = Gates(perplexity_ratio=UpperLimit(max=100), checkpoint_bytes_ratio=UpperLimit(max=1))
    decided = judged(report, gates)
    assert [row.verdict for row in decided.gates] == [Verdict.INCONCLUSIVE, None, None, Verdict.PASS]
    assert (decided.verdict, decided.units_needed) == (Verdict.INCONCLUSIVE, 30)
