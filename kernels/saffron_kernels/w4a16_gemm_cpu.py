"""`w4a16_gemm` on the CPU: weights are unpacked in registers, each time that they are read, so that 4 bits are read.

Many tokens in bfloat16 are the exception. Where the processor multiplies bfloat16, torch's own product is so much
faster than any that unpacks that weights are first written in bfloat16, rounded, a block of output channels at a time.
"""

# numba and llvmlite have no types for mypy.
# ruff: noqa: ANN401

import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import carray, njit
from torch import Tensor

from saffron_kernels import openmp
from saffron_kernels.compiled import LOOPS, AheadOfTime
from saffron_kernels.compiled_floats import BFLOAT16, BYTES, KINDS, load_floats, pointer, store_floats
from saffron_kernels.eager import empty_strided
from saffron_kernels.int4_tile import BLOCK, BLOCK_BYTES, INTERLEAVED, X_BLOCK, int4_tile
from saffron_kernels.int4_tokens import lay_out, write_token
from saffron_kernels.openmp import ITEMS, take
from saffron_kernels.tile_kinds import AVX512, AVX512_BF16, tile_kind
from saffron_kernels.w4a16_gemm import W4A16Weight, require_product

_FIELDS = range(openmp.FIRST, openmp.FIRST + 18)
(
    _M, _X, _OUT, _BIAS, _N, _K, _BLOCKS, _GROUPS, _GROUP_SIZE, _X_STRIDE, _CODES, _SCALE, _SCALE_KIND, _SCALE_BYTES,
    _ZERO, _KIND, _BYTES, _CHANNELS,
) = _FIELDS  # fmt: skip
(
    _W_CODES, _W_FIRST, _W_BLOCKS, _W_COLUMNS, _W_GROUPS, _W_GROUP_SIZE, _W_SCALE, _W_SCALE_KIND, _W_SCALE_BYTES,
    _W_ZERO, _W_INTO,
) = range(openmp.FIRST, openmp.FIRST + 11)  # fmt: skip
_ACROSS = 64
"""Output channels whose scales a thread holds at once."""
_PIECE = 1 << 20
"""Bytes of codes that a thread takes at once, if all threads have some: from a new place they come slowly at first."""
_TOKENS = 36
"""Tokens that are done at once: so many rows of x stay in the second cache."""
_PLANE = 32
_MANY = 256
"""Tokens in bfloat16 from which on weights are written before they are multiplied."""
_WRITTEN = 512
"""Output channels whose weights are written at once: they stay in the last cache."""


