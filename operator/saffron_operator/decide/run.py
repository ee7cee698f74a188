"""Runs: what of a spec makes one, and when the next begins."""

from dataclasses import dataclass
from datetime import datetime

from saffron_api import keys
from saffron_api.quantized_model import QuantizedModelSpec, RunStatus
from saffron_operator.names import RETRY_ANNOTATION
from saffron_operator.observed import Observed, TargetFacts


@dataclass(frozen=True)
class Run:
    """The run of this pass.

    Attributes:
        status: What is remembered of it.
        begun: It begins with this pass.
        retried: It begins because a person asked for it, with the plan of the one before.
    """

    status: RunStatus
    begun: bool = False
    retried: bool = False


def plan(observed: Observed, spec: QuantizedModelSpec) -> str:
    """Return the digest of all of a spec that is in a key, and of the resource itself.

    With the resource's uid in it, an approval that stands in a file in Git is not one for a resource of the same name
    that is made later.
    """
    return keys.digest(
        {
            "uid": observed.meta.uid,
            "inspect": keys.inspect_key(model_uri=spec.model.uri, candidates=spec.candidates, run_id=spec.run_id),
            # The model's digest is not known before Inspect; its place in the key is empty.
            "sample": keys.sample_key(
                model_digest="",
                data=spec.data,
                calibration=spec.calibration,
                evaluation=spec.evaluation,
                run_id=spec.run_id,
            ),
            "level": level(spec),
            "artefactVersion": keys.ARTEFACT_VERSION,
        }
    )


def level(spec: QuantizedModelSpec) -> float:
    """Return the confidence of each one-sided bound."""
    return keys.bound_confidence(spec.gates.confidence, len(spec.candidates))


def current(observed: Observed, spec: QuantizedModelSpec, now: datetime, *, may_retry: bool) -> Run:
    """Return the run to work on: the one remembered, unless its plan is another by now or a person asks to try again.

    A run's id is the head of its plan, the generation that it began with and, from the second try on, the number of
    the try. An annotation names it, so no word of a person outlives what it was said about.
    """
    old, head = observed.memory.run, plan(observed, spec)[:8]
    if old is None or old.id.split("-")[0] != head:
        return Run(_begin(observed, f"{head}-{observed.meta.generation}", now), begun=True)
    if may_retry and observed.meta.annotations.get(RETRY_ANNOTATION) == old.id:
        return again(observed, old, now, retried=True)
    return Run(old)


def again(observed: Observed, old: RunStatus, now: datetime, *, retried: bool) -> Run:
    """Return the next run with the plan of an old one."""
    return Run(_begin(observed, _next_try(old.id), now), begun=True, retried=retried)


def _next_try(run_id: str) -> str:
    first, _, number = run_id.partition(".")
    return f"{first}.{int(number or '1') + 1}"


def _begin(observed: Observed, run_id: str, now: datetime) -> RunStatus:
    facts = observed.target.facts if observed.target is not None else None
    return RunStatus(
        id=run_id,
        generation=observed.meta.generation,
        quantizer_image=observed.quantizer_image,
        engine_image=facts.image if isinstance(facts, TargetFacts) else None,
        started_at=now,
    )
