"""The sum of xᵀx, raw and finished, against its definition in float64."""

import pytest
import torch

from saffron_kernels.hessian import hessian, hessian_finish, hessian_reference

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def tokens(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_is_the_sum(got, X):
    """Each entry of the lower triangle is off by no more than float32 rounds in a sum of so many products.

    A sum of n products has an error of at most n · 2⁻²⁴ times the sum of their absolute values, whatever the order.
    """
    wanted, magnitude = X.double().mT @ X.double(), X.double().abs().mT @ X.double().abs()
    off = (got.double() - wanted).abs() - X.shape[-2] * 2.0**-24 * magnitude
    assert torch.tril(off).max() <= 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (90, 37), (3, 256), (17, 300), (40, 700), (2, 33, 65), (3, 1, 5)])
def test_parts_added_one_after_the_other_are_the_whole_sum(shape, dtype):
    X = tokens(*shape, dtype=dtype)
    before = X.clone()
    H = torch.zeros(*shape[:-2], shape[-1], shape[-1])
    cut = shape[-2] // 3
    hessian(X[..., :cut, :], H)
    hessian(X[..., cut:, :], H)
    assert_is_the_sum(H, X)
    assert torch.equal(X, before)


@pytest.mark.parametrize("shape", [(90, 37), (2, 33, 65)])
def test_the_reference_is_the_sum_and_leaves_the_upper_triangle_as_it_is(shape):
    X = tokens(*shape)
    H = torch.full((*shape[:-2], shape[-1], shape[-1]), 7.0)
    hessian_reference(X, H)
    assert torch.equal(torch.triu(H, 1), torch.triu(torch.full_like(H, 7), 1))
    assert_is_the_sum(torch.tril(H - 7), X[..., :])


@pytest.mark.parametrize("shape", [(1, 1), (37, 37), (2, 300, 300)])
def test_a_finished_hessian_is_scaled_by_two_over_n_and_symmetric(shape):
    raw = tokens(*shape)
    before = raw.clone()
    finished = hessian_finish(raw, 90)
    lower = torch.tril(raw)
    assert torch.equal(finished, (lower + torch.tril(raw, -1).mT) * (2 / 90))
    assert torch.equal(raw, before)
