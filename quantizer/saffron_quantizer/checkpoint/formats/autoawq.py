"""AutoAWQ's layout for its "gemm" kernel: 4-bit codes and zero points, packed along the output.

Zero points are always stored; where all are 8, the weights are symmetric.
"""

from typing import Any

import torch
from torch import Tensor

from saffron_kernels.dequantize import unpack
from saffron_kernels.quantize_pack import Layout, pack
from saffron_quantizer.algorithms.quantized import Quantized
from saffron_quantizer.checkpoint.formats.format import Read, mismatch
from saffron_quantizer.checkpoint.formats.int4 import BITS, PER_WORD, Int4Config, Skips, int4_format, module_of
from saffron_quantizer.precision import Precision


def _stored(weight: str, quantized: Quantized, precision: Precision) -> dict[str, Tensor]:
    del precision  # four bits, and the scales say the rest
    codes, scale = quantized.codes, quantized.scale  # [O, I], [O, G]
    zero = torch.zeros(scale.shape, dtype=torch.int8, device=scale.device) if quantized.zero is None else quantized.zero
    name = module_of(weight)
    return {
        f"{name}.qweight": pack(codes, BITS, Layout.AUTOAWQ),  # [I, O / 8]
        f"{name}.qzeros": pack(zero, BITS, Layout.AUTOAWQ),  # [G, O / 8]
        f"{name}.scales": scale.T.contiguous(),  # [G, O]
    }


def _restored(weight: str, precision: Precision, read: Read) -> Quantized:
    name = module_of(weight)
    packed, zeros, scale = read(f"{name}.qweight"), read(f"{name}.qzeros"), read(f"{name}.scales")
    columns, rows = packed.shape[0], packed.shape[1] * PER_WORD
    groups = precision.groups(columns)
    if zeros.shape != (groups, rows // PER_WORD) or scale.shape != (groups, rows):
        raise mismatch(weight)
    codes = unpack(packed, (rows, columns), BITS, Layout.AUTOAWQ)
    zero = unpack(zeros, (rows, groups), BITS, Layout.AUTOAWQ)
    return Quantized(codes, scale.T.contiguous(), zero if bool(zero.any()) else None)


def _skips(names: Any) -> Skips | None:  # noqa: ANN401 - whatever a config has
    if not isinstance(names, list):
        return None
    # Engines skip every module whose name contains one of these.
    return lambda module: any(name in module for name in names)


AUTOAWQ = int4_format(
    Int4Config(
        method="awq",
        constants={"zero_point": True, "version": "gemm"},
        skipped="modules_to_not_convert",
        write=list,
        read=_skips,
    ),
    stored=_stored,
    restored=_restored,
    words=lambda rows, columns, groups: (columns + groups) * (rows // PER_WORD),
)
