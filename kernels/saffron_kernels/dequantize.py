"""Words unpacked to codes, and codes turned into the weights that they stand for.

    w = (code - zero) · scale

in float32, rounded to the scale's type, as engines do. Codes are whole numbers in a layout of `quantize_pack`, or FP8
numbers, one a byte.
"""

import torch
from torch import Tensor

from saffron_kernels.operands import require_one_device
from saffron_kernels.quantize_pack import FP8, WORD, Layout, order_of, packed_shape, require_scales


def unpack(packed: Tensor, shape: tuple[int, int], bits: int, layout: Layout) -> Tensor:
    """Undo `pack`.

    Args:
        packed: as the layout has it.
        shape: R and C of the codes.
        bits: width of a code: 4 or 8; in `Layout.CODES` all are held in 8.
        layout: of `packed`.

    Returns:
        [R, C] int8.

    Raises:
        ValueError: `packed` is not of the shape or the type that such codes have in the layout.
    """
    _check(packed, shape, bits, layout)
    codes: Tensor = _unpack(packed, *shape, bits, layout.value)
    return codes


def unpack_reference(packed: Tensor, shape: tuple[int, int], bits: int, layout: Layout) -> Tensor:
    """What `unpack` computes, in plain torch."""
    if layout is Layout.CODES:
        return packed
    if layout is Layout.GPTQ:
        return unpack_reference(packed.T, shape, bits, Layout.COMPRESSED_TENSORS)
    per_word, raised = WORD // bits, 1 << (bits - 1)
    along = packed.new_empty(len(packed), packed.shape[1] * per_word, dtype=torch.int8)
    for place, neighbour in enumerate(order_of(layout, bits)):
        along[:, neighbour::per_word] = ((packed >> (bits * place) & ((1 << bits) - 1)) - raised).to(torch.int8)
    return along.T.contiguous() if layout is Layout.AUTOAWQ else along[:, : shape[1]]


def dequantize(
    packed: Tensor, scale: Tensor, zero: Tensor | None, columns: int, *, bits: int = 8, layout: Layout = Layout.CODES
) -> Tensor:
    """The weights that codes stand for.

    Args:
        packed: codes of [R, C] as the layout has them; those of `Layout.CODES` are int8 or float8_e4m3fn.
        scale: [R, G], float32, bfloat16 or float16.
        zero: [R, G] int8 zero points in codes, or None for 0.
        columns: C, which G divides.
        bits: width of a code: 4 or 8; in `Layout.CODES` all are held in 8.
        layout: of `packed`.

    Returns:
        [R, C] in the scale's type.

    Raises:
        ValueError: `packed` is not of the shape or the type that such codes have in the layout, or scales or zero
            points do not fit.
    """
    _check(packed, (len(scale), columns), bits, layout)
    require_scales(scale, zero, len(scale), columns)
    require_one_device(packed, scale, zero)
    W: Tensor = _dequantize(packed, scale, zero, columns, bits, layout.value)
    return W


def dequantize_reference(
    packed: Tensor, scale: Tensor, zero: Tensor | None, columns: int, *, bits: int = 8, layout: Layout = Layout.CODES
) -> Tensor:
    """What `dequantize` computes, in plain torch."""
    codes = unpack_reference(packed, (len(scale), columns), bits, layout).float()
    codes = codes.reshape(*scale.shape, columns // scale.shape[1])  # [R, G, g]
    if zero is not None:
        codes = codes - zero.float()[:, :, None]
    return (codes * scale.float()[:, :, None]).reshape(len(scale), columns).to(scale.dtype)


def _check(packed: Tensor, shape: tuple[int, int], bits: int, layout: Layout) -> None:
    expected = packed_shape(layout, bits, *shape)
    if packed.shape != expected:
        raise ValueError(f"codes {shape} are {expected} in the layout {layout.value}, not {tuple(packed.shape)}")
    types = (torch.int8, FP8) if layout is Layout.CODES else (torch.int32,)
    if packed.dtype not in types:
        raise ValueError(f"in the layout {layout.value} they are {', '.join(map(str, types))}, not {packed.dtype}")


@torch.library.custom_op("saffron::unpack", mutates_args=(), device_types="cpu")
def _unpack(packed: Tensor, rows: int, columns: int, bits: int, layout: str) -> Tensor:
    from saffron_kernels import dequantize_cpu  # noqa: PLC0415 - what another device doesn't need

    return dequantize_cpu.unpack(packed, (rows, columns), bits, Layout(layout))


@_unpack.register_kernel("cuda")
def _(packed: Tensor, rows: int, columns: int, bits: int, layout: str) -> Tensor:
    from saffron_kernels.dequantize_triton import dequantize_launch  # noqa: PLC0415 - Triton is for cards alone

    codes = packed.new_empty(rows, columns, dtype=torch.int8)
    if codes.numel():
        dequantize_launch(packed, None, None, codes, bits, Layout(layout)).run()
    return codes


@_unpack.register_fake
def _(packed: Tensor, rows: int, columns: int, bits: int, layout: str) -> Tensor:  # noqa: ARG001 - told by the shape
    return packed.new_empty(rows, columns, dtype=torch.int8)


@torch.library.custom_op("saffron::dequantize", mutates_args=(), device_types="cpu")
def _dequantize(  # noqa: PLR0917 - an operator's arguments have positions
    packed: Tensor, scale: Tensor, zero: Tensor | None, columns: int, bits: int, layout: str
) -> Tensor:
    from saffron_kernels import dequantize_cpu  # noqa: PLC0415 - as above

    return dequantize_cpu.dequantize(packed, scale, zero, columns, bits=bits, layout=Layout(layout))


@_dequantize.register_kernel("cuda")
def _(  # noqa: PLR0917 - as above
    packed: Tensor, scale: Tensor, zero: Tensor | None, columns: int, bits: int, layout: str
) -> Tensor:
    from saffron_kernels.dequantize_triton import dequantize_launch  # noqa: PLC0415 - as above

    W = scale.new_empty(len(scale), columns)
    if W.numel():
        bytes_of = packed.view(torch.uint8) if packed.dtype is FP8 else packed
        dequantize_launch(bytes_of, scale, zero, W, bits, Layout(layout)).run()
    return W


@_dequantize.register_fake
def _(  # noqa: PLR0917 - as above
    packed: Tensor,  # noqa: ARG001 - the shape is the scales' and `columns`
    scale: Tensor,
    zero: Tensor | None,  # noqa: ARG001
    columns: int,
    bits: int,  # noqa: ARG001
    layout: str,  # noqa: ARG001
) -> Tensor:
    return scale.new_empty(len(scale), columns)
