"""Architectures without a row: a plan from what their class shows, or a refusal that says what stands in the way."""

import json

import pytest
import torch
import transformers
from tinymodels.checkpoints import checkpoint_of
from tinymodels.configs import TINY

from saffron_api.candidate import CandidateSpec
from saffron_api.failures import FailureReason, StageError
from saffron_quantizer.inspect import inspect_model
from saffron_quantizer.models.architectures import Architecture
from saffron_quantizer.models.inferred import infer_architecture
from saffron_quantizer.models.stream import ModelStream

_LLAMA_LIKE = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
_LATENT = {
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "head_dim": 8,
    "num_key_value_heads": 4,
}
INFERRED = {
    "Olmo2": ({}, {"input_groups": _LLAMA_LIKE}),
    "Persimmon": (
        {},
        {
            "input_groups": (
                ("self_attn.query_key_value",),
                ("self_attn.dense",),
                ("mlp.dense_h_to_4h",),
                ("mlp.dense_4h_to_h",),
            ),
            "final": ("model.final_layernorm",),
        },
    ),
    "Youtu": (
        _LATENT,
        {
            "input_groups": (
                ("self_attn.q_a_proj",),
                ("self_attn.q_b_proj",),
                ("self_attn.o_proj",),
                ("mlp.gate_proj", "mlp.up_proj"),
                ("mlp.down_proj",),
            ),
            "kept": ("self_attn.kv_a_proj_with_mqa", "self_attn.kv_b_proj"),
        },
    ),
}
"""Config fields, and what is inferred, where it is not `Architecture`'s default."""


@pytest.fixture(scope="module")
def unknown_model(tmp_path_factory):
    """Makes the folder of a tiny model of any class."""

    def make(name, fields):
        folder = tmp_path_factory.mktemp(name)
        config = getattr(transformers, f"{name}Config")(**{**TINY, **fields})
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.save_pretrained(folder)
        return folder, type(model).__name__, config.model_type

    return make


@pytest.mark.parametrize("name", INFERRED)
def test_what_a_class_shows_is_a_row(unknown_model, name):
    fields, expected = INFERRED[name]
    folder, class_name, model_type = unknown_model(name, fields)
    row = Architecture(class_name, model_type, sublayers=(), inferred=True, **expected)
    assert infer_architecture(folder, class_name, model_type) == row


def logits(folder, tokens):
    stream = ModelStream.open(folder, dtype=torch.float32)
    return stream.logits(stream.final_hidden([tokens])[0])


def transformers_logits(folder, tokens):
    whole = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return whole(tokens[None]).logits[0]


@pytest.mark.parametrize("method", ["RTN", "GPTQ"])
@pytest.mark.parametrize("name", INFERRED)
def test_a_checkpoint_of_an_inferred_architecture_gives_transformers_logits(unknown_model, tmp_path, name, method):
    folder, _, _ = unknown_model(name, INFERRED[name][0])
    tokens = torch.arange(3, 40)
    torch.testing.assert_close(logits(folder, tokens), transformers_logits(folder, tokens), rtol=1e-5, atol=1e-4)
    spec = CandidateSpec(method=method, scheme="W4A16", group_size=32)
    checkpoint_of(folder, spec, tmp_path / "out", [torch.arange(3, 60), torch.arange(50, 90)])
    ours, theirs = logits(tmp_path / "out", tokens), transformers_logits(tmp_path / "out", tokens)
    # The same codes times the same scales: float32 rounding only.
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
    ignored = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["ignore"]
    kept = INFERRED[name][1].get("kept", ())
    assert ignored == ["lm_head", *(f"model.layers.{index}.{linear}" for index in range(2) for linear in kept)]


REFUSED = {
    "its linears are transposed": ("GPT2", {}, "GPT2LMHeadModel(attn.c_attn.weight:Conv1D)"),
    "its tensors are joined when they are loaded": ("Olmoe", {}, "OlmoeForCausalLM(converted-weights)"),
    "its latents come with joined experts": (
        "DeepseekV3",
        {**_LATENT, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
        "DeepseekV3ForCausalLM(converted-weights)",
    ),
    "its logits are scaled": ("Cohere", {}, "CohereForCausalLM(logits)"),
    "its head has a bias": ("Phi", {}, "PhiForCausalLM(lm_head:Linear)"),
    "its norm comes twice": ("NanoChat", {}, "NanoChatForCausalLM(norm)"),
    "its blocks hand something on": ("GPTBigCode", {}, "GPTBigCodeForCausalLM(GPTBigCodeBlock:arguments)"),
    "its attention is not torch's": ("Bloom", {}, "BloomForCausalLM(bloom)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_stands_in_the_way_is_named(unknown_model, case):
    name, fields, subject = REFUSED[case]
    folder, _, _ = unknown_model(name, fields)
    with pytest.raises(StageError) as caught:
        inspect_model(folder, [], hash_cache=None)
    assert caught.value.failure.reason is FailureReason.ARCHITECTURE_UNSUPPORTED
    assert caught.value.failure.subject == subject
    assert caught.value.detail


def test_smoothing_needs_a_row_and_keeps_no_other_candidate_from_being_made(unknown_model):
    folder, _, _ = unknown_model("Olmo2", {})
    asked = [
        ("awq", CandidateSpec(method="AWQ", scheme="W4A16", group_size=32)),
        ("smoothed", CandidateSpec(method="GPTQ", scheme="W8A8", smoothing="SmoothQuant")),
        ("gptq", CandidateSpec(method="GPTQ", scheme="W4A16", group_size=32)),
    ]
    found = inspect_model(folder, asked, hash_cache=None).predicted
    assert [each.failure and each.failure.subject for each in found] == [
        "Olmo2ForCausalLM(smoothing)",
        "Olmo2ForCausalLM(smoothing)",
        None,
    ]
