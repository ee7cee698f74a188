"""Scales of groups of columns: of several multiples of the min-max scale, the one that leaves least error.

For the weights w of a group, codes low..high and a factor f:

    step  = 2 · max|w| / (high - low)                        around 0
            (max(w, 0) - min(w, 0)) / (high - low)           with zero points
    s     = step · f, rounded to the type that it is stored in; what becomes 0 there is the smallest normal number
    z     = 0                                                around 0
            clamp(rint(low - min(w, 0) · f / s), low, high)  with zero points
    q     = (clamp(rint(w / s) + z, low, high) - z) · s
    error = Σ importance · |q - w|^p

All of it is IEEE float32, rint rounds half to even, and the sum is taken in one order: columns from left to right in
chunks of 128, then the chunks from left to right. So `scale_search_reference`, the compiled loop for CPUs and the
Triton kernel find the same scales bit by bit. The first definition of a step is compressed-tensors'
(`compressed_tensors/quantization/utils/helpers.py`, `calculate_qparams`).
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from saffron_kernels.operands import require_one_device

CHUNK = 128
"""Columns whose errors are summed before the sum is added to that of the chunks before."""
_AT_ONCE = 1 << 22
"""Weights whose candidates are held at once."""
EXPONENTS = (2.0, 2.5, 4.0)
"""Powers of an error that are products and square roots, which every device rounds alike. No other power is."""


class Scales(NamedTuple):
    """What turns the codes of each group into weights: (code - zero) · scale.

    Attributes:
        scale: [R, G] in its stored type, none of them 0.
        zero: [R, G] int8 zero points in codes; None where they are 0.
    """

    scale: Tensor
    zero: Tensor | None


def scale_search(
    W: Tensor,
    factors: Sequence[float],
    importance: Tensor | None = None,
    *,
    bits: int,
    group_size: int | None,
    scale_dtype: torch.dtype,
    symmetric: bool = True,
    exponent: float = 2.0,
) -> Scales:
    """Search each group's scale.

    On the CPU it is numba's compiled loop, on a card a Triton kernel.

    Args:
        W: [R, C] finite, float32, bfloat16 or float16; unchanged.
        factors: at least one multiple of the min-max scale; of equal errors the first wins, and an error that is not
            finite never does, unless all are such: then the first factor is taken.
        importance: [C] float32, what each column's errors are multiplied with, or None for 1.
        bits: width of a code, 2 to 8: codes are -2^(bits - 1) .. 2^(bits - 1) - 1.
        group_size: neighbouring columns that share a scale, or None for all of a row; divides C.
        scale_dtype: of the stored scales: float32, bfloat16 or float16.
        symmetric: whether codes lie around 0; else each group has a zero point.
        exponent: p, one of `EXPONENTS`.

    Returns:
        Scales [R, G] and, unless `symmetric`, zero points.

    Raises:
        ValueError: the groups do not divide the columns, importance does not fit them, no factor is given, or an
            exponent is not one of `EXPONENTS`.
    """
    size = _size(W, group_size)
    if importance is not None and (importance.dtype != torch.float32 or importance.shape != W.shape[1:]):
        # A loop would read beyond its memory.
        wanted = f"{torch.float32} {tuple(W.shape[1:])}"
        raise ValueError(f"importance is {wanted}, not {importance.dtype} {tuple(importance.shape)}")
    require_one_device(W, importance)
    if not factors:
        raise ValueError("no factor is given, and at least one is tried")
    if exponent not in EXPONENTS:
        raise ValueError(f"an exponent of {exponent} is none of {EXPONENTS}")
    scale, zero = _scale_search(W, list(factors), importance, bits, size, scale_dtype, symmetric, exponent)
    return Scales(scale, None if symmetric else zero)


def scale_search_reference(
    W: Tensor,
    factors: Sequence[float],
    importance: Tensor | None = None,
    *,
    bits: int,
    group_size: int | None,
    scale_dtype: torch.dtype,
    symmetric: bool = True,
    exponent: float = 2.0,
) -> Scales:
    """What `scale_search` computes, in plain torch."""
    size = _size(W, group_size)
    grouped = W.float().reshape(len(W), W.shape[1] // size, size)  # [R, G, g]
    low, high = code_range(bits)
    weights = grouped.new_ones(W.shape[1]) if importance is None else importance
    tried = candidates(grouped, factors, low, high, scale_dtype, symmetric=symmetric)  # [F, R, G]
    best = grouped.new_zeros(grouped.shape[:2], dtype=torch.int64)
    least = grouped.new_full(grouped.shape[:2], torch.inf)
    for number in range(len(factors)):
        scale, zero = tried.scale[number].float()[:, :, None], tried.zero[number].float()[:, :, None]
        codes = ((grouped / scale).round_() + zero).clamp_(low, high)
        powers = _power((codes - zero) * scale - grouped, exponent) * weights.reshape(1, *grouped.shape[1:])
        error = _sum(powers)
        better = error < least
        best, least = torch.where(better, number, best), torch.where(better, error, least)
    scale, zero = picked(tried, best)
    return Scales(scale, None if symmetric else zero.to(torch.int8))


class Candidates(NamedTuple):
    """Scales and zero points for every factor, [F, R, G]: scales in their stored type, zero points in float32."""

    scale: Tensor
    zero: Tensor


def candidates(
    grouped: Tensor, factors: Sequence[float], low: int, high: int, scale_dtype: torch.dtype, *, symmetric: bool
) -> Candidates:
    """What is tried for groups of weights, [R, G, g] float32."""
    lowest, highest = grouped.amin(dim=2), grouped.amax(dim=2)
    if symmetric:
        full = torch.maximum(highest, -lowest) * 2 / (high - low)
    else:
        lowest = lowest.clamp_(max=0)
        full = (highest.clamp_(min=0) - lowest) / (high - low)
    factor = torch.tensor(factors, dtype=torch.float32, device=grouped.device)[:, None, None]
    rounded = (full * factor).to(scale_dtype)
    scale = torch.where(rounded > 0, rounded, torch.finfo(scale_dtype).tiny)
    if symmetric:
        return Candidates(scale, torch.zeros(scale.shape, device=grouped.device))
    return Candidates(scale, (low - lowest * factor / scale.float()).round_().clamp_(low, high))


def picked(tried: Candidates, best: Tensor) -> Candidates:
    """The candidates whose numbers are `best`, [R, G] int64: [R, G] each."""
    return Candidates(*(each.gather(0, best[None])[0] for each in tried))


def code_range(bits: int) -> tuple[int, int]:
    """The smallest and the largest code."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def _size(W: Tensor, group_size: int | None) -> int:
    size = W.shape[1] if group_size is None else group_size
    if size < 1 or W.shape[1] % size:
        raise ValueError(f"groups of {size} do not divide {W.shape[1]} columns")
    return size


