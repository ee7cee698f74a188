"""Quantizing and measuring on another device than the CPU: the same, if that device computes as the CPU does."""

import json

import pytest
import torch
from elsewhere import DEVICE, Elsewhere
from torch.nn.attention import SDPBackend, sdpa_kernel

from saffron_api.candidate import CandidateSpec
from saffron_api.quantized_model import Gates, QuantizedModelSpec
from saffron_api.results import Stage
from saffron_kernels.rms_norm import rms_norm_reference
from saffron_quantizer.atomic import private_folder
from saffron_quantizer.checkpoint.manifest import read_manifest
from saffron_quantizer.data.sequences import TokenSequence
from saffron_quantizer.destination import OwnFolder
from saffron_quantizer.escalate import Selection
from saffron_quantizer.evaluation.baseline import BaselineRequest, baseline, original_hidden
from saffron_quantizer.evaluation.evaluate import EvaluateRequest, evaluate
from saffron_quantizer.evaluation.window import limit_scored
from saffron_quantizer.local.order import Order
from saffron_quantizer.local.pipeline import run
from saffron_quantizer.local.places import Places
from saffron_quantizer.local.stages import do
from saffron_quantizer.models.compute import CPU
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.progress import ignore
from saffron_quantizer.quantize import quantize
from saffron_quantizer.quantize_request import QuantizeRequest

SPECS = {
    "RTN": {"method": "RTN", "scheme": "W4A16", "groupSize": 32},
    "RTN weighed by activity": {"method": "RTN", "scheme": "W4A16", "groupSize": 32, "scaleSearch": "Hessian"},
    "GPTQ": {"method": "GPTQ", "scheme": "W4A16", "groupSize": 32},
    "GPTQ in both orders": {"method": "GPTQ", "scheme": "W4A16", "groupSize": 32, "actOrder": "Auto"},
    "GPTQ towards the original": {"method": "GPTQ", "scheme": "W8A8", "target": "Original"},
    "AWQ": {"method": "AWQ", "scheme": "W4A16", "groupSize": 32},
    "AWQ with zero points, as AutoAWQ": {
        "method": "AWQ",
        "scheme": "W4A16",
        "groupSize": 32,
        "symmetric": False,
        "format": "AutoAWQ",
    },
    "GPTQ's own format": {"method": "GPTQ", "scheme": "W4A16", "groupSize": 32, "format": "GPTQ"},
    "SmoothQuant": {"method": "SmoothQuant", "scheme": "W8A8"},
    "SmoothQuant, then GPTQ": {"method": "GPTQ", "scheme": "W8A8", "smoothing": "SmoothQuant"},
    "FP8": {"method": "RTN", "scheme": "FP8"},
    "FP8 with scales of before, and of the cache": {"method": "RTN", "scheme": "FP8Static", "kvCache": "FP8"},
}
DIGEST = "0" * 64


def calibration(count=3):
    return [torch.arange(3, 3 + length) % 60 for length in (40, 33, 7)[:count]]


def conversations(count):
    random = torch.Generator().manual_seed(0)
    draws = (tuple(torch.randint(3, 97, (6 + number % 9,), generator=random).tolist()) for number in range(count))
    return limit_scored([TokenSequence(tokens, (2, len(tokens)), f"c{n}") for n, tokens in enumerate(draws)])


@pytest.fixture(autouse=True)
def alike(monkeypatch):
    """Have both devices compute by the same operations."""
    # On the CPU these are loops of ours, which add up in another order than what other devices have.
    monkeypatch.setattr("saffron_kernels.nn.rms_norm.rms_norm", rms_norm_reference)
    monkeypatch.setattr("saffron_quantizer.models.attention.has_fast_causal_attention", lambda *_: False)
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: False)
    # Torch can't watch who reads such a tensor. Nothing then is forgotten early, which takes memory alone.
    monkeypatch.setattr("saffron_quantizer.models.stream.readers_of_parts", lambda *_: {})
    with Elsewhere(), sdpa_kernel(SDPBackend.MATH):
        yield


def made(model, spec, out, device, selection=None):
    sequences = calibration() if spec.needs_calibration else None
    request = QuantizeRequest(model, spec, sequences, selection=selection, model_digest=DIGEST)
    quantize(request, OwnFolder(out), ignore, device=device)
    return {path.name: path.read_bytes() for path in out.glob("*.safetensors")}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_checkpoint_has_the_same_bytes_from_another_device_that_computes_alike(spec, tiny_model, tmp_path):
    spec = CandidateSpec.model_validate(spec)
    there = made(tiny_model(), spec, tmp_path / "there", DEVICE)
    assert there == made(tiny_model(), spec, tmp_path / "here", CPU)


