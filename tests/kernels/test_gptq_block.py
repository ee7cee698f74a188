"""The compiled column loop does the reference's IEEE operations in the reference's order, so no bit may differ."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saffron_kernels.gptq_block import gptq_block, gptq_block_reference


def inputs(items, rows, columns, groups, *, symmetric=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(items, rows, columns, generator=generator)
    X = torch.randn(items, columns, 2 * columns, generator=generator)
    H = X @ X.mT / columns + 0.1 * torch.eye(columns)
    U = torch.linalg.cholesky(torch.linalg.inv(H), upper=True)
    scale = W.abs().amax(dim=2, keepdim=True) * torch.rand(items, rows, groups, generator=generator).add(0.5) / 7.5
    zero = None if symmetric else torch.randint(-3, 4, (items, rows, groups), generator=generator).float()
    order = torch.randint(0, groups, (items, columns), generator=generator, dtype=torch.int32)
    return W, U, scale.clamp_min(1e-6), zero, order


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 37),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_the_compiled_loop_equals_the_reference_bit_by_bit(items, rows, columns, groups, symmetric, seed):  # noqa: PLR0917 - what Hypothesis draws
    given_inputs = inputs(items, rows, columns, groups, symmetric=symmetric, seed=seed)
    before = [None if tensor is None else tensor.clone() for tensor in given_inputs]
    compiled = gptq_block(*given_inputs, -8, 7)
    for ours, expected in zip(compiled, gptq_block_reference(*given_inputs, -8, 7), strict=True):
        assert ours.dtype == expected.dtype
        assert torch.equal(ours, expected)
    for tensor, copy in zip(given_inputs, before, strict=True):
        assert tensor is None or torch.equal(tensor, copy)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(threads):
    given_inputs = inputs(1, 7, 128, 1)
    expected = gptq_block_reference(*given_inputs, -128, 127)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert all(torch.equal(a, b) for a, b in zip(gptq_block(*given_inputs, -128, 127), expected, strict=True))
    finally:
        torch.set_num_threads(before)


def test_a_worked_example():
    """Two columns, one row: 0.6 is rounded to 1 (error -0.4), and half of that is added to the second column."""
    W = torch.tensor([[[0.6, 1.2]]])
    U = torch.tensor([[[1.0, 0.5], [0.0, 2.0]]])
    block = gptq_block(W, U, torch.ones(1, 1, 1), None, torch.zeros(1, 2, dtype=torch.int32), -8, 7)
    assert block.codes.tolist() == [[[1, 1]]]
    assert block.W_dequantized.tolist() == [[[1.0, 1.0]]]
    # 1.2 - (-0.4) * 0.5 = 1.4, which is off from 1 by 0.4, over a diagonal of 2.
    torch.testing.assert_close(block.error, torch.tensor([[[-0.4, 0.2]]]))
