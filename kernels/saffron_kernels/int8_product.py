"""What compiled loops of int8 products have in common: what they are told, and how they make tokens ready.

Tokens may come as floats: they are quantized in the same loop, as `quantize_per_token` does it, before any is
multiplied. A small layer is multiplied so fast that to start threads twice would be seen.
"""

# numba and llvmlite have no types for mypy.
# ruff: noqa: ANN401

from typing import Any, NamedTuple

import numpy as np
import torch
from numba import carray, njit
from torch import Tensor

from saffron_kernels import openmp
from saffron_kernels.compiled_floats import BYTES as BYTES_OF
from saffron_kernels.compiled_floats import KINDS, pointer
from saffron_kernels.openmp import SECOND_ITEM, take, wait
from saffron_kernels.panel_tile import STEP
from saffron_kernels.quantize_per_token_cpu import quantize_token, tokens_at_once

_FIELDS = range(openmp.FIRST, openmp.FIRST + 18)
(
    M, N, K, X, X_STRIDE, X_SCALE, X_SUMS, W, W_SCALE, BIAS, OUT, KIND, BYTES, ROW_BLOCKS, _FLOATS, _FLOAT_KIND,
    _BARRIER, _AT_ONCE,
) = _FIELDS  # fmt: skip
"""Where a loop finds what: sizes, addresses of codes with bytes a row, of their scales and sums, of weights and of the
product, whose type that is, and how many blocks of rows there are."""


class Blocks(NamedTuple):
    """A loop, an item of which is a block of the product.

    Attributes:
        body: the loop.
        rows: the most rows of x in a block.
        columns: the most rows of w.
    """

    body: openmp.Body
    rows: int
    columns: int


def multiply_codes(  # noqa: PLR0917 - what every way of w8a8_gemm_cpu takes
    blocks: Blocks,
    codes: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor:
    """`w8a8_gemm` by a loop."""
    if codes.shape[1] % STEP:
        codes = torch.nn.functional.pad(codes, (0, -codes.shape[1] % STEP))
    codes, scale, sums = codes.contiguous(), scale.contiguous(), torch.empty(len(codes), dtype=torch.int32)
    x = codes.data_ptr(), codes.shape[1], scale.data_ptr(), sums.data_ptr()
    return _run(blocks, len(codes), x, weight, weight_scale, bias, out_dtype, (0, 0))


def multiply_tokens(blocks: Blocks, x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    """`w8a8_linear` by a loop."""
    x = x.contiguous()
    rows, columns = x.shape
    stride = -(-columns // STEP) * STEP
    # One piece of memory, since to ask torch for it takes as long as to quantize some tokens.
    memory = torch.empty(rows * (stride + 8), dtype=torch.int8)
    codes = memory.data_ptr()
    into = codes, stride, codes + rows * stride, codes + rows * (stride + 4)
    return _run(blocks, rows, into, weight, weight_scale, bias, x.dtype, (x.data_ptr(), KINDS[x.dtype]))


def _run(  # noqa: PLR0917 - as above
    blocks: Blocks,
    rows: int,
    x: tuple[int, int, int, int],
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
    floats: tuple[int, int],
) -> Tensor:
    """Multiply.

    Args:
        blocks: the loop.
        rows: of x.
        x: addresses of codes, with bytes a row, of scales and of what their sums are written to.
        weight: [N, K].
        weight_scale: [N, 1].
        bias: [N] or None.
        out_dtype: of the product.
        floats: address and kind of tokens whose codes and scales are still to be written; or 0.
    """
    (across, columns), kind = weight.shape, KINDS[out_dtype]
    weight, weight_scale = weight.contiguous(), weight_scale.contiguous()
    bias = None if bias is None else bias.float().contiguous()
    out = torch.empty(rows, across, dtype=out_dtype)  # as numbers: torch takes longer to read a tuple
    row_blocks = -(-rows // blocks.rows)
    openmp.run(
        openmp.compile_loop(blocks.body),
        row_blocks * -(-across // blocks.columns),
        *(rows, across, columns, *x, weight.data_ptr(), weight_scale.data_ptr()),
        *(0 if bias is None else bias.data_ptr(), out.data_ptr(), kind, BYTES_OF[kind], row_blocks),
        *(*floats, openmp.barrier(), tokens_at_once(rows, columns)),
    )
    return out


@njit(nogil=True)
def prepare_tokens(a: Any) -> None:
    """Quantize tokens that are given as floats and add up the codes of each, with all threads of a loop."""
    rows, columns, stride = a[M], a[K], a[X_STRIDE]
    row = np.empty(columns, np.float32)
    scale = carray(pointer(a[X_SCALE]), (rows,), np.float32)
    sums = carray(pointer(a[X_SUMS]), (rows,), np.int32)
    first = take(a[SECOND_ITEM:]) * a[_AT_ONCE]
    while first < rows:
        for m in range(first, min(first + a[_AT_ONCE], rows)):
            codes = carray(pointer(a[X] + m * stride), (stride,), np.int8)
            if a[_FLOATS]:
                place = a[_FLOATS] + m * columns * BYTES_OF[a[_FLOAT_KIND]]
                scale[m] = quantize_token(place, a[_FLOAT_KIND], row, codes)
                codes[columns:] = 0
            total = np.int32(0)
            for k in range(stride):
                total += np.int32(codes[k])
            sums[m] = total
        first = take(a[SECOND_ITEM:]) * a[_AT_ONCE]
    wait(a[_BARRIER])
