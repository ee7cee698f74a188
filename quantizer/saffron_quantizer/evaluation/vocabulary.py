"""Logits over a vocabulary a piece at a time: float32 to the last bit, whatever the model is computed in.

A matrix product in bfloat16 rounds each logit to 8 bits, which alone changes the top token of one in forty positions.
Here both factors are widened to float32 first. Where they are bfloat16 numbers, and the processor multiplies these
fast, the product still runs on its bfloat16 units: products of two such numbers are exact in float32, and so is what
is added up. Memory holds one piece of the logits, never those of the whole vocabulary.
"""

import torch
from torch import Tensor

from saffron_quantizer.models.compute import products_in_bfloat16
from saffron_quantizer.models.stream import ModelStream

TOKENS_PER_CHUNK = 1024
VOCABULARY_PER_PIECE = 4096


def logit_piece(stream: ModelStream, states: Tensor, start: int) -> Tensor:
    """Logits of a piece of the vocabulary, which begins at `start`, [N, hidden] -> [N, piece] float32."""
    weight = stream.head[start : start + VOCABULARY_PER_PIECE].float()  # [piece, hidden]
    with products_in_bfloat16(stream.dtype):
        return stream.cap(states.to(stream.dtype).float() @ weight.T)


class RunningSoftmax:
    """The normalizer and the most probable token of distributions that come a piece at a time.

    Attributes:
        top: [N], the largest logit so far.
        top_token: [N], whose it is.
        mass: [N], the sum of exp(logit - top) so far.
    """

    def __init__(self, rows: int) -> None:
        self.top = torch.full((rows,), -torch.inf)
        self.top_token = torch.zeros(rows, dtype=torch.int64)
        self.mass = torch.zeros(rows)

    def add(self, logits: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Take in a piece.

        Args:
            logits: [N, piece]; its memory is used up.
            start: the token of its first column.

        Returns:
            exp(logits - top), [N, piece], and the factor by which what was summed before shrinks, [N].
        """
        largest, column = logits.max(dim=1)
        above = largest > self.top
        # A NaN never is above; it shows in the mass.
        top = torch.where(above, largest, self.top)
        shrink = (self.top - top).exp_()
        self.top, self.top_token = top, torch.where(above, column + start, self.top_token)
        weights = logits.sub_(top[:, None]).exp_()
        self.mass = self.mass * shrink + weights.sum(dim=1)
        return weights, shrink

    @property
    def log_mass(self) -> Tensor:
        """Log of the sum of exp(logit), [N]."""
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
