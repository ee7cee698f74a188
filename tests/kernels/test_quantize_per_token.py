"""Codes and scales are IEEE operations in a fixed order, so every device's are equal bit by bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saffron_kernels import quantize_per_token_triton
from saffron_kernels.quantize_per_token import (
    quantize_per_token,
    quantize_per_token_fp8,
    quantize_per_token_fp8_reference,
    quantize_per_token_reference,
)

TYPES = [torch.float32, torch.float16, torch.bfloat16]
ON_EACH_DEVICE = pytest.mark.parametrize("device", ["cpu", "card"])
INT8 = {"cpu": quantize_per_token, "card": quantize_per_token_triton.quantize_per_token}
FP8 = {"cpu": quantize_per_token_fp8, "card": quantize_per_token_triton.quantize_per_token_fp8}


def equal(results, expected):
    """Bit by bit: FP8 has no comparison, and -0.0 is not 0.0."""
    return all(
        (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        and torch.equal(ours.flatten().view(torch.uint8), theirs.flatten().view(torch.uint8))
        for ours, theirs in zip(results, expected, strict=True)
    )


def tokens(rows, columns, dtype, seed=0):
    """Of very different magnitudes, from channel to channel and from token to token."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator) * torch.logspace(-3, 2, columns)
    return (x * torch.logspace(-2, 1, rows)[:, None]).to(dtype)


@ON_EACH_DEVICE
def test_a_worked_example_of_int8(device):
    """A scale of 254 / 127 = 2; halves of it go to the even code."""
    codes, scale = INT8[device](torch.tensor([[254.0, -3.0, 1.0, -254.0], [0.0, 0.0, 0.0, 0.0]]))
    assert codes.tolist() == [[127, -2, 0, -127], [0, 0, 0, 0]]
    assert scale.tolist() == [[2.0], [0.0]]


@ON_EACH_DEVICE
def test_a_worked_example_of_fp8(device):
    """A scale of 896 / 448 = 2: 33 becomes 16.5, which lies between 16 and 18."""
    codes, scale = FP8[device](torch.tensor([[896.0, -33.0, 0.5]]), None)
    assert codes.float().tolist() == [[448.0, -16.0, 0.25]]
    assert scale.tolist() == [[2.0]]


@ON_EACH_DEVICE
def test_a_scale_that_was_measured_before_saturates_what_is_larger(device):
    codes, scale = FP8[device](torch.tensor([[1000.0, 3.0], [-1000.0, 0.0]]), torch.tensor([2.0]))
    assert codes.float().tolist() == [[448.0, 1.5], [-448.0, 0.0]]
    assert scale.tolist() == [[2.0], [2.0]]


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 4), st.integers(1, 70), st.sampled_from(TYPES), st.integers(0, 2**32 - 1))
def test_every_device_gives_the_same_bits(rows, columns, dtype, seed):
    x = tokens(rows, columns, dtype, seed)
    before = x.clone()
    measured = x.abs().max().float().reshape(1) / 1000 + 1e-3
    for device in ("cpu", "card"):
        assert equal(INT8[device](x), quantize_per_token_reference(x))
        for scale in (None, measured):
            assert equal(FP8[device](x, scale), quantize_per_token_fp8_reference(x, scale))
    assert torch.equal(x, before)


def test_a_token_that_one_program_cannot_hold_is_read_twice(monkeypatch):
    monkeypatch.setattr(quantize_per_token_triton, "_BLOCK", 32)
    x = tokens(3, 75, torch.float16)
    assert equal(INT8["card"](x), quantize_per_token_reference(x))
    for scale in (None, torch.tensor([0.25])):
        assert equal(FP8["card"](x, scale), quantize_per_token_fp8_reference(x, scale))


def test_tokens_may_lie_apart_in_memory():
    x = tokens(6, 40, torch.float32)
    for strided in (x[::2], x[:, ::2], x.T):
        assert equal(INT8["card"](strided), quantize_per_token_reference(strided))
        assert equal(FP8["card"](strided, None), quantize_per_token_fp8_reference(strided))


def test_a_card_rounds_to_fp8_as_torch_does_all_numbers_of_half_precision_and_what_lies_beside_them():
    halves = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16).float()
    halves = halves[halves.isfinite()]
    beside = torch.stack([halves, halves * (1 + 2.0**-12), halves * (1 - 2.0**-12)])
    scale = torch.ones(1)
    assert equal(FP8["card"](beside, scale), quantize_per_token_fp8_reference(beside, scale))


@ON_EACH_DEVICE
@pytest.mark.filterwarnings(
    "ignore:invalid value encountered in cast:RuntimeWarning"
)  # NaN to int8, which says nothing
def test_what_is_not_a_number_shows_in_the_scale(device):
    x = torch.tensor([[1.0, float("nan"), 2.0], [1.0, 2.0, 3.0]])
    assert INT8[device](x)[1].isnan().tolist() == [[True], [False]]
    codes, scale = FP8[device](x, None)
    assert scale.isnan().tolist() == [[True], [False]]
    assert FP8[device](x, torch.ones(1))[0].float().isnan().tolist() == [[False, True, False], [False] * 3]
    assert codes[1].float().isfinite().all()


NAN, INFINITE = float("nan"), float("inf")
NO_NUMBERS = {
    "NaN in a scale that was measured before": ([NAN, -NAN, 3.0], 1.0, [NAN, NAN, 3.0], 1.0),
    "an infinite number in a scale that was measured before": (
        [INFINITE, -INFINITE, 3.0],
        1.0,
        [448.0, -448.0, 3.0],
        1.0,
    ),
    "NaN in its token's own scale": ([NAN, 2.0, 3.0], None, [NAN, NAN, NAN], NAN),
    "an infinite number in its token's own scale": ([-INFINITE, 2.0, 0.0], None, [NAN, 0.0, 0.0], INFINITE),
}


@ON_EACH_DEVICE
@pytest.mark.parametrize(("x", "given", "expected", "scale"), NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_fp8_of(device, x, given, expected, scale):
    measured = None if given is None else torch.tensor([given])
    for quantized in (FP8[device], quantize_per_token_fp8_reference):
        codes, scales = quantized(torch.tensor([x]), measured)
        for found, wanted in ((codes.float(), [expected]), (scales, [[scale]])):
            torch.testing.assert_close(found, torch.tensor(wanted), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("shape", [(0, 5), (1, 1)])
def test_no_token_and_no_channel_are_no_exception(shape):
    x = torch.ones(shape)
    for device in ("cpu", "card"):
        assert equal(INT8[device](x), quantize_per_token_reference(x))


@pytest.mark.parametrize("x", [torch.ones(3), torch.ones(1, 2, 3), torch.ones(2, 2, dtype=torch.float64)])
def test_what_is_no_matrix_of_activations_is_refused(x):
    for op in (quantize_per_token, quantize_per_token_fp8):
        with pytest.raises(ValueError, match="x must be a matrix of float32, float16 or bfloat16, not"):
            op(x)


@pytest.mark.parametrize("scale", [torch.ones(2), torch.ones(1, dtype=torch.float64)])
def test_a_scale_that_is_not_one_float32_is_refused(scale):
    with pytest.raises(ValueError, match="scale must be one float32, not"):
        quantize_per_token_fp8(torch.ones(2, 2), scale)


def test_torch_finds_nothing_wrong_with_the_ops():
    x = tokens(3, 8, torch.float32)
    torch.library.opcheck(torch.ops.saffron.quantize_per_token.default, (x,))
    for scale in (None, torch.ones(1)):
        torch.library.opcheck(torch.ops.saffron.quantize_per_token_fp8.default, (x, scale))
