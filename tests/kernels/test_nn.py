"""Linear layers from the tensors of a checkpoint, each against its sum written out, number by number."""

import copy
import io
import itertools

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from hypothesis import given, settings
from hypothesis import strategies as st

from saffron_kernels.nn import Fp8Linear, Int8Linear, StaticFp8Linear, W4A16Linear, W8A16Linear

FP8_CODES = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
FP8_NUMBERS = [number for number in FP8_CODES.tolist() if number == number]  # noqa: PLR0124 - but for NaN


def filled(layer, **tensors):
    """A layer with its tensors, as a checkpoint is loaded."""
    layer.load_state_dict({name: tensor for name, tensor in tensors.items() if tensor is not None}, assign=True)
    return layer


def nearest_fp8(x):
    """The nearest number, by search; no test hits the middle of two."""
    return min(FP8_NUMBERS, key=lambda number: abs(number - x))


def written_out(x, rounded, weight, scale, bias):
    """Σ_k code[k] · weight[n, k] · step · scale[n] + bias[n], in Python floats; `rounded` gives codes and step."""
    y = torch.empty(*x.shape[:-1], len(weight))
    for place in itertools.product(*map(range, x.shape[:-1])):
        codes, step = rounded(x[place].tolist())
        for row, numbers in enumerate(weight.float().tolist()):
            product = sum(a * b for a, b in zip(codes, numbers, strict=True))
            y[*place, row] = product * step * scale[row].item() + (0.0 if bias is None else bias[row].item())
    return y


@pytest.mark.parametrize("has_bias", [True, False])
def test_w8a8_is_the_integer_product_times_both_scales(has_bias):
    torch.manual_seed(0)
    weight, scale = torch.randint(-128, 128, (7, 33), dtype=torch.int8), torch.rand(7, 1)
    bias = torch.randn(7) if has_bias else None
    layer = filled(Int8Linear(33, 7, bias=has_bias), weight=weight, weight_scale=scale, bias=bias)

    def rounded(token):
        step = max(map(abs, token)) / 127
        return [round(value / step) for value in token], step

    x = torch.randn(2, 5, 33)
    torch.testing.assert_close(layer(x), written_out(x, rounded, weight, scale, bias))


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("kind", [Fp8Linear, StaticFp8Linear])
def test_fp8_is_the_product_of_rounded_numbers_times_both_scales(kind, has_bias):
    torch.manual_seed(0)
    weight, scale = (torch.randn(5, 9) * 100).to(torch.float8_e4m3fn), torch.rand(5, 1)
    bias = torch.randn(5) if has_bias else None
    # A quarter of what the tokens reach, so that some saturate.
    static = torch.tensor([0.25 * 2 / 448]) if kind is StaticFp8Linear else None
    layer = filled(kind(9, 5, bias=has_bias), weight=weight, weight_scale=scale, bias=bias, input_scale=static)

    def rounded(token):
        step = max(map(abs, token)) / 448 if static is None else static.item()
        return [nearest_fp8(value / step) for value in token], step

    x = torch.randn(2, 3, 9)
    torch.testing.assert_close(layer(x), written_out(x, rounded, weight, scale, bias))


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("is_symmetric", [True, False])
@pytest.mark.parametrize(("rows", "columns", "group_size"), [(7, 96, 32), (8, 64, 64), (1, 128, 128), (13, 48, 16)])
def test_w4a16_is_the_product_with_what_its_codes_mean(rows, columns, group_size, is_symmetric, has_bias):
    torch.manual_seed(0)
    groups = columns // group_size
    codes, scale = torch.randint(-8, 8, (rows, columns), dtype=torch.int8), torch.rand(rows, groups)
    zero = None if is_symmetric else torch.randint(-8, 8, (rows, groups), dtype=torch.int8)
    bias = torch.randn(rows) if has_bias else None
    packed_zero = None if zero is None else pack_to_int32(zero, 4, packed_dim=0)
    layer = W4A16Linear(pack_to_int32(codes, 4), scale, packed_zero, columns, bias=has_bias)
    x = torch.randn(2, 3, columns)
    meant = codes.double() - (0 if zero is None else zero.repeat_interleave(group_size, dim=1))
    expected = x.double() @ (meant * scale.repeat_interleave(group_size, dim=1)).T
    if bias is not None:
        filled(layer, bias=bias)
        expected += bias
    # Sums of up to 128 terms of up to 20 in float32.
    torch.testing.assert_close(layer(x), expected.float(), rtol=1e-5, atol=1e-4)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 20), st.integers(1, 12), st.booleans(), st.integers(0, 2**32 - 1))
