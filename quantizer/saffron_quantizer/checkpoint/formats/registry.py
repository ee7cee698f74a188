"""Every format that we write, and which of them a checkpoint is of."""

from collections.abc import Mapping
from typing import Any

from saffron_api.candidate import QuantizationFormat
from saffron_quantizer.checkpoint.formats.autoawq import AUTOAWQ
from saffron_quantizer.checkpoint.formats.compressed_tensors import COMPRESSED_TENSORS
from saffron_quantizer.checkpoint.formats.format import Format, Recognized, not_ours
from saffron_quantizer.checkpoint.formats.gptq_v1 import GPTQ_V1

FORMATS: dict[QuantizationFormat, Format] = {
    QuantizationFormat.COMPRESSED_TENSORS: COMPRESSED_TENSORS,
    QuantizationFormat.AUTOAWQ: AUTOAWQ,
    QuantizationFormat.GPTQ: GPTQ_V1,
}


def quantization_of(config: Mapping[str, Any]) -> tuple[Format, Recognized] | None:
    """The format of a config.json's model and what it says of it; None if the model is not quantized.

    Raises:
        StageError: `ARCHITECTURE_UNSUPPORTED` if it is quantized in a way that we do not write.
    """
    found = config.get("quantization_config")
    if found is None:
        return None
    if isinstance(found, dict):
        for layout in FORMATS.values():
            recognized = layout.recognize(found)
            if recognized is not None:
                return layout, recognized
    method = found.get("quant_method") if isinstance(found, dict) else found
    raise not_ours(str(method))