@pytest.mark.parametrize("name", ["Gemma3Text", "Mixtral", "Qwen3Moe", "GPTNeoX", "OPT"])
def test_models_of_other_parts_too(name, tiny_model, tmp_path):
    spec = CandidateSpec.model_validate(SPECS["GPTQ"])
    assert made(tiny_model(name), spec, tmp_path / "there", DEVICE) == made(
        tiny_model(name), spec, tmp_path / "here", CPU
    )


def test_the_states_of_all_sequences_lie_in_the_systems_memory(tiny_model):
    stream = ModelStream.open(tiny_model(), device=DEVICE)
    assert {states.device for states in stream.final_hidden(calibration())} == {CPU}


def test_an_escalated_candidate_too(tiny_model, tmp_path):
    spec = CandidateSpec(method="RTN", scheme="W4A16", group_size=32, escalate={"maxBytesRatio": 0.9})
    selection = Selection(conversations(40), Gates.model_validate({"klDivergence": {"max": 1e-4}}))
    there = made(tiny_model(), spec, tmp_path / "there", DEVICE, selection)
    assert there == made(tiny_model(), spec, tmp_path / "here", CPU, selection)


def test_a_baseline_of_another_device_is_not_compared_with(tiny_model, tmp_path, caplog, monkeypatch):
    model, sequences, base = tiny_model(), conversations(40), tmp_path / "base"
    made(model, CandidateSpec(method="RTN", scheme="W8A8"), tmp_path / "out", CPU)
    baseline(model, BaselineRequest(DIGEST, sequences), base, ignore)
    computed = []
    monkeypatch.setattr(
        "saffron_quantizer.evaluation.evaluate.original_hidden",
        lambda stream, *rest: computed.append(stream.device) or original_hidden(stream, *rest),
    )
    request = EvaluateRequest(model, DIGEST, tmp_path / "out", sequences, base, 0.95, device=DEVICE)
    evaluate(request, None, ignore)
    assert computed == [DEVICE]
    assert caplog.messages == [
        f"{base} was computed on cpu and the candidate is on {DEVICE.type}: the original is computed here once more."
    ]


def test_a_run_on_a_device_has_every_stage_on_it(speaking_model, tmp_path, monkeypatch):
    monkeypatch.setattr("saffron_quantizer.local.stages.device_named", lambda name, _: {"cuda": DEVICE}[name])
    texts = (f"w{7 + number % 80} w{8 + number // 80} w{9 + number % 60} w11 w12" for number in range(60))
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    spec = QuantizedModelSpec.model_validate(
        {
            "model": {"uri": "pvc://models/tiny"},
            "data": {"source": {"dataset": {"uri": "pvc://data/prompts.jsonl"}}, "maxTokens": 16},
            "calibration": {"samples": 10},
            "evaluation": {"samples": 32},
            "candidates": [{"name": "gptq-int4", "method": "GPTQ", "scheme": "W4A16", "groupSize": 32}],
            "gates": {"perplexityRatio": {"max": 100.0}},
            "storage": {"checkpoints": {"claimName": "checkpoints"}, "workspace": {"claimName": "work"}},
        }
    )
    places = Places(speaking_model, tmp_path / "prompts.jsonl", tmp_path / "work", tmp_path / "checkpoints")
    private_folder(places.workspace)
    order = Order(Stage.INSPECT, spec, places, device="cuda")
    outcome = run(order, lambda each: do(each, ignore), lambda _: None)
    (report,) = outcome.reports
    assert outcome.folder is not None
    told = [
        report.fingerprint.machine.device,
        read_manifest(outcome.folder)["fingerprint"]["machine"]["device"],
        *(read_manifest(folder)["device"] for folder in (places.workspace / "baseline").iterdir()),
    ]
    assert told == [DEVICE.type] * 3


@pytest.mark.parametrize("with_baseline", [False, True])
@pytest.mark.parametrize("scheme", ["W8A8", "FP8"])
def test_the_figures_are_the_same(scheme, with_baseline, tiny_model, tmp_path, caplog):
    model, sequences, reports = tiny_model(), conversations(40), []
    made(model, CandidateSpec(method="RTN", scheme=scheme), tmp_path / "out", CPU)
    for device in (CPU, DEVICE):
        base = tmp_path / f"base-{device.type}" if with_baseline else None
        if base is not None:
            baseline(model, BaselineRequest(DIGEST, sequences), base, ignore, device=device)
        request = EvaluateRequest(model, DIGEST, tmp_path / "out", sequences, base, 0.95, device=device)
        reports.append(evaluate(request, None, ignore))
    here, there = reports
    assert there.gates == here.gates
    assert not caplog.messages
    assert (here.fingerprint.machine.device, there.fingerprint.machine.device) == ("cpu", DEVICE.type)
