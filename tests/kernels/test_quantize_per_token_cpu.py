"""Codes and scales have the reference's bits: both do the same IEEE operations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saffron_kernels.quantize_per_token import (
    quantize_per_token,
    quantize_per_token_fp8,
    quantize_per_token_fp8_reference,
    quantize_per_token_reference,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def same(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a.view(torch.uint8), b.view(torch.uint8))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 300), st.sampled_from(DTYPES), st.floats(1e-6, 1e4), st.integers(0, 2**32 - 1))
def test_any_shape(tokens, columns, dtype, size, seed):
    x = (torch.randn(tokens, columns, generator=torch.Generator().manual_seed(seed)) * size).to(dtype)
    before = x.clone()
    same(quantize_per_token(x), quantize_per_token_reference(x))
    same(quantize_per_token_fp8(x), quantize_per_token_fp8_reference(x))
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tokens_that_do_not_lie_side_by_side(dtype):
    x = torch.randn(130, 7, generator=torch.Generator().manual_seed(0)).to(dtype).T
    same(quantize_per_token(x), quantize_per_token_reference(x))


def test_a_token_of_zeros_and_one_of_the_smallest_numbers():
    x = torch.zeros(2, 40)
    x[1, ::2] = 1e-44
    same(quantize_per_token(x), quantize_per_token_reference(x))


def test_every_bfloat16_has_the_code_of_a_division_beside_every_largest_number():
    positive = torch.arange(1, 0x7F80, dtype=torch.int32)  # all that are finite, by their bits
    below = torch.arange(2048, dtype=torch.int32)  # 16 binades: what is smaller has the code 0
    signs = (below % 2) << 15
    for largest in positive.split(2048):
        bits = (largest[:, None] - below).clamp_min(0) | signs
        x = bits.to(torch.uint16).view(torch.bfloat16)
        same(quantize_per_token(x), quantize_per_token_reference(x))


def test_every_bfloat16_becomes_the_fp8_of_torch():
    every = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    x, scale = every[every.isfinite()][None], torch.ones(1)
    same(quantize_per_token_fp8(x, scale), quantize_per_token_fp8_reference(x, scale))


def test_what_lies_between_two_fp8_numbers_is_rounded_to_the_even_one():
    # From 2^-10, half the smallest number, to beyond the largest, at and beside the middle of neighbours.
    codes = torch.arange(0x7F, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    middles = (codes[1:] + codes[:-1]) / 2
    beside = torch.nextafter(middles, torch.tensor(0.0)), torch.nextafter(middles, torch.tensor(1e3))
    x = torch.cat([middles, *beside, -middles, torch.tensor([463.9, 464.0, 465.0, 1e30])])[None]
    same(quantize_per_token_fp8(x, torch.ones(1)), quantize_per_token_fp8_reference(x, torch.ones(1)))


def test_not_a_number_stays_one():
    x = torch.tensor([[1.0, float("nan"), -2.0]])
    codes, _ = quantize_per_token_fp8(x, torch.ones(1))
    assert codes.float().isnan().tolist() == [[False, True, False]]
