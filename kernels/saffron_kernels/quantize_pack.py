"""Weights rounded to codes, and codes packed into the words that checkpoints hold.

For weights w of a group with scale s and zero point z:

    code = clamp(rint(w / s) + z, low, high)

in IEEE float32, rint to even, low = -2^(bits - 1), high = 2^(bits - 1) - 1. Word j of a row, column or group of codes
holds the codes of 32 / bits neighbours, each raised by 2^(bits - 1), the first of its order in the lowest bits.

The layouts are compressed-tensors' `pack-quantized`, GPTQ's first (GPTQModel's "checkpoint_format": "gptq") and
AutoAWQ's "gemm" (`awq/utils/packing_utils.py`). FP8 is e4m3fn (arXiv 2209.05433): no infinity, 448 the largest number.
"""

from enum import Enum

import torch
from torch import Tensor

from saffron_kernels.operands import FLOATING, require_one_device
from saffron_kernels.scale_search import code_range

WORD = 32
"""Bits of a word."""
FP8 = torch.float8_e4m3fn
FP8_LARGEST = torch.finfo(FP8).max
"""448."""


class Layout(Enum):
    """Where the codes of a weight [R, C] lie.

    Attributes:
        CODES: [R, C] int8, one a byte, not raised.
        COMPRESSED_TENSORS: [R, ceil(C · bits / 32)] int32: neighbours along the columns; what is left of the last word
            of a row is 0.
        GPTQ: [C · bits / 32, R] int32: the same, turned on its side.
        AUTOAWQ: [C, R · bits / 32] int32: neighbours along the rows, in the order 0, 2, 4, 6, 1, 3, 5, 7. 4 bits only.
    """

    CODES = "codes"
    COMPRESSED_TENSORS = "compressed-tensors"
    GPTQ = "gptq"
    AUTOAWQ = "autoawq"


def quantize_pack(W: Tensor, scale: Tensor, zero: Tensor | None, bits: int, layout: Layout = Layout.CODES) -> Tensor:
    """Round weights to their nearest codes and pack those.

    Args:
        W: [R, C] finite, float32, bfloat16 or float16.
        scale: [R, G] in its stored type, not 0; G divides C.
        zero: [R, G] int8 zero points in codes, or None for 0.
        bits: width of a code: 4 or 8.
        layout: of the result.

    Returns:
        Of the shape and type that the layout says.

    Raises:
        ValueError: the layout can't hold such a matrix, or shapes, types or devices do not fit.
    """
    _check(layout, bits, *W.shape)
    if W.dtype not in FLOATING:
        raise ValueError(f"weights are float32, bfloat16 or float16, not {W.dtype}")
    require_scales(scale, zero, *W.shape)
    require_one_device(W, scale, zero)
    packed: Tensor = _quantize_pack(W, scale, zero, bits, layout.value)
    return packed


