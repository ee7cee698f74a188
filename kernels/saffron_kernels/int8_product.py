"""What compiled loops of int8 products have in common: what they are told, and how they make tokens ready.

Tokens may come as floats: they are quantized in the same loop, as `quantize_per_token` does it, before any is
multiplied. A small layer is multiplied so fast that to start threads twice would be seen.
"""

# numba and llvmlite have no types for mypy.
# ruff: noqa: ANN401

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numba import carray, njit
from torch import Tensor

from saffron_kernels import openmp
from saffron_kernels.compiled_floats import BYTES as BYTES_OF
from saffron_kernels.compiled_floats import KINDS, pointer
from saffron_kernels.eager import empty_strided
from saffron_kernels.openmp import SECOND_ITEM, take, wait
from saffron_kernels.panel_tile import STEP
from saffron_kernels.quantize_per_token_cpu import quantize_tokens, tokens_at_once

_FIELDS = range(openmp.FIRST, openmp.FIRST + 18)
(
    M, N, K, X, X_STRIDE, X_SCALE, X_SUMS, W, W_SCALE, BIAS, OUT, KIND, BYTES, ROW_BLOCKS, _TOKENS, _TOKEN_KIND,
    _BARRIER, _THREADS,
) = _FIELDS  # fmt: skip
"""Where a loop finds what: sizes, addresses of codes with bytes a row, of their scales and sums, of weights and of the
product, whose type that is, and how many blocks of rows there are."""


CODES = -1
"""The kind of tokens that are given as codes."""
SIGNED, UNSIGNED = 0, 128
"""What is added to codes: instructions multiply unsigned bytes by signed ones."""


class Blocks(NamedTuple):
    """A loop, an item of which is a block of the product.

    Attributes:
        body: the loop.
        rows: the most rows of x in a block.
        columns: the most rows of w; None: all, and every thread has as many blocks.
    """

    body: openmp.Body
    rows: int
    columns: int | None


Choice: TypeAlias = Callable[[int, int, int], Blocks]
"""The loop for M, N and K."""


def multiply_codes(  # noqa: PLR0917 - what every way of w8a8_gemm_cpu takes
    choose: Choice,
    codes: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor:
    """`w8a8_gemm` by a loop."""
    return _run(choose, codes, scale.contiguous(), weight, weight_scale, bias, out_dtype)


def multiply_tokens(choose: Choice, x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    """`w8a8_linear` by a loop."""
    return _run(choose, x, None, weight, weight_scale, bias, x.dtype)


def _run(  # noqa: PLR0917 - as above
    choose: Choice,
    x: Tensor,
    scale: Tensor | None,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor:
    """Multiply.

    Args:
        choose: the loop for M, N and K.
        x: [M, K], tokens as floats, or as codes.
        scale: [M, 1] of codes, or None.
        weight: [N, K].
        weight_scale: [N, 1].
        bias: [N] or None.
        out_dtype: of the product.
    """
    x, weight, weight_scale = x.contiguous(), weight.contiguous(), weight_scale.contiguous()
    bias = None if bias is None else bias.float().contiguous()
    (rows, columns), across, kind = x.shape, weight.shape[0], KINDS[out_dtype]
    stride = -(-columns // STEP) * STEP
    # One piece of memory for codes, sums and scales: to ask torch for it takes as long as to quantize some tokens.
    memory = empty_strided((rows * (stride + 8),), (1,), torch.int8)
    out = empty_strided((rows, across), (across, 1), out_dtype)
    threads = torch.get_num_threads()
    blocks = choose(rows, across, columns)
    if blocks.columns is None:
        row_blocks, column_blocks = -(-rows // (blocks.rows * threads)) * threads, 1
    else:
        row_blocks, column_blocks = -(-rows // blocks.rows), -(-across // blocks.columns)
    codes = memory.data_ptr()
    x_sums = codes + rows * stride
    x_scale, floats = (x_sums + rows * 4, KINDS[x.dtype]) if scale is None else (scale.data_ptr(), CODES)
    openmp.run(
        openmp.compile_loop(blocks.body),
        row_blocks * column_blocks,
        *(rows, across, columns, codes, stride, x_scale, x_sums, weight.data_ptr(), weight_scale.data_ptr()),
        *(0 if bias is None else bias.data_ptr(), out.data_ptr(), kind, BYTES_OF[kind], row_blocks),
        *(x.data_ptr(), floats, openmp.barrier(), threads),
    )
    return out


@njit(nogil=True)
def prepare_together(a: Any, offset: int) -> None:
    """Have all threads of a loop prepare all tokens, and wait for each other.

    Args:
        a: the loop's arguments.
        offset: as for `prepare`.
    """
    row = np.empty(a[K], np.float32)
    at_once = tokens_at_once(a[M], a[K], a[_THREADS])
    first = take(a[SECOND_ITEM:]) * at_once
    while first < a[M]:
        prepare(a, first, min(first + at_once, a[M]), row, offset)
        first = take(a[SECOND_ITEM:]) * at_once
    wait(a[_BARRIER])


@njit(nogil=True)
def prepare(a: Any, first: int, last: int, row: Any, offset: int) -> None:
    """Quantize tokens or copy their codes, with zeros after them to a whole `STEP`, and add up the codes of each.

    Args:
        a: the loop's arguments.
        first: the first token.
        last: the one after the last.
        row: float32 [K]: memory that is used on the way.
        offset: `SIGNED` or `UNSIGNED`; unsigned codes are not added up.
    """
    rows, columns, kind = a[M], a[K], a[_TOKEN_KIND]
    codes = carray(pointer(a[X]), (rows, a[X_STRIDE]), np.int8)
    if kind == CODES:
        given = carray(pointer(a[_TOKENS]), (rows, columns), np.int8)
        for m in range(first, last):
            for k in range(columns):
                codes[m, k] = given[m, k] + np.int8(offset)
    else:
        scales = carray(pointer(a[X_SCALE]), (rows,), np.float32)
        place = a[_TOKENS] + first * columns * BYTES_OF[kind]
        quantize_tokens(place, kind, row, codes[first:last], scales[first:last], offset)
    sums = carray(pointer(a[X_SUMS]), (rows,), np.int32)
    for m in range(first, last):
        codes[m, columns:] = 0
        if offset == SIGNED:
            sums[m] = _sum(codes[m])


@njit(nogil=True)
def _sum(codes: Any) -> Any:
    total = np.int32(0)
    for code in codes:
        total += np.int32(code)
    return total
