"""`hessian` in Triton: a symmetric product on tensor cores, of which only the lower triangle's tiles are computed.

There are as many programs as the triangle has tiles; which one is whose follows from its number, so none is started
for nothing. bfloat16 and float16 go to the tensor cores as they are: their products are exact, and summed in float32.
float32 goes there in halves of TF32, three products for one (CUTLASS calls it 3xTF32): that is off by some 2⁻²¹ of the
product, which is less than a sum of eight such products rounds away, and has 2.5 times the peak of the CUDA cores.
Each tile is one program's, which adds token after token, so two runs give the same bits.
"""

# ruff: noqa: ANN001, ANN201, ANN202, PLR0917 - kernels are written in Triton's language: no types, many parameters
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from saffron_kernels.launch import Launch
from saffron_kernels.problem import Problem


@triton.jit
def _tile_of(number):
    """Row and column of a tile in the lower triangle, counted row after row: row i begins at i(i+1)/2."""
    i = ((tl.sqrt(8.0 * number + 1.0) - 1.0) * 0.5).to(tl.int32)
    # The root is rounded, so it can be one off either way.
    i += ((i + 1) * (i + 2) // 2 <= number).to(tl.int32)
    i -= (i * (i + 1) // 2 > number).to(tl.int32)
    return i, number - i * (i + 1) // 2


@triton.jit
def hessian_kernel(
    X,
    H,
    tokens,
    columns,
    X_item,
    X_token,
    X_column,
    H_item,
    H_row,
    H_column,
    TILE: tl.constexpr,
    TOKENS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (t, b) adds the products of all tokens, TOKENS at a time, to the t-th tile of TILE² of matrix b."""
    tile_row, tile_column = _tile_of(tl.program_id(0))
    item = tl.program_id(1).to(tl.int64)
    inside = tl.arange(0, TILE)
    token = tl.arange(0, TOKENS)
    row, column = tile_row * TILE + inside, tile_column * TILE + inside
    X += item * X_item
    left = X + row[:, None] * X_column + token[None, :] * X_token
    right = X + token[:, None] * X_token + column[None, :] * X_column
    total = tl.zeros((TILE, TILE), tl.float32)
    for begin in range(0, tokens, TOKENS):
        real = token < tokens - begin
        a = tl.load(left, mask=(row < columns)[:, None] & real[None, :], other=0.0)
        b = tl.load(right, mask=real[:, None] & (column < columns)[None, :], other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
        left += TOKENS * X_token
        right += TOKENS * X_token
    H += item * H_item + (tile_row * TILE).to(tl.int64) * H_row + (tile_column * TILE).to(tl.int64) * H_column
    place = H + inside[:, None] * H_row + inside[None, :] * H_column
    # Of a tile on the diagonal, too, all is stored, though nobody reads its upper half: so it is stored in vectors.
    there = (row < columns)[:, None] & (column < columns)[None, :]
    tl.store(place, tl.load(place, mask=there, other=0.0) + total, mask=there)


@dataclass(frozen=True)
class _Tiling:
    """How the triangle is cut, and how a program goes through its tile.

    Attributes:
        tile: rows and columns of a tile.
        tokens: how many are multiplied at once.
        warps: of a program.
        stages: loads that are under way.
    """

    tile: int
    tokens: int
    warps: int
    stages: int

    def tiles(self, columns: int) -> int:
        """Tiles of the lower triangle."""
        side: int = triton.cdiv(columns, self.tile)
        return side * (side + 1) // 2


_HALVES = _Tiling(64, 32, 4, 3)
_SMALL = _Tiling(64, 64, 4, 4)
_LARGE = _Tiling(128, 64, 8, 4)
"""96 KiB of shared memory, of 99 that sm_89 has for a program; Triton takes 128 on sm_90, of 227."""
_PROGRAMS = 132
"""The SMs of an H100: with fewer large tiles than that, small ones keep more of a card at work."""


def hessian_launch(X: Tensor, H: Tensor) -> Launch:
    """The launch of `hessian`.

    Args:
        X: [B, N, d]; fastest where the columns lie side by side.
        H: [B, d, d] float32, added to.
    """
    items, tokens, columns = X.shape
    tiling = _tiling(X.dtype, items, columns)
    strides = {
        ("X_item", "X_token", "X_column"): X.stride(),
        ("H_item", "H_row", "H_column"): H.stride(),
    }
    return Launch(
        hessian_kernel,
        (tiling.tiles(columns), items),
        {
            "X": X,
            "H": H,
            "tokens": tokens,
            "columns": columns,
            **{name: size for names, sizes in strides.items() for name, size in zip(names, sizes, strict=True)},
            "TILE": tiling.tile,
            "TOKENS": tiling.tokens,
            "PRECISION": "tf32x3",  # of float32 alone
        },
        num_warps=tiling.warps,
        num_stages=tiling.stages,
    )


def _tiling(dtype: torch.dtype, items: int, columns: int) -> _Tiling:
    if dtype == torch.float32:
        return _HALVES
    return _LARGE if items * _LARGE.tiles(columns) >= _PROGRAMS else _SMALL


def _problem(tokens: int, columns: int, dtype: torch.dtype = torch.bfloat16, items: int = 1) -> Problem:
    def launch(_capability: tuple[int, int]) -> Launch:
        X = torch.empty(items, tokens, columns, dtype=dtype, device="meta")
        return hessian_launch(X, torch.empty(items, columns, columns, device="meta"))

    triangle = columns * (columns + 1) // 2
    flops = 2 * items * tokens * triangle
    return Problem(
        name=f"hessian {f'{items}x' if items > 1 else ''}{tokens}x{columns} {str(dtype).removeprefix('torch.')}",
        launch=launch,
        # The triangle is read and written.
        bytes=items * (tokens * columns * dtype.itemsize + 2 * 4 * triangle),
        # Three TF32 products for one of float32, each at half the rate of float16.
        flops=6 * flops if dtype == torch.float32 else flops,
        unit="fp16_tensor",
    )


PROBLEMS = (
    # What the linears of Llama-3-8B read, of four sequences; and 128 experts, each with its share of the tokens.
    _problem(8192, 4096),
    _problem(8192, 14336),
    _problem(8192, 4096, torch.float32),
    _problem(512, 2048, items=128),
    _problem(8192, 1024, torch.float16),
)
