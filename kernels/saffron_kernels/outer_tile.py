"""Tiles of sums of outer products: of a few rows with a few columns, in registers until all steps are added to them.

A step is a word of 32 bits for each row and column, which the instruction set makes one of: a float32; or a pair of
bfloat16 numbers that follow each other along what is summed, of which VDPBF16PS of AVX512-BF16 adds both products to a
float32. A product of two bfloat16 numbers is exact in float32. A panel has the words of 48 rows or columns side by side
for each step, [steps, 48].
"""

# numba and llvmlite have no types for mypy.
# ruff: noqa: ANN401

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from saffron_kernels.compiled_floats import BFloat
from saffron_kernels.dot_tile import call, spread

_Array = npt.NDArray[Any]

COLUMNS = 48
"""Rows or columns of a panel, which a tile of each kind divides."""
PER_STEP = (2, 1, 1)
"""By kind (`tile_kinds`): numbers of each row and column in a step."""
ROWS = (8, 8, 6)
"""By kind: rows of a tile. With its vectors of columns they leave 8 of 32 registers, or 4 of 16, for what is read."""
_VECTORS = (3, 3, 2)
_LANES = (16, 16, 8)
WIDTH = tuple(vectors * lanes for vectors, lanes in zip(_VECTORS, _LANES, strict=True))
"""By kind: columns of a tile."""

_WORD, _INDEX, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
_PAIRS = ir.VectorType(BFloat(), 32)


def _add_pairs(code: Any, sums: Any, words: Any, others: Any) -> Any:
    pairs = [code.bitcast(vector, _PAIRS) for vector in (words, others)]
    return call(code, "llvm.x86.avx512bf16.dpbf16ps.512", sums.type, [sums, *pairs])


def _add_floats(code: Any, sums: Any, words: Any, others: Any) -> Any:
    floats = [code.bitcast(vector, sums.type) for vector in (words, others)]
    return call(code, f"llvm.fma.v{sums.type.count}f32", sums.type, [*floats, sums])


_ADD: tuple[Callable[[Any, Any, Any, Any], Any], ...] = (_add_pairs, _add_floats, _add_floats)
"""By kind: (code, sums, two vectors of words) -> sums with the products added, rounded once each."""


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def add_tile(  # noqa: PLR0917 - numba has positional parameters only
    _context: Any,
    kind: Any,
    rows: Any,  # noqa: ARG001 - its value comes to `write`, as those that follow
    columns: Any,  # noqa: ARG001
    steps: Any,  # noqa: ARG001
    sums: Any,  # noqa: ARG001
    stride: Any,  # noqa: ARG001
) -> Any:
    """Add a tile of products to a matrix in memory.

    Args:
        kind: of the tile (`tile_kinds`), a constant in the loop.
        rows: address of the first step's words of the tile's rows in a panel.
        columns: the same of its columns.
        steps: how many there are, at least 1.
        sums: address of the tile's corner in a float32 matrix.
        stride: numbers from one row of the matrix to the next.
    """
    number = kind.literal_value

    def write(context: Any, code: Any, _signature: Any, arguments: Any) -> Any:
        _write_tile(code, number, arguments[1:])
        return context.get_dummy_value()

    return types.void(kind, *[types.intp] * 5), write


def _write_tile(code: Any, kind: int, arguments: Any) -> None:
    """Write the tile's loop over steps, unrolled over its rows and vectors."""
    rows, columns, steps, sums, stride = arguments
    lanes = _LANES[kind]
    vector = ir.VectorType(_FLOAT, lanes)
    rows, columns, sums = (
        code.inttoptr(address, word.as_pointer()) for address, word in ((rows, _WORD), (columns, _WORD), (sums, _FLOAT))
    )
    before, loop, after = code.block, code.append_basic_block("steps"), code.append_basic_block("sums")
    code.branch(loop)
    code.position_at_end(loop)
    step = code.phi(_INDEX)
    tile = [[code.phi(vector) for _ in range(_VECTORS[kind])] for _ in range(ROWS[kind])]
    own = code.mul(step, _INDEX(COLUMNS))
    across = [_vector(code, columns, code.add(own, _INDEX(n * lanes)), lanes) for n in range(_VECTORS[kind])]
    added = [
        [_ADD[kind](code, part, word, words) for part, words in zip(parts, across, strict=True)]
        for parts, word in ((p, _broadcast(code, rows, code.add(own, _INDEX(r)), lanes)) for r, p in enumerate(tile))
    ]
    following = code.add(step, _INDEX(1))
    code.cbranch(code.icmp_signed("<", following, steps), loop, after)
    for phi, start, value in [(step, _INDEX(0), following), *_sums_of(tile, added, ir.Constant(vector, None))]:
        phi.add_incoming(start, before)
        phi.add_incoming(value, loop)
    code.position_at_end(after)
    for row, parts in enumerate(added):
        corner = code.gep(sums, [code.mul(stride, _INDEX(row))])
        for number, part in enumerate(parts):
            place = code.bitcast(code.gep(corner, [_INDEX(number * lanes)]), vector.as_pointer())
            code.store(code.fadd(code.load(place, align=4), part), place, align=4)


def _sums_of(tile: Any, added: Any, nothing: Any) -> list[tuple[Any, Any, Any]]:
    """Each sum of a tile with what it begins and goes on with."""
    return [
        (part, nothing, value)
        for parts, values in zip(tile, added, strict=True)
        for part, value in zip(parts, values, strict=True)
    ]


def _vector(code: Any, columns: Any, at: Any, lanes: int) -> Any:
    """The words that lie from a place on."""
    words = ir.VectorType(_WORD, lanes)
    return code.load(code.bitcast(code.gep(columns, [at]), words.as_pointer()), align=4)


def _broadcast(code: Any, rows: Any, at: Any, lanes: int) -> Any:
    """The word of a place in every lane."""
    return spread(code, code.load(code.gep(rows, [at])), ir.VectorType(_WORD, lanes))


@njit(nogil=True)  # type: ignore[untyped-decorator]
def pack_pairs(bits: _Array, begin: int, panel: _Array) -> None:
    """Lay out 48 columns of [N, d] numbers, the last ones fewer, as a panel of pairs of rows, [pairs, 48].

    A row without a partner meets 0. What lies beyond the last column stays as it is.
    """
    rows, columns = bits.shape
    width = min(COLUMNS, columns - begin)
    for pair in range(rows // 2):
        for column in range(width):
            low, high = bits[2 * pair, begin + column], bits[2 * pair + 1, begin + column]
            panel[pair, column] = np.uint32(low) | (np.uint32(high) << np.uint32(16))
    if rows % 2:
        for column in range(width):
            panel[rows // 2, column] = np.uint32(bits[rows - 1, begin + column])
