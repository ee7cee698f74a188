"""A block is smoothed along its edges: what it computes stays the same, whatever the architecture."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from saffron_api.candidate import CandidateSpec, Smoothing
from saffron_api.failures import FailureReason, StageError
from saffron_quantizer.algorithms.awq import awq
from saffron_quantizer.algorithms.smoothing import Smoothing as Found
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.models.edges import SMOOTHABLE, Edge, Producer, Smoothable, edges_of
from saffron_quantizer.models.replay import record, replay, take_sample
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.plan import make_plan
from saffron_quantizer.smooth_block import smooth_block

NAMES = ("Llama", "Mistral", "Mixtral", "Qwen2", "Qwen3", "Qwen3Moe", "Gemma2", "Gemma3Text", "Phi3", "OPT", "GPTNeoX")
OF_ONE_PLUS = ("Gemma2", "Gemma3Text")
AWQ = CandidateSpec(method="AWQ", scheme="W4A16", group_size=32)
SMOOTHQUANT = CandidateSpec(method="SmoothQuant", scheme="W8A8")
WAYS = {Smoothing.AWQ: AWQ, Smoothing.SMOOTHQUANT: SMOOTHQUANT}


def sequences(*lengths):
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, 97, (length,), generator=generator) for length in lengths]


@pytest.fixture
def with_dead_channels(tiny_model, tmp_path):
    """A tiny model in bfloat16, some gains of whose norms are exactly 0."""

    def make(name):
        folder = tmp_path / name
        shutil.copytree(tiny_model(name, dtype=torch.bfloat16), folder)
        tensors = load_file(folder / "model.safetensors")
        for tensor, weight in tensors.items():
            if tensor.endswith(("layernorm.weight", "layer_norm.weight")):
                weight[[3, 40]] = -1.0 if name in OF_ONE_PLUS else 0.0
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


def smoothed(folder, spec, way, index=1):
    """A block before and after smoothing, with the walk that stands before it."""
    reader = CheckpointReader(folder)
    plan = make_plan(reader, spec)
    stream = ModelStream.open(folder, dtype=torch.float32)
    walk = stream.walk(sequences(40, 33, 20, 48))
    with stream.loaded(0):
        walk.advance(0)
    tensors = {name: reader.read(name) for name in plan.blocks[index]}
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    with stream.loaded(index):
        result = smooth_block(plan, index, walk, tensors, way=way)
    assert all(torch.equal(tensors[name], before[name]) for name in before)
    return plan, walk, tensors, result


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_a_smoothed_block_computes_what_it_computed_before(with_dead_channels, name, way):
    plan, walk, tensors, result = smoothed(with_dead_channels(name), WAYS[way], way)
    modules = [name.removeprefix(f"{plan.architecture.block(1)}.").removesuffix(".weight") for name in plan.blocks[1]]
    edges = edges_of(plan.architecture.model_type, walk.stream.config, modules)
    assert [note.producer for note in result.notes] == [edge.producer for edge in edges]
    assert all(note.error <= 1 for note in result.notes)
    # Beside the bias of a norm scales are powers of two, which are too coarse to help this one.
    assert any(note.exponent is not None for note in result.notes) or (name, way) == ("GPTNeoX", Smoothing.AWQ)
    prefix = f"{plan.architecture.block(1)}."
    block = walk.stream.blocks[1]
    outputs = []
    for each in (tensors, result.tensors):
        state = {name.removeprefix(prefix): tensor.double() for name, tensor in each.items()}
        sample = take_sample(walk)
        keywords = dict(walk.stream.inputs(1, sample.batch))
        if "position_embeddings" in keywords:
            keywords["position_embeddings"] = tuple(part.double() for part in keywords["position_embeddings"])
        outputs.append(torch.func.functional_call(block, state, (sample.states.double(),), keywords))
    # In float64, but for the norms, which transformers computes in float32.
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5 * float(outputs[0].std()))
    # What stays in the file as it is stays in its type.
    kept = set(result.tensors) - set(plan.precisions)
    assert {result.tensors[tensor].dtype for tensor in kept} == {torch.bfloat16}


@pytest.mark.parametrize("name", NAMES)
def test_no_scales_on_any_edge_change_what_a_block_computes(with_dead_channels, monkeypatch, name):
    """Scales far from 1, on every edge: the check in `smooth_block` holds the block against the one before."""

    def far(activity, _):
        scale = torch.exp(torch.randn(len(activity), generator=torch.Generator().manual_seed(0)))
        return Found(scale, 0.5, 0.5, 1.0)

    monkeypatch.setattr("saffron_quantizer.smooth_block.awq", far)
    _, _, tensors, result = smoothed(with_dead_channels(name), AWQ, Smoothing.AWQ)
    assert all(note.largest_scale > 2 for note in result.notes)
    same = {tensor for tensor in tensors if torch.equal(tensors[tensor].float(), result.tensors[tensor].float())}
    assert not any("layernorm" in tensor and "post" not in tensor for tensor in same)


@pytest.mark.parametrize(
    ("name", "experts", "fields", "way"),
    [
        ("Qwen3Moe", "mlp.experts", {"num_experts": 48}, "AWQ"),
        ("Mixtral", "block_sparse_moe.experts", {"num_local_experts": 48}, "SmoothQuant"),
    ],
)
def test_an_expert_that_no_token_goes_to_is_shown_all_tokens(tiny_model, name, experts, fields, way):
    plan, walk, _, result = smoothed(tiny_model(name, **fields), WAYS[way], way)
    tokens = take_sample(walk).batch.tokens.numel()
    firsts = [group[0] for group in plan.groups[1] if group[0].startswith(experts)]
    read = [len(result.inputs[first]) for first in firsts]
    # With two experts a token and 80 tokens some of the 48 are never chosen, and none is chosen by all.
    assert (len(firsts), 2 <= read.count(tokens) < 48) == (2 * 48, True)
    assert 0 < min(read) < tokens
    unsought = {first for first, number in zip(firsts, read, strict=True) if number == tokens}
    assert unsought == {name for name in result.unsought if name in firsts}


@pytest.mark.parametrize("way", WAYS)
def test_a_block_that_adds_nothing_is_smoothed_as_any_other(tiny_model, tmp_path, way):
    """Pruned models have such blocks, and models that were made deeper."""
    shutil.copytree(tiny_model(), tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    for linear in ("self_attn.o_proj", "mlp.down_proj"):
        tensors[f"model.layers.1.{linear}.weight"].zero_()
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    plan, *_, result = smoothed(tmp_path / "model", WAYS[way], way)
    assert not any(result.tensors[plan.weight(1, linear)].any() for linear in ("self_attn.o_proj", "mlp.down_proj"))


WRONG = {
    "across the activation": Edge("mlp.gate_proj", Producer.ROWS, ("mlp.down_proj",), "mlp.down_proj"),
    "to some of the consumers": Edge("input_layernorm", Producer.NORM_OF_ONE_PLUS, ("self_attn.q_proj",), "self_attn"),
    "with the gain of another norm": Edge(
        "input_layernorm",
        Producer.NORM,
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "self_attn",
    ),
    "from a norm after the sublayer": Edge(
        "post_attention_layernorm", Producer.NORM_OF_ONE_PLUS, ("mlp.gate_proj", "mlp.up_proj"), "mlp"
    ),
}


@pytest.mark.parametrize("edge", WRONG.values(), ids=WRONG)
def test_an_edge_that_would_change_the_block_is_an_error(tiny_model, monkeypatch, edge):
    # The error with no scales is made large, so that some are taken even where they are harmful.
    monkeypatch.setattr(
        "saffron_quantizer.smooth_block.awq",
        lambda activity, _: awq(activity, lambda scale: 9.0 if bool((scale == 1).all()) else 1 - float(scale.std())),
    )
    monkeypatch.setitem(SMOOTHABLE, "gemma3_text", Smoothable((edge,)))
    with pytest.raises(StageError) as caught:
        smoothed(tiny_model("Gemma3Text", dtype=torch.bfloat16), AWQ, Smoothing.AWQ)
    assert caught.value.failure.reason is FailureReason.SMOOTHING_INEXACT
    assert caught.value.failure.subject == "model.layers.1"


def test_query_heads_that_read_one_value_head_share_its_scales(tiny_model):
    plan, _, tensors, result = smoothed(tiny_model("Llama"), AWQ, Smoothing.AWQ)
    name = plan.weight(1, "self_attn.o_proj")
    ratio = (result.tensors[name] / tensors[name].float()).mean(dim=0)  # 4 heads of 16, two to a value head
    torch.testing.assert_close(ratio[:16], ratio[16:32])
    torch.testing.assert_close(ratio[32:48], ratio[48:])
    assert not torch.allclose(ratio[:16], ratio[32:48])


def test_a_part_that_is_run_again_gives_what_it_gave(tiny_model):
    stream = ModelStream.open(tiny_model("Qwen2"), dtype=torch.float32)
    walk = stream.walk(sequences(40, 33, 20, 48))
    sample = take_sample(walk)
    assert (tuple(sample.batch.tokens.shape), tuple(sample.states.shape)) == ((2, 40), (2, 40, 64))
    with stream.loaded(0) as block:
        calls = record(block, ["self_attn", "mlp", "mlp.down_proj"], lambda: sample.run(0))
        for name, call in calls.items():
            assert torch.equal(replay(block, name, call, {}), call.output)
        W = block.get_submodule("mlp.down_proj").weight
        for parent in ("mlp", "mlp.down_proj"):
            output = replay(block, parent, calls[parent], {"mlp.down_proj": lambda x: x / 4 @ (W * 2).T})
            torch.testing.assert_close(output, calls[parent].output / 2)
            assert torch.equal(replay(block, parent, calls[parent], {}), calls[parent].output)
