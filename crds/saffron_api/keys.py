"""Keys: what starts work. A stage whose key is unchanged is never done again; a changed key redoes it and all after it.

A key is the SHA-256 of canonical JSON. `rollout`, `job`, `suspend` and gate limits are in no key: they start no Job.
There is one exception: a candidate with `escalate` is made to keep the limits, so they are in its keys.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from saffron_api.candidate import CandidateSpec
from saffron_api.model import ApiModel
from saffron_api.spec import Calibration, Candidate, Data, Evaluation, Gates

ARTEFACT_VERSION = 7
"""Raised when the same input would give other bytes; an upgrade that does not raise it requantizes nothing."""


def digest(value: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of the canonical JSON of a value: sorted keys, no white space, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _dump(model: ApiModel) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def inspect_key(*, model_uri: str, candidates: Sequence[Candidate], run_id: str) -> str:
    """The key of the Inspect stage; it has the candidates, since Inspect predicts their sizes by name."""
    named = [{"name": candidate.name, **candidate.told} for candidate in candidates]
    return digest({"model": model_uri, "candidates": named, "runId": run_id})


def sample_key(*, model_digest: str, data: Data, calibration: Calibration, evaluation: Evaluation, run_id: str) -> str:
    """The key of the samples, and of the baseline measured on them. The order of `redact` is no difference."""
    return digest(
        {
            "modelDigest": model_digest,
            "data": _dump(data) | {"redact": sorted(data.redact)},
            "calibration": _dump(calibration),
            "evaluation": _dump(evaluation),
            "runId": run_id,
        }
    )


def quantize_key(*, sample_key: str, candidate: CandidateSpec, gates: Gates) -> str:
    """The key of one candidate's checkpoint. Its recipe decides: a name, or a default spelled out, changes nothing.

    Only where it is escalated do the gates count: they decide how far.
    """
    made_of = {"sample": sample_key, "candidate": candidate.told, "artefactVersion": ARTEFACT_VERSION}
    return digest(made_of if candidate.escalate is None else {**made_of, "gates": _dump(gates)})


def evaluate_key(*, quantize_key: str, confidence: float) -> str:
    """The key of one candidate's figures. `confidence` is the level of each bound after Bonferroni's correction."""
    return digest({"quantize": quantize_key, "confidence": confidence})


def bound_confidence(confidence: float, candidates: int) -> float:
    """The level of each one-sided bound so that none of `candidates` passes wrongly: Bonferroni's 1 - (1 - c) / k.

    It is rounded, so that it is the same number in a key, on a command line and in a report.
    """
    return round(1 - (1 - confidence) / candidates, 6)
