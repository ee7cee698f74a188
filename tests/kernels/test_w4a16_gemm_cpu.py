"""Weights that are unpacked in registers are those of the checkpoint, on each instruction set of this processor."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saffron_kernels import w4a16_gemm_cpu
from saffron_kernels.tile_kinds import AVX2, AVX512, AVX512_BF16
from saffron_kernels.w4a16_gemm import repack_w4a16, w4a16_gemm, w4a16_gemm_reference

OF_THE_LARGEST = {
    # Sums of up to 4,096 products of 24 bits, in another order.
    torch.float32: 1e-5,
    # Beside the middle of two numbers either is right.
    torch.float16: 2.0**-10,
    torch.bfloat16: 2.0**-7,
}
ALL = 0
"""One group a row, however long."""


@pytest.fixture(params=[AVX512_BF16, AVX512, AVX2], ids=["bfloat16", "float32", "avx2"])
def kind(request, best_tiles):
    """Have products done with this instruction set; bfloat16 only where x is."""
    best_tiles(request.param)
    w4a16_gemm_cpu._plan.cache_clear()
    yield
    w4a16_gemm_cpu._plan.cache_clear()


def words(rows, columns, generator):
    """Eight codes of 4 bits in each."""
    return torch.randint(-(2**31), 2**31, (rows, columns), generator=generator).to(torch.int32)


def check(M, N, K, group_size, dtype, *, symmetric=True, with_bias=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    group_size = group_size or K
    x = torch.randn(M, K, generator=generator).to(dtype)
    packed, groups = words(N, -(-K // 8), generator), K // group_size
    scale = (torch.rand(N, groups, generator=generator) + 0.1).to(dtype)
    zero = None if symmetric else words(-(-N // 8), groups, generator)
    bias = torch.randn(N, generator=generator) if with_bias else None
    ours = w4a16_gemm(x, repack_w4a16(packed, scale, zero, K), group_size, bias)
    expected = w4a16_gemm_reference(x, packed, scale, zero, group_size, bias=bias)
    assert ours.dtype == dtype
    allowed = OF_THE_LARGEST[dtype] * float(expected.float().abs().max())
    torch.testing.assert_close(ours.float(), expected.float(), rtol=0, atol=allowed)


@pytest.mark.parametrize(
    ("M", "N", "K", "group_size"),
    [
        (1, 1, 128, 128),
        (1, 67, 384, 128),  # an odd number of output channels, beyond a thread's 64
        (3, 5, 96, 32),  # less than a block of columns
        (1, 9, 160, 32),  # more than one
        (1, 6, 192, 64),
        (35, 70, 256, 128),  # more tokens than are done at once
        (1, 5, 768, 256),
        (2, 130, 4096, ALL),
        (1, 3, 144, ALL),
    ],
)
def test_groups_and_odd_shapes(kind, M, N, K, group_size):  # noqa: ARG001 - a fixture and a table
    check(M, N, K, group_size, torch.bfloat16, symmetric=N % 2 == 0, with_bias=M > 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("symmetric", [True, False])
def test_other_types_of_activations_and_scales(dtype, symmetric):
    check(1, 67, 384, 128, dtype, symmetric=symmetric, with_bias=True)
    check(6, 67, 384, 128, dtype, symmetric=symmetric)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(1, 80), st.integers(1, 5), st.booleans(), st.integers(0, 2**32 - 1))
def test_any_shape(M, N, groups, symmetric, seed):
    check(M, N, 128 * groups, 128, torch.bfloat16, symmetric=symmetric, seed=seed)


def test_each_weight_meets_its_column_exactly(kind):  # noqa: ARG001 - a fixture
    """A token that is 1 in one column gives that column of the weights, which bfloat16 holds exactly here."""
    N, K = 5, 256
    packed = words(N, K // 8, torch.Generator().manual_seed(0))
    scale = torch.tensor([[0.5, 2.0]]).bfloat16().repeat(N, 1)
    y = torch.cat([w4a16_gemm(x, repack_w4a16(packed, scale, None, K), 128) for x in torch.eye(K).bfloat16().split(64)])
    nibbles = packed[:, :, None] >> torch.arange(0, 32, 4) & 0xF  # [N, K / 8, 8]
    weight = (nibbles.reshape(N, K) - 8) * scale.float().repeat_interleave(128, dim=1)
    assert torch.equal(y.T.float(), weight)


def test_a_token_alone_and_among_others_is_the_same(kind):  # noqa: ARG001 - a fixture
    generator = torch.Generator().manual_seed(0)
    packed, scale = words(70, 48, generator), torch.rand(70, 3, generator=generator).bfloat16()
    weight = repack_w4a16(packed, scale, None, 384)
    x = torch.randn(6, 384, generator=generator).bfloat16()
    assert torch.equal(torch.cat([w4a16_gemm(row[None], weight, 128) for row in x]), w4a16_gemm(x, weight, 128))


def multiplied_once():
    """A weight of 3 by 256 of which the product with one token is prepared, the token and the product."""
    packed, scale = words(3, 32, torch.Generator().manual_seed(0)), torch.tensor([[0.5, 2.0]]).repeat(3, 1)
    weight, x = repack_w4a16(packed, scale, None, 256), torch.ones(1, 256)
    return weight, x, w4a16_gemm(x, weight, 128)


def test_what_is_kept_from_call_to_call_is_not_copied_with_the_weight():
    weight, x, y = multiplied_once()
    assert list(weight.prepared) == [(torch.float32, 128, 256, 1, torch.get_num_threads())]
    for copied in (copy.copy(weight), copy.deepcopy(weight), pickle.loads(pickle.dumps(weight))):  # noqa: S301 - our own
        assert copied.prepared == {}
        assert torch.equal(w4a16_gemm(x, copied, 128), y)


def test_every_call_takes_the_weight_and_the_bias_as_they_are_then():
    weight, x, y = multiplied_once()
    bias = torch.zeros(3)
    w4a16_gemm(x, weight, 128, bias)
    weight.scale.mul_(2)
    bias.add_(1)
    assert torch.equal(w4a16_gemm(x, weight, 128, bias), 2 * y + 1)


@pytest.mark.parametrize(
    ("columns", "group_size", "bias", "message"),
    [
        (128, 128, None, "2 groups of 128 columns do not make 128 columns"),
        (256, 64, None, "2 groups of 64 columns do not make 256 columns"),
        (256, 128, torch.zeros(4), r"bias must be \(3,\), not \(4,\)"),
    ],
)
def test_what_does_not_fit_is_refused_after_a_call_that_did_fit(columns, group_size, bias, message):
    weight, _, _ = multiplied_once()
    with pytest.raises(ValueError, match=message):
        w4a16_gemm(torch.ones(1, columns), weight, group_size, bias)


@pytest.mark.parametrize(
    ("M", "N", "K", "group_size"), [(256, 515, 160, 32), (260, 70, 384, 128), (257, 6, 192, 64), (256, 5, 144, ALL)]
)
@pytest.mark.parametrize("symmetric", [True, False])
def test_many_tokens(M, N, K, group_size, symmetric):
    check(M, N, K, group_size, torch.bfloat16, symmetric=symmetric, with_bias=True)


def test_groups_without_a_loop_are_dequantized_and_that_is_said():
    w4a16_gemm_cpu._plan.cache_clear()
    with pytest.warns(UserWarning, match="4-bit weights in groups of 48 are dequantized whole at each product"):
        check(3, 5, 144, 48, torch.bfloat16, symmetric=False)
