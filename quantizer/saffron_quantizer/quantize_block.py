"""One block of a model, quantized: its stored tensors, and what was learnt on the way."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from saffron_api.candidate import Method
from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.algorithms.awq import clipped, group_gram
from saffron_quantizer.algorithms.gptq import Factor, UnstableHessianError, factorize, gptq
from saffron_quantizer.algorithms.hessian import hessian_finish
from saffron_quantizer.algorithms.quantized import Grid, Quantized
from saffron_quantizer.algorithms.ranges import round_range
from saffron_quantizer.algorithms.rtn import rtn
from saffron_quantizer.algorithms.scales import round_to_codes, searched_scales
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.models.calibration import BlockCalibration
from saffron_quantizer.models.stream import Walk
from saffron_quantizer.plan import Plan
from saffron_quantizer.smooth_block import EdgeNotes, SmoothedBlock, smooth_block, smoothing_of


@dataclass(frozen=True)
class BlockNotes:
    """What was learnt while a block was quantized.

    Attributes:
        modules: linears quantized.
        max_damping: the largest damping that a Hessian needed, as a share of its mean diagonal.
        dead_columns: inputs that were 0 in every token, counted once for linears that share them.
        edges: how the block was smoothed.
    """

    modules: int
    max_damping: float = 0.0
    dead_columns: int = 0
    edges: tuple[EdgeNotes, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @staticmethod
    def from_json(notes: Mapping[str, Any]) -> "BlockNotes":
        """Undo `to_json`."""
        return BlockNotes(**{**notes, "edges": tuple(EdgeNotes(**edge) for edge in notes["edges"])})


@dataclass(frozen=True)
class QuantizedBlock:
    """A block as it is written.

    Attributes:
        stored: its tensors by name.
        notes: what was learnt.
    """

    stored: Mapping[str, Tensor]
    notes: BlockNotes


def round_block(reader: CheckpointReader, plan: Plan, index: int) -> QuantizedBlock:
    """Quantize a block by RTN, which reads no data."""
    tensors = {name: reader.read(name) for name in plan.blocks[index]}
    weights = {name: tensor for name, tensor in tensors.items() if name in plan.precisions}
    quantized = {name: rtn(W, plan.precisions[name].grid(W.dtype)) for name, W in weights.items()}
    return QuantizedBlock(store(plan, tensors, quantized), BlockNotes(len(quantized)))


@dataclass(frozen=True)
class _Work:
    """A loaded block that is to be rounded.

    Attributes:
        plan: of the model.
        index: of the block.
        walk: that stands before it.
        smoothed: its tensors, smoothed where that was asked for.
        grids: what each weight is rounded to.
    """

    plan: Plan
    index: int
    walk: Walk
    smoothed: SmoothedBlock
    grids: Mapping[str, Grid]

    def put(self, tensors: Mapping[str, Tensor]) -> None:
        put_weights(self.walk.stream.blocks[self.index], self.plan, self.index, tensors)

    def put_rounded(self, quantized: Mapping[str, Quantized]) -> None:
        self.put({name: each.dequantize() for name, each in quantized.items()})


def calibrate_block(reader: CheckpointReader, plan: Plan, index: int, walk: Walk) -> QuantizedBlock:
    """Quantize a loaded block with what its linears read, and take the walk past it.

    It is smoothed first, where the candidate asks for that. At the end the block holds the dequantized weights.

    Raises:
        StageError: `NUMERICALLY_UNSTABLE` if a Hessian can't be factorized; as `smooth_block`.
    """
    tensors = {name: reader.read(name) for name in plan.blocks[index]}
    grids = {name: plan.precisions[name].grid(W.dtype) for name, W in tensors.items() if name in plan.precisions}
    way = smoothing_of(plan.spec)
    smoothed = smooth_block(plan, index, walk, tensors, grids=grids, way=way) if way else SmoothedBlock(tensors)
    work = _Work(plan, index, walk, smoothed, grids)
    if way:
        work.put(smoothed.tensors)
    quantized, notes = _ROUNDINGS[plan.spec.method](work)
    return QuantizedBlock(store(plan, smoothed.tensors, quantized), replace(notes, edges=smoothed.notes))


_Rounded = tuple[dict[str, Quantized], BlockNotes]


def _round_by_gptq(work: _Work) -> _Rounded:
    """Linears are taken in the order in which they are computed, each calibrated on what it reads from those before."""
    quantized: dict[str, Quantized] = {}
    factors: list[Factor] = []
    calibration = BlockCalibration(work.walk, work.index)
    for group in work.plan.architecture.input_groups:
        gram = calibration.gram(group[0])
        names = [work.plan.weight(work.index, linear) for linear in group]
        factors.append(_factorize(gram, work.walk.tokens, names[0]))
        found = _gptq({name: work.smoothed.tensors[name] for name in names}, factors[-1], work.grids[names[0]])
        work.put_rounded(found)
        quantized |= found
    calibration.advance()
    notes = BlockNotes(
        modules=len(quantized),
        max_damping=max(factor.damping for factor in factors),
        dead_columns=sum(factor.dead_columns for factor in factors),
    )
    return quantized, notes


def _round_by_awq(work: _Work) -> _Rounded:
    """To the nearest, in ranges that are cut where the output changes least, but for queries and keys."""
    quantized: dict[str, Quantized] = {}
    architecture = work.plan.architecture
    for group in architecture.input_groups:
        for linear in group:
            name = work.plan.weight(work.index, linear)
            W, grid = work.smoothed.tensors[name], work.grids[name]
            if linear in architecture.unclipped:
                quantized[name] = round_range(W, grid)
            else:
                quantized[name] = clipped(W, group_gram(work.smoothed.inputs[group[0]], grid.group_size), grid)
    work.put_rounded(quantized)
    work.walk.advance(work.index)
    return quantized, BlockNotes(len(quantized))


def _round_by_smoothquant(work: _Work) -> _Rounded:
    """To the nearest, with the scales of the least squared error of the weights."""
    quantized: dict[str, Quantized] = {}
    for name, grid in work.grids.items():
        W = work.smoothed.tensors[name]
        scale = searched_scales(W, grid)
        quantized[name] = Quantized(round_to_codes(W, scale, grid), scale)
    work.put_rounded(quantized)
    work.walk.advance(work.index)
    return quantized, BlockNotes(len(quantized))


_ROUNDINGS: Mapping[Method, Callable[[_Work], _Rounded]] = {
    Method.GPTQ: _round_by_gptq,
    Method.AWQ: _round_by_awq,
    Method.SMOOTHQUANT: _round_by_smoothquant,
}


def store(plan: Plan, tensors: Mapping[str, Tensor], quantized: Mapping[str, Quantized]) -> dict[str, Tensor]:
    """A block's tensors as they are written: the layout's for each quantized weight, the rest as they are."""
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in quantized:
            stored |= plan.layout.stored(name, quantized[name], plan.precisions[name])
        else:
            stored[name] = tensor
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


def _factorize(gram: Tensor, tokens: int, name: str) -> Factor:
    try:
        return factorize(hessian_finish(gram, tokens))
    except UnstableHessianError as error:
        raise StageError(Failure(reason=FailureReason.NUMERICALLY_UNSTABLE, subject=subject_of(name))) from error


def _gptq(weights: Mapping[str, Tensor], factor: Factor, grid: Grid) -> dict[str, Quantized]:
    """Quantize linears that read one input as one matrix, and part the rows again."""
    result = gptq(torch.cat([weight.float() for weight in weights.values()]), factor, grid)
    return dict(zip(weights, result.split([len(weight) for weight in weights.values()]), strict=True))
