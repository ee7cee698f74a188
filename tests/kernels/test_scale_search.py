"""Reference, compiled loop and Triton kernel find the same scales, bit by bit, and those are the best of their grid."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saffron_kernels.scale_search import EXPONENTS, scale_search, scale_search_reference

FACTORS = (1.0, 0.9, 0.8, 0.7, 1.1, 0.75, 0.85, 0.95, 1.05)
"""More than a program takes side by side, and not in order."""


def weights(rows, columns, seed=0, dtype=torch.float32):
    """Rows of very different sizes, the last of them 0."""
    W = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 4.0 ** -torch.arange(rows)[:, None]
    W[rows - 1] *= rows == 1
    return W.to(dtype)


def importance_of(columns, seed=1):
    return torch.rand(columns, generator=torch.Generator().manual_seed(seed)).square()


def in_triton(W, factors, importance, *, bits, group_size, scale_dtype, symmetric, exponent):
    """Scales and zero points by the Triton kernel, in the interpreter."""
    from saffron_kernels.scale_search_triton import scale_search_launch  # noqa: PLC0415 - only what tests it needs it

    scale = torch.full((len(W), W.shape[1] // (group_size or W.shape[1])), torch.nan, dtype=scale_dtype)
    zero = torch.full(scale.shape, 99, dtype=torch.int8)
    scale_search_launch(
        W, torch.tensor(factors), importance, scale, zero, bits=bits, symmetric=symmetric, exponent=exponent
    ).run()
    return scale, None if symmetric else zero


def assert_equal(found, expected):
    assert torch.equal(found[0], expected[0])
    assert found[0].dtype == expected[0].dtype
    assert (found[1] is None) == (expected[1] is None)
    if expected[1] is not None:
        assert torch.equal(found[1], expected[1])
        assert found[1].dtype == expected[1].dtype


@st.composite
def searches(draw, most_rows, most_columns):
    """Weights, their importance, and what a search is told besides."""
    rows, groups, size = (draw(st.integers(1, most)) for most in (most_rows, 4, most_columns // 4))
    dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
    W = weights(rows, groups * size, draw(st.integers(0, 2**32 - 1)), draw(dtypes))
    told = {"bits": draw(st.sampled_from([4, 8])), "group_size": draw(st.sampled_from([None, size]))}
    told |= {
        "scale_dtype": draw(dtypes),
        "symmetric": draw(st.booleans()),
        "exponent": draw(st.sampled_from(EXPONENTS)),
    }
    return W, importance_of(groups * size) if draw(st.booleans()) else None, told


@settings(deadline=None, max_examples=40)
@given(searches(most_rows=70, most_columns=148))
def test_the_compiled_loop_finds_the_references_scales(search):
    W, importance, told = search
    before = W.clone()
    found = scale_search(W, FACTORS, importance, **told)
    assert_equal(found, scale_search_reference(W, FACTORS, importance, **told))
    assert torch.equal(W, before)


@settings(deadline=None, max_examples=15)  # a launch in the interpreter takes 0.1 s
@given(searches(most_rows=5, most_columns=60))
def test_the_triton_kernel_finds_the_references_scales_of_any_shape(search):
    W, importance, told = search
    assert_equal(in_triton(W, FACTORS, importance, **told), scale_search_reference(W, FACTORS, importance, **told))


@pytest.mark.parametrize("columns", [256, 300], ids=["whole chunks", "and a part of one"])
def test_long_groups_are_summed_in_chunks(columns):
    W, importance = weights(3, columns), importance_of(columns)
    given_too = {"bits": 4, "group_size": None, "scale_dtype": torch.float32}
    assert_equal(
        scale_search(W, FACTORS, importance, **given_too), scale_search_reference(W, FACTORS, importance, **given_too)
    )


TRITON = [
    # rows, columns, group size, bits, type of the weights, of the scales, symmetric, weighed, exponent
    (3, 32, 16, 4, torch.bfloat16, torch.bfloat16, True, True, 2.0),
    (5, 14, 7, 4, torch.float32, torch.bfloat16, False, False, 2.0),
    (9, 10, 5, 4, torch.float16, torch.float16, False, True, 4.0),
    (2, 35, None, 8, torch.float32, torch.float32, True, False, 2.5),
    (1, 131, None, 4, torch.bfloat16, torch.float16, False, True, 2.0),
]


@pytest.mark.parametrize(
    ("rows", "columns", "size", "bits", "dtype", "scale_dtype", "symmetric", "weighed", "exponent"), TRITON
)
def test_the_triton_kernel_finds_the_references_scales(  # noqa: PLR0917 - columns of a table
    rows, columns, size, bits, dtype, scale_dtype, symmetric, weighed, exponent
):
    W, importance = weights(rows, columns, dtype=dtype), importance_of(columns) if weighed else None
    given_too = {"bits": bits, "group_size": size, "scale_dtype": scale_dtype}
    given_too |= {"symmetric": symmetric, "exponent": exponent}
    factors = FACTORS if columns < 100 else FACTORS[:3]
    expected = scale_search_reference(W, factors, importance, **given_too)
    assert_equal(in_triton(W, factors, importance, **given_too), expected)
    turned = W.T.contiguous().T
    assert_equal(in_triton(turned, factors, importance, **given_too), expected)


def test_a_factor_that_is_not_given_is_not_taken_though_it_is_better():
    W, given_too = weights(3, 32), {"bits": 4, "group_size": 16, "scale_dtype": torch.float32}
    expected = scale_search_reference(W, (0.3, 0.4), **given_too)
    assert_equal(scale_search(W, (0.3, 0.4), **given_too), expected)
    assert_equal(in_triton(W, (0.3, 0.4), None, **given_too, symmetric=True, exponent=2.0), expected)


def test_importance_may_have_gaps():
    W, importance = weights(3, 32), torch.stack([importance_of(32), torch.ones(32)], dim=1)[:, 0]
    given_too = {"bits": 4, "group_size": 16, "scale_dtype": torch.float32, "symmetric": True, "exponent": 2.0}
    expected = scale_search_reference(W, FACTORS, importance, **given_too)
    assert_equal(scale_search(W, FACTORS, importance, **given_too), expected)
    assert_equal(in_triton(W, FACTORS, importance, **given_too), expected)


def test_programs_for_many_groups_find_the_same_scales():
    from saffron_kernels.scale_search_triton import scale_search_launch  # noqa: PLC0415 - only what tests it needs it

    W = weights(7, 40)
    scale, zero = torch.full((7, 5), torch.nan), torch.full((7, 5), 99, dtype=torch.int8)
    launch = scale_search_launch(W, torch.tensor(FACTORS), None, scale, zero, bits=4, symmetric=False, exponent=2.0)
    # What is launched where there are more groups than a test could go through.
    dataclasses.replace(launch, grid=(2,), arguments={**launch.arguments, "GROUPS": 32}).run()
    expected = scale_search_reference(W, FACTORS, bits=4, group_size=8, scale_dtype=torch.float32, symmetric=False)
    assert_equal((scale, zero), expected)


def slow_error(w, importance, factor, *, symmetric, exponent):
    """The error of one group with one factor, from its definition, in Python's numbers."""
    low, high = (-max(map(abs, w)), max(map(abs, w))) if symmetric else (min(*w, 0.0), max(*w, 0.0))
    scale = (high - low) / 15 * factor
    zero = 0 if symmetric else min(max(round(-8 - low * factor / scale), -8), 7)
    codes = [min(max(round(each / scale) + zero, -8), 7) for each in w]
    errors = (abs((code - zero) * scale - each) for code, each in zip(codes, w, strict=True))
    return scale, zero, math.fsum(part * error**exponent for part, error in zip(importance, errors, strict=True))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("exponent", EXPONENTS)
