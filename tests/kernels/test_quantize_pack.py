"""Reference, compiled loops and Triton kernel give the same codes in the same words, and FP8 the same numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saffron_kernels.quantize_pack import (
    FP8,
    Layout,
    _pack,
    _quantize_fp8,
    _quantize_pack,
    pack,
    pack_reference,
    packed_shape,
    quantize_fp8,
    quantize_fp8_reference,
    quantize_pack,
    quantize_pack_reference,
)

FITTING = [(layout, bits) for layout in Layout for bits in (4, 8) if (layout, bits) != (Layout.AUTOAWQ, 8)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def problem(rows, columns, groups, *, symmetric, dtype=torch.float32, seed=0):
    """Weights of which some lie beyond all codes, scales and zero points."""
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(rows, columns, generator=generator).to(dtype)
    scale = torch.rand(rows, groups, generator=generator).mul(0.3).add(0.01).to(dtype)
    zero = None if symmetric else torch.randint(-8, 8, (rows, groups), generator=generator, dtype=torch.int8)
    return W, scale, zero


def in_triton(X, scale, zero, bits, layout):
    """Words by the Triton kernel, in the interpreter."""
    from saffron_kernels.quantize_pack_triton import quantize_pack_launch  # noqa: PLC0415 - only what tests it needs it

    dtype = torch.int8 if layout is Layout.CODES else torch.int32
    packed = torch.full(packed_shape(layout, bits, *X.shape), 77, dtype=dtype)
    quantize_pack_launch(X, scale, zero, packed, bits, layout).run()
    return packed


def nibbles(word):
    return [(word & 0xFFFFFFFF) >> (4 * place) & 0xF for place in range(8)]


def test_words_hold_the_codes_that_the_layouts_say():
    codes = (torch.arange(8 * 16) % 16 - 8).to(torch.int8).reshape(8, 16)
    codes[3] = codes[3].flip(0)
    along = pack_reference(codes, 4, Layout.COMPRESSED_TENSORS)
    assert [nibbles(word) for word in along[3].tolist()] == (codes[3] + 8).reshape(2, 8).tolist()
    assert torch.equal(pack_reference(codes, 4, Layout.GPTQ), along.T)
    across = pack_reference(codes, 4, Layout.AUTOAWQ)
    assert [nibbles(word) for word in across[:, 0].tolist()] == (codes[[0, 2, 4, 6, 1, 3, 5, 7]] + 8).T.tolist()
    octets = pack_reference(codes[:, :5], 8, Layout.COMPRESSED_TENSORS).view(torch.uint8)
    assert torch.equal(octets[:, :5], (codes[:, :5].int() + 128).to(torch.uint8))
    assert not octets[:, 5:].any()


@settings(deadline=None, max_examples=60)
@given(
    fitting=st.sampled_from(FITTING),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 9)),
    symmetric=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32 - 1),
)
def test_loops_and_the_triton_kernel_make_the_references_words_of_any_shape(*, fitting, shape, symmetric, dtype, seed):
    layout, bits = fitting
    rows, groups, size = shape
    rows *= 8 if layout is Layout.AUTOAWQ else 1
    size *= 8 if layout is Layout.GPTQ else 1
    W, scale, zero = problem(rows, groups * size, groups, symmetric=symmetric, dtype=dtype, seed=seed)
    before = W.clone()
    expected = quantize_pack_reference(W, scale, zero, bits, layout)
    words = quantize_pack(W, scale, zero, bits, layout)
    assert words.dtype == expected.dtype
    assert words.is_contiguous()
    assert torch.equal(words, expected)
    assert torch.equal(pack(quantize_pack(W, scale, zero, bits), bits, layout), expected)
    assert torch.equal(in_triton(W, scale, zero, bits, layout), expected)
    assert torch.equal(W, before)


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "with zero points"])
@pytest.mark.parametrize(("layout", "bits"), FITTING)
def test_the_triton_kernel_makes_the_references_words(layout, bits, symmetric):
    rows, columns, groups = (
        (40, 18, 3) if layout is Layout.AUTOAWQ else (5, 48, 3) if layout is Layout.GPTQ else (5, 54, 3)
    )
    for number, dtype in enumerate(DTYPES):
        W, scale, zero = problem(rows, columns, groups if number else 1, symmetric=symmetric, dtype=dtype)
        expected = quantize_pack_reference(W, scale, zero, bits, layout)
        assert torch.equal(in_triton(W, scale, zero, bits, layout), expected)
    codes = quantize_pack_reference(W, scale, zero, bits)
    assert torch.equal(in_triton(codes.T.contiguous().T, None, None, bits, layout), expected)


@pytest.mark.parametrize("layout", list(Layout))
def test_scales_and_zero_points_may_lie_in_any_order(layout):
    W, scale, zero = problem(8, 48, 3, symmetric=False)
    expected = quantize_pack_reference(W, scale, zero, 4, layout)
    turned, every_other = scale.T.contiguous().T, torch.stack([zero, zero], dim=2)[:, :, 0]
    assert torch.equal(quantize_pack(W, turned, every_other, 4, layout), expected)
    assert torch.equal(in_triton(W, turned, every_other, 4, layout), expected)


def test_more_words_than_one_program_makes():
    W, scale, zero = problem(9, 1056, 33, symmetric=False)
    for layout in (Layout.CODES, Layout.COMPRESSED_TENSORS):
        assert torch.equal(in_triton(W, scale, zero, 4, layout), quantize_pack_reference(W, scale, zero, 4, layout))


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_changes_no_word(threads):
    # So many rows that each thread has its share of the work.
    W, scale, zero = problem(32768, 96, 3, symmetric=False)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        words = quantize_pack(W, scale, zero, 4, Layout.AUTOAWQ)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(words, quantize_pack_reference(W, scale, zero, 4, Layout.AUTOAWQ))


def test_codes_are_the_nearest_and_halves_are_even():
    W = torch.tensor([[-9.0, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 9.0]]) * 0.25
    scale, zero = torch.full((1, 1), 0.25), torch.full((1, 1), 2, dtype=torch.int8)
    expected = [[-8, -2, -2, 0, 0, 2, 2, 7]]
    for quantized in (quantize_pack, quantize_pack_reference, lambda *given: in_triton(*given, Layout.CODES)):
        assert quantized(W, scale, None, 4).tolist() == expected
        assert quantized(W, scale, zero, 4).tolist() == [[-7, 0, 0, 2, 2, 4, 4, 7]]


def test_what_a_layout_can_not_hold_is_refused():
    codes = torch.zeros(4, 12, dtype=torch.int8)
    with pytest.raises(ValueError, match="12 columns do not fill words of 8 codes"):
        pack(codes, 4, Layout.GPTQ)
    with pytest.raises(ValueError, match="AutoAWQ's layout has words of 8 rows of 4-bit codes, not 4 rows of 4-bit"):
        pack(codes, 4, Layout.AUTOAWQ)
    with pytest.raises(ValueError, match="codes of 3 bits are not packed"):
        pack(codes, 3, Layout.COMPRESSED_TENSORS)


W, SCALE = torch.zeros(4, 12), torch.ones(4, 3)


@pytest.mark.parametrize(
    ("given_too", "words"),
    [
        ((W.double(), SCALE, None), r"weights are float32, bfloat16 or float16, not torch.float64"),
        ((W, SCALE[:2], None), r"scales \(2, 3\) are not those of groups of \(4, 12\)"),
        ((W, torch.ones(4, 5), None), r"scales \(4, 5\) are not those of groups of \(4, 12\)"),
        ((W, torch.ones(4, 0), None), r"scales \(4, 0\) are not those of groups of \(4, 12\)"),
        ((W, torch.ones(4), None), r"scales \(4,\) are not those of groups of \(4, 12\)"),
        ((W, SCALE, torch.zeros(4, 1, dtype=torch.int8)), r"zero points torch.int8 \(4, 1\) beside scales \(4, 3\)"),
        ((W, SCALE, torch.zeros(4, 3)), r"zero points torch.float32 \(4, 3\) beside scales \(4, 3\)"),
    ],
)
def test_scales_and_zero_points_that_do_not_fit_are_refused(given_too, words):
    with pytest.raises(ValueError, match=words):
        quantize_pack(*given_too, 4)


def test_codes_and_scales_of_another_kind_are_refused():
    with pytest.raises(ValueError, match=r"codes are int8, not torch\.int32"):
        pack(torch.zeros(4, 8, dtype=torch.int32), 4, Layout.COMPRESSED_TENSORS)
    with pytest.raises(ValueError, match=r"a scale a row is torch.float32 \(4, 1\), not torch.float32 \(1,\)"):
        quantize_fp8(W, torch.ones(1))


@pytest.mark.parametrize("layout", list(Layout))
def test_of_no_rows_there_is_nothing(layout):
    W, scale, zero = problem(0, 16, 2, symmetric=False)
    shape = packed_shape(layout, 4, 0, 16)
    assert quantize_pack(W, scale, zero, 4, layout).shape == shape
    assert quantize_pack_reference(W, scale, zero, 4, layout).shape == shape


def fp8_in_triton(W, scale):
    from saffron_kernels.quantize_pack_triton import quantize_fp8_launch  # noqa: PLC0415 - only what tests it needs it

    bits = torch.full(W.shape, 77, dtype=torch.uint8)
    quantize_fp8_launch(W, scale, bits).run()
    return bits


def test_every_fp8_number_and_all_that_lies_between_is_rounded_as_torch_rounds_it():
    numbers = torch.arange(256, dtype=torch.uint8).view(FP8).float()
    numbers = numbers[numbers.isfinite()].sort().values
    middles = (numbers[1:] + numbers[:-1]) / 2
    beside = torch.cat([middles.nextafter(torch.tensor(sign * torch.inf)) for sign in (-1.0, 1.0)])
    special = torch.tensor([torch.nan, torch.inf, -torch.inf, 449.0, -1e30, 1e-30, -0.0])
    W = torch.cat([numbers, middles, beside, special])[None]
    scale = torch.ones(1, 1)
    expected = quantize_fp8_reference(W, scale).view(torch.uint8)
    assert torch.equal(fp8_in_triton(W, scale), expected)
    assert torch.equal(quantize_fp8(W, scale).view(torch.uint8), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_fp8_codes_of_rows_in_their_scales(dtype):
    W, scale, _ = problem(3, 37, 1, symmetric=True, dtype=dtype)
    expected = quantize_fp8_reference(W, scale.float())
    assert torch.equal(expected.float(), (W.float() / scale.float()).to(FP8).float())
    assert torch.equal(fp8_in_triton(W, scale.float()), expected.view(torch.uint8))


def test_scales_of_fp8_rows_may_have_gaps():
    W, scale = problem(3, 37, 1, symmetric=True)[0], torch.tensor([[0.5, 9.0], [0.01, 9.0], [2.0, 9.0]])[:, :1]
    expected = quantize_fp8_reference(W, scale)
    assert torch.equal(fp8_in_triton(W, scale), expected.view(torch.uint8))
    assert torch.equal(quantize_fp8(W, scale).view(torch.uint8), expected.view(torch.uint8))


def test_the_operators_are_registered_as_torch_wants_them():
    W, scale, zero = problem(8, 16, 2, symmetric=False)
    torch.library.opcheck(_quantize_pack, (W, scale, zero, 4, "autoawq"))
    torch.library.opcheck(_pack, (quantize_pack(W, scale, zero, 4), 4, "codes"))
    # Torch compares no FP8 tensors, so the results of the tracer's own run are left out.
    torch.library.opcheck(_quantize_fp8, (W, scale[:, :1].contiguous()), test_utils=("test_schema", "test_faketensor"))
