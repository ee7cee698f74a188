"""`awq_loss` on a card: a program rounds its rows group by group and multiplies each with a tile of the Hessian."""

# ruff: noqa: ANN001, ANN201, ANN202, PLR0917, SIM108 - kernels are written in Triton's language, which has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

import torch
import triton
import triton.language as tl
from torch import Tensor

from saffron_kernels.launch import Launch
from saffron_kernels.problem import Problem
from saffron_kernels.rounding_triton import rint, rounded_to, stored
from saffron_kernels.scale_search import code_range

_ROWS = 64
_PANEL = 64
"""Columns of the Hessian that a program multiplies with, at the most."""
_STEP = 32
"""Columns of the weights that are rounded for one product, at the most. More of either would need more registers."""


@triton.jit
def _scaled(W, s, row, rows, first, stride_row, stride_column, COLUMNS: tl.constexpr):
    """Weights and the scales of their columns from column `first` on, [ROWS, COLUMNS] each."""
    column = first + tl.arange(0, COLUMNS)
    at = W + row[:, None].to(tl.int64) * stride_row + column[None, :].to(tl.int64) * stride_column
    w = tl.load(at, (row < rows)[:, None], 0.0).to(tl.float32)
    return w, tl.broadcast_to(tl.load(s + column)[None, :], w.shape)


@triton.jit
def _min_max(
    W,
    s,
    row,
    rows,
    first,
    stride_row,
    stride_column,
    low: tl.constexpr,
    high: tl.constexpr,
    tiny: tl.constexpr,
    symmetric: tl.constexpr,
    dtype: tl.constexpr,
    SIZE: tl.constexpr,
    STEP: tl.constexpr,
):
    """Scales and zero points, [ROWS] each, of the group that begins at column `first`."""
    smallest = tl.zeros([row.shape[0]], tl.float32)
    largest = tl.zeros([row.shape[0]], tl.float32)
    for column in range(first, first + SIZE, STEP):
        w, by = _scaled(W, s, row, rows, column, stride_row, stride_column, STEP)
        smallest = tl.minimum(smallest, tl.min(w * by, axis=1))
        largest = tl.maximum(largest, tl.max(w * by, axis=1))
    steps = tl.full([row.shape[0]], high - low, tl.float32)
    if symmetric:
        full = tl.div_rn(tl.maximum(largest, -smallest) * 2, steps)
    else:
        full = tl.div_rn(largest - smallest, steps)
    scale = stored(full, dtype, tiny)
    zero = tl.zeros([row.shape[0]], tl.float32)
    if not symmetric:
        zero = tl.minimum(tl.maximum(rint(low - tl.div_rn(smallest, scale)), low), high)
    return scale, zero


