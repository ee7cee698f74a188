"""What a format is: five functions, the same for each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saffron_quantizer.algorithms.quantized import Quantized
from saffron_quantizer.precision import Precision

Read = Callable[[str], Tensor]
"""Gives a stored tensor by name."""

Assignment = Callable[[str], Precision | None]
"""Gives the precision of a module by its full name, or None where it is not quantized."""


@dataclass(frozen=True)
class Format:
    """One layout of quantized checkpoints.

    Attributes:
        stored: (weight name, quantized weight, precision) -> the tensors that stand for it.
        restored: (weight name, precision, read) -> the quantized weight. Raises `StageError`, `MODEL_MALFORMED`, if the
            tensors' shapes do not fit each other.
        stored_bytes: (precision, rows, columns, the model's type) -> bytes of the tensors that stand for one weight.
        config: (the precision of each quantized module by name, names of the linear modules that are not quantized) ->
            config.json's `quantization_config`.
        recognize: `quantization_config` -> the assignment that it says, or None if it is not of this format. Raises
            `StageError`, `ARCHITECTURE_UNSUPPORTED`, if it is, and of a kind that we do not write.
    """

    stored: Callable[[str, Quantized, Precision], dict[str, Tensor]]
    restored: Callable[[str, Precision, Read], Quantized]
    stored_bytes: Callable[[Precision, int, int, torch.dtype], int]
    config: Callable[[Mapping[str, Precision], tuple[str, ...]], dict[str, Any]]
    recognize: Callable[[Mapping[str, Any]], Assignment | None]
