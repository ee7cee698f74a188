"""GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers (arXiv 2210.17323).

Columns are rounded one after the other, and each one's error is made good by the columns that are still to come.
Linears that read the same input have the same Hessian; since rows do not touch each other, such linears are stacked and
quantized at once, with one Cholesky factor.

The paper takes the upper Cholesky factor U of the inverse Hessian. Here it is R with R Rᵀ = H, which needs no inverse:
R = U⁻¹. The error of an output is then |E R|² for the rounding errors E = W - Q, and column c of E R holds no column of
E after c. So when c's turn comes, all before it is settled, and Q is to be near the weights that make this column of
E R zero: Babai's nearest plane, which GPTQ was shown to be (arXiv 2507.18553). By blocks of columns, that is

    Q_c near W_c + (Σ_{b < c} E_b R_bc) R_cc⁻¹,

and inside a block the paper's loop goes with U_cc = R_cc⁻¹, which is small.

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
from saffron_kernels.hessian import hessian
from saffron_kernels.scale_search import Scales
from saffron_quantizer.algorithms.quantized import Grid, Quantized
from saffron_quantizer.algorithms.scales import LEAST_SQUARES, MIN_MAX, Search, find_scales

DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Shares of the diagonal's mean that are added to it: the first that makes the Hessian positive definite is taken."""
_BLOCK = 128


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
        R: [d, d] float32 whose upper triangle has R Rᵀ the damped Hessian, columns in their `turns`; what is below it
            is left over from the work and belongs to nobody.
        order: how the turns were chosen.
        turns: [d] int64: the column that is quantized first, second and so on.
        added: [d] float32: what was added to the diagonal, columns as they are.
        damping: the share of the mean diagonal in it.
        dead: [d] bool: columns that were 0 in every token. Nothing is known of them, so they are rounded to nearest.
    """

    R: Tensor
    order: Order
    turns: Tensor
    added: Tensor
    damping: float
    dead: Tensor

    @property
    def cost(self) -> Tensor:
        """What a squared error of each column costs at the output, [d] float32, columns as they are.

        That is 1 / [H⁻¹]_qq of the columns that are left in q's turn (equation 2), R_qq²: less than the Hessian's
        diagonal, as those to come make good what they can.
        """
        cost = torch.empty(len(self.turns), device=self.R.device)
        cost[self.turns] = self.R.diagonal().square()
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
    turns = torch.argsort(diagonal, descending=True, stable=True) if static else torch.arange(len(H), device=H.device)
    for damping in DAMPINGS:
        added = torch.where(dead, 1.0 - diagonal, 0.0) + damping * diagonal.mean()
        R = _upper_factor(H, added, turns)
        if R is not None:
            return Factor(R, order, turns, added, damping, dead)
    raise UnstableHessianError(f"no Cholesky factor even with a damping of {DAMPINGS[-1]} of the mean diagonal")


def _upper_factor(H: Tensor, added: Tensor, turns: Tensor) -> Tensor | None:
    """The upper R with R Rᵀ = H + diag(added) for reordered columns, or None if that is not positive definite.

    Blocks are factorized from the last to the first, each in the place of the matrix. With J the reversal of a block's
    columns, J A J = L Lᵀ gives A = (J L J)(J L J)ᵀ, and J L J is upper triangular. Besides H, one matrix of its size is
    there: that of a wide layer has half a gigabyte.
    """
    R = torch.empty(H.shape, device=H.device)
    for begin in range(0, len(R), _BLOCK):
        rows = H.index_select(0, turns[begin : begin + _BLOCK])
        R[begin : begin + _BLOCK, begin:] = rows.index_select(1, turns[begin:])
    R.diagonal().add_(added[turns])
    for begin in reversed(range(0, len(R), _BLOCK)):
        own = R[begin : begin + _BLOCK, begin : begin + _BLOCK]
        L, info = torch.linalg.cholesky_ex(own.flip(0, 1))
        if int(info) != 0:
            return None
        own.copy_(L.flip(0, 1))
        above = R[:begin, begin : begin + _BLOCK]
        above.copy_(torch.linalg.solve_triangular(own.T, above, upper=False, left=False))
        for left in range(0, begin, _BLOCK):
            right = left + _BLOCK
            R[:right, left:right].addmm_(above[:right], above[left:right].T, alpha=-1)
    return R if _is_finite(R.diagonal()) else None


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
    # Columns are taken in their turns, so here they are rows, of which each lies in one piece.
    columns_of_W = W.T.contiguous()
    E = torch.empty(columns_of_W.shape, device=W.device)  # (W - Q)ᵀ of the columns that are done, in their turns
    codes = torch.empty(columns_of_W.shape, dtype=torch.int8, device=W.device)
    loss = torch.zeros(len(W), dtype=torch.float64, device=W.device)
    on_the_way = factor.order is Order.NONE and grid.group_size is not None
    # On the way each group's are found when its turn comes; until then the whole range's hold their place.
    scales = find_scales(W, grid, MIN_MAX if on_the_way else search)
    in_float = Scales(scales.scale.float(), None if scales.zero is None else scales.zero.float())
    size = grid.group_size or W.shape[1]
    width = size if on_the_way else _BLOCK
    for begin in range(0, W.shape[1], width):
        turns = slice(begin, begin + width)
        columns = factor.turns[turns]
        own = columns_of_W.index_select(0, columns).float()
        U = _inverse(factor.R[turns, turns])
        wanted = torch.addmm(own, U.T, factor.R[:begin, turns].T @ E[:begin])
        if on_the_way:
            # A block is a group, so that no error of an earlier column is still to be taken out of its weights.
            found = find_scales(wanted.T, grid, search.of(turns))
            _put(scales, begin // size, found)
            _put(in_float, begin // size, found)
        block = _block(wanted.T, U, in_float, grid, columns // (grid.group_size or len(factor.turns)))
        codes.index_copy_(0, columns, block.codes[0].T)
        E[turns] = own.sub_(block.W_dequantized[0].T)
        loss += _loss(block.error[0].T, own, factor.added[columns])
    return Rounding(Quantized(codes.T.contiguous(), scales.scale, scales.zero), loss.clamp_(min=0))


def energy(W: Tensor, H: Tensor) -> float:
    """What a matrix gives for the tokens of a Hessian H = 2/n Xᵀ X: 2/n |X Wᵀ|², which is the sum of H times Wᵀ W.

    Args:
        W: [R, d], floating; unchanged.
        H: [d, d] float32, symmetric; unchanged.
    """
    gram = torch.zeros(H.shape, device=H.device)
    hessian(W, gram)
    diagonal = (gram.diagonal() * H.diagonal()).sum(dtype=torch.float64)
    products = gram.tril_(-1).mul_(H)
    # Some rows at a time, since torch makes a copy in float64 of all that it sums up.
    below = sum(products[begin : begin + _BLOCK].sum(dtype=torch.float64) for begin in range(0, len(products), _BLOCK))
    return max(0.0, float(diagonal + 2 * below))


def _inverse(R: Tensor) -> Tensor:
    """Of an upper triangle."""
    inverse: Tensor = torch.linalg.solve_triangular(R, torch.eye(len(R), device=R.device), upper=True)
    return inverse


def _put(scales: Scales, group: int, found: Scales) -> None:
    scales.scale[:, group] = found.scale[:, 0]
    if scales.zero is not None and found.zero is not None:
        scales.zero[:, group] = found.zero[:, 0]


def _block(work: Tensor, U: Tensor, scales: Scales, grid: Grid, group_of_column: Tensor) -> GptqBlock:
    return gptq_block(
        work[None],
        U[None],
        scales.scale[None],
        None if scales.zero is None else scales.zero[None],
        group_of_column.to(torch.int32)[None],
        grid.low,
        grid.high,
    )


def _loss(error: Tensor, E: Tensor, added: Tensor) -> Tensor:
    """A block's part of E H Eᵀ, [R] float64, at hardly any cost; a column is a row here.

    The errors e that the loop takes out of later columns are those of E R, so e eᵀ = E (H + diag(added)) Eᵀ.
    """
    return error.square().sum(dim=0).double() - (added @ E.square()).double()
