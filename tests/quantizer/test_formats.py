"""The stored form is the one that compressed-tensors and the engines read."""

import json
import re

import pytest
import torch
import transformers
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationConfig
from hypothesis import given, settings
from hypothesis import strategies as st
from tinymodels.checkpoints import checkpoint_of

from saffron_api.candidate import CandidateSpec, KvCache, QuantizationFormat, Scheme
from saffron_api.failures import FailureReason, StageError
from saffron_kernels.nn import Int8Linear
from saffron_kernels.quantize_pack import Layout, pack
from saffron_quantizer.checkpoint.formats.compressed_tensors import COMPRESSED_TENSORS
from saffron_quantizer.checkpoint.formats.registry import FORMATS, quantization_of
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.models.activations import ActivationMemory
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.plan import make_plan, with_precisions
from saffron_quantizer.precision import FLOATING, Precision, precision_of
from saffron_quantizer.progress import ignore
from saffron_quantizer.quantize import write_rest
from saffron_quantizer.ranks import ALONE
from saffron_quantizer.shards import write_shards

CODES = st.tuples(st.integers(1, 5), st.integers(1, 37), st.integers(0, 2**32 - 1))


def codes_of(rows, columns, seed, bits):
    generator = torch.Generator().manual_seed(seed)
    largest = 1 << (bits - 1)
    return torch.randint(-largest, largest, (rows, columns), generator=generator, dtype=torch.int8)


@pytest.mark.parametrize("bits", [4, 8])
@settings(deadline=None)
@given(shape=CODES)
def test_packing_equals_compressed_tensors(shape, bits):
    codes = codes_of(*shape, bits)
    assert torch.equal(pack(codes, bits, Layout.COMPRESSED_TENSORS), pack_to_int32(codes, bits))


