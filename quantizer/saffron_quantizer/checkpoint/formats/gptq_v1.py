"""GPTQ's first layout, which GPTQModel calls `"checkpoint_format": "gptq"`: 4-bit codes, packed along the input.

Zero points are stored less one, a slip that the format has kept: symmetric codes, whose zero is 8, have 7 everywhere.
Only symmetric ones are written, since engines refuse others.
"""

import re
from typing import Any

import torch
from torch import Tensor

from saffron_kernels.dequantize import unpack
from saffron_kernels.quantize_pack import Layout, pack
from saffron_quantizer.algorithms.quantized import Quantized
from saffron_quantizer.checkpoint.formats.format import Read, mismatch, with_merged
from saffron_quantizer.checkpoint.formats.int4 import BITS, PER_WORD, Int4Config, Skips, int4_format, module_of
from saffron_quantizer.precision import Precision

_SYMMETRIC_ZEROS = 0x77777777
_NEGATIVE = "-:"
"""Begins a rule of `dynamic` that leaves modules as they are."""


def _stored(weight: str, quantized: Quantized, precision: Precision) -> dict[str, Tensor]:
    if quantized.zero is not None:
        raise ValueError("GPTQ's layout is written without zero points")
    rows, columns = quantized.codes.shape
    groups = quantized.scale.shape[1]
    name = module_of(weight)
    return {
        f"{name}.qweight": pack(quantized.codes, BITS, Layout.GPTQ),  # [I / 8, O]
        f"{name}.qzeros": torch.full((groups, rows // PER_WORD), _SYMMETRIC_ZEROS, dtype=torch.int32),
        f"{name}.scales": quantized.scale.T.contiguous(),  # [G, O]
        f"{name}.g_idx": _groups_of_columns(precision, columns),
    }


def _restored(weight: str, precision: Precision, read: Read) -> Quantized:
    name = module_of(weight)
    packed, scale = read(f"{name}.qweight"), read(f"{name}.scales")
    zeros, groups_of_columns = read(f"{name}.qzeros"), read(f"{name}.g_idx")
    columns, rows = packed.shape[0] * PER_WORD, packed.shape[1]
    groups = precision.groups(columns)
    fits = (scale.shape, zeros.shape) == ((groups, rows), (groups, rows // PER_WORD))
    if not fits or not torch.equal(groups_of_columns, _groups_of_columns(precision, columns)):
        raise mismatch(weight)
    if not bool((zeros == _SYMMETRIC_ZEROS).all()):
        raise mismatch(weight)
    return Quantized(unpack(packed, (rows, columns), BITS, Layout.GPTQ), scale.T.contiguous())


def _groups_of_columns(precision: Precision, columns: int) -> Tensor:
    """[I] int32: the group of each column."""
    return torch.arange(columns, dtype=torch.int32) // (precision.group_size or columns)


def _words(rows: int, columns: int, groups: int) -> int:
    return columns // PER_WORD * rows + groups * (rows // PER_WORD) + columns


def _rules(names: tuple[str, ...]) -> dict[str, Any]:
    # A rule is looked up by the name of a merged layer, never by those of its parts.
    return {f"{_NEGATIVE}^{re.escape(name)}$": {} for name in with_merged(names)}


def _skips(rules: Any) -> Skips | None:  # noqa: ANN401 - whatever a config has
    if not isinstance(rules, dict):
        return None
    if any(not rule.startswith(_NEGATIVE) or override for rule, override in rules.items()):
        return None
    patterns = [rule.removeprefix(_NEGATIVE) for rule in rules]
    return lambda module: any(re.match(pattern, module) for pattern in patterns)


GPTQ_V1 = int4_format(
    Int4Config(
        method="gptq",
        constants={
            "desc_act": False,
            "sym": True,
            "lm_head": False,
            "checkpoint_format": "gptq",
            "pack_dtype": "int32",
        },
        skipped="dynamic",
        write=_rules,
        read=_skips,
    ),
    stored=_stored,
    restored=_restored,
    words=_words,
)
