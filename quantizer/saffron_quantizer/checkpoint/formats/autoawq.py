"""AutoAWQ's layout for its "gemm" kernel: 4-bit codes and zero points, packed along the output.

Zero points are always stored; where all are 8, the weights are symmetric. Scales are float16 whatever the model's type.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from saffron_api.candidate import GROUP_SIZES, KvCache, Scheme
from saffron_kernels.dequantize import unpack
from saffron_kernels.quantize_pack import Layout, pack
from saffron_quantizer.algorithms.quantized import Quantized
from saffron_quantizer.checkpoint.formats.format import Format, Read, Recognized, mismatch, not_ours
from saffron_quantizer.precision import Precision

_METHOD = "awq"
_BITS = 4
_PER_WORD = 8


def _module(weight: str) -> str:
    return weight.removesuffix(".weight")


def _stored(weight: str, quantized: Quantized, precision: Precision) -> dict[str, Tensor]:
    del precision  # four bits, and the scales say the rest
    codes, scale = quantized.codes, quantized.scale  # [O, I], [O, G]
    zero = torch.zeros(scale.shape, dtype=torch.int8) if quantized.zero is None else quantized.zero
    name = _module(weight)
    return {
        f"{name}.qweight": pack(codes, _BITS, Layout.AUTOAWQ),  # [I, O / 8]
        f"{name}.qzeros": pack(zero, _BITS, Layout.AUTOAWQ),  # [G, O / 8]
        f"{name}.scales": scale.T.contiguous(),  # [G, O]
    }


def _restored(weight: str, precision: Precision, read: Read) -> Quantized:
    name = _module(weight)
    packed, zeros, scale = read(f"{name}.qweight"), read(f"{name}.qzeros"), read(f"{name}.scales")
    columns, rows = packed.shape[0], packed.shape[1] * _PER_WORD
    groups = precision.groups(columns)
    if zeros.shape != (groups, rows // _PER_WORD) or scale.shape != (groups, rows):
        raise mismatch(weight)
    codes = unpack(packed, (rows, columns), _BITS, Layout.AUTOAWQ)
    zero = unpack(zeros, (rows, groups), _BITS, Layout.AUTOAWQ)
    return Quantized(codes, scale.T.contiguous(), zero if bool(zero.any()) else None)


def _stored_bytes(precision: Precision, rows: int, columns: int, model: torch.dtype) -> int:
    del model  # the scales' type does not depend on it
    groups = precision.groups(columns)
    return (columns + groups) * (rows // _PER_WORD) * torch.int32.itemsize + groups * rows * torch.float16.itemsize


def _config(precisions: Mapping[str, Precision], unquantized: tuple[str, ...], kv_cache: KvCache) -> dict[str, Any]:
    del kv_cache  # the API asks for none with this format
    (precision,) = set(precisions.values())
    return {**_base(precision), "modules_to_not_convert": list(unquantized)}


def _base(precision: Precision) -> dict[str, Any]:
    """What of the config does not depend on the modules."""
    return {
        "quant_method": _METHOD,
        "bits": _BITS,
        "group_size": precision.group_size,
        "zero_point": True,
        "version": "gemm",
    }


def _recognize(config: Mapping[str, Any]) -> Recognized | None:
    if config.get("quant_method") != _METHOD:
        return None
    skipped = config.get("modules_to_not_convert")
    base = {key: value for key, value in config.items() if key != "modules_to_not_convert"}
    precision = next((each for each in _WRITTEN if _base(each) == base), None)
    if precision is None or not isinstance(skipped, list):
        raise not_ours(_METHOD)

    def assignment(module: str) -> Precision | None:
        # Engines skip every module whose name contains one of these.
        return None if any(name in module for name in skipped) else precision

    return Recognized(assignment)


_WRITTEN = tuple(Precision(Scheme.W4A16, size) for size in GROUP_SIZES)
"""Every precision that we write in this format."""

AUTOAWQ = Format(
    stored=_stored,
    restored=_restored,
    scale_name=lambda weight: f"{_module(weight)}.scales",
    scale_dtype=lambda precision, model: torch.float16,  # noqa: ARG005 - always
    stored_bytes=_stored_bytes,
    config=_config,
    recognize=_recognize,
    row_multiple=_PER_WORD,
)
