"""Products of two FP8 numbers are float32 numbers; only their sums round."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saffron_kernels.fp8_gemm import fp8_gemm, fp8_gemm_reference
from saffron_kernels.scaled_gemm_triton import scaled_gemm

ADA, H100 = (8, 9), (9, 0)


def inputs(M, N, K, *, bias=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes, weight = (torch.randn(rows, K, generator=generator).to(torch.float8_e4m3fn) for rows in (M, N))
    scale, weight_scale = (torch.rand(rows, 1, generator=generator) for rows in (M, N))
    return codes, scale, weight, weight_scale, torch.randn(N, generator=generator) if bias else None


def near(ours, expected):
    """Sums of 2,300 products in another order: some √2300 roundings of 2^-24 each, and room for ten times as many."""
    torch.testing.assert_close(ours, expected, rtol=0, atol=3e-5 * float(expected.abs().amax()))


def test_a_worked_example():
    """1.5 · 4 - 0.5 · 2 = 5, times 0.5 and 2, plus 1."""
    arguments = (
        torch.tensor([[1.5, -0.5]]).to(torch.float8_e4m3fn),
        torch.tensor([[0.5]]),
        torch.tensor([[4.0, 2.0]]).to(torch.float8_e4m3fn),
        torch.tensor([[2.0]]),
        torch.tensor([1.0]),
    )
    for y in (fp8_gemm(*arguments, out_dtype=torch.float16), scaled_gemm(*arguments, torch.float16, ADA)):
        assert (y.dtype, y.tolist()) == (torch.float16, [[6.0]])


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 20), st.integers(1, 70), st.integers(1, 300), st.booleans(), st.integers(0, 2**32 - 1))
def test_every_device_is_near_the_reference(M, N, K, bias, seed):
    arguments = inputs(M, N, K, bias=bias, seed=seed)
    before = [None if tensor is None else tensor.clone() for tensor in arguments]
    expected = fp8_gemm_reference(*arguments, out_dtype=torch.float32)
    near(fp8_gemm(*arguments, out_dtype=torch.float32), expected)
    near(scaled_gemm(*arguments, torch.float32, ADA), expected)
    for tensor, copy in zip(arguments, before, strict=True):
        assert tensor is None or torch.equal(tensor.float(), copy.float())


@pytest.mark.parametrize(
    ("M", "N", "K", "capability"),
    [(1, 5, 2300, H100), (33, 65, 130, ADA), (129, 140, 70, ADA), (129, 260, 70, H100)],
    ids=["two programs share a tile", "some tokens", "many tokens", "many tokens on Hopper"],
)
def test_each_size_of_tile_is_near_the_reference(M, N, K, capability):
    arguments = inputs(M, N, K)
    expected = fp8_gemm_reference(*arguments, out_dtype=torch.float32)
    near(scaled_gemm(*arguments, torch.float32, capability), expected)


def test_a_card_without_fp8_is_refused():
    with pytest.raises(NotImplementedError, match=r"compute capability 8\.0 has no FP8, 8\.9 is the first: deq"):
        scaled_gemm(*inputs(2, 3, 4), torch.float32, (8, 0))


@pytest.mark.parametrize(
    ("place", "wrong", "message"),
    [
        (0, torch.zeros(2, 4), r"codes must be torch.float8_e4m3fn \(2, 4\), not torch.float32 \(2, 4\)"),
        (1, torch.ones(1, 1), r"scale must be torch.float32 \(2, 1\), not torch.float32 \(1, 1\)"),
        (
            2,
            torch.zeros(3, 4, dtype=torch.int8),
            r"weight must be torch.float8_e4m3fn \(3, 4\), not torch.int8 \(3, 4\)",
        ),
        (3, torch.ones(3), r"weight_scale must be torch.float32 \(3, 1\), not torch.float32 \(3,\)"),
        (4, torch.ones(3, 1), r"bias must be \(3,\), not \(3, 1\)"),
    ],
)
def test_what_does_not_fit_is_refused(place, wrong, message):
    arguments = list(inputs(2, 3, 4))
    arguments[place] = wrong
    with pytest.raises(ValueError, match=message):
        fp8_gemm(*arguments, out_dtype=torch.float32)


def test_torch_finds_nothing_wrong_with_the_op():
    # Its test of the schema compares inputs before and after, and torch's comparisons know no FP8.
    tests = ["test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    for bias in (True, False):
        arguments = (*inputs(2, 3, 4, bias=bias), torch.float16)
        torch.library.opcheck(torch.ops.saffron.fp8_gemm.default, arguments, test_utils=tests)
