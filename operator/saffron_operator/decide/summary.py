"""The milestones: what a run has reached, for `kubectl wait` and for people."""

from saffron_api.quantized_model import Verdict
from saffron_operator import reasons
from saffron_operator.decide.conditions import (
    GATES_PASSED,
    PROMOTED,
    QUALITY_HEALTHY,
    QUANTIZED,
    SAMPLED,
    TARGET_DRIFT,
    Milestone,
    milestone,
)
from saffron_operator.decide.memory import drifted, overlay_of
from saffron_operator.decide.scene import RolloutMemory
from saffron_operator.decide.stages import Progress
from saffron_operator.observed import Observed, TargetFacts


def milestones(observed: Observed, found: Progress | None, memory: RolloutMemory) -> tuple[Milestone, ...]:
    """Return the milestones of a run, and of what is served."""
    return (*_of_run(found), *_of_target(observed, found, memory))


def _of_run(found: Progress | None) -> tuple[Milestone, ...]:
    samples = found.samples if found is not None else None
    candidates = found.candidates if found is not None else ()
    selected = found.selected if found is not None else None
    made = sum(each.checkpoint_digest is not None for each in candidates)
    passed = sum(each.verdict is Verdict.PASS for each in candidates)
    counts = (
        f"{samples.calibration.count} conversations for calibration, {samples.gate.count} for the gates"
        if samples is not None
        else "no samples yet"
    )
    return (
        milestone(SAMPLED, reached=samples is not None, message=counts),
        milestone(
            QUANTIZED,
            reached=found is not None and found.quantized,
            message=f"{made} of {len(candidates)} candidates have a checkpoint",
        ),
        milestone(
            GATES_PASSED,
            reached=selected is not None,
            message=f"{passed} of {len(candidates)} candidates passed"
            + (f"; {selected.name} is selected" if selected is not None else ""),
        ),
    )


def _of_target(observed: Observed, found: Progress | None, memory: RolloutMemory) -> tuple[Milestone, ...]:
    promoted, selected = memory.promoted, found.selected if found is not None else None
    if promoted is None:
        return (milestone(PROMOTED, reached=False, message="nothing is promoted"),)
    what = f"{promoted.candidate} of run {promoted.run_id}"
    reached = selected is not None and selected.checkpoint_digest == promoted.checkpoint_digest
    healthy = Milestone(
        QUALITY_HEALTHY, "Unknown", reasons.NOT_WATCHED, "nothing measures the quality of what is served"
    )
    if observed.target is None or not isinstance(observed.target.facts, TargetFacts):
        unseen = f"{what} was promoted; what the target serves can't be seen"
        return (milestone(PROMOTED, reached=False, message=unseen), healthy)
    if not drifted(observed, memory):
        return (
            milestone(PROMOTED, reached=reached, message=f"{what} is served"),
            healthy,
            Milestone(TARGET_DRIFT, "False", reasons.NO_DRIFT, f"the target has {what} mounted"),
        )
    there = overlay_of(observed)
    message = f"the target has {'no checkpoint' if there is None else f'the checkpoint {there.digest[:12]}'} mounted"
    return (
        milestone(PROMOTED, reached=False, message=f"{what} was promoted and taken off the target"),
        healthy,
        Milestone(TARGET_DRIFT, "True", reasons.TARGET_DRIFT, message),
    )
