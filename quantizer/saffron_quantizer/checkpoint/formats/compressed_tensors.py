"""compressed-tensors, with only the keys that its version 0.17 knows.

W4A16 is `pack-quantized`: 4-bit codes, eight a 32-bit word along the input. W8A8 is `int-quantized`: int8 codes as they
are. Engines read the scales in the type that `Precision.scale_dtype` gives.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from saffron_api.candidate import GROUP_SIZES, Scheme
from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_quantizer.algorithms.quantized import Quantized
from saffron_quantizer.checkpoint.formats.format import Assignment, Format, Read
from saffron_quantizer.checkpoint.formats.packing import pack, unpack, words
from saffron_quantizer.precision import Activations, Precision

_METHOD = "compressed-tensors"
_VERSION = "0.17.0"


class _Layout(StrEnum):
    PACK_QUANTIZED = "pack-quantized"
    INT_QUANTIZED = "int-quantized"


_LAYOUT_OF: dict[Scheme, _Layout] = {
    Scheme.W4A16: _Layout.PACK_QUANTIZED,
    Scheme.W8A8: _Layout.INT_QUANTIZED,
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
        raise StageError(Failure(reason=FailureReason.MODEL_MALFORMED, subject=subject_of(weight)))
    return Quantized(codes, scale)


def _stored_bytes(precision: Precision, rows: int, columns: int, model: torch.dtype) -> int:
    scales = rows * precision.groups(columns) * precision.scale_dtype(model).itemsize
    if _LAYOUT_OF[precision.scheme] is _Layout.PACK_QUANTIZED:
        return rows * words(columns, precision.bits) * torch.int32.itemsize + scales + 2 * torch.int64.itemsize
    return rows * columns + scales


def _config(precisions: Mapping[str, Precision], unquantized: tuple[str, ...]) -> dict[str, Any]:
    (precision,) = set(precisions.values())
    return {
        "quant_method": _METHOD,
        "format": _LAYOUT_OF[precision.scheme].value,
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "ignore": list(unquantized),
        "kv_cache_scheme": None,
        "config_groups": {"group_0": _group(precision, ["Linear"])},
        "version": _VERSION,
    }


def _group(precision: Precision, targets: list[str]) -> dict[str, Any]:
    """One entry of `config_groups`."""
    rounded = precision.activations is not Activations.AS_THEY_ARE
    return {
        "targets": targets,
        "weights": {
            "num_bits": precision.bits,
            "type": "int",
            "symmetric": True,
            "group_size": precision.group_size,
            "strategy": "channel" if precision.group_size is None else "group",
            "block_structure": None,
            "dynamic": False,
            "actorder": None,
            "observer": "minmax",
            "observer_kwargs": {},
        },
        "input_activations": _INT8_PER_TOKEN if rounded else None,
        "output_activations": None,
    }


_INT8_PER_TOKEN: dict[str, Any] = {
    "num_bits": 8,
    "type": "int",
    "symmetric": True,
    "group_size": None,
    "strategy": "token",
    "block_structure": None,
    "dynamic": True,
    "actorder": None,
    "observer": None,
    "observer_kwargs": {},
}

_WRITTEN = (*(Precision(Scheme.W4A16, size) for size in GROUP_SIZES), Precision(Scheme.W8A8))
"""Every precision that we write in this format."""


def _recognize(config: Mapping[str, Any]) -> Assignment | None:
    """Read our own config back: groups in their order, the first whose target fits a module counts."""
    if config.get("quant_method") != _METHOD:
        return None
    try:
        groups = [_parsed(group) for group in config["config_groups"].values()]
        ignored = [str(pattern) for pattern in config["ignore"]]
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        subject = subject_of(f"quantization_config({_METHOD})")
        raise StageError(Failure(reason=FailureReason.ARCHITECTURE_UNSUPPORTED, subject=subject)) from error

    def assignment(module: str) -> Precision | None:
        if any(_fits(pattern, module) for pattern in ignored):
            return None
        return next((precision for targets, precision in groups if any(_fits(t, module) for t in targets)), None)

    return assignment


def _parsed(group: Mapping[str, Any]) -> tuple[list[str], Precision]:
    """The targets and the precision of a group. Raises `StopIteration` where we write none like it."""
    targets = list(group["targets"])
    return targets, next(precision for precision in _WRITTEN if _group(precision, targets) == group)


def _fits(target: str, module: str) -> bool:
    """Whether a target means a module: all linears, a regular expression from the name's start on, or the name."""
    if target.startswith("re:"):
        return re.match(target.removeprefix("re:"), module) is not None
    return target in {"Linear", module}


COMPRESSED_TENSORS = Format(_stored, _restored, _stored_bytes, _config, _recognize)
