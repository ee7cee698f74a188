"""`causal_attention` of bfloat16 by VDPBF16PS: products of the processor's own, summed in float32.

A panel of 48 queries lies side by side in memory, so that the exponentials of their scores, [keys, 48], are taken by
vector instructions, and the scores turn into pairs of keys without moving. One query needs room for its scores with all
keys that it sees: they stay in the second-level cache up to some thousand keys.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saffron_kernels.compiled import compiled
from saffron_kernels.outer_tile import COLUMNS, ROWS, add_tile, pack_pairs
from saffron_kernels.threads import over_rows
from saffron_kernels.tile_kinds import AVX512_BF16, TILE_KINDS

_Array = npt.NDArray[Any]
_ROWS = ROWS[AVX512_BF16]
_LOG2E = np.float32(1.4426950408889634)
# 2^f for f in -0.5..0.5, off by 2.4e-6 of itself at most: the Taylor series, and bfloat16 has eight bits.
_C1, _C2, _C3 = np.float32(0.6931471805599453), np.float32(0.2402265069591007), np.float32(0.05550410866482158)
_C4, _C5 = np.float32(0.009618129107628477), np.float32(0.0013333558146428443)
_LEAST = np.float32(-126.0)
"""The smallest exponent of a normal number: what is less is 0 beside the largest score's 1."""
_MASKED = np.float32(-3e38)


