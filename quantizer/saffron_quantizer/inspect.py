"""The Inspect stage: what a model folder holds and how large each candidate of it would be."""

from collections.abc import Sequence
from pathlib import Path

import torch

from saffron_api.candidate import CandidateSpec
from saffron_api.results import InspectResult, PredictedSize
from saffron_quantizer.checkpoint.identity import FolderGuard, model_digest
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.models.skeleton import architecture_of
from saffron_quantizer.plan import make_plan


def inspect_model(
    folder: Path, candidates: Sequence[tuple[str, CandidateSpec]], *, hash_cache: Path | None
) -> InspectResult:
    """Check a model folder, hash it, and predict the bytes of each candidate, exactly.

    Args:
        folder: the model.
        candidates: names and what to make.
        hash_cache: JSON file that remembers the hashes of its files.

    Raises:
        StageError: the model or a candidate of it can't be worked with.
    """
    reader = CheckpointReader(folder)
    architecture = architecture_of(reader.config)
    predicted = [PredictedSize(name=name, bytes=make_plan(reader, spec).bytes) for name, spec in candidates]
    with FolderGuard(folder):
        digest = model_digest(folder, hash_cache=hash_cache)
    return InspectResult(
        model_digest=digest,
        architecture=architecture.name,
        parameters=reader.parameters,
        bytes=reader.bytes,
        predicted=predicted,
        isa=torch.backends.cpu.get_cpu_capability(),
    )
