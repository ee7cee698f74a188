"""Mixtures of experts: unpacked linears, and what each is calibrated on."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tinymodels.checkpoints import checkpoint_of

from saffron_api.candidate import CandidateSpec
from saffron_quantizer.checkpoint.manifest import read_manifest
from saffron_quantizer.models import expert_calibration
from saffron_quantizer.models.architectures import find_architecture
from saffron_quantizer.models.calibration import BlockCalibration
from saffron_quantizer.models.experts import unpack
from saffron_quantizer.models.stream import ModelStream

GPTQ = CandidateSpec(method="GPTQ", scheme="W4A16", group_size=32)
SEARCHED = [
    CandidateSpec(method="AWQ", scheme="W4A16", group_size=32),
    CandidateSpec(method="SmoothQuant", scheme="W8A8"),
]
NAMES = {
    "Mixtral": ("block_sparse_moe.experts", ("w1", "w3", "w2"), 4),
    "Qwen3Moe": ("mlp.experts", ("gate_proj", "up_proj", "down_proj"), 6),
}


def sequences(count, length):
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, 97, (length - number,), generator=generator) for number in range(count)]


def routed(stream, given, index, experts):
    """What the mixture of a block reads and chooses, sequence by sequence, without our batches."""
    heard = []
    with stream.loaded(index) as block:
        handle = block.get_submodule(experts).register_forward_pre_hook(lambda _, args: heard.append(args[:2]))
        for sequence in given:
            stream.walk([sequence]).run(index, 0)
        handle.remove()
    pieces = [(x[: len(sequence)], chosen[: len(sequence)]) for (x, chosen), sequence in zip(heard, given, strict=True)]
    return torch.cat([x for x, _ in pieces]), torch.cat([chosen for _, chosen in pieces])


def silu_mlp(x, gate, up):
    return torch.nn.functional.silu(x @ gate.T) * (x @ up.T)


@pytest.mark.parametrize("model", NAMES)
def test_each_expert_is_calibrated_on_its_tokens_or_on_all_where_they_are_few(tiny_model, monkeypatch, model):
    prefix, (gate, up, down), count = NAMES[model]
    folder, given = tiny_model(model), sequences(5, 24)
    stream = ModelStream.open(folder, dtype=torch.float32)
    x, chosen = routed(ModelStream.open(folder, dtype=torch.float32), given, 0, prefix)
    seen = torch.bincount(chosen.flatten(), minlength=count)
    limit = int(seen.sort().values[count // 2])  # half of the experts see fewer
    monkeypatch.setattr(expert_calibration, "MIN_EXPERT_TOKENS", limit)
    weights = load_file(folder / "model.safetensors")
    walk = stream.walk(given)
    with stream.loaded(0):
        calibration = BlockCalibration(walk, 0)
        for number in range(count):
            few = bool(seen[number] < limit)
            read = x if few else x[(chosen == number).any(dim=1)]
            w = {leaf: weights[f"model.layers.0.{prefix}.{number}.{leaf}.weight"] for leaf in (gate, up, down)}
            for leaf, inputs in ((gate, read), (down, silu_mlp(read, w[gate], w[up]))):
                gram = calibration.gram(f"{prefix}.{number}.{leaf}")
                assert (gram.tokens, calibration.sees_few(f"{prefix}.{number}.{leaf}")) == (len(read), few)
                # float32 sums of a hundred products in another order.
                torch.testing.assert_close(torch.tril(gram.sum), torch.tril(inputs.T @ inputs), rtol=1e-4, atol=1e-3)
    assert 0 < sum(bool(each < limit) for each in seen) < count


@pytest.mark.parametrize("model", NAMES)
def test_experts_that_saw_too_few_tokens_are_quantized_and_counted(tiny_model, tmp_path, monkeypatch, model):
    prefix, leaves, count = NAMES[model]
    monkeypatch.setattr(expert_calibration, "MIN_EXPERT_TOKENS", 10**6)
    out = tmp_path / "out"
    checkpoint_of(tiny_model(model), GPTQ, out, sequences(3, 12))
    layers = read_manifest(out)["layers"]
    assert [layer["all_token_experts"] for layer in layers] == [count, count]
    index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    for number in range(count):
        for leaf in leaves:
            assert f"model.layers.1.{prefix}.{number}.{leaf}.weight_packed" in index


def test_an_expert_that_no_token_is_sent_to_is_calibrated_on_all(tiny_model, tmp_path):
    """Of 24 experts some see none of 12 tokens."""
    model = tiny_model("Qwen3Moe", num_experts=24)
    result = checkpoint_of(model, GPTQ, tmp_path / "out", sequences(1, 12))
    assert result.modules == 2 * (4 + 3 * 24)


@pytest.mark.parametrize("spec", SEARCHED, ids=lambda spec: spec.method)
def test_experts_that_a_search_shows_all_tokens_are_counted_and_no_others(tiny_model, tmp_path, spec):
    """Each of 12 tokens goes to two of 24 experts, which are searched for with what they are sent, however little."""
    model = tiny_model("Qwen3Moe", num_experts=24)
    given = sequences(1, 12)
    checkpoint_of(model, spec, tmp_path / "out", given)
    _, chosen = routed(ModelStream.open(model, dtype=torch.float32), given, 0, "mlp.experts")
    counted = [layer["all_token_experts"] for layer in read_manifest(tmp_path / "out")["layers"]]
    assert counted[0] == 24 - len(chosen.unique())
    assert 0 < counted[1] <= 24 - 2


def test_a_block_without_experts_has_its_mlp_quantized(tiny_model, tmp_path):
    model = tiny_model("Qwen3Moe", mlp_only_layers=[0])
    result = checkpoint_of(model, GPTQ, tmp_path / "out", sequences(3, 12))
    assert result.modules == (4 + 3) + (4 + 3 * 6)
    ignored = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["ignore"]
    assert ignored == ["lm_head", "model.layers.1.mlp.gate"]


def test_a_mixture_that_is_joined_in_another_way_is_not_unpacked_by_guess():
    block = torch.nn.Module()
    block.mlp = torch.nn.Module()
    block.mlp.experts = torch.nn.Module()
    block.mlp.experts.gate_up_proj = torch.nn.Parameter(torch.empty(4, 8, 6))
    block.mlp.experts.down_proj = torch.nn.Parameter(torch.empty(4, 3, 8))  # transposed
    mixture = find_architecture("Qwen3MoeForCausalLM", "qwen3_moe").mixture
    with pytest.raises(TypeError, match="the table of architectures is wrong"):
        unpack(block, mixture, torch.float32)
