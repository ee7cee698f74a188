"""Tiles of products of bfloat16 numbers, by the instruction VDPBF16PS of AVX512-BF16.

It adds the products of two pairs to each of 16 float32 sums; a product of two bfloat16 numbers is exact in float32. So
numbers are laid out in pairs along what is summed: a word holds two of them that follow each other. A panel has the
words of 48 rows or columns side by side for each pair, [pairs, 48]. A tile of 8 rows by 48 columns, 24 vectors of sums,
stays in registers while all pairs are added to it.

Numba's cache knows of changes in the file of a compiled function alone: whoever changes the tile empties the cache.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from saffron_kernels.compiled import compiled, features

_Array = npt.NDArray[Any]

_LANES = 16
ROWS = 8
_VECTORS = 3
COLUMNS = _VECTORS * _LANES
NEEDS = ("avx512bf16",)
"""What a processor must have, in LLVM's spelling; compiling a tile for another ends the process."""


def has_tiles() -> bool:
    """Whether loops are compiled for a processor that has the instruction."""
    return features().issuperset(NEEDS)


class _BFloat16(ir.Type):  # type: ignore[misc] # llvmlite has no types
    """LLVM's type, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat16)

    def __hash__(self) -> int:
        return hash(_BFloat16)


_WORD, _INDEX, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
_SUMS, _WORDS, _PAIRS = (
    ir.VectorType(_FLOAT, _LANES),
    ir.VectorType(_WORD, _LANES),
    ir.VectorType(_BFloat16(), 2 * _LANES),
)


@intrinsic  # type: ignore[untyped-decorator]
def add_tile(_context: Any, rows: Any, columns: Any, pairs: Any, sums: Any, stride: Any) -> Any:  # noqa: ANN401, ARG001 - numba asks for the types of what it is called with
    """Add a tile of products to a matrix in memory, all by address.

    `rows` and `columns` point to the first pair's words of the tile's rows and columns in panels of `COLUMNS` words a
    pair, `sums` to the tile's corner in a matrix whose rows are `stride` numbers apart. There is at least one pair.
    """
    return types.void(*[types.intp] * 5), _write_tile


def _write_tile(context: Any, code: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401 - llvmlite has no types
    """Write the tile's loop over pairs, unrolled over its rows and vectors."""
    rows, columns, pairs, sums, stride = arguments
    product = code.module.declare_intrinsic(
        "llvm.x86.avx512bf16.dpbf16ps.512", (), ir.FunctionType(_SUMS, [_SUMS, _PAIRS, _PAIRS])
    )
    rows, columns, sums = (
        code.inttoptr(address, kind.as_pointer())
        for address, kind in ((rows, _WORD), (columns, _WORDS), (sums, _FLOAT))
    )
    before, loop, after = code.block, code.append_basic_block("pairs"), code.append_basic_block("sums")
    code.branch(loop)
    code.position_at_end(loop)
    pair = code.phi(_INDEX)
    tile = [[code.phi(_SUMS) for _ in range(_VECTORS)] for _ in range(ROWS)]
    vectors = [_vector(code, columns, pair, number) for number in range(_VECTORS)]
    added = [
        [code.call(product, [part, word, vector]) for part, vector in zip(parts, vectors, strict=True)]
        for parts, word in ((parts, _broadcast(code, rows, pair, row)) for row, parts in enumerate(tile))
    ]
    following = code.add(pair, _INDEX(1))
    code.cbranch(code.icmp_signed("<", following, pairs), loop, after)
    for phi, start, value in [(pair, _INDEX(0), following), *_sums_of(tile, added)]:
        phi.add_incoming(start, before)
        phi.add_incoming(value, loop)
    code.position_at_end(after)
    for row, parts in enumerate(added):
        corner = code.gep(sums, [code.mul(stride, _INDEX(row))])
        for number, part in enumerate(parts):
            place = code.bitcast(code.gep(corner, [_INDEX(number * _LANES)]), _SUMS.as_pointer())
            code.store(code.fadd(code.load(place, align=4), part), place, align=4)
    return context.get_dummy_value()


def _sums_of(tile: Any, added: Any) -> list[tuple[Any, Any, Any]]:  # noqa: ANN401 - as above
    """Each sum of a tile with what it begins and goes on with."""
    nothing = ir.Constant(_SUMS, [0.0] * _LANES)
    return [
        (part, nothing, value)
        for parts, values in zip(tile, added, strict=True)
        for part, value in zip(parts, values, strict=True)
    ]


def _vector(code: Any, columns: Any, pair: Any, number: int) -> Any:  # noqa: ANN401 - as above
    """A pair's words of 16 of the tile's columns."""
    place = code.gep(columns, [code.add(code.mul(pair, _INDEX(_VECTORS)), _INDEX(number))])
    return code.bitcast(code.load(place, align=4), _PAIRS)


def _broadcast(code: Any, rows: Any, pair: Any, row: int) -> Any:  # noqa: ANN401 - as above
    """A pair's word of one of the tile's rows, 16 times."""
    word = code.load(code.gep(rows, [code.add(code.mul(pair, _INDEX(COLUMNS)), _INDEX(row))]))
    undefined = ir.Constant(_WORDS, ir.Undefined)
    first = code.insert_element(undefined, word, _WORD(0))
    return code.bitcast(code.shuffle_vector(first, undefined, ir.Constant(_WORDS, [0] * _LANES)), _PAIRS)


@compiled("void(uint16[:, ::1], int64, uint32[:, ::1])")
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
