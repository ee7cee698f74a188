"""compressed-tensors, with only the keys that its version 0.17 knows.

W4A16 and W8A16 are `pack-quantized`: codes of 4 or 8 bits in 32-bit words along the input. W8A8 is `int-quantized`:
int8 codes as they are. FP8 is `float-quantized`: e4m3 codes as they are. Engines hold the scales in the model's type
where only weights are rounded, else in float32.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from saffron_api.candidate import GROUP_SIZES, KvCache, Scheme
from saffron_kernels.dequantize import unpack
from saffron_kernels.quantize_pack import Layout, pack, packed_shape
from saffron_quantizer.algorithms.quantized import Quantized
from saffron_quantizer.checkpoint.formats.format import (
    Format,
    Read,
    Recognized,
    mismatch,
    not_ours,
    with_merged,
)
from saffron_quantizer.precision import Activations, Precision

_METHOD = "compressed-tensors"
_VERSION = "0.17.0"


class _Layout(StrEnum):
    PACK_QUANTIZED = "pack-quantized"
    INT_QUANTIZED = "int-quantized"
    FLOAT_QUANTIZED = "float-quantized"


_MIXED = "mixed-precision"
"""What the whole is called where groups have different layouts."""

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
            f"{weight}_packed": pack(quantized.codes, precision.bits, Layout.COMPRESSED_TENSORS),
            f"{weight}_scale": quantized.scale,
            f"{weight}_shape": torch.tensor(quantized.codes.shape, dtype=torch.int64),
        }
    return {weight: quantized.codes, f"{weight}_scale": quantized.scale}


def _restored(weight: str, precision: Precision, read: Read) -> Quantized:
    scale = read(f"{weight}_scale")  # [O, G]
    if _LAYOUT_OF[precision.scheme] is _Layout.PACK_QUANTIZED:
        rows, columns = read(f"{weight}_shape").tolist()
        packed = read(f"{weight}_packed")
        if packed.shape != packed_shape(Layout.COMPRESSED_TENSORS, precision.bits, rows, columns):
            raise mismatch(weight)
        codes = unpack(packed, (rows, columns), precision.bits, Layout.COMPRESSED_TENSORS)
    else:
        codes = read(weight)
        rows, columns = codes.shape
    if scale.shape != (rows, precision.groups(columns)):
        raise mismatch(weight)
    return Quantized(codes, scale)


def _scale_dtype(precision: Precision, model: torch.dtype) -> torch.dtype:
    return model if precision.activations is Activations.AS_THEY_ARE else torch.float32


def _stored_bytes(precision: Precision, rows: int, columns: int, model: torch.dtype) -> int:
    scales = rows * precision.groups(columns) * _scale_dtype(precision, model).itemsize
    if _LAYOUT_OF[precision.scheme] is _Layout.PACK_QUANTIZED:
        words = math.prod(packed_shape(Layout.COMPRESSED_TENSORS, precision.bits, rows, columns))
        return words * torch.int32.itemsize + scales + 2 * torch.int64.itemsize
    return rows * columns + scales


def _config(precisions: Mapping[str, Precision], unquantized: tuple[str, ...], kv_cache: KvCache) -> dict[str, Any]:
    """One group for each precision; that of most modules comes last and has all linears, the others their names.

    Raises:
        ValueError: the config would not give the precisions back, which would be a bug here.
    """
    (common, _), *_ = Counter(precisions.values()).most_common()
    others = [precision for precision in dict.fromkeys(precisions.values()) if precision != common]
    targets = {other: _targets([name for name, each in precisions.items() if each == other]) for other in others}
    groups = [_group(precision, targets.get(precision, ["Linear"])) for precision in (*others, common)]
    layouts = [_LAYOUT_OF[precision.scheme] for precision in (*others, common)]
    if others:
        groups = [{**group, "format": layout.value} for group, layout in zip(groups, layouts, strict=True)]
    config = {
        "quant_method": _METHOD,
        "format": layouts[0].value if len(set(layouts)) == 1 else _MIXED,
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "ignore": list(unquantized),
        "kv_cache_scheme": _KV_CACHE_SCHEMES[kv_cache],
        "config_groups": {f"group_{number}": group for number, group in enumerate(groups)},
        "version": _VERSION,
    }
    _require_the_plan(config, precisions, unquantized)
    return config


def _require_the_plan(config: Mapping[str, Any], plan: Mapping[str, Precision], unquantized: tuple[str, ...]) -> None:
    """Refuse a config that would be read as something else than was written."""
    found = _recognize(config)
    wrong = [
        *(module for module, precision in plan.items() if found is None or found.assignment(module) != precision),
        *(module for module in unquantized if found is None or found.assignment(module) is not None),
    ]
    if wrong:
        raise ValueError(f"quantization_config says something else of {wrong[0]} than the plan")


def _targets(modules: Iterable[str]) -> list[str]:
    """Expressions that fit exactly these modules, and the layers that engines merge them into: one a parent.

    Not every version of vLLM looks for a merged layer's parts before it looks for its class, which is "Linear" to it.
    """
    leaves: dict[str, set[str]] = {}
    for module in with_merged(modules):
        parent, _, leaf = module.rpartition(".")
        leaves.setdefault(parent, set()).add(leaf)
    return [rf"re:^{re.escape(parent)}\.({'|'.join(map(re.escape, sorted(each)))})$" for parent, each in leaves.items()]


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
    plain = {key: value for key, value in group.items() if key != "format"}
    return targets, next(
        precision
        for precision in _WRITTEN
        if _group(precision, targets) == plain
        and group.get("format", _LAYOUT_OF[precision.scheme]) == _LAYOUT_OF[precision.scheme]
    )


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
