"""The end of a roll-out: the checkpoint on the target's own pods, or the target as it was before."""

from dataclasses import replace
from datetime import datetime, timedelta

from saffron_api.quantized_model import PromotedStatus, RolloutStatus
from saffron_operator import reasons
from saffron_operator.decide.inputs import Kind, Standing, clip
from saffron_operator.decide.scene import PROMOTION_WEIGHT, Scene, Step
from saffron_operator.decide.weights import share


def begin_promotion(scene: Scene, rollout: RolloutStatus) -> Step:
    """Return the step that writes down that the promotion begins, and begins it."""
    begun = rollout.model_copy(
        update={
            "step": len(scene.settings.steps),
            "step_entered_at": scene.inputs.now,
            "step_started_at": None,
            "step_losses": 0,
            "desired_weight": PROMOTION_WEIGHT,
        }
    )
    return promote(scene, begun)


def promote(scene: Scene, rollout: RolloutStatus) -> Step:
    """Return what a promotion does: mount, wait until every pod has it, or give up in time.

    Once begun it is finished, whatever run began meanwhile: half a promotion is what nobody asked for.
    """
    if scene.target.replicas == 0:
        # No pod would be missing, and none would have shown that it serves the checkpoint.
        memory = replace(scene.memory, rollout=rollout)
        return Step(_without_pods(scene), memory, scene.remove_canary(), idle=True)
    if _complete(scene, rollout):
        return served(replace(scene, memory=replace(scene.memory, promoted=_promoted(scene, rollout))), rollout)
    if scene.target.paused:
        # Nothing is replaced, so nothing is late. What controls the Deployment counts from when it goes on, too.
        return Step(_paused(scene, rollout), replace(scene.memory, rollout=rollout), idle=True)
    deadline = _deadline(scene, rollout)
    late = scene.inputs.now >= deadline
    stuck = scene.serves(rollout.checkpoint_digest) and scene.target.deadline_exceeded
    if scene.target.current and (stuck or late):
        message = (
            f"The pods of {scene.target.name} with {rollout.candidate} were not ready in time ({_trouble(scene)}); the "
            "checkpoint was taken off, and the target serves what it served before."
        )
        memory = scene.memory.reject(rollout.checkpoint_digest, reasons.PROMOTION_FAILED, message, scene.inputs.now)
        return undo(replace(scene, memory=memory), rollout)
    canary = scene.canary.ready if scene.canary is not None else 0
    updated = scene.target.updated if scene.serves(rollout.checkpoint_digest) else 0
    weighed = rollout.model_copy(
        update={"actual_weight": share(canary + updated, max(scene.target.total - updated, 0))}
    )
    standing = Standing(
        Kind.WORKING,
        reasons.PROMOTING,
        clip(f"{rollout.candidate}: {updated} of {scene.target.replicas} pods of {scene.target.name} have it"),
        "Promoting",
    )
    mounted = scene.serves(rollout.checkpoint_digest)
    actions = () if mounted else (scene.apply(scene.checkpoint(rollout)),)
    return Step(standing, replace(scene.memory, rollout=weighed), actions, revisit=None if late else deadline)


def _deadline(scene: Scene, rollout: RolloutStatus) -> datetime:
    """Return until when the target's pods are waited for.

    It moves on with each step that they make, but not for longer than they would take one after the other: pods that
    get ready and die in turns make steps, too, and for ever.
    """
    entered = scene.inputs.waits_since(rollout.step_entered_at)
    patience = timedelta(seconds=scene.settings.progress_deadline_seconds)
    progressed = max(entered, scene.target.progressed_at or entered)
    return min(progressed + patience, entered + patience * scene.target.replicas)


def _paused(scene: Scene, rollout: RolloutStatus) -> Standing:
    name, namespace = scene.target.name, scene.inputs.observed.meta.namespace
    message = (
        f"The Deployment {name} is paused (spec.paused), so none of its pods is replaced by one with "
        f"{rollout.candidate}. To go on: kubectl -n {namespace} rollout resume deployment/{name}"
    )
    return Standing(Kind.WAITING, reasons.TARGET_PAUSED, message, "Promoting")


def _without_pods(scene: Scene) -> Standing:
    message = f"The Deployment {scene.target.name} has no pod (spec.replicas is 0); the promotion goes on when it has."
    return Standing(Kind.WORKING, reasons.TARGET_NOT_READY, message, "Promoting")


def _complete(scene: Scene, rollout: RolloutStatus) -> bool:
    target = scene.target
    return (
        scene.serves(rollout.checkpoint_digest)
        and target.current
        and target.replicas == target.total == target.updated == target.available
    )


def _promoted(scene: Scene, rollout: RolloutStatus) -> PromotedStatus:
    return PromotedStatus(
        run_id=rollout.run_id,
        candidate=rollout.candidate,
        checkpoint_digest=rollout.checkpoint_digest,
        at=scene.inputs.now,
    )


def _trouble(scene: Scene) -> str:
    trouble = scene.target.trouble
    if trouble is None:
        return f"{scene.target.available} of {scene.target.replicas} available"
    return f"{trouble.reason}: {trouble.message}" if trouble.message else trouble.reason


def served(scene: Scene, rollout: RolloutStatus | None) -> Step:
    """Return the step of a target whose checkpoint is promoted."""
    promoted = scene.memory.promoted
    if promoted is None:
        raise ValueError("served is for a checkpoint that is promoted")
    finished = None
    if rollout is not None and rollout.checkpoint_digest == promoted.checkpoint_digest:
        weights = {"desired_weight": PROMOTION_WEIGHT, "actual_weight": PROMOTION_WEIGHT}
        finished = rollout.model_copy(update=weights)
    memory = replace(scene.memory, rollout=finished)
    actions = scene.remove_canary()
    if not scene.serves(promoted.checkpoint_digest):
        return Step(_drifted(scene, promoted), memory, actions)
    if scene.canary is not None:
        what = f"{scene.target.name} serves {promoted.candidate}; the canary's pods end."
        return Step(Standing(Kind.WORKING, reasons.REMOVING_CANARY, what, "Promoting"), memory, actions)
    what = f"{scene.target.name} serves {promoted.candidate} ({promoted.checkpoint_digest[:12]})."
    return Step(Standing(Kind.READY, reasons.PROMOTED, what, "Promoted"), memory)


def _drifted(scene: Scene, promoted: PromotedStatus) -> Standing:
    message = (
        f"Somebody took {promoted.candidate} off {scene.target.name}; Saffron does not put it back by itself. "
        f"{scene.inputs.retry_hint}"
    )
    return Standing(Kind.WAITING, reasons.TARGET_DRIFT, message, "Drifted")


def undo(scene: Scene, rollout: RolloutStatus) -> Step:
    """Return the step that takes a rejected checkpoint back: off the target first, then the canary.

    The roll-out is remembered until both are done, so that a checkpoint which somebody else puts there later is not
    taken for a rest of it.
    """
    on_target = scene.serves(rollout.checkpoint_digest)
    why = scene.memory.why_rejected(rollout.checkpoint_digest)
    because = why.message if why is not None else ""
    if not on_target and scene.canary is None:
        standing = scene.inputs.stalled(why.reason if why is not None else reasons.ABORTED, because)
        return Step(standing, replace(scene.memory, rollout=None))
    removal = scene.remove_canary()
    actions = (scene.restore(rollout), *removal) if on_target else removal
    standing = Standing(Kind.WORKING, reasons.UNDOING, clip(because), "Undoing")
    return Step(standing, replace(scene.memory, rollout=rollout), actions)
