"""A tile of x · Wᵀ with 4-bit weights as vector instructions, unpacked in registers.

Codes lie in blocks of 128 columns, 64 bytes a row, four rows' blocks beside each other: [ceil(N / 4), blocks, 4, 64]
bytes, which is the order in which they are read. In the L-th of a block's 32 words of 16 bits, nibble p is column
32 p + L plus 8. A permutation by the lowest bits of each lane then makes a vector of weights of a shifted vector of
codes: it takes them from a table, from which the zero point has been subtracted.
"""

# numba and llvmlite have no types for mypy. An intrinsic's parameters are named for its callers; their values come to
# `codegen`.
# ruff: noqa: ANN401, ARG001

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from saffron_kernels.compiled_floats import BFloat
from saffron_kernels.dot_tile import call, spread

I8, I16, I32, I64, F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
BLOCK = 128
"""Columns of a block."""
BLOCK_BYTES = 64
INTERLEAVED = 4
"""Rows whose blocks lie beside each other."""
_OFFSET = 8
_PLANES = 4
_AHEAD = 8192
"""Bytes between what is read and what is asked for from memory: more than the processor itself looks ahead."""


AVX2_RAISED = 2.0**14
"""What x is multiplied by for AVX2 before it is divided by up to 2^24: so the ends of float32 stay far away."""
AVX2_UPPERMOST = 28
"""Bits above which the nibble lies that is shifted down for AVX2."""


@dataclass(frozen=True)
class Tile:
    """What a tile is made of.

    Attributes:
        rows: rows of W, a divisor of 4.
        tokens: rows of x.
        groups: groups in a block: 1, 2 or 4.
        symmetric: whether all zero points are 0.
    """

    rows: int
    tokens: int
    groups: int
    symmetric: bool


@dataclass
class _Place:
    """Where the loop over blocks is: addresses of this block's codes, scales, zero points and x."""

    builder: ir.IRBuilder
    tile: Tile
    codes: list[ir.Value]
    scale: list[ir.Value]
    zero: list[ir.Value]
    x: list[ir.Value]

    def load(self, address: ir.Value, offset: int, vector: ir.Type) -> ir.Value:
        place = self.builder.add(address, ir.Constant(I64, offset))
        value = self.builder.load(self.builder.inttoptr(place, vector.as_pointer()))
        value.align = 1
        return value

    def spread(self, address: ir.Value, group: int, lanes: int) -> ir.Value:
        """The float of a group in every lane."""
        return spread(self.builder, self.load(address, group * 4, F32), ir.VectorType(F32, lanes))


Totals = list[list[ir.Value]]
"""Sums by row and token."""
Block = Callable[[_Place, Totals], Totals]


