"""Exact figures of each scored token from the whole vocabulary, without ever storing the logits of all of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from saffron_api.failures import Failure, FailureReason, StageError
from saffron_quantizer.evaluation.vocabulary import (
    TOKENS_PER_CHUNK,
    RunningSoftmax,
    head_piece,
    logit_piece,
    pieces,
    target_logits,
)
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.progress import Progress, ProgressSink


@dataclass(frozen=True)
class TokenFigures:
    """Figures of each scored token, all [N] float64.

    Attributes:
        nll_original: -log p(token) of the original, in nats.
        nll_candidate: the same of the candidate.
        divergence: KL(original || candidate) of the two distributions over the vocabulary, in nats; None where they
            are not known.
        agreement: 1 where both have the same most probable token, else 0; None where it is not known.
    """

    nll_original: Tensor
    nll_candidate: Tensor
    divergence: Tensor | None
    agreement: Tensor | None


@dataclass(frozen=True)
class Scored:
    """A model and its final hidden states, [N, hidden], before the scored tokens."""

    stream: ModelStream
    states: Tensor


def compare_tokens(original: Scored, candidate: Scored, targets: Tensor, *, progress: ProgressSink) -> TokenFigures:
    """The figures of all scored tokens, `targets` [N] int64, from the logits of both models.

    It holds for any two heads. Where they are one, and several candidates meet one original,
    `compare_distributions` computes half as many logits.

    Raises:
        StageError: `SPEC_INVALID` if the vocabularies differ, `FIGURES_NOT_FINITE` if a figure is NaN or infinite.
    """
    known, other = original.stream.vocab_size, candidate.stream.vocab_size
    if known != other:
        failure = Failure(reason=FailureReason.SPEC_INVALID, subject="--candidate")
        raise StageError(failure, detail=f"the original knows {known} tokens and the candidate {other}")
    chunks = []
    total = len(targets)
    for start in range(0, total, TOKENS_PER_CHUNK):
        part = slice(start, start + TOKENS_PER_CHUNK)
        chunks.append(
            _compare_chunk(
                Scored(original.stream, original.states[part]),
                Scored(candidate.stream, candidate.states[part]),
                targets[part],
            )
        )
        progress(
            Progress("comparing tokens, with the logits of both models", min(start + TOKENS_PER_CHUNK, total), total)
        )
    return TokenFigures(*finite(torch.cat(chunks, dim=1), FailureReason.FIGURES_NOT_FINITE))


def _compare_chunk(original: Scored, candidate: Scored, targets: Tensor) -> Tensor:
    """The figures of a few tokens, [4, n] float64 in the order of `TokenFigures`.

    KL = sum over the vocabulary of p (l_p - l_q), minus log Z_p, plus log Z_q, where l are logits and
    p = exp(l_p) / Z_p.
    """
    rows, device = len(targets), original.stream.device
    targets = targets.to(device)
    softmax_p, softmax_q = RunningSoftmax(rows, device), RunningSoftmax(rows, device)
    target_p, target_q = torch.zeros(rows, device=device), torch.zeros(rows, device=device)
    weighted = torch.zeros(rows, dtype=torch.float64, device=device)
    for start in pieces(original.stream.vocab_size):
        logits_p = logit_piece(original.stream, original.states, head_piece(original.stream, start))  # [n, piece]
        logits_q = logit_piece(candidate.stream, candidate.states, head_piece(candidate.stream, start))
        target_p = target_logits(target_p, logits_p, targets, start)
        target_q = target_logits(target_q, logits_q, targets, start)
        difference = logits_p - logits_q
        weights, shrink = softmax_p.add(logits_p, start)
        weighted = weighted * shrink + weights.mul_(difference).sum(dim=1)
        softmax_q.add(logits_q, start)
    log_z_p, log_z_q = softmax_p.log_mass, softmax_q.log_mass
    divergence = weighted / softmax_p.mass - log_z_p + log_z_q
    agreement = (softmax_p.top_token == softmax_q.top_token).float()
    return torch.stack([log_z_p - target_p, log_z_q - target_q, divergence, agreement]).double().cpu()


def finite(figures: Tensor, reason: FailureReason) -> Tensor:
    """The figures, unless one is NaN or infinite, which ends with the reason."""
    if not torch.isfinite(figures).all():
        raise StageError(Failure(reason=reason, subject="logits"))
    return figures
