"""Unpacking on a card: a program spreads a tile of words over the codes' places in a third dimension."""

# ruff: noqa: ANN001, ANN201, PLR0917 - kernels are written in Triton's language, which has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

import triton
import triton.language as tl
from torch import Tensor

from saffron_kernels.launch import Launch
from saffron_kernels.problem import Problem
from saffron_kernels.quantize_pack import Layout
from saffron_kernels.quantize_pack_triton import group_of, packing_problem, places, side_by_side, word_tiles
from saffron_kernels.rounding_triton import from_fp8_bits, rounded_to


@triton.jit
def dequantize_kernel(
    packed,
    scale,
    zero,
    Y,
    lines,
    length,
    size,
    groups,
    stride_line,
    stride_along,
    stride_packed_line,
    stride_packed_word,
    BITS: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
    ACROSS: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    SHARED: tl.constexpr,
    LINES: tl.constexpr,
    WORDS: tl.constexpr,
):
    """Weights, or without scales codes, of lines of words: rows of Y, or with ACROSS its columns."""
    line = (tl.program_id(0) * LINES + tl.arange(0, LINES))[:, None, None]
    word = (tl.program_id(1) * WORDS + tl.arange(0, WORDS))[None, :, None]
    along = places(tl.program_id(1) * WORDS, WORDS, NEIGHBOURS, INTERLEAVED)
    held = (line < lines) & (word * NEIGHBOURS < length)
    at = packed + line.to(tl.int64) * stride_packed_line + word.to(tl.int64) * stride_packed_word
    y = tl.load(at, held, 0)
    if NEIGHBOURS > 1:
        shift = (tl.arange(0, NEIGHBOURS) * BITS)[None, None, :]
        y = ((y >> shift) & ((1 << BITS) - 1)) - (1 << (BITS - 1))
    inside = (line < lines) & (along < length)
    if packed.dtype.element_ty == tl.uint8:
        y = from_fp8_bits(y)
    if scale is not None:
        number, known = group_of(line, word, along, lines, length, size, groups, NEIGHBOURS, ACROSS, SHARED)
        y = y.to(tl.float32)
        if zero is not None:
            y -= tl.load(zero + number, known, 0).to(tl.float32)
        y = rounded_to(y * tl.load(scale + number, known, 1.0).to(tl.float32), Y.dtype.element_ty)
    into = Y + line.to(tl.int64) * stride_line + along.to(tl.int64) * stride_along
    tl.store(into, y.to(Y.dtype.element_ty), inside)


def dequantize_launch(
    packed: Tensor, scale: Tensor | None, zero: Tensor | None, Y: Tensor, bits: int, layout: Layout
) -> Launch:
    """The launch that fills Y with weights, or without scales with codes.

    Args:
        packed: of the layout's shape, of any strides; uint8 for the bits of e4m3fn numbers.
        scale: [R, G] or None.
        zero: [R, G] int8 or None.
        Y: [R, C] in the scale's type, or int8 for codes, of any strides.
        bits: width of a code.
        layout: of `packed`.
    """
    scale, zero = side_by_side(scale), side_by_side(zero)
    grid, arguments = word_tiles(Y, scale, packed, bits, layout)
    return Launch(
        dequantize_kernel,
        grid,
        {"packed": packed, "scale": scale, "zero": zero, "Y": Y, **arguments},
        fp_fusion=False,
    )


def _problem(layout: Layout, bits: int, groups: int = 32) -> Problem:
    def launch(W: Tensor, scale: Tensor, zero: Tensor | None, packed: Tensor) -> Launch:
        return dequantize_launch(packed, scale, zero, W, bits, layout)

    return packing_problem("dequantize", launch, layout, bits, flops=2, groups=groups)


PROBLEMS = (
    _problem(Layout.CODES, 8, groups=1),
    _problem(Layout.COMPRESSED_TENSORS, 4),
    _problem(Layout.GPTQ, 4),
    _problem(Layout.AUTOAWQ, 4),
)
