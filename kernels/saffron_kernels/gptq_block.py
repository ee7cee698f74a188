"""The column loop of GPTQ (arXiv 2210.17323, algorithm 1) over one block of columns.

Each column is rounded, and its error, divided by the diagonal of U, is taken out of the block's later columns along U's
row. `gptq_block_reference` says what is computed, in torch; on the CPU the same is done by a compiled loop over rows.
Both do the same IEEE operations in the same order, so that their results are equal bit by bit.
"""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_Array = npt.NDArray[Any]
_TILE = 64
"""Rows that are done at once."""

_RowLoop = Callable[[_Array, _Array, _Array, _Array, _Array, int, int, _Array, _Array], None]


class GptqBlock(NamedTuple):
    """A block of columns after the loop.

    Attributes:
        codes: [B, R, C] int8.
        W_dequantized: [B, R, C] float32: (code - zero) times scale.
        error: [B, R, C] float32: each column's rounding error over U's diagonal. The caller takes error · U[block,
            later columns] out of the columns after the block.
    """

    codes: Tensor
    W_dequantized: Tensor
    error: Tensor


def gptq_block(  # noqa: PLR0917 - the signature that every kernel of this stem has
    W: Tensor, U: Tensor, scale: Tensor, zero: Tensor | None, group_of_column: Tensor, qmin: int, qmax: int
) -> GptqBlock:
    """Quantize a block of columns, one after the other.

    Nothing that is given is changed. On the CPU it is numba's compiled loop; elsewhere, or with a loud warning where
    numba can't be imported, it is the torch reference.

    Args:
        W: [B, R, C] float32 weights.
        U: [B, C, C] float32 upper triangle with Uᵀ U the inverse Hessian, for these columns.
        scale: [B, R, G] float32, not 0.
        zero: [B, R, G] float32 zero points in codes, or None for symmetric codes.
        group_of_column: [B, C] int32 in 0..G-1.
        qmin: smallest code.
        qmax: largest code.
    """
    rows = _compiled_rows() if W.device.type == "cpu" else None
    if rows is None:
        return gptq_block_reference(W, U, scale, zero, group_of_column, qmin, qmax)
    zeros = torch.zeros_like(scale) if zero is None else zero
    codes, dequantized, error = torch.empty(W.shape, dtype=torch.int8), W.clone(), torch.empty_like(W)
    for item in range(W.shape[0]):
        arrays = [_array(tensor[item]) for tensor in (U, scale, zeros, group_of_column)]
        outputs = [tensor[item].numpy() for tensor in (dequantized, codes, error)]
        _run_rows(rows, arrays, qmin, qmax, outputs)
    return GptqBlock(codes, dequantized, error)


def gptq_block_reference(  # noqa: PLR0917 - as above
    W: Tensor, U: Tensor, scale: Tensor, zero: Tensor | None, group_of_column: Tensor, qmin: int, qmax: int
) -> GptqBlock:
    """What `gptq_block` computes, in plain torch."""
    work = W.clone()
    codes, dequantized, error = torch.empty(W.shape, dtype=torch.int8), torch.empty_like(W), torch.empty_like(W)
    for item in range(W.shape[0]):
        for column in range(W.shape[2]):
            group = int(group_of_column[item, column])
            s = scale[item, :, group]
            z = torch.zeros_like(s) if zero is None else zero[item, :, group]
            w = work[item, :, column]
            code = torch.clamp(torch.round(w / s) + z, qmin, qmax)
            q = (code - z) * s
            e = (w - q) / U[item, column, column]
            # Two operations, not a fused one: that would round once instead of twice.
            work[item, :, column + 1 :] -= e[:, None] * U[item, column, column + 1 :]
            codes[item, :, column] = code.to(torch.int8)
            dequantized[item, :, column] = q
            error[item, :, column] = e
    return GptqBlock(codes, dequantized, error)


def _run_rows(rows: _RowLoop, inputs: list[_Array], qmin: int, qmax: int, outputs: list[_Array]) -> None:
    """Share the rows among torch's number of threads. Rows are independent, so the split changes no bit."""
    U, scale, zeros, groups = inputs
    work, codes, error = outputs
    threads = torch.get_num_threads()
    bounds = np.linspace(0, work.shape[0], threads + 1).astype(int)

    def part(number: int) -> None:
        own = slice(bounds[number], bounds[number + 1])
        rows(work[own], U, scale[own], zeros[own], groups, qmin, qmax, codes[own], error[own])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, range(threads)))


def _array(tensor: Tensor) -> _Array:
    array: _Array = tensor.contiguous().numpy()
    return array


@cache
def _compiled_rows() -> _RowLoop | None:
    """Compile the loop once a process; numba keeps the machine code in its cache folder."""
    try:
        import numba  # noqa: PLC0415 - slow to import, and only needed here
    except ImportError:
        warnings.warn(
            "numba can't be imported, so GPTQ's column loop runs in plain torch, many times slower", stacklevel=3
        )
        return None
    # fastmath stays off: it would let the compiler round otherwise than the reference.
    compiled: _RowLoop = numba.njit(nogil=True, cache=True, fastmath=False, error_model="numpy")(_rows)
    return compiled


def _rows(  # noqa: PLR0917, C901 - numba compiles positional parameters only, and one function is one loop nest
    work: _Array,
    U: _Array,
    scale: _Array,
    zeros: _Array,
    groups: _Array,
    qmin: int,
    qmax: int,
    codes: _Array,
    error: _Array,
) -> None:
    """The loop; `work` begins as the weights and ends dequantized.

    A tile of rows is turned on its side, so that its rows lie side by side in memory and each step is done for all of
    them by vector instructions, while the tile stays in the processor's nearest cache.
    """
    rows, columns = work.shape
    tile = np.zeros((columns, _TILE), np.float32)
    tile_codes = np.zeros((columns, _TILE), np.int8)
    tile_error = np.zeros((columns, _TILE), np.float32)
    s, z = np.ones(_TILE, np.float32), np.zeros(_TILE, np.float32)
    lowest, highest = np.float32(qmin), np.float32(qmax)
    for begin in range(0, rows, _TILE):
        count = min(_TILE, rows - begin)
        for row in range(count):
            for column in range(columns):
                tile[column, row] = work[begin + row, column]
        for column in range(columns):
            for row in range(count):
                s[row] = scale[begin + row, groups[column]]
                z[row] = zeros[begin + row, groups[column]]
            w, e = tile[column], tile_error[column]
            diagonal = U[column, column]
            for row in range(_TILE):
                code = np.rint(w[row] / s[row]) + z[row]
                code = min(max(code, lowest), highest)
                q = (code - z[row]) * s[row]
                e[row] = (w[row] - q) / diagonal
                tile_codes[column, row] = np.int8(code)
                w[row] = q
            for later in range(column + 1, columns):
                u, v = U[column, later], tile[later]
                for row in range(_TILE):
                    v[row] -= e[row] * u
        for row in range(count):
            for column in range(columns):
                work[begin + row, column] = tile[column, row]
                codes[begin + row, column] = tile_codes[column, row]
                error[begin + row, column] = tile_error[column, row]
