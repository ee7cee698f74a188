"""Integer sums are exact, and the rest is done in one order everywhere, so no bit may differ between devices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saffron_kernels.scaled_gemm_triton import scaled_gemm, scaled_gemm_launches
from saffron_kernels.w8a8_gemm import w8a8_gemm, w8a8_gemm_reference

A100, H100 = (8, 0), (9, 0)


def inputs(M, N, K, *, bias=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes, weight = (torch.randint(-127, 128, (rows, K), generator=generator, dtype=torch.int8) for rows in (M, N))
    scale, weight_scale = (torch.rand(rows, 1, generator=generator) / 100 for rows in (M, N))
    return codes, scale, weight, weight_scale, torch.randn(N, generator=generator).bfloat16() if bias else None


def on_a_card(arguments, out_dtype, capability=A100):
    return scaled_gemm(*arguments, out_dtype, capability)


def equal(ours, expected):
    return ours.dtype == expected.dtype and torch.equal(ours, expected)


def test_a_worked_example():
    """1 · 3 - 2 · 4 = -5, times 0.5 and 0.25, plus 1."""
    arguments = (
        torch.tensor([[1, -2]], dtype=torch.int8),
        torch.tensor([[0.5]]),
        torch.tensor([[3, 4], [0, 1]], dtype=torch.int8),
        torch.tensor([[0.25], [2.0]]),
        torch.tensor([1.0, 0.0]),
    )
    for y in (w8a8_gemm(*arguments, out_dtype=torch.float32), on_a_card(arguments, torch.float32)):
        assert y.tolist() == [[0.375, -2.0]]


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 20), st.integers(1, 70), st.integers(1, 300), st.booleans(), st.integers(0, 2**32 - 1))
def test_every_device_gives_the_same_bits(M, N, K, bias, seed):
    arguments = inputs(M, N, K, bias=bias, seed=seed)
    before = [None if tensor is None else tensor.clone() for tensor in arguments]
    for out_dtype in (torch.float32, torch.float16):
        expected = w8a8_gemm_reference(*arguments, out_dtype=out_dtype)
        assert equal(w8a8_gemm(*arguments, out_dtype=out_dtype), expected)
        assert equal(on_a_card(arguments, out_dtype), expected)
    for tensor, copy in zip(arguments, before, strict=True):
        assert tensor is None or torch.equal(tensor, copy)


@pytest.mark.parametrize(
    ("M", "N", "K", "capability"),
    [(1, 5, 2300, A100), (33, 65, 130, A100), (129, 140, 70, A100), (129, 260, 70, H100), (3, 4, 0, A100)],
    ids=["two programs share a tile", "some tokens", "many tokens", "many tokens on Hopper", "no channels"],
)
def test_each_size_of_tile_gives_the_reference_s_bits(M, N, K, capability):
    arguments = inputs(M, N, K)
    expected = w8a8_gemm_reference(*arguments, out_dtype=torch.float32)
    assert equal(on_a_card(arguments, torch.float32, capability), expected)


def test_few_tokens_share_a_tile_among_programs_and_many_do_not():
    grids = {}
    for M in (1, 16384):
        arguments = [tensor.to("meta") for tensor in inputs(M, 256, 2048)]
        y = torch.empty(M, 256, device="meta")
        grids[M] = [launch.grid for launch in scaled_gemm_launches(*arguments, y, A100)]
    assert grids == {1: [(4, 2), (1, 1)], 16384: [(256, 1)]}


def test_sums_that_no_float32_holds_are_exact():
    """127² · 1,041 = 16,790,289 is odd and above 2^24: it is rounded once, when the sum is whole."""
    ones = torch.full((1, 1041), 127, dtype=torch.int8)
    arguments = (ones, torch.ones(1, 1), ones, torch.ones(1, 1), None)
    for y in (w8a8_gemm(*arguments, out_dtype=torch.float32), on_a_card(arguments, torch.float32)):
        assert y.item() == torch.tensor(16_790_289).float().item()


def test_numbers_may_lie_apart_in_memory():
    everything = inputs(6, 10, 40)
    rows = tuple(tensor[::2] for tensor in everything)
    columns = (everything[0][:, ::2], everything[1], everything[2][:, ::2], *everything[3:])
    for arguments in (rows, columns):
        expected = w8a8_gemm_reference(*arguments, out_dtype=torch.float32)
        assert equal(w8a8_gemm(*arguments, out_dtype=torch.float32), expected)
        assert equal(on_a_card(arguments, torch.float32), expected)


@pytest.mark.parametrize(
    ("place", "wrong", "message"),
    [
        (0, torch.zeros(2, 4), r"codes must be torch.int8 \(2, 4\), not torch.float32 \(2, 4\)"),
        (1, torch.ones(2), r"scale must be torch.float32 \(2, 1\), not torch.float32 \(2,\)"),
        (2, torch.zeros(3, 5, dtype=torch.int8), r"weight must be torch.int8 \(3, 4\), not torch.int8 \(3, 5\)"),
        (3, torch.ones(3, 1).double(), r"weight_scale must be torch.float32 \(3, 1\), not torch.float64 \(3, 1\)"),
        (4, torch.ones(2), r"bias must be \(3,\), not \(2,\)"),
    ],
)
def test_what_does_not_fit_is_refused(place, wrong, message):
    arguments = list(inputs(2, 3, 4))
    arguments[place] = wrong
    with pytest.raises(ValueError, match=message):
        w8a8_gemm(*arguments, out_dtype=torch.float32)


def test_more_columns_than_int32_has_room_for_are_refused():
    arguments = [tensor.to("meta") for tensor in inputs(1, 1, 131_072)]
    with pytest.raises(ValueError, match="sums of 131072 products may leave int32; 131071 are the most"):
        w8a8_gemm(*arguments, out_dtype=torch.float32)


def test_a_type_that_no_product_is_written_in_is_refused():
    with pytest.raises(ValueError, match=r"written in float32, float16 or bfloat16, not in torch\.float64"):
        w8a8_gemm(*inputs(2, 3, 4), out_dtype=torch.float64)


def test_torch_finds_nothing_wrong_with_the_op():
    for bias in (True, False):
        arguments = inputs(2, 3, 4, bias=bias)
        torch.library.opcheck(torch.ops.saffron.w8a8_gemm.default, (*arguments, torch.float16))
