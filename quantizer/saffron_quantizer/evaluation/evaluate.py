"""The Evaluate stage: a written checkpoint, read again from its files, paired with its original token by token."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saffron_api.candidate import CandidateSpec
from saffron_api.failures import Failure, FailureReason, StageError, subject_of
from saffron_api.results import FigureName
from saffron_quantizer.checkpoint.identity import FolderGuard, digest_of, file_hash
from saffron_quantizer.checkpoint.manifest import read_manifest
from saffron_quantizer.checkpoint.reader import CheckpointReader
from saffron_quantizer.data.sequences import TokenSequence, sequences_digest
from saffron_quantizer.data.tokenizer import Tokenizer
from saffron_quantizer.engine_address import Engine
from saffron_quantizer.evaluation.baseline import Baseline, BaselineRequest, original_hidden, read_baseline
from saffron_quantizer.evaluation.bootstrap import SEED, resamples_for
from saffron_quantizer.evaluation.distributions import (
    comparable,
    compare_distributions,
    original_distributions,
)
from saffron_quantizer.evaluation.divergence import Scored, TokenFigures, compare_tokens
from saffron_quantizer.evaluation.engine import check_engine, engine_nll
from saffron_quantizer.evaluation.figures import exact_figure, measured_figures, perplexity, sum_by_unit
from saffron_quantizer.evaluation.hidden import scored_hidden, scored_tokens
from saffron_quantizer.evaluation.local_tasks import check_tasks, tasks_digest
from saffron_quantizer.memory import peak_bytes
from saffron_quantizer.models.compute import CPU, name_of
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.progress import ProgressSink
from saffron_quantizer.report import (
    Fingerprint,
    LayerRow,
    Machine,
    RaisedRow,
    Report,
    RoundRow,
    Settings,
    TaskRow,
    Timings,
    unjudged,
)
from saffron_quantizer.reported import request_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluateRequest:
    """What to compare with what.

    Attributes:
        original: folder of the original model.
        model_digest: of the original.
        candidate: folder of a checkpoint that we wrote.
        sequences: the gate set, as made by `limit_scored`.
        baseline: folder of what `baseline` wrote; None to compute the original's states here.
        confidence: level of each one-sided bound.
        engine: that serves the candidate and is asked for its log-probabilities; None to compute them here.
        tasks: folder with tasks of lm-evaluation-harness that both models are to do; None for none.
        device: what computes.
    """

    original: Path
    model_digest: str
    candidate: Path
    sequences: Sequence[TokenSequence]
    baseline: Path | None
    confidence: float
    engine: Engine | None = None
    tasks: Path | None = None
    device: torch.device = CPU


def evaluate(request: EvaluateRequest, finished: Report | None, progress: ProgressSink) -> Report:
    """Measure a candidate, or report what was measured with the same settings before.

    Args:
        request: what to compare.
        finished: the report of an earlier run, if there is one.
        progress: told of each block and each chunk of tokens.

    Raises:
        StageError: a folder can't be used, changed meanwhile, or holds NaN; the baseline is of other data.
    """
    if request.tasks is not None:
        check_tasks(request.tasks)
    manifest = _checkpoint_manifest(request.candidate)
    if request_of(manifest)["modelDigest"] != request.model_digest:
        told = "%s was made of another model than %s; the figures compare it with this one."
        _log.warning(told, request.candidate, request.original)
    with FolderGuard(request.original), FolderGuard(request.candidate):
        settings = _settings(request, manifest)
        if finished is not None and finished.fingerprint.settings == settings:
            return finished
        if request.engine is not None:
            check_engine(request.engine, request.sequences)
        original = ModelStream.open(request.original, device=request.device)
        figures, timings = _measure(request, original, progress)
        tasks = [] if request.tasks is None else _tasks(request, request.tasks, original, progress)
    sums = sum_by_unit(figures, request.sequences)
    size, original_size = CheckpointReader(request.candidate).bytes, CheckpointReader(request.original).bytes
    measured = [
        *measured_figures(sums, level=request.confidence),
        exact_figure(FigureName.CHECKPOINT_BYTES_RATIO, size / original_size),
    ]
    return Report(
        candidate=CandidateSpec.model_validate(manifest["fingerprint"]["request"]["candidate"]),
        digest=settings.checkpoint_digest,
        bytes=size,
        original_bytes=original_size,
        gates=unjudged(measured, sums.units, request.confidence),
        perplexity_original=perplexity(sums.nll_original, sums.tokens),
        perplexity_candidate=perplexity(sums.nll_candidate, sums.tokens),
        scored_tokens=int(sums.tokens.sum()),
        tensor_parallel=manifest.get("tensorParallel"),
        layers=[LayerRow.model_validate(layer) for layer in manifest["layers"]],
        raised=[RaisedRow.model_validate(raised) for raised in manifest.get("raised", ())],
        rounds=[RoundRow.model_validate(made) for made in manifest.get("rounds", ())],
        tasks=tasks,
        fingerprint=Fingerprint(settings=settings, machine=_machine(original)),
        timings=timings,
        peak_bytes=peak_bytes(),
    )


def _checkpoint_manifest(folder: Path) -> Any:  # noqa: ANN401 parsed JSON
    """The manifest that makes a folder a checkpoint of ours."""
    manifest = read_manifest(folder)
    if manifest is None or request_of(manifest) is None:
        if not folder.is_dir():
            raise StageError(Failure(reason=FailureReason.MODEL_MISSING, subject=subject_of(folder)))
        failure = Failure(reason=FailureReason.SPEC_INVALID, subject=subject_of(f"--candidate={folder}"))
        told = "it is no finished checkpoint of ours; the same `saffron quantize` finishes one that was interrupted"
        raise StageError(failure, detail=told)
    return manifest


def _settings(request: EvaluateRequest, manifest: Any) -> Settings:  # noqa: ANN401 parsed JSON
    """What the figures depend on; the candidate's files are hashed, so that what is judged is what was written.

    What was put beside them later, as a model card is, is no part of the checkpoint.
    """
    paths = {name: request.candidate / name for name in manifest["files"]}
    digest = digest_of({name: (path.stat().st_size, file_hash(path)) for name, path in paths.items()})
    if digest != manifest["result"]["checkpointDigest"]:
        raise StageError(Failure(reason=FailureReason.INPUT_CHANGED, subject=subject_of(request.candidate)))
    return Settings(
        model_digest=request.model_digest,
        checkpoint_digest=digest,
        data_digest=sequences_digest(request.sequences),
        confidence=request.confidence,
        seed=SEED,
        resamples=resamples_for(request.confidence),
        engine=request.engine,
        tasks_digest=None if request.tasks is None else tasks_digest(request.tasks),
    )


def _measure(request: EvaluateRequest, stream: ModelStream, progress: ProgressSink) -> tuple[TokenFigures, Timings]:
    begun = time.monotonic()
    base = _baseline(request, stream)
    states = base.states if base is not None else original_hidden(stream, request.sequences, progress).states
    original = Scored(stream, states)
    original_done = time.monotonic()
    if request.engine is None:
        candidate, targets = _candidate_states(request, progress)
        candidate_done = time.monotonic()
        # Both are rounded alike, so that a candidate which equals its original has a divergence of 0.
        scored = Scored(candidate.stream, candidate.states.to(original.states.dtype))
        if base is not None and comparable(base.distributions, original, scored):
            figures = compare_distributions(base.distributions, original, scored, targets, progress=progress)
        else:
            figures = compare_tokens(original, scored, targets, progress=progress)
    else:
        nll = engine_nll(request.engine, request.sequences, progress)
        candidate_done = time.monotonic()
        targets = scored_tokens(request.sequences)
        known = base.distributions if base else original_distributions(original, targets, progress=progress)
        figures = TokenFigures(known.nll, nll, divergence=None, agreement=None)
    timings = Timings(
        original=round(original_done - begun, 1),
        candidate=round(candidate_done - original_done, 1),
        compare=round(time.monotonic() - candidate_done, 1),
    )
    return figures, timings


def _baseline(request: EvaluateRequest, stream: ModelStream) -> Baseline | None:
    """The original as it was computed before, if it may be compared with what is computed here.

    Another device rounds otherwise, which would be counted as the candidate's error. An engine does so anyway.
    """
    if request.baseline is None:
        return None
    base = read_baseline(request.baseline, BaselineRequest(request.model_digest, request.sequences))
    here = name_of(stream.device)
    if request.engine is None and base.device != here:
        told = "%s was computed on %s and the candidate is on %s: the original is computed here once more."
        _log.warning(told, request.baseline, base.device, here)
        return None
    return base


def _candidate_states(request: EvaluateRequest, progress: ProgressSink) -> tuple[Scored, Tensor]:
    """The candidate's final states, computed here from its files, and the tokens that they predict."""
    stream = ModelStream.open(request.candidate, device=request.device)
    hidden = scored_hidden(
        stream,
        request.sequences,
        activity="candidate, block by block",
        not_finite=FailureReason.FIGURES_NOT_FINITE,
        progress=progress,
    )
    return Scored(stream, hidden.states), hidden.targets


def _tasks(request: EvaluateRequest, folder: Path, original: ModelStream, progress: ProgressSink) -> list[TaskRow]:
    """Both models on the tasks of a folder."""
    # Only those who ask for tasks need the harness.
    from saffron_quantizer.evaluation.tasks import TaskModel, compare_tasks  # noqa: PLC0415

    tokenizer = Tokenizer(request.original)
    known = TaskModel(original, tokenizer, "original on tasks", FailureReason.MODEL_NOT_FINITE, progress)
    other = TaskModel(
        ModelStream.open(request.candidate, device=request.device),
        tokenizer,
        "candidate on tasks",
        FailureReason.FIGURES_NOT_FINITE,
        progress,
    )
    return compare_tasks(known, other, folder, level=request.confidence)


def _machine(stream: ModelStream) -> Machine:
    return Machine(
        isa=torch.backends.cpu.get_cpu_capability(),
        device=name_of(stream.device),
        threads=torch.get_num_threads(),
        dtype=str(stream.dtype),
        torch=version("torch"),
        transformers=version("transformers"),
    )
