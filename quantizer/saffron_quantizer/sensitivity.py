"""How much damage each unit does alone: the divergence at the model's output when only that unit is quantized.

One walk carries the original and, beside it, one copy of the hidden states for each unit and level that was passed:
at its own block a copy is run with the unit quantized, from there on with the original's weights. So each figure is
the true divergence, not an estimate from inside the model, at the price of running half the model once a copy. That
is affordable since ordering units takes few tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saffron_quantizer.algorithms.quantized import Quantized
from saffron_quantizer.data.sequences import TokenSequence
from saffron_quantizer.evaluation.vocabulary import RunningSoftmax, head_piece, logit_piece, pieces
from saffron_quantizer.models.skeleton import ROUNDING_LINEARS
from saffron_quantizer.models.stream import ModelStream, Walk
from saffron_quantizer.precision import Activations, Precision
from saffron_quantizer.progress import Progress, ProgressSink
from saffron_quantizer.units import Unit

PROBES = 8
"""Conversations that are looked at."""
PROBE_TOKENS = 128
"""Tokens of each, at most: the first one, and those up to the last scored one."""
PROBE_SCORED = 32
"""Tokens of each at whose prediction the divergence is measured, at most."""
STATES_BYTES = 1 << 30
"""Hidden states that are held at once; more copies take more walks. It changes the time and no bit of the result."""

Quantize = Callable[[str, Precision], Quantized]
"""Gives a weight, by its name, quantized."""


@dataclass(frozen=True)
class Variant:
    """One unit at one level; all else is the original."""

    unit: Unit
    precision: Precision


def probes(sequences: Sequence[TokenSequence]) -> list[TokenSequence]:
    """What the damage is measured on: a window from each of the first few conversations."""
    first = {sequence.conversation: sequence for sequence in reversed(sequences)}
    chosen = [first[name] for name in dict.fromkeys(sequence.conversation for sequence in sequences)]
    return [_window(sequence) for sequence in chosen[:PROBES]]


def _window(sequence: TokenSequence) -> TokenSequence:
    start, end = sequence.score
    scored = min(end - start, PROBE_SCORED)
    tokens = sequence.tokens[: start + scored]
    # The first token stays: models that were trained with <bos> are lost without it.
    kept = tokens if len(tokens) <= PROBE_TOKENS else (tokens[0], *tokens[1 - PROBE_TOKENS :])
    return TokenSequence(kept, (len(kept) - scored, len(kept)), sequence.conversation)


@torch.no_grad()
def damages(
    stream: ModelStream,
    variants: Sequence[Variant],
    quantize: Quantize,
    sequences: Sequence[TokenSequence],
    *,
    progress: ProgressSink,
) -> list[float]:
    """The mean divergence KL(original || variant) of each variant, in nats a token.

    Args:
        stream: the original.
        variants: in the order of their blocks.
        quantize: gives the weights of the variants.
        sequences: as made by `probes`.
        progress: told of each block.
    """
    inputs = [torch.tensor(sequence.tokens[:-1], dtype=torch.int64) for sequence in sequences]
    found: list[float] = []
    parts = _parts(variants, sum(map(len, inputs)) * stream.hidden_size * stream.dtype.itemsize)
    for number, part in enumerate(parts):

        def on_block(done: int, number: int = number) -> None:
            total = len(parts) * stream.n_blocks
            progress(Progress("measuring what each linear matters", number * stream.n_blocks + done, total))

        walks = _walk(stream, part, quantize, inputs, on_block)
        states = [_scored(stream.final(walk), sequences) for walk in walks]
        found += divergences(stream, states[0], states[1:])
    return found


def _parts(variants: Sequence[Variant], copy_bytes: int) -> list[list[Variant]]:
    """The variants in order, as many a part as there is room for the states of."""
    size = max(1, STATES_BYTES // copy_bytes)
    return [list(variants[start : start + size]) for start in range(0, len(variants), size)]


def _walk(
    stream: ModelStream,
    variants: Sequence[Variant],
    quantize: Quantize,
    inputs: Sequence[Tensor],
    on_block: Callable[[int], None],
) -> list[Walk]:
    """The original and each variant, walked to the end of the last block."""
    original = stream.walk(inputs)
    copies: list[Walk] = []
    for index in range(stream.n_blocks):
        with stream.loaded(index) as block:
            for copy in copies:
                copy.advance(index)
            for variant in (each for each in variants if each.unit.block == index):
                copy = original.fork()
                with _standing_in(block, stream.architecture.block(index), variant, quantize):
                    copy.advance(index)
                copies.append(copy)
            original.advance(index)
        on_block(index + 1)
    return [original, *copies]


@contextmanager
def _standing_in(block: nn.Module, prefix: str, variant: Variant, quantize: Quantize) -> Iterator[None]:
    """Put quantized linears in the place of a unit's, as the engines compute them."""
    places: dict[str, nn.Module] = {}
    for linear in variant.unit.linears:
        name = linear.removeprefix(f"{prefix}.")
        places[name] = block.get_submodule(name)
        block.set_submodule(
            name, _quantized_linear(places[name], quantize(f"{linear}.weight", variant.precision), variant.precision)
        )
    try:
        yield
    finally:
        for name, module in places.items():
            block.set_submodule(name, module)


def _quantized_linear(linear: nn.Module, quantized: Quantized, precision: Precision) -> nn.Module:
    rows, columns = quantized.codes.shape
    bias: Tensor | None = linear.bias  # type: ignore[assignment] # a linear's is a tensor or None
    has_bias = bias is not None
    state = {} if bias is None else {"bias": bias}
    weight = linear.get_parameter("weight")
    if precision.activations is Activations.AS_THEY_ARE:
        module: nn.Module = nn.Linear(columns, rows, bias=has_bias, device="meta")
        state["weight"] = nn.Parameter(quantized.dequantize().to(weight.device, weight.dtype), requires_grad=False)
    else:
        module = ROUNDING_LINEARS[precision.activations](columns, rows, bias=has_bias)
        state |= {"weight": quantized.codes.to(weight.device), "weight_scale": quantized.scale.to(weight.device)}
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(requires_grad=False)


def _scored(states: Sequence[Tensor], sequences: Sequence[TokenSequence]) -> Tensor:
    """The states before the scored tokens, [N, hidden]."""
    return torch.cat([each[sequence.score[0] - 1 :] for sequence, each in zip(sequences, states, strict=True)])


def divergences(stream: ModelStream, original: Tensor, others: Sequence[Tensor]) -> list[float]:
    """The mean of KL(p || q_i) over rows, where p and q_i are what the model's head makes of hidden states.

    Args:
        stream: whose head it is.
        original: [N, hidden].
        others: each [N, hidden].
    """
    rows, device = len(original), stream.device
    p = RunningSoftmax(rows, device)
    qs = [RunningSoftmax(rows, device) for _ in others]
    # The sum of exp(l_p - top) (l_p - l_q) so far.
    weighted = [torch.zeros(rows, dtype=torch.float64, device=device) for _ in others]
    for start in pieces(stream.vocab_size):
        weight = head_piece(stream, start)
        logits_p = logit_piece(stream, original, weight)
        weights, shrink = p.add(logits_p.clone(), start)
        for number, (q, states) in enumerate(zip(qs, others, strict=True)):
            logits_q = logit_piece(stream, states, weight)
            weighted[number] = weighted[number] * shrink + (weights * (logits_p - logits_q)).sum(dim=1)
            q.add(logits_q, start)
    return [
        float((each / p.mass - p.log_mass + q.log_mass).double().mean()) for each, q in zip(weighted, qs, strict=True)
    ]
