"""Checkpoints of tiny models, made as any model's are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from saffron_api.candidate import CandidateSpec
from saffron_api.results import QuantizeResult
from saffron_quantizer.progress import ignore
from saffron_quantizer.quantize import quantize


def sequences(count: int = 6, length: int = 24) -> list[Tensor]:
    """Random token ids, of which each sequence has one less than the one before."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, 97, (length - number,), generator=generator) for number in range(count)]


def checkpoint_of(
    model: Path, spec: CandidateSpec, out: Path | None, tokens: Sequence[Tensor] | None = None, **changes: Any
) -> QuantizeResult:
    """Quantize a model into a folder, on `sequences()` by default; `changes` are other arguments of `quantize`."""
    usual = {"store": None, "work": None, "model_digest": None, "data_digest": None, "progress": ignore}
    calibration = sequences() if tokens is None else tokens
    return quantize(
        model=model,
        sequences=calibration if spec.needs_calibration else None,
        spec=spec,
        out=out,
        **{**usual, **changes},
    )


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, by their names."""
    return {name: tensor for shard in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(shard).items()}