def test_w8a16_is_the_product_with_what_its_codes_mean(rows, sixteens, has_bias, seed):
    generator = torch.Generator().manual_seed(seed)
    columns = 16 * sixteens
    codes = torch.randint(-128, 128, (rows, columns), generator=generator, dtype=torch.int8)
    scale, bias = torch.rand(rows, 1, generator=generator), torch.randn(rows, generator=generator)
    layer = W8A16Linear(pack_to_int32(codes, 8), scale, columns, bias=has_bias)
    filled(layer, bias=bias if has_bias else None)
    x = torch.randn(3, columns, generator=generator)
    expected = x.double() @ (codes * scale).double().T + (bias if has_bias else 0)
    # Sums of up to 192 terms of up to 500 in float32, of two parts of which the larger is sixteen times the result.
    torch.testing.assert_close(layer(x), expected.float(), rtol=1e-5, atol=2e-3)


def test_w8a16_refuses_columns_that_its_groups_do_not_divide():
    with pytest.raises(ValueError, match="16 does not divide the 24 columns"):
        W8A16Linear(torch.zeros(2, 6, dtype=torch.int32), torch.ones(2, 1), 24, bias=False)


def test_a_layer_of_4_bits_counts_what_it_holds_and_goes_where_it_is_sent():
    codes, scale = torch.randint(-8, 8, (6, 32), dtype=torch.int8), torch.rand(6, 2) + 1
    layer, x = W4A16Linear(pack_to_int32(codes, 4), scale, None, 32, bias=False), torch.randn(1, 32)
    # Whole blocks of 128 columns for whole fours of rows, and scales in float32.
    assert {name: tensor.nbytes for name, tensor in layer.named_buffers()} == {"codes": 8 * 64, "scale": 6 * 2 * 4}
    assert layer.state_dict() == {}
    before = layer(x)
    layer.to(torch.bfloat16)  # 8 bits of scale
    assert layer.scale.dtype == torch.bfloat16
    assert not torch.equal(layer(x), before)
    torch.testing.assert_close(layer(x), before, rtol=0, atol=2.0**-7 * float(before.abs().max()))


def layers():
    torch.manual_seed(0)
    codes, scale = torch.randint(-8, 8, (6, 32), dtype=torch.int8), torch.rand(6, 1)
    fp8 = codes.to(torch.float8_e4m3fn)
    yield W4A16Linear(pack_to_int32(codes, 4), scale, None, 32, bias=False)
    yield W8A16Linear(pack_to_int32(codes, 8), scale, 32, bias=False)
    yield filled(Int8Linear(32, 6, bias=False), weight=codes, weight_scale=scale)
    yield filled(Fp8Linear(32, 6, bias=False), weight=fp8, weight_scale=scale)
    yield filled(StaticFp8Linear(32, 6, bias=False), weight=fp8, weight_scale=scale, input_scale=torch.ones(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layer", list(layers()), ids=lambda layer: type(layer).__name__)
def test_a_layer_gives_the_type_that_it_gets_changes_no_input_and_makes_zeros_of_zeros(layer, dtype):
    x = torch.randn(2, 3, 32).to(dtype)
    x[0, 1] = 0
    before = x.clone()
    y = layer(x)
    assert torch.equal(x, before)
    assert (y.dtype, y.shape) == (dtype, (2, 3, 6))
    assert y[0, 1].tolist() == [0.0] * 6
    # What stands beside a token does not matter but for the order of sums; its own step of rounding is the type's.
    torch.testing.assert_close(layer(x[1, 2:3])[0], y[1, 2], rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize("lead", [(0,), (2, 0), (0, 3)])
@pytest.mark.parametrize("layer", list(layers()), ids=lambda layer: type(layer).__name__)
def test_of_no_tokens_there_are_no_results(layer, lead):
    y = layer(torch.ones(*lead, 32, dtype=torch.bfloat16))
    assert (y.dtype, y.shape) == (torch.bfloat16, (*lead, 6))


@pytest.mark.parametrize("layer", list(layers()), ids=lambda layer: type(layer).__name__)
def test_copies_and_what_is_read_back_compute_the_same(layer):
    x = torch.randn(3, 32)
    before = layer(x)
    saved = io.BytesIO()
    torch.save(layer, saved)
    saved.seek(0)
    for other in (copy.deepcopy(layer), torch.load(saved, weights_only=False)):
        assert torch.equal(other(x), before)
