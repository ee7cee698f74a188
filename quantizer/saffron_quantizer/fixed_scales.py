"""The scales of what is no weight and is rounded with one that was measured before.

Those are the inputs of linears in FP8Static, and keys and values in an FP8 cache. A scale maps the largest magnitude
that the calibration set shows to FP8's largest number.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.algorithms.fp8 import fp8_scale
from saffron_quantizer.models.ranges import advance_and_measure
from saffron_quantizer.models.stream import Walk
from saffron_quantizer.plan import Plan


def measure_fixed_scales(plan: Plan, index: int, walk: Walk) -> dict[str, Tensor]:
    """Run a loaded block, its weights quantized, over all batches and take the walk past it.

    Returns:
        The block's fixed scales by the names of their tensors. Linears that read the same input have the same.

    Raises:
        StageError: `RANGE_EMPTY` if nothing but zeros comes by somewhere; `ARCHITECTURE_UNSUPPORTED` if keys and values
            can't be reached.
    """
    inputs, kv_scales = plan.static_inputs(index), plan.kv_scales(index)
    ranges = advance_and_measure(walk, index, sorted(set(inputs.values())), keys_and_values=bool(kv_scales))
    reach = {name: ranges.inputs[linear] for name, linear in inputs.items()}
    reach |= dict(zip(kv_scales, ranges.keys_and_values, strict=True))
    return _scales(reach)


def _scales(reach: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for name, largest in reach.items():
        if not 0 < largest.item() < torch.inf:
            raise StageError(Failure(reason=FailureReason.RANGE_EMPTY, subject=subject_of(name)))
    return {name: fp8_scale(largest).reshape(1) for name, largest in reach.items()}
