"""The sum of xᵀx, raw and finished, against its definition in float64."""

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st

from saffron_kernels.hessian import hessian, hessian_finish, hessian_reference
from saffron_kernels.hessian_triton import _tile_of, hessian_launch
from saffron_kernels.tile_kinds import AVX2, AVX512, AVX512_BF16

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def tokens(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_is_the_sum(got, X, start=0.0):
    """Each entry of the lower triangle is off by no more than float32 rounds in a sum of so many products.

    A sum of n products has an error of at most n · 2⁻²⁴ times the sum of their absolute values, whatever the order.
    What it was added to is one more, and taking that off again rounds once more.
    """
    wanted, magnitude = X.double().mT @ X.double(), X.double().abs().mT @ X.double().abs() + 2 * abs(start)
    off = (got.double() - wanted).abs() - (X.shape[-2] + 2) * 2.0**-24 * magnitude
    assert torch.tril(off).max() <= 0


@pytest.fixture(params=[AVX512_BF16, AVX512, AVX2, None], ids=["bfloat16", "float32", "avx2", "panels"])
def kind(request, best_tiles):
    """Have sums made this way, by tiles of a kind or vendor products; by bfloat16 tiles only where X is bfloat16."""
    best_tiles(request.param)
    return request.param


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1),
        (90, 37),
        (3, 256),
        (17, 300),
        (40, 700),
        (2, 33, 65),
        (3, 1, 5),
        (0, 5),
        (400, 48),  # no column is left over, and a tile adds up more than once
        (1300, 97),  # more tokens than are laid out at once
    ],
)
def test_parts_added_one_after_the_other_are_the_whole_sum(kind, shape, dtype):  # noqa: ARG001 - a fixture and a table
    X = tokens(*shape, dtype=dtype)
    before = X.clone()
    H = torch.zeros(*shape[:-2], shape[-1], shape[-1])
    cut = shape[-2] // 3
    hessian(X[..., :cut, :], H)
    hessian(X[..., cut:, :], H)
    assert_is_the_sum(H, X)
    assert torch.equal(X, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("turned", [False, True])
def test_tokens_and_sums_may_lie_in_any_order_and_nothing_is_written_beside_them(kind, dtype, turned):  # noqa: ARG001
    X = tokens(2, 70, 130, dtype=dtype)
    columns = X.shape[-1]
    around = torch.full((3, columns + 1, columns + 2), 0.5)
    H = around[:2, :columns, :columns].mT if turned else around[:2, :columns, :columns]
    hessian(X.mT.contiguous().mT, H)
    assert_is_the_sum(torch.tril(H - 0.5), X, start=0.5)
    hessian(torch.stack([X, X], dim=-1)[..., 0], H)
    assert_is_the_sum(torch.tril(H - 0.5), torch.cat([X, X], dim=1), start=0.5)
    H[:] = 0.5
    assert torch.equal(around, torch.full_like(around, 0.5))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_number_of_threads_changes_no_bit(kind, dtype):
    if kind is None:
        pytest.skip("that is for the vendor to say")
    X, sums, before = tokens(1100, 250, dtype=dtype), [], torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            sums.append(torch.zeros(250, 250))
            hessian(X, sums[-1])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(each, sums[0]) for each in sums)


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_sums_are_made_of_parts_so_that_no_square_is_too_small_for_its_sum(kind, dtype):
    """Off by 0.9 to 2.6 times 2⁻²⁴ of the whole in the mean; by 20 times where one square is added after the other."""
    if kind is None:
        pytest.skip("that is for the vendor to say")
    X, H = tokens(4096, 60, dtype=dtype), torch.zeros(60, 60)
    hessian(X, H)
    wanted = X.double().square().sum(dim=0)
    assert (H.diagonal() / wanted - 1).square().mean().sqrt() < 4 * 2.0**-24


@pytest.mark.parametrize("shape", [(90, 37), (2, 33, 65)])
def test_the_reference_is_the_sum_and_leaves_the_upper_triangle_as_it_is(shape):
    X = tokens(*shape)
    H = torch.full((*shape[:-2], shape[-1], shape[-1]), 0.5)
    hessian_reference(X, H)
    assert torch.equal(torch.triu(H, 1), torch.triu(torch.full_like(H, 0.5), 1))
    assert_is_the_sum(torch.tril(H - 0.5), X, start=0.5)


