"""The loss of scales is what rounding with them costs at the output, wherever it is computed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saffron_kernels.awq_loss import _awq_loss, awq_loss, awq_loss_reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def problem(rows, columns, dtype=torch.float32):
    """Weights, scales, tokens, and their Hessian with nothing but NaN above the diagonal."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(rows, columns, generator=generator).to(dtype)
    s = torch.rand(columns, generator=generator).add(0.5)
    X = torch.randn(2 * columns, columns, generator=generator) * torch.logspace(-1, 1, columns)
    H = torch.tril(X.T @ X) + torch.triu(torch.full((columns, columns), torch.nan), 1)
    return W, s, X, H


def in_triton(W, s, H, *, bits, group_size, scale_dtype, symmetric):
    """Losses by the Triton kernel, in the interpreter."""
    from saffron_kernels.awq_loss_triton import awq_loss_launch, panels  # noqa: PLC0415 - only what tests it needs it

    parts = torch.full((len(W), panels(W.shape[1], group_size)), torch.nan)
    awq_loss_launch(
        W, s, H, parts, bits=bits, group_size=group_size, scale_dtype=scale_dtype, symmetric=symmetric
    ).run()
    return parts.sum(dim=1)


def slow_loss(W, s, X, size, *, symmetric):
    """|X (Q(W · s) / s - W)ᵀ|² of each row, the product in float64.

    Weights are rounded in float32: the largest of a group lies in the middle between two codes.
    """
    scaled = (W * s).reshape(len(W), -1, size)
    low = scaled.abs().amax(2, keepdim=True).neg() if symmetric else scaled.amin(2, keepdim=True).clamp(max=0)
    high = -low if symmetric else scaled.amax(2, keepdim=True).clamp(min=0)
    step = (high - low) / 15
    zero = 0 if symmetric else (-8 - low / step).round().clamp(-8, 7)
    rounded = (((scaled / step).round() + zero).clamp(-8, 7) - zero) * step
    change = rounded.reshape(W.shape).double() / s.double() - W.double()
    return (X.double() @ change.T).square().sum(dim=0)


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "with zero points"])
def test_the_reference_is_the_error_at_the_output(symmetric):
    W, s, X, H = problem(5, 64)
    found = awq_loss_reference(W, s, H, bits=4, group_size=16, scale_dtype=torch.float32, symmetric=symmetric)
    # Sums of 64 x 64 float32 products.
    torch.testing.assert_close(found.double(), slow_loss(W, s, X, 16, symmetric=symmetric), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "columns", "size", "symmetric"), [(3, 32, 16, True), (70, 128, 32, False), (2, 256, 128, True)]
)
def test_every_device_finds_the_references_loss(rows, columns, size, symmetric, dtype):
    require_the_references_loss(rows, columns, size, symmetric, dtype)


@settings(deadline=None, max_examples=15)  # a launch in the interpreter takes 0.1 s
@given(st.integers(1, 20), st.integers(1, 4), st.sampled_from([16, 32]), st.booleans(), st.sampled_from(DTYPES))
def test_every_device_finds_the_references_loss_of_any_shape(rows, groups, size, symmetric, dtype):
    require_the_references_loss(rows, groups * size, size, symmetric, dtype)


def require_the_references_loss(rows, columns, size, symmetric, dtype):
    W, s, _, H = problem(rows, columns, dtype)
    before = [each.clone() for each in (W, s, H)]
    given_too = {"bits": 4, "group_size": size, "scale_dtype": dtype, "symmetric": symmetric}
    expected = awq_loss_reference(W, s, H, **given_too)
    # What is weighed is equal bit by bit; its products are summed in another order, in float32.
    torch.testing.assert_close(awq_loss(W, s, H, **given_too), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(in_triton(W, s, H, **given_too), expected, rtol=1e-5, atol=0)
    for each, copy in zip((W, s, H), before, strict=True):
        assert torch.equal(each.nan_to_num(0), copy.nan_to_num(0))


def test_scales_and_hessians_may_lie_in_any_order():
    W, s, _, H = problem(3, 64)
    given_too = {"bits": 4, "group_size": 16, "scale_dtype": torch.float32, "symmetric": True}
    turned, every_other = H.T.contiguous().T, torch.stack([s, s.flip(0)], dim=1)[:, 0]
    expected = awq_loss_reference(W, s, H, **given_too)
    # As above.
    torch.testing.assert_close(awq_loss(W, every_other, turned, **given_too), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(in_triton(W, every_other, turned, **given_too), expected, rtol=1e-5, atol=0)


def test_wide_matrices_are_weighed_panel_by_panel():
    W, s, _, H = problem(4, 640)
    given_too = {"bits": 4, "group_size": 128, "scale_dtype": torch.bfloat16}
    torch.testing.assert_close(
        awq_loss(W, s, H, **given_too), awq_loss_reference(W, s, H, **given_too), rtol=1e-5, atol=0
    )


def test_shapes_that_do_not_fit_are_refused():
    W, s, _, H = problem(2, 64)
    with pytest.raises(ValueError, match="64 columns are not divided into groups of 48"):
        awq_loss(W, s, H, bits=4, group_size=48, scale_dtype=torch.float32)
    for other_s, other_H in ((s[:32], H), (s, H[:32]), (s.bfloat16(), H), (s, H.double())):
        with pytest.raises(ValueError, match="do not fit 64 columns"):
            awq_loss(W, other_s, other_H, bits=4, group_size=32, scale_dtype=torch.float32)
    with pytest.raises(ValueError, match="codes of 3 bits"):
        awq_loss(W, s, H, bits=3, group_size=32, scale_dtype=torch.float32)


def test_of_no_rows_there_is_no_loss():
    W, s, _, H = problem(0, 64)
    given_too = {"bits": 4, "group_size": 16, "scale_dtype": torch.float32}
    assert awq_loss(W, s, H, **given_too).shape == awq_loss_reference(W, s, H, **given_too).shape == (0,)


def test_the_work_that_is_foretold_is_that_of_three_products_at_half_the_rate_of_float16():
    from saffron_kernels.awq_loss_triton import PROBLEMS  # noqa: PLC0415 - only what tests it needs it

    of_lower_triangle = 2 * 4096 * (4096 * 4096 / 2)
    assert {problem.flops for problem in PROBLEMS} == {3 * 2 * of_lower_triangle}


def test_the_operator_is_registered_as_torch_wants_it():
    W, s, _, H = problem(4, 32)
    torch.library.opcheck(_awq_loss, (W, s, H.nan_to_num(0), 4, 16, torch.bfloat16, False))
