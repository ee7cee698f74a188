"""Quantizing and measuring on another device than the CPU: the same, if that device computes as the CPU does."""

import pytest
import torch
from elsewhere import DEVICE, Elsewhere
from torch.nn.attention import SDPBackend, sdpa_kernel

from saffron_api.candidate import CandidateSpec
from saffron_api.quantized_model import Gates
from saffron_kernels.rms_norm import rms_norm_reference
from saffron_quantizer.data.sequences import TokenSequence
from saffron_quantizer.destination import OwnFolder
from saffron_quantizer.escalate import Selection
from saffron_quantizer.evaluation.baseline import BaselineRequest, baseline
from saffron_quantizer.evaluation.evaluate import EvaluateRequest, evaluate
from saffron_quantizer.evaluation.window import limit_scored
from saffron_quantizer.models.compute import CPU
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
    monkeypatch.setattr("saffron_quantizer.models.attention.has_fast_causal_attention", lambda _: False)
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


def test_an_escalated_candidate_too(tiny_model, tmp_path):
    spec = CandidateSpec(method="RTN", scheme="W4A16", group_size=32, escalate={"maxBytesRatio": 0.9})
    selection = Selection(conversations(40), Gates.model_validate({"klDivergence": {"max": 1e-4}}))
    there = made(tiny_model(), spec, tmp_path / "there", DEVICE, selection)
    assert there == made(tiny_model(), spec, tmp_path / "here", CPU, selection)


@pytest.mark.parametrize("with_baseline", [False, True])
@pytest.mark.parametrize("scheme", ["W8A8", "FP8"])
def test_the_figures_are_the_same(scheme, with_baseline, tiny_model, tmp_path):
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
    assert (here.fingerprint.machine.device, there.fingerprint.machine.device) == ("cpu", DEVICE.type)