def quantize_pack_reference(
    W: Tensor, scale: Tensor, zero: Tensor | None, bits: int, layout: Layout = Layout.CODES
) -> Tensor:
    """What `quantize_pack` computes, in plain torch."""
    low, high = code_range(bits)
    grouped = W.float().reshape(*scale.shape, W.shape[1] // scale.shape[1])  # [R, G, g]
    codes = (grouped / scale.float()[:, :, None]).round_()
    if zero is not None:
        codes += zero[:, :, None]
    return pack_reference(codes.clamp_(low, high).to(torch.int8).reshape(W.shape), bits, layout)


def pack(codes: Tensor, bits: int, layout: Layout) -> Tensor:
    """Pack codes, or zero points, which lie as the codes of a matrix with a column for each group.

    Args:
        codes: [R, C] int8.
        bits: width of a code: 4 or 8.
        layout: of the result.

    Raises:
        ValueError: the layout can't hold such a matrix, or its type is another.
    """
    _check(layout, bits, *codes.shape)
    if codes.dtype != torch.int8:
        raise ValueError(f"codes are int8, not {codes.dtype}")
    packed: Tensor = _pack(codes, bits, layout.value)
    return packed


def pack_reference(codes: Tensor, bits: int, layout: Layout) -> Tensor:
    """What `pack` computes, in plain torch."""
    if layout is Layout.CODES:
        return codes
    if layout is Layout.GPTQ:
        return pack_reference(codes, bits, Layout.COMPRESSED_TENSORS).T.contiguous()
    along = codes.T if layout is Layout.AUTOAWQ else codes  # neighbours in the last dimension
    per_word = WORD // bits
    words = codes.new_zeros(len(along), -(-along.shape[1] // per_word), dtype=torch.int64)
    for place, neighbour in enumerate(order_of(layout, bits)):
        raised = along[:, neighbour::per_word].long() + (1 << (bits - 1))
        words[:, : raised.shape[1]] |= raised << (bits * place)
    return words.to(torch.int32)


def order_of(layout: Layout, bits: int) -> list[int]:
    """Which of the neighbours of a word lies in which place, the lowest bits first."""
    places = range(WORD // bits)
    return [*places[::2], *places[1::2]] if layout is Layout.AUTOAWQ else [*places]


def packed_shape(layout: Layout, bits: int, rows: int, columns: int) -> tuple[int, int]:
    """The shape of a matrix in a layout."""
    per_word = WORD // bits
    shapes = {
        Layout.CODES: (rows, columns),
        Layout.COMPRESSED_TENSORS: (rows, -(-columns // per_word)),
        Layout.GPTQ: (columns // per_word, rows),
        Layout.AUTOAWQ: (columns, rows // per_word),
    }
    return shapes[layout]


def quantize_fp8(W: Tensor, scale: Tensor) -> Tensor:
    """Round weights to FP8 numbers: w / s, half to even; what lies beyond 448 becomes 448.

    Args:
        W: [R, C], float32, bfloat16 or float16.
        scale: [R, 1] float32, not 0.

    Returns:
        [R, C] float8_e4m3fn; NaN stays NaN.

    Raises:
        ValueError: the scale has another shape, type or device.
    """
    if scale.dtype != torch.float32 or scale.shape != (len(W), 1):
        raise ValueError(f"a scale a row is torch.float32 {(len(W), 1)}, not {scale.dtype} {tuple(scale.shape)}")
    require_one_device(W, scale)
    numbers: Tensor = _quantize_fp8(W, scale)
    return numbers


def quantize_fp8_reference(W: Tensor, scale: Tensor) -> Tensor:
    """What `quantize_fp8` computes, in plain torch."""
    # Torch's own cast makes NaN of what lies beyond 448.
    return (W.float() / scale).clamp(-FP8_LARGEST, FP8_LARGEST).to(FP8)


def require_bits(bits: int) -> None:
    """Refuse codes of other widths than 4 and 8 with a ValueError."""
    if bits not in {4, 8}:
        raise ValueError(f"codes of {bits} bits are not packed")


def require_scales(scale: Tensor, zero: Tensor | None, rows: int, columns: int) -> None:
    """Refuse scales and zero points that are not those of a matrix: a loop would read beyond their memory.

    Raises:
        ValueError: with their shapes.
    """
    groups = scale.shape[-1] if scale.dim() == 2 else 0  # noqa: PLR2004 - [R, G]
    if groups == 0 or len(scale) != rows or columns % groups:
        raise ValueError(f"scales {tuple(scale.shape)} are not those of groups of {(rows, columns)}")
    if zero is not None and (zero.dtype != torch.int8 or zero.shape != scale.shape):
        raise ValueError(f"zero points {zero.dtype} {tuple(zero.shape)} beside scales {tuple(scale.shape)}")


def _check(layout: Layout, bits: int, rows: int, columns: int) -> None:
    require_bits(bits)
    per_word = WORD // bits
    if layout is Layout.GPTQ and columns % per_word:
        raise ValueError(f"{columns} columns do not fill words of {per_word} codes")
    if layout is Layout.AUTOAWQ and (rows % per_word or bits != 4):  # noqa: PLR2004 - the layout's
        raise ValueError(f"AutoAWQ's layout has words of 8 rows of 4-bit codes, not {rows} rows of {bits}-bit codes")


def _empty(like: Tensor, layout: Layout, bits: int) -> Tensor:
    dtype = torch.int8 if layout is Layout.CODES else torch.int32
    return like.new_empty(packed_shape(layout, bits, *like.shape), dtype=dtype)


@torch.library.custom_op("saffron::quantize_pack", mutates_args=(), device_types="cpu")
def _quantize_pack(W: Tensor, scale: Tensor, zero: Tensor | None, bits: int, layout: str) -> Tensor:
    from saffron_kernels import quantize_pack_cpu  # noqa: PLC0415 - numba is slow to import

    return quantize_pack_cpu.quantize_pack(W, scale, zero, bits, Layout(layout))


@_quantize_pack.register_kernel("cuda")
def _(W: Tensor, scale: Tensor, zero: Tensor | None, bits: int, layout: str) -> Tensor:
    from saffron_kernels.quantize_pack_triton import quantize_pack_launch  # noqa: PLC0415 - Triton is for cards alone

    packed = _empty(W, Layout(layout), bits)
    if packed.numel():
        quantize_pack_launch(W, scale, zero, packed, bits, Layout(layout)).run()
    return packed


@_quantize_pack.register_fake
def _(W: Tensor, scale: Tensor, zero: Tensor | None, bits: int, layout: str) -> Tensor:  # noqa: ARG001 - W has the shape
    return _empty(W, Layout(layout), bits)


@torch.library.custom_op("saffron::pack", mutates_args=(), device_types="cpu")
def _pack(codes: Tensor, bits: int, layout: str) -> Tensor:
    from saffron_kernels import quantize_pack_cpu  # noqa: PLC0415 - as above

    return quantize_pack_cpu.pack(codes, bits, Layout(layout))


@_pack.register_kernel("cuda")
def _(codes: Tensor, bits: int, layout: str) -> Tensor:
    from saffron_kernels.quantize_pack_triton import quantize_pack_launch  # noqa: PLC0415 - as above

    packed = _empty(codes, Layout(layout), bits)
    if packed.numel():
        quantize_pack_launch(codes, None, None, packed, bits, Layout(layout)).run()
    return packed


@_pack.register_fake
def _(codes: Tensor, bits: int, layout: str) -> Tensor:
    return _empty(codes, Layout(layout), bits)


@torch.library.custom_op("saffron::quantize_fp8", mutates_args=(), device_types="cpu")
def _quantize_fp8(W: Tensor, scale: Tensor) -> Tensor:
    return quantize_fp8_reference(W, scale)


@_quantize_fp8.register_kernel("cuda")
def _(W: Tensor, scale: Tensor) -> Tensor:
    from saffron_kernels.quantize_pack_triton import quantize_fp8_launch  # noqa: PLC0415 - as above

    bits = W.new_empty(W.shape, dtype=torch.uint8)
    if bits.numel():
        quantize_fp8_launch(W, scale, bits).run()
    return bits.view(FP8)


@_quantize_fp8.register_fake
def _(W: Tensor, scale: Tensor) -> Tensor:  # noqa: ARG001 - W has the shape
    return W.new_empty(W.shape, dtype=FP8)
