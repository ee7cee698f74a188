"""GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers (arXiv 2210.17323).

Columns are rounded one after the other, and each one's error is made good by the columns that are still to come, as the
inverse Hessian says. Linears that read the same input have the same Hessian; since rows do not touch each other, such
linears are stacked and quantized at once, with one Cholesky factor.

There are two orders. `STATIC` takes the columns that matter most first, while there are most left to make their errors
good; as the file keeps groups of neighbours, all scales must then be found before. `NONE` takes the columns as they
are, and finds a group's scales when its turn comes, from weights that carry the errors made so far.
"""

import math
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from saffron_kernels.gptq_block import GptqBlock, gptq_block
from saffron_kernels.scale_search import Scales
from saffron_quantizer.algorithms.quantized import Grid, Quantized
from saffron_quantizer.algorithms.scales import LEAST_SQUARES, MIN_MAX, Search, find_scales

DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Shares of the diagonal's mean that are added to it: the first that makes the Hessian positive definite is taken."""
_BLOCK = 128
_PIECE = 1 << 18
_SMALL = 256
"""Columns below which a triangle is inverted by substitution."""


class UnstableHessianError(ArithmeticError):
    """The Hessian has no Cholesky factor at any damping, or holds NaN or infinity."""


class Order(Enum):
    """In which order columns are quantized, and from which weights their scales are."""

    NONE = "None"
    STATIC = "Static"


@dataclass(frozen=True)
class Factor:
    """What GPTQ needs of a Hessian.

    Attributes:
        U: [d, d] float32 upper triangle with Uᵀ U the inverse of the damped Hessian, columns in their `turns`.
        order: how the turns were chosen.
        turns: [d] int64: the column that is quantized first, second and so on.
        added: [d] float32: what was added to the diagonal, columns as they are.
        damping: the share of the mean diagonal in it.
        dead: [d] bool: columns that were 0 in every token. Nothing is known of them, so they are rounded to nearest.
    """

    U: Tensor
    order: Order
    turns: Tensor
    added: Tensor
    damping: float
    dead: Tensor

    @property
    def cost(self) -> Tensor:
        """What a squared error of each column costs at the output, [d] float32, columns as they are.

        That is 1 / [H⁻¹]_qq of the columns that are left in q's turn (equation 2): less than the Hessian's diagonal, as
        those to come make good what they can.
        """
        cost = torch.empty(len(self.turns))
        cost[self.turns] = self.U.diagonal().square().reciprocal()
        return torch.where(self.dead, 0.0, cost)


@dataclass(frozen=True)
class Rounding:
    """A matrix that GPTQ has quantized.

    Attributes:
        quantized: the matrix.
        loss: [R] float64, for each row the squared error of its output, E H Eᵀ for its rounding errors E.
    """

    quantized: Quantized
    loss: Tensor


def factorize(H: Tensor, order: Order = Order.STATIC) -> Factor:
    """Damp and factorize a Hessian.

    Args:
        H: [d, d] float32, symmetric; unchanged.
        order: of the columns.

    Raises:
        UnstableHessianError: no damping helps.
    """
    diagonal = H.diagonal()
    if not _is_finite(H):
        raise UnstableHessianError("the Hessian holds NaN or infinity")
    dead = diagonal <= 0
    static = order is Order.STATIC
    turns = torch.argsort(diagonal, descending=True, stable=True) if static else torch.arange(len(H))
    for damping in DAMPINGS:
        added = torch.where(dead, 1.0 - diagonal, 0.0) + damping * diagonal.mean()
        U = _inverse_factor(H, added, turns)
        if U is not None:
            return Factor(U, order, turns, added, damping, dead)
    raise UnstableHessianError(f"no Cholesky factor even with a damping of {DAMPINGS[-1]} of the mean diagonal")


def _inverse_factor(H: Tensor, added: Tensor, turns: Tensor) -> Tensor | None:
    """The upper U with Uᵀ U = (H + diag(added))⁻¹ for reordered columns, or None if that is not positive definite.

    With J the reversal of all columns, J H J = L Lᵀ gives H = R Rᵀ with R = J L J upper triangular, so U = R⁻¹. That is
    one factorization and one triangular inverse instead of two factorizations and a full inverse. Besides H, one matrix
    of its size is there: that of a wide layer has half a gigabyte.
    """
    backwards = turns.flip(0)
    damped = H[backwards[:, None], backwards]
    damped.diagonal().add_(added[backwards])
    info = torch.zeros((), dtype=torch.int32)
    # LAPACK goes down columns, so it can work in the place of the transpose, which is the same matrix.
    torch.linalg.cholesky_ex(damped.T, out=(damped.T, info))
    if int(info) != 0:
        return None
    # The numbers of a matrix in reverse are J A J.
    _reverse(damped.view(-1))
    U = damped.T
    _invert_triangle(U)
    return U if _is_finite(U) else None


