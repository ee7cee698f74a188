"""Builders of what tests of `decide` look at: a spec, results, a Deployment that serves. Each has one good default."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

from saffron_api.failures import Failure, FailureReason
from saffron_api.keys import digest
from saffron_api.quantized_model import QuantizedModelSpec
from saffron_api.results import (
    BaselineResult,
    EvaluateResult,
    FailureResult,
    Figure,
    FigureName,
    InspectResult,
    PredictedSize,
    QuantizeResult,
    SampleResult,
    SampleSet,
    Stage,
)
from saffron_operator.observed import ResourceMeta

START = datetime(2026, 1, 1, tzinfo=UTC)
UID = "11111111-1111-1111-1111-111111111111"
TARGET_UID = "22222222-2222-2222-2222-222222222222"
IMAGE = "localhost/saffron-quantizer:test"
ORIGINAL_BYTES = 1000

CANDIDATES: Sequence[Mapping[str, Any]] = (
    {"name": "rtn-int4", "method": "RTN", "scheme": "W4A16"},
    {"name": "gptq-int4", "method": "GPTQ", "scheme": "W4A16"},
    {"name": "int8", "method": "RTN", "scheme": "W8A8"},
)

ROLLOUT: Mapping[str, Any] = {
    "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "qwen", "container": "server"},
    "steps": [{"weight": 10, "pause": "10m"}, {"weight": 50}],
    "progressDeadlineSeconds": 600,
}


def hexadecimal(text: str) -> str:
    """A digest that is the same for the same text."""
    return digest({"text": text})


def spec_json(**changes: Any) -> dict[str, Any]:
    """A spec as JSON; `changes` replace whole fields, and None leaves one out."""
    base: dict[str, Any] = {
        "model": {"uri": "pvc://models/qwen"},
        "data": {"source": {"dataset": {"uri": "pvc://data/prompts.jsonl"}}},
        "calibration": {"samples": 64},
        "evaluation": {"samples": 64},
        "candidates": [dict(each) for each in CANDIDATES],
        "gates": {"klDivergence": {"max": 0.1}},
        "storage": {"checkpoints": {"claimName": "checkpoints"}, "workspace": {"claimName": "work"}},
        "rollout": deepcopy(dict(ROLLOUT)),
    }
    return {name: value for name, value in (base | changes).items() if value is not None}


def spec(**changes: Any) -> QuantizedModelSpec:
    return QuantizedModelSpec.model_validate(spec_json(**changes))


def meta(**changes: Any) -> ResourceMeta:
    base: dict[str, Any] = {
        "name": "qwen",
        "namespace": "serving",
        "uid": UID,
        "generation": 1,
        "resource_version": "1",
        "created": START,
    }
    return ResourceMeta(**(base | changes))


def deployment(**changes: Any) -> dict[str, Any]:
    """A Deployment that serves as it should."""
    container: dict[str, Any] = {
        "name": "server",
        "image": "localhost/engine:1",
        "command": ["vllm", "serve", "/models/qwen"],
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
        "readinessProbe": {"httpGet": {"path": "/health", "port": 8000}},
        "volumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
    } | changes.pop("container", {})
    pod = {
        "containers": [{name: value for name, value in container.items() if value is not None}],
        "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
    }
    base: dict[str, Any] = {
        "replicas": 4,
        "selector": {"matchLabels": {"app": "qwen"}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {"metadata": {"labels": {"app": "qwen"}}, "spec": pod | changes.pop("pod", {})},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "qwen", "namespace": "serving", "uid": TARGET_UID, "resourceVersion": "1"},
        "spec": base | changes,
    }


def inspected(names: Sequence[str] = ("rtn-int4", "gptq-int4", "int8"), **changes: Any) -> InspectResult:
    """What Inspect finds: int4 leaves half of the bytes, int8 three quarters."""
    sizes = [PredictedSize(name=name, bytes=750 if "int8" in name else 500) for name in names]
    base: dict[str, Any] = {
        "model_digest": hexadecimal("model"),
        "architecture": "Qwen2ForCausalLM",
        "parameters": 500,
        "bytes": ORIGINAL_BYTES,
        "predicted": sizes,
        "isa": "AVX512_VNNI",
    }
    return InspectResult(**(base | changes))


def _sample_set(name: str, count: int) -> SampleSet:
    return SampleSet(count=count, tokens=100 * count, digest=hexadecimal(name))


def sampled() -> SampleResult:
    return SampleResult(
        calibration=_sample_set("calibration", 64), selection=_sample_set("selection", 16), gate=_sample_set("gate", 64)
    )


def measured_original() -> BaselineResult:
    return BaselineResult(perplexity=10.0, scored_tokens=6400)


def quantized(candidate: str, **changes: Any) -> QuantizeResult:
    base: dict[str, Any] = {
        "checkpoint_digest": hexadecimal(f"checkpoint of {candidate}"),
        "bytes": 750 if "int8" in candidate else 500,
        "modules": 7,
        "max_damping": 0.01,
        "dead_columns": 0,
        "seconds": 60.0,
        "peak_bytes": 4000,
    }
    return QuantizeResult(**(base | changes))


def evaluated(candidate: str, divergence: float = 0.05, spread: float = 0.01, **changes: Any) -> EvaluateResult:
    """Figures of a candidate, whose divergence decides under the default gates."""
    ratio = (750 if "int8" in candidate else 500) / ORIGINAL_BYTES
    base: dict[str, Any] = {
        "checkpoint_digest": hexadecimal(f"checkpoint of {candidate}"),
        "figures": [
            Figure(
                name=FigureName.KL_DIVERGENCE,
                value=divergence,
                lower=divergence - spread,
                upper=divergence + spread,
            ),
            Figure(name=FigureName.CHECKPOINT_BYTES_RATIO, value=ratio, lower=ratio, upper=ratio),
        ],
        "units": 64,
        "scored_tokens": 6400,
        "confidence": 0.983333,
    }
    return EvaluateResult(**(base | changes))


def failure(stage: Stage, reason: FailureReason, **fields: Any) -> FailureResult:
    return FailureResult(failed_stage=stage, failure=Failure(reason=reason, **fields))
