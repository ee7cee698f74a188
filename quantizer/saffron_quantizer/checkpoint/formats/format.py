"""What a format is: seven functions, the same for each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saffron_api.candidate import KvCache
from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.algorithms.quantized import Quantized
from saffron_quantizer.precision import Precision

Read = Callable[[str], Tensor]
"""Gives a stored tensor by name."""

Assignment = Callable[[str], Precision | None]
"""Gives the precision of a module by its full name, or None where it is not quantized."""


@dataclass(frozen=True)
class Recognized:
    """What a `quantization_config` of ours says.

    Attributes:
        assignment: the precision of each module.
        kv_cache: how keys and values are kept.
    """

    assignment: Assignment
    kv_cache: KvCache = KvCache.NONE


@dataclass(frozen=True)
class Format:
    """One layout of quantized checkpoints.

    Attributes:
        stored: (weight name, quantized weight, precision) -> the tensors that stand for it.
        restored: (weight name, precision, read) -> the quantized weight. Raises `StageError`, `MODEL_MALFORMED`, if the
            tensors' shapes do not fit each other.
        scale_name: weight name -> the name of the tensor with its scales, which is there just if it is quantized.
        scale_dtype: (precision, the model's type) -> the type of the scales.
        stored_bytes: (precision, rows, columns, the model's type) -> bytes of the tensors that stand for one weight.
        config: (the precision of each quantized module by name, names of the linear modules that are not quantized, how
            keys and values are kept) -> config.json's `quantization_config`.
        recognize: `quantization_config` -> what it says, or None if it is not of this format. Raises `StageError`,
            `ARCHITECTURE_UNSUPPORTED`, if it is, and of a kind that we do not write.
        row_multiple: what must divide a weight's rows.
    """

    stored: Callable[[str, Quantized, Precision], dict[str, Tensor]]
    restored: Callable[[str, Precision, Read], Quantized]
    scale_name: Callable[[str], str]
    scale_dtype: Callable[[Precision, torch.dtype], torch.dtype]
    stored_bytes: Callable[[Precision, int, int, torch.dtype], int]
    config: Callable[[Mapping[str, Precision], tuple[str, ...], KvCache], dict[str, Any]]
    recognize: Callable[[Mapping[str, Any]], Recognized | None]
    row_multiple: int = 1


def not_ours(method: str) -> StageError:
    """The error for a config of a format that we write, of a kind that we do not."""
    subject = subject_of(f"quantization_config({method})")
    return StageError(Failure(reason=FailureReason.ARCHITECTURE_UNSUPPORTED, subject=subject))


def mismatch(weight: str) -> StageError:
    """The error for a quantized weight whose tensors do not fit each other."""
    return StageError(Failure(reason=FailureReason.MODEL_MALFORMED, subject=subject_of(weight)))
