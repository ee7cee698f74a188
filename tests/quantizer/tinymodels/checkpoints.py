"""Checkpoints of tiny models, made as any model's are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from saffron_api.candidate import CandidateSpec
from saffron_api.results import QuantizeResult
from saffron_quantizer.destination import Destination, OwnFolder
from saffron_quantizer.escalate import Selection
from saffron_quantizer.progress import ProgressSink, ignore
from saffron_quantizer.quantize import quantize
from saffron_quantizer.quantize_request import QuantizeRequest


def sequences(count: int = 6, length: int = 24) -> list[Tensor]:
    """Random token ids, of which each sequence has one less than the one before."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, 97, (length - number,), generator=generator) for number in range(count)]


def checkpoint_of(
    model: Path,
    spec: CandidateSpec,
    out: Path | Destination,
    tokens: Sequence[Tensor] | None = None,
    *,
    selection: Selection | None = None,
    progress: ProgressSink = ignore,
    **settings: Any,
) -> QuantizeResult:
    """Quantize a model into a folder, on `sequences()` by default; `settings` are others of `quantize`."""
    request = QuantizeRequest(model, spec, sequences() if tokens is None else tokens, selection)
    return quantize(request, OwnFolder(out) if isinstance(out, Path) else out, progress, **settings)


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, by their names."""
    return {name: tensor for shard in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(shard).items()}
