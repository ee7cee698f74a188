"""GPTQ's first layout, which GPTQModel calls `"checkpoint_format": "gptq"`: 4-bit codes, packed along the input.

Zero points are stored less one, a slip that the format has kept: symmetric codes, whose zero is 8, have 7 everywhere.
Only symmetric ones are written, since engines refuse others. Scales are float16 whatever the model's type.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from saffron_api.candidate import GROUP_SIZES, KvCache, Scheme
from saffron_kernels.dequantize import unpack
from saffron_kernels.quantize_pack import Layout, pack
from saffron_quantizer.algorithms.quantized import Quantized
from saffron_quantizer.checkpoint.formats.format import Format, Read, Recognized, mismatch, not_ours, with_merged
from saffron_quantizer.precision import Precision

_METHOD = "gptq"
_BITS = 4
_PER_WORD = 8
_SYMMETRIC_ZEROS = 0x77777777
_NEGATIVE = "-:"
"""Begins a rule of `dynamic` that leaves modules as they are."""


def _module(weight: str) -> str:
    return weight.removesuffix(".weight")


def _stored(weight: str, quantized: Quantized, precision: Precision) -> dict[str, Tensor]:
    if quantized.zero is not None:
        raise ValueError("GPTQ's layout is written without zero points")
    rows, columns = quantized.codes.shape
    groups = quantized.scale.shape[1]
    name = _module(weight)
    return {
        f"{name}.qweight": pack(quantized.codes, _BITS, Layout.GPTQ),  # [I / 8, O]
        f"{name}.qzeros": torch.full((groups, rows // _PER_WORD), _SYMMETRIC_ZEROS, dtype=torch.int32),
        f"{name}.scales": quantized.scale.T.contiguous(),  # [G, O]
        f"{name}.g_idx": _groups_of_columns(precision, columns),
    }


def _restored(weight: str, precision: Precision, read: Read) -> Quantized:
    name = _module(weight)
    packed, scale = read(f"{name}.qweight"), read(f"{name}.scales")
    zeros, groups_of_columns = read(f"{name}.qzeros"), read(f"{name}.g_idx")
    columns, rows = packed.shape[0] * _PER_WORD, packed.shape[1]
    groups = precision.groups(columns)
    fits = (scale.shape, zeros.shape) == ((groups, rows), (groups, rows // _PER_WORD))
    if not fits or not torch.equal(groups_of_columns, _groups_of_columns(precision, columns)):
        raise mismatch(weight)
    if not bool((zeros == _SYMMETRIC_ZEROS).all()):
        raise mismatch(weight)
    return Quantized(unpack(packed, (rows, columns), _BITS, Layout.GPTQ), scale.T.contiguous())


def _groups_of_columns(precision: Precision, columns: int) -> Tensor:
    """[I] int32: the group of each column."""
    return torch.arange(columns, dtype=torch.int32) // (precision.group_size or columns)


def _stored_bytes(precision: Precision, rows: int, columns: int, model: torch.dtype) -> int:
    del model  # the scales' type does not depend on it
    groups = precision.groups(columns)
    integers = columns // _PER_WORD * rows + groups * (rows // _PER_WORD) + columns
    return integers * torch.int32.itemsize + groups * rows * torch.float16.itemsize


def _config(precisions: Mapping[str, Precision], unquantized: tuple[str, ...], kv_cache: KvCache) -> dict[str, Any]:
    del kv_cache  # the API asks for none with this format
    (precision,) = set(precisions.values())
    # A rule is looked up by the name of a merged layer, never by those of its parts.
    rules: dict[str, Any] = {f"{_NEGATIVE}^{re.escape(name)}$": {} for name in with_merged(unquantized)}
    return {**_base(precision), "dynamic": rules}


def _base(precision: Precision) -> dict[str, Any]:
    """What of the config does not depend on the modules."""
    return {
        "quant_method": _METHOD,
        "bits": _BITS,
        "group_size": precision.group_size,
        "desc_act": False,
        "sym": True,
        "lm_head": False,
        "checkpoint_format": "gptq",
        "pack_dtype": "int32",
    }


def _recognize(config: Mapping[str, Any]) -> Recognized | None:
    if config.get("quant_method") != _METHOD:
        return None
    rules = config.get("dynamic")
    base = {key: value for key, value in config.items() if key != "dynamic"}
    precision = next((each for each in _WRITTEN if _base(each) == base), None)
    if precision is None or not isinstance(rules, dict):
        raise not_ours(_METHOD)
    if any(not rule.startswith(_NEGATIVE) or override for rule, override in rules.items()):
        raise not_ours(_METHOD)
    skipped = [rule.removeprefix(_NEGATIVE) for rule in rules]

    def assignment(module: str) -> Precision | None:
        return None if any(re.match(pattern, module) for pattern in skipped) else precision

    return Recognized(assignment)


_WRITTEN = tuple(Precision(Scheme.W4A16, size) for size in GROUP_SIZES)
"""Every precision that we write in this format."""

GPTQ_V1 = Format(
    stored=_stored,
    restored=_restored,
    scale_name=lambda weight: f"{_module(weight)}.scales",
    scale_dtype=lambda precision, model: torch.float16,  # noqa: ARG005 - always
    stored_bytes=_stored_bytes,
    config=_config,
    recognize=_recognize,
    row_multiple=_PER_WORD,
)
