"""Each way of the CPU sums exactly, so that no bit differs from the reference, and one that does not is found out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saffron_kernels import w8a8_gemm_cpu
from saffron_kernels.compiled import features
from saffron_kernels.quantize_per_token import quantize_per_token_reference
from saffron_kernels.w8a8_gemm import w8a8_gemm, w8a8_gemm_reference, w8a8_linear
from saffron_kernels.w8a8_gemm_cpu import (
    avx2_gemm,
    exact_way,
    float32_gemm,
    int_mm_gemm,
    is_exact,
    vnni_gemm,
    ways,
)

WAYS = [float32_gemm, *(way for way in ways(features(), amx=False) if way is not int_mm_gemm)]
"""Those that are ours: oneDNN's may be inexact here."""
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def problem(M, N, K, seed=0, *, with_bias=False):
    generator = torch.Generator().manual_seed(seed)
    codes, weight = (torch.randint(-128, 128, (rows, K), generator=generator, dtype=torch.int8) for rows in (M, N))
    scale, weight_scale = (torch.rand(rows, 1, generator=generator) / 100 for rows in (M, N))
    return codes, scale, weight, weight_scale, torch.randn(N, generator=generator) if with_bias else None


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(WAYS),
    st.integers(1, 20),
    st.integers(1, 110),
    st.integers(1, 300),
    st.sampled_from(DTYPES),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_any_shape(way, M, N, K, out_dtype, with_bias, seed):  # noqa: PLR0917 - what Hypothesis draws
    inputs = problem(M, N, K, seed, with_bias=with_bias)
    before = [None if tensor is None else tensor.clone() for tensor in inputs]
    assert torch.equal(way(*inputs, out_dtype), w8a8_gemm_reference(*inputs, out_dtype=out_dtype))
    for tensor, copy in zip(inputs, before, strict=True):
        assert tensor is None or torch.equal(tensor, copy)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("M", "N", "K"),
    [
        (193, 97, 64),  # more than a block of rows and of output channels
        (2, 3, 8257),  # more than two parts of the columns, and one beside them
        (385, 1, 1),
        (96, 130, 64),  # many rows: w is packed, the last panel is not full
        (517, 65, 3),  # more rows than share a panel, and fewer columns than an instruction adds up
        (101, 7, 1411),  # more columns than a panel has, one row too many for large tiles
    ],
)
def test_more_than_one_block(way, M, N, K):
    inputs = problem(M, N, K)
    assert torch.equal(way(*inputs, torch.float32), w8a8_gemm_reference(*inputs, out_dtype=torch.float32))


