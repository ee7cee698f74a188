"""A tile of x · wᵀ for many rows of x: products of bytes with 64 rows of w that lie packed.

Four columns of 16 rows of w make a vector, and x's four columns are spread over all of its lanes, so that each lane
sums for an output channel of its own and no lanes are added up in the end. Where few columns are summed that takes as
long as the sums do (`dot_tile`). To pack w costs one pass over it, which many rows of x share.
"""

# numba and llvmlite have no types for mypy. An intrinsic's parameters are named for its callers; their values come to
# `codegen`.
# ruff: noqa: ANN401, ARG001

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from saffron_kernels.compiled_floats import BFLOAT16, BYTES, FLOAT32
from saffron_kernels.dot_tile import call, shuffle, spread

I1, I8, I16, I32, I64, F16, F32 = (*(ir.IntType(bits) for bits in (1, 8, 16, 32, 64)), ir.HalfType(), ir.FloatType())
_BYTES, _WORDS, _FLOATS = ir.VectorType(I8, 64), ir.VectorType(I32, 16), ir.VectorType(F32, 16)
VECTOR = 64
"""Bytes of a vector."""
LANES = 16
"""Rows of w in a vector."""
_VECTORS = 4
"""Vectors of output channels in a tile. With 6 rows of x 24 of the 32 registers are sums."""
PANEL = _VECTORS * LANES
"""Rows of w in a panel."""
STEP = 4
"""Columns whose products an instruction adds up."""


