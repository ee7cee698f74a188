"""`gptq_block` on the CPU: a compiled loop takes a tile of rows through all columns; torch's threads share the tiles.

Rows lie side by side in memory, so that each step is done for a tile of them by vector instructions. The errors of all
columns before are taken out of a few columns just before these are rounded: a tile's weights stay in registers
meanwhile. To take each error out of all later columns at once would read and write those again for each. Every weight
sees the same operations in the same order either way.
"""

# numba and llvmlite have no types for mypy. An intrinsic's parameters are named for its callers; their values come to
# `codegen`.
# ruff: noqa: ANN401, ARG001

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic
from torch import Tensor

from saffron_kernels import openmp
from saffron_kernels.compiled_floats import pointer
from saffron_kernels.dot_tile import call, spread
from saffron_kernels.openmp import ITEMS, take
from saffron_kernels.tile_kinds import AVX512, has_tiles

_TILE = 64
"""Rows that are done at once."""
_COLUMNS = 4
"""Columns that the errors before are taken out of together. With two vectors of rows they are 8 sums in registers."""
_VECTORS = 2
_AHEAD = 4
"""Columns between one that is rounded and the one whose results' places are fetched."""
_FLOAT_BYTES, _LINE = 4, 64

_W, _U, _SCALE, _ZERO, _GROUPS, _CODES, _DEQUANTIZED, _ERROR = range(openmp.FIRST, openmp.FIRST + 8)
_ROWS, _COUNT, _SCALES, _COLUMN_STRIDE, _ITEM_STRIDE, _QMIN, _QMAX = range(_ERROR + 1, _ERROR + 8)