def repack(weight_packed: Tensor, scale: Tensor, zero: Tensor | None, in_features: int) -> W4A16Weight:
    """Lay out as `int4_tile` reads it: [ceil(N / 4), ceil(K / 128), 4, 64] uint8."""
    blocks, columns = -(-in_features // BLOCK), -(-in_features // 2)
    octets = weight_packed.contiguous().view(torch.uint8)[:, :columns]
    octets = torch.nn.functional.pad(octets, (0, blocks * BLOCK_BYTES - columns, 0, -len(octets) % INTERLEAVED))
    nibbles = torch.stack([octets & 0xF, octets >> 4], dim=-1)
    planes = nibbles.reshape(-1, INTERLEAVED, blocks, 4, _PLANE).movedim(1, 2)  # [n, block, row, plane, word]
    low, high = planes[..., 0, :] | planes[..., 1, :] << 4, planes[..., 2, :] | planes[..., 3, :] << 4
    # numpy asks for huge pages, torch does not; with small ones a look-up per 4 KiB halves the speed of reading.
    codes = torch.from_numpy(np.empty((len(low), blocks, INTERLEAVED, BLOCK_BYTES), np.uint8))
    torch.stack([low, high], dim=-1, out=codes.view(*low.shape, 2))
    return W4A16Weight(codes, scale.clone(), None if zero is None else zero.clone())


class _Plan(NamedTuple):
    """How a product is done, from what does not change from call to call.

    Attributes:
        loop: compiled for `openmp.prepare`.
        kind: of the tiles (`tile_kinds`).
        scale: kind and bytes of a scale.
        out: kind and bytes of a number of x and of the product.
    """

    loop: openmp.Loop
    kind: int
    scale: tuple[int, int]
    out: tuple[int, int]


class _Prepared(NamedTuple):
    """A product with one weight, of which x, the bias and the result are left open.

    Attributes:
        start: the loop, given M and the addresses of x, of the result and of the bias or 0.
        kind: of the tiles (`tile_kinds`).
        blocks: of a row of W.
        as_it_is: whether x need not be laid out for it.
        channels: N.
        owners: what holds the loop's other arguments, and the tensors whose addresses are among them.
    """

    start: openmp.Start
    kind: int
    blocks: int
    as_it_is: bool
    channels: int
    owners: tuple[object, ...]


def w4a16_gemm(x: Tensor, weight: W4A16Weight, group_size: int, bias: Tensor | None) -> Tensor:
    """As the function of this name. Groups of 32, 64, multiples of 128 and all columns are unpacked in registers."""
    M, K = x.shape
    # For one token Python is a good part of the time, so what can be is looked up at once, and checked once.
    key = x.dtype, group_size, K, M if M < _TOKENS else _TOKENS, torch.get_num_threads()  # noqa: FURB136 - `min` is slow
    prepared: _Prepared | None = weight.prepared.get(key)
    if prepared is None or bias is not None:
        require_product(x, weight, group_size, bias)
    if prepared is None:
        prepared = _prepare(x, weight, group_size)
        if prepared is None:
            return _dequantized_gemm(x, weight.codes, weight.scale, weight.zero, group_size, bias)
        weight.prepared[key] = prepared
    start, kind, blocks, as_it_is, channels, _ = prepared
    if M >= _MANY and kind == AVX512_BF16:
        return _gemm_of_written(x, weight.codes, weight.scale, weight.zero, group_size, bias)
    out = empty_strided((M, channels), (channels, 1), x.dtype)
    x = x.contiguous() if as_it_is else lay_out(x, kind, blocks)
    bias = None if bias is None else bias.float().contiguous()
    start(M, x.data_ptr(), out.data_ptr(), 0 if bias is None else bias.data_ptr())
    return out


def _prepare(x: Tensor, weight: W4A16Weight, group_size: int) -> _Prepared | None:
    (M, K), (N, G), blocks = x.shape, weight.scale.shape, weight.codes.shape[1]
    if weight.codes.shape != (-(-N // INTERLEAVED), -(-K // BLOCK), INTERLEAVED, BLOCK_BYTES):
        raise ValueError(f"codes {tuple(weight.codes.shape)} are not laid out for {N} output channels on a CPU")
    plan = _plan(x.dtype, weight.scale.dtype, group_size, G, min(M, _TOKENS), weight.zero is None)
    if plan is None:
        return None
    codes, scale = weight.codes.contiguous(), weight.scale.contiguous()
    zero = None if weight.zero is None else weight.zero.contiguous()
    channels = _channels(N, blocks)
    start, arguments = openmp.prepare(
        plan.loop,
        -(-N // channels),
        *(N, K, blocks, G, group_size, blocks * X_BLOCK[plan.kind], codes.data_ptr()),
        *(scale.data_ptr(), *plan.scale, 0 if zero is None else zero.data_ptr()),
        *(*plan.out, channels),
    )
    as_it_is = blocks * BLOCK == K if plan.kind == AVX512_BF16 else M == 1
    return _Prepared(start, plan.kind, blocks, as_it_is, N, (arguments, codes, scale, zero))


def _channels(N: int, blocks: int) -> int:
    """Output channels that a thread takes at once."""
    parts, size = -(-N // _ACROSS), _ACROSS * blocks * BLOCK_BYTES
    return _ACROSS * max(1, min(-(-parts // torch.get_num_threads()), _PIECE // size))


@cache
def _plan(  # noqa: PLR0917 - positions, since the cache is fastest with them
    dtype: torch.dtype,
    scale: torch.dtype,
    group_size: int,
    groups: int,
    M: int,
    symmetric: bool,  # noqa: FBT001
) -> _Plan | None:
    """How x of this type is multiplied, M tokens at a time; None where only dequantized weights can be."""
    kind = tile_kind(dtype)
    small = group_size in {BLOCK // 4, BLOCK // 2}
    per_block = BLOCK // group_size if small else 1
    if kind is None or not (small or groups == 1 or group_size % BLOCK == 0):
        warnings.warn(
            f"4-bit weights in groups of {group_size} are dequantized whole at each product with {dtype}, since this "
            f"processor has no faster loop for them",
            stacklevel=3,
        )
        return None
    loop = _loop(kind, per_block, *_tile_size(kind, M), int(symmetric))
    return _Plan(loop, kind, *((KINDS[each], BYTES[KINDS[each]]) for each in (scale, dtype)))


@cache
def _loop(kind: int, groups: int, rows: int, tokens: int, symmetric: int) -> openmp.Loop:
    return openmp.compile_loop(_blocks(kind, groups, rows, tokens, symmetric))


def _tile_size(kind: int, M: int) -> tuple[int, int]:
    """Rows of W and of x in a tile: few of x in vain, and no more sums than there are registers."""
    if M == 1:
        return INTERLEAVED, 1
    if kind != AVX512_BF16:
        return (INTERLEAVED, 4) if kind == AVX512 else (2, 4)
    # A group's sums have registers beside the totals.
    return (INTERLEAVED, 2) if M < 4 else (2, 4) if M < _TOKENS else (2, 6)  # noqa: PLR2004 - as many rows of x


def _blocks(kind: int, groups: int, rows: int, tokens: int, symmetric: int) -> Any:
    """The loop with these constants, which numba's cache tells apart."""
    # Each thread lays out one token for itself, which takes less time than to start threads for it.
    alone = tokens == 1 and kind != AVX512_BF16

    def blocks(data: Any) -> None:
        a = carray(data, (openmp.ARGUMENTS,), np.int64)
        M, count = a[_M], a[_BLOCKS]
        given = np.empty(a[_GROUPS], np.float32)
        scale = np.empty((_ACROSS, count * groups), np.float32)
        zero = np.zeros((_ACROSS, count * groups), np.float32)
        sums = np.empty((_TOKENS, _ACROSS), np.float32)
        stride = count * groups * 4
        own = _own_token(a, kind) if alone else np.empty(0, np.float32)
        item = take(a)
        while item < a[ITEMS]:
            first = item * a[_CHANNELS]
            for n in range(first, min(first + a[_CHANNELS], a[_N]), _ACROSS):
                across = min(a[_N] - n, _ACROSS)
                _take_groups(a, n, given, scale, zero)
                for m in range(0, M, _TOKENS):
                    last = min(M - m, _TOKENS) - 1
                    for j in range(0, across, INTERLEAVED):
                        codes = a[_CODES] + (n + j) * count * BLOCK_BYTES
                        for i in range(0, last + 1, tokens):
                            # Asked for here, since numba frees an array after its last use.
                            x = own.ctypes.data if alone else a[_X] + (m + i) * a[_X_STRIDE]
                            for r in range(0, INTERLEAVED, rows):
                                into, at = sums.ctypes.data + (i * _ACROSS + j + r) * 4, (j + r) * stride
                                int4_tile(
                                    kind, rows, tokens, groups, symmetric, codes + r * BLOCK_BYTES,
                                    scale.ctypes.data + at, zero.ctypes.data + at, stride,
                                    x, last - i, a[_X_STRIDE], count, into, _ACROSS * 4,
                                )  # fmt: skip
                    _write(a, m, n, sums[: last + 1, :across])
            item = take(a)

    return blocks


@njit(nogil=True)
def _own_token(a: Any, kind: int) -> Any:
    """One token as a tile of the kind takes it."""
    row = np.zeros(a[_BLOCKS] * BLOCK, np.float32)
    load_floats(a[_X], a[_KIND], row[: a[_K]])
    own = np.empty(a[_X_STRIDE] // 4, np.float32)
    write_token(kind, row, own.ctypes.data)
    return own


@njit(nogil=True)
def _take_groups(a: Any, n: int, given: Any, scale: Any, zero: Any) -> None:
    """Fill in the scales and zero points of the rows from n on, as many to a block as the tile takes."""
    G, count = a[_GROUPS], scale.shape[1]
    rows = min(a[_N] - n, _ACROSS)
    zeros = carray(pointer(a[_ZERO] + n * G), (rows * G,), np.int8)
    if count == G:
        load_floats(a[_SCALE] + n * G * a[_SCALE_BYTES], a[_SCALE_KIND], scale.reshape(scale.size)[: rows * G])
        if a[_ZERO]:
            flat = zero.reshape(zero.size)
            for i in range(rows * G):
                flat[i] = zeros[i]
        return
    columns = BLOCK * a[_BLOCKS] // count
    for row in range(rows):
        load_floats(a[_SCALE] + (n + row) * G * a[_SCALE_BYTES], a[_SCALE_KIND], given)
        for i in range(count):
            group = min(i * columns // a[_GROUP_SIZE], G - 1)
            scale[row, i] = given[group]
            if a[_ZERO]:
                zero[row, i] = zeros[row * G + group]


@njit(nogil=True)
def _write(a: Any, m: int, n: int, sums: Any) -> None:
    across = sums.shape[1]
    for i in range(len(sums)):
        if a[_BIAS]:
            bias = carray(pointer(a[_BIAS] + n * 4), (across,), np.float32)
            for j in range(across):
                sums[i, j] += bias[j]
        store_floats(sums[i], a[_OUT] + ((m + i) * a[_N] + n) * a[_BYTES], a[_KIND])


def _gemm_of_written(  # noqa: PLR0917 - as the op
    x: Tensor, codes: Tensor, scale: Tensor, zero: Tensor | None, group_size: int, bias: Tensor | None
) -> Tensor:
    (M, K), (N, G), blocks = x.shape, scale.shape, codes.shape[1]
    codes, scale, zero = codes.contiguous(), scale.contiguous(), None if zero is None else zero.contiguous()
    weight, out = x.new_empty(_WRITTEN, K), x.new_empty(M, N)
    kind = KINDS[scale.dtype]
    for n in range(0, N, _WRITTEN):
        rows, channels = min(N - n, _WRITTEN), slice(n, n + _WRITTEN)
        openmp.run(
            openmp.compile_loop(_write_rows),
            rows,
            *(codes.data_ptr(), n, blocks, K, G, group_size, scale.data_ptr(), kind, BYTES[kind]),
            *(0 if zero is None else zero.data_ptr(), weight.data_ptr()),
        )
        own_bias = None if bias is None else bias[channels].to(x.dtype)
        out[:, channels] = torch.nn.functional.linear(x, weight[:rows], own_bias)
    return out


@openmp.ahead_of_time()
def _write_rows(data: Any) -> None:
    """Write rows of W in bfloat16."""
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    blocks, K, G = a[_W_BLOCKS], a[_W_COLUMNS], a[_W_GROUPS]
    scale, row = np.empty(G, np.float32), np.empty(blocks * BLOCK, np.float32)
    item = take(a)
    while item < a[ITEMS]:
        n = a[_W_FIRST] + item
        load_floats(a[_W_SCALE] + n * G * a[_W_SCALE_BYTES], a[_W_SCALE_KIND], scale)
        zero = carray(pointer(a[_W_ZERO] + n * G), (G,), np.int8)
        first = a[_W_CODES] + (n // INTERLEAVED * blocks * INTERLEAVED + n % INTERLEAVED) * BLOCK_BYTES
        for part in range(blocks * BLOCK // _PLANE):
            block, plane = part // 4, part % 4
            words = carray(pointer(first + block * INTERLEAVED * BLOCK_BYTES), (_PLANE,), np.uint16)
            group = min(part * _PLANE // a[_W_GROUP_SIZE], G - 1)
            s, z, shift = scale[group], np.int32(8), np.int32(4 * plane)
            if a[_W_ZERO]:
                z += np.int32(zero[group])
            into = row[part * _PLANE : (part + 1) * _PLANE]
            for i in range(_PLANE):
                into[i] = np.float32(np.int32((np.int32(words[i]) >> shift) & np.int32(15)) - z) * s
        store_floats(row[:K], a[_W_INTO] + item * K * 2, BFLOAT16)
        item = take(a)


def _dequantized_gemm(  # noqa: PLR0917 - as above
    x: Tensor, codes: Tensor, scale: Tensor, zero: Tensor | None, group_size: int, bias: Tensor | None
) -> Tensor:
    K, N = x.shape[1], len(scale)
    nibbles = torch.stack([codes & 0xF, codes >> 4], dim=-1)  # [n, block, row, octet, half]
    planes = nibbles.reshape(*codes.shape[:3], _PLANE, 4).transpose(-1, -2)
    weight = planes.movedim(2, 1).reshape(len(codes) * INTERLEAVED, -1)[:N, :K].float() - 8
    if zero is not None:
        weight -= zero.float().repeat_interleave(group_size, dim=1)
    weight *= scale.float().repeat_interleave(group_size, dim=1)
    y = x.float() @ weight.T
    return (y if bias is None else y + bias.float()).to(x.dtype)


def _ahead_of_time() -> Iterator[Callable[[], object]]:
    """What compiles every loop that a product may ask for on the processor that loops are compiled for."""
    for kind in {tile_kind(dtype) for dtype in KINDS}:
        if kind is None:
            continue
        sizes = {_tile_size(kind, M) for M in range(1, _TOKENS + 1)}
        for groups, (rows, tokens), symmetric in product((1, 2, 4), sorted(sizes), (0, 1)):
            yield partial(_loop, kind, groups, rows, tokens, symmetric)


LOOPS.extend(map(AheadOfTime, _ahead_of_time()))
