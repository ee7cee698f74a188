"""Logits over a vocabulary a piece at a time: float32 to the last bit, whatever the model is computed in.

A matrix product in bfloat16 rounds each logit to 8 bits, which alone changes the top token of one in forty positions.
Here both factors are widened to float32 first. Where they are bfloat16 numbers, and the processor multiplies these
fast, the product may still run on its bfloat16 units: products of two such numbers are exact in float32, and so is what
is added up. Memory holds one piece of the logits, never those of the whole vocabulary.
"""

import torch
from torch import Tensor

from saffron_quantizer.models.compute import products_in_bfloat16
from saffron_quantizer.models.stream import ModelStream

TOKENS_PER_CHUNK = 2048
VOCABULARY_PER_PIECE = 2048
"""With as many tokens a piece of the logits is 16 MiB, and the head is widened half as often as with 1,024 tokens."""


def head_piece(stream: ModelStream, start: int) -> Tensor:
    """The head's rows for a piece of the vocabulary, which begins at `start`, [piece, hidden] float32."""
    return stream.head[start : start + VOCABULARY_PER_PIECE].float()


def logit_piece(stream: ModelStream, states: Tensor, weight: Tensor) -> Tensor:
    """Logits of a piece of the vocabulary, whose rows of the head are `weight`, [N, hidden] -> [N, piece] float32."""
    with products_in_bfloat16(stream.dtype):
        return stream.cap(widened(stream, states) @ weight.T)


def widened(stream: ModelStream, states: Tensor) -> Tensor:
    """States as the head reads them, where it is: rounded to the type that the model is computed in, then float32."""
    return states.to(stream.device, stream.dtype).float()


def weighted_rows(weights: Tensor, weight: Tensor) -> Tensor:
    """The sum of the head's rows of a piece, weighted for each token, [N, piece], [piece, hidden] -> [N, hidden].

    In float32 throughout: the weights are no bfloat16 numbers.
    """
    if weights.is_cpu and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        # oneDNN's product, which is faster than MKL's on an AMD processor. By `@` torch takes it for float32 only
        # together with leave to round to bfloat16, of which AMX makes use.
        product: Tensor = torch.ops.mkldnn._linear_pointwise(weights, weight.T.contiguous(), None, "none", [], "")  # noqa: SLF001
        return product
    return weights @ weight


class RunningSoftmax:
    """The normalizer and the most probable token of distributions that come a piece at a time.

    Attributes:
        top: [N], the largest logit so far.
        top_token: [N], whose it is.
        mass: [N] float64, the sum of exp(logit - top) so far.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.top = torch.full((rows,), -torch.inf, device=device)
        self.top_token = torch.zeros(rows, dtype=torch.int64, device=device)
        self.mass = torch.zeros(rows, dtype=torch.float64, device=device)

    def add(self, logits: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Take in a piece.

        Args:
            logits: [N, piece]; its memory is used up.
            start: the token of its first column.

        Returns:
            exp(logits - top), [N, piece], and the factor by which what was summed before shrinks, [N].
        """
        largest = logits.amax(dim=1)
        # A NaN never is above; it shows in the mass.
        above = largest > self.top
        # Finding the column costs several times what the maximum does, and soon few rows have a new one.
        self.top_token[above] = logits[above].argmax(dim=1) + start
        top = torch.where(above, largest, self.top)
        shrink = (self.top - top).exp_()
        self.top = top
        weights = logits.sub_(top[:, None]).exp_()
        self.mass = self.mass * shrink + weights.sum(dim=1)
        return weights, shrink

    @property
    def log_mass(self) -> Tensor:
        """Log of the sum of exp(logit), [N] float64."""
        return self.top + self.mass.log()


def pieces(vocabulary: int) -> range:
    """Where each piece of the vocabulary begins."""
    return range(0, vocabulary, VOCABULARY_PER_PIECE)


def target_logits(found: Tensor, logits: Tensor, targets: Tensor, start: int) -> Tensor:
    """The logits of the targets, [N], with those that lie in this piece filled in."""
    column = targets - start
    inside = (column >= 0) & (column < logits.shape[1])
    own = logits.gather(1, column.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
    return torch.where(inside, own, found)
