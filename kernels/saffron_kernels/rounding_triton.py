"""Rounding that is the same on every card and in Triton's interpreter, which casts to bfloat16 by cutting off."""

# ruff: noqa: ANN001, ANN201, PLR0124, PLR2004 - kernels are written in Triton's language, which has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

import triton
import triton.language as tl


@triton.jit
def rint(x):
    """The nearest whole number of float32 numbers below 2^22 in size, half to even; of others one beyond all codes."""
    # 1.5 · 2^23: its neighbours are whole numbers, so that the sum is rounded to one.
    return (x + 12582912.0) - 12582912.0


@triton.jit
def to_bfloat16(x):
    """Float32 rounded to bfloat16 and held as float32."""
    bits = x.to(tl.uint32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return rounded.to(tl.float32, bitcast=True)


@triton.jit
def rounded_to(x, dtype: tl.constexpr):
    """Float32 rounded to float32, bfloat16 or float16, and held as float32."""
    if dtype == tl.bfloat16:
        return to_bfloat16(x)
    return x.to(dtype).to(tl.float32)


@triton.jit
def stored(scale, dtype: tl.constexpr, tiny: tl.constexpr):
    """Scales rounded to their stored type and held as float32; what becomes 0 there is the smallest normal number."""
    rounded = rounded_to(scale, dtype)
    return tl.where(rounded > 0, rounded, tiny)


@triton.jit
def fp8_bits(x):
    """The bits of the e4m3fn number nearest to float32 x, half to even, as uint8; beyond 448 it is 448, NaN stays NaN.

    They are put together from integers, as cards before compute capability 8.9 have no such cast and the interpreter
    has a wrong one.
    """
    magnitude = tl.minimum(tl.abs(x), 448.0)
    bits = magnitude.to(tl.uint32, bitcast=True)
    # Of 23 bits of fraction 3 stay; what is rounded up carries into the exponent, whose bias is 7 instead of 127.
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - (120 << 3)
    # Below 2^-6 all numbers are 2^-9 apart, as float32 numbers are from 2^14 on.
    subnormal = (magnitude + 16384.0).to(tl.uint32, bitcast=True) - 0x46800000
    code = tl.where(magnitude < 0.015625, subnormal, normal)
    code = tl.where(x == x, code, 0x7F)
    sign = (x.to(tl.uint32, bitcast=True) >> 24) & 0x80
    return (code | sign).to(tl.uint8)


@triton.jit
def from_fp8_bits(bits):
    """The e4m3fn numbers of these bits, uint8 -> float32."""
    # As float32 they have an exponent that is 120 too small.
    magnitude = ((bits & 0x7F).to(tl.uint32) << 20).to(tl.float32, bitcast=True) * 1.329227995784916e36
    magnitude = tl.where((bits & 0x7F) == 0x7F, float("nan"), magnitude)
    return tl.where(bits < 0x80, magnitude, -magnitude)
