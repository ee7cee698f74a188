"""What a comparison needs of a model's distributions over the vocabulary, so that those of the original are made once.

KL(p || q) is the sum over the vocabulary of p (l_p - l_q), minus log Z_p, plus log Z_q, where l are logits and Z their
normalizers. Where both models read their hidden states h with one head W and cap nothing, l = W h, and the sum is
E_p[W] · (h_p - h_q), where E_p[W] is the mean of the head's rows under p. That depends on the original alone. With it a
candidate takes one product with the head and one exponential a logit, where `compare_tokens` takes two of each.

The identity is exact. In float32 it leaves the rounding of log Z_q, some units in the last place of a logit, in the
divergence of a token; that has no preferred sign, and the mean over a gate set is right to 1e-6 nats.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from saffron_api.failures import FailureReason
from saffron_quantizer.evaluation.divergence import Scored, TokenFigures, finite
from saffron_quantizer.evaluation.vocabulary import (
    TOKENS_PER_CHUNK,
    RunningSoftmax,
    head_piece,
    logit_piece,
    pieces,
    target_logits,
    weighted_rows,
    widened,
)
from saffron_quantizer.progress import Progress, ProgressSink


@dataclass(frozen=True)
class Distributions:
    """A model's distribution p over the vocabulary at each scored token, on the CPU.

    Attributes:
        log_mass: [N] float64, log Z.
        target: [N] float32, the logit of the scored token.
        top_token: [N] int64, the most probable token.
        mean_head: [N, hidden] float32, E_p[W], or None.
    """

    log_mass: Tensor
    target: Tensor
    top_token: Tensor
    mean_head: Tensor | None

    @property
    def nll(self) -> Tensor:
        """-log p of each scored token, [N] float64."""
        return self.log_mass - self.target

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What there is, by name."""
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}

    @staticmethod
    def of_tensors(tensors: Mapping[str, Tensor]) -> "Distributions":
        """The inverse of `tensors`."""
        return Distributions(tensors["log_mass"], tensors["target"], tensors["top_token"], tensors.get("mean_head"))


def original_distributions(original: Scored, targets: Tensor, *, progress: ProgressSink) -> Distributions:
    """Those of the original, with `mean_head` unless its logits are capped; `targets` [N] int64.

    Raises:
        StageError: `MODEL_NOT_FINITE` if a figure is NaN or infinite.
    """
    found = _distributions(
        original, targets, mean_head=not original.stream.caps_logits, activity="scoring tokens", progress=progress
    )
    for tensor in found.tensors.values():
        finite(tensor, FailureReason.MODEL_NOT_FINITE)
    return found


def comparable(p: Distributions, original: Scored, candidate: Scored) -> bool:
    """Whether `compare_distributions` holds: the candidate has the original's head, and neither caps its logits."""
    one_head = candidate.stream is original.stream or torch.equal(candidate.stream.head, original.stream.head)
    return p.mean_head is not None and not candidate.stream.caps_logits and one_head


def compare_distributions(
    p: Distributions, original: Scored, candidate: Scored, targets: Tensor, *, progress: ProgressSink
) -> TokenFigures:
    """The figures of all scored tokens, from the logits of the candidate alone; `comparable` holds.

    Args:
        p: what `original_distributions` made of the original.
        original: whose states these were.
        candidate: and its states before the same tokens.
        targets: [N] int64, the scored tokens.
        progress: told of each chunk of tokens.

    Raises:
        StageError: `FIGURES_NOT_FINITE` if a figure is NaN or infinite.
    """
    q = _distributions(candidate, targets, mean_head=False, activity="comparing tokens", progress=progress)
    divergence = _mean_difference(p, original, candidate) - p.log_mass + q.log_mass
    agreement = (p.top_token == q.top_token).double()
    return TokenFigures(*finite(torch.stack([p.nll, q.nll, divergence, agreement]), FailureReason.FIGURES_NOT_FINITE))


def _mean_difference(p: Distributions, original: Scored, candidate: Scored) -> Tensor:
    """The mean under p of l_p - l_q, [N] float64.

    The states are subtracted first, in float64: where they are near each other, nothing is left to cancel.
    """
    if p.mean_head is None:
        raise ValueError("the mean of the head is not known")
    means = []
    for first in range(0, len(p.mean_head), TOKENS_PER_CHUNK):
        part = slice(first, first + TOKENS_PER_CHUNK)
        h_p, h_q = widened(original.stream, original.states[part]), widened(candidate.stream, candidate.states[part])
        mean = p.mean_head[part].to(h_p.device, torch.float64)
        means.append((mean * (h_p.double() - h_q.double())).sum(dim=1).cpu())
    return torch.cat(means)


def _distributions(
    scored: Scored, targets: Tensor, *, mean_head: bool, activity: str, progress: ProgressSink
) -> Distributions:
    """A model's distributions, a chunk of tokens at a time."""
    chunks = []
    total = len(targets)
    for first in range(0, total, TOKENS_PER_CHUNK):
        part = slice(first, first + TOKENS_PER_CHUNK)
        chunk = _of_chunk(Scored(scored.stream, scored.states[part]), targets[part], mean_head=mean_head)
        chunks.append({name: tensor.cpu() for name, tensor in chunk.tensors.items()})
        progress(Progress(activity, min(first + TOKENS_PER_CHUNK, total), total))
    return Distributions.of_tensors({name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]})


def _of_chunk(scored: Scored, targets: Tensor, *, mean_head: bool) -> Distributions:
    stream = scored.stream
    device = stream.device
    softmax, target = RunningSoftmax(len(targets), device), torch.zeros(len(targets), device=device)
    rows = torch.zeros(scored.states.shape, dtype=torch.float64, device=device)  # [n, hidden]
    targets = targets.to(device)
    for start in pieces(stream.vocab_size):
        weight = head_piece(stream, start)  # [piece, hidden]
        logits = logit_piece(stream, scored.states, weight)  # [n, piece]
        target = target_logits(target, logits, targets, start)
        weights, shrink = softmax.add(logits, start)
        if mean_head:
            rows.mul_(shrink[:, None]).add_(weighted_rows(weights, weight))
    mean = (rows / softmax.mass[:, None]).float() if mean_head else None
    return Distributions(softmax.log_mass, target, softmax.top_token, mean)
