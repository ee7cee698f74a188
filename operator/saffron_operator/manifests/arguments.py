"""The command line of each stage's Job, and the paths of what the stages hand to each other."""

import json

from saffron_api.candidate import command_line
from saffron_api.quantized_model import Candidate, QuantizedModelSpec

MODEL_MOUNT = "/mnt/model"
DATA_MOUNT = "/mnt/data"
WORKSPACE_MOUNT = "/mnt/workspace"
CHECKPOINTS_MOUNT = "/mnt/checkpoints"
RESULT = ["--result", "/dev/termination-log"]


def split_uri(uri: str) -> tuple[str, str]:
    """Return claim and path of `pvc://CLAIM/PATH`."""
    claim, _, path = uri.removeprefix("pvc://").partition("/")
    return claim, path


def _model(spec: QuantizedModelSpec) -> str:
    return f"{MODEL_MOUNT}/{split_uri(spec.model.uri)[1]}"


def _workspace(uid: str, folder: str, key: str) -> str:
    return f"{WORKSPACE_MOUNT}/{uid}/{folder}/{key[:16]}"


def _hash_cache(uid: str) -> list[str]:
    """Return the option that saves each stage from reading the whole model only to know that it is unchanged."""
    return ["--hash-cache", f"{WORKSPACE_MOUNT}/{uid}/hashes.json"]


def inspect(uid: str, spec: QuantizedModelSpec) -> list[str]:
    """Check the model, compute its digest and predict the candidates' sizes and what making them needs."""
    arguments = ["inspect", "--model", _model(spec), *_hash_cache(uid)]
    arguments += ["--calibration-samples", str(spec.calibration.samples), "--max-tokens", str(spec.data.max_tokens)]
    for candidate in spec.candidates:
        arguments += ["--candidate", json.dumps({"name": candidate.name, **candidate.told})]
    return arguments + RESULT


def sample(uid: str, spec: QuantizedModelSpec, *, model_digest: str, key: str) -> list[str]:
    """Draw the three sets of conversations."""
    return [
        *["sample", "--model", _model(spec), "--model-digest", model_digest],
        *["--dataset", f"{DATA_MOUNT}/{split_uri(spec.data.source.dataset.uri)[1]}"],
        *["--calibration-samples", str(spec.calibration.samples)],
        *["--evaluation-samples", str(spec.evaluation.samples)],
        *["--max-tokens", str(spec.data.max_tokens), "--seed", str(spec.data.seed)],
        *[word for kind in spec.data.redact for word in ("--redact", kind.value)],
        *["--out", _workspace(uid, "samples", key), *RESULT],
    ]


def baseline(uid: str, spec: QuantizedModelSpec, *, model_digest: str, key: str) -> list[str]:
    """Run the original on the gate set."""
    return [
        *["baseline", "--model", _model(spec), "--model-digest", model_digest, *_hash_cache(uid)],
        *["--data", _workspace(uid, "samples", key) + "/gate.jsonl"],
        *["--out", _workspace(uid, "baseline", key), *RESULT],
    ]


def quantize(
    uid: str, spec: QuantizedModelSpec, candidate: Candidate, *, model_digest: str, sample_key: str, key: str
) -> list[str]:
    """Make one candidate's checkpoint; one that is escalated sees the selection set and the limits, no other does."""
    samples = _workspace(uid, "samples", sample_key)
    limits = spec.gates.model_dump_json(by_alias=True, exclude_none=True)
    escalation = ["--selection", f"{samples}/selection.jsonl", "--gates-json", limits]
    return [
        *["quantize", "--model", _model(spec), "--model-digest", model_digest, *_hash_cache(uid)],
        *["--calibration", f"{samples}/calibration.jsonl"],
        *command_line(candidate),
        *(escalation if candidate.escalate is not None else []),
        *["--work", _workspace(uid, "quantize", key)],
        *["--store", f"{CHECKPOINTS_MOUNT}/{spec.storage.checkpoints.path}", *RESULT],
    ]


def evaluate(
    uid: str,
    spec: QuantizedModelSpec,
    *,
    model_digest: str,
    sample_key: str,
    key: str,
    checkpoint_digest: str,
    level: float,
) -> list[str]:
    """Compare one checkpoint with the original on the gate set.

    Args:
        uid: Of the QuantizedModel.
        spec: Of the QuantizedModel.
        model_digest: Of the original.
        sample_key: Of the samples and the baseline.
        key: Of this evaluation.
        checkpoint_digest: Of the candidate's checkpoint.
        level: The confidence of each one-sided bound.
    """
    return [
        *["evaluate", "--original", _model(spec), "--model-digest", model_digest, *_hash_cache(uid)],
        *["--baseline", _workspace(uid, "baseline", sample_key)],
        *["--candidate", f"{CHECKPOINTS_MOUNT}/{spec.storage.checkpoints.path}/{checkpoint_digest}"],
        *["--data", _workspace(uid, "samples", sample_key) + "/gate.jsonl"],
        *["--confidence", repr(level)],
        *["--out", _workspace(uid, "evaluate", key) + "/report.json", *RESULT],
    ]
