"""One block of a model, quantized: its stored tensors, and what was learnt on the way."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saffron_api.candidate import Method
from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.algorithms.fp8 import fp8
from saffron_quantizer.algorithms.gptq import Factor, UnstableHessianError, factorize, gptq
from saffron_quantizer.algorithms.hessian import hessian_finish
from saffron_quantizer.algorithms.quantized import Quantized
from saffron_quantizer.algorithms.rtn import rtn
from saffron_quantizer.checkpoint.exactness import stored_exactly
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.fixed_scales import measure_fixed_scales
from saffron_quantizer.models.calibration import BlockCalibration
from saffron_quantizer.models.stream import Walk
from saffron_quantizer.plan import Plan


@dataclass(frozen=True)
class BlockNotes:
    """What was learnt while a block was quantized.

    Attributes:
        modules: linears quantized.
        max_damping: the largest damping that a Hessian needed, as a share of its mean diagonal.
        dead_columns: inputs that were 0 in every token, counted once for linears that share them.
    """

    modules: int
    max_damping: float = 0.0
    dead_columns: int = 0

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


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
    quantized = {name: _rounded(plan, name, W) for name, W in tensors.items() if name in plan.precisions}
    return QuantizedBlock(store(plan, tensors, quantized), BlockNotes(len(quantized)))


def calibrate_block(reader: CheckpointReader, plan: Plan, index: int, walk: Walk) -> QuantizedBlock:
    """Quantize a loaded block, and take the walk past it.

    Linears are taken in the order in which they are computed, and each is calibrated on what it reads once those before
    it are quantized. At the end the block holds the dequantized weights.

    Raises:
        StageError: `NUMERICALLY_UNSTABLE` if a Hessian can't be factorized, `RANGE_EMPTY` if a scale can't be measured.
    """
    block = walk.stream.blocks[index]
    tensors = {name: reader.read(name) for name in plan.blocks[index]}
    quantized: dict[str, Quantized] = {}
    factors: list[Factor] = []
    calibration = BlockCalibration(walk, index)
    for group in plan.architecture.input_groups:
        names = [plan.weight(index, linear) for linear in group]
        if names[0] not in plan.precisions:
            continue  # ignored, and so are all of its group
        if plan.spec.method is Method.RTN:
            found = {name: _rounded(plan, name, tensors[name]) for name in names}
        else:
            factors.append(_factorize(calibration.gram(group[0]), walk.tokens, names[0]))
            found = _gptq(plan, {name: tensors[name] for name in names}, factors[-1])
        put_weights(block, plan, index, {name: each.dequantize() for name, each in found.items()})
        quantized |= found
    scales: dict[str, Tensor] = {}
    if plan.fixed_scales(index):
        scales = measure_fixed_scales(plan, index, walk)
    else:
        calibration.advance()
    notes = BlockNotes(
        modules=len(quantized),
        max_damping=max((factor.damping for factor in factors), default=0.0),
        dead_columns=sum(factor.dead_columns for factor in factors),
    )
    return QuantizedBlock(store(plan, tensors, quantized) | scales, notes)


def _rounded(plan: Plan, name: str, W: Tensor) -> Quantized:
    """A weight rounded to nearest."""
    return fp8(W) if plan.precisions[name].is_floating else rtn(W, plan.grid(name, W.dtype))


def store(plan: Plan, tensors: Mapping[str, Tensor], quantized: Mapping[str, Quantized]) -> dict[str, Tensor]:
    """A block's tensors as they are written: the layout's for each quantized weight, the rest as they are."""
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in quantized:
            stored |= stored_exactly(plan.layout, name, quantized[name], plan.precisions[name])
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


def _gptq(plan: Plan, weights: Mapping[str, Tensor], factor: Factor) -> dict[str, Quantized]:
    """Quantize linears that read one input as one matrix, and part the rows again."""
    W = torch.cat([weight.float() for weight in weights.values()])
    (grid,) = {plan.grid(name, weight.dtype) for name, weight in weights.items()}
    result = gptq(W, factor, grid)
    return dict(zip(weights, result.split([len(weight) for weight in weights.values()]), strict=True))
