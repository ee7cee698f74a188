"""Quantizing on another device than the CPU: the same bytes, if that device computes as the CPU does."""

import pytest
import torch
from elsewhere import DEVICE, Elsewhere

from torch.nn.attention import SDPBackend, sdpa_kernel

from saffron_api.candidate import CandidateSpec
from saffron_kernels.rms_norm import rms_norm_reference
from saffron_quantizer.destination import OwnFolder
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
SEQUENCES = [torch.arange(3, 3 + length) % 60 for length in (40, 33, 7)]


def made(model, spec, out, device):
    sequences = SEQUENCES if spec.needs_calibration else None
    request = QuantizeRequest(model, spec, sequences, model_digest="0" * 64)
    with Elsewhere(), sdpa_kernel(SDPBackend.MATH):
        quantize(request, OwnFolder(out), ignore, device=device)
    return {path.name: path.read_bytes() for path in out.glob("*.safetensors")}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_checkpoint_has_the_same_bytes_from_another_device_that_computes_alike(
    spec, tiny_model, tmp_path, monkeypatch
):
    # On the CPU these are loops of ours, which add up in another order than what other devices have.
    monkeypatch.setattr("saffron_kernels.nn.rms_norm.rms_norm", rms_norm_reference)
    monkeypatch.setattr("saffron_quantizer.models.attention.has_fast_causal_attention", lambda _: False)
    # Torch can't watch who reads such a tensor. Nothing then is forgotten early, which takes memory alone.
    monkeypatch.setattr("saffron_quantizer.models.stream.readers_of_parts", lambda *_: {})
    spec = CandidateSpec.model_validate(spec)
    there = made(tiny_model(), spec, tmp_path / "there", DEVICE)
    assert there == made(tiny_model(), spec, tmp_path / "here", torch.device("cpu"))
