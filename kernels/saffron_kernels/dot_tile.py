"""A tile of x · wᵀ as vector instructions: the dot products of a few rows of x with a few rows of w.

Both lie with the columns that are summed side by side, as activations and weights do, so that their vectors are loaded
as they are and each lane of a sum takes its own columns. Only at the end are the lanes added up. Nothing is packed, and
the sums are exact in int32, modulo 2^32.
"""

# numba and llvmlite have no types for mypy. An intrinsic's parameters are named for its callers; their values come to
# `codegen`.
# ruff: noqa: ANN401, ARG001

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
ACROSS = 4
"""Rows of w in a tile: as many as a vector of 128 bits has sums."""


@dataclass(frozen=True)
class Shape:
    """A tile for one instruction set.

    Attributes:
        rows: rows of x.
        element: the type of x and w.
        lanes: elements of a vector.
        tail: whether the number of columns may be any; else it is a multiple of `lanes`.
        prepare: (builder, vector of w) -> what `multiply` takes.
        multiply: (builder, sums, vector of x, prepared vector of w) -> sums with the products added.
    """

    rows: int
    element: ir.Type
    lanes: int
    tail: bool
    prepare: Callable[[ir.IRBuilder, ir.Value], ir.Value]
    multiply: Callable[[ir.IRBuilder, ir.Value, ir.Value, ir.Value], ir.Value]


def call(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: Sequence[ir.Value]) -> ir.Value:
    """One of LLVM's intrinsic functions."""
    signature = ir.FunctionType(result, [value.type for value in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments)


def shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, lanes: Sequence[int]) -> ir.Value:
    """The named lanes of a and b, b's numbered after a's."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))


def spread(builder: ir.IRBuilder, value: ir.Value, vector: ir.Type) -> ir.Value:
    """A number in every lane of a vector."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(I32, 0))
    return shuffle(builder, one, one, [0] * vector.count)


def filled(vector: ir.Type, number: float) -> ir.Constant:
    """A vector with the same constant in every lane."""
    return ir.Constant(vector, [number] * vector.count)


def _unsigned(builder: ir.IRBuilder, w: ir.Value) -> ir.Value:
    return builder.xor(w, filled(w.type, -128))


def _vpdpbusd(builder: ir.IRBuilder, sums: ir.Value, x: ir.Value, w: ir.Value) -> ir.Value:
    words = [builder.bitcast(w, sums.type), builder.bitcast(x, sums.type)]
    return call(builder, "llvm.x86.avx512.vpdpbusd.512", sums.type, [sums, *words])


def _vpmaddwd(builder: ir.IRBuilder, sums: ir.Value, x: ir.Value, w: ir.Value) -> ir.Value:
    return builder.add(sums, call(builder, "llvm.x86.avx2.pmadd.wd", sums.type, [x, w]))


VNNI = Shape(6, I8, 64, tail=True, prepare=_unsigned, multiply=_vpdpbusd)
"""int8 with 128 added to w, since the instruction multiplies unsigned by signed bytes. 24 of 32 registers are sums."""
AVX2 = Shape(3, I16, 16, tail=False, prepare=lambda _, w: w, multiply=_vpmaddwd)
"""int16, since this instruction set's products of bytes saturate. 12 of the 16 registers are sums."""


def compile_tile(shape: Shape) -> Any:
    """The tile as a function for compiled loops.

    It takes the address of x, its last row (rows beyond are this one again) and bytes a row, the same of w, the
    columns, the address of the int32 sums [rows, 4] and their bytes a row, and whether to add to what is there.
    """

    @intrinsic
    def tile(  # noqa: PLR0917 - numba has positional parameters only
        _: Any,
        x: Any,
        x_last: Any,
        x_stride: Any,
        w: Any,
        w_last: Any,
        w_stride: Any,
        columns: Any,
        sums: Any,
        sums_stride: Any,
        add: Any,
    ) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
            _emit(builder, shape, values)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 10), codegen

    return tile


def _emit(builder: ir.IRBuilder, shape: Shape, values: list[ir.Value]) -> None:
    x, x_last, x_stride, w, w_last, w_stride, columns, sums, sums_stride, add = values
    x_rows = [_row(builder, x, x_last, x_stride, row) for row in range(shape.rows)]
    w_rows = [_row(builder, w, w_last, w_stride, row) for row in range(ACROSS)]
    width = shape.element.width // 8
    whole = builder.and_(columns, ir.Constant(I64, -shape.lanes))
    totals = _loop(builder, shape, x_rows, w_rows, builder.mul(whole, ir.Constant(I64, width)))
    if shape.tail:
        totals = _tail(builder, shape, totals, x_rows, w_rows, whole, builder.sub(columns, whole))
    before = builder.icmp_signed("!=", add, ir.Constant(I64, 0))
    for row in range(shape.rows):
        total = _add_lanes(builder, totals[row * ACROSS : (row + 1) * ACROSS])
        address = builder.add(sums, builder.mul(sums_stride, ir.Constant(I64, row)))
        place = builder.inttoptr(address, total.type.as_pointer())
        old = builder.load(place)
        old.align = 4
        old = builder.select(before, old, ir.Constant(total.type, None))
        builder.store(builder.add(total, old), place, align=4)


