"""One block of a model, quantized: its stored tensors, and what was learnt on the way."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.algorithms.gptq import Factor, UnstableHessianError, factorize, gptq
from saffron_quantizer.algorithms.hessian import hessian_finish
from saffron_quantizer.algorithms.rtn import Quantized, rtn
from saffron_quantizer.checkpoint.formats import WEIGHT_BITS, dequantize, scale_dtype, stored_tensors
from saffron_quantizer.checkpoint.reader import CheckpointReader
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


def round_block(reader: CheckpointReader, plan: Plan, index: int) -> tuple[dict[str, Tensor], BlockNotes]:
    """A block's stored tensors by RTN."""
    stored: dict[str, Tensor] = {}
    modules = 0
    for name in plan.blocks[index]:
        tensor = reader.read(name)
        if name in plan.linears:
            stored |= _stored(plan, name, _rtn(plan, tensor))
            modules += 1
        else:
            stored[name] = tensor
    return stored, BlockNotes(modules)


def calibrate_block(
    reader: CheckpointReader, plan: Plan, index: int, walk: Walk
) -> tuple[dict[str, Tensor], BlockNotes]:
    """A loaded block's stored tensors by GPTQ; takes the walk past the block.

    Linears are taken in the order in which they are computed, and each is calibrated on what it reads once those before
    it are quantized. At the end the block holds the dequantized weights.

    Raises:
        StageError: `NUMERICALLY_UNSTABLE` if a Hessian can't be factorized.
    """
    prefix = plan.architecture.block(index)
    stored = {name: reader.read(name) for name in plan.blocks[index] if name not in plan.linears}
    factors: list[Factor] = []
    calibration = BlockCalibration(walk, index)
    for group in plan.architecture.input_groups:
        gram = calibration.gram(group[0])
        names = [f"{prefix}.{linear}.weight" for linear in group]
        factors.append(_factorize(gram, walk.tokens, names[0]))
        for name, quantized in _gptq(plan, names, [reader.read(name) for name in names], factors[-1]).items():
            stored |= _stored(plan, name, quantized)
        put_weights(walk.stream.blocks[index], plan, index, group, stored)
    calibration.advance()
    return stored, BlockNotes(
        modules=len(plan.architecture.linears),
        max_damping=max(factor.damping for factor in factors),
        dead_columns=sum(factor.dead_columns for factor in factors),
    )


def put_weights(block: nn.Module, plan: Plan, index: int, linears: Sequence[str], stored: Mapping[str, Tensor]) -> None:
    """Put the weights that stored tensors stand for into some of a loaded block's linears."""
    for linear in linears:
        module = block.get_submodule(linear)
        name = f"{plan.architecture.block(index)}.{linear}.weight"
        weight = dequantize(plan.spec.scheme, name, stored.__getitem__)
        dtype = module.get_parameter("weight").dtype
        module.weight = nn.Parameter(weight.to(dtype), requires_grad=False)


def _factorize(gram: Tensor, tokens: int, name: str) -> Factor:
    try:
        return factorize(hessian_finish(gram, tokens))
    except UnstableHessianError as error:
        raise StageError(Failure(reason=FailureReason.NUMERICALLY_UNSTABLE, subject=subject_of(name))) from error


def _gptq(plan: Plan, names: Sequence[str], weights: Sequence[Tensor], factor: Factor) -> dict[str, Quantized]:
    """Quantize linears that read one input as one matrix, and part the rows again."""
    result = gptq(
        torch.cat([weight.float() for weight in weights]),
        factor,
        bits=WEIGHT_BITS[plan.spec.scheme],
        group_size=plan.spec.effective_group_size,
        scale_dtype=scale_dtype(plan.spec.scheme, weights[0].dtype),
    )
    rows = [len(weight) for weight in weights]
    parts = zip(names, torch.split(result.codes, rows), torch.split(result.scale, rows), strict=True)
    return {name: Quantized(codes, scale) for name, codes, scale in parts}


def _rtn(plan: Plan, W: Tensor) -> Quantized:
    return rtn(
        W,
        bits=WEIGHT_BITS[plan.spec.scheme],
        group_size=plan.spec.effective_group_size,
        scale_dtype=scale_dtype(plan.spec.scheme, W.dtype),
    )


def _stored(plan: Plan, name: str, quantized: Quantized) -> dict[str, Tensor]:
    return stored_tensors(plan.spec.scheme, name, quantized.codes, quantized.scale)
