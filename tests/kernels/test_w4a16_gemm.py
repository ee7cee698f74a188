"""Codes are exact in every type of activations, so that only sums and the last rounding differ between devices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saffron_kernels.quantize_pack import Layout, pack_reference
from saffron_kernels.w4a16_gemm import (
    W4A16Weight,
    repack_in_blocks,
    repack_w4a16,
    w4a16_gemm,
    w4a16_gemm_reference,
)
from saffron_kernels.w4a16_gemm_triton import w4a16_gemm_launches

A100, H100 = (8, 0), (9, 0)
GROUPS = [16, 32, 64, 128]
OF_THE_LARGEST = {
    # Sums of up to 1,300 products in another order: some √1300 roundings of 2^-24 each, and room for ten times that.
    torch.float32: 3e-5,
    # What lies beside the middle of two numbers may be rounded to either.
    torch.float16: 2.0**-10,
    # The same, twice: Triton's interpreter cuts numbers off instead of rounding them.
    torch.bfloat16: 2.0**-6,
}


def packed(codes):
    """Codes of 4 bits as compressed-tensors stores them."""
    return pack_reference(codes, 4, Layout.COMPRESSED_TENSORS)


def weights(N, K, group_size, dtype, *, symmetric=True, seed=0):
    """Codes and zero points [N, ..] int8, scales, and the three as a checkpoint has them."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-8, 8, (N, K), generator=generator, dtype=torch.int8)
    scale = (torch.rand(N, K // group_size, generator=generator) + 0.1).to(dtype)
    zero = None if symmetric else torch.randint(-8, 8, scale.shape, generator=generator, dtype=torch.int8)
    packed_zero = None if zero is None else packed(zero.T).T
    return codes, scale, zero, (packed(codes), scale, packed_zero)


def tokens(M, K, dtype, seed=0):
    return torch.randn(M, K, generator=torch.Generator().manual_seed(seed)).to(dtype)


def on_a_card(x, stored, group_size, bias=None, capability=A100):
    """With the layout and the kernels of a card, on the CPU."""
    packed, scale, packed_zero = stored
    zero = None if packed_zero is None else repack_w4a16(packed, scale, packed_zero, x.shape[1]).zero
    weight = repack_in_blocks(packed, scale, zero, x.shape[1])
    y = torch.empty(len(x), len(scale), dtype=x.dtype)
    for launch in w4a16_gemm_launches(x, weight, group_size, bias, y, capability):
        launch.run()
    return y


def on_the_cpu(x, stored, group_size, bias=None):
    return w4a16_gemm(x, repack_w4a16(*stored, x.shape[1]), group_size, bias)


def near(ours, expected):
    assert ours.dtype == expected.dtype
    allowed = OF_THE_LARGEST[ours.dtype] * float(expected.float().abs().max())
    torch.testing.assert_close(ours.float(), expected.float(), rtol=0, atol=allowed)


@pytest.mark.parametrize("multiply", [on_the_cpu, on_a_card], ids=["cpu", "card"])
def test_a_worked_example(multiply):
    """Column k has code k - 8 and a zero point of -1, in groups of 16 whose scales are 1 and 2.

    A token that is 1 in column 3 and 10 in column 20 meets (-5 + 1) · 1 and (-4 + 1) · 2: -4 - 60.
    """
    codes = (torch.arange(32) % 16 - 8).to(torch.int8)[None]
    zero = torch.full((1, 2), -1, dtype=torch.int8)
    stored = (packed(codes), torch.tensor([[1.0, 2.0]]), packed(zero.T).T)
    x = torch.zeros(1, 32)
    x[0, 3], x[0, 20] = 1, 10
    assert multiply(x, stored, 16, torch.tensor([0.5])).tolist() == [[-63.5]]


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_reference_is_the_formula(symmetric):
    codes, scale, zero, stored = weights(5, 48, 16, torch.float32, symmetric=symmetric)
    x, bias = tokens(3, 48, torch.float32), torch.arange(5.0)
    W = [
        [(codes[n, k] - (0 if zero is None else zero[n, k // 16])) * scale[n, k // 16] for k in range(48)]
        for n in range(5)
    ]
    y = [[sum(x[m, k] * W[n][k] for k in range(48)) + bias[n] for n in range(5)] for m in range(3)]
    near(w4a16_gemm_reference(x, *stored, 16, bias=bias), torch.tensor(y))


def test_the_card_s_layout_has_eight_slices_of_sixteen_columns_in_a_block_of_words():
    codes, scale, _, (packed, _, _) = weights(3, 160, 32, torch.float16)
    weight = repack_in_blocks(packed, scale, None, 160)
    assert weight.codes.shape == (2, 3, 16)
    unsigned = torch.nn.functional.pad(codes.int() + 8, (0, 96))  # [3, 256]
    for block, n, w, j in [(0, 0, 0, 0), (0, 2, 15, 7), (1, 1, 3, 1), (1, 2, 0, 2)]:
        assert int(weight.codes[block, n, w]) >> (4 * j) & 0xF == int(unsigned[n, 128 * block + 16 * j + w])
    assert torch.equal(weight.scale, scale)
    assert weight.scale.stride() == (1, 3)


@settings(deadline=None, max_examples=10)
@given(
    st.integers(1, 20),
    st.integers(1, 70),
    st.integers(1, 4),
    st.sampled_from(GROUPS),
    st.booleans(),
    st.sampled_from(list(OF_THE_LARGEST)),
    st.integers(0, 2**32 - 1),
)
def test_every_device_is_near_the_reference(M, N, groups, group_size, symmetric, dtype, seed):  # noqa: PLR0917 - what Hypothesis draws
    K = groups * group_size
    _, _, _, stored = weights(N, K, group_size, dtype, symmetric=symmetric, seed=seed)
    x, bias = tokens(M, K, dtype, seed), tokens(1, N, dtype, seed)[0]
    expected = w4a16_gemm_reference(x, *stored, group_size, bias=bias)
    for multiply in (on_the_cpu, on_a_card):
        near(multiply(x, stored, group_size, bias), expected)


@pytest.mark.parametrize(
    ("M", "N", "K", "group_size", "capability"),
    [
        (2, 5, 1280, 128, A100),
        (2, 5, 1040, 1040, A100),
        (3, 70, 512, 256, H100),
        (33, 65, 96, 32, A100),
        (129, 130, 96, 32, A100),
        (129, 130, 96, 32, H100),
        (129, 130, 256, 128, H100),
    ],
    ids=[
        "two programs share a tile",
        "one group is a channel",
        "a group is two blocks",
        "some tokens",
        "many tokens",
        "many tokens on Hopper, small groups",
        "many tokens on Hopper",
    ],
)
def test_each_size_of_tile_and_group_is_near_the_reference(M, N, K, group_size, capability):
    _, _, _, stored = weights(N, K, group_size, torch.float16, symmetric=False)
    x = tokens(M, K, torch.float16)
    near(on_a_card(x, stored, group_size, None, capability), w4a16_gemm_reference(x, *stored, group_size))


def test_tokens_may_lie_apart_in_memory():
    _, _, _, stored = weights(5, 64, 32, torch.float16)
    x = tokens(6, 128, torch.float16)[::2, ::2]
    for multiply in (on_the_cpu, on_a_card):
        near(multiply(x, stored, 32), w4a16_gemm_reference(x, *stored, 32))


def test_a_bias_is_added_once_though_programs_share_a_tile():
    _, _, _, stored = weights(5, 1280, 128, torch.float16)
    x, bias = tokens(2, 1280, torch.float16), torch.full((5,), 1000.0)
    near(on_a_card(x, stored, 128, bias), w4a16_gemm_reference(x, *stored, 128, bias=bias))


def test_few_tokens_share_a_tile_among_programs_and_many_do_not():
    _, _, _, (packed, scale, _) = weights(64, 1024, 128, torch.float16)
    weight = repack_in_blocks(packed, scale, None, 1024)
    grids = {}
    for M in (1, 16384):
        x, y = torch.empty(M, 1024, dtype=torch.float16, device="meta"), torch.empty(M, 64, device="meta")
        grids[M] = [launch.grid for launch in w4a16_gemm_launches(x, weight, 128, None, y, A100)]
    assert grids == {1: [(1, 1, 2), (1, 1)], 16384: [(1, 128, 1)]}


def test_groups_that_do_not_fit_into_blocks_of_a_card_are_refused():
    _, _, _, (packed, scale, _) = weights(2, 96, 48, torch.float16)
    weight = repack_in_blocks(packed, scale, None, 96)
    with pytest.raises(ValueError, match="groups of 48 columns neither divide 128 nor are made of 128"):
        w4a16_gemm_launches(tokens(1, 96, torch.float16), weight, 48, None, torch.empty(1, 2), A100)


def test_weights_of_another_device_s_layout_are_refused():
    _, _, _, (packed, scale, _) = weights(2, 32, 32, torch.float32)
    with pytest.raises(ValueError, match="laid out for another device than cpu: repack them there"):
        w4a16_gemm(tokens(1, 32, torch.float32), repack_in_blocks(packed, scale, None, 32), 32)


def test_codes_of_another_shape_than_the_scales_are_refused():
    """On the meta device, which the layout of a card is for, too."""
    _, _, _, (packed, scale, _) = weights(2, 64, 32, torch.float32)
    codes = repack_in_blocks(packed, scale, None, 64).codes[:, :1].to("meta")
    with pytest.raises(ValueError, match=r"codes must be torch.int32 \(1, 2, 16\), not torch.int32 \(1, 1, 16\)"):
        w4a16_gemm(torch.empty(1, 64, device="meta"), W4A16Weight(codes, scale.to("meta"), None), 32)


@pytest.mark.parametrize(
    ("group_size", "bias", "message"),
    [
        (16, None, "2 groups of 16 columns do not make 64 columns"),
        (0, None, "2 groups of 0 columns"),
        (32, torch.ones(3), r"bias must be \(2,\), not \(3,\)"),
    ],
)
def test_what_does_not_fit_is_refused(group_size, bias, message):
    _, _, _, stored = weights(2, 64, 32, torch.float32)
    with pytest.raises(ValueError, match=message):
        on_the_cpu(tokens(1, 64, torch.float32), stored, group_size, bias)


def test_tokens_of_another_type_are_refused():
    _, _, _, stored = weights(2, 64, 32, torch.float32)
    with pytest.raises(ValueError, match=r"x must be a matrix of float32, float16 or bfloat16, not torch.float64"):
        on_the_cpu(tokens(1, 64, torch.float64), stored, 32)


@pytest.mark.parametrize(
    ("place", "wrong", "message"),
    [
        (0, torch.zeros(2, 8), r"weight_packed must be torch.int32 \(2, 8\), not torch.float32 \(2, 8\)"),
        (
            0,
            torch.zeros(2, 9, dtype=torch.int32),
            r"weight_packed must be torch.int32 \(2, 8\), not torch.int32 \(2, 9\)",
        ),
        (
            2,
            torch.zeros(1, 3, dtype=torch.int32),
            r"weight_zero_point must be torch.int32 \(1, 2\), not torch.int32 \(1, 3\)",
        ),
    ],
)
def test_a_checkpoint_s_tensors_that_do_not_fit_are_refused(place, wrong, message):
    _, _, _, stored = weights(2, 64, 32, torch.float32, symmetric=False)
    with pytest.raises(ValueError, match=message):
        repack_w4a16(*(wrong if number == place else tensor for number, tensor in enumerate(stored)), 64)


def test_repacking_changes_and_shares_nothing_that_it_was_given():
    _, _, _, stored = weights(2, 64, 32, torch.float32, symmetric=False)
    before = [tensor.clone() for tensor in stored]
    weight = repack_w4a16(*stored, 64)
    for tensor in (weight.codes, weight.scale, weight.zero):
        tensor.zero_()
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(stored, before, strict=True))


def test_torch_finds_nothing_wrong_with_the_op():
    for symmetric in (True, False):
        _, _, _, stored = weights(3, 64, 32, torch.float32, symmetric=symmetric)
        weight = repack_w4a16(*stored, 64)
        arguments = tokens(2, 64, torch.float32), weight.codes, weight.scale, weight.zero, 32, None
        torch.library.opcheck(torch.ops.saffron.w4a16_gemm.default, arguments)
