"""Torch's floating types inside compiled loops, by their bits: numba knows float32, but not float16 and bfloat16."""

# numba and llvmlite have no types for mypy. An intrinsic's parameters are named for its callers; their values come to
# `codegen`.
# ruff: noqa: ANN401, ARG001

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

FLOAT32, BFLOAT16, FLOAT16 = 0, 1, 2
KINDS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}
"""How a loop is told a tensor's type."""
BYTES = (4, 2, 2)

_HALF, _FLOAT, _SHORT, _INT = ir.HalfType(), ir.FloatType(), ir.IntType(16), ir.IntType(32)
_BFLOAT16_LOW = np.int32(0x7FFF)
_MAGNITUDE = np.int32(0x7FFFFFFF)
_INFINITY = np.int32(0x7F800000)
_QUIET_NAN = np.int32(0x7FC0)


class BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloat)

    def __hash__(self) -> int:
        return hash(BFloat)


@intrinsic
def pointer(_: Any, address: Any) -> Any:
    """An address as what `carray` takes."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    return types.voidptr(types.int64), codegen


@intrinsic
def bits_of(_: Any, value: Any) -> Any:
    """A float32's bits as an int32."""

    def codegen(_context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        return builder.bitcast(values[0], _INT)

    return types.int32(types.float32), codegen


@intrinsic
def float_of(_: Any, bits: Any) -> Any:
    """The float32 of an int32's bits."""

    def codegen(_context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        return builder.bitcast(values[0], _FLOAT)

    return types.float32(types.int32), codegen


@intrinsic
def float_of_half(_: Any, bits: Any) -> Any:
    """The float32 of a float16's bits."""

    def codegen(_context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        return builder.fpext(builder.bitcast(values[0], _HALF), _FLOAT)

    return types.float32(types.uint16), codegen


@intrinsic
def half_of_float(_: Any, value: Any) -> Any:
    """The bits of a float32 rounded to float16, half to even."""

    def codegen(_context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        return builder.bitcast(builder.fptrunc(values[0], _HALF), _SHORT)

    return types.uint16(types.float32), codegen


@njit(nogil=True)
def float_of_bfloat16(bits: Any) -> Any:
    """The float32 of a bfloat16's bits."""
    return float_of(np.int32(bits) << np.int32(16))


@njit(nogil=True)
def load_floats(address: int, kind: int, row: Any) -> None:
    """Fill a row with the numbers of a type that lie at an address."""
    if kind == FLOAT32:
        floats = carray(pointer(address), row.shape, np.float32)
        for i in range(row.size):
            row[i] = floats[i]
    else:
        bits = carray(pointer(address), row.shape, np.uint16)
        if kind == BFLOAT16:
            for i in range(row.size):
                row[i] = float_of_bfloat16(bits[i])
        else:
            for i in range(row.size):
                row[i] = float_of_half(bits[i])


@njit(nogil=True)
def store_floats(row: Any, address: int, kind: int) -> None:
    """Write a row's numbers to an address, rounded to a type, half to even."""
    if kind == FLOAT32:
        floats = carray(pointer(address), row.shape, np.float32)
        for i in range(row.size):
            floats[i] = row[i]
    else:
        bits = carray(pointer(address), row.shape, np.uint16)
        if kind == BFLOAT16:
            for i in range(row.size):
                b = bits_of(row[i])
                rounded = np.int32(b + _BFLOAT16_LOW + ((b >> np.int32(16)) & np.int32(1))) >> np.int32(16)
                bits[i] = np.uint16(_QUIET_NAN if (b & _MAGNITUDE) > _INFINITY else rounded)
        else:
            for i in range(row.size):
                bits[i] = half_of_float(row[i])
