"""Rounding and packing on a card: a program makes a tile of words, each from neighbours in a third dimension."""

# ruff: noqa: ANN001, ANN201, PLR0917, SIM108 - kernels are written in Triton's language, which has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from saffron_kernels.launch import Launch
from saffron_kernels.problem import Problem
from saffron_kernels.quantize_pack import WORD, Layout, packed_shape
from saffron_kernels.rounding_triton import fp8_bits, rint
from saffron_kernels.scale_search import code_range


@triton.jit
def places(first, count: tl.constexpr, NEIGHBOURS: tl.constexpr, INTERLEAVED: tl.constexpr):
    """Which code lies where, [1, count, NEIGHBOURS]: those of word `first` and the ones after it, by their places."""
    place = tl.arange(0, NEIGHBOURS)
    if INTERLEAVED:
        place = place % (NEIGHBOURS // 2) * 2 + place // (NEIGHBOURS // 2)
    return ((first + tl.arange(0, count)) * NEIGHBOURS)[None, :, None] + place[None, None, :]


@triton.jit
def group_of(
    line,
    word,
    along,
    lines,
    length,
    size,
    groups,
    NEIGHBOURS: tl.constexpr,
    ACROSS: tl.constexpr,
    SHARED: tl.constexpr,
):
    """The number of each code's group, which broadcasts to [LINES, WORDS, NEIGHBOURS], and whether there is one.

    Where a word lies within a group (SHARED), its scale is loaded once.
    """
    if SHARED:
        number = line * groups + word * NEIGHBOURS // size
        known = (line < lines) & (word * NEIGHBOURS < length)
    else:
        if ACROSS:
            number = along * groups + line // size
        else:
            number = line * groups + along // size
        known = (line < lines) & (along < length)
    return number, known


@triton.jit
def quantize_pack_kernel(
    X,
    scale,
    zero,
    packed,
    lines,
    length,
    size,
    groups,
    stride_line,
    stride_along,
    stride_packed_line,
    stride_packed_word,
    low: tl.constexpr,
    high: tl.constexpr,
    BITS: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
    ACROSS: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    SHARED: tl.constexpr,
    LINES: tl.constexpr,
    WORDS: tl.constexpr,
):
    """Words of lines of X: its rows, or with ACROSS its columns; X holds weights, or without scales codes."""
    line = (tl.program_id(0) * LINES + tl.arange(0, LINES))[:, None, None]
    word = (tl.program_id(1) * WORDS + tl.arange(0, WORDS))[None, :, None]
    along = places(tl.program_id(1) * WORDS, WORDS, NEIGHBOURS, INTERLEAVED)
    inside = (line < lines) & (along < length)
    x = tl.load(X + line.to(tl.int64) * stride_line + along.to(tl.int64) * stride_along, inside, 0)
    if scale is not None:
        number, known = group_of(line, word, along, lines, length, size, groups, NEIGHBOURS, ACROSS, SHARED)
        s = tl.load(scale + number, known, 1.0).to(tl.float32)
        code = rint(tl.div_rn(x.to(tl.float32), tl.broadcast_to(s, x.shape)))
        if zero is not None:
            code += tl.load(zero + number, known, 0).to(tl.float32)
        x = tl.minimum(tl.maximum(code, low), high).to(tl.int32)
    word = (tl.program_id(1) * WORDS + tl.arange(0, WORDS))[None, :]
    line = tl.program_id(0) * LINES + tl.arange(0, LINES)[:, None]
    into = packed + line.to(tl.int64) * stride_packed_line + word.to(tl.int64) * stride_packed_word
    inside_packed = (line < lines) & (word * NEIGHBOURS < length)
    if NEIGHBOURS == 1:
        tl.store(into, tl.reshape(x, (LINES, WORDS)).to(tl.int8), inside_packed)
    else:
        raised = tl.where(inside, x.to(tl.int32) - low, 0)
        shift = (tl.arange(0, NEIGHBOURS) * BITS)[None, None, :]
        # No two codes share a bit, so that the sum is their union.
        tl.store(into, tl.sum(raised << shift, axis=2), inside_packed)


@triton.jit
def quantize_fp8_kernel(W, scale, bits, columns, stride_row, stride_column, COLUMNS: tl.constexpr):
    """Bits of e4m3fn numbers, [R, columns], of W in scale [R]."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < columns
    w = tl.load(W + row * stride_row + column.to(tl.int64) * stride_column, inside, 0.0).to(tl.float32)
    s = tl.load(scale + row)
    tl.store(bits + row * columns + column, fp8_bits(tl.div_rn(w, tl.broadcast_to(s, w.shape))), inside)


def tiling(layout: Layout, bits: int) -> dict[str, Any]:
    """The kernels' constants for a layout: tiles whose shorter side lies along what is strided in memory."""
    across = layout is Layout.AUTOAWQ
    return {
        "BITS": bits,
        "NEIGHBOURS": 1 if layout is Layout.CODES else WORD // bits,
        "ACROSS": across,
        "INTERLEAVED": across,
        **_TILES[layout],
    }


_TILES: dict[Layout, dict[str, int]] = {
    Layout.CODES: {"LINES": 4, "WORDS": 512},
    Layout.COMPRESSED_TENSORS: {"LINES": 4, "WORDS": 64},
    Layout.GPTQ: {"LINES": 32, "WORDS": 8},
    Layout.AUTOAWQ: {"LINES": 32, "WORDS": 8},
}


def strides(packed: Tensor, layout: Layout) -> tuple[int, int]:
    """Of packed words: from one line to the next, and along a line."""
    row, column = packed.stride()
    return (column, row) if layout is Layout.GPTQ else (row, column)


def word_tiles(
    values: Tensor, scale: Tensor | None, packed: Tensor, bits: int, layout: Layout
) -> tuple[tuple[int, int], dict[str, Any]]:
    """The grid, and what both kernels are told of how words lie beside values: weights or codes.

    Args:
        values: [R, C], of any strides.
        scale: [R, G] or None.
        packed: of the layout's shape, of any strides.
        bits: width of a code.
        layout: of `packed`.
    """
    constants = tiling(layout, bits)
    across, neighbours = constants["ACROSS"], constants["NEIGHBOURS"]
    values = values.T if across else values
    lines, length = values.shape
    groups = 1 if scale is None else scale.shape[1]
    stride_packed_line, stride_packed_word = strides(packed, layout)
    grid = triton.cdiv(lines, constants["LINES"]), triton.cdiv(length, neighbours * constants["WORDS"])
    return grid, {
        "lines": lines,
        "length": length,
        "size": (lines if across else length) // groups,
        "groups": groups,
        "stride_line": values.stride(0),
        "stride_along": values.stride(1),
        "stride_packed_line": stride_packed_line,
        "stride_packed_word": stride_packed_word,
        "SHARED": not across and length // groups % neighbours == 0,
        **constants,
    }


def side_by_side(tensor: Tensor | None) -> Tensor | None:
    """The same numbers in the order of their indices, as kernels read what they are told no strides of."""
    return None if tensor is None else tensor.contiguous()


def quantize_pack_launch(
    X: Tensor, scale: Tensor | None, zero: Tensor | None, packed: Tensor, bits: int, layout: Layout
) -> Launch:
    """The launch that fills `packed` with the codes of X.

    Args:
        X: [R, C] weights, or without `scale` int8 codes, of any strides.
        scale: [R, G] or None.
        zero: [R, G] int8 or None.
        packed: of the layout's shape, of any strides.
        bits: width of a code.
        layout: of `packed`.
    """
    scale, zero = side_by_side(scale), side_by_side(zero)
    low, high = code_range(bits)
    grid, arguments = word_tiles(X, scale, packed, bits, layout)
    return Launch(
        quantize_pack_kernel,
        grid,
        {"X": X, "scale": scale, "zero": zero, "packed": packed, "low": low, "high": high, **arguments},
        fp_fusion=False,
    )


def quantize_fp8_launch(W: Tensor, scale: Tensor, bits: Tensor) -> Launch:
    """The launch that fills `bits`, [R, C] uint8, with the e4m3fn numbers of W / scale."""
    columns = min(2048, triton.next_power_of_2(W.shape[1]))
    return Launch(
        quantize_fp8_kernel,
        (W.shape[0], triton.cdiv(W.shape[1], columns)),
        {
            "W": W,
            "scale": scale.contiguous(),
            "bits": bits,
            "columns": W.shape[1],
            "stride_row": W.stride(0),
            "stride_column": W.stride(1),
            "COLUMNS": columns,
        },
        fp_fusion=False,
    )


def packing_problem(
    op: str,
    launch: Callable[[Tensor, Tensor, Tensor | None, Tensor], Launch],
    layout: Layout,
    bits: int,
    *,
    flops: int,
    groups: int = 32,
) -> Problem:
    """Return the problem of an op between 4096x4096 bfloat16 weights and their words.

    Args:
        op: its name.
        launch: from weights, scales, zero points and words.
        layout: of the words.
        bits: width of a code.
        flops: a weight.
        groups: in a row.
    """
    rows = columns = 4096
    shape = packed_shape(layout, bits, rows, columns)

    def launched(capability: tuple[int, int]) -> Launch:
        del capability  # one launch suits all
        W, scale = (torch.empty(rows, each, dtype=torch.bfloat16, device="meta") for each in (columns, groups))
        zero = torch.empty(rows, groups, dtype=torch.int8, device="meta") if layout is Layout.AUTOAWQ else None
        dtype = torch.int8 if layout is Layout.CODES else torch.int32
        return launch(W, scale, zero, torch.empty(shape, dtype=dtype, device="meta"))

    return Problem(
        f"{op} {rows}x{columns} int{bits} g{columns // groups} {layout.value}",
        launched,
        bytes=2 * rows * (columns + groups) + shape[0] * shape[1] * (1 if layout is Layout.CODES else 4),
        flops=flops * rows * columns,
        unit="fp32",
    )


def _problem(layout: Layout, bits: int, groups: int = 32) -> Problem:
    def launch(W: Tensor, scale: Tensor, zero: Tensor | None, packed: Tensor) -> Launch:
        return quantize_pack_launch(W, scale, zero, packed, bits, layout)

    return packing_problem("quantize_pack", launch, layout, bits, flops=6, groups=groups)


def _fp8_problem(rows: int, columns: int) -> Problem:
    def launch(capability: tuple[int, int]) -> Launch:
        del capability  # as above
        W = torch.empty(rows, columns, dtype=torch.bfloat16, device="meta")
        scale, bits = torch.empty(rows, 1, device="meta"), torch.empty(rows, columns, dtype=torch.uint8, device="meta")
        return quantize_fp8_launch(W, scale, bits)

    return Problem(
        f"quantize_fp8 {rows}x{columns}",
        launch,
        bytes=3 * rows * columns + 4 * rows,
        flops=12 * rows * columns,
        unit="fp32",
    )


PROBLEMS = (
    _problem(Layout.CODES, 8, groups=1),
    _problem(Layout.COMPRESSED_TENSORS, 4),
    _problem(Layout.GPTQ, 4),
    _problem(Layout.AUTOAWQ, 4),
    _fp8_problem(4096, 4096),
)
