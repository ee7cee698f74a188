"""The Baseline stage: what candidates are compared with, computed once for all of them.

That is the original's final hidden states on the gate set, and its distributions over the vocabulary there.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_api.results import BaselineResult
from saffron_quantizer.artefact import finish, open_artefact
from saffron_quantizer.atomic import PRIVATE_FILE, private_folder
from saffron_quantizer.checkpoint.manifest import MANIFEST, read_manifest
from saffron_quantizer.checkpoint.tensor_file import read_entry, read_header
from saffron_quantizer.checkpoint.writer import write_tensors
from saffron_quantizer.data.sequences import TokenSequence, sequences_digest
from saffron_quantizer.evaluation.distributions import Distributions, original_distributions
from saffron_quantizer.evaluation.divergence import Scored
from saffron_quantizer.evaluation.figures import perplexity
from saffron_quantizer.evaluation.hidden import ScoredHidden, scored_hidden, storage_dtype
from saffron_quantizer.exclusive import exclusive
from saffron_quantizer.models.compute import CPU, name_of
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.partial import is_published
from saffron_quantizer.progress import ProgressSink

_FILE = "hidden.safetensors"
_HIDDEN = "hidden"
_LAYOUT = 3
"""Raised when the file holds something else: 1 held the hidden states alone, 2 those of a walk that rounded nothing to
keep it."""


@dataclass(frozen=True)
class Baseline:
    """What is kept of the original.

    Attributes:
        states: [N, hidden], its final hidden states before the scored tokens, in `storage_dtype`.
        distributions: its own at the scored tokens.
        device: what computed them, as `name_of` has it.
    """

    states: Tensor
    distributions: Distributions
    device: str


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
    def settings(self) -> dict[str, str | int]:
        """What the baseline depends on."""
        return {
            "stage": "baseline",
            "layout": _LAYOUT,
            "modelDigest": self.model_digest,
            "dataDigest": sequences_digest(self.sequences),
        }


def baseline(
    model: Path, request: BaselineRequest, out: Path, progress: ProgressSink, *, device: torch.device = CPU
) -> BaselineResult:
    """Write it into a folder that only its owner can read; a finished one is only reported.

    Raises:
        StageError: the model can't be used, the disk is full, or the folder holds something else.
    """
    private_folder(out)
    done = is_published(out) and not _is_of_other_layout(out, request)
    # Any number may report at once what is finished.
    with nullcontext() if done else exclusive(out):
        if _is_of_other_layout(out, request):
            (out / MANIFEST).unlink()
        finished = open_artefact(out, settings=request.settings, files=[_FILE])
        if finished is not None:
            return BaselineResult.model_validate(finished)
        return _make(model, request, out, progress, device)


def _make(
    model: Path, request: BaselineRequest, out: Path, progress: ProgressSink, device: torch.device
) -> BaselineResult:
    """Compute it and write it, the manifest last."""
    stream = ModelStream.open(model, device=device)
    hidden = original_hidden(stream, request.sequences, progress)
    found = original_distributions(Scored(stream, hidden.states), hidden.targets, progress=progress)
    write_tensors(out / _FILE, {_HIDDEN: hidden.states, **found.tensors}, mode=PRIVATE_FILE)
    nll = found.nll.numpy()
    result = BaselineResult(perplexity=perplexity(nll, np.ones(len(nll))), scored_tokens=len(nll))
    notes = {"dtype": str(hidden.states.dtype), "device": name_of(stream.device)}
    finish(out, settings=request.settings, result=result, notes=notes)
    return result


def _is_of_other_layout(folder: Path, request: BaselineRequest) -> bool:
    """Whether another version of Saffron wrote it for the same request: it is made again, for it lacks what is read."""
    manifest = read_manifest(folder)
    if manifest is None:
        return False
    made_with = manifest.get("settings", {})
    return bool(made_with != request.settings and {**made_with, "layout": _LAYOUT} == request.settings)


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


def read_baseline(folder: Path, request: BaselineRequest) -> Baseline:
    """What was written for the same request.

    Raises:
        StageError: `SPEC_INVALID` if the folder holds no finished baseline, one of another version, or one of another
            model or other data; `INPUT_CHANGED` if it is damaged.
    """
    manifest = read_manifest(folder)
    made_with = None if manifest is None else manifest.get("settings", {})
    if manifest is None or made_with != request.settings:
        raise _refused(folder, _why_refused(made_with))
    tensors = {name: read_entry(entry) for name, entry in read_header(folder / _FILE).items()}
    # Before it was noted, the CPU had computed it.
    return Baseline(tensors[_HIDDEN], Distributions.of_tensors(tensors), manifest.get("device", CPU.type))


def _why_refused(made_with: Mapping[str, Any] | None) -> str:
    if made_with is None:
        return "it holds no finished baseline; `saffron baseline` makes one"
    if made_with.get("layout") != _LAYOUT:
        return "it holds the baseline of another version of Saffron; run `saffron baseline` on it again"
    return "it holds the baseline of another model or other data"


def _refused(folder: Path, why: str) -> StageError:
    subject = subject_of(f"--baseline={folder}")
    return StageError(Failure(reason=FailureReason.SPEC_INVALID, subject=subject), detail=why)
