"""What becomes of one candidate: which Job it needs next, and what the gates say of its figures."""

from dataclasses import dataclass

from saffron_api import keys
from saffron_api.failures import FailureReason
from saffron_api.gates import judge
from saffron_api.prediction import impossible, predicted_bytes, too_large, too_parallel
from saffron_api.quantized_model import Candidate, CandidateState, CandidateStatus, Verdict
from saffron_api.results import EvaluateResult, InspectResult, QuantizeResult, Stage
from saffron_operator import reasons
from saffron_operator.decide.inputs import Inputs, clip
from saffron_operator.decide.run import level
from saffron_operator.decide.tasks import Active, Broken, Clearing, Finished, State, Task, state
from saffron_operator.engines import GPU, Support, support
from saffron_operator.manifests import arguments
from saffron_operator.observed import TargetFacts


@dataclass(frozen=True)
class Prospect:
    """A candidate after one look at its Jobs.

    Attributes:
        status: What is shown of it.
        tasks: Its work so far, each piece with how far it is; the last is the one that counts.
        settled: Nothing will change of it by itself.
        units_needed: Conversations that would probably settle what is inconclusive.
    """

    status: CandidateStatus
    tasks: tuple[tuple[Task, State], ...] = ()
    settled: bool = False
    units_needed: int | None = None


def excluded(inputs: Inputs, candidate: Candidate, inspected: InspectResult) -> CandidateStatus | None:
    """Return what is shown of a candidate that gets no Job, or None where Jobs are worth it."""
    return (
        impossible(candidate, inspected)
        or _unsupported(inputs, candidate, inspected)
        or _undivided(inputs, candidate, inspected)
        or too_large(inputs.spec.gates, candidate, inspected)
    )


def _unsupported(inputs: Inputs, candidate: Candidate, inspected: InspectResult) -> CandidateStatus | None:
    """Return the status of a candidate that the target's engine can't run exactly."""
    target = inputs.observed.target
    if target is None or not isinstance(target.facts, TargetFacts):
        return None  # there is no engine to ask
    facts = target.facts
    row = support(facts.engine, candidate, GPU if facts.accelerated else inspected.isa, facts.environment)
    if row.support is Support.OK:
        return None
    reason = reasons.ENGINE_INEXACT if row.support is Support.INEXACT else reasons.ENGINE_UNSUPPORTED
    where = "a GPU" if facts.accelerated else inspected.isa
    return CandidateStatus(
        name=candidate.name,
        state=CandidateState.UNSUPPORTED,
        reason=reason,
        message=f"{row.engine} does not run {row.what} exactly on {where}: {row.reason}. Use another scheme, format, "
        "engine or node.",
        bytes=predicted_bytes(candidate, inspected),
    )


def _undivided(inputs: Inputs, candidate: Candidate, inspected: InspectResult) -> CandidateStatus | None:
    """Return the status of a candidate of which each card of the target can't have a part."""
    target = inputs.observed.target
    if target is None or not isinstance(target.facts, TargetFacts) or target.facts.cards is None:
        return None  # nothing is known of cards
    cards = target.facts.cards
    most = too_parallel(candidate, inspected, cards)
    if most is None:
        return None
    return CandidateStatus(
        name=candidate.name,
        state=CandidateState.UNSUPPORTED,
        reason=reasons.ENGINE_UNSUPPORTED,
        message=f"The target has --tensor-parallel-size {cards}, and at most {most} can share this candidate's linears "
        "in whole groups and heads. Use a smaller groupSize, another scheme or fewer cards.",
        bytes=predicted_bytes(candidate, inspected),
    )


def look(inputs: Inputs, candidate: Candidate, inspected: InspectResult, sample_key: str) -> Prospect:
    """Return how far a candidate is, by its Jobs."""
    quantize = quantize_task(inputs, candidate, inspected.model_digest, sample_key)
    shown = CandidateStatus(
        name=candidate.name,
        key=quantize.key,
        state=CandidateState.PENDING,
        bytes=predicted_bytes(candidate, inspected),
    )
    made = state(inputs, quantize)
    if not isinstance(made, Finished) or not isinstance(made.result, QuantizeResult):
        return _unfinished(shown, ((quantize, made),))
    digest = made.result.checkpoint_digest
    shown = shown.model_copy(update={"checkpoint_digest": digest, "bytes": made.result.bytes})
    evaluate = evaluate_task(inputs, quantize, inspected.model_digest, sample_key, digest)
    measured = state(inputs, evaluate)
    tasks = ((quantize, made), (evaluate, measured))
    if not isinstance(measured, Finished) or not isinstance(measured.result, EvaluateResult):
        return _unfinished(shown, tasks)
    return _judged(inputs, shown, measured.result, tasks)


def quantize_task(inputs: Inputs, candidate: Candidate, model_digest: str, sample_key: str) -> Task:
    """Return the work that makes a candidate's checkpoint."""
    key = keys.quantize_key(sample_key=sample_key, candidate=candidate, gates=inputs.spec.gates)
    words = arguments.quantize(
        inputs.observed.meta.uid, inputs.spec, candidate, model_digest=model_digest, sample_key=sample_key, key=key
    )
    return Task(Stage.QUANTIZE, key, tuple(words), candidate)


def evaluate_task(inputs: Inputs, quantize: Task, model_digest: str, sample_key: str, digest: str) -> Task:
    """Return the work that measures a candidate's checkpoint."""
    key = keys.evaluate_key(quantize_key=quantize.key, confidence=level(inputs.spec))
    words = arguments.evaluate(
        inputs.observed.meta.uid,
        inputs.spec,
        model_digest=model_digest,
        sample_key=sample_key,
        key=key,
        checkpoint_digest=digest,
        level=level(inputs.spec),
    )
    return Task(Stage.EVALUATE, key, tuple(words), quantize.candidate)


def _judged(
    inputs: Inputs, shown: CandidateStatus, measured: EvaluateResult, tasks: tuple[tuple[Task, State], ...]
) -> Prospect:
    """Return a candidate that has figures, with what the gates say of them."""
    if measured.checkpoint_digest != shown.checkpoint_digest:
        broken = Broken(
            FailureReason.INPUT_CHANGED.value,
            f"The figures at hand are of the checkpoint {measured.checkpoint_digest[:12]}, and the store has "
            f"{(shown.checkpoint_digest or '')[:12]}; change spec.runId to measure again.",
        )
        return Prospect(_failed(shown, broken), tasks, settled=True)
    judged = judge(measured.figures, inputs.spec.gates, measured.units)
    done = {"state": CandidateState.DONE, "verdict": judged.verdict, "figures": list(judged.figures)}
    return Prospect(shown.model_copy(update=done), tasks, settled=True, units_needed=judged.units_needed)


def _unfinished(shown: CandidateStatus, tasks: tuple[tuple[Task, State], ...]) -> Prospect:
    """Return a candidate whose last task is not done."""
    _, found = tasks[-1]
    if isinstance(found, Broken):
        return Prospect(_failed(shown, found), tasks, settled=True)
    if isinstance(found, Active):
        shown = shown.model_copy(update={"state": CandidateState.RUNNING, "message": clip(found.message)})
    elif isinstance(found, Clearing):
        shown = shown.model_copy(update={"message": clip(found.message)})
    return Prospect(shown, tasks)


def _failed(shown: CandidateStatus, broken: Broken) -> CandidateStatus:
    return shown.model_copy(
        update={
            "state": CandidateState.FAILED,
            "verdict": Verdict.ERROR,
            "reason": broken.reason,
            "message": clip(broken.message),
        }
    )