@pytest.mark.parametrize("shape", [(1, 1), (37, 37), (2, 300, 300)])
def test_a_finished_hessian_is_scaled_by_two_over_n_and_symmetric(shape):
    raw = tokens(*shape)
    before = raw.clone()
    finished = hessian_finish(raw, 90)
    lower = torch.tril(raw)
    assert torch.equal(finished, (lower + torch.tril(raw, -1).mT) * (2 / 90))
    assert torch.equal(raw, before)


def interpreted(X, H):
    hessian_launch(X, H).run()


# The interpreter multiplies bfloat16 wrongly. The kernel treats it as it treats float16.
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 90, 37), (1, 65, 64), (2, 33, 130), (1, 7, 200)])
def test_the_triton_kernel_adds_the_sum_to_the_lower_triangle_and_touches_no_tile_above(shape, dtype):
    X = tokens(*shape, dtype=dtype)
    before = X.clone()
    columns = shape[-1]
    # Larger than the Hessian, to find what is written outside.
    around = torch.full((shape[0] + 1, columns + 1, columns + 2), 0.5)
    H = around[: shape[0], :columns, :columns]
    interpreted(X, H)
    assert_is_the_sum(torch.tril(H - 0.5), X, start=0.5)
    number = torch.arange(columns) // 64  # of the tile
    H[:, number[:, None] >= number] = 0.5
    assert torch.equal(around, torch.full_like(around, 0.5))
    assert torch.equal(X, before)


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 2), st.integers(0, 70), st.integers(1, 140), st.integers(0, 2**32 - 1))
def test_the_triton_kernel_is_right_in_any_shape(items, count, columns, seed):
    X = tokens(items, count, columns, dtype=torch.float16, seed=seed)
    H = torch.zeros(items, columns, columns)
    interpreted(X, H)
    assert_is_the_sum(H, X)


def test_the_triton_kernel_takes_tokens_as_they_lie():
    X = tokens(3, 40, 70)
    H, expected = torch.zeros(3, 70, 70), torch.zeros(3, 70, 70)
    interpreted(X.transpose(1, 2).contiguous().transpose(1, 2), H)
    interpreted(X, expected)
    assert torch.equal(H, expected)


@pytest.mark.parametrize(
    ("shape", "dtype", "grid", "tile"),
    [
        ((1, 8192, 4096), torch.bfloat16, (32 * 33 // 2, 1), 128),
        ((1, 8192, 4000), torch.bfloat16, (32 * 33 // 2, 1), 128),
        ((1, 8192, 1024), torch.float16, (16 * 17 // 2, 1), 64),
        ((128, 512, 1024), torch.float16, (8 * 9 // 2, 128), 128),
        ((2, 8192, 4096), torch.float32, (64 * 65 // 2, 2), 64),
    ],
)
def test_there_are_as_many_programs_as_the_triangle_has_tiles(shape, dtype, grid, tile):
    X = torch.empty(shape, dtype=dtype, device="meta")
    launch = hessian_launch(X, torch.empty(shape[0], shape[2], shape[2], device="meta"))
    assert launch.grid == grid
    assert launch.arguments["TILE"] == tile


@triton.jit
def _store_tiles(rows, columns, BLOCK: tl.constexpr):
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, column = _tile_of(number)
    tl.store(rows + number, row)
    tl.store(columns + number, column)


def test_each_program_has_its_own_tile_of_the_triangle():
    """For all widths up to 512 tiles of 128 columns."""
    side, block = 512, 1 << 16
    rows, columns = (torch.zeros(3 * block, dtype=torch.int32) for _ in range(2))
    _store_tiles[(3,)](rows, columns, BLOCK=block)
    expected = torch.tril_indices(side, side)
    count = expected.shape[1]
    assert torch.equal(torch.stack([rows, columns])[:, :count].long(), expected)


@pytest.mark.parametrize(
    ("X", "H"),
    [
        (torch.zeros(3, 4, dtype=torch.float64), torch.zeros(4, 4)),
        (torch.zeros(3, 4), torch.zeros(4, 4, dtype=torch.bfloat16)),
        (torch.zeros(3, 4), torch.zeros(3, 3)),
        (torch.zeros(2, 3, 4), torch.zeros(4, 4)),
        (torch.zeros(4), torch.zeros(4, 4)),
    ],
)
def test_what_does_not_fit_is_refused(X, H):
    with pytest.raises(ValueError, match=r"wanted are bfloat16|can not be"):
        hessian(X, H)


def test_torch_knows_the_op():
    torch.library.opcheck(torch.ops.saffron.hessian.default, (tokens(2, 5, 7), torch.zeros(2, 7, 7)))