def test_the_reference_is_the_definition(exponent, symmetric):
    W, importance = weights(4, 24, seed=3)[:3], importance_of(24)
    found = scale_search_reference(
        W, FACTORS, importance, bits=4, group_size=8, scale_dtype=torch.float32, symmetric=symmetric, exponent=exponent
    )
    for row in range(3):
        for group in range(3):
            part = slice(group * 8, group * 8 + 8)
            tried = [
                slow_error(
                    W[row, part].tolist(), importance[part].tolist(), factor, symmetric=symmetric, exponent=exponent
                )
                for factor in FACTORS
            ]
            scale, zero, _ = min(tried, key=lambda each: each[2])
            assert float(found.scale[row, group]) == pytest.approx(scale, rel=1e-6)
            assert symmetric or int(found.zero[row, group]) == zero


def test_of_equal_errors_the_first_factor_wins():
    W = weights(3, 32, seed=2)[:2]
    given_too = {"bits": 4, "group_size": 16, "scale_dtype": torch.float32}
    dead = torch.zeros(32)
    for search in (scale_search, scale_search_reference, in_triton):
        extra = {"symmetric": True, "exponent": 2.0} if search is in_triton else {}
        found = search(W, (0.9, 1.0), dead, **given_too, **extra)[0]
        assert torch.equal(found, scale_search_reference(W, (0.9,), **given_too).scale)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")  # the interpreter's numpy
