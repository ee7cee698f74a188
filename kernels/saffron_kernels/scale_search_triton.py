"""The search for scales on a card: a program holds the error of several groups' candidates in registers."""

# ruff: noqa: ANN001, ANN201, ANN202, PLR0124, PLR0917, PLR2004, SIM108 - kernels are written in Triton's language, which has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

import torch
import triton
import triton.language as tl
from torch import Tensor

from saffron_kernels.launch import Launch
from saffron_kernels.problem import Problem
from saffron_kernels.quantize_pack_triton import side_by_side
from saffron_kernels.rounding_triton import rint, stored
from saffron_kernels.scale_search import CHUNK, code_range

_GROUPS = 32
"""Groups of a program, where there are many."""
_FEW = 1 << 14
"""Groups below which programs are smaller, so that a card has enough of them: scales of whole rows are few."""
_GROUPS_OF_FEW = 8
_CANDIDATES = 8
"""Candidates whose errors are summed side by side. Each weight is loaded once for so many, mostly from the L1 cache."""
_WIDE = 32
"""Columns that are looked at at once for a group's range, few enough to leave registers for more programs."""


@triton.jit
def scale_search_kernel(
    W,
    factors,
    importance,
    scale,
    zero,
    n,
    groups,
    size,
    count,
    stride_row,
    stride_column,
    low: tl.constexpr,
    high: tl.constexpr,
    tiny: tl.constexpr,
    symmetric: tl.constexpr,
    exponent: tl.constexpr,
    GROUPS: tl.constexpr,
    CANDIDATES: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """scale[n] and zero[n] of n = rows · groups from W[rows, groups · size]; `count` factors."""
    number = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    here = number < n
    group = number % groups
    base = W + (number // groups).to(tl.int64) * stride_row + (group * size).to(tl.int64) * stride_column
    columns = tl.arange(0, WIDE)

    smallest = tl.zeros([GROUPS], tl.float32)
    largest = tl.zeros([GROUPS], tl.float32)
    for begin in range(0, size, WIDE):
        inside = here[:, None] & (begin + columns < size)[None, :]
        w = tl.load(base[:, None] + (begin + columns)[None, :] * stride_column, inside, 0.0).to(tl.float32)
        smallest = tl.minimum(smallest, tl.min(w, axis=1))
        largest = tl.maximum(largest, tl.max(w, axis=1))
    steps = tl.full([GROUPS], high - low, tl.float32)
    if symmetric:
        full = tl.div_rn(tl.maximum(largest, -smallest) * 2, steps)
    else:
        full = tl.div_rn(largest - smallest, steps)

    least = tl.full([GROUPS], float("inf"), tl.float32)
    best = tl.zeros([GROUPS], tl.int32)
    for first in range(0, count, CANDIDATES):
        candidate = first + tl.arange(0, CANDIDATES)
        factor = tl.load(factors + candidate, candidate < count, 1.0)
        s = stored(full[:, None] * factor[None, :], scale.dtype.element_ty, tiny)
        z = tl.zeros([GROUPS, CANDIDATES], tl.float32)
        if not symmetric:
            z = _zero(smallest[:, None] * factor[None, :], s, low, high)
        error = tl.zeros([GROUPS, CANDIDATES], tl.float32)
        for begin in range(0, size, CHUNK):
            part = tl.zeros([GROUPS, CANDIDATES], tl.float32)
            for column in range(begin, tl.minimum(begin + CHUNK, size)):
                w = tl.load(base + column * stride_column, here, 0.0).to(tl.float32)[:, None]
                code = tl.minimum(tl.maximum(rint(tl.div_rn(tl.broadcast_to(w, s.shape), s)) + z, low), high)
                power = _power((code - z) * s - w, exponent)
                if importance is not None:
                    power *= tl.load(importance + group * size + column, here, 0.0)[:, None]
                part += power
            error += part
        # A sum that is not a number is never the least, and neither is what lies beyond the last factor.
        error = tl.where((error == error) & (candidate < count)[None, :], error, float("inf"))
        smallest_error = tl.min(error, axis=1)
        found = tl.min(tl.where(error == smallest_error[:, None], candidate[None, :], count), axis=1)
        best = tl.where(smallest_error < least, found, best)
        least = tl.minimum(smallest_error, least)

    factor = tl.load(factors + best)
    s = stored(full * factor, scale.dtype.element_ty, tiny)
    z = tl.zeros([GROUPS], tl.float32)
    if not symmetric:
        z = _zero(smallest * factor, s, low, high)
    tl.store(scale + number, s.to(scale.dtype.element_ty), here)
    tl.store(zero + number, z.to(tl.int8), here)


@triton.jit
def _zero(lowest, s, low: tl.constexpr, high: tl.constexpr):
    """The zero point with which the smallest code stands for the lowest weight."""
    return tl.minimum(tl.maximum(rint(low - tl.div_rn(lowest, s)), low), high)


@triton.jit
def _power(error, exponent: tl.constexpr):
    """|error|^p."""
    squared = error * error
    if exponent == 4.0:
        squared *= squared
    elif exponent == 2.5:
        squared *= tl.sqrt_rn(tl.abs(error))
    return squared


def scale_search_launch(
    W: Tensor,
    factors: Tensor,
    importance: Tensor | None,
    scale: Tensor,
    zero: Tensor,
    *,
    bits: int,
    symmetric: bool,
    exponent: float,
) -> Launch:
    """The launch that fills `scale` and `zero`.

    Args:
        W: [R, C], floating, of any strides.
        factors: [F] float32.
        importance: [C] float32 or None.
        scale: [R, G] in its stored type, contiguous.
        zero: [R, G] int8, contiguous.
        bits: width of a code.
        symmetric: whether codes lie around 0.
        exponent: of the errors.
    """
    low, high = code_range(bits)
    groups = _GROUPS if scale.numel() >= _FEW else _GROUPS_OF_FEW
    return Launch(
        scale_search_kernel,
        (triton.cdiv(scale.numel(), groups),),
        {
            "W": W,
            "factors": factors,
            "importance": side_by_side(importance),
            "scale": scale,
            "zero": zero,
            "n": scale.numel(),
            "groups": scale.shape[1],
            "size": W.shape[1] // scale.shape[1],
            "count": len(factors),
            "stride_row": W.stride(0),
            "stride_column": W.stride(1),
            "low": low,
            "high": high,
            "tiny": torch.finfo(scale.dtype).tiny,
            "symmetric": symmetric,
            "exponent": exponent,
            "GROUPS": groups,
            "CANDIDATES": _CANDIDATES,
            "CHUNK": CHUNK,
            "WIDE": _WIDE,
        },
        num_warps=groups // 8,
        fp_fusion=False,
    )


def _problem(rows: int, columns: int, group_size: int | None, factors: int, *, symmetric: bool) -> Problem:
    groups = columns // (group_size or columns)

    def launch(capability: tuple[int, int]) -> Launch:
        del capability  # one launch suits all
        W = torch.empty(rows, columns, dtype=torch.bfloat16, device="meta")
        multiples, importance = (torch.empty(count, device="meta") for count in (factors, columns))
        scale = torch.empty(rows, groups, dtype=torch.bfloat16, device="meta")
        zero = torch.empty(rows, groups, dtype=torch.int8, device="meta")
        return scale_search_launch(W, multiples, importance, scale, zero, bits=4, symmetric=symmetric, exponent=2.0)

    kind = "" if symmetric else " with zero points"
    return Problem(
        f"scale_search {rows}x{columns} g{group_size or columns} of {factors}{kind}",
        launch,
        bytes=2 * rows * columns + 4 * (columns + factors) + 3 * rows * groups,
        flops=_OPERATIONS * factors * rows * columns,
        unit="fp32",
    )


_OPERATIONS = 11
"""Of a weight and a candidate: quotient, rounding, zero point, two bounds, scale, difference, square and sum."""

PROBLEMS = (
    _problem(4096, 4096, 128, 21, symmetric=True),
    _problem(4096, 4096, 128, 21, symmetric=False),
    _problem(4096, 14336, None, 8, symmetric=True),
)
