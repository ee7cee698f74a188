"""Smoothing one block before it is quantized: scales of AWQ or SmoothQuant, searched and folded along its edges.

A smoothed block computes what it computed before. That is checked on every run.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from saffron_api.candidate import CandidateSpec, Method
from saffron_api.candidate import Smoothing as Way
from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_kernels.w8a8_gemm import w8a8_linear
from saffron_quantizer.algorithms.awq import awq
from saffron_quantizer.algorithms.fold import Fold, fold_gain, fold_rows, power_of_two
from saffron_quantizer.algorithms.rtn import rtn
from saffron_quantizer.algorithms.scales import MIN_MAX
from saffron_quantizer.algorithms.smoothing import Smoothing
from saffron_quantizer.algorithms.smoothquant import smoothquant
from saffron_quantizer.models.edges import Edge, Producer, edges_of
from saffron_quantizer.models.replay import Call, Sample, record, replay, take_sample
from saffron_quantizer.models.skeleton import with_tensors
from saffron_quantizer.models.stream import Walk
from saffron_quantizer.plan import Plan
from saffron_quantizer.precision import Activations

TOLERANCE = 1e-4
"""How far a block's output may move, as a share of what the block adds to its input, both as root mean squares.

The fold is exact but for float32 rounding, about 1e-7 of each product, which grows where what is added is small
beside the input. A gain that is rounded to bfloat16 and not made good moves it by 1e-3.
"""

_SMALLEST = torch.finfo(torch.float32).tiny
_WAY_OF = {Method.AWQ: Way.AWQ, Method.SMOOTHQUANT: Way.SMOOTHQUANT}
_OFFSETS = {Producer.NORM: 0.0, Producer.NORM_OF_ONE_PLUS: 1.0}


def smoothing_of(spec: CandidateSpec) -> Way | None:
    """What a candidate smooths with before it rounds, or None."""
    return spec.smoothing or _WAY_OF.get(spec.method)


@dataclass(frozen=True)
class EdgeNote:
    """What was found for one edge.

    Attributes:
        producer: where its channels are made, inside the block.
        exponent: AWQ's or SmoothQuant's alpha, or None where no scales were best.
        largest_scale: of its channels.
        error: what is left of the error that rounding causes without scales.
    """

    producer: str
    exponent: float | None
    largest_scale: float
    error: float


@dataclass(frozen=True)
class SmoothedBlock:
    """A block that computes the same and rounds better.

    Attributes:
        tensors: all of its tensors by name; weights that are still to be rounded are float32.
        inputs: for the first linear of each input group what it reads of some tokens, [N, d].
        unsought: modules of experts that none of these tokens goes to, which were shown all of them.
        notes: of each edge.
    """

    tensors: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    unsought: Collection[str] = ()
    notes: tuple[EdgeNote, ...] = ()


def smooth_block(plan: Plan, index: int, walk: Walk, tensors: Mapping[str, Tensor], *, way: Way) -> SmoothedBlock:
    """Smooth a loaded block; neither its modules nor the tensors given are changed.

    The search looks at a few thousand tokens (`take_sample`). What a module reads and gives is recorded once: a fold
    changes no other edge's, since the function stays.

    Args:
        plan: of the model.
        index: of the block.
        walk: that stands before it.
        tensors: the block's, by name, as they are stored.
        way: whose scales are searched for.

    Raises:
        StageError: `SMOOTHING_INEXACT` if the block would compute something else; `FIGURES_NOT_FINITE` if an error is
            not a number.
    """
    sample = take_sample(walk)
    edges = _edges(plan, index, walk)
    first = {group[0] for group in plan.groups[index]}
    calls, unsought = _calls(sample, index, edges, first)
    current = dict(tensors)
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    inputs = {name: calls[name].tokens.float() for name in first if name in calls}
    notes = []
    for edge in edges:
        place = _Place(plan, index, walk, edge, current, dtypes)
        found = _searched(place, calls, way)
        largest = 1.0
        if found.exponent is not None:
            fold = place.fold(found.scale)
            largest = float(fold.scale.max())
            current |= place.folded(fold)
            columns = place.columns(fold.scale)
            inputs |= {name: inputs[name] / columns for name in edge.consumers if name in inputs}
        left = found.error / found.identity_error if found.identity_error > 0 else 1.0
        notes.append(EdgeNote(edge.producer, found.exponent, largest, left))
    _check_unchanged(plan, index, sample, tensors, current)
    return SmoothedBlock(current, inputs, unsought, tuple(notes))


def _edges(plan: Plan, index: int, walk: Walk) -> list[Edge]:
    """The edges of a block that lead to a linear that is quantized."""
    prefix = f"{plan.architecture.block(index)}."
    modules = {name.removeprefix(prefix).removesuffix(".weight") for name in plan.blocks[index]}
    return [
        edge
        for edge in edges_of(plan.architecture.model_type, walk.stream.config, modules)
        if any(plan.weight(index, name) in plan.precisions for name in edge.consumers)
    ]


def _calls(
    sample: Sample, index: int, edges: Sequence[Edge], also: Collection[str]
) -> tuple[dict[str, Call], Collection[str]]:
    """What the modules that a search looks at read and gave; experts that no token goes to are shown all tokens.

    Returns:
        The calls, and the names of these experts' modules.
    """
    block = sample.stream.blocks[index]
    needed = {*also, *(edge.parent for edge in edges), *(edge.consumers[0] for edge in edges)}
    calls = record(block, needed, lambda: sample.run(index))
    mixture, unsought = sample.stream.architecture.mixture, set[str]()
    if mixture is None:
        return calls, unsought
    for edge in edges:
        # A router among the consumers is part of no expert.
        for expert in dict.fromkeys(filter(None, map(mixture.expert_of, edge.consumers))):
            lacking = [name for name in needed if name not in calls and name.startswith(f"{expert}.")]
            if lacking and edge.consumers[0] in calls:
                module, tokens = block.get_submodule(expert), calls[edge.consumers[0]].tokens
                calls |= record(block, lacking, partial(module, tokens))
                unsought.update(lacking)
    return calls, unsought


@dataclass(frozen=True)
class _Place:
    """One edge of one block, with the block's tensors as they are by now."""

    plan: Plan
    index: int
    walk: Walk
    edge: Edge
    tensors: Mapping[str, Tensor]
    dtypes: Mapping[str, torch.dtype]

    def name(self, module: str, kind: str = "weight") -> str:
        return f"{self.plan.architecture.block(self.index)}.{module}.{kind}"

    @property
    def rounded(self) -> list[str]:
        """The consumers that are quantized."""
        return [name for name in self.edge.consumers if self.name(name) in self.plan.precisions]

    def tied(self, values: Tensor, join: Callable[[Tensor], Tensor]) -> Tensor:
        """Values of a consumer's columns as one of each channel: joined over the query heads that read it."""
        if not self.edge.by_head:
            return values
        groups, size = self._heads(len(values))
        return join(values.reshape(groups, -1, size)).reshape(-1)

    def columns(self, values: Tensor) -> Tensor:
        """Values of the channels as one of each column of a consumer."""
        width = self.tensors[self.name(self.edge.consumers[0])].shape[1]
        if not self.edge.by_head or len(values) == width:
            return values
        groups, size = self._heads(width)
        return values.reshape(groups, 1, size).expand(groups, width // len(values), size).reshape(-1)

    def _heads(self, width: int) -> tuple[int, int]:
        """Key-value heads and the channels of one, where so many columns are the query heads'."""
        config = self.walk.stream.config
        heads = config.num_attention_heads
        return getattr(config, "num_key_value_heads", None) or heads, width // heads

    def fold(self, scale: Tensor) -> Fold:
        """The producer, divided, and the scale that is left for the consumers."""
        if len(self.rounded) < len(self.edge.consumers):
            # A router, say, is stored in its own type: it must not be rounded, either.
            scale = power_of_two(scale)
        name = self.edge.producer
        weight, bias = self.tensors[self.name(name)], self.tensors.get(self.name(name, "bias"))
        if self.edge.kind in _OFFSETS:
            return fold_gain(weight, bias, scale, offset=_OFFSETS[self.edge.kind])
        above = len(weight) - len(scale)
        later = self.name(name) in self.plan.precisions
        fold = fold_rows(weight[above:], None if bias is None else bias[above:], scale, rounded_later=later)
        if above == 0:
            return fold
        whole = torch.cat([weight[:above].to(fold.weight.dtype), fold.weight])
        whole_bias = None if bias is None or fold.bias is None else torch.cat([bias[:above], fold.bias])
        return Fold(whole, whole_bias, fold.scale)

    def folded(self, fold: Fold) -> dict[str, Tensor]:
        """The tensors that a fold changes."""
        changed = {self.name(self.edge.producer): fold.weight}
        if fold.bias is not None:
            changed[self.name(self.edge.producer, "bias")] = fold.bias
        columns = self.columns(fold.scale)
        for consumer in self.edge.consumers:
            W = self.tensors[self.name(consumer)]
            product = W.float() * columns
            changed[self.name(consumer)] = product if consumer in self.rounded else product.to(W.dtype)
        return changed

    def error_of(self, call: Call) -> Callable[[Tensor], float]:
        """A function that tells what is left at the parent's output with some scales, as a share of that output."""
        reference = call.output.float()
        size = max(float(self.walk.ranks.sum(reference.square().sum(dtype=torch.float64))), _SMALLEST)
        block = self.walk.stream.blocks[self.index]

        def error(scale: Tensor) -> float:
            columns = self.columns(self.fold(scale).scale)
            divided = _divided_by(columns)
            products = {name: self._product(name, columns, divided, call.output.dtype) for name in self.rounded}
            lost = replay(block, self.edge.parent, call, products).float().sub_(reference).square_()
            # In float32 along a row, since to make float64 of every number takes longer than the module.
            return float(self.walk.ranks.sum(lost.sum(dim=-1).sum(dtype=torch.float64))) / size

        return error

    def _product(
        self, name: str, columns: Tensor, divided: Callable[[Tensor], Tensor], dtype: torch.dtype
    ) -> Callable[[Tensor], Tensor]:
        """What a linear gives that is rounded with scales, for the input that it has without them."""
        weight = self.name(name)
        quantized = rtn(self.tensors[weight].float() * columns, self.plan.grid(weight, self.dtypes[weight]), MIN_MAX)
        bias: Any = self.walk.stream.blocks[self.index].get_submodule(name).bias
        if self.plan.precisions[weight].activations is not Activations.INT8_PER_TOKEN:
            # An input that is not rounded may as well be divided in the weight.
            W = (quantized.dequantize().float() / columns).to(dtype)
            return lambda x: torch.nn.functional.linear(x, W, bias)
        scale = quantized.scale.float()

        def product(x: Tensor) -> Tensor:
            smooth = divided(x)
            y = w8a8_linear(smooth.reshape(-1, x.shape[-1]), quantized.codes, scale, bias)
            return y.reshape(*x.shape[:-1], -1).to(x.dtype)

        return product


def _divided_by(columns: Tensor) -> Callable[[Tensor], Tensor]:
    """A function that divides an input's columns, in float32. Queries, keys and values read one, and get one."""
    last: tuple[Tensor, Tensor] | None = None

    def divided(x: Tensor) -> Tensor:
        nonlocal last
        if last is None or last[0] is not x:
            last = x, x.float() / columns
        return last[1]

    return divided


def _search_awq(place: _Place, calls: Mapping[str, Call]) -> Smoothing:
    activity = place.walk.ranks.sum(calls[place.edge.consumers[0]].tokens.float().abs().mean(dim=0))
    return awq(place.tied(activity, lambda heads: heads.mean(dim=1)), place.error_of(calls[place.edge.parent]))


def _search_smoothquant(place: _Place, calls: Mapping[str, Call]) -> Smoothing:
    activity = place.walk.ranks.max(calls[place.edge.consumers[0]].tokens.float().abs().amax(dim=0))
    largest = [place.tensors[place.name(name)].float().abs().amax(dim=0) for name in place.edge.consumers]
    weights = torch.stack(largest).amax(dim=0)
    activity, weights = (place.tied(values, lambda heads: heads.amax(dim=1)) for values in (activity, weights))
    return smoothquant(activity, weights, place.error_of(calls[place.edge.parent]))


def _searched(place: _Place, calls: Mapping[str, Call], way: Way) -> Smoothing:
    try:
        return _SEARCHES[way](place, calls)
    except ArithmeticError as error:
        subject = subject_of(place.name(place.edge.parent, "output"))
        raise StageError(Failure(reason=FailureReason.FIGURES_NOT_FINITE, subject=subject)) from error


_SEARCHES: Mapping[Way, Callable[[_Place, Mapping[str, Call]], Smoothing]] = {
    Way.AWQ: _search_awq,
    Way.SMOOTHQUANT: _search_smoothquant,
}


@torch.no_grad()
def _check_unchanged(
    plan: Plan, index: int, sample: Sample, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> None:
    """Run one sequence through the block with its old and its new tensors, in float32, and compare.

    Raises:
        StageError: `SMOOTHING_INEXACT` if the outputs differ by more than `TOLERANCE`.
    """
    block = sample.stream.blocks[index]
    hidden = sample.states[:1].float()
    keywords = with_tensors(sample.stream.inputs(index, sample.batch), _float)
    old, new = (
        torch.func.functional_call(block, _state(block, plan, index, tensors), (hidden,), keywords)
        for tensors in (before, after)
    )
    moved, added = ((one - other).square().mean().sqrt() for one, other in ((new, old), (old, hidden)))
    # No quotient, since a block may add nothing at all.
    if not moved <= TOLERANCE * added:
        name = plan.architecture.block(index)
        raise StageError(Failure(reason=FailureReason.SMOOTHING_INEXACT, subject=subject_of(name)))


def _state(block: nn.Module, plan: Plan, index: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A block's tensors by their names inside it, in float32."""
    prefix = f"{plan.architecture.block(index)}."
    own: Collection[str] = dict(block.named_parameters())
    state = {name.removeprefix(prefix): tensor.float() for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in state.items() if name in own}


def _float(tensor: Tensor) -> Tensor:
    """In float32, if it is of a floating type."""
    return tensor.float() if tensor.is_floating_point() else tensor