def _power(error: Tensor, exponent: float) -> Tensor:
    """|error|^p, of float32 products and square roots."""
    squared = error * error
    if exponent == 2.0:  # noqa: PLR2004 - the powers of `EXPONENTS` are told apart here
        return squared
    return squared * squared if exponent == 4.0 else squared * error.abs().sqrt()  # noqa: PLR2004 - as above


def _sum(powers: Tensor) -> Tensor:
    """[R, G, g] -> [R, G], in the order of this stem."""
    total = powers.new_zeros(powers.shape[:2])
    for begin in range(0, powers.shape[2], CHUNK):
        part = powers.new_zeros(powers.shape[:2])
        for column in range(begin, min(begin + CHUNK, powers.shape[2])):
            part = part + powers[:, :, column]
        total = total + part
    return total


@torch.library.custom_op("saffron::scale_search", mutates_args=(), device_types="cpu")
def _scale_search(  # noqa: PLR0917 - an operator's arguments have positions
    W: Tensor,
    factors: Sequence[float],
    importance: Tensor | None,
    bits: int,
    group_size: int,
    scale_dtype: torch.dtype,
    symmetric: bool,  # noqa: FBT001 - an operator's arguments have positions
    exponent: float,
) -> tuple[Tensor, Tensor]:
    from saffron_kernels.scale_search_cpu import best_candidates  # noqa: PLC0415 - numba is slow to import

    low, high = code_range(bits)
    found = []
    # Part by part, since all candidates of a whole matrix could take more memory than the matrix.
    for part in torch.split(W, max(1, _AT_ONCE // W.shape[1])):
        grouped = part.float().reshape(len(part), W.shape[1] // group_size, group_size)
        tried = candidates(grouped, factors, low, high, scale_dtype, symmetric=symmetric)
        best = best_candidates(grouped, importance, tried, low=low, high=high, exponent=exponent)
        found.append(picked(tried, best))
    scale, zero = (torch.cat(each) for each in zip(*found, strict=True))
    return scale, zero.to(torch.int8)


@_scale_search.register_kernel("cuda")
def _(  # noqa: PLR0917 - as above
    W: Tensor,
    factors: Sequence[float],
    importance: Tensor | None,
    bits: int,
    group_size: int,
    scale_dtype: torch.dtype,
    symmetric: bool,  # noqa: FBT001 - as above
    exponent: float,
) -> tuple[Tensor, Tensor]:
    from saffron_kernels.scale_search_triton import scale_search_launch  # noqa: PLC0415 - needs a card's driver

    scale, zero = _outputs(W, group_size, scale_dtype)
    scale_search_launch(
        W,
        _on_device(tuple(factors), W.device),
        importance,
        scale,
        zero,
        bits=bits,
        symmetric=symmetric,
        exponent=exponent,
    ).run()
    return scale, zero


@_scale_search.register_fake
def _(  # noqa: PLR0917 - as above
    W: Tensor,
    factors: Sequence[float],  # noqa: ARG001 - shapes do not depend on it, nor on those below
    importance: Tensor | None,  # noqa: ARG001
    bits: int,  # noqa: ARG001
    group_size: int,
    scale_dtype: torch.dtype,
    symmetric: bool,  # noqa: ARG001, FBT001
    exponent: float,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    return _outputs(W, group_size, scale_dtype)


def _outputs(W: Tensor, size: int, scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    shape = (W.shape[0], W.shape[1] // size)
    return W.new_empty(shape, dtype=scale_dtype), W.new_empty(shape, dtype=torch.int8)


@cache
def _on_device(factors: tuple[float, ...], device: torch.device) -> Tensor:
    """Factors in a card's memory, copied there once."""
    return torch.tensor(factors, dtype=torch.float32, device=device)
