"""Products of 8-bit codes with a scale per token and per output channel on a card: `w8a8_gemm` and `fp8_gemm`.

The tensor cores multiply the codes as they are; scales and bias come in once, at the end. The weights are the left
operand, yᵀ = W · xᵀ, because the tensor cores of sm_90 want 64 rows on the left, which few tokens have not.
"""

# ruff: noqa: ANN001, ANN202, PLR0917 - kernels are written in Triton's language: it has no types, and many parameters
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from saffron_kernels.launch import Launch
from saffron_kernels.problem import Problem, Unit
from saffron_kernels.split_k_triton import SIZES, epilogue, finish_launch, splits, sum_problem

FP8_CAPABILITY = (8, 9)
"""The first compute capability that multiplies FP8."""

_FEW_TOKENS, _SOME_TOKENS = 16, 64
_FEWEST_STEPS = 4
_GROUP = 8
"""Rows of tiles that are done together, so that weights are read from the card's cache."""


@dataclass(frozen=True)
class _Tile:
    """What a program computes, and how: `programs` of them keep a card of 100 to 140 multiprocessors busy."""

    M: int
    N: int
    K: int
    warps: int
    stages: int
    programs: int


def scaled_gemm(
    codes: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
    capability: tuple[int, int],
) -> Tensor:
    """As the ops: codes [M, K] and weight [N, K] of one 8-bit type -> [M, N]."""
    y = torch.empty(codes.shape[0], weight.shape[0], dtype=out_dtype, device=codes.device)
    scale, weight_scale = scale.contiguous(), weight_scale.contiguous()
    bias = None if bias is None else bias.contiguous()
    if y.numel():
        for launch in scaled_gemm_launches(codes, scale, weight, weight_scale, bias, y, capability):
            launch.run()
    return y


def scaled_gemm_launches(
    codes: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    y: Tensor,
    capability: tuple[int, int],
) -> list[Launch]:
    """Write y [M, N]: in one launch, or in two where several programs share a tile.

    Scales, bias and y are contiguous; codes and weight need not be, but are read best where their rows are.

    Raises:
        NotImplementedError: the codes are FP8, and the card has none.
    """
    (M, K), N = codes.shape, weight.shape[0]
    integer = codes.dtype == torch.int8
    if not integer and capability < FP8_CAPABILITY:
        raise NotImplementedError(
            f"compute capability {capability[0]}.{capability[1]} has no FP8, 8.9 is the first: "
            "dequantize the weights and multiply in bfloat16"
        )
    tile = _tile(M, codes.dtype, capability)
    tiles = triton.cdiv(M, tile.M) * triton.cdiv(N, tile.N)
    S = splits(tiles, tile.programs, triton.cdiv(K, tile.K), _FEWEST_STEPS)
    sums = torch.empty(S, M, N, dtype=torch.int32 if integer else torch.float32, device=y.device) if S > 1 else None
    arguments: dict[str, Any] = {
        "codes": codes,
        "scale": scale,
        "weight": weight,
        "weight_scale": weight_scale,
        "bias": bias,
        "y": y if sums is None else sums,
        "M": M,
        "N": N,
        "K": K,
        "stride_m": codes.stride(0),
        "stride_codes_k": codes.stride(1),
        "stride_n": weight.stride(0),
        "stride_weight_k": weight.stride(1),
        "SPLITS": S,
        "SUM": tl.int32 if integer else tl.float32,
        "TILE_M": tile.M,
        "TILE_N": tile.N,
        "TILE_K": tile.K,
        "GROUP": _GROUP,
    }
    # No fused operation in the epilogue: the product of int8 is equal bit by bit to what other devices compute.
    product = Launch(_gemm, (tiles, S), arguments, num_warps=tile.warps, num_stages=tile.stages, fp_fusion=False)
    return [product] if sums is None else [product, finish_launch(sums, scale, weight_scale, bias, y)]


def _tile(M: int, dtype: torch.dtype, capability: tuple[int, int]) -> _Tile:
    if M <= _FEW_TOKENS:
        return _Tile(16, 64, 256, 4, 4, 512)
    if M <= _SOME_TOKENS:
        return _Tile(64, 128, 128, 8, 3, 256)
    # FP8 on sm_90 keeps the sum of a step beside the whole one, which leaves no registers for a wider tile.
    if capability >= (9, 0) and dtype == torch.int8:
        return _Tile(128, 256, 128, 8, 3, 128)
    return _Tile(128, 128, 128, 8, 3, 128)