def _reverse(numbers: Tensor) -> None:
    """Turn a vector around in its place, a piece from either end at a time."""
    left, right = 0, len(numbers)
    while right - left > 1:
        size = min(_PIECE, (right - left) // 2)
        first, last = numbers[left : left + size], numbers[right - size : right]
        turned = first.flip(0)
        first.copy_(last.flip(0))
        last.copy_(turned)
        left, right = left + size, right - size


def _invert_triangle(R: Tensor) -> None:
    """Invert an upper triangle in its place: [[A, B], [0, C]]⁻¹ = [[A⁻¹, -A⁻¹ B C⁻¹], [0, C⁻¹]], mostly by products."""
    if len(R) <= _SMALL:
        R.copy_(torch.linalg.solve_triangular(R, torch.eye(len(R)), upper=True))
        return
    half = len(R) // 2
    _invert_triangle(R[:half, :half])
    _invert_triangle(R[half:, half:])
    B = R[:half, half:]
    B.copy_((R[:half, :half] @ B @ R[half:, half:]).neg_())


def _is_finite(matrix: Tensor) -> bool:
    """Whether a matrix has neither NaN nor infinity; NaN wins over every number in both ends."""
    low, high = torch.aminmax(matrix)
    return math.isfinite(float(low)) and math.isfinite(float(high))


def gptq(W: Tensor, factor: Factor, grid: Grid, search: Search = LEAST_SQUARES) -> Rounding:
    """Quantize a matrix.

    Args:
        W: [R, d], floating; unchanged.
        factor: of the Hessian of the input that W reads.
        grid: what the weights are rounded to.
        search: how scales are found.
    """
    work = W.float()[:, factor.turns]
    codes = torch.empty(W.shape, dtype=torch.int8)
    loss = torch.zeros(len(W), dtype=torch.float64)
    on_the_way = factor.order is Order.NONE and grid.group_size is not None
    # On the way each group's are found when its turn comes; until then the whole range's hold their place.
    scales = find_scales(W, grid, MIN_MAX if on_the_way else search)
    size = grid.group_size or W.shape[1]
    width = size if on_the_way else _BLOCK
    for begin in range(0, W.shape[1], width):
        turns = slice(begin, begin + width)
        if on_the_way:
            # A block is a group, so that no error of an earlier column is still to be taken out of its weights.
            _put(scales, begin // size, find_scales(work[:, turns], grid, search.of(turns)))
        block = _block(work[:, turns], factor, scales, grid, turns)
        codes[:, factor.turns[turns]] = block.codes[0]
        loss += _loss(block, W, factor, turns)
        work[:, begin + width :].addmm_(block.error[0], factor.U[turns, begin + width :], alpha=-1)
    return Rounding(Quantized(codes, scales.scale, scales.zero), loss.clamp_(min=0))


def _put(scales: Scales, group: int, found: Scales) -> None:
    scales.scale[:, group] = found.scale[:, 0]
    if scales.zero is not None and found.zero is not None:
        scales.zero[:, group] = found.zero[:, 0]


def _block(work: Tensor, factor: Factor, scales: Scales, grid: Grid, turns: slice) -> GptqBlock:
    group_of_column = factor.turns[turns] // (grid.group_size or len(factor.turns))
    return gptq_block(
        work[None],
        factor.U[None, turns, turns],
        scales.scale.float()[None],
        None if scales.zero is None else scales.zero.float()[None],
        group_of_column.to(torch.int32)[None],
        grid.low,
        grid.high,
    )


def _loss(block: GptqBlock, W: Tensor, factor: Factor, turns: slice) -> Tensor:
    """A block's part of E H Eᵀ, [R] float64, at hardly any cost.

    The errors e that the loop takes out of later columns add up to E = e U, so e eᵀ = E (H + diag(added)) Eᵀ.
    """
    columns = factor.turns[turns]
    E = W[:, columns].float() - block.W_dequantized[0]
    return block.error[0].square().sum(dim=1).double() - (E.square_() @ factor.added[columns]).double()
