"""One block of a model, quantized: its stored tensors, and what was learnt on the way."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from torch import Tensor, nn

from saffron_api.candidate import Method, ScaleSearch
from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.algorithms.gptq import UnstableHessianError
from saffron_quantizer.algorithms.hessian import hessian_finish
from saffron_quantizer.algorithms.quantized import Grid, Quantized
from saffron_quantizer.checkpoint.exactness import stored_exactly
from saffron_quantizer.fixed_scales import measure_fixed_scales
from saffron_quantizer.models.calibration import BlockCalibration
from saffron_quantizer.models.stream import Walk
from saffron_quantizer.plan import Plan
from saffron_quantizer.round_linears import LinearNote, RoundedLinear, fp8_linears, gptq_linears, rtn_linears


@dataclass(frozen=True)
class BlockNotes:
    """What was learnt while a block was quantized.

    Attributes:
        modules: linears quantized.
        max_damping: the largest damping that a Hessian needed, as a share of its mean diagonal.
        dead_columns: inputs that were 0 in every token, counted once for linears that share them.
        linears: what was learnt of each linear, in the order in which they are computed.
    """

    modules: int
    max_damping: float = 0.0
    dead_columns: int = 0
    linears: tuple[LinearNote, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """From what `to_json` gave."""
        return cls(**{**told, "linears": tuple(LinearNote(**linear) for linear in told["linears"])})


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
        (found,) = _to_nearest(plan, index, {linear: tensors.pop(name)}, importance=None)
        stored |= store(plan, {name: found.quantized})
        notes.append(found.note)
    return QuantizedBlock(stored | tensors, BlockNotes(len(notes), linears=tuple(notes)))


def calibrate_block(plan: Plan, index: int, walk: Walk, tensors: dict[str, Tensor]) -> QuantizedBlock:
    """Quantize a loaded block by what its linears read, and take the walk past it.

    Linears are taken in the order in which they are computed, and each is calibrated on what it reads once those before
    it are quantized. At the end the block holds the dequantized weights.

    Args:
        plan: what becomes of each tensor.
        index: of the block.
        walk: stands before it.
        tensors: the block's, by name. Each is taken out once it is quantized, so that memory holds it no longer.

    Raises:
        StageError: `NUMERICALLY_UNSTABLE` if a Hessian can't be factorized, `RANGE_EMPTY` if a scale can't be measured.
    """
    block = walk.stream.blocks[index]
    stored: dict[str, Tensor] = {}
    groups: list[tuple[LinearNote, ...]] = []
    calibration = BlockCalibration(walk, index)
    for group in plan.architecture.input_groups:
        rounded = _round_group(plan, index, group, tensors, calibration)
        found = {plan.weight(index, each.note.name): each.quantized for each in rounded}
        put_weights(block, plan, index, {name: each.dequantize() for name, each in found.items()})
        stored |= store(plan, found)
        for name in found:
            del tensors[name]
        groups.append(tuple(each.note for each in rounded))
        del rounded, found
    if plan.fixed_scales(index):
        stored |= measure_fixed_scales(plan, index, walk)
    else:
        calibration.advance()
    notes = BlockNotes(
        modules=sum(map(len, groups)),
        max_damping=max(group[0].damping or 0.0 for group in groups),
        dead_columns=sum(group[0].dead_columns or 0 for group in groups),
        linears=tuple(note for group in groups for note in group),
    )
    return QuantizedBlock(stored | tensors, notes)


def _round_group(
    plan: Plan, index: int, group: Sequence[str], tensors: Mapping[str, Tensor], calibration: BlockCalibration
) -> list[RoundedLinear]:
    """Quantize linears that read one input."""
    weights = {linear: tensors[plan.weight(index, linear)] for linear in group}
    spec = plan.spec
    if spec.method is Method.RTN:
        by_activity = spec.scale_search is ScaleSearch.HESSIAN
        return _to_nearest(plan, index, weights, calibration.squares(group[0]) if by_activity else None)
    H = hessian_finish(calibration.gram(group[0]), calibration.tokens)
    try:
        return gptq_linears(weights, H, _grid(plan, index, weights), spec.act_order, spec.scale_search)
    except UnstableHessianError as error:
        subject = subject_of(plan.weight(index, group[0]))
        raise StageError(Failure(reason=FailureReason.NUMERICALLY_UNSTABLE, subject=subject)) from error


def _to_nearest(
    plan: Plan, index: int, weights: Mapping[str, Tensor], importance: Tensor | None
) -> list[RoundedLinear]:
    """Round linears of one precision, by their names inside the block, each weight for itself."""
    if all(plan.precisions[plan.weight(index, linear)].is_floating for linear in weights):
        return fp8_linears(weights)
    return rtn_linears(weights, _grid(plan, index, weights), plan.spec.scale_search, importance=importance)


def _grid(plan: Plan, index: int, weights: Mapping[str, Tensor]) -> Grid:
    """What linears of one precision are rounded to."""
    (grid,) = {plan.grid(plan.weight(index, linear), W.dtype) for linear, W in weights.items()}
    return grid


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
    """Put tensors, by their names in the checkpoint, into a loaded block, in the type that it is computed in."""
    prefix = f"{plan.architecture.block(index)}."
    own = dict(block.named_parameters())
    state = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    block.load_state_dict(
        {name: tensor.to(own[name].dtype) for name, tensor in state.items() if name in own}, strict=False, assign=True
    )
    block.requires_grad_(requires_grad=False)
