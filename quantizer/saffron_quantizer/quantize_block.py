"""One block of a model, quantized: its stored tensors, and what was learnt on the way."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from saffron_api.candidate import Method, ScaleSearch
from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_kernels.hessian import hessian_finish
from saffron_quantizer.algorithms.awq import group_gram
from saffron_quantizer.algorithms.gptq import UnstableHessianError
from saffron_quantizer.algorithms.quantized import Grid, Quantized
from saffron_quantizer.checkpoint.exactness import stored_exactly
from saffron_quantizer.fixed_scales import measure_fixed_scales
from saffron_quantizer.memory import give_back_idle_memory
from saffron_quantizer.models.activations import Shelf
from saffron_quantizer.models.calibration import BlockCalibration
from saffron_quantizer.models.edges import SMOOTHABLE
from saffron_quantizer.models.originals import advance_and_keep
from saffron_quantizer.models.stream import Walk
from saffron_quantizer.plan import Plan
from saffron_quantizer.round_linears import (
    LinearNote,
    RoundedLinear,
    awq_linears,
    fp8_linears,
    gptq_linears,
    rtn_linears,
)
from saffron_quantizer.smooth_block import EdgeNote, SmoothedBlock, smooth_block, smoothing_of


@dataclass(frozen=True)
class BlockNotes:
    """What was learnt while a block was quantized.

    Attributes:
        modules: linears quantized.
        max_damping: the largest damping that a Hessian needed, as a share of its mean diagonal.
        dead_columns: inputs that were 0 in every token, counted once for linears that share them.
        all_token_experts: experts that saw so few tokens that they were calibrated on all tokens of their mixture.
        linears: what was learnt of each linear, in the order in which they are computed.
        edges: how the block was smoothed.
    """

    modules: int
    max_damping: float = 0.0
    dead_columns: int = 0
    all_token_experts: int = 0
    linears: tuple[LinearNote, ...] = ()
    edges: tuple[EdgeNote, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """From what `to_json` gave."""
        linears = tuple(LinearNote(**linear) for linear in told["linears"])
        edges = tuple(EdgeNote(**edge) for edge in told["edges"])
        return cls(**{**told, "linears": linears, "edges": edges})


@dataclass(frozen=True)
class QuantizedBlock:
    """A block as it is written.

    Attributes:
        stored: its tensors by name.
        notes: what was learnt.
    """

    stored: Mapping[str, Tensor]
    notes: BlockNotes


def round_block(plan: Plan, index: int, tensors: dict[str, Tensor]) -> QuantizedBlock:
    """Quantize a block by RTN, which reads no data.

    Args:
        plan: what becomes of each tensor.
        index: of the block.
        tensors: the block's, by name. Each is taken out once it is quantized, so that memory holds it no longer.
    """
    stored: dict[str, Tensor] = {}
    notes: list[LinearNote] = []
    for name in plan.blocks[index]:
        if name not in plan.precisions:
            continue
        linear = name.removeprefix(f"{plan.architecture.block(index)}.").removesuffix(".weight")
        W = tensors.pop(name)
        (found,) = _to_nearest(plan, {linear: W}, name, W.dtype, squares=None)
        stored |= store(plan, {name: found.quantized})
        notes.append(found.note)
    return QuantizedBlock(stored | tensors, BlockNotes(len(notes), linears=tuple(notes)))


def calibrate_block(
    plan: Plan, index: int, walk: Walk, tensors: dict[str, Tensor], original: Walk | None = None
) -> QuantizedBlock:
    """Quantize a loaded block by what its linears read, and take the walk past it.

    It is smoothed first, where the candidate asks for that. Linears are then taken in the order in which they are
    computed, and each is calibrated on what it reads once those before it are quantized. At the end the block holds the
    dequantized weights.

    Args:
        plan: what becomes of each tensor.
        index: of the block.
        walk: stands before it.
        tensors: the block's, by name. Each is taken out once it is quantized, so that memory holds it no longer.
        original: a walk through the original that stands before the block, too, and is taken past it; None for a
            candidate that does not look at it.

    Raises:
        StageError: `NUMERICALLY_UNSTABLE` if a Hessian can't be factorized, `RANGE_EMPTY` if a scale can't be measured;
            as `smooth_block`.
    """
    block = walk.stream.blocks[index]
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    originals: dict[str, Shelf] = {} if original is None else advance_and_keep(original, index, plan.compared(index))
    smoothed = _smooth(plan, index, walk, tensors)
    stored: dict[str, Tensor] = {}
    groups: list[tuple[LinearNote, ...]] = []
    calibration = BlockCalibration(walk, index)
    for group in plan.groups[index]:
        if plan.weight(index, group[0]) not in plan.precisions:
            continue  # ignored, and so are all of its group
        weights = {linear: tensors[plan.weight(index, linear)] for linear in group}
        rounded = _ROUNDINGS[plan.spec.method](
            _Group(plan, index, weights, dtypes, smoothed, originals.pop(group[0], None), walk, calibration)
        )
        found = {plan.weight(index, each.note.name): each.quantized for each in rounded}
        put_weights(block, plan, index, {name: each.dequantize() for name, each in found.items()})
        stored |= store(plan, found)
        for name in found:
            del tensors[name]
        groups.append(tuple(each.note for each in rounded))
        del rounded, found, weights
        give_back_idle_memory()
    if plan.fixed_scales(index):
        stored |= measure_fixed_scales(plan, index, walk)
    else:
        calibration.advance()
    return QuantizedBlock(stored | tensors, _notes(groups, smoothed.notes))


def _smooth(plan: Plan, index: int, walk: Walk, tensors: dict[str, Tensor]) -> SmoothedBlock:
    """Smooth a loaded block and its tensors where the candidate asks for it."""
    way = smoothing_of(plan.spec)
    if way is None:
        return SmoothedBlock(tensors)
    smoothed = smooth_block(plan, index, walk, tensors, way=way)
    put_weights(walk.stream.blocks[index], plan, index, smoothed.tensors)
    tensors.update(smoothed.tensors)
    return smoothed


def _notes(groups: list[tuple[LinearNote, ...]], edges: tuple[EdgeNote, ...]) -> BlockNotes:
    return BlockNotes(
        modules=sum(map(len, groups)),
        max_damping=max((group[0].damping or 0.0 for group in groups), default=0.0),
        dead_columns=sum(group[0].dead_columns or 0 for group in groups),
        all_token_experts=len({group[0].name.rpartition(".")[0] for group in groups if group[0].all_tokens}),
        linears=tuple(note for group in groups for note in group),
        edges=edges,
    )


@dataclass(frozen=True)
class _Group:
    """Linears of a block that read one input, about to be rounded.

    Attributes:
        plan: of the model.
        index: of the block.
        weights: [R, d] each, by the linear's name inside the block; float32 where they were smoothed.
        dtypes: what the block's weights are stored in, by name.
        smoothed: the block, where it was smoothed, and what was seen of it then.
        original: what the first linear reads in the original, a batch a place, where that is looked at.
        walk: that stands before the block.
        calibration: its runs over the calibration set.
    """

    plan: Plan
    index: int
    weights: Mapping[str, Tensor]
    dtypes: Mapping[str, torch.dtype]
    smoothed: SmoothedBlock
    original: Shelf | None
    walk: Walk
    calibration: BlockCalibration

    @property
    def first(self) -> str:
        """The linear at which the input is taken."""
        return next(iter(self.weights))

    @property
    def name(self) -> str:
        """The full name of the first weight; all of a group have one precision."""
        return self.plan.weight(self.index, self.first)

    @property
    def grid(self) -> Grid:
        """What the weights are rounded to."""
        return self.plan.grid(self.name, self.dtypes[self.name])


def _by_rtn(group: _Group) -> list[RoundedLinear]:
    by_activity = group.plan.spec.scale_search is ScaleSearch.HESSIAN
    squares = group.calibration.squares(group.first) if by_activity else None
    rounded = _to_nearest(group.plan, group.weights, group.name, group.dtypes[group.name], squares)
    return _noted(rounded, all_tokens=by_activity and group.calibration.sees_few(group.first))


def _by_gptq(group: _Group) -> list[RoundedLinear]:
    gram = group.calibration.gram(group.first, group.original)
    give_back_idle_memory()  # before memory is needed most: what the passes over the batches have left
    H = hessian_finish(gram.sum, gram.tokens)
    drift = None if gram.drift is None else gram.drift.mul_(2.0 / gram.tokens)
    del gram  # it is as large as H
    spec = group.plan.spec
    try:
        rounded = gptq_linears(group.weights, H, group.grid, spec.act_order, spec.scale_search, drift=drift)
    except UnstableHessianError as error:
        subject = subject_of(group.plan.weight(group.index, group.first))
        raise StageError(Failure(reason=FailureReason.NUMERICALLY_UNSTABLE, subject=subject)) from error
    return _noted(rounded, all_tokens=group.calibration.sees_few(group.first))


def _to_nearest(
    plan: Plan, weights: Mapping[str, Tensor], name: str, dtype: torch.dtype, squares: Tensor | None
) -> list[RoundedLinear]:
    """Round linears that have the precision and the stored type of the weight `name`, each weight for itself."""
    if plan.precisions[name].is_floating:
        return fp8_linears(weights)
    return rtn_linears(weights, plan.grid(name, dtype), plan.spec.scale_search, squares=squares)


def _by_awq(group: _Group) -> list[RoundedLinear]:
    unclipped = SMOOTHABLE[group.plan.architecture.model_type].unclipped
    gram = group.walk.ranks.sum(group_gram(group.smoothed.inputs[group.first], group.grid.group_size))
    rounded = awq_linears(group.weights, gram, group.grid, unclipped=unclipped)
    return _noted(rounded, all_tokens=group.first in group.smoothed.unsought)


def _by_smoothquant(group: _Group) -> list[RoundedLinear]:
    squares = group.walk.ranks.sum(group.smoothed.inputs[group.first].float().square_().sum(dim=0))
    rounded = rtn_linears(group.weights, group.grid, ScaleSearch.MSE, squares=squares)
    return _noted(rounded, all_tokens=group.first in group.smoothed.unsought)


def _noted(rounded: list[RoundedLinear], *, all_tokens: bool) -> list[RoundedLinear]:
    return [replace(each, note=replace(each.note, all_tokens=all_tokens)) for each in rounded]


_ROUNDINGS: Mapping[Method, Callable[[_Group], list[RoundedLinear]]] = {
    Method.RTN: _by_rtn,
    Method.GPTQ: _by_gptq,
    Method.AWQ: _by_awq,
    Method.SMOOTHQUANT: _by_smoothquant,
}
"""How each method rounds linears once the block is smoothed."""


def store(plan: Plan, quantized: Mapping[str, Quantized]) -> dict[str, Tensor]:
    """Quantized weights as the layout writes them."""
    stored: dict[str, Tensor] = {}
    for name, each in quantized.items():
        stored |= stored_exactly(plan.layout, name, each, plan.precisions[name])
    return stored


def restore(plan: Plan, index: int, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A block's tensors as they are computed with, from those that were written."""
    return {name: _restored(plan, name, stored) for name in plan.blocks[index]}


def _restored(plan: Plan, name: str, stored: Mapping[str, Tensor]) -> Tensor:
    if name not in plan.precisions:
        return stored[name]
    return plan.layout.restored(name, plan.precisions[name], stored.__getitem__).dequantize()


def put_weights(block: nn.Module, plan: Plan, index: int, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, by their names in the checkpoint, over those of a loaded block, in the type of these."""
    prefix = f"{plan.architecture.block(index)}."
    own = {name for name, _ in block.named_parameters()}
    state = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    block.load_state_dict({name: tensor for name, tensor in state.items() if name in own}, strict=False)