def bfloat16_block(at: _Place, totals: Totals) -> Totals:
    """AVX512_BF16: x and the codes in bfloat16, both as they are, a group's products summed before they are scaled."""
    builder, tile, floats = at.builder, at.tile, ir.VectorType(F32, 16)
    bits, pairs = ir.VectorType(I16, 32), ir.VectorType(BFloat(), 32)
    codes = [at.load(address, 0, bits) for address in at.codes]
    for group in range(tile.groups):
        tables = []
        for row in range(tile.rows):
            table = _table(at, row, group)
            table = call(builder, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", pairs, [table, table])
            tables.append(builder.bitcast(table, bits))
        sums: Totals = [[ir.Constant(floats, None)] * tile.tokens for _ in tables]
        for plane in _planes(tile, group):
            x = [builder.bitcast(at.load(address, plane * 64, bits), pairs) for address in at.x]
            for row, table in enumerate(tables):
                index = builder.lshr(codes[row], ir.Constant(bits, [4 * plane] * 32))
                w = builder.bitcast(call(builder, "llvm.x86.avx512.permvar.hi.512", bits, [table, index]), pairs)
                name = "llvm.x86.avx512bf16.dpbf16ps.512"
                sums[row] = [call(builder, name, floats, [s, w, v]) for s, v in zip(sums[row], x, strict=True)]
        for row, address in enumerate(at.scale):
            scale = at.spread(address, group, 16)
            totals[row] = [_fma(builder, s, scale, t) for s, t in zip(sums[row], totals[row], strict=True)]
    return totals


def float32_block(at: _Place, totals: Totals) -> Totals:
    """AVX512F: x and the scaled weights in float32."""
    builder, tile = at.builder, at.tile
    floats, bits = ir.VectorType(F32, 16), ir.VectorType(I32, 16)
    codes = [at.load(address, 0, bits) for address in at.codes]
    for group in range(tile.groups):
        tables = [
            builder.fmul(_table(at, row, group), at.spread(scale, group, 16)) for row, scale in enumerate(at.scale)
        ]
        for part in _parts(tile, group):
            x = [at.load(address, part.x, floats) for address in at.x]
            for row, table in enumerate(tables):
                index = builder.lshr(codes[row], ir.Constant(bits, [part.shift] * 16))
                w = call(builder, "llvm.x86.avx512.permvar.sf.512", floats, [table, index])
                totals[row] = [_fma(builder, v, w, t) for v, t in zip(x, totals[row], strict=True)]
    return totals


def avx2_block(at: _Place, totals: Totals) -> Totals:
    """AVX2 and FMA: a group's products with the nibbles as they lie, from which the zero point's are taken in the end.

    These permutations have too few places for a table of codes. A nibble that is masked where it lies is the code times
    a power of two, by which x has been divided (`AVX2_RAISED`), so that nothing need be shifted.
    """
    builder, tile = at.builder, at.tile
    floats, bits = ir.VectorType(F32, 8), ir.VectorType(I32, 8)
    for group in range(tile.groups):
        # Sums of their own for each half: one sum after the other would be waited for.
        halves: list[Totals] = []
        for half in range(2):
            sums: Totals = [[ir.Constant(floats, None)] * tile.tokens for _ in range(tile.rows)]
            codes = [at.load(address, 32 * half, bits) for address in at.codes]
            for part in _parts(tile, group):
                x = [at.load(address, part.x + 32 * half, floats) for address in at.x]
                for row, code in enumerate(codes):
                    w = builder.sitofp(_in_place(builder, code, part.shift), floats)
                    sums[row] = [_fma(builder, v, w, s) for v, s in zip(x, sums[row], strict=True)]
            halves.append(sums)
        x_sums = [_x_sum(at, address, group) for address in at.x]
        for row in range(tile.rows):
            zero = ir.Constant(floats, [float(-_OFFSET)] * 8)
            zero = zero if tile.symmetric else builder.fsub(zero, at.spread(at.zero[row], group, 8))
            scale = builder.fmul(at.spread(at.scale[row], group, 8), ir.Constant(floats, [1 / AVX2_RAISED] * 8))
            sums_of_row = map(builder.fadd, halves[0][row], halves[1][row])
            centred = [_fma(builder, zero, x, s) for x, s in zip(x_sums, sums_of_row, strict=True)]
            totals[row] = [_fma(builder, s, scale, t) for s, t in zip(centred, totals[row], strict=True)]
    return totals


def _in_place(builder: ir.IRBuilder, code: ir.Value, shift: int) -> ir.Value:
    """The nibble that lies `shift` bits up times 2^shift; the uppermost one, whose sign that would be, as it is."""
    if shift == AVX2_UPPERMOST:
        return builder.lshr(code, ir.Constant(code.type, [shift] * 8))
    return builder.and_(code, ir.Constant(code.type, [15 << shift] * 8))


def _x_sum(at: _Place, address: ir.Value, group: int) -> ir.Value:
    """The columns of x of a group, added up in each lane. Behind a block's 128 columns is such a sum for each plane."""
    first, *others = (
        at.load(address, 4 * BLOCK + 32 * plane, ir.VectorType(F32, 8)) for plane in _planes(at.tile, group)
    )
    for other in others:
        first = at.builder.fadd(first, other)
    return first


@dataclass(frozen=True)
class _Part:
    """Every second column of a plane: the low or the high words of 32 bits.

    Attributes:
        shift: bits above which its codes lie.
        x: bytes after which its columns lie in a block of x.
    """

    shift: int
    x: int


def _planes(tile: Tile, group: int) -> range:
    count = _PLANES // tile.groups
    return range(group * count, (group + 1) * count)


def _parts(tile: Tile, group: int) -> list[_Part]:
    return [_Part(4 * plane + 16 * odd, 128 * plane + 64 * odd) for plane in _planes(tile, group) for odd in range(2)]


def _table(at: _Place, row: int, group: int) -> ir.Value:
    """The number of each code."""
    numbers = ir.Constant(ir.VectorType(F32, 16), [float(code - _OFFSET) for code in range(16)])
    return numbers if at.tile.symmetric else at.builder.fsub(numbers, at.spread(at.zero[row], group, 16))


def _fma(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    return call(builder, f"llvm.fma.v{a.type.count}f32", a.type, [a, b, c])


_KINDS = ((bfloat16_block, 16), (float32_block, 16), (avx2_block, 8))
"""By kind (`tile_kinds`): what makes a block, lanes of a sum."""
X_BLOCK = (2 * BLOCK, 4 * BLOCK, 4 * (BLOCK + 32))
"""By kind: bytes of a block of x."""


@intrinsic(prefer_literal=True)
def int4_tile(  # noqa: PLR0917 - numba has positional parameters only
    _: Any,
    kind: Any,
    rows: Any,
    tokens: Any,
    groups: Any,
    symmetric: Any,
    codes: Any,
    scale: Any,
    zero: Any,
    stride: Any,
    x: Any,
    x_last: Any,
    x_stride: Any,
    blocks: Any,
    sums: Any,
    sums_stride: Any,
) -> Any:
    """The sums of a tile.

    Args:
        kind: what makes it (`tile_kinds`), a constant in the loop, as the next four.
        rows: rows of W, a divisor of 4.
        tokens: rows of x.
        groups: groups in a block: 1, 2 or 4.
        symmetric: whether all zero points are 0.
        codes: address of the first row's first block.
        scale: address of the scales [rows, blocks · groups] in float32.
        zero: address of as many zero points in float32.
        stride: bytes a row of both.
        x: address of x.
        x_last: its last row; rows beyond are this one again.
        x_stride: bytes a row.
        blocks: blocks of columns.
        sums: address of the float32 sums [tokens, rows].
        sums_stride: bytes a token.
    """
    tile = Tile(rows.literal_value, tokens.literal_value, groups.literal_value, bool(symmetric.literal_value))
    block, lanes = _KINDS[kind.literal_value]
    x_block = X_BLOCK[kind.literal_value]

    def codegen(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        _emit(builder, tile, block, ir.VectorType(F32, lanes), x_block, values[5:])
        return context.get_dummy_value()

    return types.void(kind, rows, tokens, groups, symmetric, *[types.int64] * 10), codegen


def _emit(  # noqa: PLR0917 - one call's worth of them
    builder: ir.IRBuilder, tile: Tile, block: Block, floats: ir.Type, x_block: int, values: list[ir.Value]
) -> None:
    codes, scale, zero, stride, x, x_last, x_stride, blocks, sums, sums_stride = values
    rows, tokens = range(tile.rows), range(tile.tokens)

    def times(value: ir.Value, number: int) -> ir.Value:
        return builder.mul(value, ir.Constant(I64, number))

    entry, loop, done = builder.block, builder.append_basic_block("block"), builder.append_basic_block("summed")
    x_rows = []
    for token in tokens:
        number = ir.Constant(I64, token)
        number = builder.select(builder.icmp_signed("<", number, x_last), number, x_last)
        x_rows.append(builder.add(x, builder.mul(number, x_stride)))
    builder.branch(loop)
    builder.position_at_end(loop)
    at = builder.phi(I64)
    at.add_incoming(ir.Constant(I64, 0), entry)
    totals = [[builder.phi(floats) for _ in tokens] for _ in rows]
    own = builder.add(codes, times(at, BLOCK_BYTES * INTERLEAVED))
    groups = times(at, 4 * tile.groups)
    place = _Place(
        builder,
        tile,
        [builder.add(own, ir.Constant(I64, BLOCK_BYTES * row)) for row in rows],
        [builder.add(builder.add(scale, times(stride, row)), groups) for row in rows],
        [builder.add(builder.add(zero, times(stride, row)), groups) for row in rows],
        [builder.add(row, times(at, x_block)) for row in x_rows],
    )
    for address in place.codes:
        _prefetch(builder, builder.add(address, ir.Constant(I64, _AHEAD)))
    new = block(place, [list(row) for row in totals])
    following = builder.add(at, ir.Constant(I64, 1))
    at.add_incoming(following, builder.block)
    for row in rows:
        for token in tokens:
            totals[row][token].add_incoming(ir.Constant(floats, None), entry)
            totals[row][token].add_incoming(new[row][token], builder.block)
    builder.cbranch(builder.icmp_signed("<", following, blocks), loop, done)
    builder.position_at_end(done)
    for row in rows:
        for token in tokens:
            address = builder.add(builder.add(sums, times(sums_stride, token)), ir.Constant(I64, 4 * row))
            builder.store(_add_lanes(builder, new[row][token]), builder.inttoptr(address, F32.as_pointer()), align=4)


def _add_lanes(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    signature = ir.FunctionType(F32, [F32, vector.type])
    name = f"llvm.vector.reduce.fadd.v{vector.type.count}f32"
    function = builder.module.globals.get(name) or ir.Function(builder.module, signature, name)
    # Not one lane after the other but halves on halves, in an order that is the same each time.
    return builder.call(function, [ir.Constant(F32, 0.0), vector], fastmath=("reassoc",))


def _prefetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    place = builder.inttoptr(address, I8.as_pointer())
    # A read, kept in the nearest cache, of data.
    call(builder, "llvm.prefetch.p0", ir.VoidType(), [place, *(ir.Constant(I32, number) for number in (0, 3, 1))])
