"""Smoothed candidates as files: resumed to the same bytes, read alike by transformers and by us, told edge by edge."""

import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tinymodels.checkpoints import checkpoint_of, sequences

from saffron_api.candidate import CandidateSpec
from saffron_quantizer.checkpoint.manifest import read_manifest
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.report import LayerRow

SPECS = {
    "AWQ": CandidateSpec(method="AWQ", scheme="W4A16", group_size=32),
    "AWQ, then GPTQ": CandidateSpec(method="GPTQ", scheme="W4A16", group_size=64, smoothing="AWQ"),
    "SmoothQuant": CandidateSpec(method="SmoothQuant", scheme="W8A8"),
    "SmoothQuant, then GPTQ": CandidateSpec(method="GPTQ", scheme="W8A8", smoothing="SmoothQuant"),
}


SEQUENCES = sequences(6, 40)


def run(model, spec, out, **changes):
    return checkpoint_of(model, spec, out, SEQUENCES, **changes)


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "manifest.json"}


class StopHereError(Exception):
    """The run ends here."""


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Gemma3Text"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_smoothed_checkpoint_is_read_alike_by_transformers_and_by_us(tiny_model, tmp_path, name, spec):
    model, out = tiny_model(name), tmp_path / "out"
    run(model, spec, out)
    tokens = torch.tensor([1, 5, 9, 80, 33, 2, 7, 11, 50, 4])
    stream = ModelStream.open(out, dtype=torch.float32)
    ours = stream.logits(stream.final_hidden([tokens])[0])
    with torch.no_grad():
        whole = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
        theirs = whole(tokens[None]).logits[0]
    difference = ((ours - theirs).square().mean().sqrt() / theirs.std()).item()
    # The tolerances of test_formats.py, for the same reasons.
    assert difference < (1e-5 if spec.scheme == "W4A16" else 0.05)
    gains = [entry for entry in CheckpointReader(out).entries if entry.endswith("input_layernorm.weight")]
    moved = [not torch.equal(CheckpointReader(out).read(gain), CheckpointReader(model).read(gain)) for gain in gains]
    assert any(moved)


@pytest.mark.parametrize("fixtures", [(), ("without_fast_bfloat16",)], ids=["this processor", "one without bfloat16"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_an_interrupted_run_goes_on_to_the_same_bytes(tiny_model, tmp_path, request, spec, fixtures):
    for fixture in fixtures:
        request.getfixturevalue(fixture)
    model = tiny_model("Gemma3Text", dtype=torch.bfloat16)
    run(model, spec, tmp_path / "at-once")

    def interrupt(progress):
        if progress.done == 1:
            raise StopHereError

    with pytest.raises(StopHereError):
        run(model, spec, tmp_path / "resumed", progress=interrupt)
    run(model, spec, tmp_path / "resumed")
    assert content(tmp_path / "resumed") == content(tmp_path / "at-once")
    layers = [read_manifest(tmp_path / place)["layers"] for place in ("resumed", "at-once")]
    assert layers[0] == layers[1]


def test_each_edge_is_told(tiny_model, tmp_path):
    run(tiny_model("Gemma3Text", dtype=torch.bfloat16), SPECS["AWQ"], tmp_path / "out")
    rows = [LayerRow.model_validate(layer) for layer in read_manifest(tmp_path / "out")["layers"]]
    for row in rows:
        assert [edge.producer for edge in row.edges] == [
            "input_layernorm",
            "self_attn.v_proj",
            "pre_feedforward_layernorm",
            "mlp.up_proj",
        ]
        assert all(edge.error <= 1 for edge in row.edges)
        assert all((edge.exponent is None) == (edge.largest_scale == 1) for edge in row.edges)


def test_awq_leaves_less_error_than_rounding_to_the_nearest(tiny_model, tmp_path):
    """Where some channels are far larger than others, as in real models."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model("Llama"), model)
    tensors = load_file(model / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith("layernorm.weight"):
            tensor[[5, 17, 40]] *= 30
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    original = ModelStream.open(model).final_hidden(SEQUENCES)
    errors = []
    for name, spec in {"awq": SPECS["AWQ"], "rtn": CandidateSpec(method="RTN", scheme="W4A16", group_size=32)}.items():
        run(model, spec, tmp_path / name)
        changed = ModelStream.open(tmp_path / name).final_hidden(SEQUENCES)
        errors.append(sum((a - b).square().sum().item() for a, b in zip(original, changed, strict=True)))
    assert errors[0] < errors[1]
