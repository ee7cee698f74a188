"""AutoAWQ and GPTQ v1: unpacked by readers written from their published layouts, word by word."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tinymodels.checkpoints import checkpoint_of, tensors_of

from saffron_api.candidate import CandidateSpec, KvCache, QuantizationFormat, Scheme
from saffron_api.failures import FailureReason, StageError
from saffron_quantizer.algorithms.quantized import Quantized
from saffron_quantizer.checkpoint.formats.autoawq import AUTOAWQ
from saffron_quantizer.checkpoint.formats.format import not_ours
from saffron_quantizer.checkpoint.formats.gptq_v1 import GPTQ_V1
from saffron_quantizer.checkpoint.formats.registry import FORMATS, quantization_of
from saffron_quantizer.inspect import inspect_model
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.precision import Precision

NAME = "model.layers.0.mlp.up_proj"
SHAPES = st.tuples(st.sampled_from([8, 24, 40]), st.sampled_from([(32, 32), (96, 32), (128, 128)]), st.integers(0, 99))


def nibble(word, place):
    return (word & 0xFFFFFFFF) >> (4 * place) & 0xF


def unpack_awq(tensors):
    """AutoAWQ's `WQLinear_GEMM`: qweight [I, O/8], qzeros [I/g, O/8], scales [I/g, O]; (q - z) · s as [O, I]."""
    qweight, qzeros = tensors[f"{NAME}.qweight"].tolist(), tensors[f"{NAME}.qzeros"].tolist()
    scales = tensors[f"{NAME}.scales"].float().tolist()
    columns, rows, groups = len(qweight), len(qweight[0]) * 8, len(scales)
    weight = torch.empty(rows, columns)
    for place, offset in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
        for word in range(rows // 8):
            row = 8 * word + offset
            for column in range(columns):
                group = column * groups // columns
                code, zero = nibble(qweight[column][word], place), nibble(qzeros[group][word], place)
                weight[row, column] = (code - zero) * scales[group][row]
    return weight


def unpack_gptq(tensors):
    """AutoGPTQ's `QuantLinear`: qweight [I/8, O], qzeros [I/g, O/8] less one, scales [I/g, O], g_idx [I], as [O, I]."""
    qweight, qzeros = tensors[f"{NAME}.qweight"].tolist(), tensors[f"{NAME}.qzeros"].tolist()
    scales, g_idx = tensors[f"{NAME}.scales"].float().tolist(), tensors[f"{NAME}.g_idx"].tolist()
    weight = torch.empty(len(scales[0]), len(g_idx))
    for column, group in enumerate(g_idx):
        for row in range(len(scales[0])):
            code = nibble(qweight[column // 8][row], column % 8)
            zero = nibble(qzeros[group][row // 8], row % 8) + 1
            weight[row, column] = (code - zero) * scales[group][row]
    return weight


def quantized_of(rows, columns, group, seed, *, symmetric):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-8, 8, (rows, columns), generator=generator, dtype=torch.int8)
    scale = torch.rand(rows, columns // group, generator=generator).half()
    zero = None if symmetric else torch.randint(-8, 8, scale.shape, generator=generator, dtype=torch.int8)
    return Quantized(codes, scale, zero)


def weights_of(quantized):
    columns = quantized.codes.shape[1]
    codes = quantized.codes.float()
    each = columns // quantized.scale.shape[1]
    if quantized.zero is not None:
        codes = codes - quantized.zero.float().repeat_interleave(each, dim=1)
    return codes * quantized.scale.float().repeat_interleave(each, dim=1)


CASES = [(AUTOAWQ, unpack_awq, True), (AUTOAWQ, unpack_awq, False), (GPTQ_V1, unpack_gptq, True)]
IDS = ["AutoAWQ", "AutoAWQ with zero points", "GPTQ v1"]


@pytest.mark.parametrize(("layout", "reader", "symmetric"), CASES, ids=IDS)
@settings(deadline=None, max_examples=15)
@given(shape=SHAPES)
def test_a_reader_of_the_published_layout_finds_every_weight(layout, reader, symmetric, shape):
    rows, (columns, group), seed = shape
    quantized = quantized_of(rows, columns, group, seed, symmetric=symmetric)
    precision = Precision(Scheme.W4A16, group)
    stored = layout.stored(f"{NAME}.weight", quantized, precision)
    assert torch.equal(reader(stored), weights_of(quantized))
    restored = layout.restored(f"{NAME}.weight", precision, stored.__getitem__)
    assert torch.equal(restored.codes, quantized.codes)
    assert torch.equal(restored.scale, quantized.scale)
    if quantized.zero is None:
        assert restored.zero is None
    else:
        assert torch.equal(restored.zero, quantized.zero)
    assert all(tensor.is_contiguous() for tensor in stored.values())
    on_disk = sum(tensor.numel() * tensor.dtype.itemsize for tensor in stored.values())
    assert layout.stored_bytes(precision, rows, columns, torch.bfloat16) == on_disk


def test_the_tensors_are_of_the_published_names_types_and_shapes():
    quantized = quantized_of(16, 64, 32, 0, symmetric=True)
    for layout, extra in ((AUTOAWQ, {}), (GPTQ_V1, {"g_idx": (torch.int32, (64,))})):
        stored = layout.stored(f"{NAME}.weight", quantized, Precision(Scheme.W4A16, 32))
        weight = (64, 2) if layout is AUTOAWQ else (8, 16)
        assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in stored.items()} == {
            f"{NAME}.{name}": kind
            for name, kind in {
                "qweight": (torch.int32, weight),
                "qzeros": (torch.int32, (2, 2)),
                "scales": (torch.float16, (2, 16)),
                **extra,
            }.items()
        }


def test_symmetric_zeros_are_8_in_autoawq_and_7_in_gptq_v1():
    quantized = quantized_of(8, 32, 32, 0, symmetric=True)
    precision = Precision(Scheme.W4A16, 32)
    words = [layout.stored(f"{NAME}.weight", quantized, precision)[f"{NAME}.qzeros"] for layout in (AUTOAWQ, GPTQ_V1)]
    assert [word.item() & 0xFFFFFFFF for word in words] == [0x88888888, 0x77777777]


def test_gptq_v1_is_not_written_with_zero_points():
    with pytest.raises(ValueError, match="without zero points"):
        GPTQ_V1.stored(f"{NAME}.weight", quantized_of(8, 32, 32, 0, symmetric=False), Precision(Scheme.W4A16, 32))


UNQUANTIZED = ("lm_head", "model.layers.1.mlp.down_proj")
CONFIGS = {
    QuantizationFormat.AUTOAWQ: {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 64,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": list(UNQUANTIZED),
    },
    QuantizationFormat.GPTQ: {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 64,
        "desc_act": False,
        "sym": True,
        "lm_head": False,
        "checkpoint_format": "gptq",
        "pack_dtype": "int32",
        "dynamic": {r"-:^lm_head$": {}, r"-:^model\.layers\.1\.mlp\.down_proj$": {}},
    },
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_config_says_what_is_quantized_and_is_read_back(kind):
    precision = Precision(Scheme.W4A16, 64)
    config = FORMATS[kind].config({NAME: precision}, UNQUANTIZED, KvCache.NONE)
    assert config == CONFIGS[kind]
    layout, found = quantization_of({"quantization_config": json.loads(json.dumps(config))})
    assert layout is FORMATS[kind]
    modules = (NAME, "model.layers.11.mlp.down_proj", *UNQUANTIZED)
    assert [found.assignment(module) for module in modules] == [precision, precision, None, None]
    assert found.kv_cache is KvCache.NONE


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (QuantizationFormat.AUTOAWQ, {"bits": 8}),
        (QuantizationFormat.AUTOAWQ, {"group_size": 16}),
        (QuantizationFormat.AUTOAWQ, {"version": "gemv"}),
        (QuantizationFormat.AUTOAWQ, {"zero_point": False}),
        (QuantizationFormat.AUTOAWQ, {"modules_to_not_convert": None}),
        (QuantizationFormat.AUTOAWQ, {"exllama_config": {}}),
        (QuantizationFormat.GPTQ, {"checkpoint_format": "gptq_v2"}),
        (QuantizationFormat.GPTQ, {"desc_act": True}),
        (QuantizationFormat.GPTQ, {"sym": False}),
        (QuantizationFormat.GPTQ, {"dynamic": {r"+:^lm_head$": {"bits": 8}}}),
        (QuantizationFormat.GPTQ, {"dynamic": {r"-:^lm_head$": {"bits": 8}}}),
        (QuantizationFormat.GPTQ, {"dynamic": None}),
    ],
)
def test_a_config_that_we_do_not_write_is_refused(kind, change):
    with pytest.raises(StageError) as caught:
        quantization_of({"quantization_config": CONFIGS[kind] | change})
    assert caught.value.failure == not_ours(CONFIGS[kind]["quant_method"]).failure


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "case",
    [("AutoAWQ", unpack_awq, True), ("AutoAWQ", unpack_awq, False), ("GPTQ", unpack_gptq, True)],
    ids=IDS,
)
def test_a_checkpoint_is_read_back_and_keeps_all_other_tensors_as_they_were(tiny_model, tmp_path, case, dtype):
    kind, reader, symmetric = case
    model = tiny_model("Qwen2", dtype=dtype)
    settings = {"method": "RTN", "scheme": "W4A16", "group_size": 32, "format": kind, "symmetric": symmetric}
    spec = CandidateSpec(**settings, scale_search="MinMax")
    checkpoint_of(model, spec, tmp_path / "out")
    written = tensors_of(tmp_path / "out")
    original = load_file(model / "model.safetensors")
    kept = {name for name in original if name in written}
    assert {name for name in original if name not in kept} == {
        f"model.layers.{block}.{linear}.weight"
        for block in (0, 1)
        for linear in (
            *(f"self_attn.{part}_proj" for part in "qkvo"),
            *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
        )
    }
    assert all(torch.equal(written[name], original[name]) for name in kept)
    loaded = ModelStream.open(tmp_path / "out", dtype=torch.float32)
    with loaded.loaded(0) as block:
        ours = block.get_submodule("mlp.up_proj").weight
    # Engines hold the scales in the model's type, and give weights of it.
    scales = written[f"{NAME}.scales"].to(dtype)
    expected = reader(
        {name: tensor for name, tensor in written.items() if name.startswith(NAME)} | {f"{NAME}.scales": scales}
    )
    assert torch.equal(ours, expected.to(dtype).float())
    assert bool((written[f"{NAME}.qzeros"] == written[f"{NAME}.qzeros"][0, 0]).all()) == symmetric
    error = (expected - original[f"{NAME}.weight"].float()).abs()
    # Half a step, half a step more where the range's end or its zero point is rounded, and the scale's own rounding.
    assert bool((error <= scales.T.float().repeat_interleave(32, dim=1) * 1.1).all())


def test_rows_that_do_not_fill_a_word_are_refused_before_any_work(tiny_model, tmp_path):
    model = tiny_model("Llama", intermediate_size=100)
    spec = CandidateSpec(method="RTN", scheme="W4A16", group_size=32, format="AutoAWQ")
    with pytest.raises(StageError) as caught:
        checkpoint_of(model, spec, tmp_path / "out")
    failure = caught.value.failure
    assert (failure.reason, failure.have, failure.need) == (FailureReason.ROWS_UNSUPPORTED, 100, 8)
    assert failure.subject == "model.layers.0.mlp.gate_proj.weight"
    assert not (tmp_path / "out").exists()
    (predicted,) = inspect_model(model, [("it", spec)], hash_cache=None).predicted
    assert predicted.failure == failure
