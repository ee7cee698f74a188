"""What engines merge, and what a candidate's `ignore` leaves alone."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tinymodels.checkpoints import checkpoint_of, tensors_of

from saffron_api.candidate import CandidateSpec
from saffron_api.failures import FailureReason, StageError
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.inspect import inspect_model
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.plan import make_plan

LAYER = "model.layers.0"
QKV = f"{LAYER}.self_attn.[q_proj,k_proj,v_proj]"
UNITS = [QKV, f"{LAYER}.self_attn.o_proj", f"{LAYER}.mlp.[gate_proj,up_proj]", f"{LAYER}.mlp.down_proj"]


def int8(*globs, method="RTN"):
    return CandidateSpec(method=method, scheme="W8A8", ignore=list(globs))


IGNORED = {
    "nothing": ((), set()),
    "one linear that is a unit by itself": ((f"{LAYER}.mlp.down_proj",), {UNITS[3]}),
    "the head, which is never quantized": (("lm_head",), set()),
    "a whole layer": ((f"{LAYER}.*",), set(UNITS)),
    "a merged layer by each of its names": (tuple(f"{LAYER}.self_attn.{part}_proj" for part in "qkv"), {QKV}),
    "both attention units by one glob": ((f"{LAYER}.self_attn.?_proj",), {QKV, UNITS[1]}),
    "a linear of every layer": (("*.down_proj",), {UNITS[3], UNITS[3].replace(".0.", ".1.")}),
}


@pytest.mark.parametrize(("globs", "expected"), IGNORED.values(), ids=IGNORED)
def test_ignore_leaves_whole_units_out_of_the_plan(tiny_model, globs, expected):
    plan = make_plan(CheckpointReader(tiny_model()), int8(*globs))
    assert {unit.name for unit in plan.units if not set(unit.weights) <= set(plan.precisions)} == expected
    assert {unit.name for unit in plan.units if not set(unit.weights) & set(plan.precisions)} == expected


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "one of three that are merged": (
        (f"{LAYER}.self_attn.q_proj",),
        f"ignore names 1 of the 3 linears {QKV}, which engines merge into one layer; name all of them or none.",
    ),
    "two of three, by two globs": (
        (f"{LAYER}.self_attn.q_proj", f"{LAYER}.*.k_proj"),
        f"ignore names 2 of the 3 linears {QKV}, which engines merge into one layer; name all of them or none.",
    ),
    "a name that no linear has": (
        (f"{LAYER}.mlp.dwon_proj",),
        (
            f"No linear of the model has a name that fits {LAYER}.mlp.dwon_proj in ignore; give full names, as "
            f"{LAYER}.mlp.down_proj, with * and ? as in file names."
        ),
    ),
    "everything": (
        ("*",),
        "ignore names every linear of the model, which leaves nothing to quantize; name fewer.",
    ),
}


@pytest.mark.parametrize(("globs", "sentence"), REFUSED.values(), ids=REFUSED)
def test_an_ignore_that_does_not_fit_the_model_is_refused_and_keeps_no_other_candidate_from_being_made(
    tiny_model, globs, sentence
):
    with pytest.raises(StageError) as caught:
        make_plan(CheckpointReader(tiny_model()), int8(*globs))
    assert caught.value.failure.message == sentence
    first, second = inspect_model(tiny_model(), [("bad", int8(*globs)), ("good", int8())], hash_cache=None).predicted
    assert first.failure == caught.value.failure
    assert second.bytes is not None


def test_what_escalation_may_not_even_begin_with_is_refused_by_inspect(tiny_model):
    tight = CandidateSpec(method="RTN", scheme="W8A8", escalate={"maxBytesRatio": 0.2})
    (predicted,) = inspect_model(tiny_model(), [("tight", tight)], hash_cache=None).predicted
    (plain,) = inspect_model(tiny_model(), [("plain", int8())], hash_cache=None).predicted
    assert predicted.failure is not None
    assert predicted.failure.reason is FailureReason.ESCALATION_TOO_TIGHT
    assert predicted.failure.have == plain.bytes


@pytest.mark.parametrize("method", ["RTN", "GPTQ"])
def test_an_ignored_linear_is_stored_as_it_is_and_listed(tiny_model, tmp_path, method):
    model = tiny_model("Qwen2", dtype=torch.bfloat16)
    spec = int8("model.layers.1.self_attn.*", "*.down_proj", method=method)
    checkpoint_of(model, spec, tmp_path / "out", [torch.arange(3, 23), torch.arange(40, 52)])
    written = tensors_of(tmp_path / "out")
    original = load_file(model / "model.safetensors")
    ignored = [
        "model.layers.0.mlp.down_proj",
        *(f"model.layers.1.self_attn.{part}_proj" for part in "qkvo"),
        "model.layers.1.mlp.down_proj",
    ]
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["ignore"] == ["lm_head", *ignored]
    for linear in ignored:
        assert torch.equal(written[f"{linear}.weight"], original[f"{linear}.weight"])
        assert f"{linear}.weight_scale" not in written
    stream = ModelStream.open(tmp_path / "out")
    assert type(stream.blocks[1].self_attn.q_proj) is torch.nn.Linear
    assert type(stream.blocks[0].self_attn.q_proj) is not torch.nn.Linear
