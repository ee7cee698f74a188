"""The product of float activations with 4-bit weights: y = x · Wᵀ + b.

W[n, k] = (code[n, k] - zero[n, g]) · scale[n, g] with g = k // group_size. Codes are exact in x's type, so each group's
products can be summed before its scale is multiplied in, in float32. The CPU scales first where it computes in float32
throughout, and with 256 tokens of bfloat16 or more, for which weights are rounded to bfloat16.

Checkpoints hold eight codes of consecutive columns in a word, which is slow to unpack; `repack_w4a16` lays the weights
out, once, as the device that they lie on reads them best.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from saffron_kernels.eager import cpu_kernels, on_cpu
from saffron_kernels.operands import require_one_device
from saffron_kernels.quantize_per_token import require_tokens

_NIBBLE = 4
_PER_WORD = 8
_OFFSET = 8
"""What makes a code -8..7 an unsigned nibble."""
BLOCK = 128
"""Columns of a block of the card's layout."""
SLICE = 16
"""Words of a block: nibble j of word w is column 16 j + w, so that shifted words are 16 columns in their order."""


@dataclass(frozen=True, eq=False, slots=True)
class W4A16Weight:
    """Weights laid out for one kind of device; the codes of another kind are refused by `w4a16_gemm`.

    Attributes:
        codes: on the CPU uint8; on a card int32 [ceil(K / 128), N, 16], blocks of 128 columns: nibble j of word w is
            column 16 j + w of the block. What lies beyond K is never multiplied with anything but 0.
        scale: [N, G], of a floating type, with the strides that suit the device.
        zero: [N, G] of -8..7 in the type that suits the device, or None for symmetric codes.
        prepared: what the CPU's function keeps from call to call. Addresses are in it, so a copy starts with nothing.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None
    prepared: dict[tuple[torch.dtype, int, int, int, int], Any] = field(default_factory=dict, init=False, repr=False)

    def __reduce__(self) -> tuple[type["W4A16Weight"], tuple[Tensor, Tensor, Tensor | None]]:
        return W4A16Weight, (self.codes, self.scale, self.zero)


def repack_w4a16(
    weight_packed: Tensor, weight_scale: Tensor, weight_zero_point: Tensor | None, in_features: int
) -> W4A16Weight:
    """Lay a checkpoint's weights out for the device on which they lie.

    Args:
        weight_packed: [N, ceil(K / 8)] int32, as compressed-tensors' pack-quantized format: column k in bits 4 (k % 8)
            of word k // 8, 8 added to each code.
        weight_scale: [N, G] of a floating type.
        weight_zero_point: [ceil(N / 8), G] int32, packed in the same way along N; None for symmetric codes.
        in_features: K.

    Returns:
        New tensors on the same device.

    Raises:
        ValueError: shapes or types do not fit.
    """
    N, G = weight_scale.shape
    _require("weight_packed", weight_packed, torch.int32, (N, -(-in_features // _PER_WORD)))
    zero = None
    if weight_zero_point is not None:
        _require("weight_zero_point", weight_zero_point, torch.int32, (-(-N // _PER_WORD), G))
        zero = _unpack(weight_zero_point.T, N).T  # [N, G]
    if weight_packed.device.type == "cpu":
        from saffron_kernels import w4a16_gemm_cpu  # noqa: PLC0415 - what another device doesn't need

        return w4a16_gemm_cpu.repack(weight_packed, weight_scale, zero, in_features)
    return repack_in_blocks(weight_packed, weight_scale, zero, in_features)


def w4a16_gemm(x: Tensor, weight: W4A16Weight, group_size: int, bias: Tensor | None = None) -> Tensor:
    """Multiply tokens with 4-bit weights.

    Args:
        x: [M, K] float16, bfloat16 or float32.
        weight: [N, K] as `repack_w4a16` made it on this kind of device.
        group_size: columns of a group, a multiple of 16; G · group_size = K. On a card a power of two up to 128, a
            multiple of 128, or K.
        bias: [N] of any floating type, or None.

    Returns:
        [M, N] in x's type, rounded to it once its sums are whole. The same input gives the same bits on one device.

    Raises:
        ValueError: shapes or types do not fit, or the codes are laid out for another kind of device.
    """
    y: Tensor
    if on_cpu(x, bias):
        y = cpu_kernels("w4a16_gemm").w4a16_gemm(x, weight, group_size, bias)
        return y
    require_product(x, weight, group_size, bias)
    y = _gemm(x, weight.codes, weight.scale, weight.zero, group_size, bias)
    return y


def w4a16_gemm_reference(
    x: Tensor,
    weight_packed: Tensor,
    weight_scale: Tensor,
    weight_zero_point: Tensor | None,
    group_size: int,
    *,
    bias: Tensor | None = None,
) -> Tensor:
    """What `repack_w4a16` and `w4a16_gemm` compute, in plain torch from the tensors of a checkpoint."""
    codes = _unpack(weight_packed, x.shape[1]).float()  # [N, K]
    if weight_zero_point is not None:
        zero = _unpack(weight_zero_point.T, len(codes)).T  # [N, G]
        codes -= zero.float().repeat_interleave(group_size, dim=1)
    y = x.float() @ (codes * weight_scale.float().repeat_interleave(group_size, dim=1)).T
    return (y if bias is None else y + bias.float()).to(x.dtype)


def repack_in_blocks(weight_packed: Tensor, scale: Tensor, zero: Tensor | None, in_features: int) -> W4A16Weight:
    """The card's layout, on any device. Scales and zero points lie with the output channels side by side, in one type.

    Args:
        weight_packed: [N, ceil(K / 8)] int32 of a checkpoint.
        scale: [N, G].
        zero: [N, G] int8 or None.
        in_features: K.
    """
    blocks = -(-in_features // BLOCK)
    N = weight_packed.shape[0]
    words = torch.nn.functional.pad(weight_packed, (0, blocks * SLICE - weight_packed.shape[1]))
    nibbles = _nibbles(words).reshape(N, blocks, _PER_WORD, SLICE)  # [n, block, j, w]: column 16 j + w
    # Words of 32 bits are put together in 64, where no sign is in the way.
    placed = nibbles.long() << torch.arange(0, 32, _NIBBLE, device=words.device).view(_PER_WORD, 1)
    codes = placed.sum(dim=2).to(torch.int32).transpose(0, 1).contiguous()  # [block, n, w]
    return W4A16Weight(codes, _columns_first(scale), None if zero is None else _columns_first(zero.to(scale.dtype)))


def _columns_first(tensor: Tensor) -> Tensor:
    """The same [N, G] with its columns contiguous."""
    return tensor.T.contiguous().T


def _nibbles(words: Tensor) -> Tensor:
    """[R, W] int32 -> [R, 8 W] uint8, the lowest bits first."""
    # A copy: torch calls a transposed single row contiguous, whose bytes it then does not show.
    octets = words.clone(memory_format=torch.contiguous_format).view(torch.uint8)
    return torch.stack([octets & 0xF, octets >> _NIBBLE], dim=2).reshape(len(words), -1)


def _unpack(words: Tensor, columns: int) -> Tensor:
    """[R, ceil(columns / 8)] int32 of a checkpoint -> [R, columns] int8 in -8..7."""
    return _nibbles(words)[:, :columns].to(torch.int8) - _OFFSET


def _require(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if tensor.dtype != dtype or tensor.shape != shape:
        raise ValueError(f"{name} must be {dtype} {shape}, not {tensor.dtype} {tuple(tensor.shape)}")


def require_product(x: Tensor, weight: W4A16Weight, group_size: int, bias: Tensor | None) -> None:
    """Raise ValueError where `w4a16_gemm` does."""
    require_tokens(x)
    require_one_device(x, weight.codes, weight.scale, weight.zero, bias)
    (_, K), (N, G) = x.shape, weight.scale.shape
    if group_size <= 0 or group_size % SLICE or G * group_size != K:
        raise ValueError(f"{G} groups of {group_size} columns do not make {K} columns, or {SLICE} does not divide them")
    if (weight.codes.dtype == torch.uint8) != (x.device.type == "cpu"):
        raise ValueError(f"these weights are laid out for another device than {x.device}: repack them there")
    if weight.codes.dtype == torch.int32:
        _require("codes", weight.codes, torch.int32, (-(-K // BLOCK), N, SLICE))
    if bias is not None and bias.shape != (N,):
        raise ValueError(f"bias must be {(N,)}, not {tuple(bias.shape)}")


@torch.library.custom_op("saffron::w4a16_gemm", mutates_args=(), device_types="cpu")
def _gemm(  # noqa: PLR0917 - an op's arguments have places
    x: Tensor, codes: Tensor, scale: Tensor, zero: Tensor | None, group_size: int, bias: Tensor | None
) -> Tensor:
    from saffron_kernels import w4a16_gemm_cpu  # noqa: PLC0415 - what another device doesn't need

    return w4a16_gemm_cpu.w4a16_gemm(x, W4A16Weight(codes, scale, zero), group_size, bias)


@_gemm.register_kernel("cuda")
def _(  # noqa: PLR0917 - as above
    x: Tensor, codes: Tensor, scale: Tensor, zero: Tensor | None, group_size: int, bias: Tensor | None
) -> Tensor:
    from saffron_kernels import w4a16_gemm_triton  # noqa: PLC0415 - Triton is needed on a card alone

    y: Tensor = w4a16_gemm_triton.w4a16_gemm(x, codes, scale, zero, group_size, bias)
    return y


@_gemm.register_fake
def _(  # noqa: PLR0917 - as above
    x: Tensor,
    codes: Tensor,  # noqa: ARG001 - only these change no shape
    scale: Tensor,
    zero: Tensor | None,  # noqa: ARG001
    group_size: int,  # noqa: ARG001
    bias: Tensor | None,  # noqa: ARG001
) -> Tensor:
    return x.new_empty(x.shape[0], scale.shape[0])
