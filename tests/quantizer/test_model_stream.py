"""The walk block by block gives what transformers' whole model gives."""

import pytest
import torch
import transformers
from tinymodels.configs import SPECIAL

from saffron_api.failures import FailureReason, StageError
from saffron_kernels.nn import RmsNorm
from saffron_quantizer.models.architectures import ARCHITECTURES
from saffron_quantizer.models.batches import BATCH_TOKENS, make_batches
from saffron_quantizer.models.stream import ModelStream

NAMES = tuple(SPECIAL)


def sequences(*lengths):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 97, (length,), generator=generator) for length in lengths]


def test_every_architecture_of_the_table_is_tested():
    tested = {getattr(transformers, f"{name}Config").model_type for name in NAMES}
    assert {architecture.model_type for architecture in ARCHITECTURES} == tested


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_those_of_the_whole_model(tiny_model, name, tied):
    folder = tiny_model(name, tie_word_embeddings=tied)
    given = sequences(40, 5, 33, 1)
    stream = ModelStream.open(folder, dtype=torch.float32)
    got = [stream.logits(hidden) for hidden in stream.final_hidden(given)]
    # Gemma 2 is itself only with "eager" attention: the default leaves the cap out.
    kind = "eager" if name == "Gemma2" else "sdpa"
    whole = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=kind)
    with torch.no_grad():
        expected = [whole(sequence[None]).logits[0] for sequence in given]
    # The same float32 operations, but batched and padded, so that sums of 128 terms round in another order: a few
    # units in the last place of logits of about 30.
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


ROPE = {"rope_theta": 10000.0}
VARIANTS = {
    "biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "heads wider than the hidden states": ("Llama", {"head_dim": 32}),
    "linear rotary scaling": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, **ROPE}}),
    "dynamic rotary scaling": ("Llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, **ROPE}}),
    "YaRN": (
        "Llama",
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, **ROPE}},
    ),
    "Llama 3's rotary scaling": (
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
                **ROPE,
            }
        },
    ),
    # Two of the sequences are on one side of the limit and two on the other.
    "rotary factors of their own for long sequences": (
        "Phi3",
        {
            "rope_parameters": {
                "rope_type": "longrope",
                "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
                "long_factor": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
                **ROPE,
            },
            "original_max_position_embeddings": 20,
        },
    ),
    "a window from some layer on": ("Qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    "norms after the sublayers": ("OPT", {"do_layer_norm_before": False}),
    "an embedding narrower than the blocks": ("OPT", {"word_embed_proj_dim": 32, "do_layer_norm_before": False}),
    "no biases": ("OPT", {"enable_bias": False}),
    "sublayers one after the other": ("GPTNeoX", {"use_parallel_residual": False}),
    "rotary embedding of all of a head": (
        "GPTNeoX",
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1.0, **ROPE}},
    ),
    "some blocks without experts": ("Qwen3Moe", {"mlp_only_layers": [0]}),
    "shares that do not add up to 1": ("Qwen3Moe", {"norm_topk_prob": False}),
    "one expert a token": ("Mixtral", {"num_experts_per_tok": 1}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_those_of_the_whole_model_where_the_config_is_not_the_usual_one(tiny_model, variant):
    name, fields = VARIANTS[variant]
    folder, given = tiny_model(name, **fields), sequences(40, 5, 33, 20)
    stream = ModelStream.open(folder, dtype=torch.float32)
    got = [stream.logits(hidden) for hidden in stream.final_hidden(given)]
    whole = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        expected = [whole(sequence[None]).logits[0] for sequence in given]
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)  # as above


def test_a_cap_of_the_attention_logits_is_not_left_out(tiny_model):
    """The comparison with transformers can't tell whether either has the cap at all; this can."""
    hidden = []
    for cap in (2.0, None):
        stream = ModelStream.open(tiny_model("Gemma2", attn_logit_softcapping=cap), dtype=torch.float32)
        hidden.append(stream.final_hidden(sequences(20))[0])
    assert (hidden[0] - hidden[1]).abs().max() > 0.1


@pytest.mark.parametrize("name", ["Llama", "OPT"])
def test_a_sequence_may_fill_all_positions_of_the_model_and_no_more(tiny_model, name):
    stream = ModelStream.open(tiny_model(name, max_position_embeddings=41), dtype=torch.float32)
    assert len(stream.final_hidden(sequences(41, 3))[0]) == 41
    with pytest.raises(StageError) as caught:
        stream.final_hidden(sequences(42))
    assert caught.value.failure.reason is FailureReason.SPEC_INVALID
    assert caught.value.failure.subject == "tokens=42(max_position_embeddings=41)"


