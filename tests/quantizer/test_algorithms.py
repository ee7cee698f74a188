"""The algorithms against their definitions, written out slowly and in float64."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saffron_kernels.gptq_block import gptq_block
from saffron_kernels.hessian import hessian_finish
from saffron_quantizer.algorithms.gptq import DAMPINGS, Order, UnstableHessianError, factorize, gptq
from saffron_quantizer.algorithms.quantized import Grid
from saffron_quantizer.algorithms.rtn import rtn
from saffron_quantizer.algorithms.scales import (
    FOURTH_POWER,
    LEAST_SQUARES,
    MIN_MAX,
    Search,
    find_scales,
    round_to_codes,
)

SHAPES = [(1, 32, 32), (7, 64, 32), (5, 96, 96), (33, 384, 128), (3, 37, None), (2, 300, None)]


def weights(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def tokens(count, columns, seed=1):
    """Tokens with correlated channels of very different sizes, as real ones are."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator) * torch.logspace(-1, 1, columns)
    return torch.randn(count, columns, generator=generator) @ mix


def hessian(X):
    return hessian_finish((X.T @ X).float(), len(X))


def spread(per_group, columns):
    """A number of each group as one of each column."""
    return per_group.float().repeat_interleave(columns // per_group.shape[1], dim=1)


def dequantized(result):
    columns = result.codes.shape[1]
    zero = 0 if result.zero is None else spread(result.zero, columns)
    return (result.codes.float() - zero) * spread(result.scale, columns)


def output_errors(W, result, H):
    """E H Eᵀ of each row."""
    E = (W - dequantized(result)).double()
    return (E @ H.double() * E).sum(dim=1)


SYMMETRIC = pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "with zero points"])


