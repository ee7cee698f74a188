"""RMSNorm by a compiled loop beside the formula, and beside the classes of transformers that it stands for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from saffron_kernels.nn import RmsNorm
from saffron_kernels.rms_norm import rms_norm, rms_norm_reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def steps_apart(got, expected):
    """How many representable numbers lie between two tensors at the most."""
    word = torch.int32 if got.dtype == torch.float32 else torch.int16
    return int((got.view(word).long() - expected.view(word).long()).abs().max())


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 5), min_size=0, max_size=3),
    st.integers(1, 70),
    st.sampled_from(DTYPES),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_the_loop_is_a_rounding_away_from_the_formula(lead, columns, dtype, one_plus, seed):
    x, weight = numbers(*lead, columns, seed=seed, dtype=dtype), numbers(columns, seed=seed + 1, dtype=dtype)
    before = x.clone()
    got = rms_norm(x, weight, 1e-6, one_plus=one_plus)
    assert got.dtype == dtype
    # In float32 up to 70 squares are added up in another order. In the shorter types what differs by that is rounded to
    # one of two neighbours, and Llama's form rounds twice.
    torch.testing.assert_close(
        got.float(),
        rms_norm_reference(x, weight, 1e-6, one_plus=one_plus).float(),
        rtol={torch.float32: 2e-6, torch.bfloat16: 2**-6, torch.float16: 2**-9}[dtype],
        atol=1e-7,
    )
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("one_plus", [True, False])
def test_of_many_numbers_hardly_one_is_rounded_otherwise(dtype, one_plus):
    x, weight = numbers(200, 640, dtype=dtype), numbers(640, seed=1, dtype=dtype)
    got, expected = (each(x, weight, 1e-6, one_plus=one_plus) for each in (rms_norm, rms_norm_reference))
    if dtype == torch.float32:
        torch.testing.assert_close(got, expected, rtol=2e-6, atol=0)
    else:
        assert steps_apart(got, expected) <= (1 if one_plus else 2)
        assert (got != expected).float().mean() < 1e-3


@pytest.mark.parametrize(
    "lay",
    [
        lambda x: x,
        lambda x: x.transpose(1, 2),
        lambda x: x[:, :, ::2],
        lambda x: x[..., 1:],
        lambda x: x.transpose(1, 3),
        lambda x: x[:0],
    ],
    ids=["in order", "heads first", "every other head", "with gaps", "across", "nothing"],
)
def test_vectors_may_lie_in_any_order(lay):
    x = lay(numbers(2, 7, 4, 12))
    weight = numbers(x.shape[-1], seed=1)
    torch.testing.assert_close(rms_norm(x, weight, 1e-6), rms_norm_reference(x, weight, 1e-6), rtol=2e-6, atol=1e-7)


def test_a_weight_may_have_gaps():
    # Large, so that memory that was given back too early would be seen.
    x, weight = numbers(2, 1 << 18), numbers(1 << 19, seed=1)[::2]
    torch.testing.assert_close(rms_norm(x, weight, 1e-6), rms_norm_reference(x, weight, 1e-6), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_stay_zeros_and_what_is_no_number_stays_in_its_vector(dtype):
    x = torch.zeros(3, 20, dtype=dtype)
    x[1, 4], x[2] = torch.nan, 1.0
    got = rms_norm(x, torch.full((20,), 2.0, dtype=dtype), 1e-6)
    assert got[0].tolist() == [0.0] * 20
    assert got[1].isnan().all()
    torch.testing.assert_close(got[2], torch.full((20,), 2.0, dtype=dtype), rtol=1e-6, atol=0)


def test_a_worked_example():
    """The mean square of 3 and 4 is 12.5; 3 / sqrt(12.5) = 0.8485, 4 / sqrt(12.5) = 1.1314."""
    x, weight = torch.tensor([3.0, 4.0]), torch.tensor([1.0, -0.5])
    torch.testing.assert_close(rms_norm(x, weight, 0.0), torch.tensor([0.848528, -0.565685]))
    torch.testing.assert_close(rms_norm(x, weight, 0.0, one_plus=True), torch.tensor([1.697056, 0.565685]))


def test_of_other_types_the_formula_itself_is_computed():
    x, weight = numbers(3, 20, dtype=torch.float64), numbers(20, seed=1, dtype=torch.float64)
    assert torch.equal(rms_norm(x, weight, 1e-6), rms_norm_reference(x, weight, 1e-6))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(threads):
    x, weight = numbers(333, 48), numbers(48, seed=1)
    expected = rms_norm(x, weight, 1e-6)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(rms_norm(x, weight, 1e-6), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("weight", [torch.ones(5), torch.ones(4, dtype=torch.bfloat16), torch.ones(1, 4)])
def test_a_weight_that_does_not_fit_is_refused(weight):
    with pytest.raises(ValueError, match=r"wanted is torch.float32 \[4\], as x has it"):
        rms_norm(torch.ones(2, 4), weight, 1e-6)


def test_gradients_are_those_of_the_formula():
    wanted = [numbers(3, 20).requires_grad_(), numbers(20, seed=1).requires_grad_()]
    for x, weight in (wanted, (wanted[0], wanted[1].detach()), (wanted[0].detach(), wanted[1])):
        own = [each for each in (x, weight) if each.requires_grad]
        got, expected = (
            torch.autograd.grad(norm(x, weight, 1e-6).sum(), own) for norm in (rms_norm, rms_norm_reference)
        )
        assert all(torch.equal(*each) for each in zip(got, expected, strict=True))


def test_a_module_can_be_traced():
    norm, x = RmsNorm(numbers(20), 1e-6, one_plus=False), numbers(3, 20, seed=1)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert norm(mode.from_tensor(x)).shape == (3, 20)
    compiled = torch.compile(norm, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), norm(x), rtol=2e-6, atol=1e-7)


def test_the_module_has_the_names_of_the_checkpoint():
    norm = RmsNorm(torch.zeros(4), 1e-6, one_plus=True)
    assert list(norm.state_dict()) == ["weight"]
    assert torch.equal(norm(torch.ones(2, 4)), rms_norm(torch.ones(2, 4), torch.zeros(4), 1e-6, one_plus=True))
