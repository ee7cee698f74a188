"""Scales that are measured before: those of static inputs, and of keys and values in an FP8 cache."""

import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tinymodels.checkpoints import checkpoint_of, sequences, tensors_of

from saffron_api.candidate import CandidateSpec
from saffron_api.failures import FailureReason, StageError
from saffron_quantizer import shards
from saffron_quantizer.checkpoint.manifest import read_manifest
from saffron_quantizer.models.kv_cache import Fp8KvCache, with_cache
from saffron_quantizer.models.stream import ModelStream

STATIC = CandidateSpec(method="RTN", scheme="FP8Static", kv_cache="FP8")
CACHED = CandidateSpec(method="GPTQ", scheme="W4A16", group_size=32, kv_cache="FP8")
ARCHITECTURES = ["Llama", "Mistral", "Qwen2", "Qwen3", "Gemma3Text"]


def measured(model, written):
    """The reach of all inputs, keys and values in transformers' own model with the written weights, unpadded."""
    whole = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    found = {}

    def note(name, x):
        found[name] = max(found.get(name, 0.0), x.abs().max().item())

    for name, module in whole.named_modules():
        if f"{name}.input_scale" in written:
            module.weight.data = written[f"{name}.weight"].float() * written[f"{name}.weight_scale"]
            module.register_forward_pre_hook(lambda _, args, name=name: note(f"{name}.input_scale", args[0]))
    with torch.no_grad():
        for tokens in sequences():
            # A sliding layer's own cache forgets what is too far away, and no key must be forgotten here.
            cache = transformers.DynamicCache()
            whole(tokens[None], past_key_values=cache)
            for number, layer in enumerate(cache.layers):
                note(f"model.layers.{number}.self_attn.k_scale", layer.keys)
                note(f"model.layers.{number}.self_attn.v_scale", layer.values)
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_scale_maps_the_largest_magnitude_that_was_seen_to_448(tiny_model, tmp_path, architecture):
    model = tiny_model(architecture)
    checkpoint_of(model, STATIC, tmp_path / "out")
    written = tensors_of(tmp_path / "out")
    scales = {name: tensor for name, tensor in written.items() if name.endswith(("input_scale", "k_scale", "v_scale"))}
    reach = measured(model, written)
    assert set(scales) == set(reach)
    assert len(scales) == 2 * (7 + 2)
    assert {(tensor.dtype, tuple(tensor.shape)) for tensor in scales.values()} == {(torch.float32, (1,))}
    # Batches with padding add in another order in float32.
    assert {name: tensor.item() for name, tensor in scales.items()} == pytest.approx(
        {name: largest / 448 for name, largest in reach.items()}, rel=1e-5
    )


def test_linears_that_engines_merge_share_the_scale_of_their_input(tiny_model, tmp_path):
    checkpoint_of(tiny_model(), STATIC, tmp_path / "out")
    written = tensors_of(tmp_path / "out")
    for parts in (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("mlp.gate_proj", "mlp.up_proj")):
        assert len({written[f"model.layers.1.{part}.input_scale"].item() for part in parts}) == 1
    assert len({tensor.item() for name, tensor in written.items() if name.endswith("input_scale")}) == 8


@pytest.mark.parametrize("spec", [STATIC, CACHED], ids=["RTN", "GPTQ"])
def test_a_run_that_ended_after_a_block_goes_on_to_the_same_bytes(tiny_model, tmp_path, monkeypatch, spec):
    model = tiny_model("Gemma3Text")
    checkpoint_of(model, spec, tmp_path / "undisturbed")

    def end(shard, tensors, write=shards.write_exactly):
        if "00003" in shard.name.partition("-of-")[0]:
            raise KeyboardInterrupt
        write(shard, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_exactly", end)
        with pytest.raises(KeyboardInterrupt):
            checkpoint_of(model, spec, tmp_path / "out")
    assert read_manifest(tmp_path / "out") is None
    checkpoint_of(model, spec, tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "undisturbed").iterdir() if path.name != "manifest.json")
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


def test_nothing_but_zeros_gives_no_scale(tiny_model, tmp_path):
    shutil.copytree(tiny_model(), tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.self_attn.v_proj.weight"].zero_()
    save_file(tensors, path)
    with pytest.raises(StageError) as caught:
        checkpoint_of(tmp_path / "model", CACHED, tmp_path / "out")
    failure = caught.value.failure
    assert (failure.reason, failure.subject) == (FailureReason.RANGE_EMPTY, "model.layers.1.self_attn.v_scale")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_checkpoint_is_computed_with_keys_and_values_that_went_through_fp8(tiny_model, tmp_path, architecture):
    checkpoint_of(tiny_model(architecture), CACHED, tmp_path / "out")
    stream = ModelStream.open(tmp_path / "out", dtype=torch.float32)
    (ours,) = stream.final_hidden(sequences()[:1])
    caches = stream._skeleton.kv_caches
    stream._skeleton.kv_caches = None
    (without,) = stream.final_hidden(sequences()[:1])
    assert [type(cache) for cache in caches] == [Fp8KvCache] * 2
    assert not torch.equal(ours, without)


def test_a_block_that_takes_no_cache_is_refused():
    with pytest.raises(StageError) as caught:
        with_cache({"attention_mask": None}, Fp8KvCache(torch.ones(1), torch.ones(1)), "model.layers.0")
    failure = caught.value.failure
    assert (failure.reason, failure.subject) == (
        FailureReason.ARCHITECTURE_UNSUPPORTED,
        "model.layers.0(kvCache=FP8)",
    )


def test_a_checkpoint_that_lacks_the_scale_of_its_cache_is_refused(tiny_model, tmp_path):
    checkpoint_of(tiny_model(), CACHED, tmp_path / "out")
    shard = tmp_path / "out" / "model-00003-of-00003.safetensors"
    name = "model.layers.1.self_attn.v_scale"
    save_file({key: tensor for key, tensor in load_file(shard).items() if key != name}, shard)
    with pytest.raises(StageError) as caught:
        ModelStream.open(tmp_path / "out")
    assert (caught.value.failure.reason, caught.value.failure.subject) == (FailureReason.MODEL_INCOMPLETE, name)
