"""The Baseline stage: the original's final hidden states on the gate set, computed once for all candidates."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_api.results import BaselineResult
from saffron_quantizer.artefact import finish, open_artefact
from saffron_quantizer.atomic import PRIVATE_FILE, private_folder
from saffron_quantizer.checkpoint.manifest import read_manifest
from saffron_quantizer.checkpoint.tensor_file import read_entry, read_header
from saffron_quantizer.checkpoint.writer import write_tensors
from saffron_quantizer.data.sequences import TokenSequence, sequences_digest
from saffron_quantizer.evaluation.divergence import Scored, negative_log_likelihood
from saffron_quantizer.evaluation.figures import perplexity
from saffron_quantizer.evaluation.hidden import ScoredHidden, scored_hidden, storage_dtype
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.progress import ProgressSink

_FILE = "hidden.safetensors"
_TENSOR = "hidden"


@dataclass(frozen=True)
class BaselineRequest:
    """What the original is measured on.

    Attributes:
        model_digest: of the original.
        sequences: as made by `limit_scored`.
    """

    model_digest: str
    sequences: Sequence[TokenSequence]

    @property
    def settings(self) -> dict[str, str]:
        """What the baseline depends on."""
        return {
            "stage": "baseline",
            "modelDigest": self.model_digest,
            "dataDigest": sequences_digest(self.sequences),
        }


def baseline(model: Path, request: BaselineRequest, out: Path, progress: ProgressSink) -> BaselineResult:
    """Write the states into a folder that only its owner can read; a finished one is only reported.

    Raises:
        StageError: the model can't be used, the disk is full, or the folder holds something else.
    """
    private_folder(out)
    finished = open_artefact(out, settings=request.settings, files=[_FILE])
    if finished is not None:
        return BaselineResult.model_validate(finished)
    stream = ModelStream.open(model)
    hidden = original_hidden(stream, request.sequences, progress)
    write_tensors(out / _FILE, {_TENSOR: hidden.states}, mode=PRIVATE_FILE)
    nll = negative_log_likelihood(Scored(stream, hidden.states), hidden.targets, progress=progress)
    result = BaselineResult(perplexity=perplexity(nll.numpy(), np.ones(len(nll))), scored_tokens=len(nll))
    finish(out, settings=request.settings, result=result, notes={"dtype": str(hidden.states.dtype)})
    return result


def original_hidden(stream: ModelStream, sequences: Sequence[TokenSequence], progress: ProgressSink) -> ScoredHidden:
    """The original's states in the type in which they are kept, whether they are written or not."""
    hidden = scored_hidden(
        stream,
        sequences,
        activity="original, block by block",
        not_finite=FailureReason.MODEL_NOT_FINITE,
        progress=progress,
    )
    return ScoredHidden(hidden.states.to(storage_dtype(hidden.states)), hidden.targets)


def read_baseline(folder: Path, request: BaselineRequest) -> Tensor:
    """The original's states, [N, hidden], that were written for the same request.

    Raises:
        StageError: `SPEC_INVALID` if the folder holds no finished baseline or one of another model or other data,
            `INPUT_CHANGED` if it is damaged.
    """
    manifest = read_manifest(folder)
    if manifest is None or manifest.get("settings") != request.settings:
        what = "no finished baseline" if manifest is None else "the baseline of another model or other data"
        subject = subject_of(f"--baseline={folder}")
        raise StageError(Failure(reason=FailureReason.SPEC_INVALID, subject=subject), detail=f"it holds {what}")
    return read_entry(read_header(folder / _FILE)[_TENSOR])
