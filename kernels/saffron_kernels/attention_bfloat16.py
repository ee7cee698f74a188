"""`causal_attention` of bfloat16 by VDPBF16PS: products of the processor's own, summed in float32.

A panel of 48 queries lies side by side in memory, so that the exponentials of their scores, [keys, 48], are taken by
vector instructions, and the scores turn into pairs of keys without moving. One query needs room for its scores with all
keys that it sees: they stay in the second-level cache up to some thousand keys.
"""

# numba has no types for mypy.
# ruff: noqa: ANN401

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import carray, njit
from torch import Tensor

from saffron_kernels import openmp
from saffron_kernels.compiled_floats import float_of, pointer
from saffron_kernels.openmp import ITEMS, SECOND_ITEM, ahead_of_time, take
from saffron_kernels.outer_tile import COLUMNS, ROWS, add_tile, pack_pairs
from saffron_kernels.tile_kinds import AVX512_BF16, TILE_KINDS

_Array = npt.NDArray[Any]
_FIELDS = range(openmp.FIRST, openmp.FIRST + 15)
(
    _KEYS, _VALUES, _PACKED_KEYS, _PACKED_VALUES, _LENGTH, _PAIRS, _QUERIES, _OUT, _GROUPS, _HEADS, _SHARED, _SCALE,
    _WINDOW, _MEMORY, _WORDS,
) = _FIELDS  # fmt: skip
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
    queries, keys, values = (each.contiguous() for each in (q, k, v))
    panels, value_panels = -(-length // COLUMNS), -(-width // COLUMNS)
    packed_keys = torch.zeros(batch * groups, panels, width // 2, COLUMNS, dtype=torch.int32)
    packed_values = torch.zeros(batch * groups, value_panels, -(-length // 2), COLUMNS, dtype=torch.int32)
    out = torch.empty(batch, length, heads, width, dtype=torch.bfloat16)
    words = COLUMNS * (width // 2 + length + _ROWS + length // 2 + 1 + value_panels * COLUMNS + 1)
    # From torch, since a loop that finds no memory goes on without a word.
    threads = max(1, min(torch.get_num_threads(), batch * heads * panels))
    memory = torch.empty(threads, words, dtype=torch.int32)
    factor = np.float32(scale) * _LOG2E
    arguments = (
        *(each.data_ptr() for each in (keys, values, packed_keys, packed_values)),
        *(length, width // 2, queries.data_ptr(), out.data_ptr(), batch * groups, heads, heads // groups),
        *(int(factor.view(np.int32)), window, memory.data_ptr(), words),
    )
    openmp.run(openmp.compile_loop(_pack), batch * groups * (panels + value_panels), *arguments)
    openmp.run(openmp.compile_loop(_attend), batch * heads * panels, *arguments)
    return out


@ahead_of_time()
def _pack(data: Any) -> None:
    """Lay out keys, [H, L, D / 2] words, and values, [H, L, D], as panels: first those of a head's keys."""
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    keys = carray(pointer(a[_KEYS]), (a[_GROUPS], a[_LENGTH], a[_PAIRS]), np.uint32)
    values = carray(pointer(a[_VALUES]), (a[_GROUPS], a[_LENGTH], 2 * a[_PAIRS]), np.uint16)
    packed_keys, packed_values = _panels(a)
    of_keys = packed_keys.shape[1]
    each = of_keys + packed_values.shape[1]
    item = take(a)
    while item < a[ITEMS]:
        head, panel = item // each, item % each
        if panel < of_keys:
            _turn(keys[head], panel * COLUMNS, packed_keys[head, panel])
        else:
            pack_pairs(values[head], (panel - of_keys) * COLUMNS, packed_values[head, panel - of_keys])
        item = take(a)


@njit(nogil=True)
def _panels(a: Any) -> Any:
    """Keys, [H, panels, D / 2, 48], and values, [H, panels, pairs of keys, 48], as they are laid out."""
    length, pairs = a[_LENGTH], a[_PAIRS]
    of_keys, of_values = -(-length // COLUMNS), -(-2 * pairs // COLUMNS)
    keys = carray(pointer(a[_PACKED_KEYS]), (a[_GROUPS], of_keys, pairs, COLUMNS), np.uint32)
    values = carray(pointer(a[_PACKED_VALUES]), (a[_GROUPS], of_values, (length + 1) // 2, COLUMNS), np.uint32)
    return keys, values


@njit(nogil=True)
def _turn(words: _Array, begin: int, panel: _Array) -> None:
    """48 rows of [L, words], the last ones fewer, side by side: [words, 48]."""
    count = min(COLUMNS, words.shape[0] - begin)
    for left in range(0, words.shape[1], 16):
        for row in range(count):
            for word in range(left, min(left + 16, words.shape[1])):
                panel[word, row] = words[begin + row, word]


@ahead_of_time(*TILE_KINDS[AVX512_BF16].needs)
def _attend(data: Any) -> None:
    """Panels of queries, those of a head one after the other, into out, [B, L, H, D]."""
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    length, pairs, heads = a[_LENGTH], a[_PAIRS], a[_HEADS]
    every = a[_GROUPS] * a[_SHARED]
    queries = carray(pointer(a[_QUERIES]), (every, length, pairs), np.uint32)
    out = carray(pointer(a[_OUT]), (every // heads, length, heads, 2 * pairs), np.uint16)
    keys, values = _panels(a)
    panels, scale = keys.shape[1], float_of(np.int32(a[_SCALE]))
    memory = _memory(a, values.shape[1] * COLUMNS)
    memory[0][:] = 0  # a last panel has fewer queries, and what is beyond them is computed, too, though not written
    item = take(a)
    while item < a[ITEMS]:
        head, begin = item // panels, item % panels * COLUMNS
        group = head // a[_SHARED]
        _attend_panel(
            queries[head], keys[group], values[group], out[head // heads, :, head % heads], begin, scale, a[_WINDOW],
            memory,
        )  # fmt: skip
        item = take(a)


@njit(nogil=True)
def _memory(a: Any, padded: int) -> Any:
    """What a thread works in: a panel of queries, scores, shares, sums as wide as the panels of values, and totals."""
    length, row = a[_LENGTH], COLUMNS * 4
    turned = a[_MEMORY] + take(a[SECOND_ITEM:]) * a[_WORDS] * 4
    scores = turned + a[_PAIRS] * row
    shares = scores + (length + _ROWS) * row
    sums = shares + (length // 2 + 1) * row
    total = sums + padded * row
    return (
        carray(pointer(turned), (a[_PAIRS], COLUMNS), np.uint32),
        carray(pointer(scores), (length + _ROWS, COLUMNS), np.float32),
        carray(pointer(shares), (length // 2 + 1, COLUMNS), np.uint32),
        carray(pointer(sums), (COLUMNS, padded), np.float32),
        carray(pointer(total), (COLUMNS,), np.float32),
    )


@njit(nogil=True, error_model="numpy")
def _attend_panel(  # noqa: PLR0917 - numba has positional parameters only
    queries: _Array,
    keys: _Array,
    values: _Array,
    out: _Array,
    begin: int,
    scale: np.float32,
    window: int,
    memory: Any,
) -> None:
    """48 queries of a head, [L, D / 2], from `begin` on, into out, [L, D]."""
    turned, scores, shares, sums, total = memory
    (length, pairs), padded = queries.shape, sums.shape[1]
    end = min(begin + COLUMNS, length)
    # Tiles and pairs of keys begin at multiples of 8.
    start = max(0, begin - window + 1) // _ROWS * _ROWS
    _turn(queries, begin, turned)
    scores[: end - start + _ROWS] = 0
    for key in range(start, end, _ROWS):
        rows = keys[key // COLUMNS].ctypes.data + key % COLUMNS * 4
        add_tile(AVX512_BF16, rows, turned.ctypes.data, pairs, scores[key - start].ctypes.data, COLUMNS)
    _mask(scores, begin, start, end, window)
    _exponentials(scores, end - start, scale, total)
    _pair(scores, end - start, shares)
    sums[:] = 0
    for panel in range(len(values)):
        columns = values[panel, start // 2].ctypes.data
        for row in range(0, end - begin, _ROWS):
            place = sums.ctypes.data + (row * padded + panel * COLUMNS) * 4
            add_tile(AVX512_BF16, shares.ctypes.data + row * 4, columns, (end - start + 1) // 2, place, padded)
    for row in range(end - begin):
        for column in range(2 * pairs):
            sums[row, column] /= total[row]
    bits = sums.view(np.uint32)
    for row in range(end - begin):
        for column in range(2 * pairs):
            out[begin + row, column] = _rounded(bits[row, column])


@njit(nogil=True)
def _mask(scores: _Array, begin: int, start: int, end: int, window: int) -> None:
    """Take out what a query may not see: keys after it, and those before its window."""
    for key in range(start, end):
        if key <= begin and key > begin + COLUMNS - 1 - window:
            continue
        for query in range(COLUMNS):
            if key > begin + query or key <= begin + query - window:
                scores[key - start, query] = _MASKED


@njit(nogil=True)
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


@njit(nogil=True)
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


@njit(nogil=True)
def _rounded(bits: np.uint32) -> np.uint32:
    """The upper half of a float32, rounded half to even; it is no NaN."""
    return (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
