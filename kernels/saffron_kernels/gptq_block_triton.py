"""`gptq_block` in Triton: a thread takes a row and goes through the block's columns, looking back instead of ahead.

Algorithm 1 looks ahead: it takes an error out of all later columns at once. A tile of weights then lives in registers,
and as registers have no index that changes, a column is found in it by a sum over all of them. Here column c takes the
errors in when its turn comes: w_c - e_0 U_0c - … - e_(c-1) U_(c-1)c, one after the other. Those are the same operations
on every weight in the same order, so no bit differs, in a fifth of the instructions (compiled for sm_90, 128 columns).
Rows never meet, so threads exchange nothing, and errors are read again from where they must be written anyway. Columns
are done in chunks whose weights stay in registers of their own, so that an error is read once a chunk.
"""

# ruff: noqa: ANN001, ANN201, ANN202, C901, PLR0917, RUF005 - Triton's language: no types, many parameters, no unpacking
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment"

import torch
import triton
import triton.language as tl
from torch import Tensor

from saffron_kernels.launch import Launch
from saffron_kernels.problem import Problem
from saffron_kernels.rounding_triton import rint

_CHUNK = 8
"""Columns of a chunk: with 16, a tenth fewer instructions are done, and four times longer is compiled."""
_ROWS = ((131072, 128), (32768, 64), (0, 32))
"""With so many rows, so many are done by a warp: several a thread share what is read of U, once all SMs have work."""


@triton.jit
def _of_column(pointer, inside, EVEN: tl.constexpr):
    """A number of a column that may not be there; in whole chunks they all are, and nothing is asked."""
    if EVEN:
        return tl.load(pointer)
    return tl.load(pointer, mask=inside, other=0)


