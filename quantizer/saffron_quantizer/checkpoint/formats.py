"""How quantized linears are stored: compressed-tensors with only the keys that its version 0.17 knows.

W4A16 is `pack-quantized`: 4-bit codes, eight a 32-bit word along the input, the first in the lowest bits, each plus 8.
W8A8 is `int-quantized`: int8 codes as they are. Engines read the scales in the types given here.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from saffron_api.candidate import CandidateSpec, Scheme
from saffron_api.failures import Failure, FailureReason, StageError, subject_of

_BITS = 4
_CODES_PER_WORD = 32 // _BITS
_OFFSET = 1 << (_BITS - 1)


class StoredFormat(StrEnum):
    """Names of compressed-tensors' layouts."""

    PACK_QUANTIZED = "pack-quantized"
    INT_QUANTIZED = "int-quantized"


FORMAT_OF_SCHEME: dict[Scheme, StoredFormat] = {
    Scheme.W4A16: StoredFormat.PACK_QUANTIZED,
    Scheme.W8A8: StoredFormat.INT_QUANTIZED,
}

WEIGHT_BITS: dict[Scheme, int] = {Scheme.W4A16: 4, Scheme.W8A8: 8}


def pack(codes: Tensor) -> Tensor:
    """Pack 4-bit codes, [O, I] int8 in -8..7 -> [O, ceil(I/8)] int32."""
    rows, columns = codes.shape
    words = -(-columns // _CODES_PER_WORD)
    unsigned = torch.zeros(rows, words * _CODES_PER_WORD, dtype=torch.int32)
    unsigned[:, :columns] = codes.to(torch.int32) + _OFFSET
    shifts = torch.arange(0, 32, _BITS, dtype=torch.int32)
    # No two codes share a bit, so the sum is their union; the highest one may wrap into the sign bit.
    return (unsigned.reshape(rows, words, _CODES_PER_WORD) << shifts).sum(dim=2, dtype=torch.int32)


def unpack(packed: Tensor, columns: int) -> Tensor:
    """Undo `pack`, [O, ceil(I/8)] int32 -> [O, I] int8."""
    shifts = torch.arange(0, 32, _BITS, dtype=torch.int32)
    codes = (packed[:, :, None] >> shifts) & ((1 << _BITS) - 1)  # [O, words, 8]
    return (codes.reshape(packed.shape[0], -1)[:, :columns] - _OFFSET).to(torch.int8)


def stored_tensors(scheme: Scheme, weight: str, codes: Tensor, scale: Tensor) -> dict[str, Tensor]:
    """The tensors that stand for one quantized weight.

    Args:
        scheme: W4A16 or W8A8.
        weight: the weight's name, which ends in ".weight".
        codes: [O, I] int8.
        scale: [O, G], in the type it is stored in.
    """
    if FORMAT_OF_SCHEME[scheme] is StoredFormat.PACK_QUANTIZED:
        return {
            f"{weight}_packed": pack(codes),
            f"{weight}_scale": scale,
            f"{weight}_shape": torch.tensor(codes.shape, dtype=torch.int64),
        }
    return {weight: codes, f"{weight}_scale": scale}


def dequantize(scheme: Scheme, weight: str, read: Callable[[str], Tensor]) -> Tensor:
    """The weight that stored tensors stand for: code times scale, rounded to the scale's type as engines do.

    Args:
        scheme: W4A16 or W8A8.
        weight: the weight's name, which ends in ".weight".
        read: gives a stored tensor by name.

    Returns:
        [O, I] in the scale's type.

    Raises:
        StageError: `MODEL_MALFORMED` if the tensors' shapes do not fit each other.
    """
    scale = read(f"{weight}_scale")  # [O, G]
    if FORMAT_OF_SCHEME[scheme] is StoredFormat.PACK_QUANTIZED:
        rows, columns = read(f"{weight}_shape").tolist()
        codes = unpack(read(f"{weight}_packed"), columns)
    else:
        codes = read(weight)
        rows, columns = codes.shape
    if codes.shape != (rows, columns) or scale.shape[0] != rows or columns % scale.shape[1]:
        raise StageError(Failure(reason=FailureReason.MODEL_MALFORMED, subject=subject_of(weight)))
    values = codes.float().reshape(rows, scale.shape[1], -1) * scale.float()[:, :, None]
    return values.reshape(rows, columns).to(scale.dtype)


def scale_dtype(scheme: Scheme, model: torch.dtype) -> torch.dtype:
    """The type that engines hold a scheme's scales in: the model's for W4A16, float32 for W8A8."""
    return model if FORMAT_OF_SCHEME[scheme] is StoredFormat.PACK_QUANTIZED else torch.float32


def stored_bytes(scheme: Scheme, rows: int, columns: int, group_size: int | None, model: torch.dtype) -> int:
    """Bytes of the tensors that stand for one weight [rows, columns] stored in a model of a type."""
    groups = columns // group_size if group_size else 1
    scales = rows * groups * scale_dtype(scheme, model).itemsize
    if FORMAT_OF_SCHEME[scheme] is StoredFormat.PACK_QUANTIZED:
        words = rows * -(-columns // _CODES_PER_WORD)
        return words * torch.int32.itemsize + scales + 2 * torch.int64.itemsize
    return rows * columns + scales


def quantization_config(spec: CandidateSpec, head: str) -> dict[str, Any]:
    """config.json's `quantization_config` for a checkpoint."""
    stored = FORMAT_OF_SCHEME[spec.scheme]
    packed = stored is StoredFormat.PACK_QUANTIZED
    weights = {
        "num_bits": _BITS if packed else 8,
        "type": "int",
        "symmetric": True,
        "group_size": spec.effective_group_size,
        "strategy": "group" if packed else "channel",
        "block_structure": None,
        "dynamic": False,
        "actorder": None,
        "observer": "minmax",
        "observer_kwargs": {},
    }
    activations = {
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
    return {
        "quant_method": "compressed-tensors",
        "format": stored.value,
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "ignore": [head],
        "kv_cache_scheme": None,
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": weights,
                "input_activations": None if packed else activations,
                "output_activations": None,
            }
        },
        "version": "0.17.0",
    }


def scheme_of(config: Mapping[str, Any]) -> Scheme | None:
    """The scheme that a config.json says of the weights; None if they are not quantized.

    Raises:
        StageError: `ARCHITECTURE_UNSUPPORTED` if they are quantized in a way that we do not write.
    """
    found = config.get("quantization_config")
    if found is None:
        return None
    for scheme, stored in FORMAT_OF_SCHEME.items():
        for size in (32, 64, 128) if stored is StoredFormat.PACK_QUANTIZED else (None,):
            spec = CandidateSpec.model_validate({"method": "RTN", "scheme": scheme, "group_size": size})
            if found == quantization_config(spec, "lm_head"):
                return scheme
    method = found.get("quant_method") if isinstance(found, dict) else found
    subject = subject_of(f"quantization_config({method})")
    raise StageError(Failure(reason=FailureReason.ARCHITECTURE_UNSUPPORTED, subject=subject))