@triton.jit
def _change(
    W,
    s,
    row,
    rows,
    first,
    stride_row,
    stride_column,
    scale,
    zero,
    low: tl.constexpr,
    high: tl.constexpr,
    dtype: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """ΔW from column `first` on, [ROWS, COLUMNS], all of one group."""
    w, by = _scaled(W, s, row, rows, first, stride_row, stride_column, COLUMNS)
    step = tl.broadcast_to(scale[:, None], w.shape)
    code = tl.minimum(tl.maximum(rint(tl.div_rn(w * by, step)) + zero[:, None], low), high)
    return tl.div_rn(rounded_to((code - zero[:, None]) * step, dtype), by) - w


@triton.jit
def awq_loss_kernel(
    W,
    s,
    H,
    parts,
    rows,
    columns,
    panels,
    stride_row,
    stride_column,
    stride_H,
    low: tl.constexpr,
    high: tl.constexpr,
    tiny: tl.constexpr,
    symmetric: tl.constexpr,
    dtype: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    PANEL: tl.constexpr,
    STEP: tl.constexpr,
):
    """parts[rows, panels]: for each panel of columns its products with itself and with all columns after it."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    own = tl.program_id(1) * PANEL
    across = own + tl.arange(0, PANEL)
    weighed = tl.zeros([ROWS, PANEL], tl.float32)
    for group in range(own // SIZE * SIZE, columns, SIZE):
        scale, zero = _min_max(
            W, s, row, rows, group, stride_row, stride_column, low, high, tiny, symmetric, dtype, SIZE, STEP
        )
        for first in range(group, group + SIZE, STEP):
            change = _change(W, s, row, rows, first, stride_row, stride_column, scale, zero, low, high, dtype, STEP)
            down = first + tl.arange(0, STEP)
            at = H + down[:, None].to(tl.int64) * stride_H + across[None, :]
            h = tl.load(at, down[:, None] >= across[None, :], 0.0)
            h = tl.where(down[:, None] > across[None, :], 2 * h, h)
            weighed = tl.dot(change, h, weighed, input_precision="tf32x3")
    scale, zero = _min_max(
        W, s, row, rows, own // SIZE * SIZE, stride_row, stride_column, low, high, tiny, symmetric, dtype, SIZE, STEP
    )
    change = _change(W, s, row, rows, own, stride_row, stride_column, scale, zero, low, high, dtype, PANEL)
    part = tl.sum(weighed * change, axis=1)
    tl.store(parts + row.to(tl.int64) * panels + tl.program_id(1), part, row < rows)


def panels(columns: int, group_size: int) -> int:
    """Into how many panels the columns are divided."""
    return columns // min(_PANEL, group_size)


def awq_loss_launch(
    W: Tensor,
    s: Tensor,
    H: Tensor,
    parts: Tensor,
    *,
    bits: int,
    group_size: int,
    scale_dtype: torch.dtype,
    symmetric: bool,
) -> Launch:
    """The launch that fills `parts`, whose sum over the panels is the loss.

    Args:
        W: [R, C], floating, of any strides.
        s: [C] float32.
        H: [C, C] float32.
        parts: [R, panels] float32, contiguous.
        bits: width of a code.
        group_size: columns that share a scale.
        scale_dtype: of the stored scales.
        symmetric: whether codes lie around 0.
    """
    low, high = code_range(bits)
    H = H if H.stride(1) == 1 else H.contiguous()
    return Launch(
        awq_loss_kernel,
        (triton.cdiv(len(W), _ROWS), parts.shape[1]),
        {
            "W": W,
            "s": s.contiguous(),
            "H": H,
            "parts": parts,
            "rows": W.shape[0],
            "columns": W.shape[1],
            "panels": parts.shape[1],
            "stride_row": W.stride(0),
            "stride_column": W.stride(1),
            "stride_H": H.stride(0),
            "low": low,
            "high": high,
            "tiny": torch.finfo(scale_dtype).tiny,
            "symmetric": symmetric,
            "dtype": _TYPES[scale_dtype],
            "SIZE": group_size,
            "ROWS": _ROWS,
            "PANEL": min(_PANEL, group_size),
            "STEP": min(_STEP, group_size),
        },
        num_warps=8,
        num_stages=2,
        fp_fusion=False,
    )


_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def _problem(rows: int, columns: int, size: int) -> Problem:
    def launch(capability: tuple[int, int]) -> Launch:
        del capability  # one launch suits all
        W = torch.empty(rows, columns, dtype=torch.bfloat16, device="meta")
        s, H = torch.empty(columns, device="meta"), torch.empty(columns, columns, device="meta")
        parts = torch.empty(rows, panels(columns, size), device="meta")
        return awq_loss_launch(W, s, H, parts, bits=4, group_size=size, scale_dtype=torch.bfloat16, symmetric=True)

    return Problem(
        f"awq_loss {rows}x{columns} g{size}",
        launch,
        bytes=2 * rows * columns + 2 * columns * columns + 4 * rows * panels(columns, size),
        # Half of a product and a sum for each number of the whole Hessian; three TF32 products for one of float32, each
        # at half the rate of float16.
        flops=6 * rows * columns * columns,
        unit="fp16_tensor",
    )


PROBLEMS = (_problem(4096, 4096, 128), _problem(4096, 4096, 64))
