"""Compiled loop and Triton kernel do the reference's IEEE operations in the reference's order, so no bit may differ."""

import sys
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saffron_kernels import gptq_block as module
from saffron_kernels.gptq_block import gptq_block, gptq_block_reference
from saffron_kernels.gptq_block_triton import gptq_block_launch


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


def interpreted(W, U, scale, zero, group_of_column, qmin, qmax):  # noqa: PLR0917 - as the op
    """What the Triton kernel fills."""
    items, rows, columns = W.shape
    # Filled with what no result is, to find what is not written; one row more, to find what is written outside.
    outputs = [
        torch.full((items, columns, rows + 1), fill, dtype=dtype).mT
        for fill, dtype in ((99, torch.int8), (torch.nan, torch.float32), (torch.nan, torch.float32))
    ]
    codes, dequantized, error = (each[:, :rows] for each in outputs)
    gptq_block_launch(W, U, scale, zero, group_of_column, qmin, qmax, codes, dequantized, error).run()
    assert (outputs[0][:, rows] == 99).all()
    assert outputs[1][:, rows].isnan().all()
    assert outputs[2][:, rows].isnan().all()
    return codes, dequantized, error


def assert_no_bit_differs(got, expected):
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        bits = torch.int8 if ours.dtype == torch.int8 else torch.int32  # unlike numbers, bits tell 0.0 from -0.0
        assert torch.equal(ours.contiguous().view(bits), theirs.contiguous().view(bits))


@settings(deadline=None, max_examples=30)
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
    assert_no_bit_differs(gptq_block(*given_inputs, -8, 7), gptq_block_reference(*given_inputs, -8, 7))
    for tensor, copy in zip(given_inputs, before, strict=True):
        assert tensor is None or torch.equal(tensor, copy)


# One program of one chunk takes a tenth of a second to interpret, and each chunk more than the one before it.
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("items", "rows", "columns", "groups"),
    [(1, 1, 1, 1), (2, 5, 3, 2), (1, 33, 8, 1), (1, 4, 21, 3), (2, 40, 16, 4)],
)
def test_the_triton_kernel_equals_the_reference_bit_by_bit(items, rows, columns, groups, symmetric):
    given_inputs = inputs(items, rows, columns, groups, symmetric=symmetric)
    before = [None if tensor is None else tensor.clone() for tensor in given_inputs]
    assert_no_bit_differs(interpreted(*given_inputs, -8, 7), gptq_block_reference(*given_inputs, -8, 7))
    for tensor, copy in zip(given_inputs, before, strict=True):
        assert tensor is None or torch.equal(tensor, copy)


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 2), st.integers(1, 40), st.integers(1, 11), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_the_triton_kernel_equals_the_reference_in_any_shape(items, rows, columns, groups, seed):
    given_inputs = inputs(items, rows, columns, groups, symmetric=seed % 2 == 0, seed=seed)
    assert_no_bit_differs(interpreted(*given_inputs, -128, 127), gptq_block_reference(*given_inputs, -128, 127))


@pytest.mark.parametrize("run", [gptq_block, interpreted])
def test_parts_of_larger_matrices_and_matrices_on_their_side_are_taken_as_they_lie(run):
    W, U, scale, zero, order = inputs(1, 6, 24, 2, symmetric=False)
    part = slice(9, 20)
    given_inputs = (
        W.mT.contiguous().mT[:, :, part],
        U[:, part, part],
        scale.mT.contiguous().mT,
        zero,
        order[:, part],
    )
    expected = gptq_block_reference(*(tensor.contiguous() for tensor in given_inputs), -8, 7)
    assert_no_bit_differs(run(*given_inputs, -8, 7), expected)


@pytest.mark.parametrize("run", [gptq_block, interpreted])
def test_below_the_diagonal_nothing_is_read(run):
    W, U, scale, zero, order = inputs(1, 3, 10, 2)
    dirty = U + torch.full_like(U, torch.nan).tril(-1)
    assert_no_bit_differs(
        run(W, dirty, scale, zero, order, -8, 7), gptq_block_reference(W, U, scale, zero, order, -8, 7)
    )


@pytest.mark.parametrize("run", [gptq_block, gptq_block_reference, interpreted])
def test_halves_are_rounded_to_the_even_code_and_what_is_beyond_the_codes_to_the_last_one(run):
    W = torch.tensor([[[-2.5], [-1.5], [-0.5], [-0.25], [0.5], [1.5], [2.5], [6.5], [7.5], [1e9], [-8.5], [-3e38]]])
    block = run(W, torch.ones(1, 1, 1), torch.ones(1, 12, 1), None, torch.zeros(1, 1, dtype=torch.int32), -8, 7)
    codes = [-2, -2, 0, 0, 0, 2, 2, 6, 7, 7, -8, -8]
    assert block[0].flatten().tolist() == codes
    assert [str(value) for value in block[1].flatten().tolist()] == [str(float(code)) for code in codes]  # no -0.0


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(threads):
    given_inputs = inputs(1, 300, 31, 1)
    expected = gptq_block_reference(*given_inputs, -128, 127)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_no_bit_differs(gptq_block(*given_inputs, -128, 127), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("run", [gptq_block, gptq_block_reference, interpreted])
def test_a_worked_example(run):
    """Two columns, one row: 0.6 is rounded to 1 (error -0.4), and half of that is added to the second column."""
    W = torch.tensor([[[0.6, 1.2]]])
    U = torch.tensor([[[1.0, 0.5], [0.0, 2.0]]])
    codes, dequantized, error = run(W, U, torch.ones(1, 1, 1), None, torch.zeros(1, 2, dtype=torch.int32), -8, 7)
    assert codes.tolist() == [[[1, 1]]]
    assert dequantized.tolist() == [[[1.0, 1.0]]]
    # 1.2 - (-0.4) * 0.5 = 1.4, which is off from 1 by 0.4, over a diagonal of 2.
    torch.testing.assert_close(error, torch.tensor([[[-0.4, 0.2]]]))


def test_without_numba_a_warning_is_given_and_the_reference_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "saffron_kernels.gptq_block_cpu", None)
    monkeypatch.delattr("saffron_kernels.gptq_block_cpu", raising=False)
    module._cpu.cache_clear()
    given_inputs = inputs(1, 2, 3, 1)
    with pytest.warns(UserWarning, match="GPTQ's column loop runs in plain torch, many times slower"):
        assert_no_bit_differs(gptq_block(*given_inputs, -8, 7), gptq_block_reference(*given_inputs, -8, 7))
    module._cpu.cache_clear()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("W", lambda tensor: tensor.double()),
        ("U", lambda tensor: tensor[:, 1:]),
        ("scale", lambda tensor: tensor[:, 1:]),
        ("zero", lambda tensor: tensor[:, :, 1:]),
        ("group_of_column", lambda tensor: tensor.long()),
    ],
)
def test_what_does_not_fit_is_refused(name, wrong):
    given_inputs = dict(
        zip(("W", "U", "scale", "zero", "group_of_column"), inputs(1, 3, 4, 2, symmetric=False), strict=True)
    )
    given_inputs[name] = wrong(given_inputs[name])
    with pytest.raises(ValueError, match=f"^{name} is "):
        gptq_block(*given_inputs.values(), -8, 7)


@pytest.mark.parametrize("symmetric", [True, False])
def test_torch_knows_the_op(symmetric):
    given_inputs = inputs(2, 3, 5, 2, symmetric=symmetric)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of opcheck's own imports
        torch.library.opcheck(torch.ops.saffron.gptq_block.default, (*given_inputs, -8, 7))