@pytest.mark.parametrize("out_dtype", DTYPES)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("M", "N", "K"), [(100, 70, 130), (99, 64, 256), (97, 1, 2)])
def test_many_rows(M, N, K, with_bias, out_dtype):
    inputs = problem(M, N, K, with_bias=with_bias)
    assert torch.equal(w8a8_gemm(*inputs, out_dtype=out_dtype), w8a8_gemm_reference(*inputs, out_dtype=out_dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("M", [1, 95, 96, 530])
def test_tokens_that_are_quantized_on_the_way_are_those_of_the_two_ops(monkeypatch, M, threads, way, dtype):
    monkeypatch.setattr(w8a8_gemm_cpu, "exact_way", lambda: way)
    _, _, weight, weight_scale, bias = problem(M, 70, 131, with_bias=True)
    x = torch.randn(M, 131, generator=torch.Generator().manual_seed(1)).to(dtype)
    x[M // 2] = 0
    codes, scale = quantize_per_token_reference(x)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours = w8a8_linear(x, weight, weight_scale, bias)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(ours, w8a8_gemm_reference(codes, scale, weight, weight_scale, bias, out_dtype=dtype))


def test_numbers_beyond_what_bfloat16_holds_in_full_are_rounded_as_torch_does_it():
    """The smallest numbers, infinity and NaN: an instruction that rounds would make 0 of the first."""
    codes, weight = torch.full((96, 4), 1, dtype=torch.int8), torch.full((4, 4), 1, dtype=torch.int8)
    scale = torch.ones(96, 1)
    weight_scale = torch.tensor([[1e-40], [float("inf")], [float("nan")], [3.4e38]])
    ours = w8a8_gemm(codes, scale, weight, weight_scale, out_dtype=torch.bfloat16)
    expected = w8a8_gemm_reference(codes, scale, weight, weight_scale, out_dtype=torch.bfloat16)
    torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("way", WAYS)
def test_the_largest_sums_that_int32_holds(way):
    # 131,071 products of 2^14: one more would be 2^31.
    codes, weight = torch.full((1, 131071), -128, dtype=torch.int8), torch.full((1, 131071), -128, dtype=torch.int8)
    one = torch.ones(1, 1)
    assert way(codes, one, weight, one, None, torch.float32).item() == float(131071 * 2**14)


@pytest.mark.parametrize("way", WAYS)
def test_operands_that_do_not_lie_row_by_row(way):
    codes, scale, weight, weight_scale, _ = problem(9, 11, 70)
    turned = [tensor.T.contiguous().T for tensor in (codes, scale, weight, weight_scale)]
    expected = w8a8_gemm_reference(codes, scale, weight, weight_scale, out_dtype=torch.float32)
    assert torch.equal(way(*turned, None, torch.float32), expected)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("M", [40, 300], ids=["few rows", "rows that threads prepare for themselves, or together"])
def test_the_number_of_threads_changes_no_bit(M, threads):
    inputs = problem(M, 300, 100)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours = w8a8_gemm(*inputs, out_dtype=torch.bfloat16)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(ours, w8a8_gemm_reference(*inputs, out_dtype=torch.bfloat16))


def saturating_gemm(codes, scale, weight, weight_scale, _bias, out_dtype):
    """As instructions that sum the products of two columns in int16."""
    pairs = torch.nn.functional.pad(codes, (0, codes.shape[1] % 2)).int().unflatten(1, (-1, 2))
    others = torch.nn.functional.pad(weight, (0, weight.shape[1] % 2)).int().unflatten(1, (-1, 2))
    sums = (pairs[:, None] * others[None]).sum(-1).clamp(-(2**15), 2**15 - 1).sum(-1)
    return (sums.float() * scale * weight_scale.T).to(out_dtype)


def test_exact_ways_pass_the_check_and_a_saturating_one_does_not():
    assert [is_exact(way) for way in [*WAYS, saturating_gemm]] == [True] * len(WAYS) + [False]


def test_an_inexact_way_is_named_and_not_used(monkeypatch):
    exact_way.cache_clear()
    monkeypatch.setattr(w8a8_gemm_cpu, "ways", lambda *_, **__: [saturating_gemm])
    try:
        with pytest.warns(UserWarning, match="saturating_gemm multiplies int8 inexactly on this processor"):
            assert exact_way() is float32_gemm
    finally:
        exact_way.cache_clear()


@pytest.mark.parametrize(
    ("instructions", "amx", "expected"),
    [
        ({"avx2", "f16c", "avx512vnni"}, True, [int_mm_gemm, vnni_gemm, avx2_gemm]),
        ({"avx2", "f16c", "avx512vnni"}, False, [vnni_gemm, avx2_gemm]),
        ({"avx2", "f16c"}, False, [avx2_gemm]),
        (set(), False, [int_mm_gemm]),
    ],
    ids=["AMX", "VNNI", "AVX2", "none of them"],
)
def test_the_ways_of_a_processor(instructions, amx, expected):
    assert ways(frozenset(instructions), amx=amx) == expected


@pytest.mark.parametrize("amx", [True, False])
def test_a_processor_is_asked_for_amx_itself_since_no_level_that_loops_are_compiled_for_has_it(amx, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(w8a8_gemm_cpu, "ways", lambda _, *, amx: asked.append(amx) or [vnni_gemm])
    monkeypatch.setattr(w8a8_gemm_cpu, "is_exact", lambda _: True)
    exact_way.cache_clear()
    try:
        assert exact_way() is vnni_gemm
    finally:
        exact_way.cache_clear()
    assert asked == [amx]


def test_int_mm_is_scaled_as_the_reference_does_it():
    if not is_exact(int_mm_gemm):
        pytest.skip("torch._int_mm is inexact on this processor")
    inputs = problem(5, 33, 129, with_bias=True)
    assert torch.equal(int_mm_gemm(*inputs, torch.bfloat16), w8a8_gemm_reference(*inputs, out_dtype=torch.bfloat16))