def scaled_gemm_problems(op: str, dtype: torch.dtype, unit: Unit) -> tuple[Problem, ...]:
    """Representative products of codes of a type, and the sum of the programs that share a tile."""
    products = tuple(
        Problem(
            f"{op} {M}x{N}x{K}",
            partial(_launch, dtype, (M, N, K), 0),
            bytes=M * K + N * K + 4 * (M + N) + 2 * M * N,
            flops=2 * M * N * K,
            unit=unit,
        )
        for M, N, K in SIZES
    )
    M, N, _ = SIZES[1]
    sums = sum_problem(f"{op} {M}x{N}", partial(_launch, dtype, SIZES[1], 1), M, N, bytes_of_scales=4 * (M + N))
    return (*products, sums)


def _launch(dtype: torch.dtype, size: tuple[int, int, int], which: int, capability: tuple[int, int]) -> Launch:
    """The product, to bfloat16 and without bias, or the sum after it."""
    M, N, K = size

    def empty(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(rows, columns, dtype=dtype, device="meta")

    codes, weight = empty(M, K, dtype), empty(N, K, dtype)
    scale, weight_scale = empty(M, 1, torch.float32), empty(N, 1, torch.float32)
    y = empty(M, N, torch.bfloat16)
    return scaled_gemm_launches(codes, scale, weight, weight_scale, None, y, capability)[which]


@triton.jit
def _gemm(
    codes,
    scale,
    weight,
    weight_scale,
    bias,
    y,
    M,
    N,
    K,
    stride_m,
    stride_codes_k,
    stride_n,
    stride_weight_k,
    SPLITS: tl.constexpr,
    SUM: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    tile_m, tile_n = _tile_of_program(tl.program_id(0), tl.cdiv(M, TILE_M), tl.cdiv(N, TILE_N), GROUP)
    m = tile_m * TILE_M + tl.arange(0, TILE_M)
    n = tile_n * TILE_N + tl.arange(0, TILE_N)
    split = tl.program_id(1)
    steps = tl.cdiv(K, TILE_K)
    first, last = steps * split // SPLITS, steps * (split + 1) // SPLITS

    k = (first * TILE_K + tl.arange(0, TILE_K)).to(tl.int64)
    w = weight + n.to(tl.int64)[:, None] * stride_n + (k * stride_weight_k)[None, :]
    x = codes + m.to(tl.int64)[None, :] * stride_m + (k * stride_codes_k)[:, None]
    total = tl.zeros((TILE_N, TILE_M), SUM)
    for step in range(first, last):
        inside = tl.arange(0, TILE_K) < K - step * TILE_K
        w_part = tl.load(w, mask=(n < N)[:, None] & inside[None, :], other=0.0)
        x_part = tl.load(x, mask=inside[:, None] & (m < M)[None, :], other=0.0)
        # FP8 sums of a step are added up in float32: the tensor cores of sm_90 keep some 14 bits of them (arXiv
        # 2412.19437, section 3.3.2).
        total = tl.dot(w_part, x_part, total, max_num_imprecise_acc=TILE_K, out_dtype=SUM)
        w += TILE_K * stride_weight_k
        x += TILE_K * stride_codes_k

    row, column = m[None, :], n[:, None]
    if SPLITS == 1:
        total = epilogue(total.to(tl.float32), scale, weight_scale, bias, row, column, M, N)
    y += split.to(tl.int64) * M * N
    tl.store(y + row.to(tl.int64) * N + column, total.to(y.dtype.element_ty), mask=(row < M) & (column < N))


@triton.jit
def _tile_of_program(program, tiles_m, tiles_n, GROUP: tl.constexpr):
    """Where a program's tile lies: GROUP rows of tiles are gone through column by column."""
    per_group = GROUP * tiles_n
    first_m = program // per_group * GROUP
    rows = tl.minimum(tiles_m - first_m, GROUP)
    return first_m + program % per_group % rows, program % per_group // rows
