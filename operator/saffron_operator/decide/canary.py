"""The canary's steps: a share of the requests each, for a pause or until a person agrees."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from saffron_api.quantized_model import Approval, RolloutStatus, RolloutStep, SelectedStatus
from saffron_api.scalars import duration
from saffron_operator import reasons
from saffron_operator.decide.inputs import Kind, Standing, clip
from saffron_operator.decide.promotion import begin_promotion, undo
from saffron_operator.decide.scene import Scene, Step
from saffron_operator.decide.weights import NOTICED, canary_replicas, share
from saffron_operator.decision import Action, ApplyCanary, Event, EventType
from saffron_operator.manifests.canary import build
from saffron_operator.names import PROMOTE_ANNOTATION, canary_name

MOST_LOSSES = 10
"""After so many in a step a canary is given up. A canary that is drained from as many nodes in one pause is rare."""

_PHASE = "Canary"


def begin(scene: Scene, goal: SelectedStatus) -> Scene:
    """Return the scene with a roll-out begun, at its first step."""
    promoted = scene.memory.promoted
    before = promoted.checkpoint_digest if promoted and scene.serves(promoted.checkpoint_digest) else None
    rollout = RolloutStatus(
        target_uid=scene.target.uid,
        container=scene.settings.target_ref.container,
        model_path=scene.facts.model_path,
        run_id=scene.inputs.run.id,
        candidate=goal.name,
        checkpoint_digest=goal.checkpoint_digest,
        step=0,
        step_entered_at=scene.inputs.now,
        desired_weight=scene.settings.steps[0].weight,
        actual_weight=0,
        previous_digest=before,
    )
    return replace(scene, memory=replace(scene.memory, rollout=rollout))


def go_on(scene: Scene, rollout: RolloutStatus) -> Step:
    """Return what a roll-out does in its step."""
    rollout = rollout.model_copy(update={"step": _in_force(scene.settings.steps, rollout)})
    if rollout.step >= len(scene.settings.steps):
        return begin_promotion(scene, rollout)  # the spec lost the steps that were left
    if scene.canary is not None and scene.canary.deleting:
        return _starting(scene, _lost(scene, rollout), "an earlier canary is removed")
    weight = scene.settings.steps[rollout.step].weight
    replicas = _replicas(scene, rollout, weight)
    if _is_other(scene, rollout) or weight != rollout.desired_weight:
        # The target's own template or the step changed: the step starts over.
        rollout = _waiting_anew(scene, rollout).model_copy(update={"desired_weight": weight})
    if _ready(scene, rollout, replicas):
        return _serving(scene, rollout)
    right = scene.canary is not None and not _is_other(scene, rollout) and scene.canary.replicas == replicas
    if right or scene.canary is None:
        rollout = _lost(scene, rollout)
    elif rollout.step_started_at is not None:
        rollout = _waiting_anew(scene, rollout)  # it gets another size, which is none of its own faults
    step = _starting(scene, rollout, _trouble(scene) if right else f"{replicas} canary pods are started")
    if right or step.memory.why_rejected(rollout.checkpoint_digest) is not None:
        return step
    return replace(step, actions=(_apply(scene, rollout, replicas),))


def _in_force(steps: Sequence[RolloutStep], rollout: RolloutStatus) -> int:
    """Return the number of the step in force, though the spec's steps may have changed since it began.

    Its weight tells it from all others, so what is dropped before it, or put there, ends neither its pause nor its
    waiting for a person. Only where no step has that weight any more does the number count; where there is no step of
    that number either, the next one is what has a greater weight.
    """
    weights = [each.weight for each in steps]
    if rollout.desired_weight in weights:
        return weights.index(rollout.desired_weight)
    if rollout.step < len(steps):
        return rollout.step
    return next((number for number, weight in enumerate(weights) if weight > rollout.desired_weight), len(steps))


def _replicas(scene: Scene, rollout: RolloutStatus, weight: int) -> int:
    """Return how many pods the canary has in the step of this weight.

    While the target lacks pods that it should have, a canary that is there does not get smaller: its pods are needed
    more, and those that the target lost will be back.
    """
    target, most = scene.target, scene.settings.max_extra_replicas
    # A target that lost its last ready pod meanwhile does not end the step.
    wanted = canary_replicas(max(target.ready, 1), weight, most)
    if scene.canary is None or target.ready >= target.replicas or weight != rollout.desired_weight:
        return wanted
    return max(wanted, min(scene.canary.replicas, most))


def _is_other(scene: Scene, rollout: RolloutStatus) -> bool:
    """Return whether the canary that is there is not of this checkpoint and template."""
    canary = scene.canary
    if canary is None:
        return False
    return canary.digest != rollout.checkpoint_digest or canary.template_hash != scene.facts.template_hash


def _ready(scene: Scene, rollout: RolloutStatus, replicas: int) -> bool:
    canary = scene.canary
    return (
        canary is not None
        and not _is_other(scene, rollout)
        and canary.current
        and canary.replicas == canary.total == canary.updated == canary.ready == replicas
    )


def _waiting_anew(scene: Scene, rollout: RolloutStatus, *, losses: int = 0) -> RolloutStatus:
    return rollout.model_copy(
        update={"step_entered_at": scene.inputs.now, "step_started_at": None, "step_losses": losses}
    )


def _lost(scene: Scene, rollout: RolloutStatus) -> RolloutStatus:
    """Return a roll-out whose canary is not ready, or gone: if it was ready, the step starts over.

    It is counted, or one that gets ready and dies in turns would never be given up. The count begins anew where the
    canary has served for so long that its end has other causes than its beginning.
    """
    began = rollout.step_started_at
    if began is None:
        return rollout
    proven = scene.inputs.now - began >= max(_pause(scene, rollout), _patience(scene))
    return _waiting_anew(scene, rollout, losses=1 if proven else rollout.step_losses + 1)


def _pause(scene: Scene, rollout: RolloutStatus) -> timedelta:
    pause = scene.settings.steps[rollout.step].pause
    return duration(pause) if pause else timedelta()


def _patience(scene: Scene) -> timedelta:
    return timedelta(seconds=scene.settings.progress_deadline_seconds)


def _weighed(scene: Scene, rollout: RolloutStatus) -> RolloutStatus:
    ready = scene.canary.ready if scene.canary is not None else 0
    return rollout.model_copy(update={"actual_weight": share(ready, scene.target.ready)})


def _apply(scene: Scene, rollout: RolloutStatus, replicas: int) -> Action:
    manifest = build(
        scene.inputs.observed.meta,
        scene.facts,
        scene.checkpoint(rollout),
        target=scene.target.name,
        container=scene.settings.target_ref.container,
        replicas=replicas,
        progress_deadline_seconds=scene.settings.progress_deadline_seconds,
        uid=scene.canary.uid if scene.canary is not None else None,
    )
    return ApplyCanary(canary_name(scene.target.name), manifest, exists=scene.canary is not None)


def _trouble(scene: Scene) -> str:
    trouble = scene.canary.trouble if scene.canary is not None else None
    if trouble is None:
        return "its pods are not ready yet"
    return f"{trouble.reason}: {trouble.message}" if trouble.message else trouble.reason


def _starting(scene: Scene, rollout: RolloutStatus, what: str) -> Step:
    """Return the step of a canary that is not ready: it waits, or has waited for too long."""
    entered = rollout.step_entered_at
    # Who was away has seen nothing of the canary, but Kubernetes may have.
    stuck = scene.canary is not None and scene.canary.current and scene.canary.deadline_exceeded
    since = entered if stuck else scene.inputs.waits_since(entered)
    deadline = since + _patience(scene)
    memory = replace(scene.memory, rollout=_weighed(scene, rollout))
    lost = rollout.step_losses >= MOST_LOSSES
    if lost or scene.inputs.now >= deadline:
        what = (
            f"lost its pods {MOST_LOSSES} times in one step"
            if lost
            else f"was not ready within {scene.settings.progress_deadline_seconds} s"
        )
        message = (
            f"The canary of {rollout.candidate} {what} ({_trouble(scene)}) and was removed; the target serves what it "
            "served before."
        )
        memory = memory.reject(rollout.checkpoint_digest, reasons.CANARY_NOT_READY, message, scene.inputs.now)
        return undo(replace(scene, memory=memory), rollout)
    standing = Standing(
        Kind.WORKING,
        reasons.CANARY_STARTING,
        clip(f"{_title(scene, rollout)}: {what}"),
        _PHASE,
    )
    return Step(standing, memory, revisit=deadline)


def _title(scene: Scene, rollout: RolloutStatus) -> str:
    steps = scene.settings.steps
    return f"{rollout.candidate}, step {rollout.step + 1} of {len(steps)} ({rollout.desired_weight} %)"


def _serving(scene: Scene, rollout: RolloutStatus) -> Step:
    """Return the step of a canary that is ready: it serves until its pause is over and a person agrees."""
    now, setting = scene.inputs.now, scene.settings.steps[rollout.step]
    events: tuple[Event, ...] = ()
    rollout = _weighed(scene, rollout)
    if rollout.step_started_at is None:
        rollout = rollout.model_copy(update={"step_started_at": now})
        events = _step_events(scene, rollout)
    memory = replace(scene.memory, rollout=rollout)
    until = (rollout.step_started_at or now) + _pause(scene, rollout)
    if now < until:
        standing = Standing(
            Kind.WORKING,
            reasons.CANARY_PAUSED,
            f"{_title(scene, rollout)}: serves until {until.isoformat()}",
            _PHASE,
        )
        return Step(standing, memory, events=events, revisit=until)
    meta, approval = scene.inputs.observed.meta, _approval(scene, rollout)
    if setting.approval is Approval.REQUIRED and meta.annotations.get(PROMOTE_ANNOTATION) != approval:
        standing = Standing(
            Kind.WAITING,
            reasons.AWAITING_APPROVAL,
            f"{_title(scene, rollout)}: waits for approval. To go on: kubectl annotate --overwrite "
            f"-n {meta.namespace} qm/{meta.name} {PROMOTE_ANNOTATION}={approval}",
            "AwaitingApproval",
        )
        return Step(standing, memory, events=events)
    return _next(scene, rollout, events)


def _approval(scene: Scene, rollout: RolloutStatus) -> str:
    """Return what a person writes to let the step end: it is about one run, one checkpoint and one step.

    A step is named by its weight, which no two steps share, so that an approval does not follow a step's number to
    other requests when the spec changes.
    """
    return f"{scene.inputs.run.id}/{rollout.checkpoint_digest}/{rollout.desired_weight}"


def _next(scene: Scene, rollout: RolloutStatus, events: tuple[Event, ...]) -> Step:
    """Return the step that writes down that the next one is in force; its acts follow in the next pass."""
    following = rollout.step + 1
    if following >= len(scene.settings.steps):
        step = begin_promotion(scene, rollout)
        return replace(step, events=(*events, *step.events))
    entered = _waiting_anew(scene, rollout).model_copy(
        update={"step": following, "desired_weight": scene.settings.steps[following].weight}
    )
    standing = Standing(Kind.WORKING, reasons.CANARY_STARTING, f"{_title(scene, entered)}: begins", _PHASE)
    return Step(standing, replace(scene.memory, rollout=entered), events=events, revisit=scene.inputs.now)


def _step_events(scene: Scene, rollout: RolloutStatus) -> tuple[Event, ...]:
    found = [
        Event(
            EventType.NORMAL,
            reasons.STEP_STARTED,
            f"{_title(scene, rollout)}: the canary takes {rollout.actual_weight} % of the requests.",
        )
    ]
    if abs(rollout.actual_weight - rollout.desired_weight) > NOTICED:
        found.append(
            Event(
                EventType.WARNING,
                reasons.WEIGHT_GAP,
                f"{scene.target.ready} pods of the target and at most {scene.settings.max_extra_replicas} canary pods "
                f"give {rollout.actual_weight} % where the step asks for {rollout.desired_weight} %.",
            )
        )
    return tuple(found)