@intrinsic
def pack(_: Any, w: Any, last: Any, stride: Any, columns: Any, into: Any) -> Any:
    """Pack up to 64 columns of 16 rows of w, with 128 added, since the instruction multiplies unsigned by signed.

    Args:
        w: address of the first row.
        last: its last row; rows beyond are this one again.
        stride: bytes a row.
        columns: how many there are; those beyond the last are packed as 0.
        into: address of 16 vectors, the panel's other ones between them.
    """

    def codegen(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        w, last, stride, columns, into = values
        bits = builder.lshr(ir.Constant(I64, -1), builder.sub(ir.Constant(I64, VECTOR), columns))
        mask = builder.bitcast(bits, ir.VectorType(I1, VECTOR))
        rows = []
        for row in range(LANES):
            place = builder.inttoptr(_row(builder, w, last, stride, row), _BYTES.as_pointer())
            name = f"llvm.masked.load.v{VECTOR}i8.p0"
            loaded = call(builder, name, _BYTES, [place, ir.Constant(I32, 1), mask, ir.Constant(_BYTES, None)])
            rows.append(builder.bitcast(builder.xor(loaded, ir.Constant(_BYTES, [-128] * VECTOR)), _WORDS))
        for step, vector in enumerate(_transpose(builder, rows)):
            _store(builder, vector, builder.add(into, ir.Constant(I64, step * _VECTORS * VECTOR)), VECTOR)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


@intrinsic(prefer_literal=True)
def panel_tile(  # noqa: PLR0917 - numba has positional parameters only
    _: Any, rows: Any, x: Any, x_last: Any, x_stride: Any, panel: Any, steps: Any, sums: Any, add: Any
) -> Any:
    """The sums of a tile.

    Args:
        rows: rows of x, a constant in the loop.
        x: address of the first row.
        x_last: its last row; rows beyond are this one again.
        x_stride: bytes a row.
        panel: address of what `pack` has packed, 64 divides it.
        steps: fours of columns.
        sums: address of the int32 sums [rows, 64].
        add: whether to add to what is there.
    """
    count = rows.literal_value

    def codegen(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        _emit(builder, count, values[1:])
        return context.get_dummy_value()

    return types.void(rows, *[types.int64] * 7), codegen


@intrinsic(prefer_literal=True)
def scale_tile(  # noqa: PLR0917 - as above
    _: Any, kind: Any, rows: Any, sums: Any, x_sums: Any, scale: Any, across: Any, into: Any, stride: Any
) -> Any:
    """Scale the sums of a tile and write them as floats.

    Args:
        kind: of the floats (`compiled_floats`), a constant in the loop.
        rows: of x, at least 1.
        sums: address of the int32 sums [rows, 64].
        x_sums: address of the int32 sums of x's rows, of which each sum has 128 times too much.
        scale: address of a float32 for each row.
        across: address of 64 float32 that are multiplied after it, and of 64 that are added.
        into: address of the floats.
        stride: bytes a row.
    """
    number = kind.literal_value

    def codegen(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        _, rows, sums, x_sums, scale, across, into, stride = values
        scales = [_load_at(builder, across, n * VECTOR, _FLOATS) for n in range(_VECTORS)]
        biases = [_load_at(builder, across, (_VECTORS + n) * VECTOR, _FLOATS) for n in range(_VECTORS)]
        with cgutils.for_range(builder, rows) as loop:
            four = builder.mul(loop.index, ir.Constant(I64, 4))
            less = builder.shl(_load_at(builder, builder.add(x_sums, four), 0, I32), ir.Constant(I32, 7))
            less, s = spread(builder, less, _WORDS), _load_at(builder, builder.add(scale, four), 0, F32)
            s, out = spread(builder, s, _FLOATS), builder.add(into, builder.mul(loop.index, stride))
            own = builder.add(sums, builder.mul(loop.index, ir.Constant(I64, PANEL * 4)))
            for n in range(_VECTORS):
                y = builder.sub(_load_at(builder, own, n * VECTOR, _WORDS), less)
                y = builder.fmul(builder.fmul(builder.sitofp(y, _FLOATS), s), scales[n])
                y = _rounded(builder, builder.fadd(y, biases[n]), number)
                _store(builder, y, builder.add(out, ir.Constant(I64, n * LANES * BYTES[number])), 1)
        return context.get_dummy_value()

    return types.void(kind, *[types.int64] * 7), codegen


def _rounded(builder: ir.IRBuilder, y: ir.Value, kind: int) -> ir.Value:
    """As `compiled_floats.store_floats` does it."""
    if kind == FLOAT32:
        return y
    if kind != BFLOAT16:
        return builder.fptrunc(y, ir.VectorType(F16, LANES))
    # Not by the instruction for it, which makes 0 of the smallest numbers.
    bits = builder.bitcast(y, _WORDS)
    odd = builder.and_(builder.lshr(bits, _all(16)), _all(1))
    nearest = builder.lshr(builder.add(builder.add(bits, _all(0x7FFF)), odd), _all(16))
    number = builder.fcmp_unordered("uno", y, y)
    return builder.trunc(builder.select(number, _all(0x7FC0), nearest), ir.VectorType(I16, LANES))


def _all(number: int) -> ir.Constant:
    return ir.Constant(_WORDS, [number] * LANES)


def _emit(builder: ir.IRBuilder, rows: int, values: list[ir.Value]) -> None:
    x, x_last, x_stride, panel, steps, sums, add = values
    x_rows = [_row(builder, x, x_last, x_stride, row) for row in range(rows)]
    places = [
        builder.inttoptr(builder.add(sums, ir.Constant(I64, vector * VECTOR)), _WORDS.as_pointer())
        for vector in range(rows * _VECTORS)
    ]
    entry, more = builder.block, builder.append_basic_block("more")
    loop, done = builder.append_basic_block("step"), builder.append_basic_block("summed")
    builder.cbranch(builder.icmp_signed("!=", add, ir.Constant(I64, 0)), more, loop)
    builder.position_at_end(more)
    before = [_load(builder, place) for place in places]
    builder.branch(loop)
    builder.position_at_end(loop)
    at = builder.phi(I64)
    totals = [builder.phi(_WORDS) for _ in places]
    own = builder.add(panel, builder.mul(at, ir.Constant(I64, _VECTORS * VECTOR)))
    across = [
        _load(builder, builder.inttoptr(builder.add(own, ir.Constant(I64, n * VECTOR)), _WORDS.as_pointer()), VECTOR)
        for n in range(_VECTORS)
    ]
    new = []
    for number, row in enumerate(x_rows):
        four = _load(
            builder, builder.inttoptr(builder.add(row, builder.mul(at, ir.Constant(I64, STEP))), I32.as_pointer())
        )
        fours = spread(builder, four, _WORDS)
        for n, w in enumerate(across):
            name = "llvm.x86.avx512.vpdpbusd.512"
            new.append(call(builder, name, _WORDS, [totals[number * _VECTORS + n], w, fours]))
    following = builder.add(at, ir.Constant(I64, 1))
    for block, values_there in ((entry, [ir.Constant(_WORDS, None)] * len(places)), (more, before), (loop, new)):
        at.add_incoming(following if block is loop else ir.Constant(I64, 0), block)
        for total, value in zip(totals, values_there, strict=True):
            total.add_incoming(value, block)
    builder.cbranch(builder.icmp_signed("<", following, steps), loop, done)
    builder.position_at_end(done)
    for value, place in zip(new, places, strict=True):
        builder.store(value, place, align=4)


def _row(builder: ir.IRBuilder, base: ir.Value, last: ir.Value, stride: ir.Value, row: int) -> ir.Value:
    number = ir.Constant(I64, row)
    number = builder.select(builder.icmp_signed("<", number, last), number, last)
    return builder.add(base, builder.mul(number, stride))


def _load(builder: ir.IRBuilder, place: ir.Value, align: int = 1) -> ir.Value:
    value = builder.load(place)
    value.align = align
    return value


def _load_at(builder: ir.IRBuilder, address: ir.Value, offset: int, kind: ir.Type) -> ir.Value:
    place = builder.add(address, ir.Constant(I64, offset))
    return _load(builder, builder.inttoptr(place, kind.as_pointer()))


def _store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value, align: int) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


def _transpose(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """16 vectors of 16 lanes, as rows of a matrix -> its columns."""
    # Pairs of vectors that are `apart` exchange the half of each 2 · `apart` lanes that is on the other's side.
    for apart in (1, 2, 4, 8):
        first = [lane - lane % (2 * apart) + lane % apart for lane in range(LANES)]
        own = [f + LANES * (lane % (2 * apart) >= apart) for lane, f in enumerate(first)]
        new = list(rows)
        for low in range(LANES):
            if low & apart:
                continue
            a, b = rows[low], rows[low + apart]
            new[low] = shuffle(builder, a, b, own)
            new[low + apart] = shuffle(builder, a, b, [lane + apart for lane in own])
        rows = new
    return rows
