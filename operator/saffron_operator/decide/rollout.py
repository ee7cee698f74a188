"""How the selected checkpoint reaches the pods that serve: which of a roll-out's parts is in force."""

from collections.abc import Collection
from dataclasses import replace

from saffron_api.quantized_model import RolloutStatus, SelectedStatus
from saffron_operator import reasons
from saffron_operator.decide.canary import begin, go_on
from saffron_operator.decide.inputs import Kind, Standing
from saffron_operator.decide.obstacles import held, scaled, stalled
from saffron_operator.decide.promotion import promote, served, undo
from saffron_operator.decide.scene import Scene, Step
from saffron_operator.names import ABORT_ANNOTATION


def roll_out(scene: Scene, standing: Standing | None, goal: SelectedStatus | None, unsettled: Collection[str]) -> Step:
    """Return what a pass does about the roll-out.

    Args:
        scene: What there is.
        standing: Of the run's Jobs, where no checkpoint is selected.
        goal: The checkpoint that is selected, or None.
        unsettled: The candidates that a Job is still to be done for.
    """
    rollout = _not_ahead(scene)
    scene = replace(scene, memory=replace(scene.memory, rollout=rollout))
    if rollout is not None and rollout.target_uid != scene.target.uid:
        # The Deployment was made anew: nothing of this roll-out is on it.
        rollout = None
    if rollout is not None and scene.memory.undoes:
        if scene.serves(rollout.checkpoint_digest) or scene.canary is not None:
            return undo(scene, rollout)
        rollout = None
    if rollout is not None and scene.memory.changes_target:
        if scene.inputs.asked(ABORT_ANNOTATION):
            return undo(_aborted(scene, rollout.checkpoint_digest), rollout)
        return promote(scene, rollout)
    if goal is None or standing is not None:
        if rollout is not None and standing is not None and _looked_at_again(scene, rollout, standing, unsettled):
            return Step(standing, scene.memory)
        return _idle(scene, rollout, standing)
    return _towards(scene, rollout, goal)


def _not_ahead(scene: Scene) -> RolloutStatus | None:
    """Return the roll-out that is remembered, with times that a clock wrote which was ahead put back to now.

    Else a pause, or a wait, would last until the clock comes to that time again.
    """
    rollout, now = scene.memory.rollout, scene.inputs.now
    if rollout is None:
        return None
    entered, started = rollout.step_entered_at, rollout.step_started_at
    times = {"step_entered_at": min(entered, now), "step_started_at": min(started, now) if started else None}
    return rollout.model_copy(update=times)


def _towards(scene: Scene, rollout: RolloutStatus | None, goal: SelectedStatus) -> Step:
    """Return what a pass does to have a selected checkpoint served."""
    digest = goal.checkpoint_digest
    if scene.is_promoted(digest):
        return served(scene, rollout)
    if scene.memory.why_rejected(digest) is None and scene.inputs.asked(ABORT_ANNOTATION):
        scene = _aborted(scene, digest)
    rejected = scene.memory.why_rejected(digest)
    if rejected is not None:
        if rollout is not None and rollout.checkpoint_digest == digest:
            return undo(scene, rollout)
        return _idle(scene, rollout, scene.inputs.stalled(rejected.reason, rejected.message))
    unfit = scaled(scene.target) or held(scene.target)
    if unfit is not None:
        return _idle(scene, rollout, stalled(unfit))
    begins = rollout is None or rollout.checkpoint_digest != digest
    # A canary is not to serve alone what its owner does not want served; pods that are only missing come back.
    if scene.target.replicas == 0 or (begins and scene.target.ready == 0):
        return _idle(scene, rollout, _target_not_ready(scene))
    if begins:
        scene = begin(scene, goal)
    rollout = scene.memory.rollout
    if rollout is None:
        raise ValueError("a roll-out that has begun is remembered")
    return go_on(scene, rollout)


def _looked_at_again(scene: Scene, rollout: RolloutStatus, standing: Standing, unsettled: Collection[str]) -> bool:
    """Return whether a canary waits for Jobs that its own run has done once, and that somebody removed.

    They are done again and most likely only report. Until then the canary stays as it is: nothing says that it is worse
    than it was, and no step ends without its figures.
    """
    again = (
        standing.kind is Kind.WORKING
        and rollout.run_id == scene.inputs.run.id
        and rollout.candidate in unsettled
        and not scene.is_promoted(rollout.checkpoint_digest)
        and scene.target.replicas > 0
        and scaled(scene.target) is None
        and held(scene.target) is None
    )
    # The limits are a part of what an escalated candidate is: its Jobs may be those of another checkpoint.
    return again and all(
        each.escalate is None for each in scene.inputs.spec.candidates if each.name == rollout.candidate
    )


def _idle(scene: Scene, rollout: RolloutStatus | None, standing: Standing | None) -> Step:
    """Return the step of a target for which nothing is selected: what is promoted stays, a canary goes."""
    if standing is None:
        raise ValueError("without a selected checkpoint the run says how things stand")
    finished = rollout if rollout is not None and scene.is_promoted(rollout.checkpoint_digest) else None
    return Step(standing, replace(scene.memory, rollout=finished), scene.remove_canary())


def _target_not_ready(scene: Scene) -> Standing:
    message = f"The Deployment {scene.target.name} has no ready pod; the roll-out begins when it has."
    return Standing(Kind.WORKING, reasons.TARGET_NOT_READY, message, "Canary")


def _aborted(scene: Scene, digest: str) -> Scene:
    message = "A person ended the run; the target serves what it served before."
    memory = scene.memory.reject(digest, reasons.ABORTED, message, scene.inputs.now)
    return replace(scene, memory=memory)
