"""`fp8_gemm` on the CPU, where no instruction multiplies FP8: codes are decoded, exactly, and multiplied in float32."""

# numba and llvmlite have no types for mypy.
# ruff: noqa: ANN401

from typing import Any

import numpy as np
import torch
from numba import carray
from torch import Tensor

from saffron_kernels import openmp
from saffron_kernels.compiled_floats import float_of, pointer
from saffron_kernels.openmp import ITEMS, take

_CODES, _FLOATS, _COLUMNS = range(openmp.FIRST, openmp.FIRST + 3)
_ACROSS = 512
"""Output channels whose weights are decoded at once: they stay in the last cache until they are multiplied."""


def fp8_gemm(
    codes: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, *, out_dtype: torch.dtype
) -> Tensor:
    """As the op of this name."""
    x = _decoded(codes)
    y = torch.empty(len(codes), len(weight))
    for n in range(0, len(weight), _ACROSS):
        rows = slice(n, n + _ACROSS)
        y[:, rows] = x @ _decoded(weight[rows]).T
    y.mul_(scale).mul_(weight_scale.T)
    return (y if bias is None else y.add_(bias.float())).to(out_dtype)


def _decoded(codes: Tensor) -> Tensor:
    """e4m3 [R, K] -> the same numbers in float32."""
    codes = codes.contiguous()
    floats = torch.empty(codes.shape)
    openmp.run(openmp.compile_loop(_rows), len(codes), codes.data_ptr(), floats.data_ptr(), codes.shape[1])
    return floats


@openmp.ahead_of_time()
def _rows(data: Any) -> None:
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    columns = a[_COLUMNS]
    row = take(a)
    while row < a[ITEMS]:
        codes = carray(pointer(a[_CODES] + row * columns), (columns,), np.uint8)
        floats = carray(pointer(a[_FLOATS] + row * columns * 4), (columns,), np.float32)
        for i in range(columns):
            code = np.int32(codes[i])
            magnitude = code & np.int32(0x7F)
            # The exponent's bias is 7 and becomes float32's, 127; without an exponent a code is a multiple of 2^-9.
            normal = float_of(np.int32((magnitude << np.int32(20)) + np.int32(120 << 23)))
            value = normal if magnitude > np.int32(7) else np.float32(magnitude) * np.float32(2**-9)
            value = np.float32(np.nan) if magnitude == np.int32(0x7F) else value
            floats[i] = -value if code > np.int32(0x7F) else value
        row = take(a)