def gptq_block_rows(  # noqa: PLR0917 - the signature that every kernel of this stem has
    W: Tensor, U: Tensor, scale: Tensor, zero: Tensor | None, group_of_column: Tensor, qmin: int, qmax: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, dequantized weights and errors, as `gptq_block` gives them."""
    items, rows, columns = W.shape
    if W.stride(1) != 1:
        W = W.mT.contiguous().mT
    dequantized = torch.empty(items, columns, rows)
    codes, error = torch.empty_like(dequantized, dtype=torch.int8), torch.empty_like(dequantized)
    zeros = torch.zeros_like(scale) if zero is None else zero
    read = W, U.contiguous(), scale.mT.contiguous(), zeros.mT.contiguous(), group_of_column.contiguous()
    addresses = (tensor.data_ptr() for tensor in (*read, codes, dequantized, error))
    sizes = rows, columns, scale.shape[2], W.stride(2), W.stride(0)
    openmp.run(openmp.compile_loop(_tiles), items * -(-rows // _TILE), *addresses, *sizes, qmin, qmax)
    return codes.mT, dequantized.mT, error.mT


@openmp.ahead_of_time()
def _tiles(data: Any) -> None:
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    # Rows and columns beyond the last are computed, too, and not written. They begin as numbers that do no harm.
    columns = -(-a[_COUNT] // _COLUMNS) * _COLUMNS
    w, errors = np.zeros((columns, _TILE), np.float32), np.zeros((columns, _TILE), np.float32)
    rounding = np.ones(_TILE, np.float32), np.zeros(_TILE, np.float32), np.zeros(_TILE, np.int8)
    tiles = -(-a[_ROWS] // _TILE)
    number = take(a)
    while number < a[ITEMS]:
        _tile(a, number // tiles, number % tiles * _TILE, w, errors, rounding)
        number = take(a)


@njit(nogil=True)
def _tile(a: Any, item: int, top: int, w: Any, errors: Any, rounding: Any) -> None:  # noqa: PLR0917 - numba compiles positional parameters only
    """Quantize the rows of an item from `top` on, in [columns, rows] of memory for their weights and errors."""
    columns, count = a[_COUNT], min(_TILE, a[_ROWS] - top)
    U = carray(pointer(a[_U] + item * columns * columns * _FLOAT_BYTES), (columns, columns), np.float32)
    groups = carray(pointer(a[_GROUPS] + item * columns * 4), (columns,), np.int32)
    scale, zero, codes = rounding
    weights = a[_W] + (item * a[_ITEM_STRIDE] + top) * _FLOAT_BYTES
    for column in range(columns):
        _copy(_floats(weights + column * a[_COLUMN_STRIDE] * _FLOAT_BYTES, count), w[column])
    group = -1
    for first in range(0, columns, _COLUMNS):
        if first > 0:
            less_errors(w[first].ctypes.data, errors.ctypes.data, U.ctypes.data + first * _FLOAT_BYTES, columns, first)
        last = min(first + _COLUMNS, columns)
        for column in range(first, last):
            into = (item * columns + column) * a[_ROWS] + top
            _fetch_ahead(a, weights, column, into)
            if groups[column] != group:
                group = groups[column]
                at = ((item * a[_SCALES] + group) * a[_ROWS] + top) * _FLOAT_BYTES
                _copy(_floats(a[_SCALE] + at, count), scale)
                _copy(_floats(a[_ZERO] + at, count), zero)
            _round(w[column], errors[column], scale, zero, U[column, column], codes, a[_QMIN], a[_QMAX])
            for later in range(column + 1, last):
                for row in range(_TILE):
                    w[later, row] -= errors[column, row] * U[column, later]
            _copy(w[column, :count], _floats(a[_DEQUANTIZED] + into * _FLOAT_BYTES, count))
            _copy(errors[column, :count], _floats(a[_ERROR] + into * _FLOAT_BYTES, count))
            _copy(codes[:count], carray(pointer(a[_CODES] + into), (count,), np.int8))


@njit(nogil=True, error_model="numpy")
def _round(w: Any, error: Any, scale: Any, zero: Any, diagonal: Any, codes: Any, qmin: int, qmax: int) -> None:  # noqa: PLR0917 - as above
    """Round a column of a tile, whose weights become dequantized ones."""
    lowest, highest = np.float32(qmin), np.float32(qmax)
    for row in range(_TILE):
        code = np.rint(w[row] / scale[row]) + zero[row]
        code = min(max(code, lowest), highest)
        q = (code - zero[row]) * scale[row]
        error[row] = (w[row] - q) / diagonal
        codes[row] = np.int8(code)
        w[row] = q


@njit(nogil=True)
def _floats(address: int, count: int) -> Any:
    return carray(pointer(address), (count,), np.float32)


@njit(nogil=True)
def _copy(row: Any, into: Any) -> None:
    for n in range(len(row)):
        into[n] = row[n]


@njit(nogil=True)
def _fetch_ahead(a: Any, weights: int, column: int, into: int) -> None:
    """Fetch the next tile's weights of a column, and where this tile's results of a later column go.

    Columns are so far apart in memory that no processor sees it coming. To fetch what is not there does no harm.
    """
    ahead = (into + _AHEAD * a[_ROWS]) * _FLOAT_BYTES
    for line in range(0, _TILE * _FLOAT_BYTES, _LINE):
        fetch(weights + (column * a[_COLUMN_STRIDE] + _TILE) * _FLOAT_BYTES + line, 0)
        fetch(a[_DEQUANTIZED] + ahead + line, 1)
        fetch(a[_ERROR] + ahead + line, 1)


_WORD, _INDEX, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()


@intrinsic(prefer_literal=True)
def fetch(_: Any, address: Any, write: Any) -> Any:
    """Fetch a line of memory into the caches; `write`, 0 or 1, says what for."""
    purpose = write.literal_value

    def codegen(context: Any, code: Any, _signature: Any, values: Any) -> Any:
        place = code.inttoptr(values[0], ir.IntType(8).as_pointer())
        all_levels, data = _WORD(3), _WORD(1)
        call(code, "llvm.prefetch.p0", ir.VoidType(), [place, _WORD(purpose), all_levels, data])
        return context.get_dummy_value()

    return types.void(types.intp, write), codegen


@intrinsic
def less_errors(_: Any, w: Any, errors: Any, factors: Any, stride: Any, count: Any) -> Any:
    """Take the errors of the columns before out of a few columns of a tile, one after the other.

    Args:
        w: address of the columns' weights, float32 [4, 64].
        errors: address of the errors, float32 [count, 64].
        factors: address of U's row of the first error, float32, at the first of the columns.
        stride: numbers from a row of U to the next.
        count: columns before, at least 1.
    """

    def codegen(context: Any, code: Any, _signature: Any, values: Any) -> Any:
        *addresses, stride, count = values
        w, errors, factors = (code.inttoptr(address, _FLOAT.as_pointer()) for address in addresses)
        lanes = 16 if has_tiles(AVX512) else 8
        for row in range(0, _TILE, _VECTORS * lanes):
            own_w, own_errors = (code.gep(part, [_INDEX(row)]) for part in (w, errors))
            _write_steps(code, ir.VectorType(_FLOAT, lanes), own_w, own_errors, factors, stride, count)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5), codegen


def _write_steps(code: Any, vector: Any, w: Any, errors: Any, factors: Any, stride: Any, count: Any) -> None:  # noqa: PLR0917 - as they come to an intrinsic
    """Write the loop over the errors for two vectors of rows."""
    across = [n * vector.count for n in range(_VECTORS)]
    places = [_at(code, w, _INDEX(column * _TILE + n), vector) for column in range(_COLUMNS) for n in across]
    start = [code.load(place, align=4) for place in places]
    before, loop, after = code.block, code.append_basic_block("errors"), code.append_basic_block("done")
    code.branch(loop)
    code.position_at_end(loop)
    step, *sums = code.phi(_INDEX), *(code.phi(vector) for _ in places)
    from_row = code.mul(step, _INDEX(_TILE))
    error = [code.load(_at(code, errors, code.add(from_row, _INDEX(n)), vector), align=4) for n in across]
    row = code.gep(factors, [code.mul(step, stride)])
    factor = [spread(code, code.load(code.gep(row, [_INDEX(column)])), vector) for column in range(_COLUMNS)]
    # Two operations, not a fused one, as in the reference.
    products = [code.fmul(e, u) for u in factor for e in error]
    new = [code.fsub(value, product) for value, product in zip(sums, products, strict=True)]
    following = code.add(step, _INDEX(1))
    code.cbranch(code.icmp_signed("<", following, count), loop, after)
    for phi, first, value in zip((step, *sums), (_INDEX(0), *start), (following, *new), strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(value, loop)
    code.position_at_end(after)
    for place, value in zip(places, new, strict=True):
        code.store(value, place, align=4)


def _at(code: Any, base: Any, number: Any, vector: Any) -> Any:
    return code.bitcast(code.gep(base, [number]), vector.as_pointer())
