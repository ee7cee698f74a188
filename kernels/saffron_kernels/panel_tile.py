"""A tile of x · wᵀ for many rows of x: products of bytes with 64 rows of w that lie packed.

Four columns of 16 rows of w make a vector, and x's four columns are spread over all of its lanes, so that each lane
sums for an output channel of its own and no lanes are added up in the end. Where few columns are summed that takes as
long as the sums do (`dot_tile`). To pack w costs one pass over it, which many rows of x share.
"""

# numba and llvmlite have no types for mypy. An intrinsic's parameters are named for its callers; their values come to
# `codegen`.
# ruff: noqa: ANN401, ARG001

from functools import reduce
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from saffron_kernels.compiled import features
from saffron_kernels.compiled_floats import BFLOAT16, BYTES, FLOAT16, FLOAT32, BFloat
from saffron_kernels.dot_tile import call, filled, shuffle, spread

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
def pack(_: Any, w: Any, last: Any, stride: Any, columns: Any, into: Any, sums: Any) -> Any:  # noqa: PLR0917 - numba has positional parameters only
    """Pack up to 64 columns of 16 rows of w, and add them up.

    Args:
        w: address of the first row.
        last: its last row; rows beyond are this one again.
        stride: bytes a row.
        columns: how many there are; those beyond the last are packed as 0.
        into: address of 16 vectors, the panel's other ones between them.
        sums: address of 16 int32, to which 128 times each row's columns are added.
    """

    def codegen(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        w, last, stride, columns, into, sums = values
        bits = builder.lshr(ir.Constant(I64, -1), builder.sub(ir.Constant(I64, VECTOR), columns))
        mask = builder.bitcast(bits, ir.VectorType(I1, VECTOR))
        rows = []
        for row in range(LANES):
            place = builder.inttoptr(_row(builder, w, last, stride, row), _BYTES.as_pointer())
            name = f"llvm.masked.load.v{VECTOR}i8.p0"
            loaded = call(builder, name, _BYTES, [place, ir.Constant(I32, 1), mask, ir.Constant(_BYTES, None)])
            rows.append(builder.bitcast(loaded, _WORDS))
        # Several sums, since one after the other would be waited for.
        parts = [ir.Constant(_WORDS, None)] * 4
        for step, vector in enumerate(_transpose(builder, rows)):
            _store(builder, vector, _at(builder, into, step * _VECTORS * VECTOR), VECTOR)
            parts[step % 4] = _add_products(builder, parts[step % 4], filled(_WORDS, 0x01010101), vector)
        total = builder.add(builder.add(parts[0], parts[1]), builder.add(parts[2], parts[3]))
        _store(builder, builder.add(_load_at(builder, sums, 0, _WORDS), builder.shl(total, filled(_WORDS, 7))), sums, 4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), codegen


@intrinsic(prefer_literal=True)
def panel_tile(  # noqa: PLR0917 - as above
    _: Any,
    rows: Any,
    x: Any,
    x_last: Any,
    x_stride: Any,
    panel: Any,
    steps: Any,
    sums: Any,
    add: Any,
    finish: Any,
    kind: Any,
    scale: Any,
    across: Any,
    into: Any,
    stride: Any,
) -> Any:
    """The sums of a tile; or, where they are finished, what they come to, scaled and written as floats.

    Args:
        rows: rows of x, a constant in the loop.
        x: address of the first row, of unsigned bytes: 128 is added to each code.
        x_last: its last row; rows beyond are this one again.
        x_stride: bytes a row.
        panel: address of what `pack` has packed, 64 divides it.
        steps: fours of columns.
        sums: address of the int32 sums [rows, 64].
        add: whether to add to what is there.
        finish: whether these are the last columns.
        kind: of the floats (`compiled_floats`).
        scale: address of a float32 for each row of x.
        across: address of 64 float32 that are multiplied after it, of 64 that are added, and of 64 int32 that are taken
            from the sums first: 128 times the sums of w's rows.
        into: address of the floats.
        stride: bytes a row of them.
    """
    count = rows.literal_value

    def codegen(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        _, x, x_last, x_stride, panel, steps, sums, add, finish, *end = values
        numbers = [_least(builder, ir.Constant(I64, row), x_last) for row in range(count)]
        x_rows = [builder.add(x, builder.mul(number, x_stride)) for number in numbers]
        totals = _sum(builder, x_rows, panel, steps, sums, add)
        with builder.if_else(_is_set(builder, finish)) as (then, otherwise):
            with then:
                for row, number in enumerate(numbers):
                    _write_row(builder, totals[row * _VECTORS :][:_VECTORS], number, end)
            with otherwise:
                for vector, total in enumerate(totals):
                    _store(builder, total, _at(builder, sums, vector * VECTOR), 4)
        return context.get_dummy_value()

    return types.void(rows, *[types.int64] * 14), codegen


def _write_row(builder: ir.IRBuilder, totals: list[ir.Value], row: ir.Value, end: list[ir.Value]) -> None:
    kind, scale, across, into, stride = end
    s = _load_at(builder, builder.add(scale, builder.mul(row, ir.Constant(I64, 4))), 0, F32)
    s, out = spread(builder, s, _FLOATS), builder.add(into, builder.mul(row, stride))
    floats = []
    for n, total in enumerate(totals):
        # Loaded for each row, which costs nothing: the sums leave no registers.
        weight_scale = _load_at(builder, across, n * VECTOR, _FLOATS)
        bias = _load_at(builder, across, (_VECTORS + n) * VECTOR, _FLOATS)
        y = builder.sub(total, _load_at(builder, across, (2 * _VECTORS + n) * VECTOR, _WORDS))
        y = builder.fmul(builder.fmul(builder.sitofp(y, _FLOATS), s), weight_scale)
        floats.append(builder.fadd(y, bias))
    for number in (FLOAT32, BFLOAT16, FLOAT16):
        with builder.if_then(builder.icmp_signed("==", kind, ir.Constant(I64, number))):
            if number == BFLOAT16 and "avx512bf16" in features():
                _store_bfloat16(builder, floats, out)
            else:
                _store_rounded(builder, floats, out, number)


def _store_rounded(builder: ir.IRBuilder, floats: list[ir.Value], into: ir.Value, kind: int) -> None:
    for n, y in enumerate(floats):
        _store(builder, _rounded(builder, y, kind), _at(builder, into, n * LANES * BYTES[kind]), 1)


def _store_bfloat16(builder: ir.IRBuilder, floats: list[ir.Value], into: ir.Value) -> None:
    """By the processor's instruction, where none of the numbers is one that it rounds otherwise (`_rounded`)."""
    classes = [_special(builder, y) for y in floats]
    special = reduce(builder.or_, classes)
    with builder.if_else(builder.icmp_unsigned("!=", special, ir.Constant(I16, 0))) as (then, otherwise):
        with then:
            _store_rounded(builder, floats, into, BFLOAT16)
        with otherwise:
            for n in range(0, _VECTORS, 2):
                name, both = "llvm.x86.avx512bf16.cvtne2ps2bf16.512", ir.VectorType(BFloat(), 2 * LANES)
                rounded = call(builder, name, both, [floats[n + 1], floats[n]])
                place = _at(builder, into, n * LANES * BYTES[BFLOAT16])
                _store(builder, builder.bitcast(rounded, ir.VectorType(I16, 2 * LANES)), place, 1)


def _special(builder: ir.IRBuilder, y: ir.Value) -> ir.Value:
    """A bit for each lane with a NaN or a number so small that its exponent is the least."""
    name, kinds = "llvm.x86.avx512.fpclass.ps.512", 0x01 | 0x20 | 0x80
    lanes = call(builder, name, ir.VectorType(I1, LANES), [y, ir.Constant(I32, kinds)])
    return builder.bitcast(lanes, I16)


def _rounded(builder: ir.IRBuilder, y: ir.Value, kind: int) -> ir.Value:
    """As `compiled_floats.store_floats` does it."""
    if kind == FLOAT32:
        return y
    if kind != BFLOAT16:
        return builder.fptrunc(y, ir.VectorType(F16, LANES))
    # As the instruction for it does, which makes 0 of the smallest numbers, though, and keeps more of a NaN.
    bits = builder.bitcast(y, _WORDS)
    odd = builder.and_(builder.lshr(bits, filled(_WORDS, 16)), filled(_WORDS, 1))
    nearest = builder.lshr(builder.add(builder.add(bits, filled(_WORDS, 0x7FFF)), odd), filled(_WORDS, 16))
    number = builder.fcmp_unordered("uno", y, y)
    return builder.trunc(builder.select(number, filled(_WORDS, 0x7FC0), nearest), ir.VectorType(I16, LANES))


def _sum(  # noqa: PLR0917 - as above
    builder: ir.IRBuilder, x_rows: list[ir.Value], panel: ir.Value, steps: ir.Value, sums: ir.Value, add: ir.Value
) -> list[ir.Value]:
    """The sums of each row of x with each of the panel's vectors."""
    places = [_at(builder, sums, vector * VECTOR) for vector in range(len(x_rows) * _VECTORS)]
    entry, more = builder.block, builder.append_basic_block("more")
    loop, done = builder.append_basic_block("step"), builder.append_basic_block("summed")
    builder.cbranch(_is_set(builder, add), more, loop)
    builder.position_at_end(more)
    before = [_load_at(builder, place, 0, _WORDS) for place in places]
    builder.branch(loop)
    builder.position_at_end(loop)
    at = builder.phi(I64)
    totals = [builder.phi(_WORDS) for _ in places]
    own = builder.add(panel, builder.mul(at, ir.Constant(I64, _VECTORS * VECTOR)))
    across = [_load_at(builder, own, n * VECTOR, _WORDS, VECTOR) for n in range(_VECTORS)]
    new = []
    for number, row in enumerate(x_rows):
        four = _load_at(builder, builder.add(row, builder.mul(at, ir.Constant(I64, STEP))), 0, I32)
        fours = spread(builder, four, _WORDS)
        for n, w in enumerate(across):
            new.append(_add_products(builder, totals[number * _VECTORS + n], fours, w))
    following = builder.add(at, ir.Constant(I64, 1))
    for block, values_there in ((entry, [ir.Constant(_WORDS, None)] * len(places)), (more, before), (loop, new)):
        at.add_incoming(following if block is loop else ir.Constant(I64, 0), block)
        for total, value in zip(totals, values_there, strict=True):
            total.add_incoming(value, block)
    builder.cbranch(builder.icmp_signed("<", following, steps), loop, done)
    builder.position_at_end(done)
    return new


def _add_products(builder: ir.IRBuilder, sums: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    return call(builder, "llvm.x86.avx512.vpdpbusd.512", _WORDS, [sums, unsigned, signed])


def _is_set(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    return builder.icmp_signed("!=", value, ir.Constant(I64, 0))


def _least(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.icmp_signed("<", a, b), a, b)


def _row(builder: ir.IRBuilder, base: ir.Value, last: ir.Value, stride: ir.Value, row: int) -> ir.Value:
    return builder.add(base, builder.mul(_least(builder, ir.Constant(I64, row), last), stride))


def _at(builder: ir.IRBuilder, address: ir.Value, offset: int) -> ir.Value:
    return builder.add(address, ir.Constant(I64, offset))


def _load_at(builder: ir.IRBuilder, address: ir.Value, offset: int, kind: ir.Type, align: int = 1) -> ir.Value:
    value = builder.load(builder.inttoptr(_at(builder, address, offset), kind.as_pointer()))
    value.align = align
    return value


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