def _row(builder: ir.IRBuilder, base: ir.Value, last: ir.Value, stride: ir.Value, row: int) -> ir.Value:
    number = ir.Constant(I64, row)
    number = builder.select(builder.icmp_signed("<", number, last), number, last)
    return builder.add(base, builder.mul(number, stride))


def _loop(
    builder: ir.IRBuilder, shape: Shape, x_rows: list[ir.Value], w_rows: list[ir.Value], end: ir.Value
) -> list[ir.Value]:
    """The sums over the vectors that lie wholly before `end`, in bytes."""
    entry, head = builder.block, builder.append_basic_block("columns")
    body, done = builder.append_basic_block("vector"), builder.append_basic_block("summed")
    builder.branch(head)
    builder.position_at_end(head)
    lanes = ir.VectorType(I32, shape.lanes * shape.element.width // 32)
    at = builder.phi(I64)
    totals = [builder.phi(lanes) for _ in range(shape.rows * ACROSS)]
    at.add_incoming(ir.Constant(I64, 0), entry)
    for total in totals:
        total.add_incoming(ir.Constant(lanes, None), entry)
    builder.cbranch(builder.icmp_signed("<", at, end), body, done)
    builder.position_at_end(body)
    for total, new in zip(totals, _step(builder, shape, totals, x_rows, w_rows, at, None), strict=True):
        total.add_incoming(new, builder.block)
    at.add_incoming(builder.add(at, ir.Constant(I64, shape.lanes * shape.element.width // 8)), builder.block)
    builder.branch(head)
    builder.position_at_end(done)
    return totals


def _tail(  # noqa: PLR0917 - positions as in the callers
    builder: ir.IRBuilder,
    shape: Shape,
    totals: list[ir.Value],
    x_rows: list[ir.Value],
    w_rows: list[ir.Value],
    at: ir.Value,
    left: ir.Value,
) -> list[ir.Value]:
    """The sums with the columns added that fill no vector, if there are any."""
    before, some, after = builder.block, builder.append_basic_block("tail"), builder.append_basic_block("all")
    builder.cbranch(builder.icmp_signed(">", left, ir.Constant(I64, 0)), some, after)
    builder.position_at_end(some)
    bits = builder.sub(builder.shl(ir.Constant(I64, 1), left), ir.Constant(I64, 1))
    mask = builder.bitcast(bits, ir.VectorType(I1, shape.lanes))
    added = _step(builder, shape, totals, x_rows, w_rows, at, mask)
    builder.branch(after)
    builder.position_at_end(after)
    merged = []
    for old, new in zip(totals, added, strict=True):
        total = builder.phi(old.type)
        total.add_incoming(old, before)
        total.add_incoming(new, some)
        merged.append(total)
    return merged


def _step(  # noqa: PLR0917 - positions as in the callers
    builder: ir.IRBuilder,
    shape: Shape,
    totals: list[ir.Value],
    x_rows: list[ir.Value],
    w_rows: list[ir.Value],
    at: ir.Value,
    mask: ir.Value | None,
) -> list[ir.Value]:
    """The sums with one vector of each row multiplied; lanes outside the mask are 0."""

    def load(row: ir.Value) -> ir.Value:
        vector = ir.VectorType(shape.element, shape.lanes)
        place = builder.inttoptr(builder.add(row, at), vector.as_pointer())
        if mask is not None:
            name = f"llvm.masked.load.v{shape.lanes}i{shape.element.width}.p0"
            return call(builder, name, vector, [place, ir.Constant(I32, 1), mask, ir.Constant(vector, None)])
        value = builder.load(place)
        value.align = 1
        return value

    across = [shape.prepare(builder, load(row)) for row in w_rows]
    new = []
    for number, row in enumerate(x_rows):
        x = load(row)
        new += [shape.multiply(builder, totals[number * ACROSS + n], x, w) for n, w in enumerate(across)]
    return new


def _add_lanes(builder: ir.IRBuilder, vectors: list[ir.Value]) -> ir.Value:
    """Four vectors -> one of four lanes, each the sum of all lanes of one."""

    def pairs(a: ir.Value, b: ir.Value, width: int) -> ir.Value:
        # Within each 128 bits, a's and b's first half beside each other plus their second half, `width` lanes in turn.
        count = a.type.count
        starts = [group + lane for group in range(0, count, 4) for lane in range(0, 2, width)]
        first = [lane + k for start in starts for lane in (start, start + count) for k in range(width)]
        return builder.add(shuffle(builder, a, b, first), shuffle(builder, a, b, [lane + 2 for lane in first]))

    ab, cd = pairs(vectors[0], vectors[1], 1), pairs(vectors[2], vectors[3], 1)
    total = pairs(ab, cd, 2)
    while total.type.count > ACROSS:
        half = total.type.count // 2
        total = builder.add(
            shuffle(builder, total, total, range(half)), shuffle(builder, total, total, range(half, 2 * half))
        )
    return total
