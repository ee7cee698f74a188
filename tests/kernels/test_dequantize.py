"""Reference, CPU and Triton kernel unpack what was packed, and give the weights that engines compute with."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saffron_kernels.dequantize import _dequantize, _unpack, dequantize, dequantize_reference, unpack, unpack_reference
from saffron_kernels.quantize_pack import FP8, Layout, pack_reference

FITTING = [(layout, bits) for layout in Layout for bits in (4, 8) if (layout, bits) != (Layout.AUTOAWQ, 8)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def problem(rows, columns, groups, bits, *, symmetric, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    largest = 1 << (bits - 1)
    codes, zero = (
        torch.randint(-largest, largest, (rows, each), generator=generator, dtype=torch.int8)
        for each in (columns, groups)
    )
    scale = torch.rand(rows, groups, generator=generator).add(0.01).to(dtype)
    return codes, scale, None if symmetric else zero


def in_triton(packed, scale, zero, shape, bits, layout):  # noqa: PLR0917 - the launch's arguments in its order
    """Weights, or without scales codes, by the Triton kernel, in the interpreter."""
    from saffron_kernels.dequantize_triton import dequantize_launch  # noqa: PLC0415 - only what tests it needs it

    Y = torch.full(shape, 77, dtype=torch.int8 if scale is None else scale.dtype)
    dequantize_launch(packed, scale, zero, Y, bits, layout).run()
    return Y


@settings(deadline=None, max_examples=60)
@given(
    fitting=st.sampled_from(FITTING),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 9)),
    symmetric=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_was_packed_comes_out(*, fitting, shape, symmetric, dtype, seed):
    layout, bits = fitting
    rows, groups, size = shape
    rows *= 8 if layout is Layout.AUTOAWQ else 1
    size *= 8 if layout is Layout.GPTQ else 1
    columns = groups * size
    codes, scale, zero = problem(rows, columns, groups, bits, symmetric=symmetric, dtype=dtype, seed=seed)
    packed = pack_reference(codes, bits, layout)
    assert torch.equal(unpack(packed, (rows, columns), bits, layout), codes)
    assert torch.equal(unpack_reference(packed, (rows, columns), bits, layout), codes)
    expected = dequantize_reference(packed, scale, zero, columns, bits=bits, layout=layout)
    assert expected.dtype == dtype
    assert torch.equal(dequantize(packed, scale, zero, columns, bits=bits, layout=layout), expected)
    assert torch.equal(in_triton(packed, scale, zero, (rows, columns), bits, layout), expected)


def test_a_weight_is_its_code_less_the_zero_point_times_the_scale():
    codes = torch.tensor([[-8, 7, 0, 3]], dtype=torch.int8)
    scale, zero = torch.tensor([[0.5, 0.25]]), torch.tensor([[-8, 2]], dtype=torch.int8)
    assert dequantize(codes, scale, zero, 4).tolist() == [[0.0, 7.5, -0.5, 0.25]]
    assert dequantize(codes, scale, None, 4).tolist() == [[-4.0, 3.5, 0.0, 0.75]]


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "with zero points"])
@pytest.mark.parametrize(("layout", "bits"), FITTING)
def test_the_triton_kernel_gives_the_references_weights(layout, bits, symmetric):
    shape = (40, 18) if layout is Layout.AUTOAWQ else (5, 48) if layout is Layout.GPTQ else (5, 54)
    for number, dtype in enumerate(DTYPES):
        codes, scale, zero = problem(*shape, 3 if number else 1, bits, symmetric=symmetric, dtype=dtype)
        packed = pack_reference(codes, bits, layout)
        expected = dequantize_reference(packed, scale, zero, shape[1], bits=bits, layout=layout)
        assert torch.equal(in_triton(packed, scale, zero, shape, bits, layout), expected)
    assert torch.equal(in_triton(packed, None, None, shape, bits, layout), codes)


@pytest.mark.parametrize("layout", list(Layout))
def test_scales_and_zero_points_may_lie_in_any_order(layout):
    # As `torch.where` leaves them when what it asks lies column by column.
    codes, scale, zero = problem(8, 48, 3, 4, symmetric=False)
    packed = pack_reference(codes, 4, layout)
    expected = dequantize_reference(packed, scale, zero, 48, bits=4, layout=layout)
    turned, every_other = scale.T.contiguous().T, torch.stack([zero, zero], dim=2)[:, :, 0]
    assert torch.equal(dequantize(packed, turned, every_other, 48, bits=4, layout=layout), expected)
    assert torch.equal(in_triton(packed, turned, every_other, (8, 48), 4, layout), expected)


def test_more_words_than_one_program_unpacks():
    codes, scale, _ = problem(9, 1056, 33, 4, symmetric=True)
    packed = pack_reference(codes, 4, Layout.COMPRESSED_TENSORS)
    expected = dequantize_reference(codes, scale, None, 1056)
    assert torch.equal(in_triton(packed, scale, None, (9, 1056), 4, Layout.COMPRESSED_TENSORS), expected)


def test_every_fp8_number_is_the_number_that_torch_makes_of_it():
    bits = torch.arange(256, dtype=torch.uint8)[None]
    scale = torch.ones(1, 1)
    expected = dequantize_reference(bits.view(FP8), scale, None, 256)
    assert torch.equal(expected.nan_to_num(-1000), bits.view(FP8).float().nan_to_num(-1000))
    for found in (
        dequantize(bits.view(FP8), scale, None, 256),
        in_triton(bits, scale, None, (1, 256), 8, Layout.CODES),
    ):
        assert torch.equal(found.nan_to_num(-1000), expected.nan_to_num(-1000))


def test_words_of_another_shape_are_refused():
    with pytest.raises(
        ValueError, match=r"codes \(2, 40\) are \(2, 5\) in the layout compressed-tensors, not \(2, 6\)"
    ):
        unpack(torch.zeros(2, 6, dtype=torch.int32), (2, 40), 4, Layout.COMPRESSED_TENSORS)


CODES, SCALE = torch.zeros(4, 12, dtype=torch.int8), torch.ones(4, 3)


@pytest.mark.parametrize(
    ("given_too", "words"),
    [
        ((CODES.int(), SCALE, None), r"in the layout codes they are torch.int8, torch.float8_e4m3fn, not torch.int32"),
        ((CODES, torch.ones(4, 5), None), r"scales \(4, 5\) are not those of groups of \(4, 12\)"),
        (
            (CODES, SCALE, torch.zeros(4, 1, dtype=torch.int8)),
            r"zero points torch.int8 \(4, 1\) beside scales \(4, 3\)",
        ),
    ],
)
def test_what_does_not_fit_the_codes_is_refused(given_too, words):
    with pytest.raises(ValueError, match=words):
        dequantize(*given_too, 12)


def test_words_of_another_type_are_refused():
    with pytest.raises(ValueError, match=r"in the layout gptq they are torch.int32, not torch.int64"):
        unpack(torch.zeros(1, 4, dtype=torch.int64), (4, 8), 4, Layout.GPTQ)


@pytest.mark.parametrize("layout", list(Layout))
def test_of_no_rows_there_is_nothing(layout):
    codes, scale, zero = problem(0, 16, 2, 4, symmetric=False)
    packed = pack_reference(codes, 4, layout)
    assert unpack(packed, (0, 16), 4, layout).shape == (0, 16)
    assert dequantize(packed, scale, zero, 16, bits=4, layout=layout).shape == (0, 16)
    assert dequantize_reference(packed, scale, zero, 16, bits=4, layout=layout).shape == (0, 16)


def test_the_operators_are_registered_as_torch_wants_them():
    codes, scale, zero = problem(8, 16, 2, 4, symmetric=False)
    packed = pack_reference(codes, 4, Layout.AUTOAWQ)
    torch.library.opcheck(_unpack, (packed, 8, 16, 4, "autoawq"))
    torch.library.opcheck(_dequantize, (packed, scale, zero, 16, 4, "autoawq"))
