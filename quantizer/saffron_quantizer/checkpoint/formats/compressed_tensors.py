"""compressed-tensors, with only the keys that its version 0.17 knows.

W4A16 and W8A16 are `pack-quantized`: codes of 4 or 8 bits in 32-bit words along the input. W8A8 is `int-quantized`:
int8 codes as they are. FP8 is `float-quantized`: e4m3 codes as they are. Engines hold the scales in the model's type
where only weights are rounded, else in float32.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from saffron_api.candidate import GROUP_SIZES, KvCache, Scheme
from saffron_quantizer.algorithms.quantized import Quantized
from saffron_quantizer.checkpoint.formats.format import Format, Read, Recognized, mismatch, not_ours
from saffron_quantizer.checkpoint.formats.packing import pack, unpack, words
from saffron_quantizer.precision import Activations, Precision

_METHOD = "compressed-tensors"
_VERSION = "0.17.0"


class _Layout(StrEnum):
    PACK_QUANTIZED = "pack-quantized"
    INT_QUANTIZED = "int-quantized"
    FLOAT_QUANTIZED = "float-quantized"


_LAYOUT_OF: dict[Scheme, _Layout] = {
    Scheme.W4A16: _Layout.PACK_QUANTIZED,
    Scheme.W8A16: _Layout.PACK_QUANTIZED,
    Scheme.W8A8: _Layout.INT_QUANTIZED,
    Scheme.FP8: _Layout.FLOAT_QUANTIZED,
    Scheme.FP8_STATIC: _Layout.FLOAT_QUANTIZED,
}


def _stored(weight: str, quantized: Quantized, precision: Precision) -> dict[str, Tensor]:
    if _LAYOUT_OF[precision.scheme] is _Layout.PACK_QUANTIZED:
        return {
            f"{weight}_packed": pack(quantized.codes, precision.bits),
            f"{weight}_scale": quantized.scale,
            f"{weight}_shape": torch.tensor(quantized.codes.shape, dtype=torch.int64),
        }
    return {weight: quantized.codes, f"{weight}_scale": quantized.scale}


def _restored(weight: str, precision: Precision, read: Read) -> Quantized:
    scale = read(f"{weight}_scale")  # [O, G]
    if _LAYOUT_OF[precision.scheme] is _Layout.PACK_QUANTIZED:
        rows, columns = read(f"{weight}_shape").tolist()
        codes = unpack(read(f"{weight}_packed"), columns, precision.bits)
    else:
        codes = read(weight)
        rows, columns = codes.shape
    if codes.shape != (rows, columns) or scale.shape != (rows, precision.groups(columns)):
        raise mismatch(weight)
    return Quantized(codes, scale)


def _scale_dtype(precision: Precision, model: torch.dtype) -> torch.dtype:
    return model if precision.activations is Activations.AS_THEY_ARE else torch.float32


def _stored_bytes(precision: Precision, rows: int, columns: int, model: torch.dtype) -> int:
    scales = rows * precision.groups(columns) * _scale_dtype(precision, model).itemsize
    if _LAYOUT_OF[precision.scheme] is _Layout.PACK_QUANTIZED:
        return rows * words(columns, precision.bits) * torch.int32.itemsize + scales + 2 * torch.int64.itemsize
    return rows * columns + scales


def _config(precisions: Mapping[str, Precision], unquantized: tuple[str, ...], kv_cache: KvCache) -> dict[str, Any]:
    (precision,) = set(precisions.values())
    return {
        "quant_method": _METHOD,
        "format": _LAYOUT_OF[precision.scheme].value,
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "ignore": list(unquantized),
        "kv_cache_scheme": _KV_CACHE_SCHEMES[kv_cache],
        "config_groups": {"group_0": _group(precision, ["Linear"])},
        "version": _VERSION,
    }


def _group(precision: Precision, targets: list[str]) -> dict[str, Any]:
    """One entry of `config_groups`."""
    return {
        "targets": targets,
        "weights": _arguments(
            num_bits=precision.bits,
            type="float" if precision.is_floating else "int",
            group_size=precision.group_size,
            strategy="channel" if precision.group_size is None else "group",
        ),
        "input_activations": _INPUT_ACTIVATIONS[precision.activations],
        "output_activations": None,
    }


def _arguments(**given: object) -> dict[str, Any]:
    """How some tensors are rounded, with every key that says it."""
    return {
        "num_bits": 8,
        "type": "int",
        "symmetric": True,
        "group_size": None,
        "strategy": "tensor",
        "block_structure": None,
        "dynamic": False,
        "actorder": None,
        "observer": "minmax",
        "observer_kwargs": {},
        **given,
    }


_INPUT_ACTIVATIONS: dict[Activations, dict[str, Any] | None] = {
    Activations.AS_THEY_ARE: None,
    Activations.INT8_PER_TOKEN: _arguments(strategy="token", dynamic=True, observer=None),
    Activations.FP8_PER_TOKEN: _arguments(type="float", strategy="token", dynamic=True, observer=None),
    Activations.FP8_PER_TENSOR: _arguments(type="float"),
}

_KV_CACHE_SCHEMES: dict[KvCache, dict[str, Any] | None] = {
    KvCache.NONE: None,
    KvCache.FP8: _arguments(type="float"),
}

_WRITTEN = (
    *(Precision(Scheme.W4A16, size) for size in GROUP_SIZES),
    *(Precision(scheme) for scheme in (Scheme.W8A16, Scheme.W8A8, Scheme.FP8, Scheme.FP8_STATIC)),
)
"""Every precision that we write in this format."""


def _recognize(config: Mapping[str, Any]) -> Recognized | None:
    """Read our own config back: groups in their order, the first whose target fits a module counts."""
    if config.get("quant_method") != _METHOD:
        return None
    try:
        groups = [_parsed(group) for group in config["config_groups"].values()]
        ignored = [str(pattern) for pattern in config["ignore"]]
        kv_cache = next(kind for kind, scheme in _KV_CACHE_SCHEMES.items() if scheme == config["kv_cache_scheme"])
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise not_ours(_METHOD) from error

    def assignment(module: str) -> Precision | None:
        if any(_fits(pattern, module) for pattern in ignored):
            return None
        return next((precision for targets, precision in groups if any(_fits(t, module) for t in targets)), None)

    return Recognized(assignment, kv_cache)


def _parsed(group: Mapping[str, Any]) -> tuple[list[str], Precision]:
    """The targets and the precision of a group. Raises `StopIteration` where we write none like it."""
    targets = list(group["targets"])
    return targets, next(precision for precision in _WRITTEN if _group(precision, targets) == group)


def _fits(target: str, module: str) -> bool:
    """Whether a target means a module: all linears, a regular expression from the name's start on, or the name."""
    if target.startswith("re:"):
        return re.match(target.removeprefix("re:"), module) is not None
    return target in {"Linear", module}


COMPRESSED_TENSORS = Format(
    stored=_stored,
    restored=_restored,
    scale_name=lambda weight: f"{weight}_scale",
    scale_dtype=_scale_dtype,
    stored_bytes=_stored_bytes,
    config=_config,
    recognize=_recognize,
)
