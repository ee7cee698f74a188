"""Quantizing and measuring on a card, whole: near what the CPU makes of the same, which adds up in other orders."""

import pytest
import torch

from saffron_api.candidate import CandidateSpec
from saffron_quantizer.checkpoint.manifest import read_manifest
from saffron_quantizer.data.sequences import TokenSequence
from saffron_quantizer.destination import OwnFolder
from saffron_quantizer.device import device_named
from saffron_quantizer.evaluation.evaluate import EvaluateRequest, evaluate
from saffron_quantizer.evaluation.window import limit_scored
from saffron_quantizer.progress import ignore
from saffron_quantizer.quantize import quantize
from saffron_quantizer.quantize_request import QuantizeRequest

pytestmark = pytest.mark.gpu

DIGEST = "0" * 64
CPU = torch.device("cpu")
SPECS = {
    "GPTQ": CandidateSpec(method="GPTQ", scheme="W4A16", group_size=32),
    "AWQ": CandidateSpec(method="AWQ", scheme="W4A16", group_size=32),
    "SmoothQuant": CandidateSpec(method="SmoothQuant", scheme="W8A8"),
}


def drawn(count, least):
    random = torch.Generator().manual_seed(0)
    return [torch.randint(3, 97, (least + number % 9,), generator=random) for number in range(count)]


def errors(folder):
    """The relative error of each linear's output, where its method knows it."""
    told = [linear["relative_error"] for layer in read_manifest(folder)["layers"] for linear in layer["linears"]]
    return [error for error in told if error is not None]


@pytest.mark.usefixtures("card")
def test_the_first_card_is_ready_once_it_is_asked_for():
    assert device_named("cuda", {}) == torch.device("cuda", 0)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_checkpoint_from_a_card_is_as_near_the_original_as_one_from_the_cpu(card, spec, tiny_model, tmp_path):
    model = tiny_model("Llama")
    sequences = limit_scored(
        [TokenSequence(tuple(each.tolist()), (2, len(each)), f"c{n}") for n, each in enumerate(drawn(40, 12))]
    )
    reports = []
    for device in (CPU, card):
        out = tmp_path / device.type
        quantize(
            QuantizeRequest(model, spec, drawn(16, 30), model_digest=DIGEST), OwnFolder(out), ignore, device=device
        )
        reports.append(
            evaluate(EvaluateRequest(model, DIGEST, out, sequences, None, 0.95, device=device), None, ignore)
        )
    here, there = reports
    assert there.perplexity_original == pytest.approx(here.perplexity_original, rel=1e-3)
    # Codes next to a tie may be rounded to the other side.
    assert there.perplexity_candidate == pytest.approx(here.perplexity_candidate, rel=1e-2)
    assert errors(tmp_path / "cuda") == pytest.approx(errors(tmp_path / "cpu"), rel=0.1)
