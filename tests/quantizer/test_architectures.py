"""Every architecture of the table in every format, on the engines that the page of models names."""

import pytest
import torch
import transformers
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from safetensors.torch import load_file
from tinymodels.checkpoints import checkpoint_of, tensors_of
from tinymodels.configs import SPECIAL
from tinymodels.support import CLAIMS, SPECS, TRANSFORMERS, Proof, class_name

from saffron_api.candidate import CandidateSpec
from saffron_quantizer.checkpoint.source import open_source
from saffron_quantizer.models.architectures import ARCHITECTURES
from saffron_quantizer.models.stream import ModelStream

TOKENS = torch.tensor([1, 5, 9, 80, 33, 2, 7, 11, 50, 4])
LOADED = [claim for claim in CLAIMS if claim.engine == TRANSFORMERS and claim.proof is Proof.LOADED]
REFUSED = [claim for claim in CLAIMS if claim.engine == TRANSFORMERS and claim.proof is Proof.REFUSED]
MADE = list({(claim.model, claim.scheme): claim for claim in CLAIMS}.values())


@pytest.fixture(scope="session")
def checkpoint(tiny_model, tmp_path_factory):
    """Makes the checkpoint of an architecture by a candidate, once."""
    made = {}

    def make(model, spec):
        key = model, spec.model_dump_json()
        if key not in made:
            made[key] = tmp_path_factory.mktemp(model) / "checkpoint"
            checkpoint_of(tiny_model(model), spec, made[key])
        return made[key]

    return make


def named(claim):
    return f"{claim.model}-{claim.scheme}"


def test_the_table_of_claims_has_every_architecture_once():
    assert sorted(class_name(model) for model in SPECIAL) == sorted(row.name for row in ARCHITECTURES)


def difference(folder, model):
    """How far transformers' logits are from our reader's, relative to how they vary."""
    stream = ModelStream.open(folder, dtype=torch.float32)
    ours = stream.logits(stream.final_hidden([TOKENS])[0])
    kind = "eager" if model == "Gemma2" else "sdpa"
    whole = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=kind)
    with torch.no_grad():
        theirs = whole(TOKENS[None]).logits[0]
    return ((ours - theirs).square().mean().sqrt() / theirs.std()).item()


@pytest.mark.parametrize("claim", LOADED, ids=named)
def test_a_checkpoint_that_transformers_loads_gives_the_logits_of_our_reader(checkpoint, claim):
    # W4A16: the same codes times the same scales, float32 rounding only. W8A8: compressed-tensors divides by 127.5, the
    # engines by 127, so activations round at other places: each is off by up to half a step of 1/127 of its token's
    # largest, at random over the terms of the products of two blocks.
    limit = {"W4A16": 1e-5, "W8A8": 0.08}[claim.scheme]
    assert difference(checkpoint(claim.model, SPECS[claim.scheme]), claim.model) < limit


@pytest.mark.parametrize("model", SPECIAL)
def test_a_checkpoint_by_gptq_gives_in_transformers_the_logits_of_our_reader(checkpoint, model):
    spec = CandidateSpec(method="GPTQ", scheme="W4A16", group_size=32)
    assert difference(checkpoint(model, spec), model) < 1e-5  # as above


@pytest.mark.parametrize("claim", REFUSED, ids=named)
def test_what_the_page_says_transformers_refuses_it_does_not_load(checkpoint, claim):
    folder = checkpoint(claim.model, SPECS[claim.scheme])
    with pytest.raises(RuntimeError, match=claim.told):
        transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("claim", MADE, ids=named)
def test_compressed_tensors_reads_from_the_file_what_our_reader_computes_with(checkpoint, tiny_model, claim):
    folder = checkpoint(claim.model, SPECS[claim.scheme])
    source, original = open_source(folder), load_file(tiny_model(claim.model) / "model.safetensors")
    stored = tensors_of(folder)
    scaled = [name.removesuffix("_scale") for name in stored if name.endswith(".weight_scale")]
    for weight in scaled:
        scale = stored[f"{weight}_scale"]
        if claim.scheme == "W4A16":
            codes = unpack_from_int32(stored[f"{weight}_packed"], 4, torch.Size(stored[f"{weight}_shape"].tolist()))
            expected = codes.float() * scale.float().repeat_interleave(32, dim=1)
            assert torch.equal(source.read(weight), expected)
        else:
            assert torch.equal(source.read(weight), stored[weight])
            expected = stored[weight].float() * scale
        assert expected.shape == original[weight].shape
        # Clipping may leave a weight further off than half a step, but never by the whole range of its group.
        assert (expected - original[weight]).abs().max() <= scale.max() * 4
    unquantized = sorted(set(original) - set(scaled))
    assert all(torch.equal(stored[name], original[name]) for name in unquantized if name in stored)


@pytest.mark.parametrize("model", SPECIAL)
def test_every_matrix_is_quantized_or_named_as_one_that_is_not(checkpoint, tiny_model, model):
    """Nothing is left as it was by chance: not an expert, not a linear under a name that the table forgot."""
    folder = checkpoint(model, SPECS["W8A8"])
    source = open_source(folder)
    matrices = {name for name, tensor in load_file(tiny_model(model) / "model.safetensors").items() if tensor.dim() > 1}
    embeddings = {name for name in matrices if "embed" in name}
    left = {name.removesuffix(".weight") for name in matrices - embeddings if source.precision(name) is None}
    ignored = set(source.config["quantization_config"]["ignore"])
    routers = {name for name in left if name.endswith(".gate")}
    assert left <= ignored
    assert routers == {
        f"{row.block(index)}.{kept}"
        for row in ARCHITECTURES
        if row.name == class_name(model)
        for index in range(2)
        for kept in row.kept
    }
    assert len(left - routers) <= 1  # the head, where it is not tied