def test_a_scale_that_overflows_its_type_is_not_taken_where_another_does_not():
    W = torch.full((1, 16), 65504.0 * 7.5 * 1.05)
    given_too = {"bits": 4, "group_size": None, "scale_dtype": torch.float16}
    for search in (scale_search, scale_search_reference, in_triton):
        extra = {"symmetric": True, "exponent": 2.0} if search is in_triton else {}
        assert search(W, (1.0, 0.9), None, **given_too, **extra)[0].isfinite().all()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(threads):
    # So many rows that each thread has its share of the work.
    W, before = weights(9, 64).repeat(4000, 1), torch.get_num_threads()
    given_too = {"bits": 4, "group_size": 32, "scale_dtype": torch.bfloat16, "symmetric": False}
    torch.set_num_threads(threads)
    try:
        assert_equal(scale_search(W, FACTORS, **given_too), scale_search_reference(W, FACTORS, **given_too))
    finally:
        torch.set_num_threads(before)


def test_what_can_not_be_searched_is_refused():
    with pytest.raises(ValueError, match="groups of 32 do not divide 48 columns"):
        scale_search(torch.ones(2, 48), (1.0,), bits=4, group_size=32, scale_dtype=torch.float32)
    with pytest.raises(ValueError, match=r"an exponent of 2\.4 is none of"):
        scale_search(torch.ones(2, 48), (1.0,), bits=4, group_size=None, scale_dtype=torch.float32, exponent=2.4)
    with pytest.raises(ValueError, match="groups of 0 do not divide 48 columns"):
        scale_search(torch.ones(2, 48), (1.0,), bits=4, group_size=0, scale_dtype=torch.float32)
    with pytest.raises(ValueError, match="no factor is given"):
        scale_search(torch.ones(2, 48), (), bits=4, group_size=16, scale_dtype=torch.float32)
    for importance in (torch.ones(47), torch.ones(48, dtype=torch.float64), torch.ones(1, 48)):
        with pytest.raises(ValueError, match=r"importance is torch.float32 \(48,\), not torch.float"):
            scale_search(torch.ones(2, 48), (1.0,), importance, bits=4, group_size=16, scale_dtype=torch.float32)


def test_of_no_rows_there_is_nothing():
    for search in (scale_search, scale_search_reference):
        scale, zero = search(
            torch.ones(0, 48), (1.0,), bits=4, group_size=16, scale_dtype=torch.bfloat16, symmetric=False
        )
        assert (scale.dtype, scale.shape, zero.dtype, zero.shape) == (torch.bfloat16, (0, 3), torch.int8, (0, 3))


def test_the_operator_is_registered_as_torch_wants_it():
    from saffron_kernels.scale_search import _scale_search  # noqa: PLC0415 - a part that only this test looks at

    arguments = (weights(4, 32), [1.0, 0.9], importance_of(32), 4, 16, torch.bfloat16, False, 2.0)
    torch.library.opcheck(_scale_search, arguments)
