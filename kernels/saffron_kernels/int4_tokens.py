"""How tokens lie in memory for `int4_tile`: the columns of a vector of codes follow the order of their nibbles."""

# numba and llvmlite have no types for mypy.
# ruff: noqa: ANN401

from typing import Any

import numpy as np
import torch
from numba import carray, njit
from torch import Tensor

from saffron_kernels import openmp
from saffron_kernels.compiled_floats import BYTES, KINDS, load_floats, pointer
from saffron_kernels.int4_tile import AVX2_RAISED, AVX2_UPPERMOST, BLOCK, X_BLOCK
from saffron_kernels.openmp import ITEMS, take
from saffron_kernels.tile_kinds import AVX2, AVX512_BF16

_X, _ROW_BYTES, _FLOATS, _COLUMNS, _BLOCKS, _INTO, _INTO_BYTES, _KIND = range(openmp.FIRST, openmp.FIRST + 8)
_PLANE = 32
_AVX2_BLOCK = X_BLOCK[AVX2] // 4


def lay_out(x: Tensor, kind: int, blocks: int) -> Tensor:
    """Lay tokens out.

    Args:
        x: [M, K] float32, float16 or bfloat16.
        kind: of the tiles that they are for (`tile_kinds`).
        blocks: ceil(K / 128).

    Returns:
        What the tile takes: x with zeros up to whole blocks, in float32 but for bfloat16's kind.
    """
    x = x.contiguous()
    if kind == AVX512_BF16:
        padded = blocks * BLOCK
        return x if x.shape[1] == padded else torch.nn.functional.pad(x, (0, padded - x.shape[1]))
    into, floats = torch.empty(len(x), blocks * X_BLOCK[kind] // 4), KINDS[x.dtype]
    openmp.run(
        openmp.compile_loop(_tokens),
        len(x),
        *(x.data_ptr(), x.shape[1] * BYTES[floats], floats, x.shape[1], blocks),
        *(into.data_ptr(), blocks * X_BLOCK[kind], kind),
    )
    return into


@openmp.ahead_of_time()
def _tokens(data: Any) -> None:
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    row = np.zeros(a[_BLOCKS] * BLOCK, np.float32)
    item = take(a)
    while item < a[ITEMS]:
        load_floats(a[_X] + item * a[_ROW_BYTES], a[_FLOATS], row[: a[_COLUMNS]])
        write_token(a[_KIND], row, a[_INTO] + item * a[_INTO_BYTES])
        item = take(a)


@njit(nogil=True)
def write_token(kind: int, row: Any, address: int) -> None:
    """Write a token in float32 as a tile of a kind takes it, for compiled loops.

    Args:
        kind: of tiles that multiply float32.
        row: float32, whole blocks of columns.
        address: of as many bytes as the kind takes for these.
    """
    if kind == AVX2:
        _write_divided(row, address)
    else:
        _write_planes(row, address)


@njit(nogil=True)
def _write_planes(row: Any, address: int) -> None:
    """Write a token's even and then its odd columns of each 32."""
    into = carray(pointer(address), (row.size // _PLANE, 2, _PLANE // 2), np.float32)
    for plane in range(into.shape[0]):
        for i in range(_PLANE // 2):
            into[plane, 0, i] = row[plane * _PLANE + 2 * i]
            into[plane, 1, i] = row[plane * _PLANE + 2 * i + 1]


@njit(nogil=True)
def _write_divided(row: Any, address: int) -> None:
    """The same divided by what the code of each column is multiplied by where it lies, and sums of each plane."""
    blocks = row.size // BLOCK
    into = carray(pointer(address), (blocks, _AVX2_BLOCK), np.float32)
    for block in range(blocks):
        own, sums = into[block, :BLOCK].reshape(4, 2, _PLANE // 2), into[block, BLOCK:].reshape(4, _PLANE // 4)
        sums[:] = np.float32(0)
        for plane in range(4):
            for odd in range(2):
                shift = 4 * plane + 16 * odd
                over = np.float32(1 << (0 if shift == AVX2_UPPERMOST else shift))
                for i in range(_PLANE // 2):
                    x = row[block * BLOCK + plane * _PLANE + 2 * i + odd] * np.float32(AVX2_RAISED)
                    own[plane, odd, i] = x / over
                    sums[plane, i % 8] += x