@pytest.mark.parametrize(
    ("scheme", "rows", "columns", "group", "expected"),
    [
        (Scheme.W4A16, 640, 2048, 128, 640 * 2048 // 2 + 640 * 16 * 2 + 16),
        (Scheme.W4A16, 3, 32, 32, 3 * 16 + 3 * 2 + 16),
        (Scheme.W8A16, 3, 37, None, 3 * 40 + 3 * 2 + 16),
        (Scheme.W8A8, 640, 2048, None, 640 * 2048 + 640 * 4),
        (Scheme.FP8, 3, 37, None, 3 * 37 + 3 * 4),
        (Scheme.FP8_STATIC, 3, 37, None, 3 * 37 + 3 * 4),
    ],
)
def test_stored_bytes_are_codes_scales_and_shape(scheme, rows, columns, group, expected):
    assert COMPRESSED_TENSORS.stored_bytes(Precision(scheme, group), rows, columns, torch.bfloat16) == expected


SPECS = {
    "W4A16 of groups of 64": CandidateSpec(method="RTN", scheme="W4A16", group_size=64),
    "W4A16 of groups of 32": CandidateSpec(method="RTN", scheme="W4A16", group_size=32),
    "W8A16": CandidateSpec(method="RTN", scheme="W8A16"),
    "W8A8": CandidateSpec(method="RTN", scheme="W8A8"),
    "FP8": CandidateSpec(method="RTN", scheme="FP8"),
    "FP8Static": CandidateSpec(method="RTN", scheme="FP8Static"),
    "W4A16 with an FP8 cache": CandidateSpec(method="RTN", scheme="W4A16", group_size=64, kv_cache="FP8"),
    "FP8 with an FP8 cache": CandidateSpec(method="RTN", scheme="FP8", kv_cache="FP8"),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_config_is_what_compressed_tensors_parses(spec):
    precision = precision_of(spec)
    config = COMPRESSED_TENSORS.config({"model.layers.0.mlp.up_proj": precision}, ("lm_head",), spec.kv_cache)
    parsed = QuantizationConfig.model_validate(config)
    weights = parsed.config_groups["group_0"].weights
    assert (weights.num_bits, weights.type, weights.group_size, weights.symmetric) == (
        4 if spec.scheme is Scheme.W4A16 else 8,
        "float" if spec.scheme in FLOATING else "int",
        spec.effective_group_size,
        True,
    )
    inputs = parsed.config_groups["group_0"].input_activations
    assert (inputs and (inputs.type, inputs.strategy, inputs.dynamic)) == {
        Scheme.W8A8: ("int", "token", True),
        Scheme.FP8: ("float", "token", True),
        Scheme.FP8_STATIC: ("float", "tensor", False),
    }.get(spec.scheme)
    assert (parsed.kv_cache_scheme is None) == (spec.kv_cache is KvCache.NONE)
    layout, found = quantization_of({"quantization_config": json.loads(json.dumps(config))})
    assert layout is COMPRESSED_TENSORS
    assert (found.assignment("model.layers.0.mlp.up_proj"), found.assignment("lm_head")) == (precision, None)
    assert found.kv_cache is spec.kv_cache


INT4, INT8 = Precision(Scheme.W4A16, 32), Precision(Scheme.W8A8)
FUSED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
CLASSES = {"qkv_proj": "QKVParallelLinear", "gate_up_proj": "MergedColumnParallelLinear"}
MODULES = [
    f"model.layers.{block}.{part}"
    for block in (0, 1, 10)
    for part in (
        *(f"self_attn.{part}_proj" for part in "qkvo"),
        *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
    )
]
PLANS = {
    "all alike": {},
    "a merged layer raised in one block, whose number begins another's": {
        f"model.layers.1.self_attn.{part}_proj": INT8 for part in "qkv"
    },
    "one linear raised": {"model.layers.0.mlp.down_proj": INT8},
    "a merged layer ignored, another raised": {
        **{f"model.layers.0.mlp.{part}_proj": None for part in ("gate", "up")},
        **{f"model.layers.0.self_attn.{part}_proj": INT8 for part in "qkv"},
    },
    "all of a block raised": {name: INT8 for name in MODULES if name.startswith("model.layers.10.")},
    "more raised than not": {name: INT8 for name in MODULES if not name.endswith("down_proj")},
}


def mixed(plan):
    """The config of MODULES in int4 but for what a plan says, and what it should say of each."""
    wanted = {name: plan.get(name, INT4) for name in MODULES}
    precisions = {name: precision for name, precision in wanted.items() if precision is not None}
    ignored = ("lm_head", *(name for name, precision in wanted.items() if precision is None))
    return COMPRESSED_TENSORS.config(precisions, ignored, KvCache.NONE), wanted


def as_vllm_looks_it_up(config, layer, *, class_before_parts):
    """The group of a layer as vLLM merges it, or None: `ignore` first, then names, parts and class; the first counts.

    vLLM 0.32, compressed_tensors/utils.py: should_ignore_layer, find_matched_target. Other versions ask for the class
    before the parts.
    """
    parent, _, leaf = layer.rpartition(".")
    parts = [f"{parent}.{part}" for part in FUSED.get(leaf, [leaf])]

    def fits(target, name):
        return re.match(target[3:], name) if target.startswith("re:") else target == name

    shares = [any(fits(pattern, part) for pattern in config["ignore"]) for part in parts]
    assert len(set(shares)) == 1, "vLLM refuses a layer that is ignored in part"
    if shares[0]:
        return None
    targets = [(target, group) for group in config["config_groups"].values() for target in group["targets"]]
    by_name = [group for target, group in targets if fits(target, layer)]
    of_parts = [next((group for target, group in targets if fits(target, part)), None) for part in parts]
    by_parts = [of_parts[0]] if leaf in FUSED and all(of_parts) else []
    by_class = [group for target, group in targets if target.lower() in CLASSES.get(leaf, "RowParallelLinear").lower()]
    order = (by_name, by_class, by_parts) if class_before_parts else (by_name, by_parts, by_class)
    return next(group for found in order for group in found)


@pytest.mark.parametrize("class_before_parts", [False, True])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_each_layer_that_vllm_merges_is_found_in_the_group_of_its_parts(plan, class_before_parts):
    config, wanted = mixed(plan)
    bits = {INT4: (4, "pack-quantized"), INT8: (8, "int-quantized")}
    merged = {part: name for name, parts in FUSED.items() for part in parts}
    for name, precision in wanted.items():
        parent, _, leaf = name.rpartition(".")
        layer = f"{parent}.{merged.get(leaf, leaf)}"
        group = as_vllm_looks_it_up(config, layer, class_before_parts=class_before_parts)
        found = group and (group["weights"]["num_bits"], group.get("format", config["format"]))
        assert found == (precision and bits[precision]), name


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_mixed_config_is_parsed_by_compressed_tensors_and_read_back_by_us(plan):
    config, wanted = mixed(plan)
    parsed = QuantizationConfig.model_validate(config)
    groups = list(parsed.config_groups.values())
    assert [group.targets for group in groups][-1] == ["Linear"]
    formats = [group.format for group in groups]
    assert formats in ([None], ["int-quantized", "pack-quantized"], ["pack-quantized", "int-quantized"])
    assert parsed.format == ("pack-quantized" if len(formats) == 1 else "mixed-precision")
    _, found = quantization_of({"quantization_config": json.loads(json.dumps(config))})
    assert {name: found.assignment(name) for name in wanted} == wanted


def test_what_is_ignored_in_the_format_of_gptq_is_named_as_vllm_merges_it():
    ignored = ("lm_head", *(f"model.layers.1.self_attn.{part}_proj" for part in "qkv"), "model.layers.1.mlp.up_proj")
    config = FORMATS[QuantizationFormat.GPTQ].config({"model.layers.0.mlp.up_proj": INT4}, ignored, KvCache.NONE)
    assert list(config["dynamic"]) == [
        f"-:^{re.escape(name)}$" for name in (*ignored, "model.layers.1.self_attn.qkv_proj")
    ]


def test_a_config_that_says_something_else_than_the_plan_is_never_written():
    with pytest.raises(ValueError, match="something else of b than the plan"):
        COMPRESSED_TENSORS.config({"a": INT4, "b": INT4}, ("b",), KvCache.NONE)


def test_a_mixed_checkpoint_gives_in_transformers_the_logits_of_our_reader(tiny_model, tmp_path):
    reader = CheckpointReader(tiny_model("Qwen2"))
    spec = CandidateSpec(method="RTN", scheme="W4A16", group_size=32, ignore=["model.layers.1.mlp.down_proj"])
    plan = make_plan(reader, spec)
    raised = {f"model.layers.0.self_attn.{part}_proj.weight": INT8 for part in "qkv"}
    plan = with_precisions(plan, reader, {**plan.precisions, **raised})
    write_shards(
        tmp_path,
        reader,
        plan,
        ModelStream.open(reader.folder),
        [],
        memory=ActivationMemory(),
        ranks=ALONE,
        progress=ignore,
    )
    write_rest(tmp_path, reader, plan)
    assert CheckpointReader(tmp_path).bytes == plan.bytes
    tokens = torch.tensor([1, 5, 9, 80, 33, 2, 7, 11, 50, 4])
    stream = ModelStream.open(tmp_path, dtype=torch.float32)
    assert [type(stream.blocks[block].self_attn.q_proj) for block in (0, 1)] == [Int8Linear, torch.nn.Linear]
    ours = stream.logits(stream.final_hidden([tokens])[0])
    whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        theirs = whole(tokens[None]).logits[0]
    # The three int8 products round activations by 127.5 there and by 127 here, as in the test of W8A8 below.
    assert ((ours - theirs).square().mean().sqrt() / theirs.std()).item() < 0.05


def test_a_model_that_is_quantized_in_another_way_is_refused():
    with pytest.raises(StageError) as caught:
        quantization_of({"quantization_config": {"quant_method": "bitsandbytes", "bits": 4}})
    assert caught.value.failure.reason is FailureReason.ARCHITECTURE_UNSUPPORTED
    assert caught.value.failure.subject == "quantization_config(bitsandbytes)"


@pytest.mark.parametrize("architecture", ["Llama", "Qwen2", "Gemma3Text"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_written_checkpoint_gives_in_transformers_the_logits_of_our_reader(tiny_model, tmp_path, architecture, spec):
    out = tmp_path / "checkpoint"
    checkpoint_of(tiny_model(architecture), spec, out)
    tokens = torch.tensor([1, 5, 9, 80, 33, 2, 7, 11, 50, 4])
    stream = ModelStream.open(out, dtype=torch.float32)
    ours = stream.logits(stream.final_hidden([tokens])[0])
    whole = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    with torch.no_grad():
        theirs = whole(tokens[None]).logits[0]
    difference = ((ours - theirs).square().mean().sqrt() / theirs.std()).item()
    if spec.scheme is not Scheme.W8A8 and spec.scheme not in FLOATING and spec.kv_cache is KvCache.NONE:
        # The same codes times the same scales: float32 rounding only.
        assert difference < 1e-5
    elif spec.scheme is not Scheme.W8A8:
        # All is rounded at the same places, so the two are equal but for float32. That may tip a number over to the
        # next in FP8, a sixteenth away, and then what follows from it differs.
        assert difference < 0.05
    else:
        # compressed-tensors divides by 127.5, the engines by 127, so activations round at other places: each is off by
        # up to half a step of 1/127 of its token's largest, at random over the terms of each of the 14 products.
        assert difference < 0.05
