"""Every format that we write, and which of them a checkpoint is of."""

from collections.abc import Mapping
from typing import Any

from saffron_api.candidate import QuantizationFormat
from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.checkpoint.formats.compressed_tensors import COMPRESSED_TENSORS
from saffron_quantizer.checkpoint.formats.format import Assignment, Format

FORMATS: dict[QuantizationFormat, Format] = {QuantizationFormat.COMPRESSED_TENSORS: COMPRESSED_TENSORS}


def quantization_of(config: Mapping[str, Any]) -> tuple[Format, Assignment] | None:
    """The format and the precisions that a config.json says; None if the model is not quantized.

    Raises:
        StageError: `ARCHITECTURE_UNSUPPORTED` if it is quantized in a way that we do not write.
    """
    found = config.get("quantization_config")
    if found is None:
        return None
    if isinstance(found, dict):
        for layout in FORMATS.values():
            assignment = layout.recognize(found)
            if assignment is not None:
                return layout, assignment
    method = found.get("quant_method") if isinstance(found, dict) else found
    subject = subject_of(f"quantization_config({method})")
    raise StageError(Failure(reason=FailureReason.ARCHITECTURE_UNSUPPORTED, subject=subject))
