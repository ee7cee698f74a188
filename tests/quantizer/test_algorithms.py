"""The algorithms against their definitions, written out slowly and in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saffron_quantizer.algorithms.gptq import DAMPINGS, UnstableHessianError, factorize, gptq
from saffron_quantizer.algorithms.hessian import add_to_gram, empty_gram, hessian_finish
from saffron_quantizer.algorithms.quantized import Grid
from saffron_quantizer.algorithms.rtn import rtn
from saffron_quantizer.algorithms.scales import SHRINKS, minmax_scales, round_to_codes, searched_scales

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


def dequantized(result, columns):
    return result.codes.float() * result.scale.float().repeat_interleave(columns // result.scale.shape[1], dim=1)


def output_error(W, result, H):
    E = (W - dequantized(result, W.shape[1])).double()
    return float((E @ H.double() * E).sum())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("rows", "columns", "group"), SHAPES)
def test_rtn_takes_the_nearest_code_of_each_weight(rows, columns, group, bits):
    W = weights(rows, columns)
    before = W.clone()
    result = rtn(W, Grid(bits, group, torch.bfloat16))
    every = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1))
    assert result.scale.shape == (rows, columns // (group or columns))
    scale = result.scale.float().repeat_interleave(group or columns, dim=1)
    distance = (W[:, :, None] - every * scale[:, :, None]).abs()
    taken = distance.gather(2, (result.codes.long() + 2 ** (bits - 1))[:, :, None])[:, :, 0]
    torch.testing.assert_close(taken, distance.amin(dim=2), rtol=0, atol=1e-6)
    assert torch.equal(W, before)


@settings(deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 5), st.sampled_from([32, 64]), st.integers(0, 2**32 - 1), st.floats(1e-30, 1e30)
)
def test_min_max_scales_clip_no_weight_by_more_than_half_a_step(rows, groups, size, seed, magnitude):
    W = weights(rows, groups * size, seed) * magnitude
    scale = minmax_scales(W, Grid(4, size, torch.float32)).repeat_interleave(size, dim=1)
    codes = round_to_codes(W, minmax_scales(W, Grid(4, size, torch.float32)), Grid(4, size, torch.float32))
    # A little more than half, for the float32 rounding of the scale and the quotient.
    assert ((W - codes * scale).abs() <= 0.5001 * scale).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_group_of_zeros_has_codes_of_zero_and_a_scale_that_is_not(dtype):
    result = rtn(torch.zeros(2, 64), Grid(4, 32, dtype))
    assert not result.codes.any()
    assert (result.scale > 0).all()


@pytest.mark.parametrize(("rows", "columns", "group"), SHAPES)
def test_the_scale_search_finds_the_least_error_of_its_grid(rows, columns, group):
    W, size = weights(rows, columns), group or columns
    found = searched_scales(W, Grid(4, group, torch.float32))
    for row in range(rows):
        for number in range(columns // size):
            part = slice(number * size, (number + 1) * size)
            errors = []
            for shrink in SHRINKS:
                scale = W[row, part].abs().max() * 2 / 15 * shrink
                code = torch.clamp(torch.round(W[row, part] / scale), -8, 7)
                errors.append(float(((code * scale - W[row, part]) ** 2).sum()))
            best = W[row, part].abs().max() * 2 / 15 * SHRINKS[errors.index(min(errors))]
            assert found[row, number] == pytest.approx(float(best), rel=1e-6)


def test_groups_must_divide_the_columns():
    with pytest.raises(ValueError, match="groups of 32 do not divide 48 columns"):
        rtn(weights(2, 48), Grid(4, 32, torch.float32))


@pytest.mark.parametrize("columns", [1, 37, 256, 300, 700])
def test_the_gram_summed_in_parts_is_the_whole_product(columns):
    X = tokens(90, columns)
    H = empty_gram(columns)
    for part in (X[:1], X[1:50], X[50:]):
        add_to_gram(part, H)
    expected = X.double().T @ X.double() * 2 / 90
    got = hessian_finish(H, 90)
    assert torch.equal(got, got.T)
    # Sums of 90 float32 products: each entry is off by some 1e-6 of the largest that it is summed from.
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("columns", [1, 5, 64, 130])
def test_the_factor_is_that_of_the_inverse_of_the_reordered_damped_hessian(columns):
    H = hessian(tokens(4 * columns, columns))
    before = H.clone()
    factor = factorize(H)
    damped = H.double() + factor.damping * H.double().diagonal().mean() * torch.eye(columns)
    expected = torch.linalg.cholesky(torch.linalg.inv(damped[factor.order][:, factor.order]), upper=True)
    torch.testing.assert_close(factor.U.double(), expected, rtol=2e-3, atol=1e-4 * float(expected.abs().max()))
    assert torch.equal(factor.U, factor.U.triu())
    assert sorted(factor.order.tolist()) == list(range(columns))
    assert H.diagonal()[factor.order].diff().le(0).all()
    assert torch.equal(H, before)


def textbook(W, H, order, *, damping, scale, group):
    """OBQ with a fixed order in float64: after each column the inverse of what remains is taken anew."""
    W, columns = W.double().clone(), W.shape[1]
    damped = H.double() + damping * H.double().diagonal().mean() * torch.eye(columns)
    codes = torch.zeros(W.shape, dtype=torch.int8)
    left = order.tolist()
    while left:
        inverse = torch.linalg.inv(damped[left][:, left])
        column, s = left[0], scale[:, left[0] // group].double()
        codes[:, column] = torch.clamp(torch.round(W[:, column] / s), -8, 7).to(torch.int8)
        error = (W[:, column] - codes[:, column] * s) / inverse[0, 0]
        W[:, left] -= error[:, None] * inverse[0]
        left = left[1:]
    return codes


@pytest.mark.parametrize(("rows", "columns", "group"), SHAPES)
def test_gptq_gives_the_textbooks_codes(rows, columns, group):
    W, H = weights(rows, columns), hessian(tokens(3 * columns, columns))
    before = W.clone()
    factor = factorize(H)
    result = gptq(W, factor, Grid(4, group, torch.float32))
    expected = textbook(W, H, factor.order, damping=factor.damping, scale=result.scale, group=group or columns)
    # Float32 against float64: a weight that lies within rounding error of the middle between two codes may fall to the
    # other side, and those after it in its row follow. More than one in a hundred would be another algorithm.
    assert (result.codes != expected).float().mean() <= 0.01
    assert torch.equal(W, before)


@pytest.mark.parametrize(("rows", "columns", "group"), [shape for shape in SHAPES if shape[0] > 1])
def test_gptq_has_a_smaller_output_error_than_rtn(rows, columns, group):
    W, H = weights(rows, columns), hessian(tokens(3 * columns, columns))
    ours = gptq(W, factorize(H), Grid(4, group, torch.bfloat16))
    plain = rtn(W, Grid(4, group, torch.bfloat16))
    assert output_error(W, ours, H) < 0.7 * output_error(W, plain, H)


def test_with_independent_inputs_gptq_is_rounding_to_the_nearest():
    W = weights(6, 64)
    result = gptq(W, factorize(torch.eye(64)), Grid(4, 32, torch.float32))
    assert torch.equal(result.codes, round_to_codes(W, result.scale, Grid(4, 32, torch.float32)))


def test_linears_that_share_an_input_may_be_stacked():
    W, factor = weights(9, 64), factorize(hessian(tokens(99, 64)))
    whole = gptq(W, factor, Grid(4, 32, torch.float32))
    for rows in (slice(0, 4), slice(4, 9)):
        part = gptq(W[rows], factor, Grid(4, 32, torch.float32))
        assert torch.equal(part.codes, whole.codes[rows])


def test_dead_columns_are_counted_and_rounded_to_the_nearest():
    X = tokens(200, 64)
    X[:, [3, 40]] = 0
    W = weights(5, 64)
    factor = factorize(hessian(X))
    result = gptq(W, factor, Grid(4, None, torch.float32))
    assert factor.dead_columns == 2
    assert torch.equal(
        result.codes[:, [3, 40]], round_to_codes(W, result.scale, Grid(4, None, torch.float32))[:, [3, 40]]
    )


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