@pytest.mark.parametrize("name", ["Mistral", "Gemma3Text"])
def test_a_sliding_window_shuts_out_what_lies_before_it(tiny_model, name):
    """The comparison with transformers can't tell whether either has a window at all; this can."""
    kinds = {"layer_types": ["sliding_attention"]} if name == "Gemma3Text" else {}
    folder = tiny_model(name, num_hidden_layers=1, **kinds)
    stream = ModelStream.open(folder, dtype=torch.float32)
    (before,) = sequences(20)
    after = before.clone()
    after[0] = 3 if before[0] != 3 else 4
    changed = [
        position
        for position, (one, other) in enumerate(
            zip(*(stream.final_hidden([tokens])[0] for tokens in (before, after)), strict=True)
        )
        if not torch.equal(one, other)
    ]
    assert changed == list(range(8))


def test_progress_is_told_after_each_block(tiny_model):
    told = []
    ModelStream.open(tiny_model()).final_hidden(sequences(4), on_block=lambda *step: told.append(step))
    assert told == [(1, 2), (2, 2)]


def test_a_bfloat16_model_is_computed_in_the_type_that_is_asked_for(tiny_model):
    folder = tiny_model("Qwen3", dtype=torch.bfloat16)
    for dtype in (torch.float32, torch.bfloat16):
        assert ModelStream.open(folder, dtype=dtype).final_hidden(sequences(4))[0].dtype == dtype


def test_the_final_logits_are_capped_where_the_model_caps_them(tiny_model):
    folder = tiny_model("Gemma3Text", final_logit_softcapping=2.0)
    stream = ModelStream.open(folder, dtype=torch.float32)
    logits = stream.logits(stream.final_hidden(sequences(9))[0])
    assert 1.9 < logits.abs().max() <= 2.0


def test_batches_hold_every_sequence_once_and_no_more_tokens_than_allowed():
    given = sequences(1, 1030, 100, 512, 31, 500, 33, 1256)
    batches = make_batches(given)
    assert sorted(position for batch in batches for position in batch.positions) == list(range(len(given)))
    assert [tuple(batch.tokens.shape) for batch in batches] == [(1, 1280), (1, 1056), (2, 512), (4, 128)]
    assert all(batch.tokens.numel() <= BATCH_TOKENS or len(batch.lengths) == 1 for batch in batches)
    for batch in batches:
        for row, position in enumerate(batch.positions):
            assert torch.equal(batch.tokens[row][batch.real[row]], given[position])


def test_no_batch_and_no_padding_crosses_a_limit():
    given = sequences(50, 40, 30, 20, 10, 20)
    batches = make_batches(given, limits=(20, 50))
    assert [batch.positions for batch in batches] == [(0, 1, 2), (3, 5, 4)]
    assert [tuple(batch.tokens.shape) for batch in batches] == [(3, 50), (3, 20)]


@pytest.mark.parametrize("bad", [torch.zeros(0, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.int64)])
def test_a_sequence_must_be_one_dimensional_and_not_empty(bad):
    with pytest.raises(ValueError, match="1-D with at least one token"):
        make_batches([bad])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"OPT", "GPTNeoX"}])
def test_a_norm_of_a_model_computes_what_that_of_transformers_does(tiny_model, name):
    folder = tiny_model(name, dtype=torch.bfloat16)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).model.layers[1]
    stream = ModelStream.open(folder, dtype=torch.bfloat16)
    with stream.loaded(1) as block, torch.no_grad():
        norms = {place: module for place, module in block.named_modules() if isinstance(module, RmsNorm)}
        assert list(norms) == [place for place, module in theirs.named_modules() if "RMSNorm" in type(module).__name__]
        for number, (place, norm) in enumerate(norms.items()):
            x = torch.randn(2, 5, *norm.weight.shape, generator=torch.Generator().manual_seed(number)).bfloat16()
            # Sums are added up in another order. What then lies between two numbers may be rounded to either, and
            # Llama's norm rounds twice.
            torch.testing.assert_close(norm(x), theirs.get_submodule(place)(x), rtol=2**-6, atol=1e-7)
