"""Split-K: few tokens make few tiles, so several programs share the columns of one tile to keep the card busy.

Each writes its partial sum, and a second kernel adds them in their order. Atomic additions would save that kernel, but
float sums would then depend on which program comes first: the same input would not always give the same bits.
"""

# ruff: noqa: ANN001, ANN201, ANN202, PLR0917 - kernels are written in Triton's language, which has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from collections.abc import Callable

import triton
import triton.language as tl
from torch import Tensor

from saffron_kernels.launch import Launch
from saffron_kernels.problem import Problem

_TILE_M, _TILE_N = 4, 256

SIZES = (
    (1, 4096, 4096),
    (16, 4096, 4096),
    (1, 4096, 14336),
    (16, 4096, 14336),
    (64, 4096, 4096),
    (2048, 4096, 4096),
    (2048, 4096, 14336),
)
"""Tokens, output channels and columns of representative products: decode and prefill of an 8B model."""


def splits(tiles: int, programs: int, steps: int, fewest_steps: int) -> int:
    """Programs that share a tile.

    Args:
        tiles: of the output.
        programs: how many keep a card of 100 to 140 multiprocessors busy.
        steps: of the loop over the columns.
        fewest_steps: of one program, so that its loads overlap.
    """
    return max(1, min(programs // max(tiles, 1), steps // fewest_steps))


def finish_launch(
    partial: Tensor, scale: Tensor | None, weight_scale: Tensor | None, bias: Tensor | None, y: Tensor
) -> Launch:
    """Write y [M, N], the sum of partial [S, M, N] times scale [M, 1] and weight_scale [N, 1], plus bias [N]."""
    S, M, N = partial.shape
    arguments = {
        "partial": partial,
        "scale": scale,
        "weight_scale": weight_scale,
        "bias": bias,
        "y": y,
        "M": M,
        "N": N,
        "SPLITS": S,
        "TILE_M": _TILE_M,
        "TILE_N": _TILE_N,
    }
    # No fused operation: the product of int8 is equal bit by bit to what other devices compute.
    return Launch(_finish, (triton.cdiv(M, _TILE_M), triton.cdiv(N, _TILE_N)), arguments, fp_fusion=False)


def sum_problem(
    name: str, launch: Callable[[tuple[int, int]], Launch], M: int, N: int, bytes_of_scales: int
) -> Problem:
    """The sum, to bfloat16, of as many programs' as `launch` says for a card of compute capability 9.0."""
    S = launch((9, 0)).arguments["SPLITS"]
    bytes_moved = 4 * S * M * N + bytes_of_scales + 2 * M * N
    return Problem(f"{name} sum of {S}", launch, bytes=bytes_moved, flops=S * M * N, unit="fp32")


@triton.jit
def epilogue(total, scale, weight_scale, bias, m, n, M, N):
    """Float sums [.., ..] of a tile times the scales of its tokens m and channels n, plus bias.

    m and n are [TILE_M, 1] and [1, TILE_N], or [1, TILE_M] and [TILE_N, 1].
    """
    if scale is not None:
        total = total * tl.load(scale + m, mask=m < M, other=0.0)
    if weight_scale is not None:
        total = total * tl.load(weight_scale + n, mask=n < N, other=0.0)
    if bias is not None:
        total = total + tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)
    return total


@triton.jit
def _finish(
    partial,
    scale,
    weight_scale,
    bias,
    y,
    M,
    N,
    SPLITS: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
):
    m = (tl.program_id(0) * TILE_M + tl.arange(0, TILE_M))[:, None]
    n = (tl.program_id(1) * TILE_N + tl.arange(0, TILE_N))[None, :]
    inside = (m < M) & (n < N)
    place = m.to(tl.int64) * N + n
    total = tl.load(partial + place, mask=inside, other=0)
    for _ in tl.static_range(1, SPLITS):
        partial += tl.cast(M, tl.int64) * N
        total += tl.load(partial + place, mask=inside, other=0)
    total = epilogue(total.to(tl.float32), scale, weight_scale, bias, m, n, M, N)
    tl.store(y + place, total.to(y.dtype.element_ty), mask=inside)
