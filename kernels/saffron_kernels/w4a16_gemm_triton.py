"""`w4a16_gemm` on a card.

The weights are the left operand, yᵀ = W · xᵀ: tensor cores of every generation take that one from registers, where the
codes are unpacked. In the layout of `repack_in_blocks` a word holds one column of each of eight slices of 16, so that a
shift of the words is a slice in the order in which the tensor cores want it, and no element changes its place.
"""

# ruff: noqa: ANN001, ANN202, PLR0917 - kernels are written in Triton's language: it has no types, and many parameters
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from dataclasses import dataclass
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from saffron_kernels.launch import Launch
from saffron_kernels.problem import Problem
from saffron_kernels.split_k_triton import SIZES, epilogue, finish_launch, splits, sum_problem
from saffron_kernels.w4a16_gemm import BLOCK, SLICE, W4A16Weight

_FEW_TOKENS, _SOME_TOKENS = 16, 64
_FEWEST_STEPS = 4


@dataclass(frozen=True)
class _Tile:
    """What a program computes, and how: `programs` of them keep a card of 100 to 140 multiprocessors busy."""

    M: int
    N: int
    warps: int
    stages: int
    programs: int


def w4a16_gemm(
    x: Tensor, codes: Tensor, scale: Tensor, zero: Tensor | None, group_size: int, bias: Tensor | None
) -> Tensor:
    """As the op of this name."""
    y = torch.empty(x.shape[0], scale.shape[0], dtype=x.dtype, device=x.device)
    bias = None if bias is None else bias.contiguous()
    if y.numel():
        capability = torch.cuda.get_device_capability(x.device)
        for launch in w4a16_gemm_launches(x, W4A16Weight(codes, scale, zero), group_size, bias, y, capability):
            launch.run()
    return y


def w4a16_gemm_launches(
    x: Tensor,
    weight: W4A16Weight,
    group_size: int,
    bias: Tensor | None,
    y: Tensor,
    capability: tuple[int, int],
) -> list[Launch]:
    """Write y [M, N]: in one launch, or in two where several programs share a tile.

    Bias and y are contiguous, and zero points lie as their scales do, as `repack_in_blocks` makes them.

    Raises:
        ValueError: the layout has no such groups.
    """
    (M, K), (N, G) = x.shape, weight.scale.shape
    if BLOCK % group_size and group_size % BLOCK and group_size != K:
        raise ValueError(f"groups of {group_size} columns neither divide {BLOCK} nor are made of {BLOCK}")
    tile = _tile(M, group_size, x.dtype, capability)
    grid = triton.cdiv(N, tile.N), triton.cdiv(M, tile.M)
    S = splits(grid[0] * grid[1], tile.programs, triton.cdiv(K, BLOCK), _FEWEST_STEPS)
    sums = torch.empty(S, M, N, dtype=torch.float32, device=x.device) if S > 1 else None
    # The interpreter computes bfloat16 wrong.
    interpreted = triton.knobs.runtime.interpret and x.dtype == torch.bfloat16
    arguments = {
        "x": x,
        "codes": weight.codes,
        "scale": weight.scale,
        "zero": weight.zero,
        "bias": bias,
        "y": y if sums is None else sums,
        "M": M,
        "N": N,
        "K": K,
        "G": G,
        "group_size": group_size,
        "stride_m": x.stride(0),
        "stride_k": x.stride(1),
        "stride_n": weight.scale.stride(0),
        "stride_g": weight.scale.stride(1),
        "SPLITS": S,
        "OPERAND": tl.float32 if interpreted else _OPERANDS[x.dtype],
        "TILE_M": tile.M,
        "TILE_N": tile.N,
        "PER_GROUP": min(group_size, BLOCK) // SLICE,
    }
    product = Launch(_gemm, (*grid, S), arguments, num_warps=tile.warps, num_stages=tile.stages)
    return [product] if sums is None else [product, finish_launch(sums, None, None, bias, y)]


_OPERANDS = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


def _tile(M: int, group_size: int, dtype: torch.dtype, capability: tuple[int, int]) -> _Tile:
    # No tensor core multiplies float32 exactly, and other cores have no registers for a larger tile.
    if M <= _FEW_TOKENS or dtype == torch.float32:
        return _Tile(16, 64, 4, 4, 512)
    if M <= _SOME_TOKENS:
        return _Tile(64, 64, 4, 4, 512)
    # The scales of several groups in a block take the registers that sm_90 needs for a larger tile.
    if capability >= (9, 0) and group_size < BLOCK:
        return _Tile(64, 128, 8, 3, 256)
    return _Tile(128, 128, 8, 3, 128)


