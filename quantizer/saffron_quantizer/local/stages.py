"""The stages, done as one request on one machine asks for them."""

import os
from collections.abc import Callable, Mapping

import torch

from saffron_api.results import (
    BaselineResult,
    EvaluateResult,
    InspectResult,
    QuantizeResult,
    SampleResult,
    Stage,
    StageResult,
)
from saffron_quantizer.atomic import PRIVATE_FILE, private_folder, write_file
from saffron_quantizer.checkpoint.identity import FolderGuard
from saffron_quantizer.data.sample import SampleRequest, sample
from saffron_quantizer.data.sequences import TokenSequence, load_sequences
from saffron_quantizer.destination import Store
from saffron_quantizer.device import device_named
from saffron_quantizer.escalate import Selection
from saffron_quantizer.evaluation.baseline import BaselineRequest, baseline
from saffron_quantizer.evaluation.evaluate import EvaluateRequest, evaluate
from saffron_quantizer.evaluation.window import load_gate_set
from saffron_quantizer.inspect import Calibration, inspect_model
from saffron_quantizer.local.order import Order
from saffron_quantizer.progress import ProgressSink
from saffron_quantizer.quantize import quantize
from saffron_quantizer.quantize_request import QuantizeRequest
from saffron_quantizer.report import finished_report, to_json


def do(order: Order, progress: ProgressSink) -> StageResult:
    """Do a piece of work, or report it where it is done already.

    Raises:
        StageError: for everything that a user can put right.
    """
    # Before the first stage reads the model.
    device = device_named(order.device, os.environ)
    if order.stage is Stage.INSPECT:
        return _inspect(order)
    # A model that changes between two stages is noticed by what Inspect remembered of it.
    with FolderGuard(order.places.model, hash_cache=order.places.hash_cache):
        return _WORK[order.stage](order, progress, device)


def _inspect(order: Order) -> InspectResult:
    candidates = [(each.name, each.recipe) for each in order.spec.candidates]
    calibration = Calibration(order.spec.calibration.samples, order.spec.data.max_tokens)
    return inspect_model(order.places.model, candidates, hash_cache=order.places.hash_cache, calibration=calibration)


def _sample(order: Order, progress: ProgressSink, _: torch.device) -> SampleResult:
    spec = order.spec
    request = SampleRequest(
        dataset=order.places.dataset,
        model=order.places.model,
        model_digest=order.model_digest,
        calibration_samples=spec.calibration.samples,
        evaluation_samples=spec.evaluation.samples,
        max_tokens=spec.data.max_tokens,
        redact=tuple(sorted(set(spec.data.redact))),
        seed=spec.data.seed,
    )
    return sample(request, order.places.samples(order.sample_key), progress)


def _baseline(order: Order, progress: ProgressSink, device: torch.device) -> BaselineResult:
    request = BaselineRequest(order.model_digest, _gate_set(order))
    out = order.places.baseline(order.sample_key)
    return baseline(order.places.model, request, out, progress, device=device)


def _quantize(order: Order, progress: ProgressSink, device: torch.device) -> QuantizeResult:
    if order.candidate is None:
        raise ValueError("there is no candidate to quantize")
    path = order.places.samples(order.sample_key) / "calibration.jsonl"
    sequences = load_sequences(path, order.places.model, max_tokens=order.spec.data.max_tokens)
    request = QuantizeRequest(
        model=order.places.model,
        spec=order.candidate.recipe,
        sequences=[torch.tensor(sequence.tokens, dtype=torch.int64) for sequence in sequences],
        selection=None if order.candidate.escalate is None else Selection(_set(order, "selection"), order.spec.gates),
        model_digest=order.model_digest,
    )
    work = order.places.quantize(order.quantize_key)
    return quantize(request, Store(order.places.checkpoints), progress, work=work, device=device)


def _evaluate(order: Order, progress: ProgressSink, device: torch.device) -> EvaluateResult:
    out = order.places.report(order.evaluate_key)
    private_folder(out.parent)
    request = EvaluateRequest(
        original=order.places.model,
        model_digest=order.model_digest,
        candidate=order.places.checkpoints / order.checkpoint_digest,
        sequences=_gate_set(order),
        baseline=order.places.baseline(order.sample_key),
        confidence=order.level,
        device=device,
    )
    report = evaluate(request, finished_report(out), progress)
    write_file(out, to_json(report).encode(), mode=PRIVATE_FILE)
    return report.result


def _gate_set(order: Order) -> list[TokenSequence]:
    return _set(order, "gate")


def _set(order: Order, name: str) -> list[TokenSequence]:
    """One of the sets that are measured on, with as many scored tokens as are looked at."""
    path = order.places.samples(order.sample_key) / f"{name}.jsonl"
    return load_gate_set(path, order.places.model, max_tokens=order.spec.data.max_tokens)


_WORK: Mapping[Stage, Callable[[Order, ProgressSink, torch.device], StageResult]] = {
    Stage.SAMPLE: _sample,
    Stage.BASELINE: _baseline,
    Stage.QUANTIZE: _quantize,
    Stage.EVALUATE: _evaluate,
}
