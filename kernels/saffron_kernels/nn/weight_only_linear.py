"""Linear layers of which only the weight is rounded, to 4 bits or to 8; both are products with 4-bit codes.

They are made of what a checkpoint stores, and hold it as the device on which that lies reads it best: so they are made
on a device, not moved to one. A bias is loaded by its name.
"""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from saffron_kernels.nn.stored import stored
from saffron_kernels.w4a16_gemm import W4A16Weight, repack_w4a16, w4a16_gemm

_NIBBLE = 4
_LOW = 0xF
_HIGH_STEP = 16
"""What one step of a byte's high nibble is worth."""
_ALL_ZERO, _ALL_LEAST = -0x77777778, 0
"""Eight packed zero points of 0, and of -8: nibbles are stored with 8 added."""
_GROUP_SIZES = (128, 64, 32, 16)


class _Int4Linear(nn.Module):
    """What both have in common: a weight laid out for its device."""

    codes: Tensor
    scale: Tensor
    zero: Tensor | None

    def __init__(self, weight: W4A16Weight, group_size: int, *, bias: bool) -> None:
        super().__init__()
        for name in ("codes", "scale", "zero"):
            # It is not what a checkpoint has, so it is no part of the state.
            self.register_buffer(name, getattr(weight, name), persistent=False)
        self._weight, self.group_size = weight, group_size
        self.bias = stored(len(weight.scale), dtype=weight.scale.dtype) if bias else None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: FBT001, FBT002 - as torch's
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call] # torch has no types for it
        self._weight = W4A16Weight(self.codes, self.scale, self.zero)
        return self

    def _product(self, x: Tensor) -> Tensor:
        """[..., columns] in float32, float16 or bfloat16 -> [..., N] in that type."""
        tokens = x.reshape(-1, x.shape[-1])
        y = w4a16_gemm(tokens, self._weight, self.group_size, self.bias)
        return y.reshape(*x.shape[:-1], len(self.scale))


class W4A16Linear(_Int4Linear):
    """y = x · Wᵀ + b with W[n, k] = (code[n, k] - zero[n, g]) · scale[n, g]."""

    def __init__(
        self,
        weight_packed: Tensor,
        weight_scale: Tensor,
        weight_zero_point: Tensor | None,
        in_features: int,
        *,
        bias: bool,
    ) -> None:
        """Lay the weight out.

        Args:
            weight_packed: [N, ceil(K / 8)] int32, as compressed-tensors' pack-quantized format has 4-bit codes.
            weight_scale: [N, G], floating.
            weight_zero_point: [ceil(N / 8), G] int32, packed along N; None for symmetric codes.
            in_features: K.
            bias: whether there is one; of the scale's type.

        Raises:
            ValueError: shapes or types do not fit.
        """
        weight = repack_w4a16(weight_packed, weight_scale, weight_zero_point, in_features)
        super().__init__(weight, in_features // weight_scale.shape[1], bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] in float32, float16 or bfloat16 -> [..., N] in that type."""
        return self._product(x)


class W8A16Linear(_Int4Linear):
    """y = x · Wᵀ + b with W[n, k] = code[n, k] · scale[n].

    An int8 code is 16 · high + low with both in 4 bits, so y = [x, x] · [high, low]ᵀ with the scales 16 · scale and
    scale: one product with 4-bit codes over twice the columns, summed in float32 like any other.
    """

    def __init__(self, weight_packed: Tensor, weight_scale: Tensor, in_features: int, *, bias: bool) -> None:
        """Lay the weight out.

        Args:
            weight_packed: [N, ceil(K / 4)] int32, as compressed-tensors' pack-quantized format has 8-bit codes.
            weight_scale: [N, 1], floating.
            in_features: K, a multiple of 16.
            bias: whether there is one; of the scale's type.

        Raises:
            ValueError: shapes or types do not fit.
        """
        # Smaller groups than a row's have the same scale, and a size that every device takes.
        group_size = next((size for size in _GROUP_SIZES if in_features % size == 0), None)
        if group_size is None:
            raise ValueError(f"{_GROUP_SIZES[-1]} does not divide the {in_features} columns of an 8-bit weight")
        rows, groups = len(weight_scale), in_features // group_size
        octets = weight_packed.contiguous().view(torch.uint8)[:, :in_features]  # [N, K], 128 added to each code
        # The low nibble means 0..15 and is read as -8..7, so its zero point is -8.
        nibbles = torch.cat([octets >> _NIBBLE, octets & _LOW], dim=1)  # [N, 2 K]
        zeros = weight_packed.new_empty(-(-rows // 8), 2 * groups)
        zeros[:, :groups], zeros[:, groups:] = _ALL_ZERO, _ALL_LEAST
        scales = torch.cat([each.expand(rows, groups) for each in (weight_scale * _HIGH_STEP, weight_scale)], dim=1)
        packed = (nibbles[:, ::2] | nibbles[:, 1::2] << _NIBBLE).view(torch.int32)  # [N, K / 4]
        super().__init__(repack_w4a16(packed, scales, zeros, 2 * in_features), group_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] in float32, float16 or bfloat16 -> [..., N] in that type."""
        return self._product(torch.cat([x, x], dim=-1))
