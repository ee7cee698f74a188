"""`quantize_per_token` on a card: a program per token reads it twice, for its scale and for its codes.

The second time it comes from the card's cache; a token that fits into one program's registers is read once.
"""

# ruff: noqa: ANN001, ANN202, PLR0917 - kernels are written in Triton's language: it has no types, and many parameters
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from saffron_kernels.launch import Launch
from saffron_kernels.problem import Problem
from saffron_kernels.rounding_triton import fp8_bits, rint

_BLOCK = 16384
"""Most columns that a program holds at once."""
_COLUMNS_PER_WARP = 1024
_MOST_WARPS = 16


def quantize_per_token(x: Tensor) -> tuple[Tensor, Tensor]:
    """As the op of this name."""
    codes = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    scale = torch.empty(len(x), 1, dtype=torch.float32, device=x.device)
    if x.numel():
        quantize_per_token_launch(x, codes, scale).run()
    return codes, scale


def quantize_per_token_fp8(x: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """As the op of this name."""
    codes = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
    scales = torch.empty(len(x), 1, dtype=torch.float32, device=x.device)
    if x.numel():
        quantize_per_token_fp8_launch(x, scale, codes, scales).run()
    return codes.view(torch.float8_e4m3fn), scales


def quantize_per_token_launch(x: Tensor, codes: Tensor, scale: Tensor) -> Launch:
    """Write codes [M, K] int8 and scale [M, 1] of x [M, K]."""
    return Launch(_int8, (x.shape[0],), _arguments(x, codes, scale), num_warps=_warps(x.shape[1]), fp_fusion=False)


def quantize_per_token_fp8_launch(x: Tensor, given: Tensor | None, codes: Tensor, scale: Tensor) -> Launch:
    """Write codes [M, K], the bits of e4m3 as uint8, and scale [M, 1] of x [M, K].

    The bits are put together from integers, which every card can, so that no card needs another kernel.
    """
    arguments = _arguments(x, codes, scale) | {"given": given}
    return Launch(_fp8, (x.shape[0],), arguments, num_warps=_warps(x.shape[1]), fp_fusion=False)


def _arguments(x: Tensor, codes: Tensor, scale: Tensor) -> dict[str, Any]:
    K = x.shape[1]
    block = min(_BLOCK, triton.next_power_of_2(K))
    strides = {"stride_x": x.stride(0), "stride_xk": x.stride(1), "stride_codes": codes.stride(0)}
    return {"x": x, "codes": codes, "scale": scale, "K": K, **strides, "BLOCK": block, "FITS": block >= K}


def _warps(K: int) -> int:
    warps: int = triton.next_power_of_2(triton.cdiv(K, _COLUMNS_PER_WARP))
    return min(warps, _MOST_WARPS)


def _problem(tokens: int, K: int, *, fp8: bool) -> Problem:
    def launch(_: tuple[int, int]) -> Launch:
        def empty(columns: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(tokens, columns, dtype=dtype, device="meta")

        x, scale = empty(K, torch.bfloat16), empty(1, torch.float32)
        if fp8:
            return quantize_per_token_fp8_launch(x, None, empty(K, torch.uint8), scale)
        return quantize_per_token_launch(x, empty(K, torch.int8), scale)

    return Problem(
        f"quantize_per_token{'_fp8' if fp8 else ''} {tokens}x{K}",
        launch,
        bytes=tokens * (2 * K + K + 4),
        flops=3 * tokens * K,
        unit="fp32",
    )


PROBLEMS = tuple(
    _problem(tokens, K, fp8=fp8) for fp8 in (False, True) for tokens, K in ((1, 4096), (2048, 4096), (2048, 14336))
)


@triton.jit
def _larger(a, b):
    """The larger one, or NaN where there is one: it must not vanish in a product of integers."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _load(x, k, stride_xk, K):
    return tl.load(x + k.to(tl.int64) * stride_xk, mask=k < K, other=0.0).to(tl.float32)


@triton.jit
def _absmax(x, stride_xk, K, BLOCK: tl.constexpr):
    """Of one token, which is read block by block."""
    largest = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, K, BLOCK):
        largest = _larger(largest, tl.abs(_load(x, first + tl.arange(0, BLOCK), stride_xk, K)))
    return tl.reduce(largest, 0, _larger)


@triton.jit
def _int8_codes(x, scale):
    """Half to even, by a sum whose last bit is 1: no quotient is above 127 by more than its own rounding."""
    quotient = tl.div_rn(x, tl.maximum(scale, 1.1754943508222875e-38))  # the smallest normal number
    return rint(quotient).to(tl.int8)


@triton.jit
def _int8(x, codes, scale, K, stride_x, stride_xk, stride_codes, BLOCK: tl.constexpr, FITS: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    x += token * stride_x
    codes += token * stride_codes
    columns = tl.arange(0, BLOCK)
    if FITS:
        held = _load(x, columns, stride_xk, K)
        s = tl.div_rn(tl.reduce(tl.abs(held), 0, _larger), 127.0)
        tl.store(codes + columns, _int8_codes(held, s), mask=columns < K)
    else:
        s = tl.div_rn(_absmax(x, stride_xk, K, BLOCK), 127.0)
        for first in range(0, K, BLOCK):
            k = first + columns
            tl.store(codes + k, _int8_codes(_load(x, k, stride_xk, K), s), mask=k < K)
    tl.store(scale + token, s)


@triton.jit
def _fp8(x, given, codes, scale, K, stride_x, stride_xk, stride_codes, BLOCK: tl.constexpr, FITS: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    x += token * stride_x
    codes += token * stride_codes
    columns = tl.arange(0, BLOCK)
    if FITS:
        held = _load(x, columns, stride_xk, K)
    if given is not None:
        s = tl.load(given)
    else:
        largest = tl.reduce(tl.abs(held), 0, _larger) if FITS else _absmax(x, stride_xk, K, BLOCK)
        s = _larger(tl.div_rn(largest, 448.0), 1 / (448 * 512))
    reciprocal = tl.div_rn(1.0, s)
    if FITS:
        tl.store(codes + columns, fp8_bits(held * reciprocal), mask=columns < K)
    else:
        for first in range(0, K, BLOCK):
            k = first + columns
            tl.store(codes + k, fp8_bits(_load(x, k, stride_xk, K) * reciprocal), mask=k < K)
    tl.store(scale + token, s)
