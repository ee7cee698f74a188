"""The Inspect stage: what a model folder holds and how large each candidate of it would be."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from saffron_api.candidate import GPU_CAPABILITY, CandidateSpec
from saffron_api.failures import FailureReason, StageError
from saffron_api.results import InspectResult, PredictedNeeds, PredictedSize
from saffron_api.spec import DEFAULT_MAX_TOKENS, DEFAULT_SAMPLES
from saffron_quantizer.checkpoint.identity import FolderGuard, model_digest
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.escalate import bytes_of_rounds
from saffron_quantizer.models.recognize import architecture_of
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.plan import make_plan, refuse_quantized
from saffron_quantizer.preflight import needs_of_lengths
from saffron_quantizer.tensor_parallel import tensor_parallel

_OF_CANDIDATE = frozenset(
    {
        FailureReason.SHAPE_UNSUPPORTED,
        FailureReason.ROWS_UNSUPPORTED,
        FailureReason.ARCHITECTURE_UNSUPPORTED,
        FailureReason.IGNORE_UNKNOWN,
        FailureReason.IGNORE_SPLITS,
        FailureReason.IGNORE_ALL,
        FailureReason.ESCALATION_TOO_TIGHT,
    }
)
"""What keeps a candidate from being made of a model and says nothing of other candidates."""
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Calibration:
    """What candidates will be calibrated on, at most.

    Attributes:
        samples: sequences.
        max_tokens: of each.
    """

    samples: int = DEFAULT_SAMPLES
    max_tokens: int = DEFAULT_MAX_TOKENS


def inspect_model(
    folder: Path,
    candidates: Sequence[tuple[str, CandidateSpec]],
    *,
    hash_cache: Path | None,
    calibration: Calibration = Calibration(),
) -> InspectResult:
    """Check a model folder, hash it, and predict the bytes of each candidate, exactly, and what making it needs.

    Args:
        folder: the model.
        candidates: names and what to make.
        hash_cache: JSON file that remembers the hashes of its files.
        calibration: what those candidates that read data will read.

    Raises:
        StageError: the model can't be worked with.
    """
    reader = CheckpointReader(folder)
    architecture = architecture_of(reader)
    refuse_quantized(reader)
    stream = ModelStream.open(folder)  # refuses a folder that lacks a tensor
    predicted = [_predict(reader, name, spec, calibration, stream) for name, spec in candidates]
    with FolderGuard(folder):
        digest = model_digest(folder, hash_cache=hash_cache)
    return InspectResult(
        model_digest=digest,
        architecture=architecture.name,
        parameters=reader.parameters,
        bytes=reader.bytes,
        predicted=predicted,
        isa=processor(torch.backends.cpu.get_cpu_capability(), _CPUINFO.read_text() if _CPUINFO.exists() else ""),
    )


def _predict(
    reader: CheckpointReader, name: str, spec: CandidateSpec, calibration: Calibration, stream: ModelStream
) -> PredictedSize:
    """Predict one candidate's bytes. One that can't be made of this model keeps no other from being made."""
    try:
        plan = make_plan(reader, spec)
    except StageError as error:
        if error.failure.reason not in _OF_CANDIDATE:
            raise
        return PredictedSize(name=name, failure=error.failure)
    lengths = [calibration.max_tokens] * calibration.samples if spec.needs_calibration else []
    need = needs_of_lengths(reader, plan, lengths, stream.dtype, stream.kept)
    disk = need.checkpoint if spec.escalate is None else bytes_of_rounds(need, reader, plan, gates=None)
    return PredictedSize(
        name=name,
        bytes=plan.bytes,
        gpu_capability=GPU_CAPABILITY[spec.scheme],
        tensor_parallel=tensor_parallel(reader, plan),
        needs=PredictedNeeds(memory=need.memory, activations=need.activations, disk=disk),
    )


def processor(capability: str, cpuinfo: str) -> str:
    """Name a processor by what decides how engines multiply integers on it.

    Args:
        capability: in torch's words.
        cpuinfo: the text of /proc/cpuinfo; empty where there is none.

    Returns:
        The capability; `AVX512_VNNI` where it can add int8 products without saturation; `AMX` where it has tiles, too.
    """
    listed = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    flags = frozenset(listed.partition(":")[2].split())
    if capability != "AVX512":
        return capability
    if "amx_tile" in flags:
        return "AMX"
    return "AVX512_VNNI" if "avx512_vnni" in flags else capability