@triton.jit
def _gemm(
    x,
    codes,
    scale,
    zero,
    bias,
    y,
    M,
    N,
    K,
    G,
    group_size,
    stride_m,
    stride_k,
    stride_n,
    stride_g,
    SPLITS: tl.constexpr,
    OPERAND: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    PER_GROUP: tl.constexpr,
):
    n = tl.program_id(0) * TILE_N + tl.arange(0, TILE_N)
    m = tl.program_id(1) * TILE_M + tl.arange(0, TILE_M)
    split = tl.program_id(2)
    blocks = tl.cdiv(K, 128)
    first, last = blocks * split // SPLITS, blocks * (split + 1) // SPLITS

    word = tl.arange(0, 16)
    w = codes + (first.to(tl.int64) * N + n)[:, None] * 16 + word[None, :]
    a = x + m.to(tl.int64)[None, :] * stride_m + ((first * 128 + word).to(tl.int64) * stride_k)[:, None]
    channel = scale + n * stride_n
    total = tl.zeros((TILE_N, TILE_M), tl.float32)
    for block in range(first, last):
        words = tl.load(w, mask=(n < N)[:, None], other=0)  # [TILE_N, 16]
        for part in tl.static_range(8):
            column = block * 128 + part * 16
            if part % PER_GROUP == 0:
                group = tl.minimum(column // group_size, G - 1).to(tl.int64)
                s = tl.load(channel + group * stride_g, mask=n < N, other=0.0).to(tl.float32)
                z = None
                if zero is not None:
                    z = tl.load(zero + n * stride_n + group * stride_g, mask=n < N, other=0.0)
                products = tl.zeros((TILE_N, TILE_M), tl.float32)
            x_part = tl.load(a + part * 16 * stride_k, mask=(column + word < K)[:, None] & (m < M)[None, :], other=0.0)
            w_part = _unpack(words >> (4 * part), z, OPERAND)
            products = tl.dot(w_part, x_part.to(OPERAND), products, input_precision="ieee")
            if part % PER_GROUP == PER_GROUP - 1:
                total += products * s[:, None]
        w += tl.cast(N, tl.int64) * 16
        a += 128 * stride_k

    row, column = m[None, :], n[:, None]
    if SPLITS == 1:
        total = epilogue(total, None, None, bias, row, column, M, N)
    y += split.to(tl.int64) * M * N
    tl.store(y + row.to(tl.int64) * N + column, total.to(y.dtype.element_ty), mask=(row < M) & (column < N))


@triton.jit
def _unpack(words, zero, OPERAND: tl.constexpr):
    """The lowest nibble of each word, less 8 and the zero point, by a bit trick: integers convert slowly.

    With 1024 in float16 or 128 in bfloat16 the last bits of the fraction count ones, so that the nibble takes their
    place; every number on the way is one of the type.
    """
    nibble = words & 0xF
    if OPERAND is tl.float32:
        value, offset = nibble.to(tl.float32), tl.full((), 8.0, OPERAND)
    elif OPERAND is tl.float16:
        value, offset = (nibble | 0x6400).to(tl.int16).to(OPERAND, bitcast=True), tl.full((), 1032.0, OPERAND)
    else:
        value, offset = (nibble | 0x4300).to(tl.int16).to(OPERAND, bitcast=True), tl.full((), 136.0, OPERAND)
    if zero is not None:
        offset += zero.to(OPERAND)[:, None]
    return value - offset


def _launch(
    size: tuple[int, int, int], group_size: int, which: int, capability: tuple[int, int], *, symmetric: bool
) -> Launch:
    """The product in bfloat16 without bias, or the sum after it."""
    M, N, K = size

    def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    scale = empty(K // group_size, N).T
    zero = None if symmetric else empty(K // group_size, N).T
    weight = W4A16Weight(empty(K // BLOCK, N, SLICE, dtype=torch.int32), scale, zero)
    return w4a16_gemm_launches(empty(M, K), weight, group_size, None, empty(M, N), capability)[which]


def _problem(size: tuple[int, int, int], group_size: int, *, symmetric: bool) -> Problem:
    M, N, K = size
    parameters = (1 if symmetric else 2) * N * K // group_size
    return Problem(
        f"w4a16_gemm {M}x{N}x{K} g{group_size}{'' if symmetric else ' asymmetric'}",
        partial(_launch, size, group_size, 0, symmetric=symmetric),
        bytes=N * K // 2 + 2 * (parameters + M * K + M * N),
        flops=2 * M * N * K,
        unit="fp16_tensor",
    )


_FEW = SIZES[1]
PROBLEMS = (
    *(_problem(size, BLOCK, symmetric=True) for size in SIZES),
    *(_problem(size, 32, symmetric=False) for size in (_FEW, SIZES[-1])),
    sum_problem(
        f"w4a16_gemm {_FEW[0]}x{_FEW[1]}",
        partial(_launch, _FEW, BLOCK, 1, symmetric=True),
        *_FEW[:2],
        bytes_of_scales=0,
    ),
)
