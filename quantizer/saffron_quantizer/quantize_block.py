"""One block of a model, quantized: its stored tensors, and what was learnt on the way."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from torch import Tensor, nn

from saffron_api.candidate import Method, ScaleSearch
from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.algorithms.awq import group_gram
from saffron_quantizer.algorithms.gptq import UnstableHessianError
from saffron_quantizer.algorithms.hessian import hessian_finish
from saffron_quantizer.algorithms.quantized import Grid, Quantized
from saffron_quantizer.models.calibration import BlockCalibration
from saffron_quantizer.models.edges import SMOOTHABLE
from saffron_quantizer.models.stream import Walk
from saffron_quantizer.plan import Plan
from saffron_quantizer.round_linears import LinearNote, RoundedLinear, awq_linears, gptq_linears, rtn_linears
from saffron_quantizer.smooth_block import EdgeNote, SmoothedBlock, smooth_block, smoothing_of


@dataclass(frozen=True)
class BlockNotes:
    """What was learnt while a block was quantized.

    Attributes:
        modules: linears quantized.
        max_damping: the largest damping that a Hessian needed, as a share of its mean diagonal.
        dead_columns: inputs that were 0 in every token, counted once for linears that share them.
        linears: what was learnt of each linear, in the order in which they are computed.
        edges: how the block was smoothed.
    """

    modules: int
    max_damping: float = 0.0
    dead_columns: int = 0
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
        (found,) = rtn_linears({linear: W}, plan.precisions[name].grid(W.dtype), plan.spec.scale_search)
        stored |= store(plan, {name: found.quantized})
        notes.append(found.note)
    return QuantizedBlock(stored | tensors, BlockNotes(len(notes), linears=tuple(notes)))


def calibrate_block(plan: Plan, index: int, walk: Walk, tensors: dict[str, Tensor]) -> QuantizedBlock:
    """Quantize a loaded block by what its linears read, and take the walk past it.

    It is smoothed first, where the candidate asks for that. Linears are then taken in the order in which they are
    computed, and each is calibrated on what it reads once those before it are quantized. At the end the block holds the
    dequantized weights.

    Args:
        plan: what becomes of each tensor.
        index: of the block.
        walk: stands before it.
        tensors: the block's, by name. Each is taken out once it is quantized, so that memory holds it no longer.

    Raises:
        StageError: `NUMERICALLY_UNSTABLE` if a Hessian can't be factorized; as `smooth_block`.
    """
    block = walk.stream.blocks[index]
    grids = {name: plan.precisions[name].grid(W.dtype) for name, W in tensors.items() if name in plan.precisions}
    way = smoothing_of(plan.spec)
    smoothed = smooth_block(plan, index, walk, tensors, grids=grids, way=way) if way else SmoothedBlock({})
    if way:
        put_weights(block, plan, index, smoothed.tensors)
        tensors.update(smoothed.tensors)
    inputs, edges = smoothed.inputs, smoothed.notes
    del smoothed
    stored: dict[str, Tensor] = {}
    groups: list[tuple[LinearNote, ...]] = []
    calibration = BlockCalibration(walk, index)
    for group in plan.architecture.input_groups:
        weights = {linear: tensors[plan.weight(index, linear)] for linear in group}
        (grid,) = {grids[plan.weight(index, linear)] for linear in group}
        rounded = _ROUNDINGS[plan.spec.method](_Group(plan, index, weights, grid, inputs, walk, calibration))
        found = {plan.weight(index, each.note.name): each.quantized for each in rounded}
        put_weights(block, plan, index, {name: each.dequantize() for name, each in found.items()})
        stored |= store(plan, found)
        for name in found:
            del tensors[name]
        groups.append(tuple(each.note for each in rounded))
        del rounded, found, weights
    calibration.advance()
    notes = BlockNotes(
        modules=sum(map(len, groups)),
        max_damping=max(group[0].damping or 0.0 for group in groups),
        dead_columns=sum(group[0].dead_columns or 0 for group in groups),
        linears=tuple(note for group in groups for note in group),
        edges=edges,
    )
    return QuantizedBlock(stored | tensors, notes)


@dataclass(frozen=True)
class _Group:
    """Linears of a block that read one input, about to be rounded.

    Attributes:
        plan: of the model.
        index: of the block.
        weights: [R, d] each, by the linear's name inside the block.
        grid: what they are rounded to.
        inputs: what the first linear of each input group reads of some tokens, where the block was smoothed.
        walk: that stands before the block.
        calibration: its runs over the calibration set.
    """

    plan: Plan
    index: int
    weights: Mapping[str, Tensor]
    grid: Grid
    inputs: Mapping[str, Tensor]
    walk: Walk
    calibration: BlockCalibration

    @property
    def first(self) -> str:
        """The linear at which the input is taken."""
        return next(iter(self.weights))


def _by_rtn(group: _Group) -> list[RoundedLinear]:
    importance = group.calibration.squares(group.first)
    return rtn_linears(group.weights, group.grid, group.plan.spec.scale_search, importance=importance)


def _by_gptq(group: _Group) -> list[RoundedLinear]:
    H = hessian_finish(group.calibration.gram(group.first), group.calibration.tokens)
    spec = group.plan.spec
    try:
        return gptq_linears(group.weights, H, group.grid, spec.act_order, spec.scale_search)
    except UnstableHessianError as error:
        subject = subject_of(group.plan.weight(group.index, group.first))
        raise StageError(Failure(reason=FailureReason.NUMERICALLY_UNSTABLE, subject=subject)) from error


def _by_awq(group: _Group) -> list[RoundedLinear]:
    unclipped = SMOOTHABLE[group.plan.architecture.model_type].unclipped
    gram = group.walk.ranks.sum(group_gram(group.inputs[group.first], group.grid.group_size))
    return awq_linears(group.weights, gram, group.grid, unclipped=unclipped)


def _by_smoothquant(group: _Group) -> list[RoundedLinear]:
    return rtn_linears(group.weights, group.grid, ScaleSearch.MSE)


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
        stored |= plan.layout.stored(name, each, plan.precisions[name])
    return stored


def restore(plan: Plan, index: int, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A block's tensors as they are computed with, from those that were written."""
    return {name: _restored(plan, name, stored) for name in plan.blocks[index]}


def _restored(plan: Plan, name: str, stored: Mapping[str, Tensor]) -> Tensor:
    if name not in plan.precisions:
        return stored[name]
    return plan.layout.restored(name, plan.precisions[name], stored.__getitem__).dequantize()


def put_weights(block: nn.Module, plan: Plan, index: int, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors, by their names in the checkpoint, into a loaded block, in the type that it is computed in."""
    prefix = f"{plan.architecture.block(index)}."
    own = dict(block.named_parameters())
    state = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    block.load_state_dict(
        {name: tensor.to(own[name].dtype) for name, tensor in state.items() if name in own}, strict=False, assign=True
    )
    block.requires_grad_(requires_grad=False)