@triton.jit
def gptq_block_kernel(
    W,
    U,
    scale,
    zero,
    group_of_column,
    codes,
    dequantized,
    error,
    rows,
    columns,
    qmin,
    qmax,
    W_item,
    W_row,
    W_column,
    U_item,
    U_row,
    U_column,
    scale_item,
    scale_row,
    scale_group,
    zero_item,
    zero_row,
    zero_group,
    group_item,
    group_column,
    out_item,
    out_row,
    out_column,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Program (p, b) takes ROWS rows of matrix b through its columns, CHUNK at a time; EVEN: no chunk is cut short."""
    item = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = row < rows
    W += item * W_item + row.to(tl.int64) * W_row
    U += item * U_item
    scale += item * scale_item + row.to(tl.int64) * scale_row
    if zero is not None:
        zero += item * zero_item + row.to(tl.int64) * zero_row
    group_of_column += item * group_item
    out = item * out_item + row.to(tl.int64) * out_row
    codes += out
    dequantized += out
    error += out
    for begin in range(0, columns, CHUNK):
        w = ()
        for k in tl.static_range(CHUNK):
            w = w + (tl.load(W + (begin + k) * W_column, mask=real & (begin + k < columns), other=0.0),)
        for chunk in range(0, begin, CHUNK):
            for j in tl.static_range(CHUNK):
                before = chunk + j
                e = tl.load(error + before * out_column, mask=real, other=0.0)
                left = ()
                for k in tl.static_range(CHUNK):
                    u = _of_column(U + before * U_row + (begin + k) * U_column, begin + k < columns, EVEN)
                    left = left + (w[k] - e * u,)
                w = left
        for k in tl.static_range(CHUNK):
            column = begin + k
            inside = column < columns
            group = _of_column(group_of_column + column * group_column, inside, EVEN)
            s = tl.load(scale + group * scale_group, mask=real, other=1.0)
            # Its zero is always added, as the reference does: that makes -0.0 a 0.0.
            z = tl.zeros_like(s)
            if zero is not None:
                z = tl.load(zero + group * zero_group, mask=real, other=0.0)
            code = tl.minimum(tl.maximum(rint(tl.div_rn(w[k], s)) + z, qmin), qmax)
            q = (code - z) * s
            diagonal = tl.load(U + column * (U_row + U_column), mask=inside, other=1.0)
            e = tl.div_rn(w[k] - q, diagonal)
            tl.store(codes + column * out_column, code.to(tl.int8), mask=real & inside)
            tl.store(dequantized + column * out_column, q, mask=real & inside)
            tl.store(error + column * out_column, e, mask=real & inside)
            left = ()
            for later in tl.static_range(CHUNK):
                if later > k:
                    u = _of_column(U + column * U_row + (begin + later) * U_column, begin + later < columns, EVEN)
                    left = left + (w[later] - e * u,)
                else:
                    left = left + (w[later],)
            w = left
        # The next chunk reads the errors, maybe in other threads than those that wrote them.
        tl.debug_barrier()


def gptq_block_launch(
    W: Tensor,
    U: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    group_of_column: Tensor,
    qmin: int,
    qmax: int,
    codes: Tensor,
    dequantized: Tensor,
    error: Tensor,
) -> Launch:
    """The launch of `gptq_block`; inputs have any strides.

    Args:
        W: as there.
        U: as there.
        scale: as there.
        zero: as there.
        group_of_column: as there.
        qmin: as there.
        qmax: as there.
        codes: [B, R, C] int8, filled.
        dequantized: [B, R, C] float32, filled; strides as those of `codes`.
        error: likewise. With rows side by side in memory, threads write and read side by side.
    """
    items, rows, columns = W.shape
    block = next(each for least, each in _ROWS if items * rows >= least)
    strides = {
        ("W_item", "W_row", "W_column"): W.stride(),
        ("U_item", "U_row", "U_column"): U.stride(),
        ("scale_item", "scale_row", "scale_group"): scale.stride(),
        ("zero_item", "zero_row", "zero_group"): (0, 0, 0) if zero is None else zero.stride(),
        ("group_item", "group_column"): group_of_column.stride(),
        ("out_item", "out_row", "out_column"): codes.stride(),
    }
    return Launch(
        gptq_block_kernel,
        (triton.cdiv(rows, block), items),
        {
            "W": W,
            "U": U,
            "scale": scale,
            "zero": zero,
            "group_of_column": group_of_column,
            "codes": codes,
            "dequantized": dequantized,
            "error": error,
            "rows": rows,
            "columns": columns,
            "qmin": float(qmin),
            "qmax": float(qmax),
            **{name: size for names, sizes in strides.items() for name, size in zip(names, sizes, strict=True)},
            "ROWS": block,
            "CHUNK": _CHUNK,
            "EVEN": columns % _CHUNK == 0,
        },
        # One warp, so that the programs of a narrow matrix are spread over all SMs.
        num_warps=1,
        num_stages=1,
        # A fused product and difference would round once where the reference rounds twice.
        fp_fusion=False,
    )


def _problem(rows: int, width: int, groups: int, items: int = 1, *, zero: bool = False) -> Problem:
    """A block of 128 columns of a matrix of that width."""
    columns = 128

    def launch(_capability: tuple[int, int]) -> Launch:
        def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device="meta")

        codes, dequantized, error = (
            meta(items, columns, rows, dtype=dtype).mT for dtype in (torch.int8, torch.float32, torch.float32)
        )
        return gptq_block_launch(
            meta(items, rows, width)[:, :, :columns],
            meta(items, width, width)[:, :columns, :columns],
            meta(items, rows, groups),
            meta(items, rows, groups) if zero else None,
            meta(items, columns, dtype=torch.int32),
            -8,
            7,
            codes,
            dequantized,
            error,
        )

    scales = rows * groups * 4 * (2 if zero else 1)
    return Problem(
        name=f"gptq_block {f'{items}x' if items > 1 else ''}{rows}x{columns}{' asymmetric' if zero else ''}",
        launch=launch,
        # W, codes, dequantized weights and errors; the triangle of U; scales.
        bytes=items * (rows * columns * 13 + columns * (columns + 1) // 2 * 4 + scales + columns * 4),
        # Each pair of columns is a product and a difference; a column is two quotients and six other operations.
        flops=items * rows * (columns * (columns - 1) + 8 * columns),
        unit="fp32",
    )


PROBLEMS = (
    # Llama-3-8B: one projection, gate and up together, and down in an act-order that needs all groups; experts at once.
    _problem(4096, 4096, 32),
    _problem(28672, 4096, 32),
    _problem(4096, 14336, 112, zero=True),
    _problem(1536, 2048, 16, items=128),
)
