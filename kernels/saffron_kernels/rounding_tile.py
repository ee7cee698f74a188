"""Quotients of bfloat16 numbers rounded to int8, as vector instructions that divide by multiplying.

The quotient y / d is first y times 1 / d, and then better by what is left of y, which a fused multiply-add gives
exactly (P. Markstein, "Computation of elementary functions on the IBM RISC System/6000 processor", IBM Journal of
Research and Development 34(1), 1990). Divisions would take most of the time of quantizing a token.
"""

# numba and llvmlite have no types for mypy. An intrinsic's parameters are named for its callers; their values come to
# `codegen`.
# ruff: noqa: ANN401, ARG001

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from saffron_kernels.dot_tile import call, filled, shuffle, spread

_I16, _I32, _I64, _F32 = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_FLOATS, _WORDS, _SHORTS = (ir.VectorType(kind, lanes) for kind, lanes in ((_F32, 16), (_I32, 16), (_I16, 32)))
ROUNDED = 64
"""How many numbers are rounded at once."""
LEAST_DIVISOR = 2.0**-100
"""With less, what is left of y may be below the smallest number. Above it every quotient of a bfloat16 number by a
bfloat16 number's scale is rounded as a division's: they are few enough to be tried, all of them."""


@intrinsic
def round_bfloat16(_: Any, numbers: Any, divisor: Any, last_place: Any, codes: Any) -> Any:
    """Round 64 quotients to integers, half to even.

    Args:
        numbers: address of the bfloat16 numbers, each at most 127.5 times as large as the divisor.
        divisor: a float32 from `LEAST_DIVISOR` on.
        last_place: float32 1.5 · 2^23, and what is added to each code.
        codes: address of what is written: the lowest 8 bits of each.
    """

    def codegen(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        numbers, divisor, last_place, codes = values
        d, last = spread(builder, divisor, _FLOATS), spread(builder, last_place, _FLOATS)
        reciprocal = builder.fdiv(filled(_FLOATS, 1.0), d)

        def code(y: ir.Value) -> ir.Value:
            quotient = builder.fmul(y, reciprocal)
            left = call(builder, "llvm.fma.v16f32", _FLOATS, [builder.fneg(quotient), d, y])
            better = call(builder, "llvm.fma.v16f32", _FLOATS, [left, reciprocal, quotient])
            return builder.bitcast(builder.fadd(better, last), _WORDS)

        pairs = []
        for offset in (0, 64):
            place = builder.inttoptr(builder.add(numbers, ir.Constant(_I64, offset)), _WORDS.as_pointer())
            both = builder.load(place)
            both.align = 1
            # A word of 32 bits is two numbers, and a float32's upper half is a bfloat16.
            first = builder.bitcast(builder.shl(both, filled(_WORDS, 16)), _FLOATS)
            second = builder.bitcast(builder.and_(both, filled(_WORDS, -(1 << 16))), _FLOATS)
            low = builder.and_(code(first), filled(_WORDS, 0xFF))
            pairs.append(builder.bitcast(builder.or_(low, builder.shl(code(second), filled(_WORDS, 8))), _SHORTS))
        even = shuffle(builder, pairs[0], pairs[1], range(0, 2 * _SHORTS.count, 2))
        builder.store(even, builder.inttoptr(codes, _SHORTS.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32, types.float32, types.int64), codegen