@SYMMETRIC
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("rows", "columns", "group"), SHAPES)
def test_rtn_takes_the_nearest_code_of_each_weight(rows, columns, group, bits, symmetric):
    W = weights(rows, columns)
    before = W.clone()
    result = rtn(W, Grid(bits, group, torch.bfloat16, symmetric))
    every = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1))
    assert result.scale.shape == (rows, columns // (group or columns))
    assert (result.zero is None) == symmetric
    scale = spread(result.scale, columns)
    zero = torch.zeros_like(scale) if result.zero is None else spread(result.zero, columns)
    distance = (W[:, :, None] - (every - zero[:, :, None]) * scale[:, :, None]).abs()
    taken = distance.gather(2, (result.codes.long() + 2 ** (bits - 1))[:, :, None])[:, :, 0]
    torch.testing.assert_close(taken, distance.amin(dim=2), rtol=0, atol=1e-6)
    assert torch.equal(W, before)


@SYMMETRIC
@settings(deadline=None)
@given(
    rows=st.integers(1, 6),
    groups=st.integers(1, 5),
    size=st.sampled_from([32, 64]),
    seed=st.integers(0, 2**32 - 1),
    magnitude=st.floats(1e-30, 1e30),
    offset=st.floats(-5, 5),
)
def test_min_max_scales_clip_no_weight_by_more_than_half_a_step(
    *, symmetric, rows, groups, size, seed, magnitude, offset
):
    W = (weights(rows, groups * size, seed) + offset) * magnitude
    grid = Grid(4, size, torch.float32, symmetric)
    scales = find_scales(W, grid, MIN_MAX)
    codes = round_to_codes(W, scales, grid).float()
    zero = 0 if scales.zero is None else spread(scales.zero, W.shape[1])
    step = spread(scales.scale, W.shape[1])
    # Half a step around 0. A zero point is rounded, too, so a range may be shifted by half a step more. And a little
    # more for the float32 rounding of the scale and the quotient.
    assert ((W - (codes - zero) * step).abs() <= (0.5001 if symmetric else 1.0001) * step).all()


@SYMMETRIC
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_group_of_zeros_is_zero_and_has_a_scale_that_is_not(dtype, symmetric):
    result = rtn(torch.zeros(2, 64), Grid(4, 32, dtype, symmetric))
    assert not dequantized(result).any()
    assert (result.scale > 0).all()


def slow_scale(w, shrink, *, symmetric):
    """The scale and zero point of one group, from their definition."""
    low, high = (-w.abs().max(), w.abs().max()) if symmetric else (w.min().clamp(max=0), w.max().clamp(min=0))
    scale = (high - low) / 15 * shrink
    return scale, 0 if symmetric else torch.clamp(torch.round(-8 - low * shrink / scale), -8, 7)


@SYMMETRIC
@pytest.mark.parametrize("search", [LEAST_SQUARES, FOURTH_POWER], ids=["squares", "fourth powers"])
@pytest.mark.parametrize("weighed", [False, True], ids=["weights", "weights times activity"])
@pytest.mark.parametrize(("rows", "columns", "group"), SHAPES)
def test_the_scale_search_finds_the_least_error_of_its_grid(*, rows, columns, group, weighed, search, symmetric):
    W, size = weights(rows, columns), group or columns
    importance = weights(1, columns, seed=5)[0].square() if weighed else None
    found = find_scales(W, Grid(4, group, torch.float32, symmetric), replace(search, importance=importance))
    for row in range(rows):
        for number in range(columns // size):
            part = slice(number * size, (number + 1) * size)
            errors = []
            for shrink in search.factors:
                scale, zero = slow_scale(W[row, part], shrink, symmetric=symmetric)
                code = torch.clamp(torch.round(W[row, part] / scale) + zero, -8, 7)
                power = ((code - zero) * scale - W[row, part]) ** search.exponent
                errors.append(float((power * (1 if importance is None else importance[part])).sum()))
            best, zero = slow_scale(W[row, part], search.factors[errors.index(min(errors))], symmetric=symmetric)
            assert found.scale[row, number] == pytest.approx(float(best), rel=1e-6)
            assert symmetric or found.zero[row, number] == zero


def test_a_group_whose_inputs_are_all_dead_keeps_its_whole_range():
    W, grid = weights(3, 64), Grid(4, 32, torch.float32)
    found = find_scales(W, grid, Search(importance=torch.zeros(64)))
    assert torch.equal(found.scale, find_scales(W, grid, MIN_MAX).scale)


@SYMMETRIC
@pytest.mark.parametrize("search", [LEAST_SQUARES, FOURTH_POWER], ids=["squares", "fourth powers"])
def test_searched_scales_leave_less_error_than_min_max(search, symmetric):
    W, grid = weights(9, 256), Grid(4, 64, torch.bfloat16, symmetric)
    errors = (W - dequantized(rtn(W, grid, each)) for each in (search, MIN_MAX))
    searched, plain = (error.pow(search.exponent).sum(dim=1) for error in errors)
    assert (searched <= plain).all()
    assert searched.sum() < plain.sum()


def test_without_data_a_weight_far_above_all_others_is_hardly_clipped():
    W, grid = weights(9, 256), Grid(4, 64, torch.bfloat16)
    W[:, ::64] = 12
    # The largest code, 7, is half a step below the largest weight already without any search: 12 / 15 is a 15th of it.
    assert ((W - dequantized(rtn(W, grid)))[:, ::64] <= 0.1 * 12).all()
    assert ((W - dequantized(rtn(W, grid, LEAST_SQUARES)))[:, ::64] > 0.1 * 12).any()


def test_groups_must_divide_the_columns():
    with pytest.raises(ValueError, match="groups of 32 do not divide 48 columns"):
        rtn(weights(2, 48), Grid(4, 32, torch.float32))


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("columns", [1, 5, 64, 130, 515])
def test_the_inverse_of_the_factor_is_that_of_the_inverse_of_the_reordered_damped_hessian(columns, order):
    H = hessian(tokens(4 * columns, columns))
    before = H.clone()
    factor = factorize(H, order)
    torch.testing.assert_close(factor.added, factor.damping * H.diagonal().mean().expand(columns))
    damped = H.double() + factor.added.double().diag()
    expected = torch.linalg.cholesky(torch.linalg.inv(damped[factor.turns][:, factor.turns]), upper=True)
    U = torch.linalg.inv(factor.R.double().triu())
    torch.testing.assert_close(U, expected, rtol=2e-3, atol=1e-4 * float(expected.abs().max()))
    assert sorted(factor.turns.tolist()) == list(range(columns))
    assert order is Order.STATIC or factor.turns.tolist() == list(range(columns))
    assert order is Order.NONE or H.diagonal()[factor.turns].diff().le(0).all()
    assert torch.equal(H, before)


def textbook(W, H, factor, grid, search):
    """OBQ with a fixed order in float64: after each column the inverse of what remains is taken anew."""
    size = grid.group_size or W.shape[1]
    scales = find_scales(W, grid, search)
    scale, zero = scales.scale.double(), scales.zero
    W = W.double().clone()
    damped = H.double() + factor.added.double().diag()
    codes = torch.zeros(W.shape, dtype=torch.int8)
    left = factor.turns.tolist()
    while left:
        inverse = torch.linalg.inv(damped[left][:, left])
        column, group = left[0], left[0] // size
        if factor.order is Order.NONE and grid.group_size and column % size == 0:
            part = slice(column, column + size)
            anew = find_scales(W[:, part].float(), grid, search.of(part))
            scale[:, group] = anew.scale[:, 0].double()
            if zero is not None:
                zero[:, group] = anew.zero[:, 0]
        s, z = scale[:, group], 0 if zero is None else zero[:, group].double()
        codes[:, column] = torch.clamp(torch.round(W[:, column] / s) + z, -8, 7).to(torch.int8)
        error = (W[:, column] - (codes[:, column] - z) * s) / inverse[0, 0]
        W[:, left] -= error[:, None] * inverse[0]
        left = left[1:]
    return codes


ORDERS = pytest.mark.parametrize("order", Order)


@SYMMETRIC
@ORDERS
@pytest.mark.parametrize("weighed", [False, True], ids=["weights", "weights times activity"])
@pytest.mark.parametrize(("rows", "columns", "group"), SHAPES)
def test_gptq_gives_the_textbooks_codes(*, rows, columns, group, order, weighed, symmetric):
    W, H = weights(rows, columns), hessian(tokens(3 * columns, columns))
    before = W.clone()
    factor, grid = factorize(H, order), Grid(4, group, torch.float32, symmetric)
    search = Search(importance=factor.cost if weighed else None)
    result = gptq(W, factor, grid, search).quantized
    # Float32 against float64: a weight that lies within rounding error of the middle between two codes may fall to the
    # other side, and those after it in its row follow, as do scales of groups. More than one in fifty would be another
    # algorithm.
    assert (result.codes != textbook(W, H, factor, grid, search)).float().mean() <= 0.02
    assert torch.equal(W, before)


@ORDERS
def test_a_columns_cost_is_the_least_that_a_step_in_it_adds_to_the_output_error(order):
    """With the columns before it fixed and those after it free: 1 over its entry of the inverse of what remains."""
    H = hessian(tokens(60, 12))
    factor = factorize(H, order)
    damped = (H.double() + factor.added.double().diag())[factor.turns][:, factor.turns]
    for turn in range(12):
        rest = damped[turn:, turn:]
        others = torch.linalg.solve(rest[1:, 1:], -rest[1:, 0]) if turn < 11 else rest[1:, 0]
        step = torch.cat([torch.ones(1, dtype=torch.float64), others])
        assert float(factor.cost[factor.turns[turn]]) == pytest.approx(float(step @ rest @ step), rel=1e-3)


@ORDERS
@pytest.mark.parametrize(("rows", "columns", "group"), SHAPES)
def test_the_loss_that_gptq_tells_is_the_error_at_the_output(rows, columns, group, order):
    X = tokens(3 * columns, columns)
    X[:, 5] = 0
    W, H = weights(rows, columns), hessian(X)
    result = gptq(W, factorize(H, order), Grid(4, group, torch.float32))
    expected = output_errors(W, result.quantized, H)
    # The damping's share is subtracted from sums of float32 squares.
    torch.testing.assert_close(result.loss, expected, rtol=1e-3, atol=1e-4 * float(expected.mean()))


@ORDERS
@pytest.mark.parametrize(("rows", "columns", "group"), [shape for shape in SHAPES if shape[0] > 1])
def test_gptq_has_a_smaller_output_error_than_rtn(rows, columns, group, order):
    # Turned around, so that the columns that matter most come first in either order.
    W, H = weights(rows, columns), hessian(tokens(3 * columns, columns).flip(1))
    grid = Grid(4, group, torch.bfloat16)
    ours, plain = gptq(W, factorize(H, order), grid).quantized, rtn(W, grid)
    assert output_errors(W, ours, H).sum() < 0.7 * output_errors(W, plain, H).sum()


@ORDERS
@SYMMETRIC
def test_with_independent_inputs_gptq_is_rounding_to_the_nearest(order, symmetric):
    W, grid = weights(6, 64), Grid(4, 32, torch.float32, symmetric)
    ours, plain = gptq(W, factorize(torch.eye(64), order), grid).quantized, rtn(W, grid, LEAST_SQUARES)
    assert torch.equal(ours.codes, plain.codes)
    assert torch.equal(ours.scale, plain.scale)


@ORDERS
def test_linears_that_share_an_input_may_be_stacked(order):
    W, factor, grid = weights(9, 64), factorize(hessian(tokens(99, 64)), order), Grid(4, 32, torch.float32)
    whole = gptq(W, factor, grid)
    for rows in (slice(0, 4), slice(4, 9)):
        part = gptq(W[rows], factor, grid)
        assert torch.equal(part.quantized.codes, whole.quantized.codes[rows])
        # Sums of the same float32 squares in another order.
        torch.testing.assert_close(part.loss, whole.loss[rows], rtol=1e-4, atol=0)


@SYMMETRIC
@pytest.mark.parametrize("order", Order)
def test_scales_are_converted_once_for_all_blocks(monkeypatch, order, symmetric):
    given = []

    def block(work, U, scale, zero, *others):
        given.append((scale.data_ptr(), None if zero is None else zero.data_ptr()))
        assert scale.dtype is torch.float32
        return gptq_block(work, U, scale, zero, *others)

    monkeypatch.setattr("saffron_quantizer.algorithms.gptq.gptq_block", block)
    H = hessian(tokens(600, 512))
    gptq(weights(4, 512), factorize(H, order), Grid(4, 64, torch.bfloat16, symmetric=symmetric))
    assert len(given) > 1
    assert len(set(given)) == 1


def test_dead_columns_are_counted_and_rounded_to_the_nearest():
    X = tokens(200, 64)
    X[:, [3, 40]] = 0
    W = weights(5, 64)
    factor, grid = factorize(hessian(X)), Grid(4, None, torch.float32)
    result = gptq(W, factor, grid).quantized
    assert factor.dead.nonzero().flatten().tolist() == [3, 40]
    assert factor.cost[[3, 40]].tolist() == [0, 0]
    assert torch.equal(result.codes[:, [3, 40]], rtn(W, grid, LEAST_SQUARES).codes[:, [3, 40]])


def test_fewer_tokens_than_columns_are_made_good_by_damping():
    factor = factorize(hessian(tokens(3, 64)))
    assert factor.damping == DAMPINGS[0]


def test_a_hessian_that_needs_it_gets_more_damping():
    H = torch.eye(4)
    H[0, 1] = H[1, 0] = 1.05
    assert factorize(H).damping == 0.1


@pytest.mark.parametrize(
    "H",
    [torch.tensor([[1.0, 5.0], [5.0, 1.0]]), torch.tensor([[float("nan"), 0.0], [0.0, 1.0]])],
    ids=["indefinite", "not finite"],
)
def test_a_hessian_without_a_factor_is_an_error_and_never_rounded_instead(H):
    with pytest.raises(UnstableHessianError):
        factorize(H)