def causal_attention_of_bfloat16(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int) -> Tensor:
    """As `causal_attention`, for bfloat16 and an even D.

    Args:
        q: [B, Hq, L, D].
        k: [B, Hkv, L, D].
        v: [B, Hkv, L, D].
        scale: of the scores.
        window: how many keys a query sees, its own among them.
    """
    batch, heads, length, width = q.shape
    groups = k.shape[1]
    queries, keys, values = (each.contiguous().reshape(-1, length, width) for each in (q, k, v))
    panels = -(-length // COLUMNS)
    packed_keys = torch.zeros(batch * groups, panels, width // 2, COLUMNS, dtype=torch.uint32).numpy()
    packed_values = torch.zeros(
        batch * groups, -(-width // COLUMNS), -(-length // 2), COLUMNS, dtype=torch.uint32
    ).numpy()
    words = (keys.view(torch.uint32).numpy(), values.view(torch.uint16).numpy())
    over_rows(batch * groups, lambda first, last: _pack(*words, packed_keys, packed_values, first, last), least=1)
    out = torch.empty(batch, length, heads, width, dtype=torch.bfloat16)
    whole = (queries.view(torch.uint32).numpy(), packed_keys, packed_values, out.view(torch.uint16).numpy())
    share = (heads // groups, np.float32(scale) * _LOG2E, window)
    over_rows(batch * heads, lambda first, last: _attend(*whole, *share, first, last), least=1)
    return out


@compiled("void(uint32[:, :, ::1], uint16[:, :, ::1], uint32[:, :, :, ::1], uint32[:, :, :, ::1], int64, int64)")
def _pack(  # noqa: PLR0917 - numba compiles positional parameters only
    keys: _Array, values: _Array, packed_keys: _Array, packed_values: _Array, first: int, last: int
) -> None:
    """Lay out keys, [H, L, D / 2] words, and values, [H, L, D], of some heads as panels."""
    for head in range(first, last):
        for panel in range(packed_keys.shape[1]):
            _turn(keys[head], panel * COLUMNS, packed_keys[head, panel])
        for panel in range(packed_values.shape[1]):
            pack_pairs(values[head], panel * COLUMNS, packed_values[head, panel])


@compiled("void(uint32[:, ::1], int64, uint32[:, ::1])")
def _turn(words: _Array, begin: int, panel: _Array) -> None:
    """48 rows of [L, words], the last ones fewer, side by side: [words, 48]."""
    count = min(COLUMNS, words.shape[0] - begin)
    for left in range(0, words.shape[1], 16):
        for row in range(count):
            for word in range(left, min(left + 16, words.shape[1])):
                panel[word, row] = words[begin + row, word]


@compiled(
    "void(uint32[:, :, ::1], uint32[:, :, :, ::1], uint32[:, :, :, ::1], uint16[:, :, :, ::1],"
    " int64, float32, int64, int64, int64)",
    needs=TILE_KINDS[AVX512_BF16].needs,
)
def _attend(  # noqa: PLR0917 - as above
    queries: _Array,
    packed_keys: _Array,
    packed_values: _Array,
    out: _Array,
    group: int,
    scale: np.float32,
    window: int,
    first: int,
    last: int,
) -> None:
    """Heads first..last - 1 of all, counted through the batch, into out, [B, L, H, D]."""
    length, pairs = queries.shape[1], queries.shape[2]
    heads, width = out.shape[2], out.shape[3]
    turned = np.zeros((pairs, COLUMNS), np.uint32)
    padded = packed_values.shape[1] * COLUMNS
    scores = np.empty((length + _ROWS, COLUMNS), np.float32)
    shares = np.empty((length // 2 + 1, COLUMNS), np.uint32)
    sums = np.empty((COLUMNS, padded), np.float32)
    total = np.empty(COLUMNS, np.float32)
    for head in range(first, last):
        keys, values = packed_keys[head // group], packed_values[head // group]
        for begin in range(0, length, COLUMNS):
            end = min(begin + COLUMNS, length)
            # Tiles and pairs of keys begin at multiples of 8.
            start = max(0, begin - window + 1) // _ROWS * _ROWS
            _turn(queries[head], begin, turned)
            scores[: end - start + _ROWS] = 0
            for key in range(start, end, _ROWS):
                rows = keys[key // COLUMNS].ctypes.data + key % COLUMNS * 4
                add_tile(AVX512_BF16, rows, turned.ctypes.data, pairs, scores[key - start].ctypes.data, COLUMNS)
            _mask(scores, begin, start, end, window)
            _exponentials(scores, end - start, scale, total)
            _pair(scores, end - start, shares)
            sums[:] = 0
            for panel in range(values.shape[0]):
                columns = values[panel, start // 2].ctypes.data if start < length else 0
                for row in range(0, end - begin, _ROWS):
                    place = sums.ctypes.data + (row * padded + panel * COLUMNS) * 4
                    add_tile(AVX512_BF16, shares.ctypes.data + row * 4, columns, (end - start + 1) // 2, place, padded)
            for row in range(end - begin):
                for column in range(width):
                    sums[row, column] /= total[row]
            bits = sums.view(np.uint32)
            for row in range(end - begin):
                for column in range(width):
                    out[head // heads, begin + row, head % heads, column] = _rounded(bits[row, column])


@compiled("void(float32[:, ::1], int64, int64, int64, int64)")
def _mask(scores: _Array, begin: int, start: int, end: int, window: int) -> None:
    """Take out what a query may not see: keys after it, and those before its window."""
    for key in range(start, end):
        if key <= begin and key > begin + COLUMNS - 1 - window:
            continue
        for query in range(COLUMNS):
            if key > begin + query or key <= begin + query - window:
                scores[key - start, query] = _MASKED


@compiled("void(float32[:, ::1], int64, float32, float32[::1])")
def _exponentials(scores: _Array, count: int, scale: np.float32, total: _Array) -> None:
    """Turn scores into 2^(scale · (score - largest)), and sum them for each query."""
    largest = np.full(COLUMNS, _MASKED, np.float32)
    power = np.empty(COLUMNS, np.int32)
    factor = power.view(np.float32)
    total[:] = 0
    for key in range(count):
        for query in range(COLUMNS):
            largest[query] = max(largest[query], scores[key, query])
    for key in range(count):
        row = scores[key]
        for query in range(COLUMNS):
            exponent = max((row[query] - largest[query]) * scale, _LEAST)
            whole = np.rint(exponent)
            part = exponent - whole
            power[query] = (np.int32(whole) + np.int32(127)) << np.int32(23)
            row[query] = np.float32(1) + part * (_C1 + part * (_C2 + part * (_C3 + part * (_C4 + part * _C5))))
        for query in range(COLUMNS):
            row[query] *= factor[query]
            total[query] += row[query]


@compiled("void(float32[:, ::1], int64, uint32[:, ::1])")
def _pair(scores: _Array, count: int, shares: _Array) -> None:
    """Round scores to bfloat16, two keys a word; a last one without a partner meets 0."""
    bits = scores.view(np.uint32)
    for pair in range(count // 2):
        for query in range(COLUMNS):
            low, high = _rounded(bits[2 * pair, query]), _rounded(bits[2 * pair + 1, query])
            shares[pair, query] = low | (high << np.uint32(16))
    if count % 2:
        for query in range(COLUMNS):
            shares[count // 2, query] = _rounded(bits[count - 1, query])


@compiled("uint32(uint32)")
def _rounded(bits: np.uint32) -> np.uint32:
    """The upper half of a float32, rounded half to even; it is no NaN."""
    return (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
