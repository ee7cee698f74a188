"""What a weight matrix is rounded to, and the matrix once it is rounded."""

from dataclasses import dataclass

import torch
from torch import Tensor

from saffron_kernels.dequantize import dequantize


@dataclass(frozen=True)
class Grid:
    """The numbers that weights can be rounded to: whole codes times a scale for each group of columns.

    Attributes:
        bits: width of a code.
        group_size: neighbouring columns that share a scale, or None for all of a row; divides the columns.
        scale_dtype: type of the stored scale.
        symmetric: whether the codes lie around 0; else each group has a zero point.
    """

    bits: int
    group_size: int | None
    scale_dtype: torch.dtype
    symmetric: bool = True

    @property
    def low(self) -> int:
        """The smallest code. Codes are signed, those of an asymmetric grid, too."""
        return -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        """The largest code."""
        return (1 << (self.bits - 1)) - 1


@dataclass(frozen=True)
class Quantized:
    """A quantized weight matrix: each weight is (code - zero) · scale.

    Attributes:
        codes: [R, C] int8, or float8_e4m3fn.
        scale: [R, G] in its stored type.
        zero: [R, G] int8 zero points in codes; None where they are 0.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None = None

    def dequantize(self) -> Tensor:
        """The weights, [R, C], rounded to the scale's type as engines do."""
        return dequantize(self.codes, self.scale, self.zero, self.codes.shape[1])

    def split(self, rows: list[int]) -> list["Quantized"]:
        """The matrix cut into matrices of so many rows each."""
        codes, scales = torch.split(self.codes, rows), torch.split(self.scale, rows)
        zeros = [None] * len(rows) if self.zero is None else torch.split(self.zero, rows)
        return [Quantized(*part) for part in zip(codes, scales, zeros, strict=True)]
