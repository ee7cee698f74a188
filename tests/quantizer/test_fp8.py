"""FP8 e4m3 against its definition, and the cache that keeps keys and values in it as engines do."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saffron_quantizer.algorithms.fp8 import LARGEST, fp8, fp8_scale, to_fp8
from saffron_quantizer.models.kv_cache import Fp8KvCache, RangeKvCache

# OCP 8-bit Floating Point Specification, table 1: E4M3 has bias 7, and S.1111.111 is its only NaN.
NUMBERS = sorted(
    {
        sign * ((mantissa / 8) * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))
        for sign, exponent, mantissa in itertools.product((1, -1), range(16), range(8))
        if (exponent, mantissa) != (15, 7)
    }
)


def value_of(byte):
    """What a code means, by the specification."""
    exponent, mantissa = byte >> 3 & 0xF, byte & 7
    if (exponent, mantissa) == (15, 7):
        return float("nan")
    size = (mantissa / 8) * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return -size if byte & 0x80 else size


def test_each_of_the_256_codes_means_what_the_specification_says():
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    torch.testing.assert_close(
        codes.float(), torch.tensor([value_of(byte) for byte in range(256)]), rtol=0, atol=0, equal_nan=True
    )
    assert (len(NUMBERS), NUMBERS[-1], LARGEST) == (253, 448.0, 448.0)


def test_each_number_is_its_own_nearest():
    numbers = torch.tensor(NUMBERS)
    assert torch.equal(to_fp8(numbers).float(), numbers)


def test_halfway_between_two_numbers_the_even_one_is_taken():
    numbers = torch.tensor(NUMBERS, dtype=torch.float64)
    middles = (numbers[1:] + numbers[:-1]) / 2
    codes = to_fp8(middles)
    assert bool((codes.view(torch.uint8) & 1 == 0).all())
    neighbours = torch.stack([numbers[1:], numbers[:-1]])
    assert bool((codes.double() == neighbours).any(dim=0).all())


@pytest.mark.parametrize("x", [449.0, 464.0, 465.0, 1e30, float("inf")])
def test_what_lies_beyond_the_largest_number_becomes_it(x):
    assert to_fp8(torch.tensor([x, -x])).float().tolist() == [448.0, -448.0]


@settings(deadline=None)
@given(st.lists(st.floats(-500, 500, width=32), min_size=1, max_size=20))
def test_nothing_is_nearer_than_what_is_taken(given):
    x = torch.tensor(given, dtype=torch.float64)
    error = (to_fp8(x.float()).double() - x).abs()
    least = (torch.tensor(NUMBERS, dtype=torch.float64)[:, None] - x).abs().amin(dim=0)
    assert torch.equal(error, least)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 7), st.integers(1, 37), st.integers(-30, 30), st.integers(0, 2**32 - 1))
def test_weights_lose_at_most_a_sixteenth_and_their_largest_nothing(rows, columns, power, seed):
    W = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 2.0**power
    before = W.clone()
    quantized = fp8(W)
    assert torch.equal(W, before)
    assert (quantized.codes.dtype, quantized.scale.dtype) == (torch.float8_e4m3fn, torch.float32)
    assert quantized.scale.shape == (rows, 1)
    # Half a step of 2^-3 of a normal number, and half the least step, 2^-9, of one that is too small to be normal; and
    # float32's own rounding of the scale and the products.
    bound = W.abs() * (2**-4 + 1e-6) + quantized.scale * 2**-10
    assert bool(((quantized.dequantize() - W).abs() <= bound).all())
    assert torch.equal(quantized.codes.float().abs().amax(dim=1), torch.full((rows,), LARGEST))


def test_a_row_of_zeros_stays_one():
    assert fp8(torch.zeros(2, 3)).dequantize().tolist() == [[0.0] * 3] * 2
    assert fp8_scale(torch.zeros(1)).item() > 0


def test_the_cache_gives_back_keys_and_values_rounded_in_their_scales():
    keys, values = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 4, 8) * 5
    k_scale, v_scale = torch.tensor([0.01]), torch.tensor([0.5])
    got = Fp8KvCache(k_scale, v_scale).update(keys, values, 0)
    assert torch.equal(got[0], to_fp8(keys * k_scale.reciprocal()).float() * k_scale)
    assert torch.equal(got[1], to_fp8(values * v_scale.reciprocal()).float() * v_scale)


def test_the_reach_of_keys_and_values_is_that_of_real_tokens():
    cache = RangeKvCache(torch.device("cpu"))
    cache.real = torch.tensor([[True, True, False], [True, False, False]])
    keys, values = torch.zeros(2, 1, 3, 2), torch.zeros(2, 1, 3, 2)
    keys[0, 0, 1, 1], keys[0, 0, 2, 0], values[1, 0, 0, 0], values[1, 0, 1, 1] = -3.0, 100.0, 2.0, 100.0
    assert cache.update(keys, values, 0) == (keys, values)
    cache.update(keys / 2, values / 2, 0)
    assert (cache.keys.item(), cache.values.item(), cache.updates) == (3.0, 2.0, 2)
